"""What the methods teach: against the papers' tables written a second time, and over every life that a click can have."""

import importlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.batch import Event
from models.delay import METHODS, Method, check_combination, method_of, weigh
from models.laws import GRID, broken_laws, lives, masses, taught_over_a_life
from models.weighing import Pair, Pairs, Seen, defuse_negative, fnw_negative, negative, positive, survival_open

IP, ON, REVISIT = Event.IMMEDIATE_POSITIVE, Event.OBSERVED_NEGATIVE, Event.REVISIT
DP, RN = Event.DELAYED_POSITIVE, Event.REAL_NEGATIVE
LAWFUL = ["mature", "fnw", "es_dfm", "defer", "defuse", "ddfm", "survival", "oracle"]
CELLS = [(0.2, 0.5), (0.02, 0.6), (0.7, 0.1), (0.227, 0.727), (0.001, 0.9), (0.95, 0.3)]

probabilities = st.floats(1e-6, 1 - 1e-6)
shares = st.floats(0, 1)


# --- a second writing of the tables -----------------------------------------------------------------------------------


def table(f: float, s: float) -> dict[str, dict[Event, tuple[float, float]]]:
    """The rows of unit mass, number by number."""
    dp = f * s
    rn = (1 - f) / (1 - f + dp)
    z, m, k = 1 - rn, 2 - f + dp, (1 - f) / (2 * (1 - f) + dp)
    return {
        "window": {IP: (1, 0), ON: (0, 1)},
        "fnw": {IP: (1, 0), ON: (0, 1 - f), DP: (1, 0)},
        "fnc": {IP: (1, 0), ON: (0, 1), DP: (1, 0)},
        "es_dfm": {IP: (1, 0), ON: (0, rn), DP: (1, 0)},
        "defer": {IP: (2 / (2 - s), 0), ON: (0, k), DP: (1 / (2 - s), 0), RN: (0, k)},
        "defuse": {IP: (1, 0), ON: (z * dp / (1 + dp), 1 - z), DP: (1 / (1 + dp), 0)},
        "ddfm": {IP: (1 / m, 0), ON: ((1 - rn) / m, rn / m), DP: (1 / m, 0), RN: ((f - dp) / m, (1 - f + dp) / m)},
        "survival": {IP: (1, 0), ON: (0, 1 - z), DP: (1, 0), RN: (0, 1)},
    }


def published(f: float, s: float) -> dict[str, dict[Event, tuple[float, float]]]:
    """The rows as the papers have them; an immediate positive of `defer` comes twice in its paper, here once with both weights."""
    dp = f * s
    rn = (1 - f) / (1 - f + dp)
    z, g, k = 1 - rn, f / (f - dp / 2), (1 - f) / (1 - f + dp / 2)
    return {
        "fnw": {IP: (1 + f, 0), ON: (0, (1 - f) * (1 + f)), DP: (1 + f, 0)},
        "es_dfm": {IP: (1 + dp, 0), ON: (0, (1 + dp) * rn), DP: (1 + dp, 0)},
        "defer": {IP: (2 * g, 0), ON: (0, k), DP: (g, 0), RN: (0, k)},
        "defuse": {IP: (1 + dp, 0), ON: (z * dp, (1 - z) * (1 + dp)), DP: (1, 0)},
        "ddfm": {IP: (1, 0), ON: (1 - rn, rn), DP: (1, 0), RN: (f - dp, 1 - f + dp)},
    }


def pair_of(pairs: Mapping[Event, Pair], event: Event, *, f: float, s: float, v: float = 0.0) -> tuple[float, float]:
    one = np.ones(1)
    seen = Seen(one * f, one * s, one * v, one * (1 - s), one * f)
    plus, minus = weigh(pairs, np.array([event], np.int8), seen)
    return plus.item(), minus.item()


@pytest.mark.parametrize("name", table(0.5, 0.5))
@settings(deadline=None, max_examples=40)
@given(probabilities, shares)
def test_every_row_is_that_of_the_table(name, f, s):
    row = table(f, s)[name]
    assert set(METHODS[name].pairs) - {REVISIT} == set(row)
    for event, pair in row.items():
        assert pair_of(METHODS[name].pairs, event, f=f, s=s) == pytest.approx(pair, rel=1e-9, abs=1e-12), event.name


