"""Simulates a log whose truth is known: impressions, answers, mishaps, files. Must not know what will learn from it.

population -> traffic -> truth -> answers -> facts of the log -> lines -> arrivals -> files
                                     `--- truth.parquet
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from models.evaluate import auc
from streaming.lab.delays import Ints
from streaming.lab.dials import World
from streaming.lab.disorder import ArrivalFile, Road
from streaming.lab.facts import FactLog, IdSpace, Records, draw_answers
from streaming.lab.population import draw_items, draw_users
from streaming.lab.traffic import Traffic
from streaming.lab.truth import Truth
from streaming.lab.worldfiles import TRUTH, TruthFile, truth_of
from streaming.lab.worldlines import ImpressionLines, fact_lines
from streaming.lab.worldsettings import settings_text

__all__ = ["World", "WorldSummary", "generate", "truth_of"]

STEMS = ("impressions", "clicks", "conversions")
_NAMES = (*(f"{stem}.jsonl" for stem in STEMS), "settings.toml", "world.json", TRUTH)


class WorldSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a world.

    Args:
        impressions, clicks, conversions: what happened, mishaps aside. lines: written, by stem, mishaps included.
        mishaps: what -> how many records. `late` contains `late_beyond_closing`.
        mean_pctr: over impressions. mean_pcvr: over clicks, None without one.
        ctr_auc, cvr_auc: of the true probabilities over impressions and over clicks: no model can expect more. None
            where one class is missing.
    """

    impressions: int
    clicks: int
    conversions: int
    lines: dict[str, int]
    mishaps: dict[str, int]
    mean_pctr: float
    mean_pcvr: float | None
    ctr_auc: float | None
    cvr_auc: float | None


def generate(out: Path, world: World, progress: Callable[[int, int], None] | None = None) -> WorldSummary:
    """Writes the log of a world, its settings, its dials and its truth; the form is in docs/formats.md.

    Memory holds some ten thousand impressions, what has happened but not arrived, and 9 bytes an impression.

    Args:
        out: the directory, created if missing.
        world: the dials. The same dials give the same bytes.
        progress: called now and then with impressions written and impressions in all.

    Raises:
        FileExistsError: `out` already holds a file that would be written.
    """
    there = [name for name in _NAMES if (out / name).exists()]
    if there:
        raise FileExistsError(f"OUT {out} already holds {there[0]}: give an empty or new directory")
    # A stream of random numbers for each room: a dial of one changes nothing in another.
    people, looks, visits, deeds, mishaps, roads, *files = (
        np.random.default_rng(seed) for seed in np.random.SeedSequence(world.seed).spawn(6 + len(STEMS))
    )
    users, items = draw_users(people, world), draw_items(people, world)
    truth, traffic = Truth(world, users, items, looks), Traffic(world, users, items, visits)
    impression_ids, event_ids = IdSpace(world.seed, 0), IdSpace(world.seed, 1)
    fact_log, road = FactLog(world, IdSpace.beside(impression_ids), mishaps), Road(world, roads)
    impression_lines = ImpressionLines(users, items)
    out.mkdir(parents=True, exist_ok=True)
    (out / "settings.toml").write_text(settings_text(world, items), encoding="utf-8")
    (out / "world.json").write_bytes(msgspec.json.format(msgspec.json.encode(world)) + b"\n")

    faulty, conversions = 0, 0
    pctr, pcvr, clicked, converted = [], [], [], []
    with ExitStack() as stack:
        truth_file = stack.enter_context(TruthFile(out / TRUTH))
        arrivals = [
            ArrivalFile(world, stack.enter_context((out / f"{stem}.jsonl").open("xb")), rng)
            for stem, rng in zip(STEMS, files, strict=True)
        ]
        for shown in traffic.chunks():
            probabilities = truth.of(shown)
            answers = draw_answers(deeds, world, items, shown, probabilities)
            ids = impression_ids.take(len(shown))
            clicks, sales = fact_log.records(shown, ids, answers)
            wrong = np.flatnonzero(mishaps.random(len(shown)) < world.feature_fault_share).tolist()
            records = (Records(ids, shown.event_time_ms, shown.event_time_ms + world.click_window_ms), clicks, sales)
            lines = (
                impression_lines.lines(ids, shown, wrong),
                fact_lines(clicks, event_ids),
                fact_lines(sales, event_ids),
            )
            # Nothing to come arrives before this: a click may be stamped a little before its impression, no more.
            begun_ms = int(shown.event_time_ms[-1]) - world.clock_skew_ms
            for file, stream, text in zip(arrivals, records, lines, strict=True):
                file.add(*road.arrivals(stream, text))
                file.write_until(begun_ms)
            truth_file.add(ids, shown.event_time_ms, probabilities)

            faulty, conversions = faulty + len(wrong), conversions + len(answers.converted)
            pctr.append(probabilities.pctr)
            clicked.append(_mask(answers.clicked, len(shown)))
            pcvr.append(probabilities.pcvr[answers.clicked])
            converted.append(_mask(answers.converted, len(answers.clicked)))
            if progress is not None:
                progress(shown.first + len(shown), world.impressions)
        for file in arrivals:
            file.write_until(None)

    all_pctr, all_pcvr = np.concatenate(pctr), np.concatenate(pcvr)
    all_clicked, all_converted = np.concatenate(clicked), np.concatenate(converted)
    damages = {name: sum(file.counts[name] for file in arrivals) for name in arrivals[0].counts}
    return WorldSummary(
        impressions=len(all_pctr),
        clicks=len(all_pcvr),
        conversions=conversions,
        lines={stem: file.lines for stem, file in zip(STEMS, arrivals, strict=True)},
        mishaps=road.counts | fact_log.counts | damages | {"feature_faults": faulty},
        mean_pctr=float(all_pctr.mean()),
        mean_pcvr=float(all_pcvr.mean()) if len(all_pcvr) else None,
        ctr_auc=auc(all_pctr, all_clicked),
        cvr_auc=auc(all_pcvr, all_converted),
    )


def _mask(rows: Ints, n: int) -> npt.NDArray[np.bool_]:
    mask = np.zeros(n, dtype=np.bool_)
    mask[rows] = True
    return mask
