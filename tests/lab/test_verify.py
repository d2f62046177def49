"""Verify against a joiner of another kind, and against runs with planted differences."""

import gzip
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from stepping_joiner import BASE_MS, SEES, Run, parsed, simulate, wild_log, write_log, write_run
from worlds import HOUR_MS, small_log, small_settings

from models.delay import METHODS
from models.delay_edges import edges_ms, horizons_ms
from streaming.lab.verdict import Verdict
from streaming.lab.verify import verify
from streaming.lab.verify_ages import edges_of, looks_of
from streaming.lab.verify_labels import labels_of
from streaming.lab.verify_lines import VerifyError
from streaming.replay import Replay


def broken(verdict: Verdict) -> set[str]:
    return {check.name for check in verdict.checks if not check.agreed}


# --- agreement -------------------------------------------------------------------------------------------------------

WORLDS = [
    *({"method": method} for method in SEES),
    {"method": "window", "hold": 40, "close": True},
    {"method": "oracle", "close": True},
    {"method": "survival", "close": True, "horizons": 2},
    {"method": "mature", "click_window": 30, "attribution_window": 30, "hold": 33},
    {"method": "survival", "click_window": 30, "attribution_window": 30, "hold": 33, "horizons": 32},
    {"method": "ddfm", "observation_window": 50},
    {"method": "dfm", "observation_window": 0, "horizons": 1},
]


@pytest.mark.parametrize(("seed", "world"), list(enumerate(WORLDS)))
def test_a_joiner_that_steps_through_time_is_agreed_with(tmp_path: Path, world: dict, seed: int) -> None:
    files = wild_log(seed)
    run = simulate(files, **world)
    verdict = verify(write_log(tmp_path, files), write_run(tmp_path, run), close_at_end=world.get("close", False))
    assert verdict.agreed, "\n".join(verdict.lines())
    assert all(run.doors.values()), "a world in which a door stays shut proves nothing about it"
    assert verdict.clicks.elsewhere["unaccounted"] == 0


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_log(
        tmp_path_factory.mktemp("simulated") / "log",
        impressions=1_000, days=1.0, cvr=0.5, attribution_window_ms=6 * HOUR_MS, late_share=0.1,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("method", "close"), [("survival", False), ("survival", True), ("fnc", False), ("oracle", True)]
)
def test_a_replay_is_agreed_with(simulated: Path, tmp_path: Path, method: str, close: bool) -> None:
    network = {"objective": "composed", "towers": (4,), "threads": 1}
    settings = small_settings(simulated, labels={"method": method, "horizons": 4}, network=network)
    for _ in Replay(simulated, tmp_path / "run", settings).run(close_at_end=close):
        pass
    verdict = verify(simulated, tmp_path / "run")
    assert verdict.agreed, "\n".join(verdict.lines())
    assert verdict.checks[0].got > 1_000


def test_every_method_is_verified_by_the_kinds_that_it_sees() -> None:
    assert METHODS.keys() == SEES.keys()
    for name, method in METHODS.items():
        labels = labels_of(name)
        assert sorted(labels.kinds) == sorted(event.name for event in method.sees)
        assert labels.observes_at_click == method.observes_at_click


@hypothesis_settings(deadline=None, max_examples=60)
@given(st.integers(1, 10**10), st.integers(0, 10**10), st.integers(1, 32))
def test_ages_are_worked_out_as_the_learner_does(longest: int, observation: int, horizons: int) -> None:
    windows = min(observation, longest), longest, horizons
    assert tuple(looks_of(*windows)) == horizons_ms(*windows)
    assert tuple(edges_of(*windows)) == edges_ms(*windows)


def test_the_wild_logs_hold_what_they_are_to_prove() -> None:
    runs = [simulate(wild_log(seed)) for seed in range(5)]
    rows = [row for run in runs for row in run.examples]
    revisited = [row for seed in range(5) for row in simulate(wild_log(seed), "survival").examples]
    delayed = [row for row in revisited if row["kind"] == "DELAYED_POSITIVE"]
    assert any(row["conversion_ms"] - row["click_ms"] <= 5 for row in delayed), "no conversion that came after its look"
    assert any(row["due_ms"] > row["conversion_ms"] for row in delayed), "no delayed positive that was late itself"
    aged = [(row["impression_id"], row["impression_ms"], row["due_ms"]) for row in rows if row["kind"] == "AGED"]
    assert len(aged) > len(set(aged)), "no conversion so late that its click had come of several ages"
    assert {"UNCLICKED", "CLICKED", "IMMEDIATE_POSITIVE", "OBSERVED_NEGATIVE", "REVISIT", "REAL_NEGATIVE"} < {
        row["kind"] for row in revisited
    }
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
    assert [row["kind"] for row in run.examples if row["kind"] != "AGED"] == [
        "CLICKED",
        "UNCLICKED",
        "MATURED",
        "OUTCOME",
        "UNCLICKED",
    ]
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
    row = first(run, kind="MATURED", conversion_ms=None)  # no AGED beside it, that would have to come after
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