@pytest.mark.parametrize("name", published(0.5, 0.5))
@settings(deadline=None, max_examples=40)
@given(probabilities, shares)
def test_every_published_row_is_that_of_its_paper(name, f, s):
    row = published(f, s)[name]
    assert set(METHODS[name].as_published) == set(row)
    for event, pair in row.items():
        assert pair_of(METHODS[name].as_published, event, f=f, s=s) == pytest.approx(pair, rel=1e-9), event.name


@pytest.mark.parametrize(("name", "event"), [("mature", Event.MATURED), ("oracle", Event.ORACLE)])
@pytest.mark.parametrize("label", [0.0, 1.0])
def test_final_labels_are_taught_as_they_are(name, event, label):
    assert pair_of(METHODS[name].pairs, event, f=0.3, s=np.nan, v=label) == (label, 1 - label)


@pytest.mark.parametrize("name", METHODS)
def test_rows_of_other_events_teach_nothing(name):
    method = METHODS[name]
    others = np.array([event for event in Event if event not in method.pairs], np.int8)
    none = np.full(len(others), np.nan)
    plus, minus = weigh(method.pairs, others, Seen(none, none, none, none, none))
    assert len(others) > 0
    assert not plus.any()
    assert not minus.any()


@pytest.mark.parametrize(
    ("name", "sees"),
    [
        ("mature", {Event.MATURED}),
        ("window", {IP, ON}),
        ("fnw", {IP, ON, DP}),
        ("fnc", {IP, ON, DP}),
        ("es_dfm", {IP, ON, DP}),
        ("defuse", {IP, ON, DP}),
        ("bi_defuse", {IP, ON, DP}),
        ("defer", {IP, ON, DP, RN}),
        ("ddfm", {IP, ON, DP, RN}),
        ("survival", {IP, ON, REVISIT, DP, RN}),
        ("dfm", {IP, ON, REVISIT, DP, RN}),
        ("oracle", {Event.ORACLE}),
    ],
)
def test_a_method_sees_what_it_teaches_and_no_more(name, sees):
    assert set(METHODS[name].sees) == sees
    assert list(METHODS[name].sees) == sorted(sees)


def test_methods_that_wait_for_real_negatives_begin_as_es_dfm():
    waiting = {name for name, method in METHODS.items() if RN in method.pairs}
    assert waiting == {"defer", "ddfm", "survival"}
    assert {name for name, method in METHODS.items() if method.before_history is not None} == waiting
    for name in waiting:
        assert METHODS[name].before_history == METHODS["es_dfm"].pairs


def test_methods_of_twitter_look_at_the_click_and_those_of_s_use_the_delay_model():
    assert {name for name, method in METHODS.items() if method.observes_at_click} == {"fnw", "fnc"}
    assert {name for name, method in METHODS.items() if method.uses_delay} == {
        "es_dfm",
        "defer",
        "defuse",
        "ddfm",
        "survival",
    }
    assert {name for name, method in METHODS.items() if method.adjusts} == {"survival"}
    assert {name: method.form for name, method in METHODS.items() if method.form != "pairs"} == {
        "fnc": "fnc",
        "bi_defuse": "bi_defuse",
        "dfm": "dfm",
    }


# --- lives, a second writing: one click after the other, look after look ----------------------------------------------

LATE = (0.0, 0.35, 0.6, 0.9, 1.0)  # of the conversions later than the first look, those that have come by each look


def timeline(bin_: int | None, looks: int) -> Iterator[tuple[Event, int]]:
    """(event, number of the last look) of a click whose conversion comes between look `bin_ - 1` and `bin_`, or never."""
    for look in range(looks - 1):
        if bin_ == look:
            yield (IP if look == 0 else DP), look
            return
        yield (ON if look == 0 else REVISIT), look
    yield (RN if bin_ is None else DP), looks - 1


def lives_of(p: float, s: float) -> Iterator[tuple[float, float, list[tuple[Event, int]]]]:
    """(probability, label, events) of each life; what is finally known of it comes at the end."""
    for bin_, (before, by) in enumerate(pairwise((-1.0, *LATE))):
        chance = p * (1 - s) if bin_ == 0 else p * s * (by - before)
        yield chance, 1.0, [*timeline(bin_, len(LATE)), (Event.MATURED, 0), (Event.ORACLE, 0)]
    yield 1 - p, 0.0, [*timeline(None, len(LATE)), (Event.MATURED, 0), (Event.ORACLE, 0)]


