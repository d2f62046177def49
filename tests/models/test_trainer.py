"""The learner: what it reports, refuses, keeps and finds out."""

import hashlib
import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from models.batch import Aged, Batch, ClickMemory, Event, Inputs, rows_of
from models.delay import METHODS
from models.embedding import start_vectors
from models.schema import Feature, Labels, Network, Optimizer, Safeguards
from models.trainer import Learner, Snapshot, StepReport

FEATURES = [
    Feature(name="user", kind="categorical"),
    Feature(name="hour", kind="categorical", task="ctr"),
    Feature(name="item", kind="categorical", width=3),
    Feature(name="shop", kind="categorical", task="cvr", width=3),
    Feature(name="age", kind="numeric", transform="buckets", boundaries=(20.0, 40.0)),
    Feature(name="tags", kind="multi"),
    Feature(name="history", kind="sequence", ids_of="item", width=3),
    Feature(name="words", kind="multi", task="cvr"),
    Feature(name="price", kind="numeric"),
    Feature(name="depth", kind="numeric", task="ctr"),
]
SINGLES, BAGS, NUMBERS = 5, 3, 2
EVENTS = [Event.UNCLICKED, Event.CLICKED, Event.MATURED]


def learner(
    features=FEATURES, *, method="mature", batch_size=32, network=None, optimizer=None, safeguards=None, growth=False
) -> Learner:
    return Learner(
        features,
        network=network or Network(towers=(8, 4), embedding_width=4, threads=1),
        optimizer=optimizer or Optimizer(),
        safeguards=safeguards or Safeguards(),
        labels=Labels(method=method, growth=growth),
        observation_window_ms=3_600_000,
        attribution_window_ms=604_800_000,
        batch_size=batch_size,
        kappa_half_life_ms=10_000,
    )


def inputs(rows: int, rng: np.random.Generator) -> Inputs:
    sizes = rng.integers(1, 4, BAGS * rows)
    numbers = rng.normal(size=(rows, NUMBERS)).astype(np.float32)
    numbers[rng.random(numbers.shape) < 0.2] = np.nan
    return Inputs(
        ids=rng.integers(-9, 9, (rows, SINGLES)) + 100 * np.arange(SINGLES),
        bag_ids=rng.integers(1000, 1030, sizes.sum()),
        bag_offsets=np.concatenate([[0], np.cumsum(sizes)]),
        numbers=numbers,
    )


def batch(rows: int, seed: int, events=EVENTS) -> Batch:
    rng = np.random.default_rng(seed)
    drawn = rng.choice(events, rows).astype(np.int8)
    return Batch.of(inputs(rows, rng), drawn, ((drawn == Event.MATURED) & (rng.random(rows) < 0.5)).astype(np.float32))


SMALL = Network(towers=(8, 4), embedding_width=4, threads=1)
COMPOSED = Network(towers=(8, 4), embedding_width=4, threads=1, objective="composed")
HOUR_MS = 3_600_000


def of_method(method: str, rows: int, seed: int, *, at_ms: int = 0) -> Batch:
    """Rows of all events that a method sees, each of a click of its own, and of impressions."""
    rng = np.random.default_rng(seed)
    events = rng.permutation(np.resize([Event.UNCLICKED, *METHODS[method].sees, Event.CLICKED], rows)).astype(np.int8)
    is_conversion = np.isin(events, (Event.IMMEDIATE_POSITIVE, Event.DELAYED_POSITIVE))
    is_final = np.isin(events, (Event.MATURED, Event.ORACLE))
    on_click = np.isin(events, METHODS[method].sees)
    is_later = on_click & ~np.isin(events, (Event.IMMEDIATE_POSITIVE, Event.OBSERVED_NEGATIVE))
    memory = ClickMemory(
        np.where(on_click, np.arange(rows), -1),
        np.where(is_later, rng.uniform(0.1, 0.5, rows), np.nan),
        np.where(is_later, 0.0, np.nan),
        np.where(is_later, rng.uniform(0.7, 1.0, rows), np.nan),
    )
    return Batch.of(
        inputs(rows, rng),
        events,
        (is_conversion | (is_final & (rng.random(rows) < 0.5))).astype(np.float32),
        click_ms=np.where(on_click, at_ms - rng.integers(0, 24 * 7, rows) * HOUR_MS, -1),
        delay_ms=np.where(
            events == Event.IMMEDIATE_POSITIVE,
            HOUR_MS // 2,
            np.where(is_conversion, rng.integers(2, 160, rows) * HOUR_MS, -1),
        ),
        looks=np.where(events == Event.REVISIT, rng.integers(1, 6, rows), 0).astype(np.int8),
        memory=memory if METHODS[method].adjusts else None,
    )


def digest(own: Learner) -> str:
    taken = own.snapshot()
    hashed = hashlib.sha256(json.dumps(taken.state, sort_keys=True).encode())
    for name, tensor in sorted(taken.tensors.items()):
        hashed.update(name.encode() + tensor.numpy().tobytes())
    return hashed.hexdigest()


