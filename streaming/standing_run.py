"""A run that stands still: its newest cut, its files up to there, and a way to change the model in it. Must not know what the model is taught."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import msgspec

from models.delay import method_of
from models.trainer import Learner, Snapshot
from streaming.adapters.cut_directory import CutDirectory
from streaming.adapters.run_directory import OutputFile, RunDirectory
from streaming.adapters.run_lines import lines_between
from streaming.arrivals import Arrivals
from streaming.checkpoint import Cut
from streaming.ingest import Ingest
from streaming.label import Outcome
from streaming.log_file import Place
from streaming.metrics import RunMetrics
from streaming.open_clicks import OpenClick
from streaming.pipeline import Pipeline, learner_of
from streaming.recalibrating import Recalibrator
from streaming.settings import Settings, load
from streaming.target_choice import targets_of

_MAPS = "calibrating.recalibration."
"""What the names of the maps' tensors begin with, in a cut."""


class BackfillError(ValueError):
    """A run cannot be backfilled; the message names it, what is wrong and what to do."""


class StandingRun:
    """A run directory, held until it is closed, at its newest cut.

    What lies in its files beyond the cut is not looked at: a run that goes on from the cut writes that again.

    Args:
        path: the run directory.
        at_step: called before each numbered step of the cut that is written, for tests that crash there.
        environ: holds who asks the targets of its weights. tell: is told, in words, what a person should look at.

    Raises:
        BackfillError: there is no run, or it has no cut yet.
        RunDirectoryError: it is being written. CutError: no cut can be taken up. SettingsError: its settings cannot be read.
    """

    def __init__(
        self,
        path: Path,
        *,
        at_step: Callable[[int], None] = lambda number: None,
        environ: Mapping[str, str] | None = None,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        if not (path / "settings.toml").is_file():
            raise BackfillError(
                f"RUN {path} is no run: name the directory that `afterclick replay LOG --out RUN` wrote"
            )
        self.path, self._at_step, self._environ, self._tell = path, at_step, environ or {}, tell
        self.settings: Settings = load(path / "settings.toml", {})
        self._output = RunDirectory(path, ())
        try:
            self._cuts = CutDirectory(path / "cuts", self.settings)
            cut, self._tensors, self.passed_over = self._cuts.newest()
            if cut is None or cut.at_ms is None:
                raise BackfillError(f"RUN {path} has no cut to work on yet: let `afterclick replay` come to one")
        except BaseException:
            self._output.close()
            raise
        self.cut: Cut = cut
        self.at_ms: int = cut.at_ms
        self._appended: set[str] = set()

    def close(self) -> None:
        """Lets go of the run."""
        self._output.close()

    @property
    def learner_snapshot(self) -> Snapshot:
        """The state of the learner in the cut."""
        return Snapshot(self._tensors, self.cut.learner)

    def fresh_learner(self) -> Learner:
        """A learner of these settings that has learned nothing."""
        return learner_of(self.settings)

    def length(self, name: str) -> int:
        """Bytes of an output file, up to the cut; 0 where there is none."""
        return self.cut.lengths.get(name, 0)

    def lines(self, name: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """The lines of an output file between two of its lengths; None is the one at the cut."""
        return lines_between(self.path / name, start, self.length(name) if end is None else end)

    def append(self, name: str, lines: Iterable[bytes]) -> None:
        """Adds to an output file; it counts once the model is handed over."""
        if name not in self._appended:
            self._appended.add(name)
            OutputFile(self.path / name).cut_back(
                self.length(name)
            )  # what a backfill left that did not come to its end
        for line in lines:
            self._output.append(name, line)

    def forget_recalibration(self) -> None:
        """Lets recalibration begin anew with the next hand-over: its maps correct the model that there was, and no other."""
        if self.settings.recalibrating.kind == "none":
            return
        maps, opened = Recalibrator(self.settings.recalibrating, self.settings.features).snapshot()
        kept = {name: tensor for name, tensor in self._tensors.items() if not name.startswith(_MAPS)}
        self._tensors = kept | {_MAPS + name: tensor for name, tensor in maps.items()}
        self.cut = msgspec.structs.replace(self.cut, recalibrated=opened)

    def hand_over(self, learner: Snapshot, clicks: Mapping[str, OpenClick]) -> RunMetrics:
        """Puts a learner in the place of the one in the cut, all else as it is: a new cut, new weights, the figures of the run.

        Args:
            learner: its state. clicks: what it has taught open clicks, for methods that adjust it.

        Raises:
            CutError, DirectoryError, RunDirectoryError: something could not be written.
            RunEndedError: the batch that was held was refused, and too many had been before. The new cut stands.
        """
        self._output.cut_back(self.cut.lengths | self._output.sync())
        outcomes: dict[tuple[str, int], Outcome] | None = {} if self.settings.labels.method == "oracle" else None
        targets = targets_of(self.path, self.settings, self._environ, tell=self._tell)
        pipeline = Pipeline(
            self.settings,
            feed=Ingest(self.settings, _Unread(self.cut.ingest.places), outcomes),
            output=self._output,
            cuts=self._cuts,
            publisher=targets,
            at_step=self._at_step,
        )
        # A cut that says that nothing was read: so the pipeline finds its source ahead of it, and cuts.
        ingest = msgspec.structs.replace(self.cut.ingest, places={})
        changed = msgspec.structs.replace(self.cut, learner=learner.state, clicks=dict(clicks), ingest=ingest)
        pipeline.restore(changed, self._tensors | learner.tensors)
        try:
            for _ in pipeline.run(close_at_end=self.cut.ingest.is_closed):
                pass
        finally:
            targets.close()
        return pipeline.metrics()


class _Unread:
    """A source that stands where a cut says, and has nothing more to give."""

    def __init__(self, places: Mapping[str, Place]) -> None:
        self._places = places

    def __iter__(self) -> Iterator[Arrivals]:
        return iter(())

    @property
    def partitions(self) -> tuple[int, ...]:
        return (0,)

    def places(self) -> Mapping[str, Place]:
        return self._places

    def snapshot(self) -> None: ...


def check_method(run: StandingRun) -> None:
    """Refuses methods whose labels cannot be taken back.

    Raises:
        BackfillError: its conversion head is not taught by pairs.
    """
    name = run.settings.labels.method
    if method_of(name).form != "pairs":
        raise BackfillError(
            f"RUN {run.path} has labels.method = {name!r}, whose conversion head is not taught by pairs of weights, so that no label can be "
            "taken back: sort the files of the log by event time and replay it anew"
        )