def expected(method: Method, p: float, s: float, *, f: float, believed_s: float | None = None) -> np.ndarray:
    """E[sum a+], E[sum a-] of a click of the truth (p, s) for a model that says f, event by event."""
    s = 1.0 if method.observes_at_click else s
    believed = s if believed_s is None else believed_s
    lives = list(lives_of(p, s))
    events, looks = np.array([event for _, _, life in lives for event in life]).T
    labels = np.repeat([label for _, label, _ in lives], [len(life) for _, _, life in lives])
    flat = np.ones(len(events))
    completed = 1 - believed + believed * np.array(LATE)[looks]
    pairs = np.stack(
        weigh(method.pairs, events.astype(np.int8), Seen(flat * f, flat * believed, labels, completed, flat * f))
    )
    sums, row = np.zeros(2), 0
    for chance, _, life in lives:
        target = np.zeros(2)
        for event, _ in life:
            if event in method.pairs:
                sums += chance * (pairs[:, row] - target)
                target = pairs[:, row] if method.adjusts else target
            row += 1
    return sums


def pull(method: Method, p: float, s: float, f: float) -> float:
    """The gradient by the logit that is to be expected."""
    plus, minus = expected(method, p, s, f=f)
    return float(minus * f - plus * (1 - f))


def stationary(slope: Callable[[float], float]) -> float:
    """Where a slope by the logit crosses zero from below: the only place, or there is no one answer."""
    logits = np.linspace(-9.5, 9.5, 41)
    at = [1 / (1 + np.exp(-logit)) for logit in logits]
    signs = np.sign([slope(f) for f in at])
    (crossing,) = np.flatnonzero(np.diff(signs))
    assert signs[crossing] < 0
    low, high = at[crossing], at[crossing + 1]
    for _ in range(45):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return (low + high) / 2


def test_the_lives_of_a_click_add_up():
    for p, s in CELLS:
        assert sum(chance for chance, _, _ in lives_of(p, s)) == pytest.approx(1)
        assert sum(chance * label for chance, label, _ in lives_of(p, s)) == pytest.approx(p)
        counts = dict.fromkeys((IP, ON, DP, RN), 0.0)
        for chance, _, events in lives_of(p, s):
            for event, _ in events:
                if event in counts:
                    counts[event] += chance
        assert counts == pytest.approx({IP: p * (1 - s), ON: 1 - p + p * s, DP: p * s, RN: 1 - p})


@pytest.mark.parametrize("name", LAWFUL)
@pytest.mark.parametrize(("p", "s"), GRID)
def test_unit_mass_on_the_grid(name, p, s):
    assert expected(METHODS[name], p, s, f=p) == pytest.approx((p, 1 - p), abs=1e-12)
    assert masses(METHODS[name], p, s) == pytest.approx((p, 1 - p), abs=1e-12)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(LAWFUL), probabilities, shares)
def test_unit_mass_for_any_rate_and_delay(name, p, s):
    assert expected(METHODS[name], p, s, f=p) == pytest.approx((p, 1 - p), abs=1e-9)


@settings(deadline=None, max_examples=60)
@given(probabilities, shares)
def test_window_takes_late_conversions_for_negatives(p, s):
    assert expected(METHODS["window"], p, s, f=p) == pytest.approx((p - p * s, 1 - p + p * s), abs=1e-12)


@pytest.mark.parametrize("name", LAWFUL)
def test_the_laws_find_nothing_wrong(name):
    assert broken_laws(METHODS[name]) == []


@pytest.mark.parametrize("name", LAWFUL)
@pytest.mark.parametrize(("p", "s"), CELLS)
def test_the_stationary_point_is_the_truth(name, p, s):
    assert stationary(lambda f: pull(METHODS[name], p, s, f)) == pytest.approx(p, rel=1e-9)


@pytest.mark.parametrize(("p", "s"), CELLS)
def test_window_is_stationary_below_the_truth_by_exactly_what_comes_late(p, s):
    assert stationary(lambda f: pull(METHODS["window"], p, s, f)) == pytest.approx(p - p * s, rel=1e-9)


