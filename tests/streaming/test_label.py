"""The labelling policies: for each method, what is drawn from the facts known when something is due."""

from __future__ import annotations

import pytest
from fakes import T0, shown
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from streaming.joined import CLICK_SLOT, Due, JoinedImpression
from streaming.label import METHODS, ROWS, Kind, Outcome, Policy, Slot, slot_name

W_O, W_A, CLICK_WINDOW = 20, 100, 10
OBSERVED, SETTLED, OUTCOME = int(Slot.OBSERVED), int(Slot.SETTLED), int(Slot.OUTCOME)


def policy_of(
    method: str, outcomes: dict[tuple[str, int], Outcome] | None = None, observation_window_ms: int = W_O
) -> Policy:
    return Policy(
        method, p=3, observation_window_ms=observation_window_ms, attribution_window_ms=W_A, outcomes=outcomes
    )


def joined(click: int | None = None, conversion: int | None = None, known: int | None = None) -> JoinedImpression:
    """Impression "i" at 0; a conversion that is `known` later than it happened came late."""
    one = JoinedImpression(shown("i", 0))
    if click is not None:
        one.click_ms = one.click_known_ms = T0 + click
    if conversion is not None:
        one.conversion_ms, one.value = T0 + conversion, 2.5
        one.conversion_known_ms = T0 + (conversion if known is None else known)
    return one


def told(policy: Policy, one: JoinedImpression) -> list[tuple[str, int, str, bool, int | None, float | None]]:
    """(slot, due, kind, label, conversion, value) of each example of an impression, its slots due as the policy has it."""
    dues = [Due(T0 + CLICK_WINDOW, CLICK_SLOT, one)]
    if one.click_ms is not None:
        dues += [Due(one.click_ms + after_ms, slot, one) for slot, after_ms in policy.schedule.after_click_ms]
    return [
        (
            slot_name(example.slot),
            example.due_ms - T0,
            example.kind.name,
            example.converted,
            None if example.conversion_ms is None else example.conversion_ms - T0,
            example.value,
        )
        for example in policy.on_due(sorted(dues, key=lambda due: (due.due_ms, due.slot)))
    ]


