"""Weights in Redis: whole or not there, never back, refused by name once damaged, healed by a snapshot. On a real Redis."""

from __future__ import annotations

import uuid

import pytest
import redis as client
from services import Server
from weights_made import version

from models.manifest import DamagedWeightsError, MissingWeightsError
from streaming.adapters.redis_weights import RedisSource, RedisTarget, RedisWeightsError
from streaming.connection import Redis
from streaming.ports import GapError, HeldError, StaleVersionError

pytestmark = pytest.mark.integration


@pytest.fixture
def settings(redis: Server) -> Redis:
    return Redis(url=f"redis://{redis.bootstrap}/0", model=uuid.uuid4().hex, chunk_bytes=100)


@pytest.fixture
def raw(settings):
    found = client.Redis.from_url(settings.url)
    yield found
    found.close()


@pytest.fixture
def target(settings):
    found = RedisTarget(settings, None, versions_kept=2)
    yield found
    found.close()


@pytest.fixture
def source(settings):
    found = RedisSource(settings, None)
    yield found
    found.close()


def keys_of(raw, settings, pattern="*"):
    return sorted(key.decode() for key in raw.scan_iter(f"afterclick:{{{settings.model}}}:{pattern}"))


def test_what_was_published_is_read_back_and_is_current(target, source):
    assert source.current() is None
    published = version(target.issue_epoch(), 1, size=100)
    assert target.publish(published) == "000001-0000000001"
    assert source.current() == (1, 1)
    assert source.fetch(1, 1) == published


def test_every_value_is_a_chunk_at_most_and_nothing_that_is_current_expires(target, raw, settings):
    target.publish(version(1, 1, size=100))
    chunks = keys_of(raw, settings, "*safetensors*")
    assert len(chunks) > 4
    assert all(raw.strlen(key) <= 100 for key in chunks)
    target.publish(version(1, 1, size=100))  # again, as after a crash
    assert {raw.ttl(key) for key in keys_of(raw, settings)} == {-1}


def test_every_start_gets_an_epoch_of_its_own_greater_than_any_before(settings, target, raw):
    other = RedisTarget(settings, None, versions_kept=2)
    assert [target.issue_epoch(), other.issue_epoch(), target.issue_epoch()] == [1, 2, 3]
    assert target.issue_epoch(at_least=3) == 3  # the one it has
    assert target.issue_epoch(at_least=9) == 9
    target.publish(version(12, 1))
    raw.delete(f"afterclick:{{{settings.model}}}:epoch")
    assert other.issue_epoch() == 13
    other.close()


def test_of_two_trainers_the_stale_one_is_refused_and_nothing_changes(settings, target, source):
    stale, newer = target, RedisTarget(settings, None, versions_kept=2)
    one, other = stale.issue_epoch(), newer.issue_epoch()
    stale.publish(version(one, 1))
    newer.publish(version(other, 1, 2.0))
    for refused in (version(one, 2, 3.0), version(one, 2, base=1)):
        with pytest.raises(StaleVersionError, match="000002-0000000001 is current: a newer run publishes here") as told:
            stale.publish(refused)
        assert told.value.current == "000002-0000000001"
    assert source.current() == (2, 1)
    assert source.fetch(2, 1) == version(2, 1, 2.0)
    newer.close()


def test_a_name_that_is_taken_is_not_given_other_bytes(target, source):
    target.publish(version(1, 2, republishes="000001-0000000001"))
    with pytest.raises(StaleVersionError, match="000001-0000000002 is current"):
        target.publish(version(1, 2, 2.0))
    assert source.fetch(1, 2) == version(1, 2, republishes="000001-0000000001")


def test_one_overtaken_while_it_uploaded_is_refused_by_the_script(target, raw, settings, monkeypatch):
    # The look before the upload is not what decides: a newer version becomes current after it.
    target.publish(version(1, 1))
    ask = target._redis.get
    monkeypatch.setattr(
        target._redis, "get", lambda key: ask(key) if not key.endswith("current") else b"000001-0000000001"
    )
    raw.set(f"afterclick:{{{settings.model}}}:current", "000002-0000000001")
    with pytest.raises(StaleVersionError, match="000002-0000000001 is current"):
        target.publish(version(1, 2))
    assert not keys_of(raw, settings, "000001-0000000002*")