def course(own: Learner, seeds: range) -> list[StepReport]:
    reports = []
    for seed in seeds:
        own.observe_outcomes(10, seed % 3)
        reports.append(own.learn_many(batch(20 + seed, seed), at_ms=1000 * seed))
    return reports


# --- one step ---------------------------------------------------------------------------------------------------------


def by_hand(own: Learner, given: Inputs, heads: tuple[str, ...] = ("ctr", "cvr")) -> list[list[float]]:
    """Logits of each row from what is published, feature by feature: the second writing of the way through the model."""
    weights = own.published()
    width_of = {f.name: f.width or 4 for f in FEATURES if f.is_embedded}

    def vector(name: str, id_: int) -> np.ndarray:
        width = width_of[name]
        known = (weights[f"table_{width}.ids"] == int(id_)).nonzero().flatten().tolist()
        if known:
            return weights[f"table_{width}.vectors"][known[0]].numpy()
        return start_vectors(np.array([id_], np.int64), width=width, seed=0)[0]

    singles = ["user", "hour", "item", "shop", "age"]
    bags = ["tags", "history", "words"]
    found: list[list[float]] = [[] for _ in heads]
    for row in range(len(given)):
        value = {name: vector(name, given.ids[row, column]) for column, name in enumerate(singles)}
        for number, name in enumerate(bags):
            start, end = given.bag_offsets[number * len(given) + row :][:2]
            value[name] = np.mean([vector(name, id_) for id_ in given.bag_ids[start:end]], axis=0)
        for column, name in enumerate(["price", "depth"]):
            number = given.numbers[row, column]
            value[name] = np.array([0.0, 1.0] if np.isnan(number) else [number, 0.0])
        order = {
            "shared": ["item", "history", "user", "age", "tags", "price"],
            "ctr": ["hour", "depth"],
            "cvr": ["shop", "words"],
        }
        x = {task: np.concatenate([value[name] for name in names]) for task, names in order.items()}
        for number, head in enumerate(heads):
            mine, task = slice(8 * number, 8 * number + 8), "ctr" if head == "ctr" else "cvr"
            private = slice(0, 8) if task == "ctr" else slice(8 * (number - 1), 8 * number)
            hidden = (
                weights["dense.entrance.shared.weight"][mine].numpy() @ x["shared"]
                + weights["dense.entrance.bias"][mine].numpy()
            )
            hidden = hidden + weights[f"dense.entrance.{task}.weight"][private].numpy() @ x[task]
            for layer in range(2):
                hidden = (
                    weights[f"dense.{head}.{layer}.weight"].numpy() @ np.maximum(hidden, 0)
                    + weights[f"dense.{head}.{layer}.bias"].numpy()
                )
            found[number].append(float(hidden[0]))
    return found


def test_predictions_follow_from_what_is_published():
    own = learner(optimizer=Optimizer(embedding_learning_rate=0.3, dense_learning_rate=0.05))
    course(own, range(8))
    given = batch(12, 99).inputs
    predictions = own.predict_many(given)
    ctr_logit, cvr_logit = (np.array(logits) for logits in by_hand(own, given))
    np.testing.assert_allclose(predictions.pctr, 1 / (1 + np.exp(-ctr_logit)), rtol=1e-4)
    np.testing.assert_allclose(predictions.pcvr, 1 / (1 + np.exp(-cvr_logit)), rtol=1e-4)
    assert np.ptp(predictions.pcvr) > 0.01


FLAT = Optimizer(embedding_initial_accumulator=1e12, embedding_learning_rate=1e6, dense_learning_rate=1e-12)
"""One step of Adagrad from large sums is plain descent: the move of a vector shows the slope of the loss."""


def moves(own: Learner, taught: Batch, every: int = 1) -> dict[tuple[str, int, int], float]:
    """How far a step moves one number in the vector of each id, or of every so many; `own` stands as before the step after it."""
    no_lesson = Batch.of(taught.inputs, np.full(len(taught), Event.AGED, np.int8), taught.converted)
    own.learn_many(no_lesson, at_ms=0)  # gives every id its row
    start = own.snapshot()
    own.learn_many(taught, at_ms=0)
    after = own.snapshot().tensors
    own.restore(start)
    found = {}
    for name in ("table_3.vectors", "table_4.vectors"):
        moved = start.tensors[name] - after[name]
        for row in range(0, len(moved), every):
            column = row % moved.shape[1]
            found[name, row, column] = moved[row, column].item()
    return found


def slopes(own: Learner, places, loss_of, step: float = 3e-4) -> np.ndarray:
    """Finite differences at such places of a loss, which is told from the learner as it then stands."""
    start, found = own.snapshot(), []
    for name, row, column in places:
        losses = []
        for sign in (1, -1):
            tensors = start.tensors | {name: start.tensors[name].clone()}
            tensors[name][row, column] += sign * step
            own.restore(Snapshot(tensors, start.state))
            losses.append(loss_of(own))
        found.append((losses[0] - losses[1]) / (2 * step))
    own.restore(start)
    return np.array(found)


