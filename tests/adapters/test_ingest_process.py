"""Ingest in a process of its own: the same comes of it, and its death, its errors and ours are told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from worlds import small_log, small_settings

from streaming.adapters.files import LogError
from streaming.adapters.ingest_process import IngestProcess, IngestProcessError, write_frame
from streaming.ingest_job import LogJob, deliveries_of
from streaming.replay import Replay
from streaming.settings import Settings
from streaming.wire import encode_delivery


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_log(tmp_path_factory.mktemp("process") / "log", impressions=3_000, days=2.0)


def process_of(log: Path, settings: Settings) -> IngestProcess:
    return IngestProcess(
        lambda state, close: msgspec.msgpack.encode(LogJob(str(log), settings, None, state, close)),
        {"LogError": LogError},
    )


def children() -> set[int]:
    """Ingest processes of this one that are alive."""
    found = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(os.getpid())], capture_output=True, text=True)
    return {int(line.split()[0]) for line in found.stdout.splitlines() if "ingest_worker" in line}


def files_of(run: Path) -> dict[str, bytes]:
    return {path.relative_to(run).as_posix(): path.read_bytes() for path in run.rglob("*") if path.is_file()}


@pytest.mark.parametrize("method", ["survival", "oracle"])
def test_a_replay_in_two_processes_leaves_the_same_bytes(log: Path, tmp_path: Path, method: str) -> None:
    settings = small_settings(log, labels={"method": method})
    for number in (1, 2):
        for _ in Replay(log, tmp_path / str(number), settings, processes=number).run():
            pass
    assert files_of(tmp_path / "2") == files_of(tmp_path / "1")
    assert children() == set()


def test_deliveries_are_those_of_an_ingest_here_and_go_on_from_a_cut(log: Path) -> None:
    settings = small_settings(log)
    here = list(deliveries_of(LogJob(str(log), settings, None, None, False)))
    there = list(process_of(log, settings).deliveries())
    assert list(map(encode_delivery, there)) == list(map(encode_delivery, here))
    number, state = next((n, one.cut) for n, one in enumerate(here) if one.cut is not None)
    assert state is not None
    resumed = process_of(log, settings)
    resumed.restore(state)
    later = [group for one in resumed.deliveries() for group in one.groups]
    expected = [group for one in here[number + 1 :] for group in one.groups]
    assert [group.at_ms for group in later] == [group.at_ms for group in expected]


def test_left_in_the_middle_it_ends(log: Path) -> None:
    deliveries = process_of(log, small_settings(log)).deliveries()
    next(deliveries)
    assert len(children()) == 1
    deliveries.close()
    assert children() == set()


def test_its_death_is_told(log: Path) -> None:
    deliveries = process_of(log, small_settings(log)).deliveries()
    next(deliveries)
    (worker,) = children()
    os.kill(worker, signal.SIGKILL)
    with pytest.raises(IngestProcessError, match=r"ended with code -9 .*the same command goes on from the last cut"):
        for _ in deliveries:
            pass


def test_an_error_that_a_user_can_mend_is_raised_as_it_was(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=f"LOG {tmp_path}/none does not exist"):
        list(process_of(tmp_path / "none", Settings()).deliveries())


def test_any_other_error_comes_with_its_trace() -> None:
    unreadable = IngestProcess(lambda state, close: b"\xc1", {})
    with pytest.raises(IngestProcessError, match="DecodeError"):
        list(unreadable.deliveries())


def test_it_ends_when_nobody_is_left_to_ingest_for(log: Path) -> None:
    received, sent = os.pipe()
    worker = subprocess.Popen(
        [sys.executable, "-m", "streaming.ingest_worker", str(sent)], stdin=subprocess.PIPE, pass_fds=(sent,)
    )
    os.close(sent)
    assert worker.stdin is not None
    job = LogJob(str(log), small_settings(log), None, None, False)
    write_frame(worker.stdin, b"j", msgspec.msgpack.encode(job))
    assert os.read(received, 1)  # it works, and nobody reads on: it waits before a full pipe
    time.sleep(0.2)
    assert worker.poll() is None
    worker.stdin.close()
    assert worker.wait(timeout=20) == 0
    os.close(received)
