"""Weights of ids as beliefs, and one score a row with a profile over places."""

import numpy as np
import pytest
import torch

from models.batch import Inputs, rows_of
from models.feature_weights import Fields
from models.schema import Feature
from models.score_logit import ScoreLogit

DAY_MS = 86_400_000
FEATURES = [
    Feature(name="device", kind="categorical"),
    Feature(name="tags", kind="multi"),
    Feature(name="price", kind="numeric"),
    Feature(name="slot", kind="categorical", task="ctr"),
    Feature(name="seen", kind="sequence", ids_of="device"),
]

KINDS = ("categorical", "multi", "numeric")


def inputs_of(ids, bags=(), numbers=None):
    """Inputs of (B, F) ids, for each feature of bags a list of B lists, and (B, K) numbers."""
    ids = np.asarray(ids, np.int64)
    lists = [ids for bag in bags for ids in bag]
    offsets = np.append(0, np.cumsum([len(each) for each in lists])).astype(np.int64)
    numbers = np.zeros((len(ids), 0)) if numbers is None else numbers
    flat = np.array([each for some in lists for each in some], np.int64)
    return Inputs(ids, flat, offsets, np.asarray(numbers, np.float32))


def drawn(rng, rows):
    """Rows of `FEATURES` of every kind, with missing and infinite numbers among them."""
    prices = rng.lognormal(3, 2, (rows, 1))
    prices[rng.random(rows) < 0.1] = np.nan
    prices[rng.random(rows) < 0.02] = np.inf
    lists = [[rng.integers(0, 9, rng.integers(1, 4)).tolist() for _ in range(rows)] for _ in range(2)]
    return inputs_of(rng.integers(0, 5, (rows, 2)), lists, prices)


def logit_of(features=FEATURES, places=3, **changes):
    settings = {"prior_examples": 20.0, "half_life_ms": 10**12} | changes
    return ScoreLogit(features, **({"rates": np.full(places, 0.3)} | settings))


def test_the_terms_of_a_row_are_its_ids_bag_shares_and_numbers():
    fields = Fields(FEATURES)
    inputs = inputs_of([[7, 1], [8, 1]], [[[3, 4], [5]], [[7], [7]]], [[1.0], [3.0]])
    fields.observe(inputs)  # mean 2, deviation 1
    terms = fields.terms(inputs)
    rows = {
        row: sorted(zip(terms.field[of].tolist(), terms.id[of].tolist(), terms.value[of].tolist(), strict=True))
        for row in (0, 1)
        for of in [terms.row == row]
    }
    # fields: 0 device, 1 tags, 2 seen, 3 price; slot is for CTR alone
    assert rows[0] == [(0, 7, 1.0), (1, 3, 0.5), (1, 4, 0.5), (2, 7, 1.0), (3, 0, -1.0), (3, 1, 0.0)]
    assert rows[1] == [(0, 8, 1.0), (1, 5, 1.0), (2, 7, 1.0), (3, 0, 1.0), (3, 1, 0.0)]
    assert (np.diff(terms.row) >= 0).all()


def test_features_for_ctr_alone_have_no_terms_and_those_beside_them_keep_theirs():
    everything = [
        Feature(name=f"{kind}_{task}", kind=kind, task=task)
        for kind in KINDS
        for task in ("ctr", "shared", "ctr", "cvr")
    ]
    rng = np.random.default_rng(9)
    bags = [[rng.integers(0, 9, rng.integers(1, 4)).tolist() for _ in range(5)] for _ in range(4)]
    inputs = inputs_of(rng.integers(0, 9, (5, 4)), bags, rng.standard_normal((5, 4)))
    fields = Fields(everything)
    fields.observe(inputs)
    expected = []
    for row in range(5):
        for field, single in enumerate((1, 3)):
            expected.append((row, field, inputs.ids[row, single], 1.0))
        for field, bag in enumerate((1, 3), 2):
            expected += [(row, field, each, 1 / len(bags[bag][row])) for each in bags[bag][row]]
        for field, number in enumerate((1, 3), 4):
            column = inputs.numbers[:, number].astype(np.float64)
            expected += [(row, field, 0, (column[row] - column.mean()) / column.std()), (row, field, 1, 0.0)]
    terms = fields.terms(inputs)
    found = zip(terms.row.tolist(), terms.field.tolist(), terms.id.tolist(), terms.value.tolist(), strict=True)
    np.testing.assert_allclose(sorted(found), sorted(expected), rtol=1e-12)


