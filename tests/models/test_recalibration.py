"""Recalibration on planted truth: right while labels are open, where other ways are not; the same after any cut."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.logit_map import logit, probability
from models.recalibration import Recalibration

MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000
EDGES_MS = np.array([HOUR_MS, 6 * HOUR_MS, DAY_MS, 3 * DAY_MS])
COMPLETED = np.array([0.35, 0.55, 0.8, 1.0])


class Clicks:
    """Clicks of two days, what is true of them, what a model says, and when they convert: now is at the end of the second day."""

    def __init__(self, rows, seed, *, slope=0.8, shift=-0.6, values=1, value_sd=0.0):
        random = np.random.default_rng(seed)
        self.now_ms = 2 * DAY_MS
        self.click_ms = np.sort(random.integers(0, self.now_ms, rows))
        self.ids = random.integers(0, values, rows)
        s = random.normal(-2.0, 0.8, rows)
        self.p = probability(s)
        self.offset = random.normal(0, value_sd, values)
        self.q = probability(slope * s + shift + self.offset[self.ids])
        converts = random.random(rows) < self.q
        bin_ = np.searchsorted(COMPLETED, random.random(rows))
        self.bin = np.where(converts, bin_, len(EDGES_MS))  # the bin of its delay; beyond all if it never converts

    def pieces(self):
        """(rows, which piece) in the order in which clicks come of age, up to now."""
        ends = self.click_ms[:, None] + EDGES_MS
        row, piece = np.nonzero(ends <= self.now_ms)
        order = np.argsort(ends[row, piece], kind="stable")
        return row[order], piece[order], ends[row, piece][order]


def told(clicks, kind="platt", *, by_field=False, **changes):
    """A recalibration that was taught all pieces there are by now."""
    recalibration = Recalibration(kind, **({"half_life_ms": 30 * DAY_MS} | changes))
    row, piece, end = clicks.pieces()
    exposure = np.diff(COMPLETED, prepend=0)[piece]
    batches = np.array_split(np.arange(len(row)), 40)
    for some in batches:
        rows = row[some]
        recalibration.learn(
            clicks.p[rows],
            clicks.bin[rows] == piece[some],
            exposure[some],
            click_ms=clicks.click_ms[rows],
            field_ids=clicks.ids[rows] if by_field else None,
            at_ms=int(end[some[-1]]),
        )
    recalibration.advance(clicks.now_ms + HOUR_MS)
    return recalibration


def off(clicks, p):
    """Sum of p over sum of what is true."""
    return p.sum() / clicks.q.sum()


@pytest.mark.parametrize("kind", ["platt", "isotonic"])
def test_open_clicks_tell_what_their_final_labels_will(kind):
    clicks = Clicks(60_000, 1)
    assert off(clicks, clicks.p) > 1.25
    corrected = told(clicks, kind).apply(clicks.p)
    assert off(clicks, corrected) == pytest.approx(1, abs=0.04)  # two of its standard errors
    for fifth in np.array_split(np.argsort(clicks.p), 5):
        assert corrected[fifth].sum() / clicks.q[fifth].sum() == pytest.approx(1, abs=0.1)


def test_open_labels_taken_as_final_are_biased():
    clicks = Clicks(60_000, 1)
    reached = (clicks.click_ms[:, None] + EDGES_MS <= clicks.now_ms).sum(axis=1)  # edges
    recalibration = Recalibration("platt", half_life_ms=30 * DAY_MS)
    observed = clicks.bin < reached
    recalibration.learn(clicks.p, observed, np.ones(len(observed)), click_ms=clicks.click_ms, at_ms=clicks.now_ms)
    recalibration.advance(clicks.now_ms + HOUR_MS)
    completed = np.append(0, COMPLETED)[reached]
    shown = (completed * clicks.q).sum() / clicks.q.sum()
    assert shown < 0.7
    assert off(clicks, recalibration.apply(clicks.p)) == pytest.approx(shown, abs=0.03)


def test_posteriors_in_place_of_open_labels_find_a_part_of_what_is_wrong():
    """Why it is not done so: (1 - y) p (1 - F) / (1 - p F) believes p, and p is what is in question."""
    clicks = Clicks(60_000, 1)
    reached = (clicks.click_ms[:, None] + EDGES_MS <= clicks.now_ms).sum(axis=1)
    completed, observed = np.append(0, COMPLETED)[reached], clicks.bin < reached
    soft = np.where(observed, 1.0, clicks.p * (1 - completed) / (1 - clicks.p * completed))
    error = soft.sum() / clicks.q.sum()
    assert 1.05 < error < off(clicks, clicks.p)
    assert abs(off(clicks, told(clicks).apply(clicks.p)) - 1) < abs(error - 1) / 3


@pytest.mark.parametrize("kind", ["platt", "isotonic"])
def test_over_many_streams_the_mean_is_right(kind):
    found = []
    for seed in range(20):
        clicks = Clicks(6000, seed)
        found.append(off(clicks, told(clicks, kind).apply(clicks.p)))
    error = np.std(found) / math.sqrt(len(found))
    # Both are drawn towards no change by some of their prior: a percent of what is wrong.
    assert abs(np.mean(found) - 1) < 3 * error + 0.01
    assert error < 0.02


def test_outcomes_alone_teach_it_too():
    clicks = Clicks(60_000, 2)
    recalibration = Recalibration("platt", half_life_ms=DAY_MS, segment_ms=HOUR_MS)
    labels = clicks.bin < len(EDGES_MS)
    # Three days late, which is three half-lives: a click's weight is by what is newest among them.
    recalibration.learn(clicks.p, labels, np.ones(len(labels)), click_ms=clicks.click_ms, at_ms=5 * DAY_MS)
    recalibration.advance(6 * DAY_MS)
    assert off(clicks, recalibration.apply(clicks.p)) == pytest.approx(1, abs=0.03)


def test_whole_lives_and_lives_in_pieces_teach_the_same():
    clicks = Clicks(5000, 3)
    whole, pieces = Recalibration("platt"), Recalibration("platt")
    labels = clicks.bin < len(EDGES_MS)
    whole.learn(clicks.p, labels, np.ones(len(labels)), click_ms=clicks.click_ms, at_ms=0)
    for piece, exposure in enumerate(np.diff(COMPLETED, prepend=0)):
        pieces.learn(clicks.p, clicks.bin == piece, np.full(5000, exposure), click_ms=clicks.click_ms, at_ms=0)
    for each in (whole, pieces):
        each.advance(HOUR_MS)
    np.testing.assert_allclose(whole.apply(clicks.p), pieces.apply(clicks.p), rtol=1e-9)


def test_the_map_follows_time():
    recalibration = Recalibration("platt", segment_ms=HOUR_MS, half_life_ms=6 * HOUR_MS)
    random = np.random.default_rng(4)
    for hour in range(72):
        rate = 0.1 if hour < 36 else 0.2
        rows = 1000
        recalibration.learn(
            np.full(rows, 0.1),
            random.random(rows) < rate,
            np.ones(rows),
            click_ms=np.full(rows, hour * HOUR_MS),
            at_ms=hour * HOUR_MS,
        )
        if hour == 36:
            assert recalibration.apply([0.1])[0] == pytest.approx(0.1, abs=0.015)
    recalibration.advance(72 * HOUR_MS)
    assert recalibration.apply([0.1])[0] == pytest.approx(0.2, abs=0.02)


def test_a_segment_is_corrected_by_what_came_before_it():
    """
    [---- segment 0 ----)[---- segment 1 ----)
       half convert         none does, and the map stands
    """
    recalibration = Recalibration("platt", segment_ms=1000, least_conversions=10)
    rows = np.full(400, 0.1)
    recalibration.learn(rows, np.arange(400) % 2, np.ones(400), click_ms=np.zeros(400), at_ms=999)
    assert recalibration.map.is_identity
    recalibration.learn(rows, np.zeros(400), np.ones(400), click_ms=np.zeros(400), at_ms=1000)
    stands = recalibration.apply([0.1])
    assert stands[0] == pytest.approx(0.5, abs=0.03)
    recalibration.learn(rows, np.zeros(400), np.ones(400), click_ms=np.zeros(400), at_ms=1500)
    recalibration.learn(
        rows, np.zeros(400), np.ones(400), click_ms=np.zeros(400), at_ms=200
    )  # before the latest: taken at it
    np.testing.assert_array_equal(recalibration.apply([0.1]), stands)
    recalibration.advance(2000)
    assert recalibration.apply([0.1])[0] < 0.15


def test_nothing_moves_before_there_is_enough_evidence():
    recalibration = Recalibration("platt", least_conversions=50)
    p = np.array([0.0, 1 / 3, 1.0])
    recalibration.learn(np.full(49, 0.5), np.ones(49), np.ones(49), click_ms=np.zeros(49), at_ms=0)
    recalibration.advance(HOUR_MS)
    np.testing.assert_array_equal(recalibration.apply(p), p)
    recalibration.learn([0.5], [1], [1.0], click_ms=[0], at_ms=HOUR_MS)
    recalibration.advance(2 * HOUR_MS)
    assert recalibration.observed == 50
    assert recalibration.apply(p)[1] > 0.9


def test_conversions_that_are_expected_and_do_not_come_are_evidence():
    recalibration = Recalibration("platt", least_conversions=50)
    recalibration.learn(np.full(500, 0.2), np.zeros(500), np.ones(500), click_ms=np.zeros(500), at_ms=0)
    recalibration.advance(HOUR_MS)
    assert recalibration.expected == pytest.approx(100)
    assert recalibration.apply([0.2])[0] < 0.02


@pytest.mark.parametrize("kind", ["platt", "isotonic"])
def test_values_of_a_field_have_maps_of_their_own(kind):
    clicks = Clicks(60_000, 5, values=12, value_sd=0.5)
    recalibration = told(clicks, kind, by_field=True)
    together, apart = recalibration.apply(clicks.p), recalibration.apply(clicks.p, clicks.ids)

    def worst(p):
        return max(abs(off_value - 1) for off_value in np.bincount(clicks.ids, p) / np.bincount(clicks.ids, clicks.q))

    assert worst(together) > 0.3
    assert worst(apart) < 0.15
    unknown = recalibration.apply(clicks.p, np.full(len(clicks.p), 999))
    np.testing.assert_array_equal(unknown, together)


def test_values_beyond_the_cap_have_the_map_of_all():
    clicks = Clicks(20_000, 6, values=40, value_sd=0.5)
    recalibration = told(clicks, by_field=True, max_values=8)
    ids = recalibration.published()["value.ids"].numpy()
    assert 0 < len(ids) <= 8
    absent = np.setdiff1d(np.arange(40), ids)
    p = np.full(len(absent), 0.2)
    np.testing.assert_array_equal(recalibration.apply(p, absent), recalibration.apply(p))


@pytest.mark.parametrize("kind", ["platt", "isotonic"])
def test_a_scorer_that_follows_the_published_rule_gets_the_same(kind):
    clicks = Clicks(20_000, 7, values=5, value_sd=0.5)
    recalibration = told(clicks, kind, by_field=True)
    maps = {name: tensor.tolist() for name, tensor in recalibration.published().items()}
    at, to, [slope] = maps["at"], maps["to"], maps["slope"]

    def score(p, value):
        p = min(max(p, 1e-12), 1 - 1e-12)
        s = math.log(p / (1 - p))
        if s <= at[0]:
            z = to[0] + slope * (s - at[0])
        elif s >= at[-1]:
            z = to[-1] + slope * (s - at[-1])
        else:
            k = max(k for k in range(len(at)) if at[k] <= s)
            z = to[k] + (s - at[k]) / (at[k + 1] - at[k]) * (to[k + 1] - to[k])
        if value in maps["value.ids"]:
            v = maps["value.ids"].index(value)
            z = maps["value.intercept"][v] + maps["value.slope"][v] * z
        return 1 / (1 + math.exp(-z))

    p, ids = np.linspace(0, 1, 41), np.arange(41) % 7
    expected = [score(*row) for row in zip(p.tolist(), ids.tolist(), strict=True)]
    np.testing.assert_allclose(recalibration.apply(p, ids), expected, rtol=1e-9)


rows = st.lists(
    st.tuples(st.floats(0, 1), st.booleans(), st.floats(0, 1), st.integers(0, 50), st.integers(0, 5)), max_size=12
)
steps = st.lists(st.tuples(st.integers(0, 3000), rows), max_size=8)  # (ms since the batch before, rows)


def learn(recalibration, batches, now=0):
    for gap, some in batches:
        now += gap
        columns = np.array(some, np.float64).reshape(-1, 5).T
        p, converted, exposure, age, ids = columns
        recalibration.learn(
            p, converted, exposure, click_ms=now - age.astype(np.int64), field_ids=ids.astype(np.int64), at_ms=now
        )
    return now


def state(recalibration):
    return {name: tensor.numpy().tobytes() for name, tensor in recalibration.snapshot().items()}


@pytest.mark.parametrize("kind", ["platt", "isotonic"])
@settings(deadline=None, max_examples=20)
@given(before=steps, after=steps)
def test_cut_anywhere_it_goes_on_bit_for_bit(kind, before, after):
    def fresh():
        return Recalibration(kind, segment_ms=1000, half_life_ms=4000, least_conversions=2, max_values=4)

    whole, resumed = fresh(), fresh()
    now = learn(whole, before)
    resumed.restore(whole.snapshot())
    assert state(resumed) == state(whole)
    for each in (whole, resumed):
        learn(each, after, now)
    assert state(resumed) == state(whole)
    p, ids = np.linspace(0, 1, 9), np.arange(9)
    np.testing.assert_array_equal(whole.apply(p, ids), resumed.apply(p, ids))


@pytest.mark.parametrize("kind", ["platt", "isotonic"])
@settings(deadline=None, max_examples=20)
@given(batches=steps)
def test_it_rises_and_stays_finite_whatever_it_was_taught(kind, batches):
    recalibration = Recalibration(kind, segment_ms=1000, half_life_ms=4000, least_conversions=0.1)
    recalibration.advance(learn(recalibration, batches) + 1000)
    p = np.concatenate([[0.0], np.geomspace(1e-13, 0.5, 40), 1 - np.geomspace(0.5, 1e-13, 40), [1.0]])
    for value in range(7):
        corrected = recalibration.apply(p, np.full(len(p), value))
        assert np.isfinite(corrected).all()
        assert (np.diff(corrected) >= -1e-13).all()
        assert ((corrected >= 0) & (corrected <= 1)).all()


def test_what_was_asked_for_is_not_what_it_keeps():
    recalibration = told(Clicks(5000, 8))
    before = recalibration.apply([0.2])
    for tensor in [*recalibration.snapshot().values(), *recalibration.published().values()]:
        tensor.zero_()
    np.testing.assert_array_equal(recalibration.apply([0.2]), before)
    p = np.array([0.2])
    Recalibration("platt").apply(p)[0] = 0.9
    assert p[0] == 0.2


def test_rows_out_of_range_change_nothing():
    recalibration = told(Clicks(5000, 9))
    before = state(recalibration)
    with pytest.raises(ValueError, match=r"exposure\[1\] must lie between 0 and 1 \(got 2.0\)"):
        recalibration.learn([0.1, 0.1], [0, 0], [1.0, 2.0], click_ms=[0, 0], at_ms=100 * DAY_MS)
    assert state(recalibration) == before


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("beta", {}, r"kind must be one of platt, isotonic \(got 'beta'\)"),
        ("platt", {"least_conversions": 0}, r"least_conversions must be above 0 and finite \(got 0\)"),
        ("platt", {"segment_ms": 0}, r"segment_ms must be above 0 \(got 0\)"),
    ],
)
def test_settings_that_make_no_map_are_refused(kind, changes, message):
    with pytest.raises(ValueError, match=message):
        Recalibration(kind, **changes)


def test_a_logit_beyond_any_data_is_shifted_no_further_than_the_data_were():
    corrected = told(Clicks(20_000, 10), "isotonic").apply([1e-12, 0.1])
    assert abs(logit(corrected)[0] - logit(np.array([1e-12]))[0]) < 2
