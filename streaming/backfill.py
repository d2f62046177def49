"""Late events taught after all, or a model built anew from a run's labels. Must not know how a learner learns or how a cut is written."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from models.loss import objective_of
from models.trainer import Snapshot
from models.weighted import Weighted
from streaming.adapters.log_features import ImpressionKey, features_of
from streaming.batching import decode_examples
from streaming.corrections import Correction, correction
from streaming.features import FeatureReader
from streaming.late_facts import Truth, read_late, truths_of
from streaming.ledger import Account, BackfilledLine, Ledger, RebuiltHead
from streaming.open_clicks import OpenClick
from streaming.outputs import ExampleLine
from streaming.rebuild import OpenKeys, Rebuilding, rows_of
from streaming.set_aside import SetAside
from streaming.standing_run import BackfillError, StandingRun, check_method

EXAMPLES, BACKFILLED, REBUILT = "examples.jsonl.zst", "backfilled.jsonl", "rebuilt/"
DAY_MS = 86_400_000


class BackfillReport(msgspec.Struct, kw_only=True):
    """What a backfill came to.

    Args:
        clicks: impressions that were taught the click that came late.
        labels: clicks that were taught their final label, for a conversion that came late or because the click itself did.
        impressions: impressions that came late, and were taught that nobody clicked.
        waiting: impressions with late facts whose labels may still change, or are still to be taught by the stream itself.
        without_features: impressions that LOG does not hold; they were not taught.
        clicks_on_time: CLICKED examples of the run, to hold `clicks` against.
        rows: kind -> rows of a rebuilt model. from_ms: due time from which on it looked back; None where none was built.
        steps: gradient steps. refused: reason -> rows of batches that were not learned.
        cut, weights_version: the new ones; None if nothing was to be done, and nothing was changed.
        passed_over: damaged cuts that were passed over, and why.
    """

    clicks: int = 0
    labels: int = 0
    impressions: int = 0
    waiting: int = 0
    without_features: int = 0
    clicks_on_time: int = 0
    rows: dict[str, int] = {}
    from_ms: int | None = None
    steps: int = 0
    refused: dict[str, int] = {}
    cut: int | None = None
    weights_version: int | None = None
    passed_over: list[str] = []


class Backfill:
    """What came late in a run that stands still, beside what its model was taught.

    Args:
        run: held by its caller. log: the log it was made from, for features.

    Raises:
        BackfillError: the labels of the run's method cannot be taken back.
        RunDirectoryError: a file of the run cannot be read up to its cut.
    """

    def __init__(self, run: StandingRun, log: Path) -> None:
        check_method(run)
        self._run, self._log, self._settings = run, log, run.settings
        self._report = BackfillReport(
            clicks_on_time=run.cut.counts["examples"].get("CLICKED", 0), passed_over=run.passed_over
        )
        self._rebuilds = sum(name.startswith(REBUILT) for name in run.cut.lengths)
        self._reach_ms: int | None = None
        """Labels that were due up to here the model has not been taught: it was built anew after them."""
        self._known = self._read()

    def _read(self) -> dict[ImpressionKey, tuple[Account, Truth]]:
        """What is known of the impressions that late records are about, in order of their time; of those that the stream has told all."""
        run = self._run
        late = read_late(run.lines("late.jsonl"), run.lines("orphans.jsonl"), self._settings.log)
        ledger = Ledger(late.keys())
        examples = backfilled = 0
        if self._rebuilds:
            name = f"{REBUILT}{self._rebuilds:06d}.jsonl.zst"
            rebuilt = run.lines(name)
            head = msgspec.json.decode(next(rebuilt), type=RebuiltHead)
            self._reach_ms, examples, backfilled = head.from_ms, head.examples_bytes, head.backfilled_bytes
            ledger.on_examples(run.lines(EXAMPLES, 0, examples), is_taught=False)
            ledger.on_backfilled(run.lines(BACKFILLED, 0, backfilled), is_taught=False)
            ledger.on_rebuilt(rebuilt)
        ledger.on_examples(run.lines(EXAMPLES, examples))
        ledger.on_backfilled(run.lines(BACKFILLED, backfilled))
        held = {
            (example.impression.impression_id, example.impression.event_time_ms)
            for example in decode_examples(run.cut.ingest.batch)
        }
        self._report.waiting = sum(name in late for name, _ in held)
        known: dict[ImpressionKey, tuple[Account, Truth]] = {}
        for name, facts in late.items():
            for account, truth in truths_of(facts, ledger.accounts.get(name, {}), self._settings, at_ms=run.at_ms):
                key = name, account.impression_ms
                if key not in held and (truth.at or account.is_amended):
                    known[key] = account, truth
                    is_open = not truth.is_click_final or (truth.click_ms is not None and not truth.is_label_final)
                    self._report.waiting += is_open
        return dict(sorted(known.items(), key=lambda item: (item[0][1], item[0][0])))

    def teach_late(self) -> BackfillReport:
        """Teaches what came late and was not taught yet, and takes back the wrong labels. Done twice, it changes nothing.

        Every impression is taught in one step, in batches by the time of the impressions. A conversion label is taught on clicks alone, whatever
        the objective: the unclicked impressions that would stand beside it in a product loss are not here.

        Raises:
            LogError: there is no log, or it cannot be read.
            CutError, DirectoryError, RunDirectoryError, RunEndedError: see `StandingRun.hand_over`.
        """
        run, network = self._run, self._settings.network
        learner = run.fresh_learner()
        learner.restore(run.learner_snapshot)
        objective = objective_of(network.objective, composed_weight=network.composed_weight)
        kappa = learner.kappa if objective.counts_unclicked else 0.0
        aside = SetAside.of(self._settings.gate)
        planned = {
            key: found
            for key, (account, truth) in self._known.items()
            if not aside.has(key[0]) and (found := self._correction(account, truth, kappa))
        }
        features = self._features(planned)
        self._report.without_features = len(planned) - len(features)
        if not any(self._known[key][1].logged is None for key in features):
            self._refuse_other_log(planned)
        rows = [(key, found) for key, found in planned.items() if key in features]
        reader, size, lines = FeatureReader(self._settings.features), self._settings.batching.batch_size, []
        for start in range(0, len(rows), size):
            group = rows[start : start + size]
            weighted = _weighted([found for _, found in group])
            refusal = learner.teach_many(reader.read([features[key] for key, _ in group]), weighted)
            if refusal is not None:
                self._report.refused[refusal.reason] = self._report.refused.get(refusal.reason, 0) + len(group)
                continue
            self._report.steps += 1
            lines += [self._line(key, found, learner.step) for key, found in group]
            for _, found in group:
                self._count(found)
        if lines:
            run.append(BACKFILLED, [msgspec.json.Encoder().encode_lines(lines)])
            self._hand_over(learner.snapshot())
        return self._report

    def rebuild(self, days: float) -> BackfillReport:
        """Builds the model anew over the labels that were due in the last days, late facts among them, and hands it over to the stream.

        The delay model, kappa, traffic and the rate of OUTCOMEs stay as they are: they belong to the stream. Steps are counted on.
        Recalibration begins anew: its maps are of the model that there was.

        Args:
            days: how far to look back from the cut's watermark.

        Raises:
            BackfillError: no label was due in that time, LOG does not hold the impressions, or no batch could be learned.
            LogError: there is no log, or it cannot be read.
            CutError, DirectoryError, RunDirectoryError, RunEndedError: see `StandingRun.hand_over`.
        """
        if not days > 0:
            raise BackfillError(f"--rebuild-days must be above 0 (got {days:g}): it is how far to look back")
        run, from_ms = self._run, self._run.at_ms - round(days * DAY_MS)
        keys = OpenKeys(from_ms)
        for line in self._examples():
            keys.on_line(line)
        if not keys.within:
            raise BackfillError(
                f"no label of RUN {run.path} was due in the last {days:g} days: look further back with --rebuild-days"
            )
        truths = {key: truth for key, (_, truth) in self._known.items()}
        joined = keys.open | keys.within
        features = self._features(joined | truths.keys())
        if missing := len(joined - features.keys()):
            raise BackfillError(
                f"LOG {self._log} does not hold {missing:,} of the {len(joined):,} impressions to look back on: name the whole log that "
                f"RUN {run.path} was made from"
            )
        self._report.without_features = len(truths.keys() - features.keys())
        aside = SetAside.of(self._settings.gate)
        truths = {key: truth for key, truth in truths.items() if key in features and not aside.has(key[0])}
        learner = run.fresh_learner()
        rebuilding = Rebuilding(self._settings, learner, run.learner_snapshot)
        rows = rows_of(self._examples(), truths, features, keys=keys, settings=self._settings, from_ms=from_ms)
        head = RebuiltHead(
            from_ms=from_ms,
            at_ms=run.at_ms,
            examples_bytes=run.length(EXAMPLES),
            backfilled_bytes=run.length(BACKFILLED),
        )
        name = f"{REBUILT}{self._rebuilds + 1:06d}.jsonl.zst"
        run.append(name, [msgspec.json.encode(head) + b"\n"])
        run.append(name, rebuilding.teach(rows))
        report = self._report
        report.refused, report.rows, report.from_ms, report.steps = (
            rebuilding.refused,
            rebuilding.taught,
            from_ms,
            learner.step,
        )
        if not learner.step:
            raise BackfillError(
                f"no batch of the rebuilt model could be learned ({rebuilding.refused}): look at what stands in LOG and at [safeguards]"
            )
        self._count_rebuilt(truths, from_ms)
        built, was = learner.snapshot(), run.cut.learner
        state = built.state | {"steps": was["steps"] + learner.step, "refusals": was["refusals"]}
        run.forget_recalibration()
        self._hand_over(Snapshot(built.tensors, state), rebuilding.clicks)
        return report

    def _examples(self) -> Iterator[ExampleLine]:
        return map(msgspec.json.Decoder(ExampleLine).decode, self._run.lines(EXAMPLES))

    def _refuse_other_log(self, planned: Collection[ImpressionKey]) -> None:
        asked = sum(self._known[key][1].logged is None for key in planned)
        if asked:
            raise BackfillError(
                f"--log {self._log} holds none of the {asked:,} impressions that are asked for: name the log that {self._run.path} was made from"
            )

    def _features(self, keys: Collection[ImpressionKey]) -> dict[ImpressionKey, msgspec.Raw]:
        """Features of those impressions that are to be had: by the late record, or by the log."""
        own = {
            key: known[1].logged.features
            for key in keys
            if (known := self._known.get(key)) is not None and known[1].logged is not None
        }
        return own | features_of(self._log, self._settings.log.impressions, set(keys) - own.keys())

    def _correction(self, account: Account, truth: Truth, kappa: float) -> Correction:
        windows, reach_ms = self._settings.windows, self._reach_ms
        closes_ms = account.impression_ms + windows.click_window_ms
        settles_ms = None if truth.click_ms is None else truth.click_ms + windows.attribution_window_ms
        return correction(
            account,
            truth,
            kappa=kappa,
            click_is_within_reach=reach_ms is None or closes_ms > reach_ms,
            label_is_within_reach=reach_ms is None or settles_ms is None or settles_ms > reach_ms,
        )

    def _line(self, key: ImpressionKey, found: Correction, step: int) -> BackfilledLine:
        truth = self._known[key][1]
        return BackfilledLine(
            impression_id=key[0],
            impression_ms=key[1],
            click_ms=truth.click_ms,
            conversion_ms=None if found.converted is None else truth.conversion_ms,
            converted=found.converted,
            value=None if found.converted is None else truth.value,
            clicked=found.clicked,
            unclicked=found.unclicked,
            kappa=found.kappa,
            pos=found.pos,
            neg=found.neg,
            step=step,
            weights_version=self._run.cut.weights_version + 1,
            at=list(truth.at),
        )

    def _count(self, found: Correction) -> None:
        self._report.clicks += found.clicked > 0
        self._report.impressions += found.unclicked > 0
        self._report.labels += found.converted is not None

    def _count_rebuilt(self, truths: Mapping[ImpressionKey, Truth], from_ms: int) -> None:
        windows = self._settings.windows
        for (name, impression_ms), truth in truths.items():
            account = self._known[name, impression_ms][0]
            if not truth.is_click_final:
                continue
            came_late = account.click_ms is None or account.came_late
            if impression_ms + windows.click_window_ms > from_ms:
                self._report.clicks += truth.click_ms is not None and came_late
                self._report.impressions += truth.click_ms is None
            if truth.click_ms is not None and truth.is_label_final:
                self._report.labels += truth.click_ms + windows.attribution_window_ms > from_ms

    def _hand_over(self, learner: Snapshot, clicks: Mapping[str, OpenClick] | None = None) -> None:
        figures = self._run.hand_over(learner, self._run.cut.clicks if clicks is None else clicks)
        self._report.cut, self._report.weights_version = figures.cuts, figures.weights_version


def _weighted(found: Sequence[Correction]) -> Weighted:
    nothing = np.zeros(len(found))
    return Weighted(
        clicked=np.array([one.clicked for one in found]),
        unclicked=np.array([one.unclicked for one in found]),
        product=np.stack([nothing, np.array([one.kappa for one in found])]),
        composed=np.array([(one.pos, one.neg) for one in found]).T,
    )