def test_gradients_reach_every_id_as_finite_differences_say():
    own, taught = learner(optimizer=FLAT), batch(16, 5)
    moved = moves(own, taught)
    found = slopes(own, moved, lambda own: own.learn_many(taught, at_ms=0).loss)
    assert np.abs(found).max() > 1e-3
    np.testing.assert_allclose(list(moved.values()), found, atol=0.03 * np.abs(found).max())


LINEAR = Network(towers=(), embedding_width=4, threads=1, objective="composed", prior_cvr=0.4)


@pytest.mark.parametrize("method", ["fnc", "dfm"])
def test_gradients_of_likelihoods_reach_the_ids_as_finite_differences_say(method):
    own, taught = learner(method=method, optimizer=FLAT, network=LINEAR, batch_size=16), of_method(method, 16, 5)
    moved = moves(own, taught, every=3)
    found = slopes(own, moved, lambda own: own.learn_many(taught, at_ms=0).loss, step=0.01)
    assert np.abs(found).max() > 1e-3
    np.testing.assert_allclose(list(moved.values()), found, atol=0.01 * np.abs(found).max())


@pytest.mark.parametrize("method", ["fnw", "es_dfm", "defer", "defuse", "ddfm"])
def test_no_gradient_flows_through_the_weights_of_a_method(method):
    """A step goes down the loss whose weights are the numbers that they are, not the one that weighs anew on the way."""
    own, taught = learner(method=method, optimizer=FLAT, network=LINEAR, batch_size=16), of_method(method, 16, 6)
    own.primed(at_ms=0)
    moved = moves(own, taught, every=3)
    start = own.snapshot()
    report = own.learn_many(taught, at_ms=0)
    own.restore(start)

    def frozen(own: Learner) -> float:
        p, q = (getattr(own.predict_many(taught.inputs), name) for name in ("pctr", "pcvr"))
        nats = -(report.positive * np.log(q) + report.negative * np.log(1 - q))
        nats[taught.events == Event.UNCLICKED] -= np.log(1 - p)[taught.events == Event.UNCLICKED]
        nats[taught.events == Event.CLICKED] -= np.log(p)[taught.events == Event.CLICKED]
        return nats.sum() / 16

    held = slopes(own, moved, frozen, step=0.01)
    flowing = slopes(own, moved, lambda own: own.learn_many(taught, at_ms=0).loss, step=0.01)
    np.testing.assert_allclose(list(moved.values()), held, atol=0.01 * np.abs(held).max())
    assert np.abs(flowing - held).max() > 0.05 * np.abs(held).max()


@pytest.mark.parametrize(
    ("method", "heads"), [("fnc", ("cvr",)), ("bi_defuse", ("cvr_in", "cvr_out")), ("dfm", ("cvr", "delay"))]
)
def test_what_methods_with_heads_of_their_own_serve_follows_from_what_is_published(method, heads):
    own = learner(method=method, network=COMPOSED)
    for seed in range(8):
        assert own.learn_many(of_method(method, 24, seed), at_ms=seed).refusal is None
    given = batch(12, 99).inputs
    a, *others = (np.array(logits) for logits in by_hand(own, given, ("ctr", *heads)))
    b = [1 / (1 + np.exp(-logits)) for logits in others]
    served = {
        "fnc": lambda: b[0],
        "bi_defuse": lambda: np.minimum(b[0] + b[1], 1),
        "dfm": lambda: b[0] * (1 - np.exp(-7 * np.log1p(np.exp(others[1])))),  # within seven days
    }[method]()
    predictions = own.predict_many(given)
    np.testing.assert_allclose(predictions.pctr, 1 / (1 + np.exp(-a)), rtol=1e-4)
    np.testing.assert_allclose(predictions.pcvr, served, rtol=1e-4)
    assert np.ptp(predictions.pcvr) > 1e-3


def test_learning_reports_the_predictions_made_before_it():
    own = learner()
    course(own, range(4))
    given = batch(25, 77)
    before = own.predict_many(given.inputs)
    report = own.learn_many(given, at_ms=5000)
    assert (report.pctr == before.pctr).all()
    assert (report.pcvr == before.pcvr).all()
    assert (own.predict_many(given.inputs).pctr != before.pctr).any()
    assert report.pctr.dtype == report.pcvr.dtype == np.float64


