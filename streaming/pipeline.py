"""The line from source to publisher, readable top to bottom. Must not know which files, brokers or clocks are behind its ports.

The way of a click; `ingest.py` is the half before the batch, here or in a process of its own, and this module the half after it:

    bytes --decode--> Event --join--> JoinedImpression --label--> Example --collate--> Batch --learn--> StepReport --cut--> Weights
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import msgspec
import numpy as np
import torch

from models.batch import Batch, Event, Float64, Int64
from models.delay import method_of
from models.manifest import Manifest
from models.safeguards import Refusal
from models.trainer import Learner, Snapshot, StepReport
from models.warm_start import TakenOver, warm_started
from models.weights import Weights
from streaming.batching import Group, is_row
from streaming.between import Between
from streaming.calibrating import Calibrating
from streaming.checkpoint import Cut
from streaming.counting import count_taught, with_figures
from streaming.deliveries import IngestState
from streaming.examples import Examples, Kind
from streaming.issuing import Issuing
from streaming.metrics import IngestFigures, RunMetrics
from streaming.open_clicks import OpenClicks
from streaming.outputs import example_lines, prediction_lines, refused_batch_lines
from streaming.partitions import first_look_ms
from streaming.ports import CutStore, Feed, Output, Publisher
from streaming.scoring import Scoreboard
from streaming.settings import Settings


class RunEndedError(Exception):
    """The run ended itself: too many batches were refused. The message says why and what to do."""


class Pipeline:
    """What comes of the batches of a feed: it learns them, scores what it had predicted, writes, cuts and publishes.

    Args:
        settings: of the run.
        feed, output, cuts, publisher: the outside; see `ports`.
        at_step: called before each numbered step of a cut, for tests that crash there.
        monotonic_ms: processing time, for how often versions may be published between cuts; None if that is no matter.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        feed: Feed,
        output: Output,
        cuts: CutStore,
        publisher: Publisher,
        at_step: Callable[[int], None] = lambda number: None,
        monotonic_ms: Callable[[], int] | None = None,
    ) -> None:
        windows = settings.windows
        self._settings = settings
        self._feed, self._output, self._cuts, self._publisher = feed, output, cuts, publisher
        self._at_step = at_step
        self._learner = learner_of(settings)
        self._clicks = OpenClicks() if method_of(settings.labels.method).adjusts else None
        self._scoreboard = Scoreboard(
            click_window_ms=windows.click_window_ms, attribution_window_ms=windows.attribution_window_ms
        )
        self._calibrating = Calibrating(settings, self._learner.delays, looks_ms=first_look_ms(settings))
        self._issuing = Issuing(settings, self._learner, self._calibrating, publisher)
        self._between = Between(settings.publishing, monotonic_ms)
        self._counts = RunMetrics(weights_epoch=publisher.issue_epoch())
        self._figures = IngestFigures()
        self._offsets: dict[str, int] = {}  # of the last cut
        self.read_bytes = 0
        """Of the source, as far as it has been learned."""

    def run(self, *, close_at_end: bool = False) -> Iterator[int]:
        """Runs to the feed's end; gives the number of records that went through, delivery by delivery.

        Args:
            close_at_end: the log is complete: label what is still open instead of keeping it. Nothing can follow then.

        Raises:
            RunEndedError: `breaker_limit` batches were refused.
        """
        for delivery in self._feed.deliveries(close_at_end=close_at_end):
            for name, lines in delivery.lines:  # what left by a side door
                self._output.append(name, lines)
            self._figures, self.read_bytes = delivery.figures, delivery.read_bytes
            self._learn(delivery.groups)  # Batch -> StepReport
            if delivery.cut is not None:
                self._cut(delivery.cut)  # -> Weights
            else:
                self._publish_between()
            yield delivery.records
        # The half-filled batch that was left has been learned since the last cut. Whole: what a run leaves behind needs no other version.
        self._publish(snapshot=True)
        self._output.sync()
        self._write_metrics()

    def _learn(self, groups: Iterable[Group]) -> None:
        for examples, rows, collated, aged, matured, at_ms in groups:
            batch = collated if self._clicks is None else replace(collated, memory=self._clicks.recall(rows))
            report = self._learner.learn_many(batch, at_ms=at_ms)
            pcvr = self._calibrating.corrected(batch, report.pcvr)
            before = (self._scoreboard.outcomes, self._scoreboard.positive_outcomes)
            predictions = self._scoreboard.predict(*_scored(examples, report.pctr, pcvr))
            self._calibrating.on_batch(examples, rows, batch, report.pcvr, self._scoreboard)
            self._issuing.on_examples(examples)
            after = (self._scoreboard.outcomes, self._scoreboard.positive_outcomes)
            self._learner.observe_outcomes(after[0] - before[0], after[1] - before[1])
            is_learned = report.refusal is None
            positive, negative = _told_to(batch, report) if is_learned else (None, None)
            self._output.append("examples.jsonl.zst", example_lines(examples, positive, negative, report.step))
            self._output.append("predictions.jsonl.zst", prediction_lines(predictions))
            self._counts.last_loss = report.loss if is_learned else self._counts.last_loss
            count_taught(self._counts, batch, report)
            if self._clicks is not None and report.memory is not None:
                self._clicks.remember(rows, report.memory)
            elif self._clicks is not None:
                self._clicks.settle(rows)  # refused: what it was to settle, nothing settles later
            if report.refusal is None:
                self._learner.learn_delays(aged, at_ms=at_ms)
                if matured is not None:
                    self._learner.learn_matured(matured, at_ms=at_ms)
            else:
                self._refuse_batch(examples, report.refusal)

    def _cut(self, ingest: IngestState) -> None:
        """One consistent cut. What a crash costs, after each step: nothing; what was done since the last cut is done again, alike."""
        self._offsets = {name: place.line for name, place in ingest.places.items()}
        if ingest.watermark_ms is not None:
            self._calibrating.advance(ingest.watermark_ms)
        self._at_step(1)
        # 1. Output made durable. Crash: the files are longer than the cut that is resumed from says; they are cut back to it.
        lengths = self._output.sync()
        self._at_step(2)
        # 2. Weights published, with maps as of now. Crash: the resumed run learns the same bits again and publishes them under a new epoch.
        # So it is with versions that were published since the last cut: of a new epoch, the first version is a snapshot, and readers reload.
        self._publish()
        self._at_step(3)
        # 3. State written, under a name that nobody resumes from. Crash: the leftover is deleted by the next cut.
        self._counts.cuts += 1
        self._cuts.write(*self._snapshot(ingest, lengths))
        self._at_step(4)
        # 4. State renamed: from here on this cut is the one to resume from. Crash: metrics.json is a cut behind.
        self._cuts.commit()
        self._at_step(5)
        # 5. Figures written, for people. Nothing reads them back.
        self._write_metrics()

    def _publish_between(self) -> None:
        """A version between two cuts, if one is due."""
        versions, may_publish = self._between.due(self._figures.watermark_ms)
        if may_publish:
            self._counts.weights_version += versions - 1
            self._publish(at_cut=False)
        else:
            self._counts.weights_version += versions

    def _publish(self, *, snapshot: bool = False, at_cut: bool = True) -> None:
        if at_cut:
            self._counts.weights_version += self._between.passed(self._figures.watermark_ms)
        self._counts.weights_version += 1
        refused = self._issuing.issue(self._manifest(), self._figures, snapshot=snapshot, at_cut=at_cut)
        if refused is not None:
            counts = self._counts.refused_versions
            counts[refused] = counts.get(refused, 0) + 1

    def _manifest(self) -> Manifest:
        metrics = self.metrics()
        figures = {
            f"{task}.{name}": getattr(by_whose["model"], name)
            for task, by_whose in metrics.tasks.items()
            for name in ("calibration", "normalized_entropy", "auc")
            if "model" in by_whose
        }
        return Manifest(
            epoch=self._counts.weights_epoch,
            version=self._counts.weights_version,
            settings_hash=self._settings.hash,
            method=self._settings.labels.method,
            torch_version=str(torch.__version__),
            features=self._settings.features,
            network=self._settings.network,
            form=method_of(self._settings.labels.method).form,
            attribution_window_ms=self._settings.windows.attribution_window_ms,
            recalibrated_by=self._settings.recalibrating.field,
            watermark_ms=self._figures.watermark_ms,
            offsets=self._offsets,
            metrics=figures,
        )

    def _snapshot(self, ingest: IngestState, lengths: dict[str, int]) -> tuple[Cut, dict[str, torch.Tensor]]:
        learner = self._learner.snapshot()
        of_calibrating, recalibrated = self._calibrating.snapshot()
        cut = Cut(
            number=self._counts.cuts,
            ingest=ingest,
            scoreboard=self._scoreboard.snapshot(),
            clicks={} if self._clicks is None else self._clicks.snapshot(),
            recalibrated=recalibrated,
            learner=learner.state,
            counts=msgspec.to_builtins(with_figures(self._counts, ingest.figures)),
            lengths=lengths,
            weights_version=self._counts.weights_version,
            judged=self._issuing.snapshot(),
        )
        return cut, learner.tensors | {f"calibrating.{name}": tensor for name, tensor in of_calibrating.items()}

    def restore(self, cut: Cut, tensors: dict[str, torch.Tensor]) -> None:
        """Takes up where a cut was taken; the feed's source and the output must have been brought there."""
        self._feed.restore(cut.ingest)
        self._figures = cut.ingest.figures
        self._between.passed(self._figures.watermark_ms)
        self._offsets = {name: place.line for name, place in cut.ingest.places.items()}
        self._scoreboard.restore(cut.scoreboard)
        if self._clicks is not None:
            self._clicks.restore(cut.clicks)
        self._learner.restore(Snapshot(tensors, cut.learner))
        of_calibrating = {name.removeprefix("calibrating."): tensor for name, tensor in tensors.items()}
        self._calibrating.restore(of_calibrating, cut.recalibrated)
        self._issuing.restore(cut.judged)
        epoch = self._counts.weights_epoch
        self._counts = msgspec.convert(cut.counts | {"weights_epoch": epoch}, RunMetrics)

    def begin_from(self, weights: Weights, forgotten: Int64) -> TakenOver:
        """Starts from published weights, of other features perhaps, before anything is learned; see `models.warm_start`."""
        settings = self._settings
        started, taken = warm_started(
            self._learner.snapshot(),
            weights,
            settings.features,
            settings.network,
            initial_sum=settings.optimizer.embedding_initial_accumulator,
            forgotten=forgotten,
        )
        self._learner.restore(started)
        return taken

    def _refuse_batch(self, group: Examples, refusal: Refusal) -> None:
        refused = self._counts.refused_batches
        refused[refusal.reason] = refused.get(refusal.reason, 0) + 1
        total, limit = sum(refused.values()), self._settings.safeguards.breaker_limit
        self._output.append(f"batches_refused/{total:06d}.jsonl.zst", refused_batch_lines(group, refusal.says))
        if total >= limit:
            self._output.sync()
            raise RunEndedError(
                f"{total} batches were refused, safeguards.breaker_limit is {limit}; the last one because {refusal.says}. They are kept in "
                "batches_refused/. Look at what the stream carries, mend it or the settings, and start anew or --resume"
            )

    def metrics(self) -> RunMetrics:
        """The figures of the run so far, as a value that does not change with the run: another thread may read it."""
        figures = self._figures
        scored = self._scoreboard.metrics(figures.watermark_ms)
        return msgspec.structs.replace(
            with_figures(self._counts, figures),
            open_predictions=scored.open_predictions,
            steps=self._learner.step,
            kappa=self._learner.kappa,
            embedding_rows=self._learner.embedding_rows,
            tasks=scored.tasks,
            hours=scored.hours,
            early=self._calibrating.metrics(figures.watermark_ms),
            delay_edges_ms=scored.delay_edges_ms,
            delay_counts=scored.delay_counts,
        )

    def live_metrics(self) -> RunMetrics:
        """The same and how each target is doing: that counts since this start, and differs in a run that was killed and went on."""
        return msgspec.structs.replace(self.metrics(), targets=self._publisher.figures())

    def _write_metrics(self) -> None:
        self._output.replace("metrics.json", msgspec.json.format(msgspec.json.encode(self.metrics())))


def learner_of(settings: Settings) -> Learner:
    """A fresh learner of these settings."""
    return Learner(
        settings.features,
        network=settings.network,
        optimizer=settings.optimizer,
        safeguards=settings.safeguards,
        labels=settings.labels,
        observation_window_ms=settings.windows.observation_window_ms,
        attribution_window_ms=settings.windows.attribution_window_ms,
        batch_size=settings.batching.batch_size,
        kappa_half_life_ms=settings.batching.kappa_half_life_ms,
    )


def _told_to(batch: Batch, report: StepReport) -> tuple[Float64, Float64]:
    """The weights a+ and a- of each row, NaN where nothing was to be learned."""
    held_out = batch.events == Event.HELD_OUT
    return np.where(held_out, np.nan, report.positive), np.where(held_out, np.nan, report.negative)


def _scored(group: Examples, pctr: Float64, pcvr: Float64) -> tuple[Examples, Float64, Float64]:
    """The examples of a group that are scored, with their predictions; OUTCOMEs, which have one from before, get 0.5."""
    scored = group.kinds != Kind.AGED
    wide = np.full((2, len(group)), 0.5)
    wide[:, is_row(group)] = pctr, pcvr
    return group.where(scored), *wide[:, scored]
