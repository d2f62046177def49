"""Begins a run with published weights: reads them, keeps a copy beside the run, says in words what was taken over. Must not know what is learned then."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from models.batch import Int64
from models.delay import method_of
from models.frozen import FrozenModel
from models.manifest import DamagedWeightsError, MissingWeightsError, parse_name
from models.warm_start import TakenOver, changed_buckets, refuse_unlike
from models.weights import Weights, encode
from streaming.adapters.directory import DirectoryPublisher
from streaming.adapters.directory_source import DirectorySource
from streaming.adapters.run_directory import RunDirectoryError
from streaming.ids import Salt
from streaming.ports import WeightsSource
from streaming.settings import Settings, SettingsError
from streaming.target_choice import source_at
from streaming.whole import read_whole

COPY = "warm_start"
"""Folder of a run that holds the weights it began with: killed before its first cut, it begins with the same ones again."""

_WITH_VERSION = re.compile(r"(?P<where>.+):(?P<name>[0-9]{6}-[0-9]{10})")
_TRIES = 3  # a version may be deleted by its publisher between the look and the reading


def weights_named(named: str, settings: Settings, environ: Mapping[str, str]) -> Callable[[], Weights]:
    """Reads the weights that a run is to begin with, once it is seen to be new.

    Args:
        named: a run or its weights, redis://HOST:PORT, or redis or kafka as the settings say; `:EPOCH-VERSION` behind it asks for
            another version than the current one.
        settings: of the run. environ: holds who asks Redis and the brokers.

    Returns:
        What reads them. It raises SettingsError where the network is another one, TargetError where nothing can be read,
        and DamagedWeightsError, by name, where what is read is damaged.
    """
    found = _WITH_VERSION.fullmatch(named)
    where, name = (named, None) if found is None else (found["where"], found["name"])

    def read() -> Weights:
        source = source_at(where, settings, environ, option="--warm-start")
        try:
            weights = _read(source, named, name)
            FrozenModel(weights)  # a tensor that is missing, or does not fit, is refused by name
        except DamagedWeightsError as error:
            raise type(error)(f"--warm-start {named}: {error}") from error
        finally:
            source.close()
        _refuse_unlike(weights, settings, f"--warm-start {named}")
        return weights

    return read


def _refuse_unlike(weights: Weights, settings: Settings, named: str) -> None:
    try:
        refuse_unlike(weights, settings.network, method_of(settings.labels.method).form)
    except ValueError as error:
        raise SettingsError(f"{named}: {error}") from error


def _read(source: WeightsSource, named: str, name: str | None) -> Weights:
    for left in reversed(range(_TRIES)):
        wanted = source.current() if name is None else parse_name(name)
        if wanted is None:
            raise SettingsError(
                f"--warm-start {named} has no current version: nothing was published there yet; name another, or leave it out"
            )
        try:
            return read_whole(source, *wanted)
        except MissingWeightsError:
            if not left or name is not None:
                raise
    raise AssertionError("the last try returns or raises")


def kept(run: Path, settings: Settings, read: Callable[[], Weights] | None) -> Weights | None:
    """The weights that a run begins with that has no cut yet: those it has begun with before, else those to be read; None if it begins cold.

    Args:
        run: its directory. settings: of the run. read: see `weights_named`.

    Raises:
        RunDirectoryError: a start was broken off while the weights were copied.
        SettingsError: the settings have changed since, and the network with them. And what `read` raises.
    """
    copy = run / COPY
    if copy.is_dir():
        source = DirectorySource(copy)
        current = source.current()
        if current is None:
            raise RunDirectoryError(
                f"{copy} holds no weights, since the run was broken off as it began: delete {run}, and start it anew"
            )
        weights = read_whole(source, *current)
        _refuse_unlike(weights, settings, f"{copy}, which this run began with")
        return weights
    if read is None:
        return None
    weights = read()
    DirectoryPublisher(copy, versions_kept=1).publish(encode(weights))
    return weights


def forgotten_ids(weights: Weights, settings: Settings) -> Int64:
    """The ids whose meaning the settings have changed."""
    changed = changed_buckets(weights.manifest.features, settings.features)
    return np.concatenate(
        [Salt(salt).ids([*range(buckets), None]) for salt, buckets in changed] or [np.zeros(0, np.int64)]
    )


def in_words(weights: Weights, taken: TakenOver, settings: Settings) -> list[str]:
    """What was taken over and what was not, in lines for a person."""
    manifest, rows = weights.manifest, f"{taken.rows:,} rows"
    if taken.left_out:
        rows += f" ({taken.left_out:,} that have learned least are left out: network.max_rows)"
    lines = [f"begins with version {manifest.name}, {manifest.method}: {rows}", f"taken over: {_listed(taken.taken)}"]
    if taken.fresh:
        lines.append("fresh: " + ", ".join(f"{name} ({why})" for name, why in taken.fresh.items()))
    if taken.dropped:
        lines.append(
            f"dropped: {_listed(taken.dropped)}; rows cannot be told apart by feature, so theirs stay, unread, until network.max_rows needs the room"
        )
    if manifest.network.seed != settings.network.seed:
        lines.append("network.seed is another one: ids without a row start from other vectors")
    own = "optimizers (Adagrad sums, Adam moments, schedule), delay model, kappa and traffic"
    if "recalibration.at" in weights.tensors:
        own += ", recalibration maps (they corrected scores of the published model: until new ones are fitted pCVR is as the towers give it)"
    lines.append(f"fresh in any case, as weights do not carry it: {own}")
    return lines


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names) or "nothing"
