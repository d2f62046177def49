"""Writes a simulated file in the exact format of the Criteo delayed-feedback set; must not know what reads it."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import msgspec
import numpy as np

from models.evaluate import auc
from streaming.lab.criteo_import import ORIGIN_MS
from streaming.lab.criteo_truth import CARDINALITIES, Clickers, CriteoTruth, CriteoWorld, draw_clickers
from streaming.lab.delays import DAY_MS, Ints, draw_conversion_delays
from streaming.lab.facts import IdSpace
from streaming.lab.truth import Probabilities
from streaming.lab.worldfiles import TRUTH, TruthFile
from streaming.lab.worldlines import hex_ids

DATA, WORLD = "data.txt", "world.json"
_ATTRIBUTION_WINDOW_MS = 30 * DAY_MS
_DAY_S = DAY_MS // 1000
_GRID = 1_440  # minutes of a day: the rhythm between them is a straight line


class CriteoSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a world.

    Args:
        out: the directory. clicks, conversions: rows, and those with a conversion.
        mean_pcvr: of the true probabilities.
        cvr_auc: of the true probabilities: no model can expect more. None where one class is missing.
        delay_quantiles_s: of the conversions, from .1 to .9 by .2, in seconds; empty without one.
    """

    out: str
    clicks: int
    conversions: int
    mean_pcvr: float
    cvr_auc: float | None
    delay_quantiles_s: list[float]

    def rows(self) -> list[tuple[str, str]]:
        """The same as (label, value) pairs for a table."""
        best = "no value" if self.cvr_auc is None else f"{self.cvr_auc:.4f}"
        hours = ", ".join(f"{seconds / 3600:.3g} h" for seconds in self.delay_quantiles_s) or "no value"
        return [
            ("file", str(Path(self.out) / DATA)),
            ("clicks", f"{self.clicks:,}"),
            ("conversions", f"{self.conversions:,}   mean pCVR {self.mean_pcvr:.4f}, AUC of the truth {best}"),
            ("delays", f"{hours}   (quantiles .1, .3, .5, .7, .9)"),
        ]


def generate_criteo(out: Path, world: CriteoWorld, progress: Callable[[int], None] | None = None) -> CriteoSummary:
    """Writes `data.txt`, its truth and its dials; the form is in docs/formats.md. Memory holds a day of clicks.

    Args:
        out: the directory, created if missing.
        world: the dials. The same dials give the same bytes.
        progress: called after each day with the clicks written.

    Raises:
        FileExistsError: `out` already holds a file that would be written.
    """
    there = [name for name in (DATA, TRUTH, WORLD) if (out / name).exists()]
    if there:
        raise FileExistsError(f"OUT {out} already holds {there[0]}: give an empty or new directory")
    # A stream of random numbers for each room: a dial of one changes nothing in another.
    looks, visits, people, deeds = (np.random.default_rng(seed) for seed in np.random.SeedSequence(world.seed).spawn(4))
    truth, words = CriteoTruth(world, looks), _words(world.seed)
    out.mkdir(parents=True, exist_ok=True)
    (out / WORLD).write_bytes(msgspec.json.format(msgspec.json.encode(world)) + b"\n")
    written, probabilities, converted, delays = 0, [], [], []
    with ExitStack() as stack:
        truth_file = stack.enter_context(TruthFile(out / TRUTH, name="row-{}"))
        file = stack.enter_context((out / DATA).open("x", encoding="ascii", newline=""))
        for day, clicks in enumerate(_clicks_by_day(visits, world)):
            click_s = day * _DAY_S + _times_of_day(visits, clicks, min(world.days - day, 1.0), world.rhythm)
            clickers = draw_clickers(people, clicks)
            pcvr, short_share = truth.of(clickers, click_s / _DAY_S)
            converts = deeds.random(clicks) < pcvr
            delay_s = draw_conversion_delays(deeds, short_share, _ATTRIBUTION_WINDOW_MS) // 1000
            conversion_s = np.where(converts, click_s + delay_s, -1)
            file.writelines(_lines(click_s, conversion_s, clickers, words))
            ids = np.arange(written + 1, written + clicks + 1, dtype=np.uint64)
            truth_file.add(ids, ORIGIN_MS + 1000 * click_s, Probabilities(np.ones(clicks), pcvr, short_share))
            probabilities.append(pcvr)
            converted.append(converts)
            delays.append(delay_s[converts])
            written += clicks
            if progress is not None:
                progress(written)
    all_pcvr, all_converted, all_delays = (
        np.concatenate(probabilities),
        np.concatenate(converted),
        np.concatenate(delays),
    )
    return CriteoSummary(
        out=str(out),
        clicks=written,
        conversions=len(all_delays),
        mean_pcvr=float(all_pcvr.mean()),
        cvr_auc=auc(all_pcvr, all_converted),
        delay_quantiles_s=np.quantile(all_delays, [0.1, 0.3, 0.5, 0.7, 0.9]).tolist() if len(all_delays) else [],
    )


def _clicks_by_day(rng: np.random.Generator, world: CriteoWorld) -> list[int]:
    """How many clicks each day has; the last may be a part of one."""
    days = math.ceil(world.days)
    shares = np.minimum(world.days - np.arange(days), 1.0) / world.days
    return [int(clicks) for clicks in rng.multinomial(world.clicks, shares / shares.sum())]


def _times_of_day(rng: np.random.Generator, n: int, part: float, rhythm: float) -> Ints:
    """Seconds since midnight of n clicks in order, within this part of a day; most come at 18:00, fewest at 6:00."""
    t = np.linspace(0, part, _GRID + 1)
    reached = t - rhythm * (1 - np.cos(2 * np.pi * t)) / (2 * np.pi)
    reached = np.maximum.accumulate(reached) / reached[-1]
    return np.asarray(np.interp(np.sort(rng.random(n)), reached, t) * _DAY_S).astype(np.int64)


def _words(seed: int) -> list[np.ndarray[tuple[int], np.dtype[np.object_]]]:
    """The values of each category by rank, hashes all; the last, which -1 finds, is the missing one."""
    hashes = IdSpace(seed, 0)
    return [np.array([*hex_ids(hashes.take(cardinality - 1)), ""], dtype=object) for cardinality in CARDINALITIES]


def _lines(
    click_s: Ints, conversion_s: Ints, clickers: Clickers, words: list[np.ndarray[tuple[int], np.dtype[np.object_]]]
) -> list[str]:
    columns = [_texts(click_s, np.zeros(len(click_s), np.bool_)), _texts(conversion_s, conversion_s < 0)]
    columns += [_texts(counts, gone) for counts, gone in zip(clickers.counts.T, clickers.is_missing.T, strict=True)]
    columns += [word[ranks].tolist() for word, ranks in zip(words, clickers.categories.T, strict=True)]
    return ["\t".join(cells) + "\n" for cells in zip(*columns, strict=True)]


def _texts(numbers: Ints, is_missing: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> list[str]:
    return ["" if gone else str(number) for number, gone in zip(numbers.tolist(), is_missing.tolist(), strict=True)]
