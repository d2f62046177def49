"""What came late is taught after all: once, by the truth, with the wrong label taken back; and the stream goes on as if nothing was."""

from __future__ import annotations

import json
import shutil
import signal
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
import zstandard
from fakes import KIND_OF, T0, clicked, converted, line_of, shown
from late_logs import LATE, MINUTE, late_settings, shop_log, told_log
from mortal import Mortals
from worlds import HOUR_MS, small_log, small_settings

from models.trainer import Learner
from models.weights import decode
from streaming.adapters.cut_directory import CutDirectory
from streaming.adapters.directory_source import read_version
from streaming.adapters.files import LogError
from streaming.adapters.run_directory import RunDirectoryError
from streaming.backfill import Backfill, BackfillReport
from streaming.cli import app
from streaming.corrections import MOST, Correction, correction
from streaming.events import Event
from streaming.features import FeatureReader
from streaming.late_facts import Truth
from streaming.ledger import Account
from streaming.publication import Gate
from streaming.recalibrating import Recalibrator
from streaming.replay import Replay
from streaming.set_aside import SetAside
from streaming.settings import Recalibrating, Settings, dump
from streaming.standing_run import BackfillError, StandingRun

CLEAN = {
    "redelivered_share": 0.0, "second_fact_share": 0.0, "orphan_share": 0.0, "out_of_window_share": 0.0, "view_through_share": 0.0,
    "malformed_share": 0.0, "future_share": 0.0, "feature_fault_share": 0.0, "clock_skew_share": 0.0, "disorder_share": 0.0,
}  # fmt: skip

Row = dict[str, Any]
Key = tuple[str, int]


def replayed(log: Path, run: Path, settings: Settings, *, resume: bool = False, close_at_end: bool = False) -> Path:
    for _ in Replay(log, run, settings, resume=resume).run(close_at_end=close_at_end):
        pass
    return run


def backfilled(run: Path, log: Path, days: float | None = None) -> BackfillReport:
    standing = StandingRun(run)
    try:
        filling = Backfill(standing, log)
        return filling.teach_late() if days is None else filling.rebuild(days)
    finally:
        standing.close()


def rows_of(path: Path) -> list[Row]:
    data = path.read_bytes()
    if path.suffix == ".zst":
        data = zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True).read()
    return [json.loads(line) for line in bytes(data).splitlines()]


def key_of(row: Row) -> Key:
    return row["impression_id"], row["impression_ms"]


def learner_of(run: Path) -> Learner:
    standing = StandingRun(run)
    try:
        learner = standing.fresh_learner()
        learner.restore(standing.learner_snapshot)
        return learner
    finally:
        standing.close()


def of_shops(run: Path) -> dict[str, tuple[float, float]]:
    """Mean pCTR and pCVR of each shop, by the newest cut."""
    reader, learner = FeatureReader(late_settings().features), learner_of(run)
    found = {}
    for shop in ("slow", "prompt"):
        told = learner.predict_many(reader.read([b'{"shop":"%s","price":%d}' % (shop.encode(), n) for n in range(3)]))
        found[shop] = float(told.pctr.mean()), float(told.pcvr.mean())
    return found


def all_bytes(run: Path) -> dict[str, bytes]:
    return {path.relative_to(run).as_posix(): path.read_bytes() for path in run.rglob("*") if path.is_file()}


# --- the cases, told one by one --------------------------------------------------------------------------------------------


def case(name: str, at: int, *facts: tuple[Event, int]) -> list[tuple[int, Event]]:
    """An impression on time, and facts of it that arrive so much after their time."""
    return [
        (at, shown(name, at, b'{"shop":"slow","price":2}')),
        *((f.event_time_ms - T0 + late, f) for f, late in facts),
    ]


