"""What a published version says of itself, and whether its bytes are the ones it speaks of; must not know torch or tensors."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from models.features import Columns, salt_of
from models.likelihoods import Form
from models.schema import Feature, Network

FORMAT = 1
_EPOCH_DIGITS, _VERSION_DIGITS = 6, 10
_NAME = re.compile(rf"[0-9]{{{_EPOCH_DIGITS}}}-[0-9]{{{_VERSION_DIGITS}}}")
DENSE, ROWS = "dense.safetensors", "rows.safetensors"


class DamagedWeightsError(ValueError):
    """A version is not what its manifest says; the message names the damaged part."""


class MissingWeightsError(DamagedWeightsError):
    """A version is not there, or no longer: newer ones have taken its place, so look again at which one is current."""


class Column(msgspec.Struct, frozen=True, kw_only=True):
    """A feature as the network takes it in.

    Args:
        feature: its name.
        place: among the single ids, the bags or the plain numbers of a batch.
        salt: what its ids are salted with; None for numbers.
        width: of its vectors; None for numbers.
    """

    feature: str
    place: Literal["single", "bag", "number"]
    salt: str | None = None
    width: int | None = None


class TensorEntry(msgspec.Struct, frozen=True, kw_only=True):
    """Where a tensor lies and what shape it must have; `dtype` in the words of safetensors."""

    part: str
    dtype: str
    shape: tuple[int, ...]


class PartEntry(msgspec.Struct, frozen=True, kw_only=True):
    """The size in bytes and the digest of one part."""

    size: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """Which version this is, what it was made from, and what it holds. No clock: the same run makes the same bytes.

    Args:
        epoch, version: from 1; a later start of a run has a greater epoch, a later version within it a greater version.
        settings_hash, method: of the run that taught it.
        torch_version: it was taught with.
        features, network: as in the settings; all that scoring needs to know of them.
        form: what pCVR is made of: one head, or those of a method with a likelihood of its own (`likelihoods.py`).
        attribution_window_ms: within which a conversion counts; `dfm` needs it to score. None: it was not told.
        recalibrated_by: the feature whose values have maps of their own, where there are `recalibration.*`; None: no feature has.
        kind: a snapshot is complete in itself; a delta is laid over its base.
        base_epoch, base_version: which version a delta is a delta to, of the same epoch; None for a snapshot.
        base_digest: the `digest` of that version: another run's may have the same name. None for a snapshot.
        republishes: the name of the older version whose tensors these are, after a rollback.
        watermark_ms: how far event time had come; None if nothing had been seen.
        offsets: how far the input was read: file or `topic[partition]` -> position.
        metrics: figures at the cut, by name; None where one has no value.
        columns: the features in the order of a batch. columns, tensors and parts are filled in when it is encoded.
        format: version of this structure; a reader refuses one that it does not know.

    Raises:
        ValueError: epoch or version is below 1, or the base is not an earlier version of the same epoch.
    """

    epoch: int
    version: int
    settings_hash: str
    method: str
    torch_version: str
    features: tuple[Feature, ...]
    network: Network
    form: Form = "pairs"
    attribution_window_ms: int | None = None
    recalibrated_by: str | None = None
    kind: Literal["snapshot", "delta"] = "snapshot"
    base_epoch: int | None = None
    base_version: int | None = None
    base_digest: str | None = None
    republishes: str | None = None
    watermark_ms: int | None = None
    offsets: dict[str, int] = {}
    metrics: dict[str, float | None] = {}
    columns: tuple[Column, ...] = ()
    tensors: dict[str, TensorEntry] = {}
    parts: dict[str, PartEntry] = {}
    format: int = FORMAT

    def __post_init__(self) -> None:
        if not 1 <= self.epoch < 10**_EPOCH_DIGITS or not 1 <= self.version < 10**_VERSION_DIGITS:
            raise ValueError(
                f"epoch and version must be 1 or more, of {_EPOCH_DIGITS} and {_VERSION_DIGITS} digits at most "
                f"(got {self.epoch} and {self.version}): 0 is before the first, and names sort by digits"
            )
        if self.kind == "snapshot":
            if self.base_epoch is not None or self.base_version is not None:
                raise ValueError(
                    f"base_epoch and base_version are of deltas (got {self.base_epoch} and {self.base_version} "
                    f"for version {self.version}): a snapshot is complete in itself"
                )
        elif self.base_epoch != self.epoch or self.base_version is None or not 1 <= self.base_version < self.version:
            raise ValueError(
                f"base_epoch must be {self.epoch} and base_version an earlier version than {self.version} "
                f"(got {self.base_epoch} and {self.base_version}): a delta is laid over what was published before it"
            )

    @property
    def name(self) -> str:
        """How the version is called."""
        return version_name(self.epoch, self.version)

    @property
    def digest(self) -> str:
        """Tells its tensors, and those that it is laid over, from all others: by the digests of its parts, which must be filled in."""
        parts = "".join(f"{name} {part.sha256}\n" for name, part in sorted(self.parts.items()))
        return hashlib.sha256(f"{self.base_digest or ''}\n{parts}".encode()).hexdigest()

    @property
    def base_name(self) -> str | None:
        """How the version that this is a delta to is called; None for a snapshot."""
        if self.base_epoch is None or self.base_version is None:
            return None
        return version_name(self.base_epoch, self.base_version)


def version_name(epoch: int, version: int) -> str:
    """How (epoch, version) is written: padded with zeros, so that names sort as versions do.

    Example:
        >>> version_name(3, 12)
        '000003-0000000012'
    """
    return f"{epoch:0{_EPOCH_DIGITS}d}-{version:0{_VERSION_DIGITS}d}"


def parse_name(name: str) -> tuple[int, int]:
    """The (epoch, version) of a name.

    Raises:
        DamagedWeightsError: it is the name of no version.

    Example:
        >>> parse_name("000003-0000000012")
        (3, 12)
    """
    if not _NAME.fullmatch(name):
        raise DamagedWeightsError(f"{name[:40]!r} is the name of no version: those are like {version_name(1, 1)}")
    epoch, _, version = name.partition("-")
    return int(epoch), int(version)


def columns_of(features: Sequence[Feature], network: Network) -> tuple[Column, ...]:
    """The features in the order of a batch, with what their ids are salted with and the widths of their vectors."""
    columns = Columns.of(features)

    def embedded(feature: Feature, place: Literal["single", "bag"]) -> Column:
        width = network.embedding_width if feature.width is None else feature.width
        return Column(feature=feature.name, place=place, salt=salt_of(feature), width=width)

    return (
        *(embedded(feature, "single") for feature in columns.single),
        *(embedded(feature, "bag") for feature in columns.bags),
        *(Column(feature=feature.name, place="number") for feature in columns.numbers),
    )


@dataclass(frozen=True, slots=True)
class Published:
    """A version as bytes: what a publisher writes and a reader brings back.

    Args:
        manifest: with every part in it.
        parts: name -> bytes.
    """

    manifest: Manifest
    parts: Mapping[str, bytes]


def entry_of(data: bytes) -> PartEntry:
    """What the manifest says of these bytes."""
    return PartEntry(size=len(data), sha256=hashlib.sha256(data).hexdigest())


def encode_manifest(manifest: Manifest) -> bytes:
    """The manifest as JSON to be read by people and machines; equal manifests give equal bytes."""
    return msgspec.json.format(msgspec.json.encode(manifest, order="deterministic"), indent=1) + b"\n"


def decode_manifest(data: bytes) -> Manifest:
    """The manifest that JSON spells. Further fields are ignored; inside features and network, where scoring hangs on them, refused.

    Raises:
        DamagedWeightsError: it is no manifest, or of a format from the future.
    """
    try:
        form = msgspec.json.decode(data, type=_Format).format
        if form != FORMAT:
            raise DamagedWeightsError(
                f"manifest.json has format {form}, this reader knows {FORMAT}: read it with the version that wrote it"
            )
        return msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DamagedWeightsError(f"manifest.json is no manifest ({error}): publish the version again") from error


class _Format(msgspec.Struct):
    format: int


def verify(published: Published) -> None:
    """Looks whether every part is there, of the size and with the digest that the manifest says.

    Raises:
        DamagedWeightsError: one is not; the message names it.
    """
    manifest, parts = published.manifest, published.parts
    for name in sorted({*manifest.parts, *parts}):
        if name not in parts:
            raise DamagedWeightsError(
                f"{name} of version {manifest.name} is missing: read another version, or publish it again"
            )
        if name not in manifest.parts:
            raise DamagedWeightsError(f"{name} is no part of version {manifest.name}: its manifest does not name it")
        expected, found = manifest.parts[name], entry_of(parts[name])
        if found.size != expected.size:
            raise DamagedWeightsError(
                f"{name} of version {manifest.name} is damaged: {found.size} bytes, not {expected.size}; "
                "read another version, or publish it again"
            )
        if found.sha256 != expected.sha256:
            raise DamagedWeightsError(
                f"{name} of version {manifest.name} is damaged: sha256 {found.sha256}, not {expected.sha256}; "
                "read another version, or publish it again"
            )
