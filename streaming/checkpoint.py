"""One consistent cut: all state of a run as one value, and its bytes. Must not know when a cut is taken or where it is kept.

A cut is three files:

    state.msgpack         `Cut`: places, joins, batch, predictions, counters, output lengths
    tensors.safetensors   model, optimizer, embedding rows
    manifest.json         sha256 and size of both, settings, torch version, threads, device
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from streaming.deliveries import IngestState
from streaming.open_clicks import OpenClick
from streaming.recalibrating import OpenRaw
from streaming.scoring import ScoreboardState
from streaming.set_aside import JudgedState
from streaming.settings import Settings, differences

FORMAT = 1
STATE, TENSORS, MANIFEST = "state.msgpack", "tensors.safetensors", "manifest.json"


class CutError(Exception):
    """A cut cannot be written, read or resumed from; the message names it, what is wrong and what to do."""


class OtherRunError(CutError):
    """The cut is whole, but belongs to another run."""


class Cut(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a run between two records.

    Args:
        number: of the cut, from 1.
        ingest: the half of records, joins and the batch that is not full.
        scoreboard, clicks, recalibrated, learner: the snapshots of the stages after that; tensors stand apart.
        counts: what was counted so far, as `RunMetrics` names it.
        lengths: output file -> bytes. weights_version: the last one published.
        judged: the labels that versions are judged by.
    """

    number: int
    ingest: IngestState
    scoreboard: ScoreboardState
    clicks: dict[str, OpenClick]
    recalibrated: dict[str, OpenRaw]
    learner: dict[str, Any]
    counts: dict[str, Any]
    lengths: dict[str, int]
    weights_version: int
    judged: JudgedState = JudgedState()

    @property
    def at_ms(self) -> int | None:
        """The watermark it was taken at; None before the first record."""
        return self.ingest.watermark_ms


class Part(msgspec.Struct, frozen=True):
    """What a file of a cut must be."""

    sha256: str
    bytes: int


class _Format(msgspec.Struct, frozen=True):
    """All of a manifest that every version can read."""

    format: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a cut is made of and under which settings; results are bit-for-bit equal only where all of these are."""

    format: int
    parts: dict[str, Part]
    settings: Settings
    torch: str
    threads: int
    device: str


def encode_cut(cut: Cut, tensors: dict[str, torch.Tensor], settings: Settings) -> dict[str, bytes]:
    """The files of a cut, the manifest last."""
    files = {STATE: msgspec.msgpack.encode(cut), TENSORS: save(tensors)}
    manifest = Manifest(
        format=FORMAT,
        parts={name: Part(hashlib.sha256(data).hexdigest(), len(data)) for name, data in files.items()},
        settings=settings,
        torch=str(torch.__version__),
        threads=settings.network.threads,
        device=settings.network.device,
    )
    return files | {MANIFEST: msgspec.json.format(msgspec.json.encode(manifest))}


def decode_cut(files: Mapping[str, bytes], settings: Settings, *, name: str) -> tuple[Cut, dict[str, torch.Tensor]]:
    """A cut out of its files, verified.

    Args:
        files: as `encode_cut` gave them.
        settings: those of the run that resumes; they must be those it was written under.
        name: how errors call the cut.

    Raises:
        CutError: it is damaged or of another format.
        OtherRunError: it was written under other settings or another torch.
    """
    try:
        written = msgspec.json.decode(files[MANIFEST], type=_Format).format
        if written != FORMAT:
            raise CutError(
                f"cut {name} has format {written}, this version reads {FORMAT}: resume with the version that wrote it"
            )
        manifest = msgspec.json.decode(files[MANIFEST], type=Manifest)
        for part in (STATE, TENSORS):
            entry = manifest.parts[part]
            if len(files[part]) != entry.bytes or hashlib.sha256(files[part]).hexdigest() != entry.sha256:
                raise CutError(
                    f"cut {name} is damaged: {part} is not what its manifest says (sha256 or length differs)"
                )
    except KeyError as error:
        raise CutError(f"cut {name} is damaged: {error.args[0]} is missing") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CutError(f"cut {name} is damaged: {MANIFEST} cannot be read ({error})") from error
    if keys := "; ".join(differences(manifest.settings, settings)):  # brokers are no part of them
        raise OtherRunError(
            f"cut {name} was written under other settings ({keys}): resume with those, or start anew in another --out"
        )
    if manifest.torch != str(torch.__version__):
        raise OtherRunError(
            f"cut {name} was written with torch {manifest.torch}, this is {torch.__version__}: "
            "equal weights cannot be promised; resume with that torch, or start anew in another --out"
        )
    try:
        return msgspec.msgpack.decode(files[STATE], type=Cut), load(files[TENSORS])
    except (msgspec.DecodeError, SafetensorError) as error:
        raise CutError(
            f"cut {name} is whole but cannot be understood ({error}): resume with the version that wrote it"
        ) from error