@pytest.mark.parametrize(("p", "dp", "served"), [(0.2, 0.1, 0.181818), (0.02, 0.012, 0.019763)])
def test_copies_without_weights_shrink_the_rate_by_one_and_dp(p, dp, served):
    plain = Method(pairs={IP: positive, ON: negative, DP: positive})
    found = stationary(lambda f: pull(plain, p, dp / p, f))
    assert found == pytest.approx(p / (1 + dp), rel=1e-9)
    assert found == pytest.approx(served, abs=1e-6)


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.as_published is not None])
@pytest.mark.parametrize(("p", "s"), CELLS)
def test_published_weights_share_the_stationary_point_and_differ_in_mass(name, p, s):
    own = METHODS[name]
    paper = Method(pairs=own.as_published, uses_delay=own.uses_delay, observes_at_click=own.observes_at_click)
    assert stationary(lambda f: pull(paper, p, s, f)) == pytest.approx(p, rel=1e-9)
    dp = p * s
    factor = {"fnw": 1 + p, "es_dfm": 1 + dp, "defer": 2.0, "defuse": 1 + dp, "ddfm": 2 - p + dp}[name]
    assert expected(paper, p, s, f=p) == pytest.approx((factor * p, factor * (1 - p)))


@pytest.mark.parametrize(
    ("name", "span"), [("survival", 1e-9), ("ddfm", 0.05), ("es_dfm", 0.10), ("defuse", 0.15), ("defer", 0.35)]
)
def test_a_wrong_s_moves_the_stationary_point_least_where_clicks_are_settled(name, span):
    p, s = 0.1, 0.5
    found = [
        stationary(
            lambda f, believed=believed: float(
                np.dot(expected(METHODS[name], p, s, f=f, believed_s=believed), (f - 1, f))
            )
        )
        for believed in (s - 0.2, s + 0.2)
    ]
    assert abs(found[1] - found[0]) / p < span
    if name != "survival":
        assert abs(found[1] - found[0]) / p > span / 4


# --- every single life ------------------------------------------------------------------------------------------------

curves = st.lists(shares, min_size=1, max_size=6).map(sorted)


@settings(deadline=None, max_examples=150)
@given(curves, probabilities, shares, st.booleans(), st.integers(0, 6))
def test_survival_settles_every_single_click_exactly_whatever_is_believed(curve, f, s, converts, looks):
    looks = min(looks, len(curve))
    opened = [(ON, 0.0, curve[0]), *((REVISIT, 0.0, age) for age in curve[1:looks])][:looks]
    if converts:
        life = [*opened, (DP, 1.0, 1.0)] if opened else [(IP, 1.0, curve[0])]
    else:
        life = [*(opened or [(ON, 0.0, curve[0])]), (RN, 0.0, 1.0)]
    plus, minus = taught_over_a_life(METHODS["survival"], life, f=f, s=s)
    assert plus.sum() == pytest.approx(float(converts), abs=1e-14)
    assert minus.sum() == pytest.approx(1 - float(converts), abs=1e-14)
    assert plus.tolist() == [0.0] * (len(life) - 1) + [
        float(converts)
    ]  # nothing is lent that would have to be taken back


def test_an_open_click_is_believed_less_the_longer_it_is_silent():
    completed, one = np.linspace(0, 1, 50), np.ones(50)
    lent, rest = survival_open(Seen(one * np.nan, one, one, completed, one * 0.3))
    assert rest[0] == pytest.approx(0.7)
    assert rest[-1] == 1
    assert (np.diff(rest) > 0).all()
    assert (lent == 0).all()


# --- extremes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_weights_are_finite_and_at_most_two_at_the_ends_of_the_line(name):
    ends = [0.0, 1 / (1 + np.exp(50)), 1e-6, 0.5, 1 - 1e-6, 1 / (1 + np.exp(-50)), 1.0]
    f, s, completed = (grid.ravel() for grid in np.meshgrid(ends, [0.0, 0.5, 0.9, 1.0], [0.0, 0.5, 1.0]))
    first_f = np.clip(f, 1e-6, 1 - 1e-6)
    for event in METHODS[name].pairs:
        for label in (0.0, 1.0):
            seen = Seen(f, s, np.full_like(f, label), completed, first_f)
            weights = np.stack(weigh(METHODS[name].pairs, np.full(len(f), event, np.int8), seen))
            assert np.isfinite(weights).all()
            assert (np.abs(weights) <= 2).all()
            assert (weights >= 0).all()  # only `survival` teaches less than nothing, and as a difference


# --- wrong weights ----------------------------------------------------------------------------------------------------


def defuse_as_shipped(dp: float) -> Method:
    """DEFUSE's `unbiased_defuse_loss`: immediate and delayed positives are not told apart, so each gets (1 + dp) + 1."""

    def every_positive(seen: Seen) -> Pairs:
        return np.full_like(seen.f, (1 + dp) + 1), np.zeros_like(seen.f)

    def observed(seen: Seen) -> Pairs:
        z = dp / (0.8 + dp)  # the second frozen head, right for p = .2
        return np.full_like(seen.f, z * dp), np.full_like(seen.f, (1 - z) * (1 + dp))

    return Method(pairs={IP: every_positive, ON: observed, DP: every_positive}, uses_delay=True)