M = MINUTE
CASES: list[tuple[int, Event]] = [
    *case("late-click", M, (clicked("late-click", M + 50), LATE)),
    *case("late-conversion", M, (clicked("late-conversion", M + 9), 0), (converted("late-conversion", 3 * M, 2.5), LATE)),
    *case("both-late", M, (clicked("both-late", M + 50), LATE), (converted("both-late", 2 * M), LATE)),
    *case("conversion-after-late-click", M, (clicked("conversion-after-late-click", M + 50), LATE),
          (converted("conversion-after-late-click", 4 * M), 0)),
    *case("two-late-clicks", M, (clicked("two-late-clicks", M + 90), LATE), (clicked("two-late-clicks", M + 40), LATE + 5)),
    *case("click-beyond-its-window", M, (clicked("click-beyond-its-window", 3 * M), LATE)),
    *case("conversion-beyond-its-window", M, (clicked("conversion-beyond-its-window", M + 9), LATE),
          (converted("conversion-beyond-its-window", 7 * M), LATE)),
    *case("click-still-open", 533 * M // 6, (clicked("click-still-open", 533 * M // 6 + 1), 150_000)),
    (LATE, shown("late-impression", M, b'{"shop":"slow","price":0}')),
    (LATE, shown("late-impression-clicked", M, b'{"shop":"slow","price":0}')),
    (M + 7, clicked("late-impression-clicked", M + 7)),
    (LATE, clicked("of-nobody", M)),
]  # fmt: skip


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, BackfillReport]:
    root = tmp_path_factory.mktemp("told")
    log = told_log(root / "log", CASES, minutes=94)
    run = replayed(log, root / "run", late_settings())
    return log, run, backfilled(run, log)


def test_each_case_is_taught_what_it_is(told: tuple[Path, Path, BackfillReport]) -> None:
    _, run, report = told
    kappas = {key_of(row)[0]: row["neg"] for row in rows_of(run / "examples.jsonl.zst") if row["kind"] == "UNCLICKED"}
    lines = {row["impression_id"]: row for row in rows_of(run / "backfilled.jsonl")}
    now = lines["late-impression"]["kappa"]
    assert now == pytest.approx(1.0, abs=0.2)

    def weights(name: str) -> tuple[object, ...]:
        return tuple(lines[name][column] for column in ("clicked", "unclicked", "kappa", "pos", "neg", "converted"))

    was = {name: -kappas[name] for name in kappas}
    assert {name: weights(name) for name in lines} == {
        "late-click": (1, -1, was["late-click"], 0, 1, False),
        "late-conversion": (0, 0, 0, 1, -1, True),
        "both-late": (1, -1, was["both-late"], 1, 0, True),
        "conversion-after-late-click": (1, -1, was["conversion-after-late-click"], 1, 0, True),
        "two-late-clicks": (1, -1, was["two-late-clicks"], 0, 1, False),
        "conversion-beyond-its-window": (1, -1, was["conversion-beyond-its-window"], 0, 1, False),
        "click-still-open": (1, -1, was["click-still-open"], 0, 0, None),
        "late-impression": (0, 1, now, 0, 0, None),
        "late-impression-clicked": (1, 0, 0, 0, 1, False),
    }
    assert lines["late-conversion"]["value"] == 2.5
    assert lines["two-late-clicks"]["click_ms"] == T0 + M + 40
    assert [str(at).partition(":")[0] for at in lines["both-late"]["at"]] == ["clicks.jsonl", "conversions.jsonl"]
    assert (report.clicks, report.labels, report.impressions, report.waiting) == (7, 7, 1, 1)


def test_the_report_names_the_new_cut_and_a_version_that_holds_it(told: tuple[Path, Path, BackfillReport]) -> None:
    _, run, report = told
    cut, tensors, _ = CutDirectory(run / "cuts", late_settings()).newest()
    metrics = json.loads((run / "metrics.json").read_bytes())
    assert cut is not None
    assert report.cut == cut.number == metrics["cuts"]
    assert report.weights_version == metrics["weights_version"] == read_version(run / "weights").manifest.version
    versions = {row["weights_version"] for row in rows_of(run / "backfilled.jsonl")}
    assert versions == {cut.weights_version}
    held = read_version(
        run / "weights", f"{read_version(run / 'weights').manifest.epoch:06d}-{cut.weights_version:010d}"
    )
    for name, tensor in decode(held).tensors.items():
        assert torch.equal(tensor, tensors[name]), name


def test_done_twice_it_changes_nothing(told: tuple[Path, Path, BackfillReport]) -> None:
    log, run, _ = told
    before = all_bytes(run)
    again = backfilled(run, log)
    assert again == BackfillReport(waiting=1, clicks_on_time=again.clicks_on_time)
    assert all_bytes(run) == before


def test_an_open_label_is_taught_once_it_is_final(told: tuple[Path, Path, BackfillReport], tmp_path: Path) -> None:
    log, run = tmp_path / "log", tmp_path / "run"
    shutil.copytree(told[0], log)
    shutil.copytree(told[1], run)
    for event in (shown("x", 300 * M), clicked("x", 300 * M), converted("x", 300 * M)):
        with (log / f"{KIND_OF[type(event)].stem}.jsonl").open("ab") as file:
            file.write(line_of(event) + b"\n")
    replayed(log, run, late_settings(), resume=True)
    report = backfilled(run, log)
    assert (report.clicks, report.labels, report.impressions, report.waiting) == (0, 1, 0, 0)
    last = rows_of(run / "backfilled.jsonl")[-1]
    assert last["impression_id"] == "click-still-open"
    assert (last["clicked"], last["pos"], last["neg"], last["converted"]) == (0, 0, 1, False)


