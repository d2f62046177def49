"""A cut as bytes: everything comes back, each damage is named, and nothing is resumed under other settings."""

from __future__ import annotations

import hashlib

import msgspec
import pytest
import torch
from cuts import SETTINGS, cut_of, small_pipeline
from fakes import MemoryCuts

from streaming.checkpoint import (
    FORMAT,
    MANIFEST,
    STATE,
    TENSORS,
    Cut,
    CutError,
    Manifest,
    OtherRunError,
    Part,
    decode_cut,
    encode_cut,
)
from streaming.connection import Kafka, Redis
from streaming.publication import Gate, Publishing
from streaming.settings import Batching


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return encode_cut(*cut_of(7), SETTINGS)


def with_manifest(files: dict[str, bytes], **changes: object) -> dict[str, bytes]:
    manifest = msgspec.json.decode(files[MANIFEST], type=Manifest)
    return files | {MANIFEST: msgspec.json.encode(msgspec.structs.replace(manifest, **changes))}


def part_of(data: bytes) -> Part:
    return Part(hashlib.sha256(data).hexdigest(), len(data))


def test_a_cut_comes_back_whole(files: dict[str, bytes]) -> None:
    cut, tensors = cut_of(7)
    join = cut.ingest.partitions[0].join
    assert join is not None
    assert join.opened.impressions
    assert cut.ingest.batch
    assert cut.clicks
    assert tensors
    back, back_tensors = decode_cut(files, SETTINGS, name="7")
    assert back == cut
    assert back_tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert back_tensors[name].dtype == tensor.dtype, name
        assert torch.equal(back_tensors[name], tensor), name


def test_the_same_cut_is_the_same_bytes(files: dict[str, bytes]) -> None:
    assert encode_cut(*decode_cut(files, SETTINGS, name="7"), SETTINGS) == files


def test_a_run_goes_on_from_decoded_bytes(files: dict[str, bytes]) -> None:
    cut, tensors = decode_cut(files, SETTINGS, name="7")
    ends = []
    for places in (None, cut.ingest.places):
        cuts = MemoryCuts()
        pipeline = small_pipeline(cuts, places)
        if places is not None:
            pipeline.restore(cut, tensors)
        for _ in pipeline.run():
            pass
        last, last_tensors = cuts.get(-1)
        ends.append(
            (
                last.ingest.partitions,
                last.scoreboard,
                last.clicks,
                last.learner,
                {name: t.tolist() for name, t in last_tensors.items()},
            )
        )
    assert ends[0] == ends[1]


def test_the_manifest_says_what_equal_bits_depend_on(files: dict[str, bytes]) -> None:
    manifest = msgspec.json.decode(files[MANIFEST], type=Manifest)
    assert (manifest.format, manifest.torch, manifest.threads, manifest.device) == (
        FORMAT, str(torch.__version__), 1, "cpu",
    )  # fmt: skip
    assert manifest.settings == SETTINGS
    assert list(files) == [STATE, TENSORS, MANIFEST]


@pytest.mark.parametrize("part", [STATE, TENSORS])
@pytest.mark.parametrize("damage", ["flipped bit", "cut short", "grown"])
def test_a_damaged_part_is_named(files: dict[str, bytes], part: str, damage: str) -> None:
    data = files[part]
    middle = len(data) // 2
    damaged = {
        "flipped bit": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
        "cut short": data[:-1],
        "grown": data + b"\0",
    }[damage]
    with pytest.raises(CutError, match=rf"cut 7 is damaged: {part} is not what its manifest says"):
        decode_cut(files | {part: damaged}, SETTINGS, name="7")


@pytest.mark.parametrize("part", [STATE, TENSORS, MANIFEST])
def test_a_missing_part_is_named(files: dict[str, bytes], part: str) -> None:
    left = {name: data for name, data in files.items() if name != part}
    with pytest.raises(CutError, match=rf"cut 7 is damaged: {part} is missing"):
        decode_cut(left, SETTINGS, name="7")


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[]", b"{}", b'{"format":"1"}', b'{"format":1}'])
def test_a_damaged_manifest_is_named(files: dict[str, bytes], data: bytes) -> None:
    with pytest.raises(CutError, match=r"cut 7 is damaged: manifest\.json cannot be read"):
        decode_cut(files | {MANIFEST: data}, SETTINGS, name="7")


