"""The commands around Kafka, on a real broker: what they print, what they make, what they refuse."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from brokers import NOBODY, count_of, polled_until, put, settings_on
from fakes import shown
from kafka.admin import KafkaAdminClient
from services import Server, free_ports
from worlds import lines_of, small_log

from streaming.adapters.cut_directory import CutDirectory
from streaming.adapters.files import LogError
from streaming.adapters.kafka import KafkaPolls
from streaming.cli import main
from streaming.connection import TOPIC_STEMS
from streaming.events import RecordKind
from streaming.live import LiveSource
from streaming.log_file import Place
from streaming.log_source import LogSource
from streaming.settings import Settings, dump, load

pytestmark = pytest.mark.integration


def afterclick(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    code = 0
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as end:
        code = int(end.code or 0)
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def config_of(path: Path, settings: Settings) -> Path:
    path.write_text(dump(settings), encoding="utf-8")
    return path


def test_topics_are_made_once_and_described(kafka: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = settings_on(kafka, partitions=3)
    config = config_of(tmp_path / "settings.toml", settings)
    code, _, err = afterclick(capsys, "topics", "describe", "--config", config)
    assert code == 1
    assert f"{settings.kafka.model}.clicks not there: make it with `afterclick topics create`" in err
    code, out, _ = afterclick(capsys, "topics", "create", "--config", config)
    assert code == 0
    assert "10 d" in out
    assert out.count("made") == len(TOPIC_STEMS)
    code, out, _ = afterclick(capsys, "topics", "create", "--config", config, "--json")
    assert [topic["is_new"] for topic in msgspec.json.decode(out)] == [False] * len(TOPIC_STEMS)
    put(settings, RecordKind.IMPRESSION, shown("a", 0))
    code, out, _ = afterclick(capsys, "topics", "describe", "--config", config, "--json")
    assert code == 0
    described = {topic["stem"]: topic for topic in msgspec.json.decode(out)}
    assert {stem: len(topic["partitions"]) for stem, topic in described.items()} == dict.fromkeys(TOPIC_STEMS, 3) | {
        "weights": 1
    }
    assert sum(partition["end"] for partition in described["impressions"]["partitions"]) == 1
    assert described["weights"]["configs"]["cleanup.policy"] == "compact"
    windows = settings.windows
    least_ms = windows.attribution_window_ms + windows.click_window_ms
    assert int(described["clicks"]["configs"]["retention.ms"]) > least_ms


def test_a_topic_that_does_not_fit_is_pointed_out(
    kafka: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings_on(kafka, partitions=2)
    config = config_of(tmp_path / "settings.toml", settings)
    admin = KafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    topic = settings.kafka.topic("clicks")
    admin.create_topics({topic: {"num_partitions": 1, "replication_factor": 1, "configs": {"retention.ms": "1000"}}})
    admin.close()
    code, _, err = afterclick(capsys, "topics", "create", "--config", config)
    assert code == 0
    assert f"{topic} has 1 partitions, kafka.partitions is 2" in err
    assert f"{topic} retention.ms is 1000, should be" in err
    assert afterclick(capsys, "topics", "describe", "--config", config)[0] == 1


def test_lag_is_told_of_a_runs_newest_cut(
    kafka: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_on(kafka, partitions=1)
    config_of(tmp_path / "settings.toml", settings)
    afterclick(capsys, "topics", "create", "--config", tmp_path / "settings.toml")
    put(settings, RecordKind.IMPRESSION, *[shown("a", number) for number in range(5)])
    code, _, err = afterclick(capsys, "topics", "describe", "--run", tmp_path)
    assert code == 1
    assert "has no cut yet" in err
    cut = SimpleNamespace(ingest=SimpleNamespace(places={f"{settings.kafka.model}.impressions[0]": Place(3)}))
    monkeypatch.setattr(CutDirectory, "newest", lambda self: (cut, {}, []))
    code, out, _ = afterclick(capsys, "topics", "describe", "--run", tmp_path, "--json")
    assert code == 0
    (partition,) = msgspec.json.decode(out)[0]["partitions"]
    assert (partition["end"], partition["at"], partition["lag"]) == (5, 3, 2)


def test_too_short_a_retention_and_no_broker_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nobody = Server(f"127.0.0.1:{free_ports(1)[0]}")
    config = config_of(tmp_path / "short.toml", settings_on(nobody, retention_ms=5))
    code, _, err = afterclick(capsys, "topics", "create", "--config", config)
    assert code == 2
    assert "kafka.retention_ms must be at least" in err
    config = config_of(tmp_path / "away.toml", settings_on(nobody, connect_timeout_ms=400))
    for arguments in (("topics", "create"), ("topics", "describe")):
        code, _, err = afterclick(capsys, *arguments, "--config", config)
        assert code == 1
        assert f"kafka.bootstrap_servers {nobody.bootstrap} (PLAINTEXT): could not connect" in err
        assert "Traceback" not in err


@pytest.mark.parametrize("speed", ["max", "1e9"])
def test_a_log_is_fed_into_its_topics_whole_and_in_order(
    kafka: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], speed: str
) -> None:
    log = small_log(tmp_path / "log", impressions=400, days=1.0)
    brokers = settings_on(kafka, partitions=2)
    settings = msgspec.structs.replace(
        load(log / "settings.toml", {}), kafka=brokers.kafka, event_time=brokers.event_time
    )
    config = config_of(tmp_path / "settings.toml", settings)
    afterclick(capsys, "topics", "create", "--config", config)
    code, out, err = afterclick(capsys, "produce", log, "--config", config, "--speed", speed, "--json")
    assert code == 0, err
    lines = lines_of(log)
    there = {kind.stem: len(lines[f"{kind.stem}.jsonl"]) for kind in RecordKind}
    assert msgspec.json.decode(out) == there
    polls = KafkaPolls(settings, NOBODY)
    records, _ = polled_until(polls, lambda records, idle: count_of(records) == sum(there.values()))
    polls.close()
    for kind in RecordKind:
        topic, order = (
            settings.kafka.topic(kind.stem),
            {line: number for number, line in enumerate(lines[f"{kind.stem}.jsonl"])},
        )
        found = [[value for _, _, value in records.get(f"{topic}[{p}]", [])] for p in range(2)]
        assert Counter(value for values in found for value in values) == Counter(lines[f"{kind.stem}.jsonl"])
        for values in found:
            positions = [order[value] for value in values]  # type: ignore[index]
            assert len(set(values)) < len(values) or positions == sorted(positions)


def test_read_back_a_log_is_what_it_was(kafka: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = small_log(tmp_path / "log", impressions=300, days=1.0, future_share=0.0)
    brokers = settings_on(kafka, partitions=2)
    settings = msgspec.structs.replace(load(log / "settings.toml", {}), kafka=brokers.kafka)
    config = config_of(tmp_path / "settings.toml", settings)
    afterclick(capsys, "topics", "create", "--config", config)
    afterclick(capsys, "produce", log, "--config", config)
    expected: Counter[bytes] = Counter()
    source = LogSource(log, settings)
    for arrivals in source:
        expected.update(arrivals.lines)
        expected.update(refused.line for refused in arrivals.refused)
    source.close()
    polls = KafkaPolls(settings, NOBODY)
    found: Counter[bytes] = Counter()
    for arrivals in LiveSource(polls, settings, partitions=2, places=polls.starts):
        found.update(arrivals.lines)
        found.update(refused.line for refused in arrivals.refused)
        if found.total() == expected.total():
            polls.stop()
    polls.close()
    assert found == expected


def test_what_cannot_be_produced_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = small_log(tmp_path / "log", impressions=20, days=1.0)
    code, _, err = afterclick(capsys, "produce", log, "--speed", "-1")
    assert (code, "--speed must be a number above 0, or max (got '-1')" in err) == (2, True)
    code, _, err = afterclick(capsys, "produce", tmp_path / "nowhere")
    assert (code, "does not exist" in err) == (1, True)
    with pytest.raises(LogError):
        LogSource(tmp_path / "nowhere", Settings())