# --- the arithmetic --------------------------------------------------------------------------------------------------------


def truth(click_ms: int | None = 5, conversion_ms: int | None = None, **rest: object) -> Truth:
    known: dict[str, object] = {
        "value": None,
        "is_click_final": True,
        "is_label_final": True,
        "logged": None,
        "at": ("x:1",),
    }
    return Truth(click_ms=click_ms, conversion_ms=conversion_ms, **(known | rest))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("account", "known", "expected"),
    [
        pytest.param(
            Account(0, is_joined=True, unclicked=1.0, kappa=0.7), truth(is_label_final=False),
            Correction(clicked=1.0, unclicked=-1.0, kappa=-0.7), id="a late click whose label is open",
        ),
        pytest.param(
            Account(0, is_joined=True), truth(), Correction(clicked=1.0, neg=1.0, converted=False),
            id="its unclicked row was in a refused batch: nothing is taken back",
        ),
        pytest.param(
            Account(0, is_joined=True, click_ms=5, clicked=1.0, pos=0.25, neg=0.75, label=False), truth(conversion_ms=9),
            Correction(pos=0.75, neg=-0.75, converted=True), id="a late conversion under a soft label",
        ),
        pytest.param(
            Account(0, is_joined=True, click_ms=5, clicked=1.0, pos=-3.0, neg=4.0, label=False), truth(conversion_ms=9),
            Correction(pos=MOST, neg=-MOST, converted=True), id="no weight beyond 2",
        ),
        pytest.param(
            Account(0, is_joined=True, click_ms=5, conversion_ms=9, clicked=1.0, pos=1.0, label=True), truth(conversion_ms=9),
            Correction(), id="nothing is wrong",
        ),
        pytest.param(
            Account(0, is_joined=True, click_ms=5, clicked=0.0, label=False), truth(),
            Correction(), id="what the stream refused to learn is not late",
        ),
        pytest.param(
            Account(0, is_joined=True, is_amended=True, click_ms=5, came_late=True, clicked=1.0), truth(),
            Correction(neg=1.0, converted=False), id="a late click backfilled before, final now",
        ),
        pytest.param(
            Account(0, is_amended=True, unclicked=1.0, kappa=0.9), truth(is_label_final=False),
            Correction(clicked=1.0, unclicked=-1.0, kappa=-0.9), id="a late impression taught unclicked, whose click came later",
        ),
        pytest.param(Account(0), truth(None, is_click_final=False), Correction(), id="its click may still come"),
        pytest.param(Account(0), truth(None), Correction(unclicked=1.0, kappa=0.5), id="a late impression"),
    ],
)  # fmt: skip
def test_what_is_taught_is_truth_less_what_was_taught(account: Account, known: Truth, expected: Correction) -> None:
    assert correction(account, known, kappa=0.5) == expected
    assert bool(expected) == (expected != Correction())


def test_a_rebuilt_model_is_not_taught_the_late_facts_alone_of_a_time_before_it() -> None:
    account = Account(0, is_joined=True)
    assert correction(account, truth(), kappa=0.5, click_is_within_reach=False).clicked == 0
    assert correction(account, truth(), kappa=0.5, label_is_within_reach=False).converted is None
    assert not correction(account, truth(), kappa=0.5, click_is_within_reach=False, label_is_within_reach=False)


# --- brute force: a log without lateness says the truth ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def late_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    dials = {
        "late_share": 0.15,
        "late_beyond_closing_share": 0.7,
        "days": 2.5,
        "impressions": 4_000,
        "growth_per_day": 0.0,
    }
    return small_log(tmp_path_factory.mktemp("late") / "log", **(CLEAN | dials))


@pytest.fixture(scope="module")
def truths(late_world: Path) -> dict[Key, dict[str, bool]]:
    """The labels of the same log with every file in order of event time: nothing in it is late."""
    log, ordered = late_world, late_world.parent / "ordered"
    ordered.mkdir()
    for path in log.glob("*.jsonl"):
        lines = path.read_bytes().splitlines()
        lines.sort(key=lambda line: int(json.loads(line)["event_time_ms"]))
        (ordered / path.name).write_bytes(b"\n".join(lines) + b"\n")
    run = replayed(ordered, log.parent / "ordered-run", small_settings(log), close_at_end=True)
    assert not rows_of(run / "late.jsonl")
    found: dict[Key, dict[str, bool]] = defaultdict(dict)
    for row in rows_of(run / "examples.jsonl.zst"):
        if row["slot"] == "click":
            found[key_of(row)]["clicked"] = row["kind"] == "CLICKED"
        if row["kind"] == "OUTCOME":
            found[key_of(row)]["converted"] = bool(row["converted"])
    return found


