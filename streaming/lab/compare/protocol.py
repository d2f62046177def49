"""What is compared: the clicks of a log with their final labels, where the stream begins, and the files all runs share.

    log     |------ pre-trained on this ------|------- streamed: hour by hour trained, the next hour scored -------|
                        |<--- w_a + click --->|
                         primed: read, learning off

Must not know how a run learns.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
from safetensors.numpy import load_file, save_file

from models.batch import Inputs, Int64
from streaming.examples import Example
from streaming.features import FeatureReader
from streaming.lab.compare.files import CLICKS, ResultsError, refusing
from streaming.lab.compare.stream import HOUR_MS, Stream, as_compared
from streaming.label import Outcome
from streaming.log_file import Place
from streaming.settings import Settings, differences, dump, parse

PLAN, INPUTS, OUTCOMES, SETTINGS = "plan.json", "inputs.safetensors", "outcomes.msgpack", "settings.toml"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Where a comparison begins and ends; with the settings all that its runs must share.

    Args:
        log: which one: file names and sizes, hashed.
        starts_ms: where the stream begins: what is due before it pre-trains, clicks from it on are scored.
        ends_ms: the end of the last hour that is scored.
        primed_places: where priming reads the log from.
        clicks: compared, those before the stream too. conversions: of them.
    """

    log: str
    starts_ms: int
    ends_ms: int
    primed_places: dict[str, Place]
    clicks: int
    conversions: int

    @property
    def hours(self) -> int:
        """Hours that are streamed."""
        return (self.ends_ms - self.starts_ms) // HOUR_MS


def plan_of(
    log: Path,
    settings: Settings,
    out: Path,
    *,
    pretrain_days: float | None,
    close_at_end: bool,
    tell: Callable[[int], object] = lambda records: None,
) -> Plan:
    """Reads the log once: finds every click's final label, and writes what the runs share; or takes up what is there.

    Args:
        log: directory of the log. settings: of all runs; the method in them does not matter. out: directory of the comparison.
        pretrain_days: length of the first part; None is half of the time from the first click to the last.
        close_at_end: the log is complete: label what is open at its end.
        tell: called with the number of batches read.

    Raises:
        ResultsError: `out` holds a comparison of other settings or another log, or there is nothing to compare.
    """
    identity = _identity(log)
    if all((out / name).exists() for name in (PLAN, CLICKS, INPUTS, OUTCOMES, SETTINGS)):
        return _taken_up(out, settings, identity)
    neutral = as_compared(settings, "mature", settings.network.seed)
    stream = Stream(log, neutral)
    outcomes: list[Example] = []
    places: list[tuple[int, dict[str, Place]]] = []  # by hour, how far had been read when it began
    for number, group in enumerate(stream.groups(close_at_end=close_at_end)):
        outcomes += group.outcomes
        if not places or group.at_ms // HOUR_MS > places[-1][0] // HOUR_MS:
            places.append((group.at_ms, stream.source.places()))
        tell(number)
    outcomes.sort(key=lambda example: (example.click_ms or 0, example.impression.impression_id))
    if not outcomes:
        raise ResultsError(
            f"{log} holds no click whose attribution window is over: nothing has a final label. Is the log longer than "
            "windows.attribution_window_ms? --close-at-end says that it is complete"
        )
    click_ms = np.array([example.click_ms for example in outcomes], np.int64)
    first_ms, last_ms = int(click_ms[0]), int(click_ms[-1])
    share_ms = (last_ms - first_ms) // 2 if pretrain_days is None else round(pretrain_days * 24 * HOUR_MS)
    starts_ms = (first_ms + share_ms) // HOUR_MS * HOUR_MS
    ends_ms = (last_ms // HOUR_MS + 1) * HOUR_MS
    if not first_ms < starts_ms < last_ms:
        raise ResultsError(
            f"--pretrain-days {pretrain_days} leaves nothing on one side: clicks with a final label span "
            f"{(last_ms - first_ms) / (24 * HOUR_MS):.2f} days"
        )
    windows = settings.windows
    primes_ms = starts_ms - windows.attribution_window_ms - windows.click_window_ms
    before = [read for at_ms, read in places if at_ms < primes_ms]
    plan = Plan(
        log=identity,
        starts_ms=starts_ms,
        ends_ms=ends_ms,
        primed_places=before[-1] if before else {},
        clicks=len(outcomes),
        conversions=sum(example.converted for example in outcomes),
    )
    _write(out, plan, settings, outcomes, click_ms)
    return plan


def _write(out: Path, plan: Plan, settings: Settings, outcomes: list[Example], click_ms: Int64) -> None:
    out.mkdir(parents=True, exist_ok=True)
    delay_ms = [
        -1 if example.conversion_ms is None or example.click_ms is None else example.conversion_ms - example.click_ms
        for example in outcomes
    ]
    label = np.array([example.converted for example in outcomes], np.float32)
    save_file(
        {"click_ms": click_ms, "label": label, "delay_ms": np.maximum(np.array(delay_ms, np.int64), -1)}, out / CLICKS
    )
    inputs = FeatureReader(settings.features).read([example.impression.features for example in outcomes])
    save_file(
        {"ids": inputs.ids, "bag_ids": inputs.bag_ids, "bag_offsets": inputs.bag_offsets, "numbers": inputs.numbers},
        out / INPUTS,
    )
    facts = [
        (example.impression.impression_id, example.impression.event_time_ms, example.conversion_ms, example.value)
        for example in outcomes
    ]
    (out / OUTCOMES).write_bytes(msgspec.msgpack.encode(facts))
    (out / SETTINGS).write_text(dump(settings), encoding="utf-8")
    partial = out / f"{PLAN}.partial"
    partial.write_bytes(msgspec.json.format(msgspec.json.encode(plan)))
    partial.replace(out / PLAN)  # last: where it stands, the others stand whole


def _taken_up(out: Path, settings: Settings, identity: str) -> Plan:
    with refusing(out / PLAN):
        plan = msgspec.json.decode((out / PLAN).read_bytes(), type=Plan)
    if plan.log != identity:
        raise ResultsError(f"{out} compares methods on another log: choose another --out, or remove it")
    there = parse((out / SETTINGS).read_text(encoding="utf-8"), source=str(out / SETTINGS))
    neutral = [
        msgspec.structs.replace(one, labels=msgspec.structs.replace(one.labels, method="mature"))
        for one in (there, settings)
    ]
    if other := differences(*neutral):
        raise ResultsError(
            f"{out} holds a comparison under other settings ({'; '.join(other)}): choose another --out, or remove it"
        )
    return plan


def read_inputs(out: Path) -> Inputs:
    """The features of the compared clicks, in the order of their times."""
    with refusing(out / INPUTS):
        return Inputs(**load_file(out / INPUTS))


def read_outcomes(out: Path) -> dict[tuple[str, int], Outcome]:
    """What finally became of each click, as method `oracle` looks it up."""
    with refusing(out / OUTCOMES):
        facts = msgspec.msgpack.decode(
            (out / OUTCOMES).read_bytes(), type=list[tuple[str, int, int | None, float | None]]
        )
    return {(name, at_ms): Outcome(conversion_ms, value) for name, at_ms, conversion_ms, value in facts}


def _identity(log: Path) -> str:
    files = sorted(path for path in log.rglob("*") if path.is_file() and path.suffix != ".toml")
    told = "\n".join(f"{path.relative_to(log).as_posix()} {path.stat().st_size}" for path in files)
    return hashlib.sha256(told.encode()).hexdigest()[:16]
