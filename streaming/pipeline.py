"""The line from source to publisher, readable top to bottom. Must not know which files, brokers or clocks are behind its ports.

The way of a click:

    bytes --decode--> Event --join--> JoinedImpression --label--> Example --collate--> Batch --learn--> StepReport --cut--> Weights
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import chain

import msgspec
import numpy as np
import torch

from models.batch import Float64
from models.delay import method_of
from models.manifest import Manifest
from models.safeguards import Refusal
from models.trainer import Learner, Snapshot
from models.weights import Weights, encode
from streaming.arrivals import Arrivals
from streaming.batching import Batcher, collate, collate_aged, collate_matured, is_row
from streaming.calibrating import Calibrating
from streaming.checkpoint import Cut
from streaming.counting import copy_counts, count_arrivals, count_leaving, count_taught
from streaming.examples import Examples, Kind, Slot
from streaming.features import FeatureReader
from streaming.join import Join
from streaming.joined import Side, Windows
from streaming.label import Outcome, Policy
from streaming.log_file import Place
from streaming.metrics import RunMetrics
from streaming.open_clicks import OpenClicks
from streaming.outputs import door_of, example_lines, prediction_lines, refused_batch_lines, refused_line, side_line
from streaming.ports import CutStore, Output, Publisher, Source
from streaming.scoring import Scoreboard
from streaming.settings import Settings

HOUR_MS = 3_600_000


class RunEndedError(Exception):
    """The run ended itself: too many batches were refused. The message says why and what to do."""


class Pipeline:
    """One join partition, from its source to its publisher, in one process.

    Args:
        settings: of the run.
        source, output, cuts, publisher: the outside; see `ports`.
        outcomes: method `oracle` only: what a first pass over the same log found.
        at_step: called before each numbered step of a cut, for tests that crash there.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        source: Source,
        output: Output,
        cuts: CutStore,
        publisher: Publisher,
        outcomes: Mapping[tuple[str, int], Outcome] | None = None,
        at_step: Callable[[int], None] = lambda number: None,
    ) -> None:
        windows, batching = settings.windows, settings.batching
        self._settings = settings
        self._source, self._output, self._cuts, self._publisher = source, output, cuts, publisher
        self._at_step = at_step
        self._policy = policy_of(settings, outcomes)
        self._join = Join(join_windows(settings), self._policy.schedule)
        self._batcher = Batcher(batch_size=batching.batch_size, batch_interval_ms=batching.batch_interval_ms)
        self._reader = FeatureReader(settings.features)
        self._learner = learner_of(settings)
        self._clicks = OpenClicks() if method_of(settings.labels.method).adjusts else None
        self._scoreboard = Scoreboard(
            click_window_ms=windows.click_window_ms, attribution_window_ms=windows.attribution_window_ms
        )
        looks_ms = dict(self._policy.schedule.after_click_ms).get(Slot.OBSERVED)
        self._calibrating = Calibrating(settings, self._learner.delays, looks_ms=looks_ms)
        self._counts = RunMetrics(weights_epoch=publisher.issue_epoch())
        self._watermark_ms: int | None = None
        self._is_changed = False  # since the last cut
        self._cut_places: dict[str, Place] | None = None  # how far the files had been read at it
        self._is_closed = False

    def run(self, *, close_at_end: bool = False) -> Iterator[int]:
        """Reads the source to its end; gives the number of records that went through, block by block.

        Args:
            close_at_end: the log is complete: label what is still open instead of keeping it. Nothing can follow then.

        Raises:
            RunEndedError: `breaker_limit` batches were refused.
        """
        for arrivals in self._source:  # bytes -> Event, in arrival order
            count_arrivals(self._counts, arrivals)
            self._write_refused(arrivals)
            self._join.on_arrivals(arrivals)
            if arrivals.watermark_ms is not None:
                for watermark_ms, is_cut in self._stops(arrivals, arrivals.watermark_ms):
                    self._advance(watermark_ms, is_halt=is_cut)
                    if is_cut and self._is_changed:
                        self._cut()
            yield len(arrivals.times) + len(arrivals.refused)
        if close_at_end:
            self._is_closed = True
            self._advance(self._closing_ms())
        # What is open stays in the last cut, a half-filled batch too, for a log that follows; the figures and weights that this
        # run leaves behind have learned that batch.
        if self._is_changed or self._is_closed or dict(self._source.places()) != self._cut_places:
            self._cut()
        self._learn(self._batcher.flush())
        self._publish()
        self._output.sync()
        self._write_metrics()

    def _closing_ms(self) -> int:
        """A watermark by which everything is due that has been read, and every hour complete."""
        windows = self._settings.windows
        longest_ms = windows.click_window_ms + windows.attribution_window_ms + self._settings.orphan_hold_ms + HOUR_MS
        return max(self._watermark_ms or 0, (self._counts.max_event_time_ms or 0) + longest_ms + 1)

    def _advance(self, watermark_ms: int, *, is_halt: bool = False) -> None:
        """The way of every record, once the watermark has passed it."""
        dues, sides = self._join.on_watermark(watermark_ms, is_halt=is_halt)  # Event -> JoinedImpression
        self._write_sides(sides)
        examples = self._policy.on_due(dues)  # -> Example
        count_leaving(self._counts, examples, sides)
        groups = chain(self._batcher.on_examples(examples), self._batcher.on_watermark(watermark_ms))
        self._learn(groups)  # -> Batch -> StepReport
        self._watermark_ms = watermark_ms
        self._is_changed = self._is_changed or len(dues) > 0 or bool(sides)

    def _learn(self, groups: Iterator[Examples]) -> None:
        for group in groups:
            at_ms = int(group.due_ms[-1])
            rows = group.where(is_row(group))
            batch = collate(rows, self._reader, self._clicks)
            report = self._learner.learn_many(batch, at_ms=at_ms)
            pcvr = self._calibrating.corrected(batch, report.pcvr)
            before = (self._scoreboard.outcomes, self._scoreboard.positive_outcomes)
            predictions = self._scoreboard.predict(*_scored(group, report.pctr, pcvr))
            self._calibrating.on_batch(group, rows, batch, report.pcvr, self._scoreboard)
            after = (self._scoreboard.outcomes, self._scoreboard.positive_outcomes)
            self._learner.observe_outcomes(after[0] - before[0], after[1] - before[1])
            is_learned = report.refusal is None
            positive, negative = (report.positive, report.negative) if is_learned else (None, None)
            self._output.append("examples.jsonl.zst", example_lines(group, positive, negative, report.step))
            self._output.append("predictions.jsonl.zst", prediction_lines(predictions))
            self._counts.last_loss = report.loss if is_learned else self._counts.last_loss
            count_taught(self._counts, batch, report)
            if self._clicks is not None and report.memory is not None:
                self._clicks.remember(rows, report.memory)
            elif self._clicks is not None:
                self._clicks.settle(rows)  # refused: what it was to settle, nothing settles later
            if report.refusal is None:
                aged = collate_aged(group.of_kind(Kind.AGED), self._reader, self._policy.edges_ms)
                self._learner.learn_delays(aged, at_ms=at_ms)
                if (window_ms := self._learner.heads_window_ms) is not None:
                    matured = collate_matured(group.of_kind(Kind.OUTCOME), self._reader, window_ms)
                    self._learner.learn_matured(matured, at_ms=at_ms)
            else:
                self._refuse_batch(group, report.refusal)

    def _cut(self) -> None:
        """One consistent cut. What a crash costs, after each step: nothing; what was done since the last cut is done again, alike."""
        if self._watermark_ms is not None:
            self._calibrating.advance(self._watermark_ms)
        self._at_step(1)
        # 1. Output made durable. Crash: the files are longer than the cut that is resumed from says; they are cut back to it.
        lengths = self._output.sync()
        self._at_step(2)
        # 2. Weights published, with maps as of now. Crash: the resumed run learns the same bits again and publishes them under a new epoch.
        self._publish()
        self._at_step(3)
        # 3. State written, under a name that nobody resumes from. Crash: the leftover is deleted by the next cut.
        self._counts.cuts += 1
        self._is_changed = False
        self._cuts.write(*self._snapshot(lengths))
        self._at_step(4)
        # 4. State renamed: from here on this cut is the one to resume from. Crash: metrics.json is a cut behind.
        self._cuts.commit()
        self._at_step(5)
        # 5. Figures written, for people. Nothing reads them back.
        self._write_metrics()

    def _publish(self) -> None:
        self._counts.weights_version += 1
        metrics = self.metrics()
        figures = {
            f"{task}.{name}": getattr(by_whose["model"], name)
            for task, by_whose in metrics.tasks.items()
            for name in ("calibration", "normalized_entropy", "auc")
            if "model" in by_whose
        }
        manifest = Manifest(
            epoch=self._counts.weights_epoch,
            version=self._counts.weights_version,
            settings_hash=self._settings.hash,
            method=self._settings.labels.method,
            torch_version=str(torch.__version__),
            features=self._settings.features,
            network=self._settings.network,
            watermark_ms=self._watermark_ms,
            offsets={name: place.line for name, place in self._source.places().items()},
            metrics=figures,
        )
        self._publisher.publish(encode(Weights(manifest, self._learner.published() | self._calibrating.published())))

    def _snapshot(self, lengths: dict[str, int]) -> tuple[Cut, dict[str, torch.Tensor]]:
        learner = self._learner.snapshot()
        of_calibrating, recalibrated = self._calibrating.snapshot()
        self._cut_places = dict(self._source.places())
        cut = Cut(
            number=self._counts.cuts,
            at_ms=self._watermark_ms,
            places=self._cut_places,
            join=self._join.snapshot(),
            batch=self._batcher.snapshot(),
            scoreboard=self._scoreboard.snapshot(),
            clicks={} if self._clicks is None else self._clicks.snapshot(),
            recalibrated=recalibrated,
            learner=learner.state,
            counts=msgspec.to_builtins(msgspec.structs.replace(self._counts, feature_faults=dict(self._reader.faults))),
            lengths=lengths,
            weights_version=self._counts.weights_version,
            is_closed=self._is_closed,
        )
        return cut, learner.tensors | {f"calibrating.{name}": tensor for name, tensor in of_calibrating.items()}

    def restore(self, cut: Cut, tensors: dict[str, torch.Tensor]) -> None:
        """Takes up where a cut was taken; source and output must have been brought there."""
        self._join.restore(cut.join)
        self._batcher.restore(cut.batch)
        self._scoreboard.restore(cut.scoreboard)
        if self._clicks is not None:
            self._clicks.restore(cut.clicks)
        self._learner.restore(Snapshot(tensors, cut.learner))
        of_calibrating = {name.removeprefix("calibrating."): tensor for name, tensor in tensors.items()}
        self._calibrating.restore(of_calibrating, cut.recalibrated)
        epoch = self._counts.weights_epoch
        self._counts = msgspec.convert(cut.counts | {"weights_epoch": epoch}, RunMetrics)
        self._reader.faults.update(self._counts.feature_faults)
        self._watermark_ms = cut.at_ms
        self._cut_places = cut.places

    def _stops(self, arrivals: Arrivals, watermark_ms: int) -> Iterator[tuple[int, bool]]:
        """The watermarks to halt at on the way to a new one, and whether a cut is due there: multiples of `cut_interval_ms` by
        which something happened, and the end.
        """
        reached_ms, interval_ms = self._watermark_ms, self._settings.cuts.cut_interval_ms
        if reached_ms is None:
            reached_ms = int(arrivals.watermarks[0]) if len(arrivals.times) else watermark_ms
        while True:
            if not self._is_changed:  # a log may have gaps of years, and the interval may be a millisecond
                next_ms = self._join.next_ms
                reached_ms = watermark_ms if next_ms is None else max(reached_ms, next_ms)
            reached_ms = (reached_ms // interval_ms + 1) * interval_ms
            if reached_ms > watermark_ms:
                break
            yield reached_ms, True
        yield watermark_ms, False

    def _write_refused(self, arrivals: Arrivals) -> None:
        for refused in arrivals.refused:
            self._output.append(f"{door_of(refused)}.jsonl", refused_line(refused))

    def _write_sides(self, sides: list[Side]) -> None:
        for side in sides:
            self._output.append(f"{side.door}.jsonl", side_line(side))

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
        scored = self._scoreboard.metrics(self._watermark_ms)
        return msgspec.structs.replace(
            copy_counts(self._counts),
            watermark_ms=self._watermark_ms,
            feature_faults=dict(self._reader.faults),
            open_impressions=self._join.open_impressions,
            open_clicks=self._join.open_clicks,
            remembered_impressions=self._join.remembered_impressions,
            pending_records=self._join.pending_records,
            held_facts=self._join.held_facts,
            open_predictions=scored.open_predictions,
            steps=self._learner.step,
            kappa=self._learner.kappa,
            embedding_rows=self._learner.embedding_rows,
            tasks=scored.tasks,
            hours=scored.hours,
            early=self._calibrating.metrics(self._watermark_ms),
            delay_edges_ms=scored.delay_edges_ms,
            delay_counts=scored.delay_counts,
        )

    def _write_metrics(self) -> None:
        self._output.replace("metrics.json", msgspec.json.format(msgspec.json.encode(self.metrics())))


def join_windows(settings: Settings) -> Windows:
    """How long things may take, as the join wants it said."""
    return Windows(
        click_ms=settings.windows.click_window_ms,
        attribution_ms=settings.windows.attribution_window_ms,
        clock_skew_ms=settings.event_time.clock_skew_ms,
        orphan_hold_ms=settings.orphan_hold_ms,
    )


def policy_of(settings: Settings, outcomes: Mapping[tuple[str, int], Outcome] | None = None) -> Policy:
    """The labelling policy of these settings; `outcomes` for method `oracle` alone."""
    method, windows = method_of(settings.labels.method), settings.windows
    return Policy(
        map(Kind, method.sees),
        p=0,
        observation_window_ms=0 if method.observes_at_click else windows.observation_window_ms,
        attribution_window_ms=windows.attribution_window_ms,
        horizons=settings.labels.horizons,
        outcomes=outcomes,
    )


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


def find_outcomes(source: Source, settings: Settings) -> dict[tuple[str, int], Outcome]:
    """What finally became of each click whose attribution window the log covers: the first pass for method `oracle`."""
    windows = settings.windows
    policy = Policy(
        (),
        p=0,
        observation_window_ms=windows.observation_window_ms,
        attribution_window_ms=windows.attribution_window_ms,
    )
    join = Join(join_windows(settings), policy.schedule)
    outcomes: dict[tuple[str, int], Outcome] = {}
    for arrivals in source:
        join.on_arrivals(arrivals)
        if arrivals.watermark_ms is not None:
            for example in policy.on_due(join.on_watermark(arrivals.watermark_ms)[0]):
                if example.kind == Kind.OUTCOME:
                    impression = example.impression
                    outcomes[impression.impression_id, impression.event_time_ms] = Outcome(
                        example.conversion_ms, example.value
                    )
    return outcomes


def _scored(group: Examples, pctr: Float64, pcvr: Float64) -> tuple[Examples, Float64, Float64]:
    """The examples of a group that are scored, with their predictions; OUTCOMEs, which have one from before, get 0.5."""
    scored = group.kinds != Kind.AGED
    wide = np.full((2, len(group)), 0.5)
    wide[:, is_row(group)] = pctr, pcvr
    return group.where(scored), *wide[:, scored]
