"""Small wild logs, and a joiner that steps through time over them, record by record: the other hand to verify's SQL."""

import base64
import gzip
import heapq
import json
import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from math import inf
from pathlib import Path

import zstandard

from models.delay_edges import edges_ms, horizons_ms
from streaming.lab.verify_tables import DOORS

BASE_MS = 1_700_000_000_000
KINDS = ("impression", "click", "conversion")
STEMS = ("impressions", "clicks", "conversions")
SLOTS = ("click", "observed", "revisit", "aged", "settled", "outcome")
SEES = {
    "mature": "MATURED",
    "window": "IP ON",
    "fnw": "IP ON DP",
    "fnc": "IP ON DP",
    "es_dfm": "IP ON DP",
    "defer": "IP ON DP RN",
    "defuse": "IP ON DP",
    "ddfm": "IP ON DP RN",
    "survival": "IP ON REVISIT DP RN",
    "bi_defuse": "IP ON DP",
    "dfm": "IP ON REVISIT DP RN",
    "oracle": "ORACLE",
}
SETTINGS = """
[windows]
click_window_ms = {click_window}
observation_window_ms = {observation_window}
attribution_window_ms = {attribution_window}
[event_time]
out_of_orderness_ms = 10
clock_skew_ms = 3
alignment_ms = 11
orphan_hold_ms = {hold}
future_skew_ms = 60
[labels]
method = "{method}"
horizons = {horizons}
"""


# --- a log, and how it lies on disk ----------------------------------------------------------------------------------


@dataclass
class Record:
    kind: int
    at: str
    raw: bytes
    id: str | None = None  # None: malformed
    t: int = 0
    value: float | None = None