def masses(rows: list[Row], lines: list[Row]) -> dict[Key, Counter[str]]:
    """Sums of all that each impression was taught."""
    found: dict[Key, Counter[str]] = defaultdict(Counter)
    for row in rows:
        if row["step"] is None:
            continue
        is_click_slot = row["slot"] == "click"
        found[key_of(row)].update(
            {"clicked": int(row["kind"] == "CLICKED"), "unclicked": int(row["kind"] == "UNCLICKED")}
            if is_click_slot
            else {"pos": row["pos"], "neg": row["neg"]}
        )
    for line in lines:
        found[key_of(line)].update({name: line[name] for name in ("clicked", "unclicked", "pos", "neg")})
    return found


@pytest.mark.parametrize(("method", "objective"), [("mature", "esmm"), ("survival", "both"), ("defer", "composed")])
def test_in_all_every_impression_was_taught_the_label_it_would_have_had_on_time(
    late_world: Path, truths: dict[Key, dict[str, bool]], tmp_path: Path, method: str, objective: str
) -> None:
    settings = small_settings(
        late_world,
        labels={"method": method, "growth": False},
        network={"objective": objective, "towers": (16, 8), "threads": 1},
    )
    run = replayed(late_world, tmp_path / "run", settings, close_at_end=True)
    report = backfilled(run, late_world)
    assert report.waiting == 0
    assert report.clicks > 20
    assert report.labels > 20
    assert report.impressions > 20
    lines = rows_of(run / "backfilled.jsonl")
    found = masses(rows_of(run / "examples.jsonl.zst"), lines)
    assert found.keys() == truths.keys()
    for key, label in truths.items():
        assert (found[key]["clicked"], found[key]["unclicked"]) == (label["clicked"], not label["clicked"]), key
    final = {key_of(line) for line in lines if line["converted"] is not None}
    # What was backfilled is exact click by click, as `mature` is; other methods, and young streams, in the mean.
    for key in {key for key, label in truths.items() if "converted" in label} if method == "mature" else final:
        pair = found[key]["pos"], found[key]["neg"]
        assert pair == pytest.approx(
            (float(truths[key]["converted"]), float(not truths[key]["converted"])), abs=1e-6
        ), key


# --- what it does to a model -------------------------------------------------------------------------------------------------


def test_predictions_for_what_comes_late_move_to_the_truth_and_a_rebuilt_model_is_there(tmp_path: Path) -> None:
    log = shop_log(tmp_path / "log", late_share=0.4, ctr=0.3, cvr=0.4)
    run = replayed(log, tmp_path / "run", late_settings())
    before = of_shops(run)
    assert before["slow"][0] == pytest.approx(0.6 * 0.3, rel=0.2)  # as if the late ones had never been
    backfilled(run, log)
    after = of_shops(run)
    assert before["slow"][0] + 0.25 * (0.3 - before["slow"][0]) < after["slow"][0] < 1.05 * 0.3
    assert before["slow"][1] < after["slow"][1] < 1.1 * 0.4
    assert after["prompt"] == pytest.approx(before["prompt"], rel=0.1)  # who was never late stays about where he was
    backfilled(run, log, days=2)
    for shop, predicted in of_shops(run).items():
        assert predicted == pytest.approx((0.3, 0.4), rel=0.12), shop


def test_who_is_held_out_is_taught_nothing_late_either(tmp_path: Path) -> None:
    log = shop_log(tmp_path / "log", late_share=0.4, impressions=1_000)
    gate = Gate(calibration_most=100.0, held_out_share=0.3)
    run, aside = replayed(log, tmp_path / "run", msgspec.structs.replace(late_settings(), gate=gate)), SetAside.of(gate)
    backfilled(run, log)
    backfilled(run, log, days=2)
    taught = [rows_of(run / "backfilled.jsonl"), rows_of(run / "rebuilt" / "000001.jsonl.zst")[1:]]
    assert all(len(rows) > 20 for rows in taught)
    assert not any(aside.has(row["impression_id"]) for rows in taught for row in rows)


