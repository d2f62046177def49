"""Logs as nobody would wish them: no crash, no endless loop, no record lost, and the same outcome however they are read."""

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec
import pytest
from fakes import ListLog, ListPublisher, MemoryCuts, MemoryOutput, clicked, converted, joins_of, line_of, shown

from models.schema import Feature, Network
from streaming.ingest import Ingest
from streaming.metrics import SIDE_OUTPUTS
from streaming.pipeline import Pipeline
from streaming.settings import Batching, Cuts, EventTime, Labels, Settings, Windows

YEAR = 365 * 24 * 3_600_000
Log = dict[str, list[bytes]]

SETTINGS = Settings(
    windows=Windows(click_window_ms=1_000, observation_window_ms=2_000, attribution_window_ms=20_000),
    event_time=EventTime(out_of_orderness_ms=100, clock_skew_ms=20, alignment_ms=YEAR, future_skew_ms=50_000),
    labels=Labels(method="window"),
    batching=Batching(batch_size=64, batch_interval_ms=5_000),
    network=Network(towers=(4,), threads=1),
    cuts=Cuts(cut_interval_ms=10_000),
    features=(
        Feature(name="u", kind="categorical"),
        Feature(name="x", kind="numeric"),
        Feature(name="l", kind="multi"),
    ),
)
NO_TIME_AT_ALL = msgspec.structs.replace(
    SETTINGS,
    windows=Windows(click_window_ms=0, observation_window_ms=0, attribution_window_ms=1),
    event_time=EventTime(out_of_orderness_ms=0, clock_skew_ms=0, alignment_ms=1, future_skew_ms=50_000),
)
EVERY_MILLISECOND = msgspec.structs.replace(
    SETTINGS,
    event_time=msgspec.structs.replace(SETTINGS.event_time, future_skew_ms=100 * YEAR),
    cuts=Cuts(cut_interval_ms=1),
)


def log_of(
    impressions: list[tuple[str, int]], clicks: list[tuple[str, int]] = (), conversions: list[tuple[str, int]] = ()
) -> Log:  # type: ignore[assignment]
    return {
        "impressions.jsonl": [line_of(shown(name, at, b'{"u":"%d","x":%d}' % (at % 9, at % 7))) for name, at in impressions],
        "clicks.jsonl": [line_of(clicked(name, at)) for name, at in clicks],
        "conversions.jsonl": [line_of(converted(name, at, 1.5)) for name, at in conversions],
    }  # fmt: skip


def traffic(seed: int, count: int, span: int, name_of: Callable[[int], str] = "i{}".format) -> Log:
    """Impressions over `span` ms; clicks and conversions of some, in their windows and out of them, some twice."""
    rng = random.Random(seed)
    impressions, clicks, conversions = [], [], []
    for number in range(count):
        name, at = name_of(number), rng.randrange(span)
        impressions.append((name, at))
        if rng.random() < 0.4:
            click = at + rng.randrange(-40, 1_400)
            clicks += [(name, click)] * rng.choice([1, 1, 2])
            if rng.random() < 0.5:
                conversions += [(name, click + rng.randrange(-40, 26_000))] * rng.choice([1, 1, 2])
    disordered = [
        sorted(facts, key=lambda fact: fact[1] + rng.randrange(150)) for facts in (impressions, clicks, conversions)
    ]
    return log_of(*disordered)


def mutated(log: Log, seed: int) -> Log:
    """The log with bytes changed, lost and added, in most lines."""
    rng = random.Random(seed)

    def harm(line: bytes) -> bytes:
        harmed = bytearray(line)
        for _ in range(rng.randrange(3)):
            place = rng.randrange(len(harmed) + 1)
            harmed[place : place + rng.randrange(3)] = rng.randbytes(rng.randrange(2))
        return bytes(harmed).replace(b"\n", b"")

    return {name: [harm(line) for line in lines] for name, lines in log.items()}


ODD = [
    '"',
    "\\",
    "\n",
    "\r\n",
    "\u2028",
    "é",
    "😀",
    "\x00",
    "\t",
    " ",
    '{"impression_id":"x"}',
    '"features":{',
    "ß" * 3_000,
]
MANY = range(1_500)
rows = random.Random(5)