@pytest.mark.parametrize("method", ["mature", "survival", "dfm", "bi_defuse"])
def test_rows_that_are_held_out_are_predicted_and_teach_nothing(method):
    network = COMPOSED if METHODS[method].form != "pairs" else SMALL
    own, without = learner(method=method, network=network), learner(method=method, network=network)
    for step in range(5):
        whole = of_method(method, 40, step)
        own.learn_many(
            replace(whole, events=np.full(40, Event.HELD_OUT, np.int8)), at_ms=step
        )  # its ids have no rows yet
    assert digest(own) == digest(without)
    for step in range(5):
        whole, kept = of_method(method, 40, step), np.arange(40) % 4 > 0
        given = replace(whole, events=np.where(kept, whole.events, Event.HELD_OUT).astype(np.int8))
        alone = Batch.of(
            rows_of(whole.inputs, np.flatnonzero(kept)), whole.events[kept], whole.converted[kept], click_ms=whole.click_ms[kept],
            delay_ms=whole.delay_ms[kept], looks=whole.looks[kept], age_ms=whole.age_ms[kept],
            memory=None if whole.memory is None else replace(whole.memory, click=whole.memory.click[kept]),
        )  # fmt: skip
        told, expected = own.learn_many(given, at_ms=step), without.learn_many(alone, at_ms=step)
        np.testing.assert_allclose(told.pcvr[kept], expected.pcvr, rtol=1e-3)
        np.testing.assert_allclose(told.positive[kept], expected.positive, rtol=1e-3)
        assert (told.positive[~kept] == 0).all()
        assert (told.negative[~kept] == 0).all()
        assert told.loss == pytest.approx(expected.loss, rel=1e-4)
        assert told.kappa == expected.kappa
    mine, theirs = own.snapshot(), without.snapshot()
    for name, tensor in mine.tensors.items():
        if name.startswith("dense."):
            np.testing.assert_allclose(tensor, theirs.tensors[name], atol=1e-3, err_msg=name)
    assert mine.state["teaching"] == theirs.state["teaching"]


def test_predicting_changes_nothing():
    own = learner()
    course(own, range(3))
    before = digest(own)
    own.predict_many(batch(50, 1234).inputs)
    assert digest(own) == before


def test_loss_is_the_sum_over_the_rows_divided_by_the_batch_size_of_the_settings():
    own = learner(batch_size=100)
    course(own, range(5))
    given = batch(30, 50)
    report = own.learn_many(given, at_ms=6000)
    p, q = report.pctr, report.pcvr
    assert report.kappa > 0
    costs = {
        Event.UNCLICKED: -np.log(1 - p) - report.kappa * np.log(1 - p * q),
        Event.CLICKED: -np.log(p),
        Event.MATURED: -np.where(given.converted == 1, np.log(p * q), np.log(1 - p * q)),
    }
    expected = sum(cost[given.events == event].sum() for event, cost in costs.items()) / 100
    assert report.loss == pytest.approx(expected, rel=1e-6)


def test_composed_objective_teaches_conversion_on_clicks_alone():
    own = learner(network=Network(objective="composed", towers=(4,), threads=1))
    course(own, range(3))
    given = batch(30, 50)
    report = own.learn_many(given, at_ms=6000)
    p, q = report.pctr, report.pcvr
    costs = {
        Event.UNCLICKED: -np.log(1 - p),
        Event.CLICKED: -np.log(p),
        Event.MATURED: -np.where(given.converted == 1, np.log(q), np.log(1 - q)),
    }
    assert report.loss == pytest.approx(
        sum(cost[given.events == event].sum() for event, cost in costs.items()) / 32, rel=1e-6
    )
    assert not report.negative[given.events == Event.UNCLICKED].any()


def test_report_shows_the_weights_each_row_was_taught_with():
    own = learner(method="window")
    events = [
        Event.UNCLICKED,
        Event.CLICKED,
        Event.IMMEDIATE_POSITIVE,
        Event.OBSERVED_NEGATIVE,
        Event.OBSERVED_NEGATIVE,
        Event.MATURED,
    ]
    assert own.kappa == 0
    own.learn_many(batch(6, 0, [Event.CLICKED]), at_ms=0)  # not counted: there was no mass yet
    given = batch(6, 1)
    given = Batch.of(given.inputs, np.array(events, np.int8), np.array([0, 0, 1, 0, 0, 1], np.float32))
    first, second = (own.learn_many(given, at_ms=0) for _ in range(2))
    assert (first.kappa, second.kappa, own.kappa) == (0, 3, 3)  # three labels a click, read before and updated after
    assert second.positive.tolist() == [0, 0, 1, 0, 0, 0]
    assert second.negative.tolist() == [3, 0, 0, 1, 1, 0]


def test_kappa_forgets_in_event_time():
    own = learner(method="oracle")
    labels = batch(4, 1)
    events = np.array([Event.ORACLE] * 3 + [Event.UNCLICKED], np.int8)
    own.learn_many(Batch.of(labels.inputs, events, labels.converted), at_ms=0)
    own.learn_many(batch(4, 1, [Event.CLICKED]), at_ms=10_000)  # one half-life later
    assert own.kappa == pytest.approx(1.5 / 4)


def test_labels_without_impressions_beside_them_teach_clicks_alone():
    # The tail of a log: traffic has ended, its late labels have not. Under the product loss nothing would hold pCVR down.
    own = learner(method="mature")
    tail = batch(256, 5, [Event.MATURED])
    converted = np.zeros(256, np.float32)
    converted[::10] = 1
    tail = Batch.of(tail.inputs, tail.events, converted)
    pctr = own.predict_many(tail.inputs).pctr
    for step in range(300):
        report = own.learn_many(tail, at_ms=step)
    assert report.pcvr.mean() == pytest.approx(converted.mean(), rel=0.15)
    assert own.kappa == 0  # its mass stands for no impression of the stream
    assert np.abs(own.predict_many(tail.inputs).pctr - pctr).max() < 0.05


