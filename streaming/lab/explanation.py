"""What is known about one impression, as a value, a timeline and rows for a table; must not know where it was read."""

from __future__ import annotations

from typing import Any

import msgspec

from streaming.events import MICROSECONDS_ABOVE_MS, SECONDS_BELOW_MS
from streaming.lab.durations import in_words, utc
from streaming.ledger import BackfilledLine
from streaming.outputs import ExampleLine, SideLine
from streaming.scoring import Prediction


class LoggedRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A record of the log that carries the id: `at` is file:line, `value` what a conversion was worth."""

    kind: str
    at: str
    event_time_ms: int
    value: float | None
    record: str


class Moment(msgspec.Struct, frozen=True):
    """A line of the timeline. `at_ms` is event time; None where none could be read."""

    at_ms: int | None
    what: str
    detail: str


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """All that a run knows about an impression.

    Args:
        timeline: facts, side outputs, prediction and examples by event time; at equal times in this order.
        features: as logged; None where the log was not looked into or does not hold the impression.
        logged: what the log holds of it, if it was looked into.
        prediction: the one it was scored with. examples: in the order in which they were taught.
        side_outputs: records of it that taught nothing in the stream, and dead letters that mention its id.
        backfilled: what `afterclick backfill` taught of it, in that order; a weight below 0 takes back.
        positive_mass: sum of the weights a+ that its click was taught with in the CVR loss, by the stream and by backfills.
        negative_mass: of the a-.
        notes: what the rest does not say by itself.
    """

    run: str
    impression_id: str
    timeline: list[Moment]
    features: dict[str, Any] | None
    logged: list[LoggedRecord]
    prediction: Prediction | None
    examples: list[ExampleLine]
    side_outputs: list[SideLine]
    backfilled: list[BackfilledLine]
    positive_mass: float
    negative_mass: float
    notes: list[str]

    def rows(self) -> list[tuple[str, str]]:
        """The timeline, features and notes as (label, value) pairs for a table."""
        found = [
            (_shown(moment.at_ms), moment.what + (f": {moment.detail}" if moment.detail else ""))
            for moment in self.timeline
        ]
        found += [("backfill", _corrected(line)) for line in self.backfilled]
        if self.positive_mass or self.negative_mass or self.backfilled:
            found.append(("CVR mass taught", f"a+ {self.positive_mass:.4g}, a- {self.negative_mass:.4g}"))
        if self.features is not None:
            found += [(f"feature {name}", msgspec.json.encode(value).decode()) for name, value in self.features.items()]
        return found + [("note", note) for note in self.notes]


def timeline_of(
    examples: list[ExampleLine], prediction: Prediction | None, side_outputs: list[SideLine], logged: list[LoggedRecord]
) -> list[Moment]:
    """Facts, side outputs, prediction and examples by event time; at equal times in this order."""
    moments = [
        Moment(record.event_time_ms, record.kind, record.at + _worth(record.value, ", value ")) for record in logged
    ]
    if not logged:
        # Without the log a fact is known by the examples that saw it.
        facts = {("impression", line.impression_ms): "" for line in examples}
        facts |= {("click", line.click_ms): "" for line in examples if line.click_ms is not None}
        facts |= {
            ("conversion", line.conversion_ms): _worth(line.value, "value ")
            for line in examples
            if line.conversion_ms is not None
        }
        moments = [Moment(at_ms, kind, detail) for (kind, at_ms), detail in facts.items()]
    moments += [
        Moment(_plausible(line.event_time_ms), f"{line.kind} left by {line.door}", f"{line.at}: {line.reason}")
        for line in side_outputs
    ]
    if prediction is not None:
        # An AGED is no row of a step: what is due before the click's first row is not predicted for it.
        first_ms = min((line.due_ms for line in examples if line.kind != "AGED"), default=prediction.event_time_ms)
        what = f"pctr {prediction.pctr:.4g}, pcvr {prediction.pcvr:.4g}, by the {prediction.whose}"
        moments.append(Moment(first_ms, "prediction", what))
    moments += [Moment(line.due_ms, f"{line.kind} ({line.slot})", _detail(line)) for line in examples]
    return sorted(moments, key=lambda moment: (moment.at_ms is None, moment.at_ms or 0))  # stable: as they were added


def _plausible(event_time_ms: int | None) -> int | None:
    """A time that can be one in milliseconds: dead letters hold others."""
    if event_time_ms is None or not SECONDS_BELOW_MS <= event_time_ms <= MICROSECONDS_ABOVE_MS:
        return None
    return event_time_ms


def _detail(example: ExampleLine) -> str:
    click = (
        "no click" if example.click_ms is None else f"click after {in_words(example.click_ms - example.impression_ms)}"
    )
    parts = [click]
    if example.click_ms is not None and example.conversion_ms is not None:
        parts.append(f"conversion after {in_words(example.conversion_ms - example.click_ms)}")
    if example.slot != "click":
        parts.append(f"v = {int(example.converted)}")
    parts.append("for the delay model" if example.kind == "AGED" else taught(example))
    if example.step is not None:
        parts.append(f"step {example.step:,}")
    return ", ".join(parts)


def taught(example: ExampleLine) -> str:
    """What an example taught the network, and with what weight."""
    if example.pos is None or example.neg is None:
        return "taught nothing"
    if example.slot == "click":
        return f"taught c = {int(example.kind == 'CLICKED')}" + (f", kappa {example.neg:.4g}" if example.neg else "")
    return f"taught a+ {example.pos:.4g}, a- {example.neg:.4g}"


def _corrected(line: BackfilledLine) -> str:
    """The facts as a backfill knew them, the weights it taught or took back, and the late records it goes back to."""
    facts = ["no click" if line.click_ms is None else f"click after {in_words(line.click_ms - line.impression_ms)}"]
    if line.click_ms is not None and line.conversion_ms is not None:
        facts.append(
            f"conversion after {in_words(line.conversion_ms - line.click_ms)}" + _worth(line.value, ", value ")
        )
    elif line.converted is not None:
        facts.append("no conversion")
    weights = (("click", line.clicked), ("no click", line.unclicked), ("kappa", line.kappa), ("a+", line.pos), ("a-", line.neg))  # fmt: skip
    told = [f"{name} {weight:+.4g}" for name, weight in weights if weight]
    where = f"step {line.step:,}, weights version {line.weights_version:,}"
    return f"{', '.join(facts)}: taught {', '.join(told)}, {where}, by {', '.join(line.at)}"


def _worth(value: float | None, before: str) -> str:
    return "" if value is None else f"{before}{value:g}"


def _shown(at_ms: int | None) -> str:
    return "no time" if at_ms is None else utc(at_ms, to_ms=True)
