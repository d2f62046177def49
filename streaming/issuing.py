"""Issues versions of the weights: makes them, has the gate look at them, publishes them. Must not know when, or what they were taught."""

from __future__ import annotations

import numpy as np

from models.batch import Batch, Event, Float64, Inputs
from models.manifest import Manifest
from models.trainer import Learner, Snapshot
from models.versions import Versions
from models.weights import Weights, encode
from streaming.calibrating import Calibrating
from streaming.examples import Examples, Kind
from streaming.gate import VersionRefusedError, coverage_of, refusal
from streaming.held_out import HeldOut
from streaming.metrics import IngestFigures
from streaming.ports import GapError, HeldError, Publisher, StaleVersionError
from streaming.set_aside import JudgedState
from streaming.settings import Settings


class Issuing:
    """The versions of a run, one after the other.

    A version that is refused, by the gate or since publishing is held, is nobody's base: the one that passes next is a snapshot.

    Args:
        settings: of the run. learner, calibrating: what is published. publisher: where to.
    """

    def __init__(self, settings: Settings, learner: Learner, calibrating: Calibrating, publisher: Publisher) -> None:
        publishing = settings.publishing
        self._rules = settings.gate
        self._learner, self._calibrating, self._publisher = learner, calibrating, publisher
        self._held_out = HeldOut(settings)
        self._versions = Versions(
            learner,
            snapshot_every=publishing.snapshot_every,
            epsilon=publishing.epsilon,
            row_format=publishing.row_format,
        )
        self._passed: Snapshot | None = None
        """The learner as it was at the last cut whose version passed, if it may fall back."""

    def on_examples(self, examples: Examples) -> None:
        """Takes what has been scored: versions are compared on the clicks whose labels have become final."""
        if self._held_out.keeps:
            self._held_out.on_outcomes(examples.of_kind(Kind.OUTCOME))

    def issue(
        self, manifest: Manifest, figures: IngestFigures, *, snapshot: bool = False, at_cut: bool = True
    ) -> str | None:
        """Publishes the weights as they are now.

        Args:
            manifest: of a snapshot.
            figures: of ingest.
            snapshot: whether it must be one.
            at_cut: whether a cut follows: what the learner falls back to is taken at cuts alone.

        Returns:
            Why it was refused, in a word; None if it was published.

        Raises:
            VersionRefusedError: the gate refused it, and the run is to stop then.
            StaleVersionError: another run has taken over.
        """
        weights = self._versions.make(
            manifest, self._calibrating.published(), snapshot=snapshot or self._publisher.needs_snapshot
        )
        compared = self._held_out.compared(self._pcvr)
        refused = refusal(self._rules, weights.tensors, compared, coverage_of(figures))
        if refused is not None:
            self._refuse(weights, refused.says)
            return refused.reason
        try:
            published = encode(weights)
            self._publisher.publish(published)
        except GapError:  # somebody took the base away
            return self.issue(manifest, figures, snapshot=True, at_cut=at_cut)
        except HeldError:
            self._keep_passed(at_cut)
            return "held"
        except StaleVersionError as error:
            if int(error.current.partition("-")[0]) != manifest.epoch:
                raise
            self._keep_passed(at_cut)
            return "held"  # of this epoch, it can only be a rollback that has been released meanwhile
        self._versions.published(published.manifest)
        self._held_out.passed(compared)
        self._keep_passed(at_cut)
        return None

    def _keep_passed(self, at_cut: bool) -> None:
        if at_cut and self._rules.on_refusal == "fall_back":
            self._passed = self._learner.snapshot()

    def snapshot(self) -> JudgedState:
        """What a cut must hold so that versions are judged as if the run had not been interrupted."""
        return self._held_out.snapshot(has_passed=self._passed is not None)

    def restore(self, state: JudgedState) -> None:
        """Takes up what `snapshot` gave; the learner has been restored."""
        self._held_out.restore(state)
        # At a cut the learner is the one that passed there, or has just fallen back to it.
        self._passed = self._learner.snapshot() if state.has_passed else None

    def _refuse(self, weights: Weights, says: str) -> None:
        self._publisher.keep_refused(encode(weights), says)
        if self._rules.on_refusal == "stop":
            raise VersionRefusedError(
                f'version {weights.manifest.name} was refused: {says}. It is kept in weights/refused, and gate.on_refusal is "stop": look at '
                "what the stream carries, mend it or the bounds in [gate], and go on (--resume)"
            )
        if self._rules.on_refusal == "fall_back" and self._passed is not None:
            self._learner.fall_back(self._passed)

    def _pcvr(self, inputs: Inputs) -> Float64:
        """(n,) pCVR as it would be served."""
        nothing = np.zeros(len(inputs), np.int8)
        batch = Batch.of(inputs, nothing + np.int8(Event.MATURED), np.zeros(len(inputs), np.float32))
        return self._calibrating.corrected(batch, self._learner.predict_many(inputs).pcvr)