# --- history before the start -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["esmm", "composed"])
def test_history_is_counted_and_remembered_and_teaches_no_weight(objective):
    network = Network(towers=(8, 4), embedding_width=4, threads=1, objective=objective)
    own = learner(method="survival", network=network, growth=True)
    weights = {name: value.clone() for name, value in own.published().items()}
    for day in range(10):
        given = of_method("survival", 32, day, at_ms=day * 24 * HOUR_MS)
        report = own.prime_many(given, at_ms=day * 24 * HOUR_MS)
        assert report.step is None
        assert report.refusal is None
        assert not report.positive.any()
        assert not report.negative.any()
        first = given.events == Event.OBSERVED_NEGATIVE
        assert report.memory.first_f[first] == pytest.approx(report.pcvr[first])
        assert np.isfinite(report.memory.negative[first]).all()
    assert own.step == own.embedding_rows == 0
    assert all(torch.equal(value, weights[name]) for name, value in own.published().items())
    assert (own.kappa > 0) == (objective == "esmm")


@pytest.mark.parametrize("is_primed", [False, True])
def test_after_its_history_a_method_weighs_by_itself_at_once(is_primed):
    own, given = learner(method="defer", network=COMPOSED), of_method("defer", 12, 3)
    own.prime_many(of_method("defer", 12, 4), at_ms=0)
    if is_primed:
        own.primed(at_ms=1000)
    report = own.learn_many(given, at_ms=1000)
    assert (report.negative[given.events == Event.REAL_NEGATIVE] > 0).all() == is_primed


# --- the delay model --------------------------------------------------------------------------------------------------


def test_what_aged_converters_tell_moves_the_weights_of_observed_negatives_and_makes_no_step():
    own, given = learner(method="es_dfm", network=COMPOSED), of_method("es_dfm", 12, 3)
    before = own.snapshot()
    first = own.learn_many(given, at_ms=0)
    own.restore(before)
    edge = own.delays.edges.index(HOUR_MS) + 1
    for seed in range(
        20
    ):  # all that converts within the edge does so in its last bin: nothing has come by the first look
        told = inputs(20, np.random.default_rng(seed))
        own.learn_delays(Aged(told, np.full(20, edge), np.ones(20, np.bool_)), at_ms=0)
    assert own.step == 0
    second = own.learn_many(given, at_ms=0)
    observed = given.events == Event.OBSERVED_NEGATIVE
    assert (second.negative[observed] < first.negative[observed] - 0.001).all()
    assert (second.pcvr == first.pcvr).all()


# --- sizes ------------------------------------------------------------------------------------------------------------


def test_empty_batch_predicts_nothing_and_changes_nothing():
    own = learner()
    course(own, range(2))
    before = digest(own)
    report = own.learn_many(batch(0, 0), at_ms=9000)
    assert own.predict_many(batch(0, 0).inputs).pctr.shape == report.pcvr.shape == report.positive.shape == (0,)
    assert (report.loss, report.step, report.refusal) == (0.0, None, None)
    assert digest(own) == before


def test_batch_of_one_is_predicted_as_within_a_larger_one():
    own = learner()
    course(own, range(3))
    many, one = batch(1, 5), batch(1, 5)
    report = own.learn_many(one, at_ms=4000)
    assert report.step == 4
    assert report.pctr == own_prediction_of(many, range(3))


def own_prediction_of(given: Batch, seeds: range) -> np.ndarray:
    own = learner()
    course(own, seeds)
    return own.predict_many(given.inputs).pctr


@pytest.mark.parametrize(
    "features", [[], FEATURES[:1], FEATURES[8:9], FEATURES[7:8]], ids=["none", "one id", "one number", "one bag"]
)
@pytest.mark.parametrize("towers", [(), (4,)])
def test_any_kind_of_feature_may_be_missing(features, towers):
    own = learner(features, network=Network(towers=towers, threads=1))
    bags = sum(feature.is_bag for feature in features)
    for rows in (3, 1, 0):
        given = Inputs(
            np.arange(rows * sum(f.is_embedded and not f.is_bag for f in features)).reshape(rows, -1)
            if rows
            else np.zeros((0, len(features)), np.int64),
            np.arange(rows * bags),
            np.arange(rows * bags + 1),
            np.ones((rows, sum(not f.is_embedded for f in features)), np.float32),
        )
        report = own.learn_many(Batch.of(given, np.zeros(rows, np.int8), np.zeros(rows, np.float32)), at_ms=0)
        assert report.pctr.shape == (rows,)
        assert report.refusal is None


