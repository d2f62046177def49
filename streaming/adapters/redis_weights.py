"""Published weights in Redis: uploads chunks, moves `current` by one script, reads them back. Decides nothing about weights.

All keys of a model share a hash tag, so that one node of a cluster has them, and a script may touch all of them:

    afterclick:{MODEL}:current                       name of the version to serve
    afterclick:{MODEL}:epoch                         the newest epoch that was issued
    afterclick:{MODEL}:versions                      hash: name -> name of its base, empty for a snapshot
    afterclick:{MODEL}:NAME                          hash: manifest, sha256 of it, chunks
    afterclick:{MODEL}:NAME:PART/NUMBER/DIGEST       the bytes of a chunk
    afterclick:{MODEL}:announcements                 stream: a record for each version that became current, the newest 1,000
    afterclick:{MODEL}:held                          why publishing is held, while it is

A version is written chunks first, with a time to live; the script that moves `current` takes it away. So what a crash leaves expires.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from models.chains import retained
from models.manifest import DamagedWeightsError, MissingWeightsError, Published, parse_name, version_name
from streaming.chunks import Chunked, chunks_of, put_together, split
from streaming.connection import REDIS_PASSWORD, Redis
from streaming.ports import GapError, HeldError, StaleVersionError, TargetError

_UPLOAD_S = 86_400  # an upload that was not finished in a day never is
_ANNOUNCED = 1_000
_TRIES = 2  # within one call; whoever publishes tries again later, with pauses

_COMMIT = """
-- KEYS: current, epoch, versions, announcements, held, version, chunk ..
-- ARGV: name, base or '', past hold, epoch, manifest, sha256, chunks, most announcements, size of each chunk ..
local kinds = {'string', 'string', 'hash', 'stream', 'string', 'hash'}
for i, kind in ipairs(kinds) do
    local found = redis.call('TYPE', KEYS[i]).ok
    if found ~= 'none' and found ~= kind then return {'kind', KEYS[i]} end
end
local held = redis.call('GET', KEYS[5])
if held and ARGV[3] == '0' then return {'held', held} end
local current = redis.call('GET', KEYS[1])
if current and current > ARGV[1] then return {'stale', current} end
if current == ARGV[1] and redis.call('HGET', KEYS[6], 'sha256') ~= ARGV[6] then return {'stale', current} end
if ARGV[2] ~= '' and redis.call('HEXISTS', KEYS[3], ARGV[2]) == 0 then return {'gap', ARGV[2]} end
for i = 7, #KEYS do
    if redis.call('STRLEN', KEYS[i]) ~= tonumber(ARGV[i + 2]) then return {'missing', KEYS[i]} end
