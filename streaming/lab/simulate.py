"""The simulated worlds by the names of what they write; must not know how anything is shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from streaming.lab.criteo_truth import CriteoWorld
from streaming.lab.criteo_world import CriteoSummary, generate_criteo
from streaming.lab.dials import World, parse_dials
from streaming.lab.summary import world_rows
from streaming.lab.world import WorldSummary, generate
from streaming.settings import SettingsError

Progress = Callable[[int], None]
Written = tuple[WorldSummary | CriteoSummary, list[tuple[str, str]]]


class Simulation(NamedTuple):
    """A world that is ready to be written.

    Args:
        impressions: how many there will be.
        write: into a directory, telling the impressions written so far; what became of it, and the same for a person.
    """

    impressions: int
    write: Callable[[Path, Progress], Written]


def simulation(
    form: str, *, impressions: int, days: float | None, seed: int, dials: Sequence[str] = (), clean: bool = False
) -> Simulation:
    """The world that writes a log (form `log`) or Criteo's file (`criteo-delayed`).

    Args:
        form: what is written.
        impressions, seed: as of either world. days: None is the world's own, 14 or 60.
        dials: NAME=VALUE, of a log alone. clean: nothing goes wrong on the way; of a log alone too.

    Raises:
        SettingsError: no such form, or a dial that is unknown or out of its range.
    """
    values: dict[str, Any] = {"seed": seed} | ({} if days is None else {"days": days})
    try:
        if form == "log":
            values = {"impressions": impressions, **values, **parse_dials(dials)}
            return _of_log(World.clean(**values) if clean else World(**values))
        if form == "criteo-delayed":
            if dials or clean:
                raise SettingsError("--format criteo-delayed has no --dial and is always --clean: leave them out")
            return _of_criteo(CriteoWorld(clicks=impressions, **values))
    except ValueError as error:
        raise SettingsError(str(error)) from error
    raise SettingsError(f"--format must be log or criteo-delayed (got {form!r})")


def _of_log(world: World) -> Simulation:
    def write(out: Path, progress: Progress) -> Written:
        summary = generate(out, world, lambda shown, of: progress(shown))
        return summary, world_rows(summary)

    return Simulation(world.impressions, write)


def _of_criteo(world: CriteoWorld) -> Simulation:
    def write(out: Path, progress: Progress) -> Written:
        summary = generate_criteo(out, world, progress)
        return summary, summary.rows()

    return Simulation(world.clicks, write)
