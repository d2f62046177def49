"""Gathers all that a run, and its log, know about one impression; must not know how the run came to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from streaming.adapters.files import LogError, find_parts
from streaming.events import Conversion, EventDecoder, Impression, Malformed, RecordKind
from streaming.lab.durations import utc
from streaming.lab.explanation import Explanation, LoggedRecord, taught, timeline_of
from streaming.lab.raw_lines import raw_lines
from streaming.lab.sampling import decode_any
from streaming.ledger import BackfilledLine
from streaming.metrics import SIDE_OUTPUTS, RunMetrics
from streaming.outputs import ExampleLine, SideLine
from streaming.scoring import Prediction
from streaming.set_aside import SetAside
from streaming.settings import Settings, load

EXAMPLES, PREDICTIONS, BACKFILLED = "examples.jsonl.zst", "predictions.jsonl.zst", "backfilled.jsonl"

T = TypeVar("T")


class ExplainError(ValueError):
    """There is nothing to explain; the message names the run, the impression and where else to look."""


def explain(run: Path, impression_id: str, log: Path | None = None) -> Explanation:
    """What a run knows about an impression, and what its log holds of it.

    Args:
        run: a run directory (docs/formats.md).
        impression_id: which.
        log: the log the run was made from, to see the records themselves; None leaves it out.

    Raises:
        ExplainError: `run` is no run directory, one of its files cannot be read, or nothing in it mentions the impression.
        LogError: there is no log at `log`.
    """
    if not (run / EXAMPLES).is_file():
        raise ExplainError(
            f"RUN {run} holds no {EXAMPLES}: name the directory that `afterclick replay LOG --out RUN` wrote"
        )
    examples = [
        line for line in _lines(run / EXAMPLES, impression_id, ExampleLine) if line.impression_id == impression_id
    ]
    predictions = _lines(run / PREDICTIONS, impression_id, Prediction)
    prediction = next((line for line in predictions if line.impression_id == impression_id), None)
    side_outputs = [
        line
        for door in SIDE_OUTPUTS
        for line in _lines(run / f"{door}.jsonl", impression_id, SideLine)
        # The id of a dead letter may be unreadable; its text still mentions it.
        if line.impression_id == impression_id
        or (line.impression_id is None and f'"{impression_id}"' in (line.record or ""))
    ]
    backfilled = [
        line for line in _lines(run / BACKFILLED, impression_id, BackfilledLine) if line.impression_id == impression_id
    ]
    settings = load(run / "settings.toml", {}) if (run / "settings.toml").is_file() else Settings()
    logged = [] if log is None else list(_logged(log, impression_id, settings))
    metrics = _metrics(run)
    if not (examples or prediction or side_outputs or backfilled or logged):
        raise ExplainError(_unknown(run, impression_id, log, metrics))
    of_click = [line for line in examples if line.kind not in ("UNCLICKED", "CLICKED")]
    return Explanation(
        run=str(run),
        impression_id=impression_id,
        timeline=timeline_of(examples, prediction, side_outputs, logged),
        features=_features(logged, settings),
        logged=logged,
        prediction=prediction,
        examples=examples,
        side_outputs=side_outputs,
        backfilled=backfilled,
        positive_mass=sum(line.pos or 0.0 for line in of_click) + sum(line.pos for line in backfilled),
        negative_mass=sum(line.neg or 0.0 for line in of_click) + sum(line.neg for line in backfilled),
        notes=[*_notes(examples, logged, settings, metrics), *_rebuilt(run, impression_id)],
    )


def _notes(
    examples: list[ExampleLine], logged: list[LoggedRecord], settings: Settings, metrics: RunMetrics | None
) -> Iterator[str]:
    reached = None if metrics is None else metrics.watermark_ms
    so_far = "" if reached is None else f"; the run's watermark came to {utc(reached)}"
    click = next((line for line in examples if line.slot == "click"), None)
    shown = next((record for record in logged if record.kind == "impression"), None)
    if click is None and shown is not None:
        closes_ms = shown.event_time_ms + settings.windows.click_window_ms
        yield f"it has no example: its click window ends {utc(closes_ms)}{so_far}"
    if (
        click is not None
        and click.click_ms is not None
        and not {"settled", "outcome"} & {line.slot for line in examples}
    ):
        closes_ms = click.click_ms + settings.windows.attribution_window_ms
        yield f"its conversion label is not final: its attribution window ends {utc(closes_ms)}{so_far}"
    idle = sum(line.step is None and line.kind not in ("OUTCOME", "AGED") for line in examples)
    if examples and SetAside.of(settings.gate).has(examples[0].impression_id):
        yield "it is one of those that the gate judges by: nothing is learned of it"
    elif idle:
        yield f"examples that belong to no step, because their batch was refused: {idle}"


def _rebuilt(run: Path, impression_id: str) -> Iterator[str]:
    """What the newest model that was built anew was taught of it, if there is one."""
    newest = max(run.glob("rebuilt/*.jsonl.zst"), default=None)
    if newest is None:
        return
    lines = _lines(newest, impression_id, ExampleLine, head=1)
    rows = [line for line in lines if line.impression_id == impression_id]
    told = "; ".join(f"{line.kind}, {taught(line)}" for line in rows) or "nothing"
    yield f"the model was built anew since, in {newest.relative_to(run)}; of this impression it was taught there: {told}"


def _unknown(run: Path, impression_id: str, log: Path | None, metrics: RunMetrics | None) -> str:
    opened = (
        f" {metrics.open_impressions:,} impressions were still open when the run ended, and an open one without a click has no example yet;"
        if metrics is not None and metrics.open_impressions
        else ""
    )
    where = "pass the log to look there too" if log is None else f"LOG {log} does not hold it either"
    return f"IMPRESSION_ID {impression_id!r} is in no file of RUN {run}:{opened} {where}; or is it spelt otherwise in the log?"


def _metrics(run: Path) -> RunMetrics | None:
    try:
        return msgspec.json.decode((run / "metrics.json").read_bytes(), type=RunMetrics)
    except (OSError, msgspec.DecodeError):
        return None  # only said in passing: a run without figures can still be explained


def _features(logged: list[LoggedRecord], settings: Settings) -> dict[str, Any] | None:
    decoder = EventDecoder(RecordKind.IMPRESSION, settings.log.impressions)
    for record in logged:
        if record.kind == "impression":
            (event,) = decoder.decode([record.record.encode()])
            assert isinstance(event, Impression)
            features: dict[str, Any] = msgspec.json.decode(event.features)
            return features
    return None


def _logged(log: Path, impression_id: str, settings: Settings) -> Iterator[LoggedRecord]:
    for kind, paths in find_parts(log).items():
        decoder = EventDecoder(kind, getattr(settings.log, kind.stem))
        for path in paths:
            for number, line in _mentioning(path, impression_id):
                (event,) = decode_any(decoder, [line])
                if isinstance(event, Malformed) or event.impression_id != impression_id:
                    continue
                yield LoggedRecord(
                    kind=kind.name.lower(),
                    at=f"{path.relative_to(log)}:{number}",
                    event_time_ms=event.event_time_ms,
                    value=event.value if isinstance(event, Conversion) else None,
                    record=line.decode(),
                )


def _mentioning(path: Path, impression_id: str) -> Iterator[tuple[int, bytes]]:
    """The numbered lines that may carry an id; without decoding, which would take most of the time."""
    needle = impression_id.encode()
    # A writer of JSON may escape any of these; then every line is looked into.
    is_plain = impression_id.isascii() and not set(impression_id) & set("\"\\/<>&'")
    for block in raw_lines(path):
        for number, line in enumerate(block.lines, block.first_line):
            if line and (not is_plain or needle in line):
                yield number, line


def _lines(path: Path, impression_id: str, form: type[T], *, head: int = 0) -> Iterator[T]:
    """The lines of a form that may carry an id; `head` lines before them are of another."""
    if not path.is_file():
        return
    decode = msgspec.json.Decoder(form).decode
    try:
        for number, line in _mentioning(path, impression_id):
            try:
                if number > head:
                    yield decode(line)
            except msgspec.DecodeError as error:
                raise ExplainError(f"{path}:{number} is not as docs/formats.md has it: {error}") from error
    except LogError as error:
        raise ExplainError(str(error)) from error