end
for i = 7, #KEYS do redis.call('PERSIST', KEYS[i]) end
redis.call('HSET', KEYS[6], 'manifest', ARGV[5], 'sha256', ARGV[6], 'chunks', ARGV[7])
redis.call('HSET', KEYS[3], ARGV[1], ARGV[2])
if tonumber(redis.call('GET', KEYS[2]) or '0') < tonumber(ARGV[4]) then redis.call('SET', KEYS[2], ARGV[4]) end
redis.call('SET', KEYS[1], ARGV[1])
if current ~= ARGV[1] then redis.call('XADD', KEYS[4], 'MAXLEN', '~', ARGV[8], '*', 'version', ARGV[1], 'base', ARGV[2]) end
return {'published', ARGV[1]}
"""

_ISSUE = """
-- KEYS: current, epoch. ARGV: the least
local issued = tonumber(redis.call('GET', KEYS[2]) or '0')
local published = tonumber(string.sub(redis.call('GET', KEYS[1]) or '0', 1, 6))
local epoch = math.max(issued + 1, published + 1, tonumber(ARGV[1]))
redis.call('SET', KEYS[2], string.format('%d', epoch))
return epoch
"""


class RedisWeightsError(TargetError):
    """Redis cannot be used; the message names its address, what is wrong and what to do."""


class _Keys:
    """What the keys of a model are called."""

    def __init__(self, model: str) -> None:
        self._prefix = f"afterclick:{{{model}}}:"
        self.current, self.epoch, self.versions, self.announcements, self.held = (
            self.of(key) for key in ("current", "epoch", "versions", "announcements", "held")
        )

    def of(self, *names: str) -> str:
        return self._prefix + ":".join(names)


def _client(settings: Redis, password: str | None) -> redis.Redis:
    return redis.Redis.from_url(
        settings.url,
        **({} if password is None else {"password": password}),
        socket_timeout=settings.timeout_ms / 1000,
        socket_connect_timeout=settings.timeout_ms / 1000,
        retry=Retry(ExponentialBackoff(cap=0.1, base=0.01), _TRIES),
        client_name="afterclick",
    )


@contextmanager
def _reaching(settings: Redis, intent: str) -> Iterator[None]:
    """Says which Redis an error is about, and what was to be done there."""
    try:
        yield
    except redis.AuthenticationError as error:
        raise RedisWeightsError(
            f"redis.url {settings.url}: could not {intent}: {error}. Look at {REDIS_PASSWORD} and the user in the address"
        ) from error
    except redis.ResponseError as error:
        raise RedisWeightsError(
            f"redis.url {settings.url}: could not {intent}: it answered {str(error) or type(error).__name__!r}. Look at its memory, whether it is a "
            "replica, what this user may do, and whether other keys lie in the way (redis.model)"
        ) from error
    except (redis.RedisError, OSError) as error:
        raise RedisWeightsError(
            f"redis.url {settings.url}: could not {intent}: {error or type(error).__name__}. Look whether Redis answers there"
        ) from error


class RedisTarget:
    """Publishes the versions of a model into Redis.

    Args:
        settings: which Redis and model. password: of the environment.
        versions_kept: how many of the newest versions stay, and all that they are deltas to.
    """

    def __init__(self, settings: Redis, password: str | None, *, versions_kept: int) -> None:
        self._settings = settings
        self._keys = _Keys(settings.model)
        self._versions_kept = versions_kept
        self._epoch = 0
        with _reaching(settings, "make a client"):
            self._redis = _client(settings, password)
        self._commit, self._issue = self._redis.register_script(_COMMIT), self._redis.register_script(_ISSUE)

    def issue_epoch(self, *, at_least: int = 1) -> int:
        """A new epoch, greater than any that was issued or published here; the one issued last, if that is `at_least` as great."""
        if not self._epoch >= at_least > 1:
            with _reaching(self._settings, "issue an epoch"):
                self._epoch = int(self._issue(keys=[self._keys.current, self._keys.epoch], args=[at_least]))
        return self._epoch

    def newest_epoch(self) -> int:
        """The greatest epoch that was issued or published here; 0 before the first."""
        with _reaching(self._settings, "look for the newest epoch"):
            issued: Any = self._redis.get(self._keys.epoch)
            current: Any = self._redis.get(self._keys.current)
        return max(int(issued or 0), parse_name(current.decode())[0] if current else 0)

    def publish(self, published: Published, *, past_hold: bool = False) -> str:
        """Uploads a version, makes it the current one, deletes what is too old. The same one may be published again.

        Raises:
            StaleVersionError, GapError, HeldError: it was refused, and what readers see has not changed.
            RedisWeightsError: Redis did not do it; nothing of the version is to be seen, or all of it.
        """
        keys, manifest = self._keys, published.manifest
        name, base = manifest.name, manifest.base_name or ""
        chunked, pieces = split(published, self._settings.chunk_bytes)
        chunk_keys = [keys.of(name, chunk.name) for chunk, _ in pieces]
        with _reaching(self._settings, f"publish version {name}"):
            stands: Any = self._redis.get(keys.current)
            if stands is not None and stands.decode() >= name:
                if stands.decode() == name and self._redis.hget(keys.of(name), "sha256") == chunked.sha256.encode():
                    return name  # as before: its chunks must not be given a time to live again
                raise self._refusal(name, "stale", stands.decode())
            for key, (_, data) in zip(chunk_keys, pieces, strict=True):
                self._redis.set(key, data, ex=_UPLOAD_S)
            answer: Any = self._commit(
                keys=[keys.current, keys.epoch, keys.versions, keys.announcements, keys.held, keys.of(name), *chunk_keys],
                args=[
                    name, base, int(past_hold), manifest.epoch, chunked.manifest, chunked.sha256, chunked.chunks, _ANNOUNCED,
                    *(chunk.size for chunk, _ in pieces),
                ],
            )  # fmt: skip
            verdict, what = (word.decode(errors="replace") for word in answer)
            if verdict != "published":
                if chunk_keys and what != name:  # a rollback of that name may share chunks
                    self._redis.unlink(*chunk_keys)
                raise self._refusal(name, verdict, what)
            self._delete_old(name)
        return name

    def _refusal(self, name: str, verdict: str, what: str) -> TargetError:
        refused = f"redis {self._settings.url}, model {self._settings.model}: version {name} was refused"
        if verdict == "stale":
            return StaleVersionError(
                f"{refused}, {what} is current: a newer run publishes here; end this one, or give it a redis.model of its own",
                current=what,
            )
        if verdict == "gap":
            return GapError(f"{refused}, it is a delta to {what}, which is not there: publish a snapshot")
        if verdict == "held":
            return HeldError(f"{refused}, publishing is held: {what}; `afterclick weights release` lets it go on")
        if verdict == "kind":
            return RedisWeightsError(
                f"{refused}, {what} holds something else, which is not of afterclick: move it, or choose another redis.model"
            )
        return RedisWeightsError(
            f"{refused}, {what} went while the rest was written: look at Redis' memory and its eviction"
        )

    def _delete_old(self, name: str) -> None:
        there: Any = self._redis.hgetall(self._keys.versions)
        bases: dict[str, str | None] = {old.decode(): base.decode() or None for old, base in there.items()}
        for old in sorted(bases.keys() - retained(bases, self._versions_kept)):
            if old < name:
                chunked = _chunked(self._redis, self._keys, old)
                with self._redis.pipeline() as together:
                    together.hdel(self._keys.versions, old)
                    together.unlink(self._keys.of(old), *_chunk_keys(self._keys, old, chunked))
                    together.execute()

    def hold(self, why: str) -> None:
        """Refuses every further version, until `release`."""
        with _reaching(self._settings, "hold publishing"):
            self._redis.set(self._keys.held, why)

    def release(self) -> None:
        """Lets versions be published again."""
        with _reaching(self._settings, "release publishing"):
            self._redis.delete(self._keys.held)

    def held(self) -> str | None:
        """Why publishing is held; None if it is not."""
        with _reaching(self._settings, "look whether publishing is held"):
            why: Any = self._redis.get(self._keys.held)
        return None if why is None else why.decode(errors="replace")

    def close(self) -> None:
        """Lets go of the connections."""
        self._redis.close()


class RedisSource:
    """The published versions of a model in Redis, as a `WeightsSource`.

    Args:
        settings: which Redis and model. password: of the environment.
    """

    def __init__(self, settings: Redis, password: str | None) -> None:
        self._settings, self._keys = settings, _Keys(settings.model)
        with _reaching(settings, "make a client"):
            self._redis = _client(settings, password)

    def current(self) -> tuple[int, int] | None:
        """The (epoch, version) to serve; None before the first."""
        with _reaching(self._settings, "read the current version"):
            name: Any = self._redis.get(self._keys.current)
        return None if name is None else parse_name(name.decode())

    def fetch(self, epoch: int, version: int) -> Published:
        """A version, every byte of it verified; see `WeightsSource`."""
        name = version_name(epoch, version)
        with _reaching(self._settings, f"read version {name}"):
            chunked = _chunked(self._redis, self._keys, name)
            if chunked is None:
                raise MissingWeightsError(
                    f"redis {self._settings.url}, model {self._settings.model} has no version {name}: read the current one"
                )
            chunks = chunks_of(name, chunked)
            data: dict[str, bytes | None] = {}
            for chunk in chunks:
                found: Any = self._redis.get(self._keys.of(name, chunk.name))
                data[chunk.name] = found
            if None in data.values() and not self._redis.exists(self._keys.of(name)):
                raise MissingWeightsError(f"version {name} was deleted while it was read: read the current one")
        return put_together(name, chunked, chunks, data)

    def close(self) -> None:
        """Lets go of the connections."""
        self._redis.close()


def _chunked(client: redis.Redis, keys: _Keys, name: str) -> Chunked | None:
    """What is written of a version beside its chunks; None if it is not there."""
    found: Any = client.hmget(keys.of(name), ["manifest", "sha256", "chunks"])
    if None in found:
        return None
    manifest, sha256, chunks = found
    return Chunked(manifest, sha256.decode(errors="replace"), chunks)


def _chunk_keys(keys: _Keys, name: str, chunked: Chunked | None) -> list[str]:
    try:
        return [] if chunked is None else [keys.of(name, chunk.name) for chunk in chunks_of(name, chunked)]
    except DamagedWeightsError:  # what cannot be told cannot be deleted by name
        return []
