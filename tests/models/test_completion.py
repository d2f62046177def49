"""The delay model against the planted law of a world whose delays depend on x."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.batch import Inputs
from models.completion import CompletionModel
from models.delay_curve import DelayPrior
from models.delay_edges import edges_ms
from models.schema import Feature
from streaming.lab.delays import conversion_delay_cdf, draw_conversion_delays

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
W_O, W_A = HOUR_MS, 3 * DAY_MS
EDGES = edges_ms(W_O, W_A)
COARSE = (HOUR_MS // 4, W_O, 3 * HOUR_MS, 6 * HOUR_MS, 12 * HOUR_MS, DAY_MS, 2 * DAY_MS, W_A)

# Six fields: three say who is quick, one a little by ids most of which are seen once or twice, two are noise.
SIZES = (5, 24, 60, 5000, 24, 300)
SAYS = np.array([1.0, 1.0, 0.6, 0.5, 0.0, 0.0])
FEATURES = [Feature(name=f"field_{number}", kind="categorical") for number in range(len(SIZES))]


@dataclass
class Converters:
    """Converters of a world: features, delay, click time, and the truth of how many of their like are quick."""

    inputs: Inputs
    delay_ms: np.ndarray
    click_ms: np.ndarray
    short_share: np.ndarray

    def completed(self, ages_ms):
        """True F(age | x), (n, ages)."""
        return conversion_delay_cdf(np.asarray(ages_ms)[None], self.short_share[:, None], W_A)

    def aged(self, edges, *, now_ms):
        """What the stream has said by now, in its order: (row, k, in bin, due) of every edge that a converter's click reached."""
        bins = np.searchsorted(edges, self.delay_ms)
        rows, ages = np.nonzero(np.arange(len(edges)) >= bins[:, None])
        due = self.click_ms[rows] + np.array(edges)[ages]
        order = np.argsort(due, kind="stable")
        order = order[due[order] <= now_ms]
        return rows[order], ages[order], (bins[rows] == ages)[order], due[order]


def rows_of(inputs, rows):
    return Inputs(inputs.ids[rows], inputs.bag_ids, inputs.bag_offsets, inputs.numbers[rows])


def inputs_of(ids):
    ids = np.asarray(ids, np.int64)
    ids = ids[:, None] if ids.ndim == 1 else ids
    return Inputs(ids, np.zeros(0, np.int64), np.zeros(1, np.int64), np.zeros((len(ids), 0), np.float32))


def world(converters, *, seed, days=14.0, contrast=1.0):
    rng, law = np.random.default_rng(seed), np.random.default_rng(12345)
    ids, score = np.empty((converters, len(SIZES)), np.int64), np.zeros(converters)
    for field, (size, says) in enumerate(zip(SIZES, SAYS, strict=True)):
        effect, weight = law.standard_normal(size), np.arange(1, size + 1) ** -0.7
        cdf = np.cumsum(weight / weight.sum())
        value = np.minimum(np.searchsorted(cdf, rng.random(converters)), size - 1)
        score += says * (effect[value] - (effect * weight).sum() / weight.sum())
        ids[:, field] = value + 1_000_000 * field
    short_share = 1 / (1 + np.exp(0.62 - contrast * score / np.sqrt((SAYS**2).sum())))
    delay = draw_conversion_delays(rng, short_share, W_A)
    return Converters(inputs_of(ids), delay, np.sort(rng.integers(0, int(days * DAY_MS), converters)), short_share)


def model_of(edges=COARSE, features=FEATURES, **changes):
    settings = {"prior": DelayPrior(), "half_life_ms": 28 * DAY_MS} | changes
    return CompletionModel(features, edges=edges, **settings)


def taught(converters, edges=COARSE, *, now_ms=100 * DAY_MS, batch=200, **changes):
    model = model_of(edges, **changes)
    rows, ages, in_bin, due = converters.aged(edges, now_ms=now_ms)
    for start in range(0, len(rows), batch):
        some = slice(start, start + batch)
        model.learn(rows_of(converters.inputs, rows[some]), ages[some], in_bin[some], at_ms=int(due[some][-1]))
    return model


def rmse(found, truth):
    return float(np.sqrt(np.mean((found - truth) ** 2)))


