"""Deltas: laid one over the other they are the snapshot, bit for bit; laid over anything else they are refused by name."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.batch import Batch, Event, Inputs
from models.delta import WrongBaseError, applied, whole
from models.manifest import DamagedWeightsError, Manifest, encode_manifest
from models.row_format import packed, unpacked
from models.schema import Feature, Labels, Network, Optimizer, Safeguards
from models.trainer import Learner
from models.versions import Versions
from models.weights import Weights, decode, encode

FEATURES = (Feature(name="user", kind="categorical"), Feature(name="item", kind="categorical", width=3))


def learner(max_rows=None):
    return Learner(
        FEATURES,
        network=Network(towers=(), embedding_width=2, threads=1, max_rows=max_rows),
        optimizer=Optimizer(embedding_learning_rate=0.1),
        safeguards=Safeguards(),
        labels=Labels(),
        observation_window_ms=1_000,
        attribution_window_ms=5_000,
        batch_size=8,
        kappa_half_life_ms=1_000,
    )


def teach(own, ids, at_ms=0):
    """One step on a row for each (user, item)."""
    events = np.resize(np.array([Event.MATURED, Event.UNCLICKED], np.int8), len(ids))
    rows = Inputs(
        np.array(ids, np.int64) + np.array([0, 1000]),
        np.zeros(0, np.int64),
        np.zeros(1, np.int64),
        np.zeros((len(ids), 0), np.float32),
    )
    own.learn_many(Batch.of(rows, events, (events == Event.MATURED).astype(np.float32)), at_ms=at_ms)


def manifest(version, epoch=1):
    return Manifest(
        epoch=epoch,
        version=version,
        settings_hash="a",
        method="mature",
        torch_version="2",
        features=FEATURES,
        network=Network(),
        watermark_ms=version,
        offsets={"clicks": version},
    )


def versions(own, *, every=100, epsilon=0.0, row_format="fp32"):
    return Versions(own, snapshot_every=every, epsilon=epsilon, row_format=row_format)


def published(chain, version, **options):
    """The next version, made, through its bytes and back, and taken note of."""
    there = encode(chain.make(manifest(version), {}, **options))
    chain.published(there.manifest)
    return decode(there)


def assert_same(found: Weights, expected: Weights) -> None:
    assert found.manifest == expected.manifest
    assert found.tensors.keys() == expected.tensors.keys()
    for name, tensor in expected.tensors.items():
        assert found.tensors[name].dtype == tensor.dtype, name
        assert found.tensors[name].numpy().tobytes() == tensor.numpy().tobytes(), name


def test_numbers_that_were_left_out_bring_no_snapshot_sooner():
    own = learner()
    chain = versions(own, every=3)
    kinds = []
    for version in (7, 8, 20, 40, 41, 90, 99):
        teach(own, [(version, 1)])
        kinds.append(published(chain, version).manifest.kind)
    assert kinds == ["snapshot", "delta", "delta"] * 2 + ["snapshot"]


# A course is steps, each the (user, item) pairs of its rows, and publishes, which stand as None.
COURSES = st.lists(
    st.none() | st.lists(st.tuples(st.integers(0, 12), st.integers(0, 9)), min_size=1, max_size=6), max_size=25
)


@settings(deadline=None, max_examples=60)
@given(COURSES, st.none() | st.integers(2, 6), st.integers(1, 6), st.sampled_from(["fp32", "fp16", "int8"]))
def test_any_chain_of_deltas_is_the_snapshot_bit_for_bit(course, max_rows, every, row_format):
    own = learner(max_rows)
    chain = versions(own, every=every, row_format=row_format)
    reader, version = None, 0
    for step in [*course, None]:
        if step is not None:
            teach(own, step)
            continue
        version += 1
        made = published(chain, version)
        assert (made.manifest.kind == "snapshot") == (version % every == 1 or every == 1)
        reader = whole(made) if made.manifest.kind == "snapshot" else applied(reader, made)
        snapshot = versions(own, row_format=row_format).make(manifest(version), {})
        assert_same(reader, whole(decode(encode(snapshot))))
        if row_format == "fp32":
            again, expected = encode(reader), encode(snapshot)
            assert again.parts == expected.parts
            assert encode_manifest(again.manifest) == encode_manifest(expected.manifest)


def test_a_delta_holds_the_rows_that_were_touched_and_the_ids_that_left():
    own = learner(max_rows=3)
    chain = versions(own)
    teach(own, [(1, 1), (2, 1), (3, 1)])
    published(chain, 1)
    teach(own, [(2, 1), (4, 1)])  # user 4 takes the row of user 1, untouched for longest
    delta = published(chain, 2)
    assert (delta.manifest.kind, delta.manifest.base_name) == ("delta", "000001-0000000001")
    assert delta.tensors["table_2.rows"].tolist() == [0, 1]
    assert delta.tensors["table_2.ids"].tolist() == [4, 2]
    assert delta.tensors["table_2.gone"].tolist() == [1]
    assert delta.tensors["table_3.gone"].tolist() == []
    assert {name for name in delta.tensors if name.startswith("dense.")} == {
        name for name in own.published() if name.startswith("dense.")
    }


def test_nothing_learned_is_a_delta_without_rows():
    own = learner()
    chain = versions(own)
    teach(own, [(1, 1)])
    published(chain, 1)
    assert len(published(chain, 2).tensors["table_2.ids"]) == 0


@settings(deadline=None, max_examples=30)
@given(COURSES, st.none() | st.integers(2, 6), st.floats(0.001, 0.3))
def test_with_an_epsilon_no_row_is_ever_farther_off_than_that_and_every_id_is_right(course, max_rows, epsilon):
    own = learner(max_rows)
    chain = versions(own, epsilon=epsilon)
    reader = whole(published(chain, 1))
    for version, step in enumerate(course, 2):
        if step is not None:
            teach(own, step)
        reader = applied(reader, published(chain, version))
        for name, tensor in own.published().items():
            if not name.endswith(".vectors"):
                assert torch.equal(reader.tensors[name], tensor), name
            elif len(tensor):
                assert torch.linalg.vector_norm(reader.tensors[name] - tensor, dim=1).max() <= epsilon * 1.0001


def test_an_epsilon_leaves_out_what_hardly_moved_and_sends_it_once_it_has_moved_far():
    own = learner()
    chain = versions(own, epsilon=0.1)
    teach(own, [(1, 1)])
    published(chain, 1)
    sent = []
    for version in range(2, 22):
        teach(own, [(1, 1)], at_ms=version)
        sent.append(len(published(chain, version).tensors["table_2.ids"]))
    assert 0 < sum(sent) < 15


def test_what_was_made_and_not_published_is_nobodys_base():
    own = learner()
    chain = versions(own)
    published(chain, 1)
    chain.make(manifest(2), {})
    assert published(chain, 3).manifest.kind == "snapshot"
    assert published(chain, 4).manifest.base_version == 3


def test_a_snapshot_can_be_asked_for_and_a_new_epoch_begins_with_one():
    chain = versions(learner())
    assert [published(chain, 1).manifest.kind, published(chain, 2, snapshot=True).manifest.kind] == ["snapshot"] * 2
    assert chain.make(manifest(3, epoch=2), {}).manifest.kind == "snapshot"


@pytest.fixture
def pair():
    own = learner(max_rows=3)
    chain = versions(own)
    teach(own, [(1, 1), (2, 1), (3, 1)])
    base = whole(published(chain, 1))
    teach(own, [(2, 1), (4, 2)])
    return base, published(chain, 2)


def changed(weights, name, values):
    return Weights(
        weights.manifest, dict(weights.tensors) | {name: torch.tensor(values, dtype=weights.tensors[name].dtype)}
    )


def test_a_delta_over_another_version_is_refused(pair):
    base, delta = pair
    newer = applied(base, delta)
    with pytest.raises(
        WrongBaseError, match=r"000001-0000000002 is a delta to 000001-0000000001 \(got 000001-0000000002"
    ):
        applied(newer, delta)
    other = Weights(msgspec.structs.replace(base.manifest, epoch=2), base.tensors)
    with pytest.raises(WrongBaseError, match=r"got 000002-0000000001, a snapshot\): read the newest snapshot"):
        applied(other, delta)
    with pytest.raises(WrongBaseError, match="is a delta to 000001-0000000001: lay it over that one"):
        whole(delta)
    with pytest.raises(WrongBaseError, match="is a snapshot: it needs no base"):
        applied(base, base)


@pytest.mark.parametrize(
    ("name", "values", "says"),
    [
        ("table_2.gone", [], "table_2 of version 000001-0000000002: a row has another id"),
        ("table_2.rows", [1, 0], "rows must ascend"),
        ("table_2.rows", [0, 0], "rows must ascend"),
        ("table_2.rows", [-1, 1], "rows must ascend"),
        ("table_2.rows", [1, 7], "do not follow the 3 of its base without a gap"),
        ("table_2.rows", [1], "has no rows or no gone beside its 2 ids"),
    ],
)
def test_a_delta_that_does_not_fit_its_base_is_refused(pair, name, values, says):
    base, delta = pair
    with pytest.raises(DamagedWeightsError, match=says):
        applied(base, changed(delta, name, values))


def test_a_base_without_a_table_of_the_delta_is_refused(pair):
    base, delta = pair
    less = {name: tensor for name, tensor in base.tensors.items() if not name.startswith("table_3")}
    with pytest.raises(DamagedWeightsError, match=r"has tables \['table_2', 'table_3'\], its base has \['table_2'\]"):
        applied(Weights(base.manifest, less), delta)


def test_applying_changes_neither_base_nor_delta(pair):
    base, delta = pair
    before = {name: tensor.clone() for name, tensor in base.tensors.items()}
    applied(base, delta)
    assert all(torch.equal(base.tensors[name], tensor) for name, tensor in before.items())


ROWS = st.lists(st.lists(st.floats(-1e4, 1e4, width=32), min_size=3, max_size=3), max_size=5)


@given(ROWS)
def test_formats_are_as_near_as_they_say(rows):
    vectors = torch.tensor(rows, dtype=torch.float32).reshape(-1, 3)
    largest = vectors.abs().amax(dim=1, keepdim=True) if len(vectors) else vectors[:, :1]
    assert torch.equal(unpacked(packed(vectors, "fp32")), vectors)
    off = (unpacked(packed(vectors, "fp16")) - vectors).abs()
    assert bool((off <= vectors.abs() / 2048 + 6e-8).all())
    off = (unpacked(packed(vectors, "int8")) - vectors).abs()
    assert bool((off <= largest / 253.9 + 1e-30).all())


def test_numbers_beyond_half_precision_stay_finite_and_zeros_stay_zero():
    assert unpacked(packed(torch.tensor([[1e6, -1e6]]), "fp16")).tolist() == [[65504.0, -65504.0]]
    assert unpacked(packed(torch.zeros(2, 3), "int8")).tolist() == torch.zeros(2, 3).tolist()


def test_bytes_without_their_scales_are_refused():
    with pytest.raises(ValueError, match=r"scales must be \(2,\), one for each row of bytes \(got None\)"):
        unpacked({"vectors": torch.zeros(2, 3, dtype=torch.int8)})