def test_numbers_in_batches_are_standardised_as_all_at_once():
    rng = np.random.default_rng(0)
    values = 1e6 + rng.standard_normal((1000, 1))
    values[::7] = np.nan
    fields, plain = Fields(FEATURES[2:3]), values[~np.isnan(values)]
    for part in np.array_split(values, 13):
        fields.observe(inputs_of(np.zeros((len(part), 0)), (), part))
    standardised = fields.terms(inputs_of(np.zeros((2, 0)), (), [[1e6], [np.nan]]))
    expected = (1e6 - plain.astype(np.float32).astype(np.float64).mean()) / plain.astype(np.float32).std(
        dtype=np.float64
    )
    np.testing.assert_allclose(standardised.value, [expected, 0.0, 0.0, 1.0], atol=1e-6)


def test_a_number_that_never_varied_says_nothing():
    fields = Fields(FEATURES[2:3])
    inputs = inputs_of(np.zeros((3, 0)), (), [[5.0], [5.0], [np.inf]])
    fields.observe(inputs)
    assert not fields.terms(inputs).value.any()


def test_some_rows_of_a_batch_have_the_features_they_had():
    inputs, rows = drawn(np.random.default_rng(1), 12), np.array([11, 0, 5, 5])
    some = rows_of(inputs, rows)
    fields = Fields(FEATURES)
    fields.observe(inputs)
    whole, part = fields.terms(inputs), fields.terms(some)
    for place, row in enumerate(rows):
        of, at = whole.row == row, part.row == place
        for name in ("field", "id", "value"):
            np.testing.assert_array_equal(getattr(whole, name)[of], getattr(part, name)[at])
    assert len(rows_of(inputs, rows[:0])) == 0


def test_rates_of_ids_are_found_and_an_unknown_id_has_that_of_all():
    rng = np.random.default_rng(2)
    ids, rates = rng.integers(0, 4, (8000, 1)), np.array([0.05, 0.2, 0.5, 0.8])
    yes = rng.random(8000) < rates[ids[:, 0]]
    model = logit_of(FEATURES[:1], places=1)
    for part in np.array_split(np.arange(8000), 80):
        model.learn(inputs_of(ids[part]), np.zeros(len(part), np.int64), yes[part], at_ms=0)
    found = 1 / (1 + np.exp(-model.logits(inputs_of([[0], [1], [2], [3], [99]]))[:, 0]))
    np.testing.assert_allclose(found[:4], rates, atol=0.04)
    assert 0.2 < found[4] < 0.55


def test_the_profile_finds_where_the_score_matters():
    rng = np.random.default_rng(3)
    ids, places = rng.integers(0, 6, (12_000, 1)), rng.integers(0, 2, 12_000)
    effect = np.array([-1.5, -1, -0.5, 0.5, 1, 1.5])[ids[:, 0]]
    yes = rng.random(12_000) < 1 / (1 + np.exp(-(effect * (places == 1) - 0.5)))
    model = logit_of(FEATURES[:1], places=2)
    for part in np.array_split(np.arange(12_000), 120):
        model.learn(inputs_of(ids[part]), places[part], yes[part], at_ms=0)
    profile = model.places[1]
    assert abs(profile[0]) < 0.15 * profile[1]
    logits = model.logits(inputs_of(np.arange(6)[:, None]))
    np.testing.assert_allclose(logits[:, 1], np.array([-1.5, -1, -0.5, 0.5, 1, 1.5]) - 0.5, atol=0.3)
    np.testing.assert_allclose(logits[:, 0], -0.5, atol=0.15)


def test_a_field_that_says_nothing_is_switched_off():
    rng = np.random.default_rng(4)
    ids = rng.integers(0, 50, (6000, 2))
    effect = rng.standard_normal(50)[ids[:, 0]]
    yes = rng.random(6000) < 1 / (1 + np.exp(-effect))
    features = [Feature(name="says", kind="categorical"), Feature(name="noise", kind="categorical")]
    model = logit_of(features, places=1)
    for part in np.array_split(np.arange(6000), 60):
        model.learn(inputs_of(ids[part]), np.zeros(len(part), np.int64), yes[part], at_ms=0)
    says, noise = model.snapshot()["beliefs.prior_variance"].sqrt().tolist()
    assert says > 5 * noise


