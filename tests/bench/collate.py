"""What a row costs from raw JSON features to the tensors of a batch; prints one line of JSON.

The rows: 15 features, about 350 bytes; 9 categorical, one crossed, two lists of about ten ids, three numbers. Users are drawn
evenly from 100,000; items either by popularity, as in a real log (`us_per_row`), or evenly from 20,000 (`us_per_row_even`).
Figures are processor time, of the best and of the median batch: on a shared machine the second is mostly the neighbours.

    python tests/bench/collate.py [--rows 2048] [--batches 100]
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time

import msgspec
import numpy as np

from models.schema import Feature
from streaming.batching import Batcher, collate, decode_examples, encode_examples
from streaming.events import Impression
from streaming.examples import Example, Examples, Kind, Slot
from streaming.features import FeatureReader

START = 1_717_200_000_000  # 2024-06-01 00:00 UTC

FEATURES = [
    *(
        Feature(name=name, kind="categorical")
        for name in ("user_id", "item_id", "campaign", "advertiser", "device", "country", "hour", "slot", "os")
    ),
    Feature(name="country_device", kind="crossed", inputs=("country", "device")),
    Feature(name="history", kind="sequence", ids_of="item_id"),
    Feature(name="tags", kind="multi"),
    Feature(name="price", kind="numeric", transform="log"),
    Feature(name="age", kind="numeric", transform="buckets", boundaries=(18, 25, 35, 45, 55, 65)),
    Feature(name="score", kind="numeric"),
]


def item(rng: random.Random, even: bool) -> str:
    return f"item{rng.randrange(20_000) if even else min(int(rng.paretovariate(0.6)), 20_000)}"


def features(rng: random.Random, even: bool) -> msgspec.Raw:
    values = {
        "user_id": f"user{rng.randrange(100_000)}",
        "item_id": item(rng, even),
        "campaign": rng.randrange(500),
        "advertiser": f"adv{rng.randrange(80)}",
        "device": rng.choice(["phone", "tablet", "desktop"]),
        "country": rng.choice(["DE", "FR", "US", "JP", "BR"]),
        "hour": rng.randrange(24),
        "slot": rng.choice(["top", "side"]),
        "os": rng.choice(["ios", "android", "windows"]),
        "history": [item(rng, even) for _ in range(rng.randrange(5, 16))],
        "tags": [rng.randrange(300) for _ in range(rng.randrange(5, 16))],
        "price": round(rng.lognormvariate(3, 1), 2),
        "age": rng.randrange(16, 80),
        "score": round(rng.random(), 6),
    }
    return msgspec.Raw(json.dumps(values, separators=(",", ":")).encode())


def examples(rng: random.Random, rows: int, even: bool) -> Examples:
    each = [
        Example(
            START + number,
            Kind.UNCLICKED,
            Slot.CLICK,
            0,
            Impression(f"impression-{number:08d}", START + number, features(rng, even)),
        )
        for number in range(rows)
    ]
    return Examples.of(each)


def us_per_row(run, inputs, rows: int) -> tuple[float, float]:  # type: ignore[no-untyped-def]
    times = []
    for batch in inputs:
        started = time.process_time()
        run(batch)
        times.append((time.process_time() - started) / rows * 1e6)
    return round(min(times), 2), round(statistics.median(times), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2048, help="rows of a batch")
    parser.add_argument("--batches", type=int, default=100, help="batches measured, out of 20 different ones")
    args = parser.parse_args()

    # As after a step of training: malloc keeps what is freed, and a batch needs no new pages.
    np.ones(1 << 24, np.uint8)
    figures: dict[str, float] = {}
    for name, even in (("us_per_row", False), ("us_per_row_even", True)):
        rng = random.Random(0)
        batches = [examples(rng, args.rows, even) for _ in range(20)]
        reader = FeatureReader(FEATURES)
        inputs = [batches[number % 20] for number in range(args.batches)]
        figures[name], figures[f"{name}_median"] = us_per_row(
            lambda batch, r=reader: collate(batch, r), inputs, args.rows
        )
    batcher = Batcher(batch_size=args.rows, batch_interval_ms=10**13)
    figures["group_us_per_row"], _ = us_per_row(lambda batch: list(batcher.on_examples(batch)), inputs, args.rows)
    figures["encode_us_per_row"], _ = us_per_row(encode_examples, inputs[:20], args.rows)
    figures["decode_us_per_row"], _ = us_per_row(
        decode_examples, [encode_examples(batch) for batch in inputs[:20]], args.rows
    )
    raw_bytes = statistics.mean(len(bytes(shown.features)) for shown in inputs[0].impressions)
    print(json.dumps({"bench": "collate", "rows": args.rows, "raw_bytes": round(raw_bytes), **figures}))


if __name__ == "__main__":
    main()
