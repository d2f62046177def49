"""A replay put together: log files in, a run directory out. With the command line the only place that picks adapters."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path

import msgspec
import torch

from models.delay import check_combination, method_of
from streaming.adapters.cut_directory import CutDirectory
from streaming.adapters.directory import DirectoryPublisher
from streaming.adapters.files import BLOCK_BYTES, find_parts, read_lines
from streaming.adapters.pace import Paced
from streaming.adapters.run_directory import RunDirectory, RunDirectoryError
from streaming.arrivals import ArrivalOrder, Arrivals
from streaming.checkpoint import Cut
from streaming.events import EventDecoder, RecordKind
from streaming.examples import Kind
from streaming.features import FeatureReader
from streaming.ingest import Ingest, find_outcomes
from streaming.label import Outcome, check_kinds
from streaming.log_file import Lines, LogFile, Place
from streaming.metrics import SIDE_OUTPUTS
from streaming.pipeline import Pipeline
from streaming.settings import Settings, SettingsError, dump

OUTPUTS = ("examples.jsonl.zst", "predictions.jsonl.zst", *(f"{door}.jsonl" for door in SIDE_OUTPUTS))


class LogSource:
    """The files of a log as a source.

    Args:
        log: its directory. settings: how records are read.
        places: where each file, by its name relative to the log, was read to; missing is its start.
        block_bytes: read at a time; small blocks suit a replay in real time, large ones a fast one.

    Raises:
        LogError: there is no log at `log`.
    """

    def __init__(
        self,
        log: Path,
        settings: Settings,
        places: Mapping[str, Place] | None = None,
        *,
        block_bytes: int = BLOCK_BYTES,
    ) -> None:
        fields = {
            RecordKind.IMPRESSION: settings.log.impressions,
            RecordKind.CLICK: settings.log.clicks,
            RecordKind.CONVERSION: settings.log.conversions,
        }
        self._files: list[LogFile] = []
        self._lines: list[Generator[Lines, None, None]] = []
        self.size_bytes: int | None = 0
        for kind, parts in find_parts(log).items():
            for path in parts:
                name = path.relative_to(log).as_posix()
                place = (places or {}).get(name, Place())
                decoder = EventDecoder(kind, fields[kind])
                lines = read_lines(path, place, block_bytes)
                self._lines.append(lines)
                self._files.append(LogFile(name, kind, decoder, lines, place))
                is_plain = path.name.endswith(".jsonl")
                self.size_bytes = (
                    self.size_bytes + path.stat().st_size if is_plain and self.size_bytes is not None else None
                )
        self._order = ArrivalOrder(
            self._files,
            out_of_orderness_ms=settings.event_time.out_of_orderness_ms,
            future_skew_ms=settings.event_time.future_skew_ms,
            leads_ms={
                RecordKind.IMPRESSION: 0,
                RecordKind.CLICK: settings.windows.click_window_ms,
                RecordKind.CONVERSION: settings.windows.attribution_window_ms,
            },
        )

    def __iter__(self) -> Iterator[Arrivals]:
        return iter(self._order)

    @property
    def read_bytes(self) -> int:
        """Bytes handed on, unpacked; `size_bytes` is the most it can be, None where that cannot be known beforehand."""
        return sum(file.place.start for file in self._files)

    @property
    def partitions(self) -> tuple[int, ...]:
        """Plain files are one."""
        return (0,)

    def places(self) -> dict[str, Place]:
        """How far each file was handed on."""
        return {file.name: file.place for file in self._files}

    def snapshot(self) -> None:
        """Nothing: the places say it all."""

    def close(self) -> None:
        """Lets go of the files, read to their ends or not."""
        for lines in self._lines:
            lines.close()


class Replay:
    """A log replayed into a run directory.

    Args:
        log: directory of the log. out: the run directory.
        settings: of the run.
        resume: go on from the newest cut in `out` instead of starting anew.
        speed: event time that passes in a second of processing time, in seconds; None is as fast as can be.
        environ: where `AFTERCLICK_CRASH_AT` is looked up, for tests: `n` or `n@k` kills this process before numbered step n of
            the k-th cut.

    Raises:
        LogError: the log cannot be read. RunDirectoryError: `out` cannot be used.
        SettingsError: there is no such method or device, or a feature's path cannot be one; nothing was written.
        CutError: no cut can be resumed from, or it was written under other settings.
    """

    def __init__(
        self,
        log: Path,
        out: Path,
        settings: Settings,
        *,
        resume: bool = False,
        speed: float | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.passed_over: list[str] = []
        """Damaged cuts that were passed over, and why."""
        self.resumed_at_ms: int | None = None
        _refuse_unusable(settings)
        block_bytes = BLOCK_BYTES if speed is None else 4096
        self.source = LogSource(log, settings, block_bytes=block_bytes)
        self._output = RunDirectory(out, OUTPUTS)
        try:
            cuts = CutDirectory(out / "cuts", settings)
            cut, tensors = self._cut_to_resume(cuts) if resume else self._fresh()
            self._output.cut_back({} if cut is None else cut.lengths)
            self._output.replace("settings.toml", dump(settings).encode())
            if cut is not None:
                self.source = LogSource(log, settings, cut.ingest.places, block_bytes=block_bytes)
                self.resumed_at_ms = cut.at_ms
            outcomes: dict[tuple[str, int], Outcome] | None = None
            if settings.labels.method == "oracle":
                outcomes = find_outcomes(LogSource(log, settings), settings)
            source = self.source if speed is None else Paced(self.source, speed)
            self.pipeline = Pipeline(
                settings,
                feed=Ingest(settings, source, outcomes),
                output=self._output,
                cuts=cuts,
                publisher=DirectoryPublisher(out / "weights", versions_kept=settings.cuts.versions_kept),
                at_step=CrashAt(environ or {}),
            )
            if cut is not None:
                self.pipeline.restore(cut, tensors)
        except BaseException:
            self._output.close()
            raise

    def _cut_to_resume(self, cuts: CutDirectory) -> tuple[Cut | None, dict[str, torch.Tensor]]:
        cut, tensors, self.passed_over = cuts.newest()
        if cut is not None and cut.ingest.is_closed:
            out = self._output.path
            raise RunDirectoryError(
                f"--out {out} holds a run that was closed with --close-at-end: nothing can follow it"
            )
        return cut, tensors

    def _fresh(self) -> tuple[None, dict[str, torch.Tensor]]:
        if not self._output.is_fresh:
            raise RunDirectoryError(
                f"--out {self._output.path} is not empty: go on with --resume, or choose another directory"
            )
        return None, {}

    def run(self, *, close_at_end: bool = False) -> Iterator[int]:
        """Replays to the end; gives the number of records that went through, block by block."""
        # What is loaded by now (torch, above all) stays: collections need not look at it again and again.
        gc.freeze()
        try:
            self._write_run(close_at_end=close_at_end, is_finished=False)
            yield from self.pipeline.run(close_at_end=close_at_end)
            self._write_run(close_at_end=close_at_end, is_finished=True)
        finally:
            gc.unfreeze()
            self.source.close()
            self._output.close()

    def _write_run(self, *, close_at_end: bool, is_finished: bool) -> None:
        run = msgspec.json.encode({"close_at_end": close_at_end, "is_finished": is_finished})
        self._output.replace("run.json", msgspec.json.format(run))


def _refuse_unusable(settings: Settings) -> None:
    """Refuses what only rooms further down can tell to be wrong, before anything is written."""
    labels = settings.labels
    try:
        check_combination(
            labels.method,
            objective=settings.network.objective,
            normalization=labels.normalization,
            delay_model=labels.delay_model,
        )
        check_kinds(map(Kind, method_of(labels.method).sees))
    except ValueError as error:
        raise SettingsError(str(error)) from error
    try:
        FeatureReader(settings.features)
    except ValueError as error:
        raise SettingsError(f"features: {error}") from error
    try:
        torch.empty(0, device=settings.network.device)
    except (RuntimeError, AssertionError) as error:  # torch says by an assertion that it was built without one
        why = str(error).splitlines()[0]
        raise SettingsError(
            f"network.device must be one that torch finds here, cpu say (got {settings.network.device!r}): {why}"
        ) from error


class CrashAt:
    """Kills this process, as `kill -9` would, at a numbered step of a cut."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        step, _, occurrence = environ.get("AFTERCLICK_CRASH_AT", "").partition("@")
        self._step = int(step) if step else None
        self._left = int(occurrence or 1)

    def __call__(self, number: int) -> None:
        """Dies here if it is this step's turn."""
        if number == self._step:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
