"""A version that scores: the index that it takes on from the one before, common features taken apart, and weights that do not fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.batch import Inputs, rows_of
from models.features import Columns
from models.frozen import FrozenModel
from models.manifest import DamagedWeightsError, Manifest
from models.schema import Feature, Labels, Network, Optimizer, Safeguards
from models.trainer import Learner
from models.weights import Weights

FEATURES = (
    Feature(name="user", kind="categorical"),
    Feature(name="item", kind="categorical", task="cvr"),
    Feature(name="age", kind="categorical", width=2),
    Feature(name="page", kind="categorical"),
    Feature(name="city", kind="categorical", width=2, task="ctr"),
    Feature(name="tags", kind="multi"),
    Feature(name="seen", kind="sequence", width=2),
    Feature(name="price", kind="numeric"),
    Feature(name="quality", kind="numeric", task="ctr"),
)
NETWORK = Network(towers=(8, 4), embedding_width=4, threads=1)


def learner() -> Learner:
    return Learner(
        FEATURES, network=NETWORK, optimizer=Optimizer(), safeguards=Safeguards(), labels=Labels(), observation_window_ms=1,
        attribution_window_ms=1, batch_size=8, kappa_half_life_ms=1,
    )  # fmt: skip


def weights_of(tensors: dict[str, torch.Tensor], **changes: object) -> Weights:
    manifest = Manifest(
        epoch=1, version=1, settings_hash="", method="mature", torch_version="", features=FEATURES, network=NETWORK, **changes  # type: ignore[arg-type]
    )  # fmt: skip
    return Weights(manifest, tensors)


def inputs_of(rows: int, common: list[int], seed: int) -> Inputs:
    """Rows whose single features at these places are all alike."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 6, (rows, len(Columns.of(FEATURES).single)))
    ids[:, common] = ids[:1, common]
    sizes = rng.integers(1, 4, 2 * rows)
    numbers = rng.normal(size=(rows, 2)).astype(np.float32)
    numbers[rng.random((rows, 2)) < 0.3] = np.nan
    return Inputs(ids, rng.integers(0, 6, sizes.sum()), np.concatenate([[0], sizes.cumsum()]), numbers)


@given(rows=st.integers(0, 20), common=st.lists(st.integers(0, 4), unique=True), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_what_rows_have_in_common_makes_no_difference(rows, common, seed):
    trainer = learner()
    tensors = trainer.published()
    for width in (2, 4):
        tensors |= {f"table_{width}.ids": torch.tensor([3, 1, 5]), f"table_{width}.vectors": torch.rand(3, width)}
    model = FrozenModel(weights_of(tensors))
    state = trainer.snapshot()
    filled = state.tensors | tensors
    for width in (2, 4):
        filled |= {
            f"table_{width}.sums": torch.ones(3, width),
            f"table_{width}.touched": torch.zeros(3, dtype=torch.int32),
        }
    trainer.restore(type(state)(filled, state.state))
    inputs = inputs_of(rows, common, seed)
    scored, expected = model.predict_many(inputs), trainer.predict_many(inputs)
    np.testing.assert_allclose(scored.pctr, expected.pctr, atol=1e-6, rtol=0)
    np.testing.assert_allclose(scored.pcvr, expected.pcvr, atol=1e-6, rtol=0)
    known = np.array([1, 3, 5])
    names = [feature.name for feature in Columns.of(FEATURES).single]
    assert {name: scored.unseen[name] for name in names} == dict(
        zip(names, (~np.isin(inputs.ids, known)).sum(axis=0).tolist(), strict=True)
    )
    tags = inputs.bag_ids[: inputs.bag_offsets[rows]]
    assert (scored.seen["tags"], scored.unseen["tags"]) == (len(tags), int((~np.isin(tags, known)).sum()))
    assert scored.seen["tags"] + scored.seen["seen"] == len(inputs.bag_ids)
    for row in range(min(rows, 2)):
        alone = model.predict_many(rows_of(inputs, np.array([row])))
        np.testing.assert_allclose(alone.pcvr, scored.pcvr[row], atol=1e-6, rtol=0)


@given(
    before=st.lists(st.integers(0, 40), unique=True, max_size=20),
    after=st.lists(st.integers(0, 40), unique=True, max_size=24),
    kept=st.integers(0, 20),
)
@settings(max_examples=100, deadline=None)
def test_an_index_taken_on_finds_what_one_made_anew_does(before, after, kept):
    after = before[:kept] + [each for each in after if each not in before[:kept]]
    base = learner().published()
    empty = {"table_2.ids": torch.zeros(0, dtype=torch.int64), "table_2.vectors": torch.zeros(0, 2)}

    def with_ids(ids: list[int]) -> Weights:
        vectors = torch.arange(len(ids) * 4, dtype=torch.float32).reshape(len(ids), 4)
        return weights_of(
            base | empty | {"table_4.ids": torch.tensor(ids, dtype=torch.int64), "table_4.vectors": vectors}
        )

    first = FrozenModel(with_ids(before))
    asked = np.arange(50)
    old = first._tables[4].read(asked)[0].copy()
    second, anew = FrozenModel(with_ids(after), first), FrozenModel(with_ids(after))
    np.testing.assert_array_equal(second._tables[4].read(asked)[0], anew._tables[4].read(asked)[0])
    np.testing.assert_array_equal(first._tables[4].read(asked)[0], old)


@pytest.mark.parametrize(
    ("spoil", "changes", "says"),
    [
        (
            lambda tensors: tensors.pop("dense.ctr.0.bias"),
            {},
            r"dense.ctr.0.bias as None, its features and network need \(4,\)",
        ),
        (lambda tensors: tensors.update({"table_2.vectors": torch.zeros(0, 3)}), {}, "must be 2 wide"),
        (lambda tensors: None, {"form": "dfm"}, "lacks attribution_window_ms, which 'dfm' is scored with"),
        (lambda tensors: None, {"form": "bi_defuse"}, "lacks attribution_window_ms"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(spoil, changes, says):
    tensors = learner().published()
    spoil(tensors)
    with pytest.raises(DamagedWeightsError, match=says):
        FrozenModel(weights_of(tensors, **changes))


def test_a_table_without_rows_may_be_left_out():
    tensors = {name: tensor for name, tensor in learner().published().items() if not name.startswith("table")}
    model = FrozenModel(weights_of(tensors))
    assert model.embedding_rows == 0
    assert model.predict_many(inputs_of(3, [], 0)).unseen["user"] == 3