def test_empty_bag_has_the_vector_zero_and_teaches_no_row():
    own = learner(FEATURES[5:6], network=Network(towers=(4,), threads=1))
    given = Inputs(np.zeros((2, 0), np.int64), np.array([7]), np.array([0, 0, 1]), np.zeros((2, 0), np.float32))
    report = own.learn_many(Batch.of(given, np.zeros(2, np.int8), np.zeros(2, np.float32)), at_ms=0)
    assert report.refusal is None
    assert own.embedding_rows == 1


# --- the same bits ----------------------------------------------------------------------------------------------------


def test_restored_learner_goes_on_bit_for_bit():
    capped = Network(towers=(8, 4), embedding_width=4, threads=1, max_rows=30)
    for cut in (0, 3, 7):
        whole, first, second = (learner(network=capped) for _ in range(3))
        course(second, range(50, 53))
        course(whole, range(10))
        course(first, range(cut))
        taken = first.snapshot()
        second.restore(Snapshot(taken.tensors, json.loads(json.dumps(taken.state))))
        later = course(second, range(cut, 10))
        assert digest(second) == digest(whole), cut
        assert [report.step for report in later] == list(range(cut + 1, 11))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_and_goes_on_bit_for_bit_from_a_cut(method):
    def taught(own: Learner, days: range) -> list[StepReport]:
        reports = []
        for day in days:
            at_ms = day * 24 * HOUR_MS
            reports.append(own.learn_many(of_method(method, 20 + 2 * day, day, at_ms=at_ms), at_ms=at_ms))
            rng = np.random.default_rng(day)
            told = Aged(inputs(8, rng), rng.integers(1, len(own.delays.edges), 8), rng.random(8) < 0.4)
            own.learn_delays(told, at_ms=at_ms)
        return reports

    network = SMALL if METHODS[method].form == "pairs" else COMPOSED
    whole, first, second = (learner(method=method, network=network, growth=True) for _ in range(3))
    expected = taught(whole, range(12))
    taught(first, range(7))
    taught(second, range(20, 22))
    taken = first.snapshot()
    second.restore(Snapshot(taken.tensors, json.loads(json.dumps(taken.state))))
    for own, other in zip(taught(second, range(7, 12)), expected[7:], strict=True):
        assert own.refusal is None
        assert own.loss == other.loss
        assert (own.negative == other.negative).all()
    assert digest(second) == digest(whole)


@pytest.mark.parametrize(("method", "shares_bins"), [("es_dfm", True), ("survival", True), ("fnw", False)])
def test_a_method_begins_from_what_another_had_come_to_with_counts_of_its_own(method, shares_bins):
    initial, own, fresh = learner(growth=True), learner(method=method, growth=True), learner(method=method)
    course(initial, range(8))
    edges = np.arange(1, len(initial.delays.edges))
    for seed in range(30):
        told = Aged(inputs(len(edges), np.random.default_rng(seed)), edges, edges % 2 == 0)
        initial.learn_delays(told, at_ms=0)
    taken, given = initial.snapshot(), batch(20, 60).inputs
    own.begin_from(Snapshot(taken.tensors, json.loads(json.dumps(taken.state))))
    assert (own.predict_many(given).pcvr == initial.predict_many(given).pcvr).all()
    assert (own.step, own.embedding_rows) == (initial.step, initial.embedding_rows)
    assert (own.kappa, initial.kappa > 0) == (0, True)
    learned, untaught = (each.delays.survival_at(given, HOUR_MS) for each in (initial, fresh))
    assert np.abs(learned - untaught).min() > 1e-3
    assert (own.delays.survival_at(given, HOUR_MS) == (learned if shares_bins else untaught)).all()
    report = own.learn_many(of_method(method, 20, 61), at_ms=10)
    assert (report.step, report.refusal) == (initial.step + 1, None)


def test_snapshot_is_not_touched_by_what_is_learned_after_it():
    own = learner()
    course(own, range(3))
    taken = own.snapshot()
    copies = {name: tensor.clone() for name, tensor in taken.tensors.items()}
    course(own, range(3, 6))
    assert all(torch.equal(taken.tensors[name], copy) for name, copy in copies.items())


def test_another_process_learns_the_same_bits():
    program = "import test_trainer as t; own = t.learner(); t.course(own, range(4)); print(t.digest(own))"
    root = Path(__file__).resolve().parents[2]
    said = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": f"{root}:{Path(__file__).parent}"},
    )
    own = learner()
    course(own, range(4))
    assert said.stdout.strip() == digest(own)


def test_large_batches_on_two_threads_learn_the_same_bits_twice():
    features = [Feature(name=f"f{i}", kind="categorical", width=16) for i in range(16)]
    rng = np.random.default_rng(0)
    ids = rng.zipf(1.2, (2, 512, 16)) % 3000 + 10_000 * np.arange(16)
    events = rng.choice(EVENTS, (2, 512)).astype(np.int8)

    def weights() -> str:
        own = learner(features, network=Network(towers=(64, 32), threads=2), batch_size=512)
        for each, event in zip(ids, events, strict=True):
            given = Inputs(each, np.zeros(0, np.int64), np.zeros(1, np.int64), np.zeros((512, 0), np.float32))
            own.learn_many(Batch.of(given, event, (event == Event.MATURED).astype(np.float32)), at_ms=0)
        return digest(own)

    assert weights() == weights()


