"""A version's bytes: the same for the same weights, back to the same tensors, and refused by name once damaged."""

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from models.manifest import (
    DENSE,
    ROWS,
    DamagedWeightsError,
    Manifest,
    Published,
    columns_of,
    decode_manifest,
    encode_manifest,
    entry_of,
    parse_name,
    verify,
    version_name,
)
from models.schema import Feature, Network
from models.weights import Move, Weights, decode, difference, encode

FEATURES = (
    Feature(name="price", kind="numeric"),
    Feature(name="history", kind="sequence", ids_of="item", width=4),
    Feature(name="item", kind="categorical", width=4),
    Feature(name="age", kind="numeric", transform="buckets", boundaries=(20.0, 40.0)),
)


def manifest(**changes):
    known = {"epoch": 1, "version": 2, "settings_hash": "a1", "method": "mature", "torch_version": "2.13.0"}
    return Manifest(**({**known, "features": FEATURES, "network": Network(embedding_width=8)} | changes))


def tensors(seed=0, rows=5):
    generator = torch.Generator().manual_seed(seed)
    return {
        "dense.ctr.0.weight": torch.randn(3, 4, generator=generator),
        "dense.ctr.0.bias": torch.zeros(3),
        "table_4.ids": torch.arange(rows) * 10 - 20,
        "table_4.vectors": torch.randn(rows, 4, generator=generator),
    }


def test_decoding_gives_every_bit_back():
    special = torch.tensor([[float("nan"), float("inf"), -0.0, 1e-45]])
    weights = Weights(manifest(), tensors() | {"dense.special": special, "dense.empty": torch.zeros(0, 3)})
    again = decode(encode(weights))
    assert sorted(again.tensors) == sorted(weights.tensors)
    for name, tensor in weights.tensors.items():
        assert again.tensors[name].dtype == tensor.dtype
        assert again.tensors[name].shape == tensor.shape
        assert again.tensors[name].numpy().tobytes() == tensor.numpy().tobytes()


def test_encoding_what_was_decoded_gives_the_same_bytes():
    published = encode(
        Weights(manifest(metrics={"ctr.auc": 0.7, "cvr.auc": None}, offsets={"b": 2, "a": 1}), tensors())
    )
    again = encode(decode(published))
    assert again == published
    assert decode_manifest(encode_manifest(published.manifest)) == published.manifest


@settings(deadline=None, max_examples=20)
@given(st.permutations(sorted(tensors())), st.permutations(["x", "y", "z"]))
def test_the_order_in_which_names_come_does_not_show_in_the_bytes(names, offsets):
    expected = encode(Weights(manifest(offsets={"x": 1, "y": 1, "z": 1}), tensors()))
    held = tensors()
    found = encode(Weights(manifest(offsets=dict.fromkeys(offsets, 1)), {name: held[name] for name in names}))
    assert found.parts == expected.parts
    assert encode_manifest(found.manifest) == encode_manifest(expected.manifest)


def test_tables_are_rows_and_all_else_is_dense():
    published = encode(Weights(manifest(), tensors()))
    assert {name: entry.part for name, entry in published.manifest.tensors.items()} == {
        "dense.ctr.0.bias": DENSE,
        "dense.ctr.0.weight": DENSE,
        "table_4.ids": ROWS,
        "table_4.vectors": ROWS,
    }


def test_views_into_shared_storage_are_published_as_tensors_of_their_own():
    flat = torch.arange(12.0)
    views = {"dense.a": flat[:4], "dense.b": flat[4:].view(2, 4), "dense.c": flat.view(3, 4).t()}
    again = decode(encode(Weights(manifest(), views)))
    assert all(torch.equal(again.tensors[name], views[name]) for name in views)


def test_a_delta_names_its_base():
    again = decode(encode(Weights(manifest(kind="delta", base_epoch=1, base_version=1), tensors())))
    assert (again.manifest.kind, again.manifest.base_name) == ("delta", "000001-0000000001")
    assert decode(encode(Weights(manifest(), tensors()))).manifest.base_name is None


@pytest.mark.parametrize(
    ("base", "says"),
    [
        ({"kind": "delta", "base_epoch": 1, "base_version": 2}, r"an earlier version than 2 \(got 1 and 2\)"),
        ({"kind": "delta", "base_epoch": 2, "base_version": 1}, r"base_epoch must be 1 .*\(got 2 and 1\)"),
        ({"kind": "delta"}, r"\(got None and None\): a delta is laid over"),
        ({"base_epoch": 1, "base_version": 1}, r"are of deltas \(got 1 and 1 for version 2\): a snapshot is complete"),
    ],
)
def test_a_base_that_is_none_is_refused(base, says):
    with pytest.raises(ValueError, match=says):
        manifest(**base)


