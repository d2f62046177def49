"""Early calibration on planted truth: unbiased at every age, covered as often as said, and long before labels are final."""

import math

import numpy as np
import pytest

from models.cohorts import Cohorts
from models.completion_error import KnownCurve
from models.delay_curve import DelayPrior, GlobalCurve
from models.early_calibration import early_calibration, final_calibration

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
EDGES = tuple(HOUR_MS * hours for hours in (1, 3, 8, 24, 72))
TRUE = np.array([0.3, 0.45, 0.6, 0.8, 1.0])  # of all clicks together
QUICK, SLOW = np.array([0.5, 0.65, 0.8, 0.9, 1.0]), np.array([0.1, 0.25, 0.4, 0.7, 1.0])


class World:
    """Clicks with true rates and delays of two kinds, alike in number; a model that says `off` times the rates."""

    def __init__(self, seed, *, clicks_an_hour=200, hours=24, off=1.0):
        random = np.random.default_rng(seed)
        rows = clicks_an_hour * hours
        self.click_ms = random.integers(0, hours * HOUR_MS, rows)
        q = random.uniform(0.02, 0.25, rows)
        self.p = off * q
        self.completed = np.where(random.random(rows)[:, None] < 0.5, QUICK, SLOW)
        bins = (random.random(rows)[:, None] > self.completed).sum(axis=1)
        starts = np.append(-1, EDGES[:-1])
        ends = np.array(EDGES)
        self.delay_ms = starts[bins] + 1 + (random.random(rows) * (ends - starts)[bins]).astype(np.int64)
        self.converts = random.random(rows) < q

    def cohorts(self, *, completed=None, curve=TRUE):
        cohorts = Cohorts(EDGES)
        cohorts.add_clicks(self.click_ms, self.p, self.completed if completed is None else completed, curve=curve)
        cohorts.add_conversions(self.click_ms[self.converts], self.delay_ms[self.converts])
        return cohorts


def taught(random, converters, *, prior=TRUE, prior_examples=2.0):
    """The curve of all clicks as that many converters have shown it."""
    curve = GlobalCurve(
        EDGES, prior=DelayPrior(ages_ms=EDGES, shares=tuple(prior)), half_life_ms=10**12, prior_examples=prior_examples
    )
    bins = np.searchsorted(TRUE, random.random(converters))
    for k in range(len(EDGES)):
        curve.learn(np.full((bins <= k).sum(), k), bins[bins <= k] == k, at_ms=0)
    return KnownCurve.of_counts(curve.hazards, curve.snapshot()["seen"].numpy(), prior_examples=prior_examples)


EXACT = KnownCurve.exactly(TRUE)


def test_the_ratio_is_right_at_every_age():
    ratios = {age: [] for age in EDGES}
    for seed in range(60):
        cohorts = World(seed, off=1.25).cohorts()
        for cohort in early_calibration(cohorts, 24 * HOUR_MS + 2 * HOUR_MS, EXACT).cohorts:
            ratios[cohort.age_ms].append(cohort.calibration)
        for cohort in early_calibration(cohorts, 5 * DAY_MS, EXACT).cohorts:
            ratios[cohort.age_ms].append(cohort.calibration)
    for told in ratios.values():
        observed, expected = sum(each.observed for each in told), sum(each.expected for each in told)
        assert len(told) >= 60
        assert observed / expected == pytest.approx(0.8, abs=4 * 0.8 / math.sqrt(observed))


def test_the_interval_covers_19_times_in_20_though_the_curve_is_learned():
    random = np.random.default_rng(1)
    covered = {"young": [], "all": []}
    exactly = []
    for seed in range(400):
        world = World(seed, clicks_an_hour=300, hours=8, off=1 / 0.9)
        known = taught(random, 150)
        told = early_calibration(
            world.cohorts(completed=np.tile(known.completed, (2400, 1)), curve=known.completed), 9 * HOUR_MS, known
        )
        for name, each in (("young", told.cohorts[-1].calibration), ("all", told.total)):
            covered[name].append(each.low <= 0.9 <= each.high)
        sure = early_calibration(
            world.cohorts(), 9 * HOUR_MS, KnownCurve(known.completed, known.variance * 0, known.rests_on_prior)
        )
        exactly.append(sure.total.low <= 0.9 <= sure.total.high)
    for name, hits in covered.items():
        assert 0.925 <= np.mean(hits) <= 0.975, name
    assert np.mean(exactly) < 0.9  # what it would be worth without the error of F


def test_a_model_that_is_off_is_seen_long_before_labels_are_final():
    cohorts = World(3, clicks_an_hour=1000, hours=8, off=1.3).cohorts()
    known = taught(np.random.default_rng(3), 3000)
    for hours in range(2, 9):
        total = early_calibration(cohorts, hours * HOUR_MS, known).total
        if total.high < 1:
            break
    assert hours <= 4  # of 72
    assert total.low < 1 / 1.3 < total.high
    right = early_calibration(World(3, clicks_an_hour=1000, hours=8).cohorts(), hours * HOUR_MS, known).total
    assert right.low < 1 < right.high