def wild_log(seed: int, size: int = 400, ids: int = 40) -> dict[str, list[bytes]]:
    """Lines by file name: out of order, early, twice, of nobody, from the future, broken; ids come back."""
    rng = random.Random(seed)
    facts: list[tuple[int, bytes]] = []

    def write(kind: int, identity: str, t: int, **more: object) -> None:
        line = {"impression_id": identity, "event_time_ms": BASE_MS + t, **more}
        copies = 1 if rng.random() < 0.93 else 2
        facts.extend(
            (kind, t + rng.choice([0, 0, 5, 9, 14, 18, 30, 60]), json.dumps(line).encode()) for _ in range(copies)
        )

    for _ in range(size // 3):
        identity, shown = f"i{rng.randrange(ids)}é", rng.randrange(size)
        if rng.random() < 0.9:
            write(0, identity, shown, features={"x": rng.randrange(9)})
        for _ in range(rng.choice([0, 1, 1, 2])):
            clicked = shown + rng.choice([-9, -3, -1, 0, 1, 5, 19, 20, 21, 40])
            write(1, identity, clicked, event_id=rng.randrange(3))
            for _ in range(rng.choice([0, 1, 1, 2])):
                value = rng.choice([None, 1, 2.5])
                write(2, identity, clicked + rng.choice([-9, -3, 0, 4, 5, 6, 45, 50, 51]), value=value)
    last = rng.randrange(6)
    files: dict[str, list[bytes]] = {}
    for kind, stem in enumerate(STEMS):
        lines = [line for _, line in sorted((at, line) for one, at, line in facts if one == kind)]
        for _ in range(2):
            lines.insert(
                rng.randrange(len(lines)), json.dumps({"impression_id": "f", "event_time_ms": BASE_MS + 9_999}).encode()
            )
        for bad in MALFORMED[0] + (MALFORMED[1] if kind == 0 else MALFORMED[2] if kind == 2 else []) + [b"", b"  \t"]:
            lines.insert(rng.randrange(len(lines)), bad)
        if kind == last:  # nothing behind it contradicts it, but the other files may
            stamp = {
                "impression_id": "i1é",
                "event_time_ms": BASE_MS + size + rng.choice([20, 100, 300]),
                "features": {},
            }
            lines.append(json.dumps(stamp).encode())
        cut = rng.randrange(len(lines))
        shape = rng.choice([[""], [".gz"], [".zst"], ["", ".zst"], [".gz", ""]])
        if len(shape) == 1:
            files[f"{stem}.jsonl{shape[0]}"] = lines
        else:
            for part, suffix, some in zip("ab", shape, (lines[:cut], lines[cut:]), strict=True):
                files[f"{stem}/{part}.jsonl{suffix}"] = some
    return files


MALFORMED = (
    [
        b"{",
        b"[1]",
        b"null",
        b'{"impression_id": "m", "event_time_ms": 1700000000000, "features": {}, "x": "\xff"}',
        b'{"impression_id": "m", "event_time_ms": 1700000000000, "features": {}, "x": NaN}',
        b'{"impression_id": "", "event_time_ms": 1700000000000, "features": {}}',
        b'{"impression_id": 7, "event_time_ms": 1700000000000, "features": {}}',
        b'{"impression_id": "m", "features": {}}',
        b'{"impression_id": "m", "event_time_ms": true, "features": {}}',
        b'{"impression_id": "m", "event_time_ms": 1700000000000.0, "features": {}}',
        b'{"impression_id": "m", "event_time_ms": 1700000000, "features": {}}',
        b'{"impression_id": "m", "event_time_ms": 1700000000000000, "features": {}}',
    ],
    [
        b'{"impression_id": "m", "event_time_ms": 1700000000000}',
        b'{"impression_id": "m", "event_time_ms": 1700000000000, "features": []}',
    ],
    [
        b'{"impression_id": "m", "event_time_ms": 1700000000000, "value": true}',
        b'{"impression_id": "m", "event_time_ms": 1700000000000, "value": "1"}',
    ],
)


def parsed(files: dict[str, list[bytes]]) -> list[list[Record]]:
    """The records of every file. What is malformed is known by what was planted, not by a rule."""
    broken = {line for group in MALFORMED for line in group}
    read = []
    for name, lines in sorted(
        files.items(), key=lambda item: (STEMS.index(item[0].split("/")[0].split(".")[0]), item[0])
    ):
        kind = STEMS.index(name.split("/")[0].split(".")[0])
        records = []
        for number, raw in enumerate(lines, 1):
            record = Record(kind, f"{name}:{number}", raw)
            if raw.strip() and (
                raw not in broken or (raw in MALFORMED[1] and kind != 0) or (raw in MALFORMED[2] and kind != 2)
            ):
                told = json.loads(raw)
                if not (kind == 0 and "features" not in told):
                    record.id, record.t, record.value = told["impression_id"], told["event_time_ms"], told.get("value")
            if raw.strip():
                records.append(record)
        read.append(records)
    return read


def compress(name: str, lines: list[bytes]) -> bytes:
    halves = [b"".join(line + b"\n" for line in lines[: len(lines) // 2]), b"\n".join(lines[len(lines) // 2 :])]
    if name.endswith(".gz"):
        return b"".join(map(gzip.compress, halves))
    if name.endswith(".zst"):
        return b"".join(map(zstandard.compress, halves))
    return b"".join(halves)


# --- a joiner that steps through time --------------------------------------------------------------------------------


@dataclass
class Shown:
    record: Record
    click_ms: int | None = None
    click_due: int = 0
    outcome_due: int = 0
    leaves: int = 0
    conversion: Record | None = None
    is_doubted: bool = False  # it was told to be an OBSERVED_NEGATIVE


@dataclass
class Joiner:
    """State, an agenda of what is due when, and a clock that only `advance` moves."""

    click_window: int
    observation_window: int
    attribution_window: int
    hold: int
    horizons: int
    method: str
    now: int = 0
    reached: float = inf  # once known, the watermark that the log itself comes to
    agenda: list[tuple] = field(default_factory=list)
    ticket: Iterator[int] = field(default_factory=count)
    shown: dict[str, Shown] = field(default_factory=dict)
    held: dict[str, list[Record]] = field(default_factory=lambda: defaultdict(list))
    late: set[str] = field(default_factory=set)
    examples: list[dict] = field(default_factory=list)
    doors: dict[str, list[Record]] = field(default_factory=lambda: {door: [] for door in DOORS})

    def __post_init__(self) -> None:
        self.sees = SEES[self.method].split()
        self.first_look = 0 if self.method in ("fnw", "fnc") else self.observation_window
        windows = self.first_look, self.attribution_window, self.horizons
        self.looks, self.edges = horizons_ms(*windows)[1:-1], edges_ms(*windows)[1:]

    def at(self, when: int, phase: int, order: tuple, action, *arguments) -> None:
        heapq.heappush(self.agenda, (when, phase, order, next(self.ticket), action, arguments))

    def advance(self, watermark: float) -> None:
        while self.agenda and self.agenda[0][0] < watermark:
            self.now, *_, action, arguments = heapq.heappop(self.agenda)
            action(*arguments)

    def arrive(self, record: Record, watermark: int, number: int) -> None:
        self.advance(watermark)
        effect = (self.impression, self.click, self.conversion)[record.kind]
        if record.t < watermark:
            self.late.add(record.at)
            self.now = watermark
            effect(record)
        else:
            self.at(record.t, 0, (record.kind, record.id, record.raw, number), effect, record)

    def impression(self, record: Record) -> None:
        if record.id in self.shown:
            self.doors["duplicates"].append(record)
            return
        close = record.t + self.click_window
        if self.now > close:
            self.doors["late"].append(record)
            return
        shown = self.shown[record.id] = Shown(record, leaves=close)
        self.emit_at(close, shown, "click")
        self.at(close + self.hold, 2, (), self.forget, shown)
        waiting = sorted(self.held.pop(record.id, []), key=lambda held: (held.kind, held.t, held.raw))
        for held in waiting:
            (self.click if held.kind == 1 else self.conversion)(held, again=True)

    def click(self, record: Record, again: bool = False) -> None:
        shown = self.shown.get(record.id)
        if shown is None:
            return self.wait(record, again)
        lead = record.t - shown.record.t
        if shown.click_ms is not None:
            self.doors["duplicates"].append(record)
        elif not -3 <= lead <= self.click_window:
            self.doors["out_of_window"].append(record)
        elif self.now > shown.record.t + self.click_window:
            assert record.at in self.late
            self.doors["late"].append(record)
        else:
            shown.click_ms = max(record.t, shown.record.t)
            shown.click_due = max(shown.click_ms, self.now)
            shown.leaves = shown.outcome_due = shown.click_ms + self.attribution_window
            self.at(shown.leaves + self.hold, 2, (), self.forget, shown)
            if "ON" in self.sees:
                self.emit_at(max(shown.click_ms + self.first_look, self.now), shown, "observed")
            if "REVISIT" in self.sees:
                for k, age in enumerate(self.looks, 1):
                    self.emit_at(max(shown.click_ms + age, self.now), shown, f"revisit_{k}")
            if "RN" in self.sees or "MATURED" in self.sees:
                self.emit_at(shown.outcome_due, shown, "settled")
            self.emit_at(shown.outcome_due, shown, "outcome")
            for held in sorted(self.held.pop(record.id, []), key=lambda held: (held.t, held.raw)):
                self.conversion(held, again=True)
        return None

    def conversion(self, record: Record, again: bool = False) -> None:
        shown = self.shown.get(record.id)
        if shown is None or shown.click_ms is None:
            return self.wait(record, again)
        if shown.conversion is not None:
            self.doors["duplicates"].append(record)
        elif not -3 <= record.t - shown.click_ms <= self.attribution_window:
            self.doors["out_of_window"].append(record)
        elif self.now > shown.outcome_due:
            assert record.at in self.late
            self.doors["late"].append(record)
        else:
            shown.conversion = record
            if "DP" in self.sees:
                self.emit_at(max(record.t, self.now), shown, "settled", is_news=True)
            converted_ms = max(record.t, shown.click_ms)
            for k, age in enumerate(self.edges, 1):
                if converted_ms <= shown.click_ms + age:
                    self.emit_at(max(shown.click_ms + age, self.now), shown, f"aged_{k}")
        return None

    def wait(self, record: Record, again: bool) -> None:
        if self.now > record.t + self.hold:
            self.doors["late"].append(record)
            return
        self.held[record.id].append(record)
        if not again:
            self.at(record.t + self.hold, 2, (), self.give_up, record)

    def give_up(self, record: Record) -> None:
        if any(held is record for held in self.held.get(record.id, [])):
            self.held[record.id] = [held for held in self.held[record.id] if held is not record]
            self.doors["late" if record.at in self.late else "orphans"].append(record)

    def forget(self, shown: Shown) -> None:
        if self.now == shown.leaves + self.hold and self.shown.get(shown.record.id) is shown:
            del self.shown[shown.record.id]

    def emit_at(self, due: int, shown: Shown, slot: str, is_news: bool = False) -> None:
        self.at(due, 1, (shown.record.id, rank(slot), not is_news), self.emit, shown, slot, due, is_news)

    def emit(self, shown: Shown, slot: str, due: int, is_news: bool) -> None:
        conversion_ms = None if shown.conversion is None else max(shown.conversion.t, shown.click_ms)
        has_converted = conversion_ms is not None
        kind: str | None
        label = has_converted
        if slot == "click":
            kind, label = ("UNCLICKED" if shown.click_ms is None else "CLICKED"), False
        elif slot == "observed":
            label = has_converted and conversion_ms - shown.click_ms <= self.first_look
            kind, shown.is_doubted = ("IMMEDIATE_POSITIVE" if label else "OBSERVED_NEGATIVE"), not label
        elif slot == "outcome":
            kind = "OUTCOME"
        elif slot.startswith("aged"):
            kind = "AGED"
        elif slot.startswith("revisit"):
            kind = None if has_converted else "REVISIT"
        elif is_news:
            kind = "DELAYED_POSITIVE" if shown.is_doubted else None
        elif "MATURED" in self.sees:
            kind = "MATURED"
        else:
            kind = None if has_converted else "REAL_NEGATIVE"
        if kind is None:
            return
        value = None if shown.conversion is None else shown.conversion.value
        row = {"kind": kind, "slot": slot, "p": 0, "due_ms": due, "impression_id": shown.record.id}
        row |= {"impression_ms": shown.record.t, "click_ms": shown.click_ms, "conversion_ms": conversion_ms}
        self.examples.append({**row, "converted": label, "value": value, "pos": 1.0, "neg": 0.0, "step": 1})
        if slot == "outcome" and "ORACLE" in self.sees and due < self.reached:
            self.examples.append({**self.examples[-1], "kind": "ORACLE", "slot": "observed", "due_ms": shown.click_due})


def rank(slot: str) -> tuple[int, int]:
    """Where a slot stands among those due together."""
    name, _, k = slot.partition("_")
    return SLOTS.index(name), int(k or 0)


def from_the_future(files: list[list[Record]], leads: tuple[int, int, int]) -> list[Record]:
    """Records ahead of the next 16 of their file; near its end, of all else in it; the last one, of all else in the log."""
    future: list[Record] = []
    for own in files:
        for here, record in enumerate(own[:-1]):
            following = [other.t for other in own[here + 1 : here + 17]]
            before = [other.t for other in own[:here] if other not in future]
            is_near_end = len(following) < 16
            against, leeway = (following + before, 60 + leads[record.kind]) if is_near_end else (following, 60)
            future += [record] if record.t > max(against) + leeway else []
    everyone = [record for own in files for record in own if record not in future]
    for last in [own[-1] for own in files if own]:
        others = [other.t for other in everyone if other is not last]
        future += [last] if others and last.t > max(others) + 60 + leads[last.kind] else []
    return future


@dataclass
class Run:
    examples: list[dict]
    doors: dict[str, list[dict]]
    settings: str
    figures: dict[str, int]


def simulate(files: dict[str, list[bytes]], method: str = "mature", *, close: bool = False, **more: int) -> Run:
    sizes = {"click_window": 20, "observation_window": 5, "attribution_window": 50, "hold": 23, "horizons": 6, **more}
    joiner = Joiner(method=method, **sizes)
    read = parsed(files)
    watermarks: dict[str, int | None] = {}
    joiner.doors["dead_letters"] = [record for records in read for record in records if record.id is None]
    queues = [[record for record in records if record.id is not None] for records in read]
    joiner.doors["future"] = from_the_future(queues, (0, sizes["click_window"], sizes["attribution_window"]))
    future = {record.at for record in joiner.doors["future"]}
    queues = [[record for record in own if record.at not in future] for own in queues]
    seen = [0] * len(queues)
    number = 0
    while any(queues):
        file = min((own[0].t, i) for i, own in enumerate(queues) if own)[1]
        clocks = [max(seen[i], own[0].t) for i, own in enumerate(queues) if own]
        record = queues[file].pop(0)
        seen[file] = max(seen[file], record.t)
        watermarks[record.at] = min(clocks) - 10
        joiner.arrive(record, watermarks[record.at], number := number + 1)
    joiner.reached = max(seen, default=0) - 10
    final = inf if close else joiner.reached
    joiner.advance(final)
    joiner.examples.sort(key=lambda row: (row["due_ms"], row["impression_id"], rank(row["slot"])))
    rows = {
        door: [
            {"door": door, "kind": KINDS[r.kind], "reason": "…", "at": r.at, "impression_id": r.id}
            | {"event_time_ms": r.t if r.id else None, "watermark_ms": watermarks.get(r.at), **as_text(r.raw)}
            for r in records
        ]
        for door, records in joiner.doors.items()
    }
    waiting = [shown for shown in joiner.shown.values() if shown.leaves >= final]
    figures = {
        "open_impressions": len(waiting),
        "open_clicks": sum(shown.click_ms is not None for shown in waiting),
        "pending_records": sum(entry[1] == 0 for entry in joiner.agenda),
        "held_facts": sum(map(len, joiner.held.values())),
    }
    return Run(joiner.examples, rows, SETTINGS.format(method=method, **sizes), figures)


def as_text(raw: bytes) -> dict[str, str]:
    try:
        return {"record": raw.decode()}
    except UnicodeDecodeError:
        return {"record_base64": base64.b64encode(raw).decode()}


def write_log(folder: Path, files: dict[str, list[bytes]]) -> Path:
    for name, lines in files.items():
        (folder / "log" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "log" / name).write_bytes(compress(name, lines))
    return folder / "log"


def write_run(folder: Path, run: Run) -> Path:
    (folder / "run").mkdir(exist_ok=True)
    (folder / "run" / "settings.toml").write_text(run.settings)
    (folder / "run" / "metrics.json").write_text(json.dumps(run.figures))
    (folder / "run" / "examples.jsonl.zst").write_bytes(
        compress(".zst", [json.dumps(row).encode() for row in run.examples])
    )
    for door, rows in run.doors.items():
        (folder / "run" / f"{door}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "run"