def defer_as_shipped(dp: float) -> Method:
    """DEFUSE's `delay_defer_loss`: `2 * p / p * (2 - dp)`, read from left to right."""

    def every_positive(copies: int) -> Pair:
        return lambda seen: (np.full_like(seen.f, copies * 2 * (2 - dp)), np.zeros_like(seen.f))

    def every_negative(seen: Seen) -> Pairs:
        return np.zeros_like(seen.f), (1 - seen.f) / (1 - seen.f + dp / 2)

    pairs = {IP: every_positive(2), ON: every_negative, DP: every_positive(1), RN: every_negative}
    return Method(pairs=pairs, uses_delay=True)


@pytest.mark.parametrize(
    ("method", "served"),
    [(defuse_as_shipped(0.1), 0.328), (defer_as_shipped(0.1), 0.42), (defer_as_shipped(0.5), 0.43)],
    ids=["defuse", "defer, dp of all clicks", "defer, dp of converters"],
)
def test_weights_of_public_code_break_the_laws_and_serve_about_twice_the_truth(method, served):
    assert stationary(lambda f: pull(method, 0.2, 0.5, f)) == pytest.approx(served, abs=0.003)
    broken = broken_laws(method)
    assert any("of a click that converts with 0.2, 0.57 of it late" in law for law in broken)
    assert any("the most is 2" in law for law in broken)


def test_a_positive_weight_of_two_less_dp_alone_breaks_the_laws():
    def wrong(seen: Seen) -> Pairs:
        return 2 * (2 - seen.dp), np.zeros_like(seen.f)

    pairs = {**METHODS["defer"].pairs, IP: wrong}
    assert broken_laws(Method(pairs=pairs, uses_delay=True))


@pytest.mark.parametrize(
    ("method", "law"),
    [
        (Method(), "teaches 0 positive and 0 negative in place of 0.001 and 0.999"),
        (Method(pairs={IP: positive, ON: fnw_negative, DP: positive}), "0.2, 0.57 of it late"),
        (Method(pairs={**METHODS["es_dfm"].pairs}), r"teaches 0.001 positive and nan .*NaN unless it says uses_delay"),
        (
            Method(pairs={**METHODS["mature"].pairs, Event.CLICKED: negative}),
            "a pair for CLICKED, which is no event on",
        ),
        (
            Method(pairs=METHODS["ddfm"].pairs, before_history=METHODS["window"].pairs, uses_delay=True),
            "before it has history, of a click that converts with 0.001, 0.1 of it late",
        ),
        (Method(pairs=METHODS["survival"].pairs, uses_delay=True), "positive and nan negative"),
        (
            Method(pairs={**METHODS["survival"].pairs, RN: fnw_negative}, uses_delay=True, adjusts=True),
            "teaches 0.001 positive and 0.998",  # it ends at less than a negative
        ),
        (Method(pairs={IP: positive, ON: defuse_negative, DP: positive}, uses_delay=True), "0.2, 0.57 of it late"),
    ],
)
def test_a_broken_law_is_told(method, law):
    broken = broken_laws(method)
    assert any(re.search(law, each) for each in broken), broken


# --- names and combinations -------------------------------------------------------------------------------------------