CLICKED = ("click", 10, "CLICKED", False, None, None)
CASES: dict[str, tuple[str, JoinedImpression, list[tuple[str, int, str, bool, int | None, float | None]]]] = {
    "mature, no click": ("mature", joined(), [("click", 10, "UNCLICKED", False, None, None)]),
    "window, no click": ("window", joined(), [("click", 10, "UNCLICKED", False, None, None)]),
    "mature, a click and nothing after it": (
        "mature",
        joined(click=5),
        [CLICKED, ("settled", 105, "MATURED", False, None, None), ("outcome", 105, "OUTCOME", False, None, None)],
    ),
    "mature, a conversion": (
        "mature",
        joined(click=5, conversion=60),
        [CLICKED, ("settled", 105, "MATURED", True, 60, 2.5), ("outcome", 105, "OUTCOME", True, 60, 2.5)],
    ),
    "mature, a conversion at the attribution window's very end": (
        "mature",
        joined(click=5, conversion=105),
        [CLICKED, ("settled", 105, "MATURED", True, 105, 2.5), ("outcome", 105, "OUTCOME", True, 105, 2.5)],
    ),
    "window, nothing within the observation window": (
        "window",
        joined(click=5),
        [CLICKED, ("observed", 25, "OBSERVED_NEGATIVE", False, None, None), ("outcome", 105, "OUTCOME", False, None, None)],
    ),
    "window, a conversion at the observation window's very end": (
        "window",
        joined(click=5, conversion=25),
        [CLICKED, ("observed", 25, "IMMEDIATE_POSITIVE", True, 25, 2.5), ("outcome", 105, "OUTCOME", True, 25, 2.5)],
    ),
    "window, a conversion one past the observation window": (
        "window",
        joined(click=5, conversion=26),
        [CLICKED, ("observed", 25, "OBSERVED_NEGATIVE", False, None, None), ("outcome", 105, "OUTCOME", True, 26, 2.5)],
    ),
    "window, a conversion in the window that came after its end": (
        "window",
        joined(click=5, conversion=20, known=40),
        [CLICKED, ("observed", 25, "OBSERVED_NEGATIVE", False, None, None), ("outcome", 105, "OUTCOME", True, 20, 2.5)],
    ),
    "window, a late conversion that came just in time": (
        "window",
        joined(click=5, conversion=20, known=25),
        [CLICKED, ("observed", 25, "IMMEDIATE_POSITIVE", True, 20, 2.5), ("outcome", 105, "OUTCOME", True, 20, 2.5)],
    ),
    "a conversion before the click window's end is known to the clicked row, but is no label of it": (
        "window",
        joined(click=5, conversion=7),
        [("click", 10, "CLICKED", False, 7, 2.5), ("observed", 25, "IMMEDIATE_POSITIVE", True, 7, 2.5),
         ("outcome", 105, "OUTCOME", True, 7, 2.5)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("says", CASES)
def test_facts_to_examples(says: str) -> None:
    method, one, expected = CASES[says]
    assert told(policy_of(method), one) == expected


def test_an_observation_window_of_nothing_labels_at_the_click() -> None:
    # click and conversion at 5 |<- due here, conversion still within
    at_once = joined(click=5, conversion=5)
    assert told(policy_of("window", observation_window_ms=0), at_once)[0] == (
        "observed", 5, "IMMEDIATE_POSITIVE", True, 5, 2.5,
    )  # fmt: skip
    later = joined(click=5, conversion=6)
    assert told(policy_of("window", observation_window_ms=0), later)[0][2] == "OBSERVED_NEGATIVE"


def test_oracle_tells_the_outcome_of_the_first_pass_at_the_click() -> None:
    outcomes = {("i", T0): Outcome(T0 + 60, 9.0)}
    rows = told(policy_of("oracle", outcomes), joined(click=5))
    assert rows[0] == ("observed", 5, "ORACLE", True, 60, 9.0)
    rows = told(policy_of("oracle", {("i", T0): Outcome(None, None)}), joined(click=5, conversion=60))
    assert rows[0] == ("observed", 5, "ORACLE", False, None, None)


def test_oracle_has_no_row_for_a_click_without_an_outcome() -> None:
    assert [row[2] for row in told(policy_of("oracle", {}), joined(click=5))] == ["CLICKED", "OUTCOME"]


def test_examples_carry_partition_facts_and_the_impression_itself() -> None:
    one = joined(click=5)
    (example,) = policy_of("mature").on_due([Due(T0 + 10, CLICK_SLOT, one)])
    assert (example.p, example.impression is one.impression, example.click_ms) == (3, True, T0 + 5)


def test_the_schedule_ends_with_the_attribution_window() -> None:
    assert policy_of("mature").schedule.after_click_ms == ((SETTLED, W_A), (OUTCOME, W_A))
    assert policy_of("window").schedule.after_click_ms == ((OBSERVED, W_O), (OUTCOME, W_A))
    assert policy_of("oracle", {}).schedule.after_click_ms == ((OBSERVED, 0), (OUTCOME, W_A))
    for method in METHODS:
        schedule = policy_of(method, {} if method == "oracle" else None).schedule
        assert schedule.at_conversion == ()


def test_every_kind_that_a_method_draws_stands_in_the_table() -> None:
    drawn = {kind for kinds in METHODS.values() for kind in kinds} | {Kind.UNCLICKED, Kind.CLICKED, Kind.OUTCOME}
    assert drawn == ROWS.keys()


def test_slots_are_called_by_their_number_where_there_are_several() -> None:
    assert [slot_name(slot) for slot in (0, 1, 65, 127, 128, 130, 191, 192, 193)] == [
        "click", "observed", "revisit_1", "revisit_63", "aged_0", "aged_2", "aged_63", "settled", "outcome",
    ]  # fmt: skip


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(ValueError, match=r"labels\.method must be one of mature, window, oracle \(got 'best'\)"):
        policy_of("best")


@pytest.mark.parametrize(("method", "outcomes"), [("oracle", None), ("mature", {})])
def test_outcomes_belong_to_oracle_alone(method: str, outcomes: dict[tuple[str, int], Outcome] | None) -> None:
    with pytest.raises(ValueError, match="method oracle, and no other, needs the outcomes of a first pass"):
        policy_of(method, outcomes)


click_times = st.none() | st.integers(0, CLICK_WINDOW)
delays = st.none() | st.integers(0, W_A)


@hypothesis_settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(click_times, delays, st.integers(0, 40)), max_size=8), st.integers(0, W_A))
def test_immediate_positives_and_observed_negatives_are_the_clicks(
    lives: list[tuple[int | None, int | None, int]], observation_window_ms: int
) -> None:
    policy = policy_of("window", observation_window_ms=observation_window_ms)
    kinds: list[str] = []
    for click, delay, late_by in lives:
        conversion = None if click is None or delay is None else click + delay
        known = None if conversion is None else conversion + late_by
        kinds += [row[2] for row in told(policy, joined(click, conversion, known))]
    clicks = sum(click is not None for click, *_ in lives)
    assert kinds.count("CLICKED") == kinds.count("OUTCOME") == clicks
    assert kinds.count("IMMEDIATE_POSITIVE") + kinds.count("OBSERVED_NEGATIVE") == clicks
    assert kinds.count("UNCLICKED") == len(lives) - clicks


@hypothesis_settings(deadline=None, max_examples=100)
@given(st.integers(0, CLICK_WINDOW), delays, st.integers(0, 200), st.sampled_from(["mature", "window"]))
def test_no_example_carries_a_fact_that_was_not_known_when_it_was_due(
    click: int, delay: int | None, late_by: int, method: str
) -> None:
    conversion = None if delay is None else click + delay
    known = None if conversion is None else conversion + late_by
    for _, due, _, converted, told_conversion, value in told(policy_of(method), joined(click, conversion, known)):
        is_known = known is not None and known <= due
        assert (told_conversion is not None) == is_known
        assert (value is not None) == is_known
        assert is_known or not converted