def test_what_was_learned_is_forgotten_with_its_half_life():
    model = logit_of(FEATURES[:1], places=1, half_life_ms=DAY_MS)
    often = inputs_of(np.full((50, 1), 1))
    model.learn(often, np.zeros(50, np.int64), np.ones(50, np.bool_), at_ms=0)
    taught = model.logits(often)[0, 0]
    model.learn(inputs_of([[1]]), np.zeros(1, np.int64), np.zeros(1, np.bool_), at_ms=60 * DAY_MS)
    start = np.log(0.3 / 0.7)
    assert taught > start + 1
    assert model.logits(often)[0, 0] < start


def test_the_ids_touched_longest_ago_leave_a_full_table():
    model = logit_of(FEATURES[:1], places=1, max_rows=40)
    for day in range(30):
        ids = np.arange(10 * day, 10 * day + 10)[:, None]
        model.learn(inputs_of(ids), np.zeros(10, np.int64), np.ones(10, np.bool_), at_ms=day * DAY_MS)
        assert model.weights <= 40
    assert model.scores(inputs_of([[299], [0]]))[1] == 0
    assert model.scores(inputs_of([[299], [0]]))[0] > 0
    model.learn(inputs_of(np.arange(500)[:, None]), np.zeros(500, np.int64), np.ones(500, np.bool_), at_ms=31 * DAY_MS)
    assert (model.scores(inputs_of(np.arange(500)[:, None])) > 0).all()  # a batch that needs more gets them


def test_it_stays_finite_whatever_it_is_told():
    rng = np.random.default_rng(5)
    model = logit_of(rates=np.array([1e-6, 0.5, 1 - 1e-6]))
    inputs = drawn(rng, 700)
    for turn in range(20):
        yes = np.full(700, turn % 2 == 0)
        model.learn(inputs, rng.integers(0, 3, 700), yes, at_ms=turn)
        assert np.isfinite(model.logits(inputs)).all()
        assert (np.abs(model.logits(inputs)) < 60).all()


def test_no_rows_change_nothing():
    model, rng = logit_of(), np.random.default_rng(6)
    model.learn(drawn(rng, 30), rng.integers(0, 3, 30), rng.random(30) < 0.5, at_ms=0)
    before = model.snapshot()
    model.learn(drawn(rng, 0), np.zeros(0, np.int64), np.zeros(0, np.bool_), at_ms=10**13)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.snapshot().items())
    assert model.logits(drawn(rng, 0)).shape == (0, 3)


@pytest.mark.parametrize("cut", [0, 1, 7, 11])
@pytest.mark.parametrize("max_rows", [None, 12])
def test_cut_anywhere_it_goes_on_bit_for_bit(cut, max_rows):
    rng = np.random.default_rng(7)
    batches = [(drawn(rng, n), rng.integers(0, 3, n), rng.random(n) < 0.4) for n in rng.integers(1, 150, 12)]
    whole, first, second = (logit_of(half_life_ms=DAY_MS, max_rows=max_rows) for _ in range(3))
    for number, batch in enumerate(batches):
        if number == cut:
            second.restore(first.snapshot())
        for one in (whole, first if number < cut else second):
            one.learn(*batch, at_ms=number * DAY_MS // 3)
    expected, found = whole.snapshot(), second.snapshot()
    assert list(expected) == list(found)
    for name, tensor in expected.items():
        assert tensor.numpy().tobytes() == found[name].numpy().tobytes(), name
    assert whole.logits(batches[0][0]).tobytes() == second.logits(batches[0][0]).tobytes()


def test_a_snapshot_does_not_change_with_what_is_learned_afterwards():
    model, rng = logit_of(), np.random.default_rng(8)
    model.learn(drawn(rng, 30), rng.integers(0, 3, 30), rng.random(30) < 0.5, at_ms=0)
    taken = model.snapshot()
    kept = {name: tensor.clone() for name, tensor in taken.items()}
    model.learn(drawn(rng, 30), rng.integers(0, 3, 30), rng.random(30) < 0.5, at_ms=1)
    assert all(torch.equal(kept[name], tensor) for name, tensor in taken.items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rates": np.array([0.5, 1.0])}, "rates must lie above 0 and below 1"),
        ({"half_life_ms": 0}, r"half_life_ms must be above 0 \(got 0\)"),
        ({"prior_examples": 0.0}, r"prior_examples must be above 0 and finite \(got 0.0\)"),
    ],
)
def test_settings_that_cannot_be_learned_from_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        logit_of(**changes)