# --- refusals ---------------------------------------------------------------------------------------------------------


def poisoned(seed: int) -> Batch:
    given = batch(20, seed)
    given.inputs.numbers[3, 0] = np.inf
    return given


def huge(seed: int) -> Batch:
    given = batch(20, seed)
    given.inputs.numbers[:, 0] = 1e30
    return Batch.of(given.inputs, np.full(20, Event.MATURED, np.int8), np.ones(20, np.float32))


def refusals() -> list[tuple[str, Safeguards, Batch, str]]:
    sure = Safeguards(breaker_armed_after=1, breaker_ratio=0.01, breaker_min_rows=5)
    return [
        ("infinite feature", Safeguards(), poisoned(40), r"the loss is (nan|inf): a feature or a weight is not finite"),
        ("large loss", Safeguards(loss_limit=0.1), batch(20, 40), r"nats a row exceeds loss_limit = 0.1"),
        ("exploding loss", Safeguards(), huge(40), r"nats a row exceeds loss_limit = 20"),
        ("gradient out of range", Safeguards(loss_limit=1e300), huge(40), "a gradient is not finite"),
        (
            "runaway pCVR",
            sure,
            batch(20, 40),
            "more than 0.01 times the OUTCOME rate of 0.1: the model is running away",
        ),
    ]


@pytest.mark.parametrize(
    ("safeguards", "given", "reason"), [pytest.param(*case, id=name) for name, *case in refusals()]
)
def test_refused_batch_leaves_no_trace(safeguards, given, reason):
    own, twin = (learner(safeguards=safeguards, batch_size=1) for _ in range(2))
    lenient = learner()
    course(lenient, range(4))
    for each in (own, twin):
        each.restore(lenient.snapshot())
        each.observe_outcomes(1000 - 40, 100 - sum(seed % 3 for seed in range(4)))
    before = digest(own)
    report = own.learn_many(given, at_ms=10**9)
    assert report.refusal is not None
    assert re.search(reason, report.refusal.says), report.refusal
    assert report.step is None
    assert not report.positive.any()
    assert not report.negative.any()
    assert digest(own) == before
    after = batch(20, 41)
    assert own.learn_many(after, at_ms=5000).loss == twin.learn_many(after, at_ms=5000).loss
    assert digest(own) == digest(twin)


@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("mature", "oracle")])
def test_refused_batch_of_any_method_leaves_no_trace_and_no_memory(method):
    network = SMALL if METHODS[method].form == "pairs" else COMPOSED
    own = learner(method=method, network=network, growth=True)
    for seed in range(3):
        assert own.learn_many(of_method(method, 20, seed), at_ms=seed).refusal is None
    before, given = digest(own), of_method(method, 20, 7)
    given.inputs.numbers[:, 0] = np.inf
    report = own.learn_many(given, at_ms=10**9)
    assert report.refusal is not None
    assert report.memory is None
    assert digest(own) == before
    given = of_method(method, 20, 8)
    assert (own.learn_many(given, at_ms=10**9).memory is None) == (not METHODS[method].adjusts)


def test_breaker_is_not_armed_before_enough_positive_outcomes():
    own = learner(safeguards=Safeguards(breaker_armed_after=50, breaker_ratio=0.01, breaker_min_rows=5))
    own.observe_outcomes(5000, 49)
    assert own.learn_many(batch(20, 1), at_ms=0).refusal is None
    own.observe_outcomes(0, 1)
    assert own.learn_many(batch(20, 1), at_ms=0).refusal is not None


def test_breaker_does_not_judge_a_handful_of_rows():
    own = learner(safeguards=Safeguards(breaker_armed_after=1, breaker_ratio=0.01))
    own.observe_outcomes(100, 50)
    assert own.learn_many(batch(19, 1, [Event.CLICKED]), at_ms=0).refusal is None
    assert own.learn_many(batch(20, 1, [Event.CLICKED]), at_ms=0).refusal is not None


def test_breaker_looks_at_clicked_rows_alone():
    own = learner(safeguards=Safeguards(breaker_armed_after=1, breaker_ratio=0.01))
    own.observe_outcomes(100, 50)
    assert own.learn_many(batch(20, 1, [Event.UNCLICKED]), at_ms=0).refusal is None


def test_breaker_lets_a_calibrated_model_pass():
    own = learner(network=Network(prior_cvr=0.1, towers=(4,), threads=1))
    own.observe_outcomes(1000, 100)
    assert own.learn_many(batch(20, 1), at_ms=0).refusal is None


def test_unknown_method_and_empty_batch_size_are_refused():
    with pytest.raises(ValueError, match=r"method must be one of .* \(got 'guess'\)"):
        learner(method="guess")
    with pytest.raises(ValueError, match=r"batch_size must be above 0 \(got 0\)"):
        learner(batch_size=0)