OWN = """
from models.batch import Event
from models.delay import METHODS, Method
from models.weighing import negative, positive

RIGHT = Method(pairs=dict(METHODS["es_dfm"].pairs), uses_delay=True)
WRONG = Method(pairs={Event.IMMEDIATE_POSITIVE: positive, Event.OBSERVED_NEGATIVE: negative})
NUMBER = 7
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "weights_of_my_own.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield "weights_of_my_own"
    sys.modules.pop("weights_of_my_own", None)


def test_a_method_of_ones_own_that_holds_the_laws_is_taken(own):
    found = method_of(f"{own}:RIGHT")
    assert found.pairs == METHODS["es_dfm"].pairs
    check_combination(f"{own}:RIGHT", objective="esmm", normalization="unit")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (
            "weights_of_my_own:WRONG",
            "breaks a law: of a click that converts with 0.001, 0.1 of it late, it teaches 0.0009",
        ),
        ("weights_of_my_own:NUMBER", r"must be a models.delay.Method \(got int\)"),
        ("weights_of_my_own:NOTHING", "cannot be imported .*NOTHING.*put its module on PYTHONPATH"),
        ("no_such_module_here:RIGHT", "cannot be imported .No module named 'no_such_module_here'"),
    ],
)
@pytest.mark.usefixtures("own")
def test_a_method_of_ones_own_that_is_none_is_refused_by_name(name, reason):
    with pytest.raises(ValueError, match=rf"labels.method '{name}' {reason}"):
        method_of(name)


@pytest.mark.parametrize("name", ["magic", "", ":RIGHT", "module:", ":"])
def test_an_unknown_method_is_refused_with_the_known_ones(name):
    known = "mature, window, fnw, fnc, es_dfm, defer, defuse, ddfm, survival, bi_defuse, dfm, oracle"
    with pytest.raises(ValueError, match=rf"must be one of {known}, or module:NAME .* \(got '{name}'\)"):
        method_of(name)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_goes_with_composed(name):
    check_combination(name, objective="composed", normalization="unit")


@pytest.mark.parametrize("objective", ["esmm", "both"])
@pytest.mark.parametrize("name", METHODS)
def test_methods_without_unit_mass_are_refused_inside_a_product(name, objective):
    told = rf'labels.method = "{name}" needs network.objective = "composed" \(got "{objective}"\): it has no pair of unit mass'
    has_none = name in ("fnc", "bi_defuse", "dfm")
    with pytest.raises(ValueError, match=told) if has_none else nullcontext():
        check_combination(name, objective=objective, normalization="unit")


@pytest.mark.parametrize("objective", ["esmm", "both"])
def test_published_weights_are_refused_beside_unclicked_impressions(objective):
    with pytest.raises(ValueError, match=r'labels.normalization = "paper" needs .* off by a factor that depends on x'):
        check_combination("es_dfm", objective=objective, normalization="paper")
    check_combination("es_dfm", objective="composed", normalization="paper")


@pytest.mark.parametrize("name", METHODS)
def test_two_heads_go_with_every_method_that_asks_for_no_other_age_than_w_o(name):
    told = rf'labels.delay_model = "heads" and labels.method = "{name}": .*two heads know the observation window alone'
    with pytest.raises(ValueError, match=told) if name == "survival" else nullcontext():
        check_combination(name, objective="composed", normalization="unit", delay_model="heads")
    check_combination(name, objective="composed", normalization="unit", delay_model="global")


def test_a_method_of_ones_own_that_looks_again_cannot_have_two_heads(tmp_path, monkeypatch):
    (tmp_path / "again.py").write_text(
        "from dataclasses import replace\nfrom models.delay import METHODS\nMINE = replace(METHODS['survival'])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r'"heads" and labels\.method = "again:MINE"'):
        check_combination("again:MINE", objective="composed", normalization="unit", delay_model="heads")


@pytest.mark.parametrize("name", ["es_dfm", "defer", "defuse", "ddfm"])
@pytest.mark.parametrize(("p", "s"), [(0.02, 0.57), (0.2, 0.1), (0.7, 1.0)])
def test_two_heads_that_are_right_give_unit_mass(name, p, s):
    dp = p * s
    plus = minus = 0.0
    for chance, events in lives(p, s):
        one = np.ones(len(events))
        seen = Seen(one * p, one * s, one, one, one * np.nan)._replace(
            told_dp=one * dp, told_rn=one * (1 - p) / (1 - p + dp)
        )
        a, b = weigh(METHODS[name].pairs, np.array([event for event, _, _ in events], np.int8), seen)
        plus, minus = plus + chance * a.sum(), minus + chance * b.sum()
    assert (plus, minus) == (pytest.approx(p), pytest.approx(1 - p))


def test_what_two_heads_tell_stands_in_for_what_follows_from_f_and_s():
    one = np.ones(1)
    seen = Seen(one * 0.3, one * 0.5, one, one, one)._replace(told_dp=one * 0.1, told_rn=one * 0.6)
    for name, expected in (("es_dfm", (0, 0.6)), ("defuse", (0.4 * 0.1 / 1.1, 0.6)), ("ddfm", (0.4 / 1.8, 0.6 / 1.8))):
        plus, minus = weigh(METHODS[name].pairs, np.array([ON], np.int8), seen)
        assert (plus.item(), minus.item()) == pytest.approx(expected), name


def test_survival_has_no_published_weights():
    with pytest.raises(ValueError, match=r'"paper" and labels.method = "survival": no paper has it; use "unit"'):
        check_combination("survival", objective="composed", normalization="paper")
