"""Every setting: its unit in the name, its default, its reason; read once. Must not know what anybody does with them."""

from __future__ import annotations

import hashlib
import os
import tomllib
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import msgspec
import tomli_w

from models.schema import Feature, Labels, Network, Optimizer, Safeguards
from streaming.connection import API_KEY, REDIS_PASSWORD, SECRETS, Kafka, Redis
from streaming.publication import Gate, Publishing
from streaming.serving import Serving

TimeUnit = Literal["ms", "s", "us", "iso8601"]


class SettingsError(ValueError):
    """The settings cannot be used; the message names the key, the value, the rule and what to do."""


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of the settings file."""


class Fields(Section, frozen=True):
    """Where one kind of record keeps its envelope. A value is a path: dots descend into objects."""

    impression_id: str = "impression_id"
    event_time: str = "event_time_ms"
    time_unit: TimeUnit = "ms"
    join_key: str | None = None  # None: the impression_id is the join key
    event_id: str = "event_id"
    features: str = "features"
    served: str = "served"
    value: str = "value"


class Log(Section, frozen=True):
    """How other people's logs call things."""

    impressions: Fields = Fields()
    clicks: Fields = Fields()
    conversions: Fields = Fields()


class Windows(Section, frozen=True):
    """How long a fact may come after the one it follows. Both ends count."""

    click_window_ms: int = 900_000  # 15 min: nearly every click comes while the page is open
    observation_window_ms: int = 3_600_000  # 1 h: when a click gets its first conversion label
    attribution_window_ms: int = 604_800_000  # 7 d: after it a click without conversion is a real negative


class EventTime(Section, frozen=True):
    """How disordered the streams may be."""

    out_of_orderness_ms: int = 10_000  # how far behind its stream's newest a record may be and still be on time
    clock_skew_ms: int = 2_000  # a fact stamped this much before the one it follows still counts
    alignment_ms: int = 900_000  # live: a stream further ahead of the watermark than this is paused
    orphan_hold_ms: int | None = None  # None: click window + clock skew, the least that is right
    future_skew_ms: int = 600_000  # 10 min: a record further ahead than this moves no clock
    idle_timeout_ms: int = 30_000  # live: a stream that shows nothing for this long may be called idle
    stall_hold_ms: int = 21_600_000  # 6 h of event time: how long a dead click stream holds the watermark


class Batching(Section, frozen=True):
    """When examples become a batch. Part of the result: the same log in other batches gives other weights."""

    batch_size: int = 2048  # also what sums are divided by, however many rows are present
    batch_interval_ms: int = 60_000  # a batch holds examples of one such interval of due time
    linger_ms: int = 1_000  # live: processing time after which a partial batch is learned all the same
    kappa_half_life_ms: int = 43_200_000  # 12 h of event time: how fast the mass-per-click ratio forgets


class Recalibrating(Section, frozen=True):
    """How pCVR is corrected by what earlier predictions led to."""

    kind: Literal["none", "platt", "isotonic"] = "none"  # platt needs some hundred conversions, isotonic some thousand
    field: str | None = None  # a categorical feature whose values get maps of their own, shrunk to the map of all
    segment_ms: int = 3_600_000  # of event time, how long a map stands
    half_life_ms: int = 86_400_000  # in which a click loses half its weight
    least_conversions: float = 100.0  # before which nothing is corrected


class Cuts(Section, frozen=True):
    """When the run can be taken up again, and what it publishes."""

    cut_interval_ms: int = 600_000  # 10 min of event time; cuts, and publishing, happen at multiples of it
    cuts_kept: int = 3
    versions_kept: int = 10  # published weights; older ones are deleted


