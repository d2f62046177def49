"""Losses in log space: against float64 arithmetic, finite differences, and at the ends of the number line."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.loss import OBJECTIVES, composed_loss, ctr_loss, product_loss

GRID = torch.tensor([-50.0, -30.0, -5.0, -1.0, 0.0, 0.3, 4.0, 30.0, 50.0], dtype=torch.float64)
CTR, CVR = (grid.flatten() for grid in torch.meshgrid(GRID, GRID, indexing="ij"))
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


def test_product_loss_is_the_cross_entropy_of_the_product():
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    for a, b in zip(CTR, CVR, strict=True):
        found = product_loss(a[None], b[None], one, zero).item(), product_loss(a[None], b[None], zero, one).item()
        assert found == pytest.approx(exact(a.item(), b.item()), rel=1e-9)


def test_float32_logits_of_twenty_do_not_lose_the_negative():
    twenty, one, zero = torch.full((1,), 20.0), torch.ones(1), torch.zeros(1)
    assert product_loss(twenty, twenty, zero, one).item() == pytest.approx(19.307, abs=1e-3)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(sorted(LOSSES)), st.floats(-12, 12), st.floats(-12, 12), weights, weights)
def test_gradient_is_the_slope_of_the_loss(name, a, b, plus, minus):
    loss = LOSSES[name]
    plus, minus = (torch.tensor([weight], dtype=torch.float64) for weight in (plus, minus))
    logits = torch.tensor([[a], [b]], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(logits[0], logits[1], plus, minus), logits)
    for which in (0, 1):
        step = torch.zeros(2, 1, dtype=torch.float64)
        step[which] = 1e-5
        up, down = (loss(*(logits.detach() + sign * step), plus, minus) for sign in (1, -1))
        assert gradient[which].item() == pytest.approx(((up - down) / 2e-5).item(), abs=1e-8, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_gradient_are_finite_at_logits_of_fifty(name, dtype):
    a, b = (grid.to(dtype).requires_grad_() for grid in (CTR, CVR))
    ones = torch.ones_like(CTR, dtype=dtype)
    loss = LOSSES[name](a, b, ones, ones)
    gradients = torch.autograd.grad(loss, (a, b), allow_unused=True)
    assert loss.isfinite()
    assert all(gradient is None or gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_no_gradient_flows_through_weights_that_depend_on_the_prediction(objective):
    a = torch.tensor([0.3, -1.0], dtype=torch.float64)
    b = torch.tensor([0.5, 2.0], dtype=torch.float64, requires_grad=True)
    f = torch.sigmoid(b)
    (through,) = torch.autograd.grad(objective.loss(a, b, f**2, 1 - f), b)
    (constant,) = torch.autograd.grad(objective.loss(a, b, (f**2).detach(), (1 - f).detach()), b)
    assert torch.equal(through, constant)


def test_composed_loss_leaves_the_click_tower_alone():
    a, b = torch.zeros(2, requires_grad=True), torch.zeros(2, requires_grad=True)
    by_a, by_b = torch.autograd.grad(composed_loss(a, b, torch.ones(2), torch.zeros(2)), (a, b), allow_unused=True)
    assert by_a is None
    assert by_b.tolist() == [-0.5, -0.5]


def test_no_rows_cost_nothing():
    none = torch.zeros(0)
    assert [loss(none, none, none, none).item() for loss in LOSSES.values()] == [0, 0, 0]