@pytest.mark.parametrize(
    ("converters", "share"),
    # Of the constant's error what remains. The constant's is .18, all of it what delays owe to x.
    [(500, 0.95), (2_500, 0.75), (20_000, 0.5)],
)
def test_survival_by_features_beats_that_of_all_and_the_more_so_the_more_converters(converters, share):
    model, fresh = taught(world(converters, seed=1), EDGES if converters < 5000 else COARSE), world(5000, seed=2)
    truth = 1 - fresh.completed([W_O])[:, 0]
    constant = rmse(1 - model.curve.completed(W_O), truth)
    assert constant > 0.15
    assert rmse(model.survival_at(fresh.inputs, W_O), truth) < share * constant


@pytest.mark.parametrize("seed", [1, 2])
def test_where_delays_do_not_depend_on_features_little_is_lost_to_the_constant(seed):
    model, fresh = taught(world(2_500, seed=seed, contrast=0.0)), world(3000, seed=9, contrast=0.0)
    truth = 1 - fresh.completed([W_O])[:, 0]
    assert rmse(model.survival_at(fresh.inputs, W_O), truth) < 0.035


@pytest.mark.parametrize(
    ("age_ms", "edge"), [(6 * HOUR_MS, 3), (DAY_MS, 5), (2 * DAY_MS, 6), (W_A, 7), (6 * DAY_MS, 7)]
)
def test_at_every_age_of_the_stream_the_curve_is_unbiased_up_to_that_age(age_ms, edge):
    """
    click  |----- oldest: age_ms -----| now          the last edge that a click has reached: `edge`
    What is learned by then is F(e_j) / F(e_edge); the rest is the prior, wrong here on purpose.
    """
    now_ms = round(1.5 * age_ms)
    stream, fresh = world(24_000, seed=3, days=now_ms / DAY_MS), world(20_000, seed=4)
    model = taught(stream, now_ms=now_ms)
    within = fresh.completed([COARSE[edge]])  # (n, 1), the chance to be among those who convert by that age
    truth = fresh.completed(COARSE[:edge]).mean(axis=0) / within.mean()
    reached = ((stream.click_ms + COARSE[edge] <= now_ms) & (stream.delay_ms <= COARSE[edge])).sum()
    deviation = np.sqrt(truth * (1 - truth) / reached)

    of_all = model.curve.completed_at_edges()
    assert (np.abs(of_all[:edge] / of_all[edge] - truth) < 3 * deviation).all()
    found = model.completed_at_edges(fresh.inputs)
    by_features = (found[:, :edge] / found[:, [edge]] * within).mean(axis=0) / within.mean()
    assert (np.abs(by_features - truth) < 3 * deviation + 0.01).all()


def test_the_share_among_conversions_seen_so_far_is_biased_where_the_model_is_not():
    stream = world(24_000, seed=3, days=0.5)
    now_ms = DAY_MS // 2
    seen = stream.delay_ms[stream.click_ms + stream.delay_ms <= now_ms]
    truth = stream.completed([W_O]).mean() / stream.completed([6 * HOUR_MS]).mean()
    naive = (seen <= W_O).mean() / (seen <= 6 * HOUR_MS).mean()
    model = taught(stream, now_ms=now_ms)
    found = model.completed(stream.inputs, np.tile([W_O, 6 * HOUR_MS], (24_000, 1))).mean(axis=0)
    assert naive - truth > 0.03
    assert abs(found[0] / found[1] - truth) < 0.015


def test_bins_that_no_click_has_reached_have_the_hazards_of_the_prior_and_say_so():
    prior = DelayPrior(ages_ms=(HOUR_MS, DAY_MS), shares=(0.2, 0.6))
    stream = world(3000, seed=5, days=1.2)
    model = taught(stream, now_ms=round(1.2 * DAY_MS), prior=prior)
    assert model.learned.tolist() == [True] * 6 + [False] * 2
    found, expected = model.completed_at_edges(stream.inputs), prior.completed(COARSE)
    # Only what features do to shorter bins is carried over to those beyond; on the whole they have the prior's share.
    np.testing.assert_allclose(found[:, 5:7].mean(axis=0), expected[5:7], atol=0.1)
    assert model.rests_on_prior([W_O, 2 * DAY_MS, W_A]).tolist() == [True, True, False]
    assert not taught(stream, now_ms=5 * DAY_MS, prior=prior).rests_on_prior(np.arange(0, W_A, HOUR_MS)).any()


def test_a_model_without_examples_is_its_prior():
    model = model_of()
    np.testing.assert_allclose(
        model.completed_at_edges(inputs_of(np.arange(12).reshape(2, 6))),
        np.tile(DelayPrior().completed(COARSE), (2, 1)),
        atol=1e-9,
    )