LOGS: dict[str, tuple[Log, Settings]] = {
    "usual traffic": (traffic(1, 300, 100_000), SETTINGS),
    "in reverse order": ({name: lines[::-1] for name, lines in traffic(2, 300, 100_000).items()}, SETTINGS),
    "everything at one millisecond": (
        log_of([(f"i{n}", 5) for n in MANY], [(f"i{n % 400}", 5) for n in MANY], [(f"i{n}", 5) for n in range(200)]),
        SETTINGS,
    ),
    "one id over and over": (log_of(*[[("a", 20 * n) for n in MANY]] * 3), SETTINGS),
    "one id over and over at one millisecond": (log_of(*[[("a", 5)] * 1_500] * 3), SETTINGS),
    "no window, no skew, no disorder": (traffic(3, 300, 1_000), NO_TIME_AT_ALL),
    "years between records, a cut at every millisecond": (
        log_of(
            [(f"y{n}", n * YEAR) for n in range(8)],
            [(f"y{n}", n * YEAR + 5) for n in range(8)],
            [(f"y{n}", n * YEAR + 5_000) for n in range(8)],
        ),
        EVERY_MILLISECOND,
    ),
    "odd ids": (traffic(4, 150, 50_000, lambda n: ODD[n % len(ODD)] + str(n // 14)), SETTINGS),
    "random bytes": (
        {name: [rows.randbytes(rows.randrange(60)).replace(b"\n", b"") for _ in MANY] for name in log_of([])},
        SETTINGS,
    ),
    "mutated lines": (mutated(traffic(6, 300, 50_000), 7), SETTINGS),
    "huge lines": (
        log_of([("x" * 1_000_000, 1), ("h", 2), ("end", 40_000)], [("x" * 1_000_000, 4)])
        | {"conversions.jsonl": [b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"]},
        SETTINGS,
    ),
    "features of every wrong type": (
        log_of([], [(f"i{n}", n * 50 + 5) for n in range(0, 200, 3)])
        | {
            "impressions.jsonl": [
                line_of(shown(f"i{n}", n * 50, b'{"u":%s,"x":%s,"l":%s}' % tuple(rows.choice(wrong) for wrong in (
                    [b'"a"', b"5", b"null", b"{}", b"[]", b"1e99", b'"\\u0000"', b"true"],
                    [b"1", b'"x"', b"1e39", b"-1e308", b"null", b"[[[]]]"],
                    [b"[]", b'["a",5,null]', b"5", b"null", b"[[]]", b'"x"'],
                ))))
                for n in range(200)
            ]
        },
        SETTINGS,
    ),
    # The watermark halts at 10,000 for a cut, since "p" takes effect before it; "late" meets it there and is the first to leave.
    "a late record at the very moment of a cut": (
        log_of([("a", -50_000), ("p", 9_500), ("b", 10_100), ("late", 8_800), *((f"i{n}", 30_000 + n) for n in range(40))]),
        SETTINGS,
    ),
    "blank lines, some with a carriage return": (
        {name: [part for line in lines for part in (b"\r", line + b"\r", b"", b" \t")] for name, lines in traffic(8, 60, 50_000).items()},
        SETTINGS,
    ),
    "clicks alone": (log_of([], [(f"i{n}", n) for n in MANY]), SETTINGS),
}  # fmt: skip


def run(log: Log, settings: Settings, block: int, *, close_at_end: bool = False) -> tuple[Pipeline, MemoryOutput]:
    output = MemoryOutput()
    source = ListLog(log, settings, block=block)
    pipeline = Pipeline(
        settings, feed=Ingest(settings, source), output=output, cuts=MemoryCuts(), publisher=ListPublisher()
    )
    for _ in pipeline.run(close_at_end=close_at_end):
        pass
    return pipeline, output


def assert_every_record_has_left_by_one_door_or_is_still_there(
    pipeline: Pipeline, output: MemoryOutput, log: Log
) -> None:
    metrics = pipeline.metrics()
    records = sum(len([line for line in lines if line.strip()]) for lines in log.values())
    assert sum(metrics.events.values()) == records
    by_door = {door: len(output.rows(f"{door}.jsonl")) for door in SIDE_OUTPUTS}
    counted = {door: sum(kinds.values()) for door, kinds in metrics.side_outputs.items()}
    assert counted == {door: count for door, count in by_door.items() if count}

    examples = output.rows("examples.jsonl.zst")
    told = {(row["impression_id"], row["impression_ms"]) for row in examples if row["slot"] == "click"}
    snapshot = joins_of(pipeline)[0].snapshot()
    waiting = snapshot.opened.impressions
    untold = [one for one in waiting if (one.impression.impression_id, one.impression.event_time_ms) not in told]
    impressions = len(told) + len(untold)
    clicks = sum(row["kind"] == "CLICKED" for row in examples) + sum(one.click_ms is not None for one in untold)
    conversions = sum(row["kind"] == "OUTCOME" and row["conversion_ms"] is not None for row in examples)
    conversions += sum(one.conversion_ms is not None for one in waiting)
    still_there = metrics.held_facts + metrics.pending_records
    assert impressions + clicks + conversions + sum(by_door.values()) + still_there == records


@pytest.mark.parametrize("says", LOGS)
def test_nothing_is_lost_and_blocks_do_not_matter(says: str) -> None:
    log, settings = LOGS[says]
    whole, output = run(log, settings, 10**6)
    assert_every_record_has_left_by_one_door_or_is_still_there(whole, output, log)
    for block in (1 if sum(map(len, log.values())) < 200 else 61, 997):
        again, other = run(log, settings, block)
        assert other.files == output.files
        assert again.metrics() == whole.metrics()


def test_blank_lines_are_no_records() -> None:
    log, settings = LOGS["blank lines, some with a carriage return"]
    assert "malformed" not in run(log, settings, 7)[0].metrics().events


@pytest.mark.parametrize("says", LOGS)
def test_closed_at_the_end_nothing_stays(says: str) -> None:
    log, settings = LOGS[says]
    pipeline, output = run(log, settings, 500, close_at_end=True)
    metrics = pipeline.metrics()
    assert (metrics.open_impressions, metrics.pending_records, metrics.held_facts) == (0, 0, 0)
    assert_every_record_has_left_by_one_door_or_is_still_there(pipeline, output, log)


@pytest.mark.parametrize("seed", range(10))
def test_a_dozen_records_and_a_cut_at_every_turn(seed: int) -> None:
    rng = random.Random(seed)
    log = traffic(seed, 12, rng.choice([10, 3_000, 60_000]), lambda n: "ab"[n % 2] + str(n % 5))
    settings = msgspec.structs.replace(
        SETTINGS,
        cuts=Cuts(cut_interval_ms=rng.choice([1, 7, 100, 1_000])),
        batching=Batching(batch_size=3, batch_interval_ms=rng.choice([1, 50, 5_000])),
    )
    whole, output = run(log, settings, 100)
    assert_every_record_has_left_by_one_door_or_is_still_there(whole, output, log)
    again, other = run(log, settings, 1)
    assert other.files == output.files
    assert again.metrics() == whole.metrics()