def test_a_delta_needs_its_base_and_what_the_current_chain_needs_is_kept(target, source, raw, settings):
    with pytest.raises(GapError, match="a delta to 000001-0000000001, which is not there: publish a snapshot"):
        target.publish(version(1, 2, base=1))
    assert keys_of(raw, settings) == []
    target.publish(version(1, 1))
    for number in range(2, 6):
        target.publish(version(1, number, base=number - 1))
    assert source.fetch(1, 1) == version(1, 1)
    for number in (6, 7):
        target.publish(version(1, number))
    with pytest.raises(MissingWeightsError, match="has no version 000001-0000000005: read the current one"):
        source.fetch(1, 5)
    assert {key.split(":")[2] for key in keys_of(raw, settings, "0*")} == {"000001-0000000006", "000001-0000000007"}


def test_a_missing_chunk_is_refused_by_name(target, source, raw, settings):
    target.publish(version(1, 1, size=100))
    raw.delete(keys_of(raw, settings, "*dense.safetensors/2/*")[0])
    with pytest.raises(
        DamagedWeightsError, match=r"chunk 3 of \d of dense.safetensors of version 000001-0000000001 is missing"
    ):
        source.fetch(1, 1)


def test_a_damaged_chunk_is_refused_by_name(target, source, raw, settings):
    target.publish(version(1, 1, size=100))
    raw.setrange(keys_of(raw, settings, "*dense.safetensors/1/*")[0], 50, b"\xff")
    with pytest.raises(
        DamagedWeightsError, match=r"chunk 2 of \d of dense.safetensors of version 000001-0000000001 is damaged"
    ):
        source.fetch(1, 1)


@pytest.mark.parametrize(
    ("field", "says"), [("manifest", "the manifest of version"), ("chunks", "the list of chunks of version")]
)
def test_a_damaged_manifest_is_refused_by_name(target, source, raw, settings, field, says):
    target.publish(version(1, 1))
    raw.hset(f"afterclick:{{{settings.model}}}:000001-0000000001", field, b"{}")
    with pytest.raises(DamagedWeightsError, match=f"{says} 000001-0000000001 is damaged"):
        source.fetch(1, 1)


def test_versions_are_announced_once_each(target, raw, settings):
    target.publish(version(1, 1))
    target.publish(version(1, 1))
    target.publish(version(1, 2, base=1))
    told = [record for _, record in raw.xrange(f"afterclick:{{{settings.model}}}:announcements")]
    assert told == [
        {b"version": b"000001-0000000001", b"base": b""},
        {b"version": b"000001-0000000002", b"base": b"000001-0000000001"},
    ]


def test_held_publishing_takes_nothing_but_what_goes_past_the_hold(target, source):
    target.publish(version(1, 1))
    target.hold("rolled back")
    assert target.held() == "rolled back"
    with pytest.raises(HeldError, match="publishing is held: rolled back; `afterclick weights release` lets it go on"):
        target.publish(version(1, 2))
    assert source.current() == (1, 1)
    target.publish(version(1, 2), past_hold=True)
    target.release()
    assert target.held() is None
    target.publish(version(1, 3))


@pytest.mark.parametrize("key", ["versions", "announcements", "current", "000001-0000000001"])
def test_a_key_of_another_kind_in_the_way_is_named_and_nothing_is_left(key, target, raw, settings):
    raw.rpush(f"afterclick:{{{settings.model}}}:{key}", "x")
    with pytest.raises(RedisWeightsError):
        target.publish(version(1, 1))
    left = keys_of(raw, settings)
    assert [name for name in left if raw.ttl(name) == -1] == [f"afterclick:{{{settings.model}}}:{key}"]


def test_nobody_there_is_told_with_the_address():
    away = RedisTarget(Redis(url="redis://127.0.0.1:1/0", timeout_ms=200), None, versions_kept=1)
    with pytest.raises(
        RedisWeightsError, match=r"redis.url redis://127.0.0.1:1/0: could not issue an epoch: .*refused"
    ):
        away.issue_epoch()


def test_a_wrong_password_is_told_without_it(settings, redis, raw):
    raw.acl_setuser("trainer", enabled=True, passwords=["+right-word"], keys=["*"], commands=["+@all"])
    as_user = Redis(url=f"redis://trainer@{redis.bootstrap}/0", model=settings.model)
    assert RedisTarget(as_user, "right-word", versions_kept=1).issue_epoch() == 1
    with pytest.raises(RedisWeightsError, match="AFTERCLICK_REDIS__PASSWORD") as told:
        RedisTarget(as_user, "wrong-word", versions_kept=1).issue_epoch()
    assert "wrong-word" not in str(told.value)
