"""The small files of a run: its figures, and the records that taught nothing; must not know what a page looks like."""

from __future__ import annotations

from pathlib import Path

import msgspec

from streaming.metrics import SIDE_OUTPUTS, RunMetrics


class RunFilesError(ValueError):
    """A run directory cannot be read; the message names the file, the rule and what to do."""


class SideRecord(msgspec.Struct, frozen=True):
    """A line of a side output, as far as it could be read. `record` is what came in, base64 if it is not UTF-8."""

    kind: str = ""
    reason: str = ""
    at: str = ""
    record: str | None = None
    record_base64: str | None = None


def read_metrics(run: Path) -> RunMetrics:
    """The figures in `metrics.json`.

    Raises:
        RunFilesError: it is not there, no JSON of this structure, or of a later format.
    """
    path = run / "metrics.json"
    try:
        metrics = msgspec.json.decode(path.read_bytes(), type=RunMetrics)
    except FileNotFoundError:
        raise RunFilesError(
            f"{path} does not exist: name the directory that `afterclick replay LOG --out RUN` wrote"
        ) from None
    except (OSError, msgspec.DecodeError) as error:
        raise RunFilesError(f"{path} cannot be read: {error}") from error
    if metrics.format > RunMetrics().format:
        raise RunFilesError(
            f"{path} has format {metrics.format}, this version reads up to {RunMetrics().format}: upgrade afterclick"
        )
    return metrics


def sample_side_output(run: Path, door: str, counts: dict[str, int], *, limit: int = 5) -> dict[str, list[SideRecord]]:
    """The first records of each kind that left by a door, `limit` at most; reads no further than it must.

    Args:
        run: the run directory.
        door: one of `SIDE_OUTPUTS`.
        counts: kind -> records to be expected; of a kind that is not named nothing is taken.
        limit: records of a kind.
    """
    path = run / f"{door}.jsonl"
    found: dict[str, list[SideRecord]] = {kind: [] for kind, count in counts.items() if count > 0}
    missing = sum(min(limit, count) for count in counts.values() if count > 0)
    decoder = msgspec.json.Decoder(SideRecord)
    if missing and path.exists():
        with path.open("rb") as lines:
            for line in lines:
                try:
                    record = decoder.decode(line)
                except (msgspec.DecodeError, UnicodeDecodeError):
                    continue  # a line torn by a crash; the run cuts it back when it is taken up again
                if len(found.get(record.kind, found)) < limit and record.kind in found:
                    found[record.kind].append(record)
                    missing -= 1
                    if not missing:
                        break
    return found


def doors_of(metrics: RunMetrics) -> list[str]:
    """The doors in their order, and after them any that only the metrics name."""
    return list(dict.fromkeys([*SIDE_OUTPUTS, *metrics.side_outputs]))