def test_a_batch_that_the_safeguards_refuse_is_told_and_changes_nothing(tmp_path: Path) -> None:
    # Whatever a model makes of a price beyond all bounds, some of these four it is sure of and wrong about.
    prices, absurd = (b"3e38", b"-3e38"), list[tuple[int, Event]]()
    for number, price in enumerate((*prices, *prices)):
        name, features = f"absurd{number}", b'{"shop":"slow","price":%s}' % price
        absurd.append((LATE, shown(name, M, features)))
        if number < 2:
            absurd.append((M + 1, clicked(name, M + 1)))
    log = told_log(tmp_path / "log", absurd)
    run = replayed(log, tmp_path / "run", late_settings())
    before = all_bytes(run)
    report = backfilled(run, log)
    assert sum(report.refused.values()) == 4
    assert report.refused.keys() <= {"not_finite", "exploding"}
    assert (report.steps, report.cut) == (0, None)
    assert all_bytes(run) == before


# --- the stream goes on --------------------------------------------------------------------------------------------------------

STOPPED_AT = "4@5"  # killed before the fifth cut: the fourth is the one to go on from


@pytest.fixture(scope="module")
def mortals() -> Iterator[Mortals]:
    with Mortals() as started:
        yield started


class Stopped:
    """A run that was killed in the middle, and the same one that never was."""

    def __init__(self, mortals: Mortals, root: Path, log: Path, method: str) -> None:
        self.log, self.root = log, root
        self.settings = small_settings(
            log, labels={"method": method, "growth": False}, cuts={"cut_interval_ms": 8 * HOUR_MS}
        )
        config = root / f"{method}.toml"
        config.write_text(dump(self.settings), encoding="utf-8")
        self.run, self.whole = root / f"{method}-stopped", replayed(log, root / f"{method}-whole", self.settings)
        ended = mortals.run(
            "replay", log, "--out", self.run, "--config", config, environ={"AFTERCLICK_CRASH_AT": STOPPED_AT}
        )
        assert ended == -signal.SIGKILL

    def copy(self, path: Path) -> Path:
        return Path(shutil.copytree(self.run, path))

    def resumed(self, run: Path) -> Path:
        return replayed(self.log, run, self.settings, resume=True)

    def resume(self, run: Path) -> list[Row]:
        return rows_of(self.resumed(run) / "examples.jsonl.zst")


