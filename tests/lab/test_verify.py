"""Verify against a joiner of another kind: one that steps through time, record by record, over small wild logs."""

import base64
import gzip
import heapq
import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import duckdb
import pytest
import zstandard

from streaming.lab.verify import Verdict, verify
from streaming.lab.verify_tables import DOORS, Envelope, Refused, VerifyError
from streaming.settings import Fields, SettingsError

BASE_MS = 1_700_000_000_000
KINDS = ("impression", "click", "conversion")
STEMS = ("impressions", "clicks", "conversions")
SLOTS = ("click", "observed", "settled", "outcome")
SETTINGS = """
[windows]
click_window_ms = {click_window}
observation_window_ms = 5
attribution_window_ms = {attribution_window}
[event_time]
out_of_orderness_ms = 10
clock_skew_ms = 3
alignment_ms = 11
orphan_hold_ms = {hold}
future_skew_ms = 60
[labels]
method = "{method}"
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


@dataclass
class Joiner:
    """State, an agenda of what is due when, and a clock that only `advance` moves."""

    click_window: int
    attribution_window: int
    hold: int
    method: str
    now: int = 0
    agenda: list[tuple] = field(default_factory=list)
    ticket: Iterator[int] = field(default_factory=count)
    shown: dict[str, Shown] = field(default_factory=dict)
    held: dict[str, list[Record]] = field(default_factory=lambda: defaultdict(list))
    late: set[str] = field(default_factory=set)
    examples: list[dict] = field(default_factory=list)
    doors: dict[str, list[Record]] = field(default_factory=lambda: {door: [] for door in DOORS})

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
        self.at(close, 1, (record.id, 0), self.emit, shown, "click", close)
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
            if self.method == "window":
                due = max(shown.click_ms + 5, self.now)
                self.at(due, 1, (record.id, 1), self.emit, shown, "observed", due)
            if self.method == "mature":
                self.at(shown.outcome_due, 1, (record.id, 2), self.emit, shown, "settled", shown.outcome_due)
            self.at(shown.outcome_due, 1, (record.id, 3), self.emit, shown, "outcome", shown.outcome_due)
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

    def emit(self, shown: Shown, slot: str, due: int) -> None:
        conversion_ms = None if shown.conversion is None else max(shown.conversion.t, shown.click_ms)
        is_soon = conversion_ms is not None and conversion_ms - shown.click_ms <= 5
        kind, label = {
            "click": ("UNCLICKED" if shown.click_ms is None else "CLICKED", False),
            "observed": ("IMMEDIATE_POSITIVE" if is_soon else "OBSERVED_NEGATIVE", is_soon),
            "settled": ("MATURED", conversion_ms is not None),
            "outcome": ("OUTCOME", conversion_ms is not None),
        }[slot]
        value = None if shown.conversion is None else shown.conversion.value
        row = {"kind": kind, "slot": slot, "p": 0, "due_ms": due, "impression_id": shown.record.id}
        row |= {"impression_ms": shown.record.t, "click_ms": shown.click_ms, "conversion_ms": conversion_ms}
        self.examples.append({**row, "converted": label, "value": value, "pos": 1.0, "neg": 0.0, "step": 1})
        if slot == "outcome" and self.method == "oracle":
            self.examples.append({**self.examples[-1], "kind": "ORACLE", "slot": "observed", "due_ms": shown.click_due})


def is_future(
    record: Record, own: list[Record], everyone: list[Record], contradicted: set[str], windows: tuple
) -> bool:
    here = next(i for i, other in enumerate(own) if other is record)
    following = own[here + 1 : here + 17]
    if following:
        return record.t > max(other.t for other in following) + 60
    others = [other.t for other in everyone if other is not record and other.at not in contradicted]
    return bool(others) and record.t > max(others) + 60 + windows[record.kind]


@dataclass
class Run:
    examples: list[dict]
    doors: dict[str, list[dict]]
    settings: str
    figures: dict[str, int]


def simulate(files: dict[str, list[bytes]], method: str = "mature", *, close: bool = False, **more: int) -> Run:
    sizes = {"click_window": 20, "attribution_window": 50, "hold": 23, **more}
    windows = (0, sizes["click_window"], sizes["attribution_window"])
    joiner = Joiner(method=method, **sizes)
    read = parsed(files)
    watermarks: dict[str, int | None] = {}
    joiner.doors["dead_letters"] = [record for records in read for record in records if record.id is None]
    queues = [[record for record in records if record.id is not None] for records in read]
    everyone = [record for records in queues for record in records]
    contradicted = {r.at for own in queues for r in own[:-1] if is_future(r, own, everyone, set(), windows)}
    for own in queues:
        joiner.doors["future"] += [record for record in own if is_future(record, own, everyone, contradicted, windows)]
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
    final = float("inf") if close else max(seen, default=0) - 10
    joiner.advance(final)
    joiner.examples.sort(key=lambda row: (row["due_ms"], row["impression_id"], SLOTS.index(row["slot"])))
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


def broken(verdict: Verdict) -> set[str]:
    return {check.name for check in verdict.checks if not check.agreed}


# --- agreement -------------------------------------------------------------------------------------------------------

WORLDS = [
    {"method": "mature"},
    {"method": "window"},
    {"method": "oracle"},
    {"method": "window", "hold": 40, "close": True},
    {"method": "mature", "click_window": 30, "attribution_window": 30, "hold": 33},
]


@pytest.mark.parametrize(("seed", "world"), list(enumerate(WORLDS)))
def test_a_joiner_that_steps_through_time_is_agreed_with(tmp_path: Path, world: dict, seed: int) -> None:
    files = wild_log(seed)
    run = simulate(files, **world)
    verdict = verify(write_log(tmp_path, files), write_run(tmp_path, run), close_at_end=world.get("close", False))
    assert verdict.agreed, "\n".join(verdict.lines())
    assert all(run.doors.values()), "a world in which a door stays shut proves nothing about it"
    assert verdict.clicks.elsewhere["unaccounted"] == 0


def test_the_wild_logs_hold_what_they_are_to_prove() -> None:
    runs = [simulate(wild_log(seed)) for seed in range(3)]
    rows = [row for run in runs for row in run.examples]
    settled = [row for row in rows if row["kind"] == "MATURED"]
    observed = [
        row for seed in range(3) for row in simulate(wild_log(seed), "window").examples if row["slot"] == "observed"
    ]
    assert any(row["due_ms"] > row["click_ms"] + 5 for row in observed), (
        "no click so late that its first label waits for it"
    )
    assert any(row["click_ms"] == row["impression_ms"] for row in settled), (
        "no click at, or skewed before, its impression"
    )
    slots = [(row["impression_id"], row["slot"]) for row in runs[0].examples]
    assert len(slots) > len(set(slots)), "no id that comes back after it was forgotten"
    assert all(any(run.figures[name] for run in runs) for name in runs[0].figures)


def test_parquet_and_other_names_are_read(tmp_path: Path) -> None:
    facts = {"impressions": {"a": 0, "b": 1, "c": 50, "d": 100}, "clicks": {"a": 5}, "conversions": {"a": 9}}
    run = simulate(
        {
            f"{stem}.jsonl": [
                json.dumps({"impression_id": one, "event_time_ms": BASE_MS + at, "features": {}}).encode()
                for one, at in times.items()
            ]
            for stem, times in facts.items()
        }
    )
    run.settings += """
        [log.clicks]
        impression_id = "meta.shown"
        event_time = "when.exactly"
        time_unit = "iso8601"
        [log.conversions]
        event_time = "s"
        time_unit = "s"
    """
    (tmp_path / "log").mkdir()
    # A struct with a NaN in it, and its JSON text, are both an object of features.
    for part, (features, ids) in enumerate([("{'x': 'nan'::DOUBLE}", "ab"), ("""'{"x": 1}'""", "cd")]):
        values = ", ".join(f"('{one}', {BASE_MS + facts['impressions'][one]}, {features})" for one in ids)
        (tmp_path / "log" / "impressions").mkdir(exist_ok=True)
        with duckdb.connect() as database:
            database.execute(
                f"COPY (SELECT * FROM (VALUES {values}) row(impression_id, event_time_ms, features)) "
                f"TO '{tmp_path}/log/impressions/{part}.parquet'"
            )
    when = datetime.fromtimestamp((BASE_MS + 5) / 1000, UTC).isoformat()
    (tmp_path / "log" / "clicks.jsonl").write_text(json.dumps({"meta": {"shown": "a"}, "when.exactly": when}))
    (tmp_path / "log" / "conversions.jsonl").write_text(json.dumps({"impression_id": "a", "s": (BASE_MS + 9) / 1000}))
    verdict = verify(tmp_path / "log", write_run(tmp_path, run))
    assert [row["kind"] for row in run.examples] == ["CLICKED", "UNCLICKED", "MATURED", "OUTCOME", "UNCLICKED"]
    assert verdict.agreed, "\n".join(verdict.lines())


# --- planted differences ---------------------------------------------------------------------------------------------


Plant = dict[str, str]  # check -> words of the difference it must tell


def first(run: Run, **wanted: object) -> dict:
    """The first such example that no other plant has touched."""
    row = next(
        row for row in run.examples if all(row[name] == value for name, value in wanted.items()) and "plant" not in row
    )
    row["plant"] = True
    return row


def lose_an_example(run: Run) -> Plant:
    row = first(run, kind="UNCLICKED")
    run.examples.remove(row)
    return {"examples": f"{row['impression_id']} click: missing, expected"}


def make_one_up(run: Run) -> Plant:
    row = first(run, kind="MATURED")
    run.examples.insert(run.examples.index(row), row | {"slot": "observed", "kind": "OBSERVED_NEGATIVE"})
    return {"examples": f"{row['impression_id']} observed: not expected, got"}


def turn_a_label(run: Run) -> Plant:
    first(run, kind="MATURED", converted=True)["converted"] = False
    return {"examples": "settled: converted expected True, got False"}


def call_it_clicked(run: Run) -> Plant:
    first(run, kind="UNCLICKED")["kind"] = "CLICKED"
    return {"examples": "kind expected UNCLICKED, got CLICKED"}


def pay_more(run: Run) -> Plant:
    first(run, kind="OUTCOME", value=2.5)["value"] = 3.5
    return {"examples": "outcome: value expected 2.5, got 3.5"}


def forget_the_click(run: Run) -> Plant:
    row = first(run, kind="CLICKED", conversion_ms=None)
    clicked, row["click_ms"] = row["click_ms"], None
    return {"examples": f"click: click_ms expected {clicked}, got None"}


def invent_a_conversion(run: Run) -> Plant:
    row = first(run, kind="MATURED", conversion_ms=None)
    row["conversion_ms"] = row["click_ms"]
    return {"examples": f"settled: conversion_ms expected None, got {row['click_ms']}"}


def say_it_late(run: Run) -> Plant:
    row = run.examples[-1]
    row["due_ms"] += 1
    return {"examples": f"due_ms expected {row['due_ms'] - 1}, got {row['due_ms']}"}


def come_from_elsewhere(run: Run) -> Plant:
    first(run, kind="UNCLICKED")["p"] = 1
    return {"examples": "p expected 0, got 1"}


def know_too_much(run: Run) -> Plant:
    row = first(run, kind="CLICKED", conversion_ms=None)
    row["conversion_ms"] = row["due_ms"] + 1
    words = f"{row['impression_id']} click"
    return {"examples": words, "no fact after due_ms": words}


def swap_two(run: Run) -> Plant:
    here = next(i for i, row in enumerate(run.examples) if row["due_ms"] < run.examples[i + 1]["due_ms"])
    run.examples[here : here + 2] = run.examples[here + 1], run.examples[here]
    return {"in order of due_ms": f"examples.jsonl.zst:{here + 2}"}


def say_it_twice(run: Run) -> Plant:
    row = first(run, kind="MATURED")
    run.examples.insert(run.examples.index(row), row)
    return {"one example a slot": f"{row['impression_id']} settled: expected 1, got 2"}


def drop_a_record(run: Run) -> Plant:
    words = f" {run.doors['orphans'].pop()['at']}"
    return {
        "orphans": f"{words}: missing",
        "one door for every record": f"{words.strip()}: expected exactly one door, got",
    }


def take_another_door(run: Run) -> Plant:
    row = run.doors["late"].pop()
    run.doors["dead_letters"].append(row | {"door": "dead_letters"})
    return {"late": f" {row['at']}: missing", "dead_letters": f" {row['at']}: not expected"}


def stand_elsewhere(run: Run) -> Plant:
    row = run.doors["duplicates"][0]
    at, row["at"] = row["at"], "clicks.jsonl:100000"
    return {
        "duplicates": f" {at}: missing",
        "one door for every record": "clicks.jsonl:100000: expected no such record, got duplicates",
    }


def leave_by_two_doors(run: Run) -> Plant:
    row = run.doors["late"][0]
    run.doors["orphans"].append(row | {"door": "orphans"})
    return {"orphans": f" {row['at']}: not expected", "one door for every record": "got late and orphans"}


def accept_a_broken_line(run: Run) -> Plant:
    return {"dead_letters": f" {run.doors['dead_letters'].pop(0)['at']}: missing"}


def alter(door: str, name: str, value: object) -> Callable[[Run], Plant]:
    def plant(run: Run) -> Plant:
        row = next(row for row in reversed(run.doors[door]) if "plant" not in row)
        row |= {name: value, "plant": True}
        return {"doors named as their file" if name == "door" else door: f"got {value}"}

    return plant


PLANTS: dict[str, list[Callable[[Run], Plant]]] = {
    "labels": [lose_an_example, make_one_up, turn_a_label, call_it_clicked, pay_more, forget_the_click],
    "times": [invent_a_conversion, say_it_late, come_from_elsewhere],
    "laws": [know_too_much, say_it_twice, swap_two],
    "doors": [drop_a_record, take_another_door, stand_elsewhere, leave_by_two_doors, accept_a_broken_line],
    "records": [
        alter("future", "door", "late"),
        alter("future", "impression_id", "somebody"),
        alter("out_of_window", "event_time_ms", BASE_MS),
        alter("out_of_window", "record", "{}"),
        alter("late", "watermark_ms", BASE_MS),
    ],
}


@pytest.fixture(scope="module")
def wild(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, list[bytes]], Path]:
    files = wild_log(0, 300, 40)
    return files, write_log(tmp_path_factory.mktemp("wild"), files)


@pytest.mark.parametrize("plants", list(PLANTS.values()), ids=list(PLANTS))
def test_planted_differences_are_found(wild: tuple, tmp_path: Path, plants: list[Callable[[Run], Plant]]) -> None:
    files, log = wild
    run = simulate(files)
    planted = [difference for plant in plants for difference in plant(run).items()]
    verdict = verify(log, write_run(tmp_path, run))
    told = {check.name: check.differences for check in verdict.checks}
    for name, words in planted:
        assert any(words in difference for difference in told[name]), (name, words, told[name])
    assert not verdict.agreed
    assert broken(verdict) - {name for name, _ in planted} <= {"examples", "one door for every record"}
    assert any("DIFFERS" in line for line in verdict.lines())


def test_every_planted_difference_is_counted(wild: tuple, tmp_path: Path) -> None:
    files, log = wild
    run = simulate(files)
    for plant in PLANTS["labels"]:
        plant(run)
    run.figures["held_facts"] += 1
    verdict = verify(log, write_run(tmp_path, run))
    assert verdict.checks[0].broken == len(PLANTS["labels"])
    assert broken(verdict) == {"examples", "metrics.json held_facts"}


def test_differences_are_counted_and_ten_are_told(wild: tuple, tmp_path: Path) -> None:
    files, log = wild
    run = simulate(files)
    run.examples = run.examples[:-15]
    examples = verify(log, write_run(tmp_path, run)).checks[0]
    assert (examples.broken, len(examples.differences)) == (15, 10)
    assert examples.expected == examples.got + 15


def test_clicks_that_went_nowhere_are_told(wild: tuple, tmp_path: Path) -> None:
    files, log = wild
    run = simulate(files)
    whole = verify(log, write_run(tmp_path, run)).clicks
    run.examples.remove(first(run, kind="CLICKED"))
    less = verify(log, write_run(tmp_path, run)).clicks
    assert whole.logged == sum(record.id is not None and record.kind == 1 for own in parsed(files) for record in own)
    assert whole.share == whole.clicked / whole.logged
    assert (less.clicked, less.elsewhere["unaccounted"]) == (whole.clicked - 1, 1)


def test_a_run_that_says_it_closed_is_taken_at_its_word(wild: tuple, tmp_path: Path) -> None:
    files, log = wild
    run = write_run(tmp_path, simulate(files, close=True))
    (run / "metrics.json").unlink()
    assert not verify(log, run).agreed
    (run / "run.json").write_text('{"close_at_end": true}')
    verdict = verify(log, run)
    assert verdict.agreed, "\n".join(verdict.lines())
    assert not any(verdict.open.values())


def test_a_log_of_one_stream_and_an_empty_run_agree(tmp_path: Path) -> None:
    files = {
        "impressions.jsonl": [json.dumps({"impression_id": "a", "event_time_ms": BASE_MS, "features": {}}).encode()]
    }
    verdict = verify(write_log(tmp_path, files), write_run(tmp_path, simulate(files)))
    assert verdict.agreed
    assert verdict.clicks.share is None
    assert verdict.open["pending_records"] == 1


def test_stages_are_told(wild: tuple, tmp_path: Path) -> None:
    told: list[str] = []
    verify(wild[1], write_run(tmp_path, simulate(wild[0])), told.append)
    assert told[0].startswith("reading impressions")
    assert told[-1] == "comparing"


# --- refusals --------------------------------------------------------------------------------------------------------


def test_a_run_without_examples_is_refused(wild: tuple, tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text("")
    with pytest.raises(VerifyError, match=r"holds no examples\.jsonl\.zst"):
        verify(wild[1], tmp_path)
    with pytest.raises(SettingsError, match="does not exist"):
        verify(wild[1], tmp_path / "nowhere")


def test_a_run_in_another_form_is_refused(wild: tuple, tmp_path: Path) -> None:
    run = write_run(tmp_path, simulate(wild[0]))
    (run / "late.jsonl").write_text('{"door": "late"}\n')
    with pytest.raises(VerifyError, match=r"late\.jsonl:1 is not as docs/formats\.md says"):
        verify(wild[1], run)
    (run / "late.jsonl").unlink()
    (run / "run.json").write_text("{")
    with pytest.raises(VerifyError, match=r"run\.json is not JSON"):
        verify(wild[1], run)
    (run / "run.json").unlink()
    (run / "metrics.json").write_text("{")
    with pytest.raises(VerifyError, match=r"metrics\.json is not JSON"):
        verify(wild[1], run)


def test_labels_that_cannot_be_verified_are_refused(wild: tuple, tmp_path: Path) -> None:
    run = write_run(tmp_path, simulate(wild[0]))
    (run / "settings.toml").write_text('[labels]\nmethod = "defer"')
    with pytest.raises((VerifyError, SettingsError), match="defer"):
        verify(wild[1], run)


def test_a_log_that_cannot_be_read_is_refused(wild: tuple, tmp_path: Path) -> None:
    run = write_run(tmp_path, simulate(wild[0]))
    with pytest.raises(VerifyError, match="holds no impressions, clicks or conversions"):
        verify(tmp_path, run)
    log = tmp_path / "log"
    log.mkdir()
    (log / "clicks.jsonl.gz").write_bytes(gzip.compress(b"{}\n" * 9_999)[:-20])
    with pytest.raises(VerifyError, match="breaks off after line"):
        verify(log, run)
    (log / "clicks.jsonl").write_text("")
    with pytest.raises(VerifyError, match="holds clicks twice"):
        verify(log, run)


@pytest.mark.parametrize(
    ("unit", "told", "time_ms"),
    [
        ("ms", "1700000000123", 1700000000123),
        ("s", "1700000000", 1700000000000),
        ("s", "1700000000.123", 1700000000123),
        ("us", "1700000000123999", 1700000000123),
        ("iso8601", '"2023-11-14T22:13:20.123999Z"', 1700000000123),
        ("iso8601", '"2023-11-14T23:13:20+01:00"', 1700000000000),
        ("iso8601", '"2023-11-14 22:13:20"', 1700000000000),
        ("ms", "true", None),
        ("ms", "1700000000123.0", None),
        ("us", "1700000000123999.0", None),
        ("s", '"1700000000"', None),
        ("s", "1e400", None),
        ("iso8601", "1700000000123", None),
        ("iso8601", '"yesterday"', None),
        ("ms", "99999999999", None),
        ("ms", "100000000000001", None),
    ],
)
def test_times_are_read_in_their_unit_or_refused(unit: str, told: str, time_ms: int | None) -> None:
    read = Envelope(1, Fields(time_unit=unit)).read  # type: ignore[arg-type]
    line = f'{{"impression_id": "a", "event_time_ms": {told}}}'.encode()
    if time_ms is None:
        with pytest.raises(Refused):
            read(line)
    else:
        assert read(line) == ("a", time_ms, None)


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        (0, '"features": []'),
        (0, '"features": {}, "served": 1'),
        (0, '"features": {}, "served": {"pctr": 0.1}'),
        (0, '"features": {}, "served": {"pctr": 0.1, "pcvr": "0.1"}'),
        (2, '"value": true'),
        (2, '"value": "1"'),
        (2, '"value": 1e400'),
        (2, f'"value": 1{"0" * 400}'),
        (1, '"impression_id": "\\ud800"'),
        (1, '"impression_id": null'),
    ],
)
def test_a_mistyped_envelope_is_refused(kind: int, more: str) -> None:
    with pytest.raises(Refused):
        Envelope(kind, Fields()).read(f'{{"impression_id": "a", "event_time_ms": 1700000000000, {more}}}'.encode())


def test_the_last_of_two_equal_keys_counts() -> None:
    line = b'{"impression_id": "a", "event_time_ms": 1, "event_time_ms": 1700000000000, "value": 3, "value": null}'
    assert Envelope(2, Fields()).read(line) == ("a", 1700000000000, None)