class Settings(Section, frozen=True):
    r"""All settings of a run: one TOML file, one table a section.

    Raises:
        SettingsError: a rule between settings is broken.

    Example:
        >>> Settings().windows.click_window_ms
        900000
        >>> parse("[windows]\nclick_window_ms = -1")
        Traceback (most recent call last):
        ...
        streaming.settings.SettingsError: windows.click_window_ms must not be negative (got -1): set it to 0 or more milliseconds
    """

    log: Log = Log()
    windows: Windows = Windows()
    event_time: EventTime = EventTime()
    labels: Labels = Labels()
    batching: Batching = Batching()
    network: Network = Network()
    optimizer: Optimizer = Optimizer()
    safeguards: Safeguards = Safeguards()
    recalibrating: Recalibrating = Recalibrating()
    cuts: Cuts = Cuts()
    publishing: Publishing = Publishing()
    gate: Gate = Gate()
    kafka: Kafka = Kafka()
    redis: Redis = Redis()
    serving: Serving = Serving()
    features: tuple[Feature, ...] = ()

    def __post_init__(self) -> None:
        for rule in (_check_ranges, _check_relations, _check_prior, _check_features):
            rule(self)

    @property
    def orphan_hold_ms(self) -> int:
        """How long a fact waits for a late impression, and how long a closed impression is remembered."""
        held = self.event_time.orphan_hold_ms
        return self.windows.click_window_ms + self.event_time.clock_skew_ms if held is None else held

    @property
    def hash(self) -> str:
        """A digest of every value but those of `_OUTSIDE`; two runs with the same one were set alike."""
        return hashlib.sha256(msgspec.json.encode(_of_result(self))).hexdigest()[:16]


_POSITIVE = {
    "windows": ("attribution_window_ms",),
    "labels": ("horizons", "delay_half_life_ms"),
    "batching": ("batch_size", "batch_interval_ms", "kappa_half_life_ms"),
    "cuts": ("cut_interval_ms", "cuts_kept", "versions_kept"),
    "network": ("embedding_width", "max_rows", "threads"),
    "optimizer": ("embedding_learning_rate", "dense_learning_rate", "decay_half_life_steps"),
    "safeguards": ("breaker_ratio", "loss_limit", "breaker_limit"),
    "recalibrating": ("segment_ms", "half_life_ms", "least_conversions"),
    "kafka": Kafka.__struct_fields__,
    "redis": ("timeout_ms", "chunk_bytes"),
    "publishing": ("snapshot_every", "delta_interval_ms", "retry_ms", "retry_most_ms", "waiting_most"),
    "gate": ("calibration_most", "log_loss_ratio_most", "outcomes_least", "row_norm_most"),
    "serving": Serving.__struct_fields__[3:],  # all but the exponents
}

_LONGEST_MS = 10**14
"""No length of time is longer: 3,000 years, as far as event times may lie apart."""

_MOST = {"seed": 2**63 - 1, "threads": 1_024, "horizons": 32}
"""Beyond them torch ends with an error that names no setting, or ends the process; more horizons have no slots."""


_SECTIONS = tuple(key for key in Settings.__struct_fields__ if key not in ("log", "features"))

_OUTSIDE = ("kafka", "redis", "publishing", "serving")
"""They make no difference to a result: from which brokers records come, where weights go, and how they are served."""


def _check_ranges(settings: Settings) -> None:
    for section in _SECTIONS:
        for key, value in msgspec.structs.asdict(getattr(settings, section)).items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            unit = " milliseconds" if key.endswith("_ms") else ""
            if value != value or value in (float("inf"), float("-inf")):
                raise SettingsError(f"{section}.{key} must be a finite number (got {value})")
            most = _MOST.get(key, _LONGEST_MS if key.endswith("_ms") else None)
            if most is not None and value > most:
                raise SettingsError(f"{section}.{key} must be at most {most} (got {value})")
            if key == "seed":
                if value < -_MOST["seed"]:
                    raise SettingsError(f"{section}.{key} must be at least {-_MOST['seed']} (got {value})")
                continue
            if value < 0:
                raise SettingsError(f"{section}.{key} must not be negative (got {value}): set it to 0 or more{unit}")
            if value == 0 and key in _POSITIVE.get(section, ()):
                raise SettingsError(f"{section}.{key} must be above 0 (got {value})")
    for key in ("prior_ctr", "prior_cvr"):
        prior = getattr(settings.network, key)
        if not 0 < prior < 1:
            raise SettingsError(
                f"network.{key} must lie between 0 and 1 (got {prior}): it is a probability, the head bias is its logit"
            )
    if any(width < 1 for width in settings.network.towers):
        raise SettingsError(f"network.towers must hold widths of 1 or more (got {list(settings.network.towers)})")


