"""Snapshots of join partitions: there whole or not at all, never overwritten, and the newest at or past what is committed is the one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import redis as client
from services import Server

from streaming.adapters.join_snapshots import (
    DirectoryShelf,
    JoinSnapshots,
    RedisShelf,
    Shelf,
    SnapshotError,
    open_shelf,
)
from streaming.joiner import Joiner, JoinerSnapshot
from streaming.live import start_places
from streaming.settings import Settings, SettingsError

NAMES = ("m.impressions[3]", "m.clicks[3]", "m.conversions[3]")


def snapshot_at(*offsets: int, examples_end: int = 0) -> JoinerSnapshot:
    places = start_places(dict(zip(NAMES, offsets, strict=True)))
    return Joiner(Settings(), p=3, partitions=4, places=places).snapshot(examples_end)


def committed(*offsets: int | None) -> dict[str, int | None]:
    return dict(zip(NAMES, offsets, strict=True))


@pytest.fixture(params=["directory", pytest.param("redis", marks=pytest.mark.integration)])
def shelf(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shelf]:
    if request.param == "directory":
        yield DirectoryShelf(tmp_path / "store")
        return
    server: Server = request.getfixturevalue("redis")
    with client.Redis.from_url(f"redis://{server.bootstrap}/0") as one:
        one.flushdb()
        yield RedisShelf(one)


def test_the_newest_at_or_past_what_is_committed_wins(shelf: Shelf) -> None:
    store = JoinSnapshots(shelf, "m", kept=10)
    for offsets in ((10, 4, 1), (20, 8, 2), (30, 5, 2)):
        store.write(snapshot_at(*offsets), NAMES)

    def found(*least: int | None) -> tuple[int, ...] | None:
        snapshot = store.newest(3, committed(*least), NAMES)
        return None if snapshot is None else tuple(snapshot.places[name].line for name in NAMES)

    assert found(10, 4, 1) == (30, 5, 2)
    assert found(None, None, None) == (30, 5, 2)  # a crash before the first commit
    assert found(20, 8, 2) == (20, 8, 2)  # the one that has read more has not read what is committed of the clicks
    with pytest.raises(
        SnapshotError, match=r"join partition 3 of m cannot be taken over.*of 3 there, none is that far"
    ):
        found(31, 5, 2)


def test_of_two_the_one_that_holds_more_blocks_is_the_newer_one(shelf: Shelf) -> None:
    store = JoinSnapshots(shelf, "m", kept=10)
    store.write(snapshot_at(40, 9, 3, examples_end=5), NAMES)  # of before it was begun anew
    store.write(snapshot_at(30, 5, 2, examples_end=8), NAMES)
    found = store.newest(3, committed(None, None, None), NAMES)
    assert found is not None
    assert found.examples_end == 8


def test_a_partition_that_nobody_has_held_starts_with_nothing(shelf: Shelf) -> None:
    store = JoinSnapshots(shelf, "m", kept=3)
    assert store.newest(3, committed(None, None, None), NAMES) is None
    with pytest.raises(SnapshotError, match="Give --store the place where the workers before kept them"):
        store.newest(3, committed(7, None, None), NAMES)


def test_the_last_few_are_kept_and_a_worker_that_wakes_up_late_overwrites_nothing(shelf: Shelf) -> None:
    store = JoinSnapshots(shelf, "m", kept=2)
    names = [store.write(snapshot_at(at, at, at), NAMES) for at in (10, 20, 30)]
    late = store.write(snapshot_at(15, 15, 15), NAMES)
    assert set(names[1:]) <= set(shelf.names("m", 3)) <= {*names[1:], late}
    again = store.newest(3, committed(30, 30, 30), NAMES)
    assert again is not None
    assert again.places[NAMES[0]].line == 30


def test_of_equal_offsets_the_one_that_has_emitted_more_is_newer(shelf: Shelf) -> None:
    store = JoinSnapshots(shelf, "m", kept=3)
    store.write(snapshot_at(5, 5, 5, examples_end=9), NAMES)
    store.write(snapshot_at(5, 5, 5, examples_end=7), NAMES)
    found = store.newest(3, committed(5, 5, 5), NAMES)
    assert found is not None
    assert found.examples_end == 9


@pytest.mark.parametrize(
    "harm", [lambda data: data[:-1], lambda data: b"", lambda data: bytes([data[0] ^ 1]) + data[1:]]
)
def test_a_damaged_one_is_passed_over_and_named_where_there_is_no_other(
    tmp_path: Path, harm: Callable[[bytes], bytes]
) -> None:
    store = JoinSnapshots(DirectoryShelf(tmp_path), "m", kept=3)
    older, newer = (store.write(snapshot_at(at, at, at), NAMES) for at in (10, 20))
    path = tmp_path / "m" / "3" / newer
    path.write_bytes(harm(path.read_bytes()))
    found = store.newest(3, committed(10, 10, 10), NAMES)
    assert found is not None
    assert found.places[NAMES[0]].line == 10
    (tmp_path / "m" / "3" / older).unlink()
    with pytest.raises(SnapshotError, match="is damaged: its sha256 is another"):
        store.newest(3, committed(10, 10, 10), NAMES)


def test_one_of_another_version_is_not_understood(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    store = JoinSnapshots(shelf, "m", kept=3)
    monkeypatch.setattr(msgspec.msgpack, "encode", lambda value: b"\xc0")
    store.write(snapshot_at(1, 1, 1), NAMES)
    with pytest.raises(SnapshotError, match="is whole but cannot be understood"):
        store.newest(3, committed(1, 1, 1), NAMES)


def test_a_part_that_is_gone_is_told(redis: Server) -> None:
    with client.Redis.from_url(f"redis://{redis.bootstrap}/0") as one:
        one.flushdb()
        store = JoinSnapshots(RedisShelf(one), "m", kept=3)
        name = store.write(snapshot_at(1, 1, 1), NAMES)
        one.delete(f"{{m:join:3}}:{name}:0")
        with pytest.raises(SnapshotError, match="a part of it is gone"):
            store.newest(3, committed(1, 1, 1), NAMES)


def test_what_cannot_be_written_or_asked_is_told(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    with pytest.raises(SnapshotError, match=r"cannot be written .*: free space or grant the right"):
        JoinSnapshots(DirectoryShelf(tmp_path / "store"), "m", kept=1).write(snapshot_at(1, 1, 1), NAMES)
    shelf = RedisShelf(client.Redis(port=1, socket_connect_timeout=1))
    with pytest.raises(SnapshotError, match="Redis did not do HKEYS"):
        JoinSnapshots(shelf, "m", kept=1).newest(3, committed(1, 1, 1), NAMES)


def test_where_they_are_kept_is_a_directory_or_redis_and_holds_no_password(tmp_path: Path) -> None:
    assert isinstance(open_shelf(str(tmp_path), {}), DirectoryShelf)
    assert isinstance(open_shelf("redis://localhost:6379/1", {}), RedisShelf)
    with pytest.raises(SettingsError, match="set AFTERCLICK_REDIS__PASSWORD in the environment"):
        open_shelf("redis://user:secret@localhost:6379/1", {})
