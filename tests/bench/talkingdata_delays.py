"""The delay model on real delays: its completion curve beside the share of conversions that had come by each age.

    talkingdata_delays.py train_sample.csv.gz OUT

The file is that of the TalkingData AdTracking sample (227 installs of 100,000 clicks over three days); it is imported into OUT as a log, w_a a day, and
read by the line that learners read. `global` is the curve of counts, `by features` the mean over the clicks (and over the converters) of the one that
looks at features. Shares are of clicks whose every conversion can be in the file, intervals Wilson's, 95 %. Then the same with the model taught by the
first half of them, beside the other half.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from study_line import changed, settings_of

from models.batch import Float64, Int64
from streaming.batching import collate_aged
from streaming.features import FeatureReader
from streaming.lab.compare.stream import Stream, as_compared
from streaming.lab.importers import import_talkingdata
from streaming.label import Example
from streaming.pipeline import learner_of
from streaming.settings import Settings

SECOND_MS, MINUTE_MS, HOUR_MS = 1_000, 60_000, 3_600_000
AGES_MS = np.array([MINUTE_MS, 3 * MINUTE_MS, 10 * MINUTE_MS, 30 * MINUTE_MS, HOUR_MS, 4 * HOUR_MS, 12 * HOUR_MS])
WINDOW_MS = 24 * HOUR_MS


def wilson(found: int, of: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % interval of a share.

    Example:
        >>> [round(end, 3) for end in wilson(5, 10)]
        [0.237, 0.763]
    """
    share, square = found / of, z**2 / of
    middle, arm = share + square / 2, z * np.sqrt(share * (1 - share) / of + square / (4 * of))
    return float((middle - arm) / (1 + square)), float((middle + arm) / (1 + square))


def read(log: Path, settings: Settings) -> tuple[list[tuple[list[Example], int]], list[Example], tuple[int, ...]]:
    """What teaches the delay model, batch by batch with its time; what became of each click; the edges."""
    stream = Stream(log, as_compared(settings, "es_dfm", 0))
    taught, outcomes = [], []
    for group in stream.groups(close_at_end=True):
        taught.append((group.aged, group.at_ms))
        outcomes += group.outcomes
    return taught, outcomes, stream.edges_ms


def delays_of(outcomes: Sequence[Example]) -> Int64:
    """Of the clicks that converted."""
    return np.array(
        [
            each.conversion_ms - each.click_ms
            for each in outcomes
            if each.conversion_ms is not None and each.click_ms is not None
        ],
        np.int64,
    )


def show(title: str, delays: Int64, columns: dict[str, Float64]) -> None:
    """A table: at each age the share found with its interval, and what each model says."""
    print(f"\n{title}: {len(delays)} conversions\n")
    print(f"| age | share that had come | 95 % | {' | '.join(columns)} |")
    print(f"|---|---|---|{'---|' * len(columns)}")
    for row, age in enumerate(AGES_MS):
        found = int((delays <= age).sum())
        low, high = wilson(found, len(delays))
        told = " | ".join(
            f"{column[row]:.2f}{'' if low <= column[row] <= high else ' (outside)'}" for column in columns.values()
        )
        print(f"| {age // MINUTE_MS} min | {found / len(delays):.2f} | {low:.2f} to {high:.2f} | {told} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    if not (args.out / "settings.toml").exists():
        import_talkingdata(args.source, args.out)
    settings = settings_of(
        args.out, windows={"attribution_window_ms": WINDOW_MS, "observation_window_ms": 10 * MINUTE_MS}
    )
    settings = changed(settings, network={"objective": "composed"})
    taught, outcomes, edges_ms = read(args.out, settings)
    reader = FeatureReader(settings.features)
    clicks = reader.read([each.impression.features for each in outcomes])
    has_converted = np.array([each.converted for each in outcomes])
    # Of the clicks of the last hours only quick conversions are in the file: shares are of the others.
    until_end_ms = max(each.click_ms or 0 for each in outcomes) - int(delays_of(outcomes).max())
    whole = [each for each in outcomes if (each.click_ms or 0) <= until_end_ms]
    converted = sorted((each.click_ms or 0) for each in whole if each.converted)
    middle_ms = converted[len(converted) // 2]

    for title, until_ms, some in (
        ("taught by all", None, whole),
        (
            "taught by clicks before the middle, beside those after it",
            middle_ms,
            [each for each in whole if (each.click_ms or 0) >= middle_ms],
        ),
    ):
        learner = learner_of(as_compared(settings, "es_dfm", 0))
        for examples, at_ms in taught:
            own = [each for each in examples if until_ms is None or (each.click_ms or 0) < until_ms]
            learner.learn_delays(collate_aged(own, reader, edges_ms), at_ms=at_ms)
        at = np.broadcast_to(AGES_MS, (len(clicks), len(AGES_MS)))
        by_features = learner.delays.completed(clicks, at)
        columns = {
            "global": learner.delays.curve.completed(AGES_MS),
            "by features, mean over clicks": by_features.mean(axis=0),
            "over converters": by_features[has_converted].mean(axis=0),
        }
        if until_ms is not None:
            own_delays = delays_of([each for each in whole if (each.click_ms or 0) < until_ms])
            columns["the half that taught"] = (own_delays[:, None] <= AGES_MS).mean(axis=0)
        show(title, delays_of(some), columns)
        spread = by_features.std(axis=0)
        print(
            f"\nstandard deviation of the by-features curve over clicks: {', '.join(f'{each:.3f}' for each in spread)}"
        )
        print(f"rests on the prior: {learner.delays.rests_on_prior(AGES_MS).tolist()}")


if __name__ == "__main__":
    main()
