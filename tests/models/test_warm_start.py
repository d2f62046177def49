"""A fresh learner laid over published weights of the same features, of others, and of features that mean something else now."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
import torch

from models.batch import Batch, Event
from models.manifest import Manifest
from models.schema import Feature, Labels, Network, Optimizer, Safeguards
from models.trainer import Learner
from models.warm_start import TakenOver, changed_buckets, refuse_unlike, warm_started
from models.weights import Weights
from streaming.features import FeatureReader
from streaming.ids import Salt

FEATURES = (
    Feature(name="user", kind="categorical"),
    Feature(name="item", kind="categorical", task="cvr"),
    Feature(name="age", kind="categorical", width=2),
    Feature(name="tags", kind="multi", task="ctr"),
    Feature(name="history", kind="sequence", ids_of="item"),
    Feature(name="hour", kind="numeric", transform="buckets", boundaries=(6.0, 12.0)),
    Feature(name="price", kind="numeric", center=3.0, scale=2.0),
    Feature(name="pair", kind="crossed", inputs=("user", "item")),
)
NETWORK = Network(towers=(8, 4), embedding_width=4, threads=1)
OPTIMIZER = Optimizer(embedding_learning_rate=0.2, dense_learning_rate=0.01)
RNG = np.random.default_rng(3)
ROWS = [
    {"user": f"u{RNG.integers(5)}", "item": f"i{RNG.integers(6)}", "age": int(RNG.integers(4)), "tags": ["a", "b"][: RNG.integers(3)],
     "history": [f"i{RNG.integers(6)}"], "hour": int(RNG.integers(24)), "shop": f"s{RNG.integers(3)}", "stars": float(RNG.normal())}
    | ({"price": float(RNG.normal(3, 2))} if RNG.random() < 0.7 else {})
    for _ in range(64)
]  # fmt: skip


def learner(features: Sequence[Feature], network: Network = NETWORK) -> Learner:
    return Learner(
        features, network=network, optimizer=OPTIMIZER, safeguards=Safeguards(), labels=Labels(), observation_window_ms=1,
        attribution_window_ms=1, batch_size=16, kappa_half_life_ms=1,
    )  # fmt: skip


def inputs(features: Sequence[Feature]):  # type: ignore[no-untyped-def]
    return FeatureReader(features).read([msgspec.json.encode(row) for row in ROWS])


def taught(features: Sequence[Feature] = FEATURES, network: Network = NETWORK) -> tuple[Learner, Weights]:
    own, read = learner(features, network), inputs(features)
    kinds = np.where(
        np.arange(64) % 3 == 0, Event.MATURED, np.where(np.arange(64) % 3 == 1, Event.CLICKED, Event.UNCLICKED)
    )
    positive = (np.arange(64) % 2 == 0) & (kinds == Event.MATURED)
    for step in range(30):
        own.learn_many(Batch.of(read, kinds.astype(np.int8), positive.astype(np.float32)), at_ms=step)
    manifest = Manifest(
        epoch=1,
        version=1,
        settings_hash="",
        method="mature",
        torch_version="",
        features=tuple(features),
        network=network,
    )
    return own, Weights(manifest, own.published())


def started(weights: Weights, features: Sequence[Feature], network: Network = NETWORK) -> tuple[Learner, TakenOver]:
    own = learner(features, network)
    changed = changed_buckets(weights.manifest.features, features)
    forgotten = [Salt(salt).ids([*range(buckets), None]) for salt, buckets in changed] or [np.zeros(0, np.int64)]
    snapshot, told = warm_started(
        own.snapshot(), weights, features, network, initial_sum=1e-7, forgotten=np.concatenate(forgotten)
    )
    own.restore(snapshot)
    return own, told


def scores(own: Learner, features: Sequence[Feature]) -> np.ndarray:
    said = own.predict_many(inputs(features))
    return np.stack([said.pctr, said.pcvr])


def rows_of(own: Learner, width: int) -> dict[int, list[float]]:
    tensors = own.published()
    return dict(zip(tensors[f"table_{width}.ids"].tolist(), tensors[f"table_{width}.vectors"].tolist(), strict=True))


def changed(name: str, **keys: object) -> tuple[Feature, ...]:
    return tuple(msgspec.structs.replace(each, **keys) if each.name == name else each for each in FEATURES)


@pytest.mark.parametrize("towers", [(8, 4), (8,), ()], ids=str)
def test_the_same_features_give_the_same_scores_and_a_step_that_starts_anew(towers: tuple[int, ...]) -> None:
    network = msgspec.structs.replace(NETWORK, towers=towers)
    before, weights = taught(network=network)
    own, told = started(weights, FEATURES, network)
    assert np.array_equal(scores(own, FEATURES), scores(before, FEATURES))
    assert told == TakenOver(tuple(each.name for each in FEATURES), {}, (), before.embedding_rows, 0)
    assert own.step == 0
    assert {name: float(value.min()) for name, value in own.snapshot().tensors.items() if name.endswith("sums")} == {
        "table_2.sums": pytest.approx(1e-7), "table_4.sums": pytest.approx(1e-7)
    }  # fmt: skip


def test_the_order_of_features_does_not_matter() -> None:
    before, weights = taught()
    shuffled = FEATURES[::-1]
    own, told = started(weights, shuffled)
    np.testing.assert_allclose(scores(own, shuffled), scores(before, FEATURES), rtol=1e-6)
    assert not told.fresh
    assert not told.dropped


def test_one_feature_more_and_one_less_leave_the_rows_of_the_others_as_they_were() -> None:
    before, weights = taught()
    features = (
        *(each for each in FEATURES if each.name != "age"),
        Feature(name="shop", kind="categorical", task="ctr"),
    )
    own, told = started(weights, features)
    assert (told.fresh, told.dropped) == ({"shop": "new"}, ("age",))
    assert rows_of(own, 4) == rows_of(before, 4)
    assert own.predict_many(inputs(features)).pcvr.shape == (64,)
    with_age = scores(before, FEATURES)
    assert np.isfinite(scores(own, features)).all()
    assert np.abs(scores(own, features) - with_age).max() < 0.3  # what age told is lost, all else is there
    cold = scores(learner(features), features)
    assert np.abs(scores(own, features) - with_age).mean() < 0.5 * np.abs(cold - with_age).mean()


NEW = {
    "a new number": (*FEATURES, Feature(name="stars", kind="numeric")),
    "a new id whose rows are there": (*FEATURES, Feature(name="last", kind="categorical", path="item", ids_of="item")),
    "another center and scale": changed("price", center=-1.0, scale=0.25),
}


@pytest.mark.parametrize("features", NEW.values(), ids=NEW)
def test_what_could_be_loud_says_nothing_before_it_has_learned(features: tuple[Feature, ...]) -> None:
    before, weights = taught()
    own, _ = started(weights, features)
    np.testing.assert_allclose(scores(own, features), scores(before, FEATURES), rtol=1e-5)


def test_new_ids_start_from_the_vectors_that_they_always_start_from() -> None:
    _, weights = taught()
    features = (*FEATURES, Feature(name="shop", kind="categorical"))
    own, _ = started(weights, features)
    cold = learner(features)
    ids = Salt("shop").ids(["s0", "s1"])
    read = [one._input.tables[4].read(one._input.tables[4].look_up(ids)) for one in (own, cold)]
    assert torch.equal(*read)


def test_a_shared_feature_that_only_clicks_may_see_now_keeps_what_clicks_made_of_it() -> None:
    before, weights = taught()
    own, told = started(weights, changed("user", task="ctr"))
    assert not told.fresh
    np.testing.assert_allclose(scores(own, changed("user", task="ctr"))[0], scores(before, FEATURES)[0], rtol=1e-5)


WHY = {
    "another width": ("age", {"width": 3}, "width 2 before, 3 now"),
    "other buckets": ("hour", {"boundaries": (8.0, 20.0)}, "made of something else"),
    "a number was buckets": ("hour", {"transform": "none", "boundaries": ()}, "buckets before, numeric now"),
    "a logarithm": ("price", {"transform": "log"}, "made of something else"),
    "crossed with other inputs": ("pair", {"inputs": ("item", "user")}, "made of something else"),
    "for the other task": ("item", {"task": "ctr"}, "for another task"),
    "ids of its own": ("history", {"ids_of": None}, "made of something else"),
}


@pytest.mark.parametrize(("name", "keys", "why"), WHY.values(), ids=WHY)
def test_a_feature_that_means_something_else_starts_fresh(name: str, keys: dict[str, object], why: str) -> None:
    _, weights = taught()
    features = changed(name, **keys)
    own, told = started(weights, features)
    assert told.fresh == {name: why}
    assert np.isfinite(scores(own, features)).all()


def test_buckets_with_other_boundaries_leave_no_row_of_the_old_ones() -> None:
    before, weights = taught()
    own, told = started(weights, changed("hour", boundaries=(8.0, 20.0)))
    assert told.fresh == {"hour": "made of something else"}
    assert rows_of(before, 4).keys() - rows_of(own, 4).keys() == set(Salt("hour").ids([0, 1, 2]).tolist())


def test_a_table_has_no_more_rows_than_it_may_and_keeps_those_that_have_learned_most() -> None:
    before, weights = taught()
    network = msgspec.structs.replace(NETWORK, max_rows=10)
    own, told = started(weights, FEATURES, network)
    kept, norms = rows_of(own, 4), {one: np.linalg.norm(row) for one, row in rows_of(before, 4).items()}
    assert len(kept) == 10
    assert set(kept) == set(sorted(norms, key=lambda one: -norms[one])[:10])
    assert told.left_out == len(norms) - 10
    own.learn_many(Batch.of(inputs(FEATURES), np.full(64, Event.CLICKED, np.int8), np.zeros(64, np.float32)), at_ms=0)


@pytest.mark.parametrize(
    ("network", "form", "says"),
    [
        (msgspec.structs.replace(NETWORK, towers=(16, 4)), "pairs", r"network.towers = \[8, 4\], these settings have \[16, 4\]"),
        (NETWORK, "dfm", "whose heads are not those of the method"),
    ],
)  # fmt: skip
def test_weights_of_another_network_are_refused(network: Network, form: str, says: str) -> None:
    _, weights = taught()
    with pytest.raises(ValueError, match=says):
        refuse_unlike(weights, network, form)


def test_a_learner_goes_on_from_there_and_publishes_what_it_took_over() -> None:
    _, weights = taught()
    own, _ = started(weights, FEATURES)
    assert own.published().keys() == weights.tensors.keys()
    assert all(torch.equal(tensor, weights.tensors[name]) for name, tensor in own.published().items())