@pytest.mark.parametrize(("epoch", "version"), [(0, 1), (1, 0), (1_000_000, 1), (1, 10_000_000_000)])
def test_epochs_and_versions_that_have_no_name_are_refused(epoch, version):
    with pytest.raises(ValueError, match="epoch and version must be 1 or more, of 6 and 10 digits at most"):
        manifest(epoch=epoch, version=version)


@given(st.lists(st.tuples(st.integers(1, 999_999), st.integers(1, 10**10 - 1)), min_size=2))
def test_names_sort_as_versions_do(versions):
    assert [version_name(*version) for version in sorted(versions)] == sorted(
        version_name(*version) for version in versions
    )


@given(st.integers(1, 999_999), st.integers(1, 10**10 - 1))
def test_a_name_says_which_version_it_is_of(epoch, version):
    assert parse_name(version_name(epoch, version)) == (epoch, version)


@pytest.mark.parametrize("name", ["", "1-1", "000001-0000000001\n", "000001-000000000١"])
def test_what_is_no_name_is_refused(name):
    with pytest.raises(DamagedWeightsError, match="is the name of no version: those are like 000001-0000000001"):
        parse_name(name)


def test_columns_stand_in_the_order_of_a_batch_with_salts_and_widths():
    found = [(c.feature, c.place, c.salt, c.width) for c in columns_of(FEATURES, Network(embedding_width=8))]
    assert found == [
        ("item", "single", "item", 4),
        ("age", "single", "age", 8),
        ("history", "bag", "item", 4),
        ("price", "number", None, None),
    ]
    assert encode(Weights(manifest(), {})).manifest.columns == columns_of(FEATURES, Network(embedding_width=8))


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_any_changed_byte_is_refused_and_its_part_named(data):
    published = encode(Weights(manifest(), tensors()))
    part = data.draw(st.sampled_from([DENSE, ROWS]))
    damaged = bytearray(published.parts[part])
    place = data.draw(st.integers(0, len(damaged) - 1))
    damaged[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(DamagedWeightsError, match=f"{part} of version 000001-0000000002 is damaged: sha256"):
        decode(Published(published.manifest, {**published.parts, part: bytes(damaged)}))


def test_parts_cut_short_missing_or_added_are_refused_by_name():
    published = encode(Weights(manifest(), tensors()))
    dense, rows = published.parts[DENSE], published.parts[ROWS]
    cases = {
        "rows.safetensors .* is damaged: .* bytes, not": {DENSE: dense, ROWS: rows[:-1]},
        "rows.safetensors of version .* is missing": {DENSE: dense},
        "more.bin is no part of version": {DENSE: dense, ROWS: rows, "more.bin": b""},
    }
    for match, parts in cases.items():
        with pytest.raises(DamagedWeightsError, match=match):
            verify(Published(published.manifest, parts))


def replaced(published, part, data):
    """The version with one part swapped for another, and a manifest that agrees on size and digest."""
    changed = msgspec.structs.replace(published.manifest, parts={**published.manifest.parts, part: entry_of(data)})
    return Published(changed, {**published.parts, part: data})


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"not tensors", "dense.safetensors of version .* is no safetensors file"),
        (save({"dense.ctr.0.bias": torch.zeros(3)}), "holds 'dense.ctr.0.weight' as None, its manifest says"),
        (save({"dense.ctr.0.weight": torch.zeros(4, 3), "dense.ctr.0.bias": torch.zeros(3)}), r"shape=\(4, 3\)"),
        (save({"dense.ctr.0.weight": torch.zeros(3, 4), "dense.ctr.0.bias": torch.zeros(3).int()}), "dtype='I32'"),
    ],
    ids=["no file of tensors", "missing tensor", "other shape", "other dtype"],
)
def test_tensors_that_are_not_those_of_the_manifest_are_refused(data, match):
    published = encode(Weights(manifest(), tensors()))
    with pytest.raises(DamagedWeightsError, match=match):
        decode(replaced(published, DENSE, data))


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "manifest.json is no manifest"),
        (b"{}", "missing required field `format`"),
        (b'{"format": 1}', "missing required field"),
        (b'{"format": 2, "anything": true}', "has format 2, this reader knows 1"),
        (b'\xff{"format": 1}', "manifest.json is no manifest"),
    ],
)
def test_what_is_no_manifest_is_refused(data, match):
    with pytest.raises(DamagedWeightsError, match=match):
        decode_manifest(data)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"dense.odd": torch.zeros(2, dtype=torch.complex64)}, r"tensors\['dense.odd'\] must be one of .*complex64"),
        ({"table_4.ids": torch.arange(4)}, r"table_4.ids and table_4.vectors must be .*\(4,\), \(5, 4\)"),
        ({"table_9.ids": torch.arange(4)}, r"table_9.ids and table_9.vectors must be .*\(4,\), None"),
    ],
)
def test_tensors_that_cannot_be_published_are_refused(changes, match):
    with pytest.raises(ValueError, match=match):
        encode(Weights(manifest(), tensors() | changes))


