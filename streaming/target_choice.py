"""The targets and the sources of weights that the settings name, made ready. Must not know what is published."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from streaming.adapters.directory import DirectoryPublisher
from streaming.adapters.directory_source import DirectoryError, DirectorySource
from streaming.adapters.kafka_weights import KafkaTarget
from streaming.adapters.kafka_weights_source import KafkaSource
from streaming.adapters.redis_weights import RedisSource, RedisTarget
from streaming.adapters.targets import Targets
from streaming.connection import REDIS_PASSWORD, credentials
from streaming.ports import Target, WeightsSource
from streaming.publication import TargetName
from streaming.settings import Settings, SettingsError


def targets_of(
    run: Path,
    settings: Settings,
    environ: Mapping[str, str],
    *,
    tell: Callable[[str], None] = lambda text: None,
) -> Targets:
    """Where a run publishes.

    Args:
        run: its directory; weights go to `weights` in it, and to what the settings name besides.
        settings: of the run.
        environ: holds who asks the brokers and Redis.
        tell: is told, in words, what a person should look at.

    Raises:
        TargetError: one of them cannot be reached.
    """
    made = every_target(run, settings, environ)
    directory = made.pop("directory")
    assert isinstance(directory, DirectoryPublisher)
    return Targets(directory, made, settings.publishing, tell=tell)


def every_target(run: Path, settings: Settings, environ: Mapping[str, str]) -> dict[str, Target]:
    """The targets of a run by name.

    Raises:
        TargetError: one of them cannot be reached.
    """
    kept, made = settings.cuts.versions_kept, dict[str, Target]()
    try:
        for name in settings.publishing.targets:
            if name == "directory":
                made[name] = DirectoryPublisher(run / "weights", versions_kept=kept)
            elif name == "redis":
                made[name] = RedisTarget(settings.redis, environ.get(REDIS_PASSWORD), versions_kept=kept)
            else:
                made[name] = KafkaTarget(settings.kafka, credentials(environ), versions_kept=kept)
    except BaseException:
        for target in made.values():
            target.close()
        raise
    return made


def source_of(name: TargetName, run: Path, settings: Settings, environ: Mapping[str, str]) -> WeightsSource:
    """Where the versions of a run are read.

    Raises:
        TargetError: it cannot be reached.
    """
    if name == "directory":
        return DirectorySource(run / "weights")
    if name == "redis":
        return RedisSource(settings.redis, environ.get(REDIS_PASSWORD))
    return KafkaSource(settings.kafka, credentials(environ))


def source_at(where: str, settings: Settings, environ: Mapping[str, str], *, option: str) -> WeightsSource:
    """Where weights are read that somebody names.

    Args:
        where: a directory (a run, or its weights), redis://HOST:PORT, or redis or kafka as the settings say.
        settings: [redis] and [kafka] count. environ: holds who asks them.
        option: how errors call `where`.

    Raises:
        SettingsError: it is no address. TargetError: it cannot be reached.
    """
    if where == "kafka":
        return KafkaSource(settings.kafka, credentials(environ))
    if where == "redis" or where.partition("://")[0] in ("redis", "rediss", "unix"):
        try:
            of_redis = settings.redis if where == "redis" else msgspec.structs.replace(settings.redis, url=where)
        except ValueError as error:
            raise SettingsError(f"{option}: {error}") from error
        return RedisSource(of_redis, environ.get(REDIS_PASSWORD))
    path = Path(where)
    if (path / "weights").is_dir():
        path = path / "weights"
    if not path.is_dir():
        raise DirectoryError(
            f"{option} {where} is no directory: name the run that publishes, or its weights; or redis, redis://HOST:PORT, kafka"
        )
    if (path / "manifest.json").is_file() or any(path.glob("impressions*")):
        raise DirectoryError(
            f"{option} {where} is a log, or a single version: name the run that publishes, or its weights"
        )
    return DirectorySource(path)