def test_a_curve_that_moves_moves_what_is_expected():
    """Clicks were added while the stream rested on a prior that was too slow; the same curve for every click, as it is then."""
    slow = KnownCurve.of_counts(np.array([1, 0.5, 0.3, 0.4, 0.4]), np.zeros(5), prior_examples=20)
    world = World(4, clicks_an_hour=2000, hours=4)
    cohorts = world.cohorts(completed=np.tile(slow.completed, (8000, 1)), curve=slow.completed)
    before = early_calibration(cohorts, 5 * HOUR_MS, slow).total
    assert before.ratio > 2
    assert before.rests_on_prior
    after = early_calibration(cohorts, 5 * HOUR_MS, EXACT).total
    assert after.ratio == pytest.approx(1, abs=0.1)
    assert not after.rests_on_prior


def test_it_rests_on_the_prior_only_where_a_cohort_is_younger_than_what_was_learned():
    cohorts = World(5, hours=30).cohorts()
    known = KnownCurve(TRUE, np.array([0.3, 0.2, 0.1, 0.0, 0.0]), np.array([True, True, True, False, False]))
    told = early_calibration(cohorts, 30 * HOUR_MS, known)
    assert {cohort.age_ms: cohort.calibration.rests_on_prior for cohort in told.cohorts} == {
        HOUR_MS: True, 3 * HOUR_MS: True, 8 * HOUR_MS: True, 24 * HOUR_MS: False,
    }  # fmt: skip
    assert told.total.rests_on_prior


def test_the_total_is_of_all_cohorts():
    told = early_calibration(World(6).cohorts(), 24 * HOUR_MS, EXACT)
    each = [cohort.calibration for cohort in told.cohorts]
    assert [cohort.start_ms for cohort in told.cohorts] == [
        hour * HOUR_MS for hour in range(23)
    ]  # the last is not of age
    assert told.total.clicks == sum(one.clicks for one in each)
    assert told.total.observed == sum(one.observed for one in each)
    assert told.total.expected == pytest.approx(sum(one.expected for one in each))
    assert told.total.high - told.total.low < min(one.high - one.low for one in each)


def test_hours_of_one_age_are_told_together_youngest_first():
    told = early_calibration(World(6).cohorts(), 24 * HOUR_MS, EXACT)
    assert [each.age_ms for each in told.ages] == [HOUR_MS, 3 * HOUR_MS, 8 * HOUR_MS]
    for each in told.ages:
        mine = [cohort.calibration for cohort in told.cohorts if cohort.age_ms == each.age_ms]
        assert each.calibration.clicks == sum(one.clicks for one in mine)
        assert each.calibration.observed == sum(one.observed for one in mine)
        assert each.calibration.expected == pytest.approx(sum(one.expected for one in mine))
        assert each.calibration.high - each.calibration.low < min(one.high - one.low for one in mine)


def test_the_interval_of_an_age_knows_the_error_of_f_there():
    known = KnownCurve(TRUE, np.array([0.3, 0.2, 0.1, 0.0, 0.0]), np.array([True, True, True, False, False]))
    unsure, sure = (early_calibration(World(5, hours=30).cohorts(), 30 * HOUR_MS, one).ages for one in (known, EXACT))
    assert [each.calibration.rests_on_prior for each in unsure] == [True, True, True, False]
    widths = [[math.log(each.calibration.high / each.calibration.low) for each in ages] for ages in (unsure, sure)]
    assert all(more > 1.2 * less for more, less in list(zip(*widths, strict=True))[:3])
    assert widths[0][3] == pytest.approx(widths[1][3])


def test_final_labels_are_told_apart_and_rest_on_nothing():
    world = World(7)
    cohorts = world.cohorts()
    cohorts.fold(DAY_MS + EDGES[-1])
    final = final_calibration(cohorts)
    assert (final.clicks, final.observed) == (len(world.p), world.converts.sum())
    assert final.expected == pytest.approx(world.p.sum())
    assert final.low < 1 < final.high
    assert not final.rests_on_prior
    assert early_calibration(cohorts, DAY_MS + EDGES[-1], EXACT) == ([], [], None)


def test_before_the_first_edge_there_is_nothing_to_tell():
    assert early_calibration(World(8).cohorts(), 2 * HOUR_MS - 1, EXACT) == ([], [], None)
    assert final_calibration(Cohorts(EDGES)).ratio is None


def test_clicks_of_which_nothing_is_expected_have_no_ratio():
    cohorts = Cohorts(EDGES)
    cohorts.add_clicks([0], [0.0], TRUE[None], curve=TRUE)
    told = early_calibration(cohorts, DAY_MS, EXACT)
    assert told.total[:4] == (1, 0.0, 0, None)


def test_a_curve_of_other_edges_is_refused():
    with pytest.raises(ValueError, match=r"known must have 5 edges \(got 2\)"):
        early_calibration(Cohorts(EDGES), 0, KnownCurve.exactly(np.array([0.5, 1.0])))