def _check_relations(settings: Settings) -> None:
    windows, time = settings.windows, settings.event_time
    if windows.attribution_window_ms < windows.observation_window_ms:
        raise SettingsError(
            "windows.attribution_window_ms must be at least windows.observation_window_ms "
            f"(got {windows.attribution_window_ms} < {windows.observation_window_ms}): "
            "a click would be closed before its first label; lengthen the one or shorten the other"
        )
    if windows.attribution_window_ms < windows.click_window_ms:
        raise SettingsError(
            "windows.attribution_window_ms must be at least windows.click_window_ms "
            f"(got {windows.attribution_window_ms} < {windows.click_window_ms}): "
            "a click's outcome would be final before the click itself is told"
        )
    if time.alignment_ms <= time.out_of_orderness_ms:
        raise SettingsError(
            "event_time.alignment_ms must exceed event_time.out_of_orderness_ms "
            f"(got {time.alignment_ms} <= {time.out_of_orderness_ms}): a stream within its bound would be paused for ever"
        )
    least = windows.click_window_ms + time.clock_skew_ms
    if settings.orphan_hold_ms < least:
        raise SettingsError(
            f"event_time.orphan_hold_ms must be at least click_window_ms + clock_skew_ms = {least} (got {settings.orphan_hold_ms}): "
            "a click would be called an orphan while its impression may still come; leave it out for the least that is right"
        )


def _check_prior(settings: Settings) -> None:
    ages, shares = settings.labels.delay_prior_ages_ms, settings.labels.delay_prior_shares
    rising = all(a < b for a, b in pairwise((0, *ages))) and all(a <= b for a, b in pairwise((0.0, *shares)))
    if not ages or len(ages) != len(shares) or not rising or not all(0 < share <= 1 for share in shares):
        raise SettingsError(
            "labels.delay_prior_ages_ms and labels.delay_prior_shares must be equally many and ascend, ages above 0, shares above 0 "
            f"and up to 1 (got {list(ages)} and {list(shares)}): each share is of the conversions that have come by its age"
        )


def _check_features(settings: Settings) -> None:
    by_name: dict[str, Feature] = {}
    for feature in settings.features:
        where = f"features.{feature.name}"
        if feature.name in by_name:
            raise SettingsError(f"{where} stands twice: every feature needs a name of its own")
        by_name[feature.name] = feature
        if feature.width is not None and feature.width < 1:
            raise SettingsError(f"{where}.width must be 1 or more (got {feature.width})")
        if feature.max_length < 1:
            raise SettingsError(f"{where}.max_length must be 1 or more (got {feature.max_length})")
        if feature.scale == 0:
            raise SettingsError(f"{where}.scale must not be 0: values are divided by it")
        if feature.kind != "numeric" and feature.transform != "none":
            raise SettingsError(
                f"{where}.transform is for numeric features (got {feature.transform!r} on {feature.kind!r})"
            )
        if list(feature.boundaries) != sorted(set(feature.boundaries)):
            raise SettingsError(f"{where}.boundaries must ascend without repeats (got {list(feature.boundaries)})")
        if (feature.transform == "buckets") != bool(feature.boundaries):
            raise SettingsError(
                f'{where}: transform = "buckets" and boundaries belong together, one was given without the other'
            )
        if (feature.kind == "crossed") != bool(feature.inputs):
            raise SettingsError(
                f'{where}: kind = "crossed" and inputs belong together, one was given without the other'
            )
    field = settings.recalibrating.field
    if field is not None and (field not in by_name or by_name[field].kind != "categorical"):
        raise SettingsError(f"recalibrating.field names {field!r}, which is no categorical feature of these settings")
    for feature in settings.features:
        where = f"features.{feature.name}"
        if feature.inputs and len(feature.inputs) < 2:
            raise SettingsError(f"{where}.inputs must name two or more features (got {list(feature.inputs)})")
        for name in feature.inputs:
            if name not in by_name or by_name[name].kind != "categorical":
                raise SettingsError(f"{where}.inputs names {name!r}, which is no categorical feature of these settings")
        if feature.ids_of is not None:
            other = by_name.get(feature.ids_of)
            if other is None or other.kind not in ("categorical", "multi", "sequence"):
                raise SettingsError(
                    f"{where}.ids_of names {feature.ids_of!r}, which is no feature with ids in these settings"
                )
            if other.ids_of is not None or other.width != feature.width:
                raise SettingsError(f"{where}.ids_of: {feature.ids_of!r} must have ids of its own and the same width")


