"""A published version in pieces that a store takes, each with its digest, and put together again. Must not know which store."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from models.manifest import DamagedWeightsError, Published, decode_manifest, encode_manifest, verify


class Chunk(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of a part: its number from 0, its size in bytes and its digest."""

    part: str
    number: int
    size: int
    sha256: str

    @property
    def name(self) -> str:
        """How the piece is called within its version. It contains the digest: other bytes are another piece.

        Example:
            >>> Chunk(part="dense.safetensors", number=3, size=1, sha256="ab" * 32).name
            'dense.safetensors/3/abababababababab'
        """
        return f"{self.part}/{self.number}/{self.sha256[:16]}"


@dataclass(frozen=True, slots=True)
class Chunked:
    """All that is written of a version beside the chunks.

    Args:
        manifest: manifest.json. sha256: of it. chunks: the pieces of all parts in order, as JSON: `part`, `number`, `size`, `sha256`.
    """

    manifest: bytes
    sha256: str
    chunks: bytes


def split(published: Published, chunk_bytes: int) -> tuple[Chunked, list[tuple[Chunk, bytes]]]:
    """A version in pieces of `chunk_bytes` at most.

    Raises:
        DamagedWeightsError: the bytes are not those the manifest speaks of.
    """
    verify(published)
    pieces = [
        (Chunk(part=part, number=number, size=len(data), sha256=hashlib.sha256(data).hexdigest()), data)
        for part, whole in sorted(published.parts.items())
        for number, data in enumerate(_pieces(whole, chunk_bytes))
    ]
    manifest = encode_manifest(published.manifest)
    chunks = msgspec.json.encode([chunk for chunk, _ in pieces])
    return Chunked(manifest, hashlib.sha256(manifest).hexdigest(), chunks), pieces


def _pieces(data: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def chunks_of(name: str, chunked: Chunked) -> tuple[Chunk, ...]:
    """The pieces of a version.

    Args:
        name: of the version, as it was asked for.
        chunked: as it was found.

    Raises:
        DamagedWeightsError: manifest or list of chunks are damaged, or those of another version.
    """
    if hashlib.sha256(chunked.manifest).hexdigest() != chunked.sha256:
        raise DamagedWeightsError(f"the manifest of version {name} is damaged: publish a snapshot")
    found = decode_manifest(chunked.manifest).name
    if found != name:
        raise DamagedWeightsError(f"the manifest of version {name} is that of version {found}: publish a snapshot")
    try:
        return msgspec.json.decode(chunked.chunks, type=tuple[Chunk, ...])
    except msgspec.DecodeError as error:
        raise DamagedWeightsError(
            f"the list of chunks of version {name} is damaged ({error}): publish a snapshot"
        ) from error


def put_together(name: str, chunked: Chunked, chunks: Sequence[Chunk], data: Mapping[str, bytes | None]) -> Published:
    """The version that pieces make, verified one by one and as a whole.

    Args:
        name: of the version. chunked: as it was found. chunks: as `chunks_of` told them.
        data: name of a piece -> its bytes; None or absent where it was not found.

    Raises:
        DamagedWeightsError: a chunk is missing or damaged; the message names it.
    """
    parts: dict[str, list[bytes]] = {part: [] for part in decode_manifest(chunked.manifest).parts}
    for chunk in chunks:
        piece = data.get(chunk.name)
        of = sum(other.part == chunk.part for other in chunks)
        called = f"chunk {chunk.number + 1} of {of} of {chunk.part} of version {name}"
        if piece is None:
            raise DamagedWeightsError(f"{called} is missing: read another version, or publish a snapshot")
        if len(piece) != chunk.size or hashlib.sha256(piece).hexdigest() != chunk.sha256:
            raise DamagedWeightsError(f"{called} is damaged: read another version, or publish a snapshot")
        parts.setdefault(chunk.part, []).append(piece)
    published = Published(decode_manifest(chunked.manifest), {part: b"".join(pieces) for part, pieces in parts.items()})
    verify(published)
    return published
