"""The labelling policies: for each method, what is drawn from the facts known when something is due.

First case by case, then the laws over generated lives, each led through the join, against a second writing of all kinds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pytest
from fakes import T0, arrivals_of, clicked, converted, shown
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from models.batch import Event
from models.delay import METHODS
from models.delay_edges import edges_ms, horizons_ms
from streaming import events
from streaming.examples import Example, Kind, Slot, slot_name
from streaming.join import Join
from streaming.joined import CLICK_SLOT, CONVERSION_SLOT, Due, Dues, JoinedImpression, Windows
from streaming.label import ROWS, Outcome, Policy, check_kinds

W_O, W_A, CLICK_WINDOW = 20, 100, 10
OBSERVED, SETTLED, OUTCOME = int(Slot.OBSERVED), int(Slot.SETTLED), int(Slot.OUTCOME)


def policy_of(
    method: str, outcomes: dict[tuple[str, int], Outcome] | None = None, observation_window_ms: int = W_O
) -> Policy:
    return Policy(
        map(Kind, METHODS[method].sees),
        p=3,
        observation_window_ms=observation_window_ms,
        attribution_window_ms=W_A,
        outcomes=outcomes,
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


def dues_of(each: list[Due]) -> Dues:
    """What is due of one impression, as the join gives it."""
    if each[0].joined.click_ms is not None:
        return Dues([], np.zeros(0, np.int64), [(0, due) for due in each])
    return Dues([due.joined.impression for due in each], np.array([due.due_ms for due in each], np.int64), [])


Row = tuple[str, int, str, bool, int | None, float | None]


def told(policy: Policy, one: JoinedImpression) -> list[Row]:
    """(slot, due, kind, label, conversion, value) of each example of an impression but its ages, its slots due as the policy has it."""
    dues = [Due(T0 + CLICK_WINDOW, CLICK_SLOT, one)]
    if one.click_ms is not None:
        dues += [Due(one.click_ms + after_ms, slot, one) for slot, after_ms in policy.schedule.after_click_ms]
    if one.conversion_known_ms is not None and policy.schedule.tells_conversion:
        dues.append(Due(one.conversion_known_ms, CONVERSION_SLOT, one))
    return rows_of(policy.on_due(dues_of(sorted(dues, key=lambda due: (due.due_ms, due.slot)))))


def rows_of(examples: Iterable[Example]) -> list[Row]:
    return [
        (
            slot_name(example.slot),
            example.due_ms - T0,
            example.kind.name,
            example.converted,
            None if example.conversion_ms is None else example.conversion_ms - T0,
            example.value,
        )
        for example in examples
    ]


CLICKED = ("click", 10, "CLICKED", False, None, None)
CASES: dict[str, tuple[str, JoinedImpression, list[Row]]] = {
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
    "es_dfm, a conversion after the observation window is told when it comes": (
        "es_dfm",
        joined(click=5, conversion=26),
        [CLICKED, ("observed", 25, "OBSERVED_NEGATIVE", False, None, None),
         ("settled", 26, "DELAYED_POSITIVE", True, 26, 2.5), ("outcome", 105, "OUTCOME", True, 26, 2.5)],
    ),
    "es_dfm, a conversion in the window that came after its end is told when it came": (
        "es_dfm",
        joined(click=5, conversion=20, known=40),
        [CLICKED, ("observed", 25, "OBSERVED_NEGATIVE", False, None, None),
         ("settled", 40, "DELAYED_POSITIVE", True, 20, 2.5), ("outcome", 105, "OUTCOME", True, 20, 2.5)],
    ),
    "es_dfm, an immediate positive settles itself": (
        "es_dfm",
        joined(click=5, conversion=25),
        [CLICKED, ("observed", 25, "IMMEDIATE_POSITIVE", True, 25, 2.5), ("outcome", 105, "OUTCOME", True, 25, 2.5)],
    ),
    "ddfm, nothing came": (
        "ddfm",
        joined(click=5),
        [CLICKED, ("observed", 25, "OBSERVED_NEGATIVE", False, None, None),
         ("settled", 105, "REAL_NEGATIVE", False, None, None), ("outcome", 105, "OUTCOME", False, None, None)],
    ),
    "ddfm, a conversion at the attribution window's very end is no real negative": (
        "ddfm",
        joined(click=5, conversion=105),
        [CLICKED, ("observed", 25, "OBSERVED_NEGATIVE", False, None, None),
         ("settled", 105, "DELAYED_POSITIVE", True, 105, 2.5), ("outcome", 105, "OUTCOME", True, 105, 2.5)],
    ),
    "survival looks at an open click until its conversion comes": (
        "survival",
        joined(click=5, conversion=60),  # horizons at 20, 33, 47, 60, 73, 87 and 100 after the click
        [CLICKED, ("observed", 25, "OBSERVED_NEGATIVE", False, None, None), ("revisit_1", 38, "REVISIT", False, None, None),
         ("revisit_2", 52, "REVISIT", False, None, None), ("settled", 60, "DELAYED_POSITIVE", True, 60, 2.5),
         ("outcome", 105, "OUTCOME", True, 60, 2.5)],
    ),
    "survival does not look again at a conversion that came as its horizon did": (
        "survival",
        joined(click=5, conversion=38),
        [CLICKED, ("observed", 25, "OBSERVED_NEGATIVE", False, None, None), ("settled", 38, "DELAYED_POSITIVE", True, 38, 2.5),
         ("outcome", 105, "OUTCOME", True, 38, 2.5)],
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


def test_a_click_that_came_late_is_looked_at_when_it_came_with_the_conversion_that_waited_for_it() -> None:
    # click at 2, w_o ends at 5, the click comes at 9; a conversion at 4 has waited for it
    life = Life(click=2, click_late=7, delay=2, conversion_late=0)
    rows = rows_of(emitted("ddfm", (3, 100), 6, life))
    assert [row[:3] for row in rows if row[2] != "AGED"] == [
        ("observed", 9, "IMMEDIATE_POSITIVE"), ("click", 10, "CLICKED"), ("outcome", 102, "OUTCOME"),
    ]  # fmt: skip


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
    (example,) = policy_of("mature").on_due(dues_of([Due(T0 + 10, CLICK_SLOT, one)]))
    assert (example.p, example.impression is one.impression, example.click_ms) == (3, True, T0 + 5)


def test_the_schedule_ends_with_the_attribution_window() -> None:
    assert policy_of("mature").schedule.after_click_ms == ((SETTLED, W_A), (OUTCOME, W_A))
    assert policy_of("window").schedule.after_click_ms == ((OBSERVED, W_O), (OUTCOME, W_A))
    assert policy_of("oracle", {}).schedule.after_click_ms == ((OBSERVED, 0), (OUTCOME, W_A))
    assert policy_of("survival").schedule.after_click_ms == (
        (OBSERVED, W_O), (65, 33), (66, 47), (67, 60), (68, 73), (69, 87), (SETTLED, W_A), (OUTCOME, W_A),
    )  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_a_schedule_asks_for_what_the_method_sees_and_for_every_age_but_the_first(method: str) -> None:
    policy = policy_of(method, {} if method == "oracle" else None)
    sees = {Kind(event) for event in METHODS[method].sees}
    assert policy.schedule.tells_conversion == (Kind.DELAYED_POSITIVE in sees)
    assert policy.schedule.after_click_ms[-1] == (OUTCOME, W_A)
    edges = edges_ms(W_O, W_A)
    assert policy.edges_ms == edges
    assert policy.schedule.at_ages_ms == tuple((Slot.AGED + k, edge) for k, edge in enumerate(edges) if k > 0)


def test_kinds_and_the_events_of_the_losses_have_one_number_and_name() -> None:
    taught = {
        event.name: event for event in Event if event != Event.HELD_OUT
    }  # of any kind, where the gate judges by it
    assert {kind.name: kind for kind in Kind if kind != Kind.OUTCOME} == taught


def test_every_kind_stands_in_the_table_and_slots_are_in_the_order_of_the_contract() -> None:
    assert set(ROWS) == set(Kind)
    longest = Policy((), p=0, observation_window_ms=1, attribution_window_ms=10**10, horizons=32)
    last_age = longest.schedule.at_ages_ms[-1][0]
    assert Slot.CLICK < Slot.OBSERVED < Slot.REVISIT + 32 < Slot.AGED
    assert last_age < CONVERSION_SLOT < Slot.SETTLED < Slot.OUTCOME


def test_slots_are_called_by_their_number_where_there_are_several() -> None:
    assert [slot_name(slot) for slot in (0, 1, 65, 127, 128, 130, 190, 192, 193)] == [
        "click", "observed", "revisit_1", "revisit_63", "aged_0", "aged_2", "aged_62", "settled", "outcome",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("final", "other"),
    [("MATURED", "DELAYED_POSITIVE"), ("MATURED", "REAL_NEGATIVE"), ("ORACLE", "IMMEDIATE_POSITIVE"), ("ORACLE", "OBSERVED_NEGATIVE")],
)  # fmt: skip
def test_kinds_that_take_one_slot_are_refused(final: str, other: str) -> None:
    with pytest.raises(ValueError, match=f"must not see both {final} and {other}: both take the slot"):
        Policy([Kind[final], Kind[other]], p=0, observation_window_ms=W_O, attribution_window_ms=W_A, outcomes={})


@pytest.mark.parametrize("method", METHODS)
def test_no_method_sees_kinds_that_take_one_slot(method: str) -> None:
    check_kinds(map(Kind, METHODS[method].sees))


@pytest.mark.parametrize(("method", "outcomes"), [("oracle", None), ("mature", {})])
def test_outcomes_belong_to_oracle_alone(method: str, outcomes: dict[tuple[str, int], Outcome] | None) -> None:
    with pytest.raises(ValueError, match="method oracle, and no other, needs the outcomes of a first pass"):
        policy_of(method, outcomes)


# --- generated lives, through the join -------------------------------------------------------------------------------------------

SPANS = [(20, 100), (3, 100), (0, 100), (100, 100), (99, 100), (60_000, 3_600_000), (900_000, 86_400_000), (1, 1)]


@dataclass
class Life:
    """What happens to one impression shown at 0: facts, and by how much each is late (0: on time)."""

    click: int | None
    click_late: int
    delay: int | None
    conversion_late: int

    def facts(self, click_window: int, w_a: int) -> tuple[int | None, int, int | None, int]:
        """Click, since when it is known, conversion, since when it is known: as soon as what it follows is known too."""
        if self.click is None:
            return None, 0, None, 0
        click_known = min(self.click + self.click_late, click_window)
        if self.delay is None:
            return self.click, click_known, None, 0
        conversion = self.click + self.delay
        return (
            self.click,
            click_known,
            conversion,
            max(min(conversion + self.conversion_late, self.click + w_a), click_known),
        )


@st.composite
def lives(draw: st.DrawFn) -> tuple[str, tuple[int, int], int, Life]:
    """A method, windows, horizons and a life; delays are drawn about the ages at which something happens."""
    method = draw(st.sampled_from(sorted(METHODS)))
    w_o, w_a = draw(st.sampled_from(SPANS))
    w_o = 0 if METHODS[method].observes_at_click else w_o
    horizons = draw(st.sampled_from([1, 2, 6, 32]))
    ages = {0, w_o, w_a, *edges_ms(w_o, w_a, horizons)}
    near = st.sampled_from(sorted({age + shift for age in ages for shift in (-1, 0, 1) if 0 <= age + shift <= w_a}))
    lateness = st.just(0) | st.integers(1, w_a) | near
    click_window = min(CLICK_WINDOW, w_a)
    click = draw(st.none() | st.integers(0, click_window))
    life = Life(
        click,
        draw(st.just(0) | st.integers(0, click_window)),
        draw(st.none() | near | st.integers(0, w_a)),
        draw(lateness),
    )
    return method, (w_o, w_a), horizons, life


def emitted(method: str, spans: tuple[int, int], horizons: int, life: Life) -> list[Example]:
    """The examples of a life: its records arrive, those that are late at the watermark from which they are known."""
    w_o, w_a = spans
    click_window = min(CLICK_WINDOW, w_a)
    click, click_known, conversion, conversion_known = life.facts(click_window, w_a)
    arrivals: list[tuple[int, events.Event]] = [(-1, shown("i", 0))]
    if click is not None:
        arrivals.append((click_known if click_known > click else -1, clicked("i", click)))
    if conversion is not None:
        is_late = conversion_known > max(conversion, click_known)
        arrivals.append((conversion_known if is_late else -1, converted("i", conversion, 2.5)))
    outcomes = None
    if method == "oracle":
        outcomes = {} if click is None else {("i", T0): Outcome(None if conversion is None else T0 + conversion, None)}
    policy = Policy(
        map(Kind, METHODS[method].sees),
        p=0, observation_window_ms=w_o, attribution_window_ms=w_a, horizons=horizons, outcomes=outcomes,
    )  # fmt: skip
    join = Join(
        Windows(click_ms=click_window, attribution_ms=w_a, clock_skew_ms=0, orphan_hold_ms=click_window),
        policy.schedule,
    )
    examples: list[Example] = []
    for number, (watermark, event) in enumerate(sorted(arrivals, key=lambda arrival: arrival[0]), 1):
        examples += policy.on_due(join.on_watermark(T0 + watermark)[0])
        join.on_arrivals(arrivals_of([event], [watermark], first=number))
    dues, sides = join.on_watermark(T0 + click_window + 2 * w_a + 1)
    assert sides == []
    return [*examples, *policy.on_due(dues)]


def second_writing(method: str, spans: tuple[int, int], horizons: int, life: Life) -> list[Row]:
    """Every kind, each by its own line of the contract's table."""
    w_o, w_a = spans
    click_window = min(CLICK_WINDOW, w_a)
    sees = {event.name for event in METHODS[method].sees}
    click, click_known, conversion, known = life.facts(click_window, w_a)
    rows: list[Row] = []

    def add(slot: str, due: int, kind: str, label: bool) -> None:
        is_known = conversion is not None and (known <= due or kind == "ORACLE")
        value = 2.5 if is_known and kind != "ORACLE" else None
        rows.append((slot, due, kind, label, conversion if is_known else None, value))

    if click is None:
        add("click", click_window, "UNCLICKED", False)
        return rows
    add("click", click_window, "CLICKED", False)
    first_look = max(click + w_o, click_known)
    is_soon = conversion is not None and conversion - click <= w_o and known <= first_look
    if is_soon and "IMMEDIATE_POSITIVE" in sees:
        add("observed", first_look, "IMMEDIATE_POSITIVE", True)
    if not is_soon and "OBSERVED_NEGATIVE" in sees:
        add("observed", first_look, "OBSERVED_NEGATIVE", False)
    for k, horizon in enumerate(horizons_ms(w_o, w_a, horizons)):
        due = max(click + horizon, click_known)
        if "REVISIT" in sees and w_o < horizon < w_a and (conversion is None or known > due):
            add(f"revisit_{k}", due, "REVISIT", False)
    for k, edge in enumerate(edges_ms(w_o, w_a, horizons)):
        if k >= 1 and conversion is not None and edge >= conversion - click:
            add(f"aged_{k}", max(click + edge, known), "AGED", True)
    if "DELAYED_POSITIVE" in sees and conversion is not None and not is_soon:
        add("settled", known, "DELAYED_POSITIVE", True)
    if "REAL_NEGATIVE" in sees and conversion is None:
        add("settled", click + w_a, "REAL_NEGATIVE", False)
    if "MATURED" in sees:
        add("settled", click + w_a, "MATURED", conversion is not None)
    if "ORACLE" in sees:
        add("observed", click_known, "ORACLE", conversion is not None)
    add("outcome", click + w_a, "OUTCOME", conversion is not None)
    order = ("click", "observed", "revisit", "aged", "settled", "outcome")
    return sorted(rows, key=lambda row: (row[1], order.index(row[0].split("_")[0]), int(row[0].partition("_")[2] or 0)))