def parse(text: str, environ: Mapping[str, str] | None = None, *, source: str = "settings") -> Settings:
    r"""The settings in a TOML text, overridden by `AFTERCLICK_SECTION__KEY` in `environ`.

    Args:
        text: TOML.
        environ: where overrides are looked up; None for none. A value is read as TOML, else as a string.
        source: how errors call the text.

    Raises:
        SettingsError: no TOML, an unknown key, a wrong type, or a broken rule.

    Example:
        >>> parse("[batching]\nbatch_size = 512", {"AFTERCLICK_BATCHING__BATCH_SIZE": "64"}).batching.batch_size
        64
    """
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{source} is not TOML: {error}") from error
    for name, value in sorted((environ or {}).items()):
        if name in (*SECRETS.values(), REDIS_PASSWORD, API_KEY):
            continue
        *outer, key = name.removeprefix("AFTERCLICK_").lower().split("__")
        if name.startswith("AFTERCLICK_") and outer:
            table: Any = tables
            for section in outer:
                table = table.setdefault(section, {})
                if not isinstance(table, dict):
                    raise SettingsError(f"{name} cannot override {'.'.join(outer)}, which is no table: edit the file")
            table[key] = _toml_value(value)
    try:
        return msgspec.convert(tables, Settings)
    except msgspec.ValidationError as error:
        if isinstance(error.__cause__, ValueError):
            raise SettingsError(str(error.__cause__)) from None
        raise SettingsError(f"{source}: {error}; `afterclick init LOG` writes every key with its meaning") from error


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def load(path: Path | None, environ: Mapping[str, str] | None = None) -> Settings:
    """The settings in a file, or the defaults; overridden from `environ` (None: this process's own)."""
    environ = os.environ if environ is None else environ
    if path is None:
        return parse("", environ)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SettingsError(
            f"--config {path} does not exist; `afterclick init LOG > {path}` writes one from a look at a log"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"--config {path} cannot be read: {error}") from error
    return parse(text, environ, source=str(path))


def dump(settings: Settings) -> str:
    """The settings as TOML, every key written out.

    Example:
        >>> parse(dump(Settings())) == Settings()
        True
    """
    return tomli_w.dumps(_without_none(msgspec.to_builtins(settings)))


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_without_none(item) for item in value]
    return value


def _of_result(settings: Settings) -> dict[str, Any]:
    kept = {key: value for key, value in msgspec.to_builtins(settings).items() if key not in _OUTSIDE}
    return kept | {"gate": settings.gate.of_result}


def differences(one: Settings, other: Settings) -> list[str]:
    r"""The keys in which two settings differ, as `section.key: one != other`; features by their names, `_OUTSIDE` left out.

    Example:
        >>> differences(Settings(), parse("[labels]\nmethod = 'window'"))
        ["labels.method: 'mature' != 'window'"]
    """
    found: list[str] = []

    def walk(prefix: str, a: Any, b: Any) -> None:
        if isinstance(a, dict) and isinstance(b, dict):
            for key in sorted({*a, *b}):
                walk(f"{prefix}.{key}" if prefix else str(key), a.get(key), b.get(key))
        elif a is None or b is None:
            found.append(f"{prefix}: only in the {'second' if a is None else 'first'}")
        elif a != b:
            found.append(f"{prefix}: {a!r} != {b!r}")

    def named(settings: Settings) -> dict[str, Any]:
        sections: dict[str, Any] = _without_none(_of_result(settings))
        return sections | {"features": {feature["name"]: feature for feature in sections["features"]}}

    walk("", named(one), named(other))
    if not found and one.features != other.features:
        found.append("features: in another order")
    return found