def test_a_manifest_that_leaves_a_part_out_is_damaged(files: dict[str, bytes]) -> None:
    with pytest.raises(CutError, match=r"cut 7 is damaged: state\.msgpack is missing"):
        decode_cut(with_manifest(files, parts={}), SETTINGS, name="7")


def test_another_format_is_refused_whatever_else_it_says(files: dict[str, bytes]) -> None:
    for manifest in (with_manifest(files, format=FORMAT + 1)[MANIFEST], b'{"format":2,"all":"else is new"}'):
        with pytest.raises(
            CutError, match="cut 7 has format 2, this version reads 1: resume with the version that wrote"
        ):
            decode_cut(files | {MANIFEST: manifest}, SETTINGS, name="7")


def test_whole_parts_that_say_something_else_are_refused(files: dict[str, bytes]) -> None:
    other_state = msgspec.msgpack.encode({"number": "seven"})
    for name, data in ((STATE, other_state), (STATE, b"\xc1"), (TENSORS, b"no tensors")):
        parts = {part: part_of(files[part]) for part in (STATE, TENSORS)} | {name: part_of(data)}
        with pytest.raises(CutError, match="cut 7 is whole but cannot be understood"):
            decode_cut(with_manifest(files, parts=parts) | {name: data}, SETTINGS, name="7")


def test_from_where_records_come_and_where_weights_go_is_no_other_run(files: dict[str, bytes]) -> None:
    moved = msgspec.structs.replace(
        SETTINGS, kafka=Kafka(model="other"), redis=Redis(model="other"), publishing=Publishing(snapshot_every=3)
    )
    assert decode_cut(files, moved, name="7")[0] == decode_cut(files, SETTINGS, name="7")[0]


@pytest.mark.parametrize(
    ("gate", "says"),
    [
        (
            Gate(row_norm_most=5.0, on_refusal="stop"),
            None,
        ),  # a bound that stopped a run may be moved, and the run go on
        (
            Gate(calibration_most=1.5),
            r"gate\.held_out_share: 0\.0 != 0\.01",
        ),  # else these impressions would have taught
        (Gate(row_norm_most=5.0, on_refusal="fall_back"), r"gate\.on_refusal: only in the second"),
    ],
)
def test_bounds_of_the_gate_are_no_other_run_unless_training_hangs_on_them(
    gate: Gate, says: str | None, files: dict[str, bytes]
) -> None:
    moved = msgspec.structs.replace(SETTINGS, gate=gate)
    if says is None:
        assert decode_cut(files, moved, name="7")[0] == decode_cut(files, SETTINGS, name="7")[0]
        assert moved.hash == SETTINGS.hash
        return
    with pytest.raises(OtherRunError, match=says):
        decode_cut(files, moved, name="7")


def test_other_settings_are_refused_by_key(files: dict[str, bytes]) -> None:
    other = msgspec.structs.replace(SETTINGS, batching=Batching(batch_size=5, batch_interval_ms=50))
    with pytest.raises(OtherRunError, match=r"cut 7 was written under other settings \(batching\.batch_size: 4 != 5\)"):
        decode_cut(files, other, name="7")


def test_another_torch_is_refused(files: dict[str, bytes]) -> None:
    with pytest.raises(
        OtherRunError, match=r"cut 7 was written with torch 0\.1, this is .*equal weights cannot be promised"
    ):
        decode_cut(with_manifest(files, torch="0.1"), SETTINGS, name="7")


def test_the_state_survives_msgpack_with_every_place(files: dict[str, bytes]) -> None:
    cut = msgspec.msgpack.decode(files[STATE], type=Cut)
    assert set(cut.ingest.places) == {"impressions.jsonl", "clicks.jsonl", "conversions.jsonl"}
    assert all(place.line > 1 for place in cut.ingest.places.values())