@hypothesis_settings(deadline=None, max_examples=250)
@given(lives())
def test_every_kind_of_every_method_equals_a_second_writing(case: tuple[str, tuple[int, int], int, Life]) -> None:
    assert rows_of(emitted(*case)) == second_writing(*case)


@hypothesis_settings(deadline=None, max_examples=200)
@given(lives())
def test_the_laws_of_the_labels(case: tuple[str, tuple[int, int], int, Life]) -> None:
    method, (w_o, w_a), _, life = case
    examples = emitted(*case)
    _, _, conversion, known = life.facts(min(CLICK_WINDOW, w_a), w_a)
    kinds = [example.kind for example in examples]
    sees = {Kind(event) for event in METHODS[method].sees}

    # The first in a slot wins, and there is no second.
    assert len({example.slot for example in examples}) == len(examples)
    for example in examples:
        if example.kind == Kind.ORACLE:
            continue
        # No label before it was knowable, no fact later than the due time.
        for fact_ms in (example.impression.event_time_ms, example.click_ms, example.conversion_ms):
            assert fact_ms is None or fact_ms <= example.due_ms
        assert (example.conversion_ms is not None) == (conversion is not None and T0 + known <= example.due_ms)
        assert not example.converted or example.conversion_ms is not None

    is_clicked = life.click is not None
    assert kinds.count(Kind.UNCLICKED) == (not is_clicked)
    assert kinds.count(Kind.CLICKED) == kinds.count(Kind.OUTCOME) == is_clicked
    if Kind.OBSERVED_NEGATIVE in sees:  # IP + ON = clicks
        assert kinds.count(Kind.IMMEDIATE_POSITIVE) + kinds.count(Kind.OBSERVED_NEGATIVE) == is_clicked
    if Kind.DELAYED_POSITIVE in sees:  # DP = positives whose ON was emitted
        has_come_after = conversion is not None and Kind.OBSERVED_NEGATIVE in kinds
        assert kinds.count(Kind.DELAYED_POSITIVE) == has_come_after
    if Kind.REAL_NEGATIVE in sees:  # one of the three settles each click
        settling = (Kind.IMMEDIATE_POSITIVE, Kind.DELAYED_POSITIVE, Kind.REAL_NEGATIVE)
        assert sum(kinds.count(kind) for kind in settling) == is_clicked
        last = max((example.due_ms for example in examples if example.kind == Kind.REVISIT), default=0)
        assert all(example.due_ms >= last for example in examples if example.kind in settling[1:])
    ages = [example for example in examples if example.kind == Kind.AGED]
    if conversion is not None:
        edges = edges_ms(w_o, w_a, case[2])
        due = {k for k, edge in enumerate(edges) if k > 0 and edge >= (life.delay or 0)}
        assert {example.slot - Slot.AGED for example in ages} == due
    else:
        assert ages == []
