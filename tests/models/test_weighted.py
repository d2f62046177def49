"""Rows taught with weights that are given: the same as if they had been drawn, and the reverse of it with the sign turned."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.batch import Batch, Event, Float64, Inputs
from models.loss import OBJECTIVES
from models.schema import Feature, Labels, Network, Optimizer, Safeguards
from models.trainer import Learner
from models.weighted import Weighted

ROWS = 6


def learner(method: str = "mature", objective: str = "esmm", **limits: float) -> Learner:
    return Learner(
        [Feature(name="user", kind="categorical"), Feature(name="price", kind="numeric")],
        network=Network(towers=(4,), threads=1, objective=objective),  # type: ignore[arg-type]
        optimizer=Optimizer(),
        safeguards=Safeguards(**limits),  # type: ignore[arg-type]
        labels=Labels(method=method),
        observation_window_ms=1_000,
        attribution_window_ms=5_000,
        batch_size=8,
        kappa_half_life_ms=1_000,
    )


def inputs(prices: Float64 | None = None) -> Inputs:
    prices = np.linspace(-1, 1, ROWS) if prices is None else prices
    none = np.zeros(0, np.int64)
    return Inputs(np.arange(ROWS)[:, None] % 3, none, np.zeros(1, np.int64), prices[:, None].astype(np.float32))


def weighted(seed: int = 0) -> Weighted:
    rng = np.random.default_rng(seed)
    return Weighted(
        rng.normal(size=ROWS), rng.normal(size=ROWS), rng.normal(size=(2, ROWS)), rng.normal(size=(2, ROWS))
    )


def assert_same_tensors(one: Learner, other: Learner) -> None:
    mine, others = one.snapshot().tensors, other.snapshot().tensors
    assert mine.keys() == others.keys()
    for name, tensor in mine.items():
        assert torch.equal(tensor, others[name]), name


@pytest.mark.parametrize("objective", ["esmm", "composed", "both"])
def test_taught_with_the_weights_that_a_batch_was_drawn_it_moves_alike(objective: str) -> None:
    events = [Event.UNCLICKED, Event.UNCLICKED, Event.CLICKED, Event.CLICKED, Event.MATURED, Event.MATURED]
    converted = np.array([0, 0, 0, 0, 1, 0], np.float32)
    drawn, given_weights = learner(objective=objective), learner(objective=objective)
    batch = Batch.of(inputs(), np.array(events, np.int8), converted)
    product, composed = {"esmm": (1, 0), "composed": (0, 1), "both": (1, 1)}[objective]
    for at_ms in range(3):
        report = drawn.learn_many(batch, at_ms=at_ms)
        is_click = np.array([event == Event.MATURED for event in events])
        pairs = np.stack([report.positive, report.negative])
        told = Weighted(
            clicked=np.array([event == Event.CLICKED for event in events], np.float64),
            unclicked=np.array([event == Event.UNCLICKED for event in events], np.float64),
            product=product * pairs,
            composed=composed * pairs * is_click,
        )
        assert given_weights.teach_many(inputs(), told) is None
    given_weights.follow(drawn.snapshot())
    assert_same_tensors(given_weights, drawn)
    assert given_weights.snapshot().state["teaching"] == drawn.snapshot().state["teaching"]
    assert given_weights.step == drawn.step == 3


def test_the_stream_is_followed_without_its_weights() -> None:
    stream, fresh, untouched = learner(), learner(), learner()
    stream.learn_many(Batch.of(inputs(), np.full(ROWS, Event.MATURED, np.int8), np.ones(ROWS, np.float32)), at_ms=5)
    fresh.follow(stream.snapshot())
    assert fresh.step == 0
    assert torch.equal(fresh.snapshot().tensors["table_8.ids"], untouched.snapshot().tensors["table_8.ids"])
    assert fresh.snapshot().state["teaching"] == stream.snapshot().state["teaching"]


@given(seed=st.integers(0, 10**6), scale=st.floats(0.1, 8))
@settings(max_examples=30, deadline=None)
def test_cost_and_slopes_are_what_its_parts_add_up_to(seed: int, scale: float) -> None:
    told, rng = weighted(seed), np.random.default_rng(seed + 1)
    ctr_logit, cvr_logit = scale * rng.normal(size=(2, ROWS))

    def nats(ctr: Float64, cvr: Float64) -> float:
        click, conversion = 1 / (1 + np.exp(-ctr)), 1 / (1 + np.exp(-cvr))
        no_click, no_conversion = (
            1 / (1 + np.exp(ctr)),
            1 / (1 + np.exp(cvr)),
        )  # one less another near it would lose its digits
        total = -told.clicked @ np.log(click) - told.unclicked @ np.log(no_click)
        total -= told.product[0] @ np.log(click * conversion)
        total -= told.product[1] @ np.log(no_click + click * no_conversion)
        return float(total - told.composed[0] @ np.log(conversion) - told.composed[1] @ np.log(no_conversion))

    cost = told.cost(ctr_logit, cvr_logit)
    assert cost.nats == pytest.approx(nats(ctr_logit, cvr_logit), rel=1e-6, abs=1e-6)
    for row in range(ROWS):
        nudge = np.zeros(ROWS)
        nudge[row] = 1e-5
        by_ctr = (nats(ctr_logit + nudge, cvr_logit) - nats(ctr_logit - nudge, cvr_logit)) / 2e-5
        by_cvr = (nats(ctr_logit, cvr_logit + nudge) - nats(ctr_logit, cvr_logit - nudge)) / 2e-5
        assert cost.by_ctr[row] == pytest.approx(by_ctr, rel=1e-3, abs=1e-4)
        assert cost.by_cvr[row] == pytest.approx(by_cvr, rel=1e-3, abs=1e-4)


def test_turned_round_it_costs_the_opposite() -> None:
    told, logits = weighted(), (np.linspace(-2, 2, ROWS), np.linspace(3, -3, ROWS))
    turned = Weighted(-told.clicked, -told.unclicked, -told.product, -told.composed)
    forth, back = told.cost(*logits), turned.cost(*logits)
    assert forth.nats == pytest.approx(-back.nats)
    np.testing.assert_allclose(forth.by_ctr, -back.by_ctr)
    np.testing.assert_allclose(forth.by_cvr, -back.by_cvr)


def test_right_less_wrong_pulls_on_the_click_alone_wherever_the_model_stands() -> None:
    one, pair = np.ones(3), np.zeros((2, 3))
    cost = Weighted(one, -one, pair, np.stack([one, -one])).cost(np.array([-9.0, 0.0, 9.0]), np.array([5.0, 0.0, -5.0]))
    np.testing.assert_allclose(cost.by_ctr, -1)
    np.testing.assert_allclose(cost.by_cvr, -1)
    plain = OBJECTIVES["composed"].cost(one, one, one, -one, unclicked=np.zeros(3))
    np.testing.assert_allclose(plain.by_cvr, -1)


def test_refused_it_leaves_no_trace_and_says_why() -> None:
    told, before = weighted(), learner()
    not_finite = before.teach_many(inputs(np.full(ROWS, np.inf)), told)
    assert not_finite is not None
    assert not_finite.reason == "not_finite"
    assert_same_tensors(before, learner())
    strict = learner(loss_limit=1e-9)
    # Losses of both signs that add up to nothing are as large as ever.
    balanced = Weighted(np.ones(ROWS), -np.ones(ROWS), np.zeros((2, ROWS)), np.zeros((2, ROWS)))
    exploding = strict.teach_many(inputs(), balanced)
    assert exploding is not None
    assert exploding.reason == "exploding"
    running = learner(breaker_armed_after=1, breaker_min_rows=1)
    running.observe_outcomes(1_000_000, 1)
    away = running.teach_many(inputs(), balanced)
    assert away is not None
    assert away.reason == "running_away"
    assert running.step == strict.step == before.step == 0


def test_heads_with_a_likelihood_take_no_weights() -> None:
    with pytest.raises(ValueError, match="must be one of pairs"):
        learner("fnc", "composed").teach_many(inputs(), weighted())