def come_of_another_age(run: Run) -> Plant:
    row = first(run, kind="AGED")
    slot, row["slot"] = row["slot"], "aged_63"
    return {"examples": f"{row['impression_id']} {slot}: missing"}


def swap_two_ages(run: Run) -> Plant:
    def at(row: dict) -> tuple:
        return row["due_ms"], row["impression_id"]

    pairs = zip(run.examples, run.examples[1:], strict=False)
    here = next(
        i for i, (one, next_) in enumerate(pairs) if one["kind"] == next_["kind"] == "AGED" and at(one) == at(next_)
    )
    run.examples[here : here + 2] = run.examples[here + 1], run.examples[here]
    return {"in order of due_ms": f"examples.jsonl.zst:{here + 2}"}


PLANTS: dict[str, list[Callable[[Run], Plant]]] = {
    "labels": [lose_an_example, make_one_up, turn_a_label, call_it_clicked, pay_more, forget_the_click],
    "times": [invent_a_conversion, say_it_late, come_from_elsewhere],
    "laws": [know_too_much, say_it_twice, swap_two],
    "ages": [swap_two_ages, come_of_another_age],
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


@pytest.mark.parametrize(("told", "is_finished"), [("true", True), ("false", False), (None, True)])
def test_a_run_that_did_not_come_to_the_end_says_so_first(
    wild: tuple, tmp_path: Path, told: str | None, is_finished: bool
) -> None:
    run = write_run(tmp_path, simulate(wild[0]))
    (run / "run.json").write_text("{}" if told is None else f'{{"close_at_end": false, "is_finished": {told}}}')
    verdict = verify(wild[1], run)
    assert not broken(verdict)
    assert verdict.is_finished == verdict.agreed == is_finished
    assert verdict.lines()[0].startswith(
        "agreed" if is_finished else "RUN did not come to the end of LOG (it was stopped"
    )


def test_an_unfinished_run_whose_files_break_off_is_told_to_go_on(wild: tuple, tmp_path: Path) -> None:
    run = write_run(tmp_path, simulate(wild[0]))
    with (run / "late.jsonl").open("a") as late:
        late.write('{"door": "la')
    for is_finished, words in (
        ("false", r"^RUN did not come to the end of LOG .*--resume.*late\.jsonl"),
        ("true", r"^late\.jsonl"),
    ):
        (run / "run.json").write_text(f'{{"is_finished": {is_finished}}}')
        with pytest.raises(VerifyError, match=words):
            verify(wild[1], run)


def test_a_run_of_another_log_is_called_one_and_no_count_is_negative(tmp_path: Path) -> None:
    def log_of(name: str, clicks: int) -> dict[str, list[bytes]]:
        def records(count: int, at: int) -> list[bytes]:
            return [
                json.dumps(
                    {"impression_id": f"{name}{i}", "event_time_ms": BASE_MS + 9 * i + at, "features": {}}
                ).encode()
                for i in range(count)
            ]

        return {"impressions.jsonl": records(150, 0), "clicks.jsonl": records(clicks, 1)}

    log, other = write_log(tmp_path, log_of("a", 20)), simulate(log_of("b", 120))
    (tmp_path / "other").mkdir()
    verdict = verify(log, write_run(tmp_path / "other", other))
    assert verdict.is_of_another_log
    assert not verdict.agreed
    assert verdict.lines()[0].startswith("RUN is of another log: ")
    assert verdict.clicks.surplus > 0
    assert verdict.clicks.elsewhere["unaccounted"] == 0
    assert any(f"{verdict.clicks.surplus} more in the run than in the log" in line for line in verdict.lines())
    assert not any("-" in line for line in verdict.lines() if line.startswith("clicks"))
    (tmp_path / "own").mkdir()
    own = verify(log, write_run(tmp_path / "own", simulate(log_of("a", 20))))
    assert own.agreed
    assert not own.is_of_another_log


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
    with pytest.raises(VerifyError, match=r"RUN .*nowhere is no run: it has no settings\.toml$"):
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
    (run / "settings.toml").write_text('[labels]\nmethod = "best"')
    with pytest.raises(
        VerifyError, match=r"labels\.method 'best' cannot be verified \(can be: mature, .*module:NAME\)"
    ):
        verify(wild[1], run)
    (run / "settings.toml").write_text('[labels]\nmethod = "nowhere_here:OWN"')
    with pytest.raises(VerifyError, match=r"cannot be asked what it sees .*its module on PYTHONPATH"):
        verify(wild[1], run)


def test_a_method_of_ones_own_is_asked_what_it_sees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_method_of_test_verify.py").write_text("from models.delay import METHODS\nOWN = METHODS['ddfm']\n")
    monkeypatch.syspath_prepend(tmp_path)
    files = wild_log(3)
    run = simulate(files, "ddfm")
    run.settings = run.settings.replace('"ddfm"', '"own_method_of_test_verify:OWN"')
    verdict = verify(write_log(tmp_path, files), write_run(tmp_path, run))
    assert verdict.agreed, "\n".join(verdict.lines())


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