def test_difference_tells_rows_added_removed_and_moved_most():
    before = Weights(
        manifest(),
        {"table_2.ids": torch.tensor([7, 3, 5]), "table_2.vectors": torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]])},
    )
    after = Weights(
        manifest(version=3),
        {
            "table_2.ids": torch.tensor([5, 9, 7, 8]),
            "table_2.vectors": torch.tensor([[2.0, 2.0], [0.0, 0.0], [3.0, 4.0], [0.0, 0.0]]),
        },
    )
    table = difference(before, after).tables["table_2"]
    assert (table.added, table.removed, table.kept, table.moved) == (2, 1, 2, 1)
    assert table.farthest == [Move(7, 5.0)]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 2**32), st.integers(0, 8))
def test_difference_agrees_with_a_look_up_row_by_row(old, new, seed, farthest):
    rng = np.random.default_rng(seed)

    def weights(rows):
        ids = rng.permutation(40)[:rows]
        return dict(zip(ids.tolist(), rng.normal(size=(rows, 3)), strict=True))

    def version(found):
        vectors = np.array(list(found.values())).reshape(-1, 3)
        ids = torch.tensor(list(found), dtype=torch.int64)
        return Weights(manifest(), {"table_3.ids": ids, "table_3.vectors": torch.from_numpy(vectors)})

    before, after = weights(old), weights(new)
    distances = {i: float(np.linalg.norm(after[i] - before[i])) for i in before if i in after}
    table = difference(version(before), version(after), farthest=farthest).tables["table_3"]
    assert (table.added, table.removed, table.kept) == (
        len(after.keys() - before),
        len(before.keys() - after),
        len(distances),
    )
    expected = sorted(distances.items(), key=lambda pair: (-pair[1], pair[0]))[:farthest]
    assert [move.id for move in table.farthest] == [i for i, _ in expected]
    assert [move.distance for move in table.farthest] == pytest.approx([distance for _, distance in expected])


def test_difference_gives_lengths_of_dense_weights_and_of_their_change():
    before = Weights(
        manifest(), {"dense.bias": torch.tensor([3.0, 4.0]), "dense.gone": torch.ones(1), "dense.grown": torch.ones(1)}
    )
    after = Weights(
        manifest(), {"dense.bias": torch.tensor([3.0, 0.0]), "dense.new": torch.ones(4), "dense.grown": torch.ones(4)}
    )
    found = {name: (one.before, one.after, one.change) for name, one in difference(before, after).dense.items()}
    assert found == {
        "dense.bias": (5.0, 3.0, 4.0),
        "dense.gone": (1.0, None, None),
        "dense.grown": (1.0, 2.0, None),
        "dense.new": (None, 2.0, None),
    }


def test_a_version_does_not_differ_from_itself():
    weights = Weights(manifest(), tensors())
    found = difference(weights, decode(encode(weights)))
    assert [(table.added, table.removed, table.moved, table.farthest) for table in found.tables.values()] == [
        (0, 0, 0, [])
    ]
    assert {dense.change for dense in found.dense.values()} == {0.0}


def test_a_table_whose_vectors_changed_width_keeps_no_row():
    before, after = (
        Weights(manifest(), {"table_d.ids": torch.arange(2), "table_d.vectors": torch.zeros(2, width)})
        for width in (2, 3)
    )
    table = difference(before, after).tables["table_d"]
    assert (table.added, table.removed, table.kept) == (2, 2, 0)


def test_columns_that_the_features_do_not_make_are_refused() -> None:
    published = encode(Weights(manifest(features=(Feature(name="a", kind="categorical"),)), tensors()))
    other = msgspec.structs.replace(published.manifest, columns=())
    with pytest.raises(DamagedWeightsError, match="tells other columns than its features make here"):
        decode(Published(other, published.parts))
