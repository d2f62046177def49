"""A run put together: a feed in, a run directory out. Must not know where the feed's records come from."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec
import torch

from models.delay import check_combination, method_of
from models.weights import Weights
from streaming.adapters.cut_directory import CutDirectory
from streaming.adapters.run_directory import RunDirectory, RunDirectoryError
from streaming.adapters.targets import Targets
from streaming.checkpoint import Cut
from streaming.crashing import CrashAt
from streaming.examples import Kind
from streaming.features import FeatureReader
from streaming.label import check_kinds
from streaming.metrics import SIDE_OUTPUTS
from streaming.pipeline import Pipeline
from streaming.ports import Feed, Output
from streaming.settings import Settings, SettingsError, dump
from streaming.target_choice import targets_of
from streaming.warm_start import COPY, forgotten_ids, in_words, kept

OUTPUTS = ("examples.jsonl.zst", "predictions.jsonl.zst", *(f"{door}.jsonl" for door in SIDE_OUTPUTS))


class Run:
    """A run directory, and the pipeline that fills it.

    Args:
        out: the run directory.
        settings: of the run.
        feed: the first half of the line.
        resume: go on from the newest cut in `out`, if there is one, instead of starting anew.
        environ: where `AFTERCLICK_CRASH_AT` is looked up, for tests: `n` or `n@k` kills this process before numbered step n of
            the k-th cut. Holds who asks Redis and the brokers, too.
        through: what outputs go through on their way to the directory.
        tell: is told, in words, what a person should look at: that a target of the weights is away, say.
        warm_start: reads published weights to begin with, see `warm_start.weights_named`; not called where a cut is gone on from.

    Raises:
        RunDirectoryError: `out` cannot be used.
        SettingsError: there is no such method or device, or a feature's path cannot be one; nothing was written.
        CutError: no cut can be resumed from, or it was written under other settings.
        TargetError: a target of the weights cannot be reached: a run begins only where it can be told from every other.
    """

    def __init__(
        self,
        out: Path,
        settings: Settings,
        feed: Feed,
        *,
        resume: bool,
        environ: Mapping[str, str] | None = None,
        through: Callable[[Output], Output] = lambda output: output,
        tell: Callable[[str], None] = lambda text: None,
        warm_start: Callable[[], Weights] | None = None,
    ) -> None:
        self.passed_over: list[str] = []
        """Damaged cuts that were passed over, and why."""
        self.resumed_at_ms: int | None = None
        """The watermark of the cut that is gone on from."""
        self.begun_with: list[str] = []
        """What it took over from published weights, in words."""
        refuse_unusable(settings)
        self._output = RunDirectory(out, OUTPUTS)
        self._targets: Targets | None = None
        was_fresh = self._output.is_fresh
        try:
            cuts = CutDirectory(out / "cuts", settings)
            cut, tensors = self._cut_to_resume(cuts) if resume else self._fresh()
            begun_from = kept(out, settings, warm_start) if cut is None else None
            self._output.cut_back({} if cut is None else cut.lengths)
            self._output.replace("settings.toml", dump(settings).encode())
            self._targets = targets_of(out, settings, environ or {}, tell=tell)
            self.pipeline = Pipeline(
                settings,
                feed=feed,
                output=through(self._output),
                cuts=cuts,
                publisher=self._targets,
                at_step=CrashAt(environ or {}),
                monotonic_ms=lambda: time.monotonic_ns() // 1_000_000,
            )
            if cut is not None:
                self.pipeline.restore(cut, tensors)
                self.resumed_at_ms = cut.at_ms
            elif begun_from is not None:
                taken = self.pipeline.begin_from(begun_from, forgotten_ids(begun_from, settings))
                self.begun_with = in_words(begun_from, taken, settings)
                self._output.replace(f"{COPY}/told.txt", ("\n".join(self.begun_with) + "\n").encode())
        except BaseException:
            if self._targets is not None:
                self._targets.close()
            if was_fresh:
                self._output.clear()  # so that the same command can be given again
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
        """Runs to the end; gives the number of records that went through, block by block."""
        # What is loaded by now (torch, above all) stays: collections need not look at it again and again.
        gc.freeze()
        try:
            self._write_run(close_at_end=close_at_end, is_finished=False)
            yield from self.pipeline.run(close_at_end=close_at_end)
            self._write_run(close_at_end=close_at_end, is_finished=True)
        finally:
            gc.unfreeze()
            if self._targets is not None:
                self._targets.close()
            self._output.close()

    def _write_run(self, *, close_at_end: bool, is_finished: bool) -> None:
        run = msgspec.json.encode({"close_at_end": close_at_end, "is_finished": is_finished})
        self._output.replace("run.json", msgspec.json.format(run))


def refuse_unusable(settings: Settings) -> None:
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