def test_ids_never_seen_have_the_curve_of_all_and_no_rows_have_none():
    stream = world(3000, seed=6)
    model = taught(stream)
    unseen = model.completed_at_edges(inputs_of(-1 - np.arange(12).reshape(2, 6)))
    np.testing.assert_array_equal(unseen[0], unseen[1])
    np.testing.assert_allclose(unseen[0], model.curve.completed_at_edges(), atol=0.1)
    none = inputs_of(np.zeros((0, 6)))
    model.learn(none, np.zeros(0, np.int64), np.zeros(0, np.bool_), at_ms=0)
    assert model.survival_at(none, W_O).shape == (0,)
    assert model.completed(none, np.zeros((0, 3), np.int64)).shape == (0, 3)


lessons = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 7), st.booleans(), st.integers(1, 400)), max_size=8)


@settings(deadline=None, max_examples=40)
@given(lessons, st.lists(st.integers(-DAY_MS, 2 * W_A), min_size=1, max_size=12))
def test_whatever_was_learned_the_curve_rises_from_0_to_1_at_the_attribution_window(steps, ages):
    model = model_of(features=FEATURES[:1])
    for number, (who, k, in_bin, times) in enumerate(steps):
        model.learn(inputs_of(np.full(times, who)), np.full(times, k), np.full(times, in_bin), at_ms=number * HOUR_MS)
    ages = np.array([-1, *sorted(ages), W_A, W_A + 1])
    ages.sort()
    who = inputs_of([0, 3, 77])
    completed = model.completed(who, np.tile(ages, (3, 1)))
    assert np.isfinite(completed).all()
    assert (np.diff(completed, axis=1) >= 0).all()
    assert (completed[:, ages < 0] == 0).all()
    assert (completed[:, ages >= W_A] == 1).all()
    for column, age in enumerate(ages):
        np.testing.assert_allclose(model.survival_at(who, int(age)), 1 - completed[:, column], atol=1e-12)
        np.testing.assert_array_equal(model.completed(who, np.full(3, age)), completed[:, column])


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 20))
def test_cut_anywhere_it_goes_on_bit_for_bit(cut):
    stream = world(300, seed=7)
    rows, ages, in_bin, due = stream.aged(COARSE, now_ms=100 * DAY_MS)
    whole, first, second = model_of(), model_of(), model_of()
    for number, some in enumerate(np.array_split(np.arange(len(rows)), 20)):
        if number == cut:
            second.restore(first.snapshot())
        for one in (whole, first if number < cut else second):
            one.learn(rows_of(stream.inputs, rows[some]), ages[some], in_bin[some], at_ms=int(due[some][-1]))
    last = second if cut < 20 else first
    assert whole.completed_at_edges(stream.inputs).tobytes() == last.completed_at_edges(stream.inputs).tobytes()
    found = last.snapshot()
    for name, tensor in whole.snapshot().items():
        assert tensor.numpy().tobytes() == found[name].numpy().tobytes(), name


@pytest.mark.parametrize("edges", [(W_A,), (0, W_A), edges_ms(0, W_A), edges_ms(W_A, W_A), (0, 1)])
def test_windows_at_the_ends_of_their_range_work(edges):
    model, who = model_of(edges, FEATURES[:1]), inputs_of([1, 2])
    for k in range(len(edges)):
        model.learn(who, np.full(2, k), np.array([True, k == 0]), at_ms=0)
    completed = model.completed(who, np.tile([-1, 0, edges[-1] // 2, edges[-1]], (2, 1)))
    assert np.isfinite(completed).all()
    assert (completed[:, [0, -1]] == [0, 1]).all()
    assert ((model.survival_at(who, edges[0]) >= 0) & (model.survival_at(who, edges[0]) <= 1)).all()


def test_rows_that_do_not_match_and_edges_that_are_not_there_are_refused():
    model, who = model_of(), inputs_of(np.zeros((2, 6)))
    with pytest.raises(ValueError, match=r"must have as many rows \(got 2, 2, 1\)"):
        model.learn(who, np.array([1, 1]), np.array([True]), at_ms=0)
    with pytest.raises(ValueError, match=r"ages must lie between 0 and 7 \(got 1 to 8\)"):
        model.learn(who, np.array([1, 8]), np.array([True, True]), at_ms=0)
