"""Losses in log space: against the widest floats there are, finite differences, and at the ends of the number line."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.loss import OBJECTIVES, composed_loss, ctr_loss, objective_of, product_loss

GRID = np.array([-50.0, -30.0, -5.0, -1.0, 0.0, 0.3, 4.0, 30.0, 50.0])
CTR, CVR = (grid.ravel() for grid in np.meshgrid(GRID, GRID, indexing="ij"))
ONES, ZEROS = np.ones_like(CTR), np.zeros_like(CTR)
LOSSES = {
    "ctr": lambda a, b, plus, minus: ctr_loss(a, minus, plus),
    "product": product_loss,
    "composed": composed_loss,
}
weights = st.floats(-2, 2)


def exact(a: float, b: float) -> tuple[float, float]:
    """-log(pq) and -log(1 - pq) from the largest floats there are, with 1 - pq as (1 - p) + p (1 - q)."""
    p, not_p, q, not_q = (1 / (1 + np.exp(np.longdouble(x))) for x in (-a, a, -b, b))
    return float(-np.log(p) - np.log(q)), float(-np.log(not_p + p * not_q))


@pytest.mark.parametrize(("a", "b"), list(zip(CTR, CVR, strict=True)))
def test_product_loss_is_the_cross_entropy_of_the_product(a, b):
    one, zero = np.ones(1), np.zeros(1)
    found = product_loss(a[None], b[None], one, zero).nats, product_loss(a[None], b[None], zero, one).nats
    assert found == pytest.approx(exact(a, b), rel=1e-9)


def test_logits_of_twenty_do_not_lose_the_negative():
    twenty, one, zero = np.full(1, 20.0), np.ones(1), np.zeros(1)
    assert product_loss(twenty, twenty, zero, one).nats == pytest.approx(19.307, abs=1e-3)


@settings(deadline=None, max_examples=100)
@given(st.sampled_from(sorted(LOSSES)), st.floats(-12, 12), st.floats(-12, 12), weights, weights)
def test_slopes_are_those_of_the_loss(name, a, b, plus, minus):
    plus, minus, logits = np.array([plus]), np.array([minus]), np.array([[a], [b]])
    cost = LOSSES[name](*logits, plus, minus)
    for which, slope in enumerate((cost.by_ctr, cost.by_cvr)):
        step = np.zeros((2, 1))
        step[which] = 1e-5
        up, down = (LOSSES[name](*(logits + sign * step), plus, minus).nats for sign in (1, -1))
        assert slope.item() == pytest.approx((up - down) / 2e-5, abs=1e-8, rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("far", [1, 20], ids=["logits of 50", "logits of 1000"])
def test_loss_and_slopes_are_finite_far_out(name, far):
    cost = LOSSES[name](CTR * far, CVR * far, ONES, ONES)
    assert np.isfinite(cost.nats)
    assert np.isfinite(cost.by_ctr).all()
    assert np.isfinite(cost.by_cvr).all()
    assert np.abs([cost.by_ctr, cost.by_cvr]).max() <= 1  # no row pulls harder than its weight


@pytest.mark.parametrize(
    "objective", [*OBJECTIVES.values(), objective_of("both", composed_weight=0.3)], ids=[*OBJECTIVES, "both"]
)
def test_no_gradient_flows_through_weights_that_depend_on_the_prediction(objective):
    a, b = np.array([0.3]), np.array([0.5])

    def weights_at(logit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        f = 1 / (1 + np.exp(-logit))
        return f**2, 1 - f

    def nats(logit: np.ndarray, weights_from: np.ndarray) -> float:
        return objective.cost(a, logit, *weights_at(weights_from), unclicked=np.zeros(1)).nats

    found = objective.cost(a, b, *weights_at(b), unclicked=np.zeros(1)).by_cvr.item()
    held = (nats(b + 1e-5, b) - nats(b - 1e-5, b)) / 2e-5
    flowing = (nats(b + 1e-5, b + 1e-5) - nats(b - 1e-5, b - 1e-5)) / 2e-5
    assert found == pytest.approx(held, rel=1e-6)
    assert found != pytest.approx(flowing, rel=0.1)


def test_both_is_the_sum_of_the_product_over_all_rows_and_a_share_of_the_clicks():
    a, b, plus, minus, unclicked = (
        np.array(column) for column in ([0.3, -1.0], [0.5, 0.1], [0.2, 0.0], [0.8, 0.0], [0.0, 0.9])
    )
    found = objective_of("both", composed_weight=0.25).cost(a, b, plus, minus, unclicked=unclicked)
    product, composed = product_loss(a, b, plus, minus + unclicked), composed_loss(a, b, plus, minus)
    assert found.nats == pytest.approx(product.nats + 0.25 * composed.nats)
    np.testing.assert_allclose(found.by_ctr, product.by_ctr)
    np.testing.assert_allclose(found.by_cvr, product.by_cvr + 0.25 * composed.by_cvr)


def test_composed_loss_leaves_the_click_tower_alone():
    cost = composed_loss(np.zeros(2), np.zeros(2), np.ones(2), np.zeros(2))
    assert cost.by_ctr.tolist() == [0, 0]
    assert cost.by_cvr.tolist() == [-0.5, -0.5]


def test_no_rows_cost_nothing():
    none = np.zeros(0)
    assert [loss(none, none, none, none).nats for loss in LOSSES.values()] == [0, 0, 0]