# --- publishing -------------------------------------------------------------------------------------------------------


def test_published_rows_are_in_row_order_and_complete():
    own = learner()
    course(own, range(3))
    tensors = own.snapshot().tensors
    published = own.published()
    for width in (3, 4):
        for name in ("ids", "vectors"):
            assert torch.equal(published[f"table_{width}.{name}"], tensors[f"table_{width}.{name}"])
    assert published["table_4.ids"].dtype == torch.int64
    assert {name for name in published if name.startswith("dense.")} == {
        name for name in tensors if name.startswith("dense.")
    }


def test_published_rows_and_what_changed_since_make_the_newer_version():
    own = learner(network=Network(towers=(8, 4), embedding_width=4, threads=1, max_rows=30))
    course(own, range(4))
    base, at = own.published(), own.step
    own.take_evicted()
    course(own, range(4, 7))
    delta, gone = own.published_since(at), own.take_evicted()
    assert len(gone["table_4.ids"]) > 0
    for width in (3, 4):
        ids, vectors = f"table_{width}.ids", f"table_{width}.vectors"
        reader = dict(zip(base[ids].tolist(), base[vectors].tolist(), strict=True))
        for id_ in gone[ids].tolist():
            reader.pop(id_, None)
        reader |= zip(delta[ids].tolist(), delta[vectors].tolist(), strict=True)
        newer = own.published()
        assert reader == dict(zip(newer[ids].tolist(), newer[vectors].tolist(), strict=True))


# --- planted truth ----------------------------------------------------------------------------------------------------

WORLD = [Feature(name="user", kind="categorical"), Feature(name="item", kind="categorical")]
CELLS = 5


def truth(rng: np.random.Generator, *, has_signal: bool) -> tuple[np.ndarray, np.ndarray]:
    """pCTR and pCVR of every (user, item): logits are sums of an effect of each."""
    effects = rng.normal(0, 0.8 if has_signal else 0.0, (2, 2, CELLS))
    logits = np.array([[-1.0], [-0.5]])[:, :, None] + effects[:, 0, :, None] + effects[:, 1, None, :]
    return tuple(1 / (1 + np.exp(-logits)))


def world(rows: int, rng: np.random.Generator, pctr: np.ndarray, pcvr: np.ndarray) -> Batch:
    """Impressions with their click, and for each click its matured label besides."""
    cells = rng.integers(0, CELLS, (rows, 2))
    clicked = rng.random(rows) < pctr[tuple(cells.T)]
    converted = rng.random(rows) < pcvr[tuple(cells.T)]
    events = np.where(clicked, Event.CLICKED, Event.UNCLICKED)
    ids = np.concatenate([cells, cells[clicked]]) + np.array([0, 1000])
    events = np.concatenate([events, np.full(clicked.sum(), Event.MATURED)]).astype(np.int8)
    labels = np.concatenate([np.zeros(rows), converted[clicked]]).astype(np.float32)
    given = Inputs(ids, np.zeros(0, np.int64), np.zeros(1, np.int64), np.zeros((len(ids), 0), np.float32))
    return Batch.of(given, events, labels)


def entropy_of(p: np.ndarray, y: np.ndarray) -> float:
    return float(-(y * np.log(p) + (1 - y) * np.log(1 - p)).mean())


@pytest.mark.parametrize("objective", ["esmm", "composed"])
@pytest.mark.parametrize("has_signal", [True, False], ids=["signal", "no signal"])
def test_learner_finds_the_planted_probabilities(objective, has_signal):
    rng = np.random.default_rng(11)
    pctr, pcvr = truth(rng, has_signal=has_signal)
    own = learner(
        WORLD,
        network=Network(objective=objective, towers=(16,), threads=1, prior_ctr=0.1, prior_cvr=0.5),
        optimizer=Optimizer(embedding_learning_rate=0.05, dense_learning_rate=1e-2, decay_half_life_steps=100),
        batch_size=1024,
    )
    for step in range(400):
        assert own.learn_many(world(512, rng, pctr, pcvr), at_ms=1000 * step).refusal is None

    test = world(40_000, rng, pctr, pcvr)
    cells = (test.inputs.ids[:, 0], test.inputs.ids[:, 1] - 1000)
    predictions = own.predict_many(test.inputs)
    shown, matured = test.events != Event.MATURED, test.events == Event.MATURED
    for p, y, true in [
        (predictions.pctr[shown], (test.events == Event.CLICKED)[shown].astype(float), pctr[cells][shown]),
        (predictions.pcvr[matured], test.converted[matured].astype(float), pcvr[cells][matured]),
    ]:
        assert p.mean() / true.mean() == pytest.approx(1, abs=0.04)
        ne = entropy_of(p, y) / entropy_of(np.full_like(y, y.mean()), y)
        best = entropy_of(true, y) / entropy_of(np.full_like(y, y.mean()), y)
        assert ne == pytest.approx(best, abs=0.01)
        assert math.isclose(best, 1, abs_tol=2e-3) != has_signal