@pytest.fixture(scope="module")
def mature(mortals: Mortals, late_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Stopped:
    return Stopped(mortals, tmp_path_factory.mktemp("mature"), late_world, "mature")


@pytest.fixture(scope="module")
def survival(mortals: Mortals, late_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Stopped:
    return Stopped(mortals, tmp_path_factory.mktemp("survival"), late_world, "survival")


def labels_alone(rows: list[Row]) -> list[Row]:
    return [{name: value for name, value in row.items() if name not in ("pos", "neg", "step")} for row in rows]


@pytest.mark.parametrize("days", [None, 0.75], ids=["backfilled", "rebuilt"])
def test_resumed_it_leaves_the_examples_of_a_run_that_was_never_touched(
    mature: Stopped, tmp_path: Path, days: float | None
) -> None:
    run = mature.copy(tmp_path / "run")
    report = backfilled(run, mature.log, days)
    assert report.cut == 5
    examples, whole = mature.resume(run), rows_of(mature.whole / "examples.jsonl.zst")
    assert labels_alone(examples) == labels_alone(whole)
    # Kappa and the weights of `mature` belong to the stream, not to the model.
    assert [(row["pos"], row["neg"]) for row in examples] == [(row["pos"], row["neg"]) for row in whole]
    for name in ("late.jsonl", "orphans.jsonl", "duplicates.jsonl"):
        assert (run / name).read_bytes() == (mature.whole / name).read_bytes()


def test_rebuilt_and_resumed_everything_is_accounted_for_once(
    survival: Stopped, truths: dict[Key, dict[str, bool]], tmp_path: Path
) -> None:
    run = survival.copy(tmp_path / "run")
    report = backfilled(run, survival.log, 0.75)
    head, *rebuilt = rows_of(run / "rebuilt" / "000001.jsonl.zst")
    from_ms, at_ms = head["from_ms"], head["at_ms"]
    assert report.rows == Counter(row["kind"] for row in rebuilt)
    keys = [(row["due_ms"], row["impression_id"]) for row in rebuilt]
    assert keys == sorted(keys)
    after = survival.resume(run)[len(rows_of_cut(survival.run)) :]
    counted = masses(rebuilt + after, [])
    still_late = {row["impression_id"] for row in rows_of(run / "late.jsonl")}
    clicks = labels = 0
    for row in rows_of(run / "examples.jsonl.zst"):
        key, due_ms = key_of(row), row["due_ms"]
        if key[0] in still_late or due_ms <= from_ms:
            continue
        if row["slot"] == "click":
            clicks += 1
            label = truths[key]["clicked"]
            assert (counted[key]["clicked"], counted[key]["unclicked"]) == (label, not label), key
        if row["kind"] == "OUTCOME":
            labels += 1
            pair = counted[key]["pos"], counted[key]["neg"]
            assert pair == pytest.approx((float(bool(row["converted"])), float(not row["converted"])), abs=1e-6), key
    assert clicks > 1_000
    assert labels > 100
    # Of open clicks it was taught all that had left of them, of closed ones the label alone, and late facts as they are known now.
    assert {"MATURED", "OBSERVED_NEGATIVE", "REVISIT"} <= report.rows.keys()
    closed = {key_of(row) for row in rebuilt if row["kind"] == "MATURED"}
    assert not closed & {key_of(row) for row in rebuilt if row["kind"] in ("OBSERVED_NEGATIVE", "IMMEDIATE_POSITIVE")}
    assert report.clicks > 0
    assert all(
        at_ms >= row["due_ms"] > from_ms for row in rebuilt if row["slot"] == "click" or row["kind"] == "MATURED"
    )


def rows_of_cut(run: Path) -> list[Row]:
    """The examples up to the newest cut."""
    standing = StandingRun(run)
    try:
        return [json.loads(line) for line in standing.lines("examples.jsonl.zst")]
    finally:
        standing.close()


def test_a_rebuilt_model_has_learned_what_came_late_and_is_not_taught_it_again(
    survival: Stopped, truths: dict[Key, dict[str, bool]], tmp_path: Path
) -> None:
    run = survival.copy(tmp_path / "run")
    first = backfilled(run, survival.log)
    rebuilt = backfilled(run, survival.log, 0.75)
    assert 0 < rebuilt.clicks <= first.clicks
    assert backfilled(run, survival.log).cut is None
    again = backfilled(run, survival.log, 0.75)
    assert (again.rows, again.clicks, again.labels) == (rebuilt.rows, rebuilt.clicks, rebuilt.labels)
    assert backfilled(run, survival.log).cut is None
    survival.resume(run)
    later = backfilled(run, survival.log)  # what came late after the rebuild, and nothing else
    assert later.clicks > 0
    assert later.labels > 0
    head, *rows = rows_of(run / "rebuilt" / "000002.jsonl.zst")
    standing = StandingRun(run)
    try:
        examples = standing.lines("examples.jsonl.zst", head["examples_bytes"])
        rows += [json.loads(line) for line in examples]
        lines = [json.loads(line) for line in standing.lines("backfilled.jsonl", head["backfilled_bytes"])]
    finally:
        standing.close()
    assert lines
    assert len(lines) < len(rows_of(run / "backfilled.jsonl"))
    found = masses(rows, lines)
    told = {key_of(line) for line in lines if line["clicked"] or line["unclicked"]}
    told |= {key_of(row) for row in rows if row["slot"] == "click" and row["step"] is not None}
    for key in told:
        label = truths[key]["clicked"]
        assert (found[key]["clicked"], found[key]["unclicked"]) == (label, not label), key
    final = {key_of(line) for line in lines if line["converted"] is not None}
    final |= {key_of(row) for row in rows if row["kind"] == "MATURED"}
    assert len(told) > 1_000
    assert len(final) > 100
    for key in final:
        pair = found[key]["pos"], found[key]["neg"]
        assert pair == pytest.approx((float(truths[key]["converted"]), float(not truths[key]["converted"])), abs=1e-6)


def test_a_model_that_was_broken_is_healthy_after_a_rebuild(tmp_path: Path) -> None:
    log = shop_log(tmp_path / "log", late_share=0.0, ctr=0.3, cvr=0.4)
    settings = late_settings("survival")
    run = replayed(log, tmp_path / "run", settings)
    healthy = of_shops(run)
    cuts = CutDirectory(run / "cuts", settings)
    cut, tensors, _ = cuts.newest()
    assert cut is not None
    noise = torch.Generator().manual_seed(1)
    scrambled = {
        # Noise, and heads that are sure of a yes whatever they are shown.
        name: 3 * torch.randn(tensor.shape, generator=noise).abs() if name.startswith("dense.") else tensor
        for name, tensor in tensors.items()
    }
    cuts.write(
        msgspec.structs.replace(cut, number=cut.number + 1, counts=cut.counts | {"cuts": cut.number + 1}), scrambled
    )
    cuts.commit()
    for shop, predicted in of_shops(run).items():
        assert min(predicted) > 0.9 > max(healthy[shop]), shop
    backfilled(run, log, 1.0)
    for shop, predicted in of_shops(run).items():
        assert predicted == pytest.approx((0.3, 0.4), rel=0.15), shop
    # What belongs to the stream is as it was.
    now, built, _ = cuts.newest()
    assert now is not None
    assert now.learner["teaching"] == cut.learner["teaching"]
    assert now.learner["refusals"] == cut.learner["refusals"]
    assert now.learner["steps"] > cut.learner["steps"]
    assert now.clicks.keys() == cut.clicks.keys()
    assert built.keys() == tensors.keys()
    for name in tensors:
        if name.startswith("delays."):
            assert torch.equal(built[name], tensors[name]), name
    kept = ("ingest", "scoreboard")
    assert [getattr(now, name) for name in kept] == [getattr(cut, name) for name in kept]


def test_maps_that_recalibrate_are_of_the_model_that_there_was(tmp_path: Path) -> None:
    log = shop_log(tmp_path / "log", late_share=0.1, impressions=1_500)
    recalibrating = Recalibrating(kind="platt", segment_ms=10 * M, half_life_ms=100 * M, least_conversions=10)
    settings = msgspec.structs.replace(late_settings("es_dfm"), recalibrating=recalibrating)
    run = replayed(log, tmp_path / "run", settings)
    cuts, fresh = CutDirectory(run / "cuts", settings), Recalibrator(recalibrating, settings.features).snapshot()[0]

    def maps() -> tuple[dict[str, torch.Tensor], int]:
        cut, tensors, _ = cuts.newest()
        assert cut is not None
        return {name: tensors[f"calibrating.recalibration.{name}"] for name in fresh}, len(cut.recalibrated)

    def are_fresh() -> bool:
        return all(torch.equal(tensor, fresh[name]) for name, tensor in maps()[0].items() if name != "segment")

    assert not are_fresh()
    assert maps()[1] > 0
    before = maps()
    assert backfilled(run, log).cut is not None
    assert maps()[1] == before[1]
    assert all(torch.equal(tensor, before[0][name]) for name, tensor in maps()[0].items())
    backfilled(run, log, 1)
    assert are_fresh()
    assert maps()[1] == 0


def test_a_closed_run_can_be_backfilled_and_stays_closed(
    told: tuple[Path, Path, BackfillReport], tmp_path: Path
) -> None:
    run = replayed(told[0], tmp_path / "run", late_settings(), close_at_end=True)
    assert backfilled(run, told[0]).waiting == 0
    with pytest.raises(RunDirectoryError, match="nothing can follow it"):
        Replay(told[0], run, late_settings(), resume=True)


# --- crashes ---------------------------------------------------------------------------------------------------------------


def left_behind(run: Path) -> dict[str, object]:
    """All that a run leaves behind, but for what tells how often it was started."""
    cut = max(path for path in (run / "cuts").iterdir() if path.name.isdigit())
    state = msgspec.msgpack.decode((cut / "state.msgpack").read_bytes())
    metrics = json.loads((run / "metrics.json").read_bytes())
    weights = run / "weights" / (run / "weights" / "current").read_text(encoding="utf-8").strip()
    return {
        "cut": cut.name,
        "state": {name: value for name, value in state.items() if name not in ("lengths", "counts")},
        "tensors": (cut / "tensors.safetensors").read_bytes(),
        "weights": {path.name: path.read_bytes() for path in weights.glob("*.safetensors")},
        "metrics": {name: value for name, value in metrics.items() if name != "weights_epoch"},
        "examples": rows_of(run / "examples.jsonl.zst"),
        "backfilled": (run / "backfilled.jsonl").read_bytes() if (run / "backfilled.jsonl").exists() else b"",
        "rebuilt": [rows_of(path) for path in sorted((run / "rebuilt").glob("*"))],
    }


@pytest.mark.parametrize(
    ("rebuild", "steps"), [((), (1, 2, 3, 4, 5)), (("--rebuild-days", 0.5), (2, 4, 5))], ids=["backfilled", "rebuilt"]
)
def test_killed_before_any_step_the_old_cut_stands_or_the_new_one(
    mortals: Mortals, mature: Stopped, tmp_path: Path, rebuild: tuple[object, ...], steps: tuple[int, ...]
) -> None:
    whole = mature.copy(tmp_path / "whole")
    assert mortals.run("backfill", whole, "--log", mature.log, *rebuild) == 0
    unharmed = left_behind(whole)
    for step in steps:
        run = mature.copy(tmp_path / f"run{step}")
        crash = {"AFTERCLICK_CRASH_AT": str(step)}
        assert mortals.run("backfill", run, "--log", mature.log, *rebuild, environ=crash) == -signal.SIGKILL
        if step < 4:
            assert mortals.run("backfill", run, "--log", mature.log, *rebuild) == 0
            assert left_behind(run) == unharmed, step
            continue
        # Before step 4 nothing was committed, and a stream that goes on knows nothing of it, whatever lies about; after it all is.
        found = left_behind(mature.resumed(run))
        expected = left_behind(mature.resumed(whole if step == 5 else mature.copy(tmp_path / "untouched")))
        if step == 4:
            found |= {"backfilled": b"", "rebuilt": []}
        assert found == expected, step


# --- refusals and the command line ---------------------------------------------------------------------------------------------


def test_what_cannot_be_backfilled_is_refused_with_what_to_do(
    told: tuple[Path, Path, BackfillReport], tmp_path: Path
) -> None:
    log, run, _ = told
    with pytest.raises(
        BackfillError, match=r"is no run: name the directory that `afterclick replay LOG --out RUN` wrote"
    ):
        StandingRun(tmp_path / "nowhere")
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "settings.toml").write_text(dump(late_settings()))
    with pytest.raises(BackfillError, match="has no cut to work on yet"):
        StandingRun(empty)
    standing = StandingRun(run)
    with pytest.raises(RunDirectoryError, match="is being written"):
        StandingRun(run)
    filling = Backfill(standing, log)
    with pytest.raises(BackfillError, match="--rebuild-days must be above 0"):
        filling.rebuild(0)
    with pytest.raises(BackfillError, match=r"does not hold .* name the whole log"):
        Backfill(standing, shop_log(tmp_path / "other", late_share=0, impressions=50)).rebuild(1)
    with pytest.raises(LogError, match="does not exist"):
        Backfill(standing, tmp_path / "nowhere").rebuild(1)
    standing.close()
    other = replayed(log, tmp_path / "fnc", late_settings("fnc", objective="composed"))
    standing = StandingRun(other)
    with pytest.raises(BackfillError, match="is not taught by pairs of weights"):
        Backfill(standing, log)
    standing.close()


def test_impressions_that_the_log_does_not_hold_are_left_and_told(
    told: tuple[Path, Path, BackfillReport], tmp_path: Path
) -> None:
    run = replayed(told[0], tmp_path / "run", late_settings())
    some = tmp_path / "some"
    shutil.copytree(told[0], some)
    lines = (some / "impressions.jsonl").read_bytes().splitlines(keepends=True)
    (some / "impressions.jsonl").write_bytes(b"".join(lines[: len(lines) // 2]))
    report = backfilled(run, some)
    assert 0 < report.without_features < 7
    assert report.impressions == 1  # its own record came late
    assert report.clicks == 8 - 1 - report.without_features


def test_a_log_that_the_run_was_not_made_from_is_refused(
    told: tuple[Path, Path, BackfillReport], tmp_path: Path
) -> None:
    run = replayed(told[0], tmp_path / "run", late_settings())
    with pytest.raises(
        BackfillError, match=r"other holds none of the 7 impressions .*: name the log that .*run was made"
    ):
        backfilled(run, shop_log(tmp_path / "other", late_share=0, impressions=50))


def test_the_command_says_what_it_did(
    told: tuple[Path, Path, BackfillReport], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = replayed(told[0], tmp_path / "run", late_settings())
    app(["backfill", str(run), "--log", str(told[0]), "--json"], standalone_mode=False)
    said = json.loads(capsys.readouterr().out)
    assert (said["clicks"], said["labels"], said["impressions"]) == (7, 7, 1)
    app(["backfill", str(run), "--log", str(told[0]), "--rebuild-days", "1"], standalone_mode=False)
    shown_to_people = capsys.readouterr().out
    assert "rebuilt from" in shown_to_people
    assert "UNCLICKED" in shown_to_people
    app(["backfill", str(run), "--log", str(told[0])], standalone_mode=False)
    assert "nothing" in capsys.readouterr().out


def test_of_very_much_that_came_late_the_command_says_to_rebuild(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = shop_log(tmp_path / "log", late_share=0.5, impressions=400)
    run = replayed(log, tmp_path / "run", late_settings())
    app(["backfill", str(run), "--log", str(log)], standalone_mode=False)
    assert "use --rebuild-days" in capsys.readouterr().err
