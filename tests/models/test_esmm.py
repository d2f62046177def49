"""The network against a plain torch one, and what each tower may see."""

import math

import pytest
import torch

from models.esmm import Esmm
from models.likelihoods import logit
from models.schema import Network

INPUTS = {"shared": 7, "ctr": 3, "cvr": 2}
TOWERS = [(), (5,), (6, 4), (16, 8, 4)]
TWO, THREE = ("ctr", "cvr"), ("ctr", "cvr", "delay")


def esmm(inputs: dict[str, int], network: Network, heads: tuple[str, ...] = TWO) -> Esmm:
    starts = {"ctr": logit(network.prior_ctr), "cvr": logit(network.prior_cvr), "delay": 0.5}
    return Esmm(inputs, network=network, heads={head: starts[head] for head in heads})


def inputs(rows: int, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {task: torch.randn(rows, width, generator=generator) for task, width in INPUTS.items()}


def plain(
    network: Esmm, x: dict[str, torch.Tensor], towers: tuple[int, ...], heads: tuple[str, ...]
) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    """All logits by autograd, tower by tower, from the same weights; and those weights."""
    weights = {name: value.clone().requires_grad_() for name, value in network.parameters.value.items()}
    half = (*towers, 1)[0]
    logits = []
    for number, head in enumerate(heads):
        mine, task = slice(number * half, (number + 1) * half), "ctr" if head == "ctr" else "cvr"
        private = slice(0, half) if task == "ctr" else slice((number - 1) * half, number * half)
        hidden = x["shared"] @ weights["entrance.shared.weight"][mine].t() + weights["entrance.bias"][mine]
        hidden = hidden + x[task] @ weights[f"entrance.{task}.weight"][private].t()
        for layer in range(len(towers)):
            hidden = torch.relu(hidden) @ weights[f"{head}.{layer}.weight"].t() + weights[f"{head}.{layer}.bias"]
        logits.append(hidden[:, 0])
    return logits, weights


@pytest.mark.parametrize("rows", [1, 9])
@pytest.mark.parametrize("heads", [TWO, THREE], ids=len)
@pytest.mark.parametrize("towers", TOWERS, ids=str)
def test_logits_and_all_gradients_are_those_of_autograd(towers, heads, rows):
    network = esmm(INPUTS, Network(towers=towers, seed=1), heads)
    x = inputs(rows)
    leaves = {task: value.clone().requires_grad_() for task, value in x.items()}
    slopes = torch.randn(len(heads), rows, generator=torch.Generator().manual_seed(3))
    expected, weights = plain(network, leaves, towers, heads)
    (torch.stack(expected) * slopes).sum().backward()

    for _ in range(2):  # a second time, over what the first left in the kept arrays
        found = network.forward(x)
        by_input = network.backward(slopes)
    for own, judge in zip(found, expected, strict=True):
        torch.testing.assert_close(own, judge.detach())
    for task, leaf in leaves.items():
        torch.testing.assert_close(by_input[task], leaf.grad, msg=task)
    for name, weight in weights.items():
        torch.testing.assert_close(network.parameters.gradient[name], weight.grad, msg=name)


@pytest.mark.parametrize("towers", TOWERS, ids=str)
def test_predictions_start_at_the_priors(towers):
    network = esmm(INPUTS, Network(towers=towers, prior_ctr=0.03, prior_cvr=0.2))
    ctr_logit, cvr_logit = network.forward({task: torch.zeros(4, width) for task, width in INPUTS.items()})
    assert torch.sigmoid(ctr_logit).tolist() == pytest.approx([0.03] * 4)
    assert torch.sigmoid(cvr_logit).tolist() == pytest.approx([0.2] * 4)


@pytest.mark.parametrize(("task", "other"), [("ctr", 1), ("cvr", 0)])
def test_private_columns_reach_their_own_tower_alone(task, other):
    network = esmm(INPUTS, Network(towers=(8, 4)))
    x = inputs(3)
    before = [logit.clone() for logit in network.forward(x)]
    after = network.forward(x | {task: x[task] + 1})
    assert torch.equal(after[other], before[other])
    assert not torch.equal(after[1 - other], before[1 - other])


def test_hidden_layers_start_within_he_and_heads_smaller():
    network = esmm({"shared": 30, "ctr": 0, "cvr": 0}, Network(towers=(64, 16)))
    value = network.parameters.value
    for name, bound in [
        ("entrance.shared.weight", math.sqrt(6 / 30)),
        ("ctr.0.weight", math.sqrt(6 / 64)),
        ("cvr.1.weight", math.sqrt(1 / 16)),
    ]:
        assert 0.8 * bound < value[name].abs().max() <= bound, name


def test_seed_decides_the_start():
    def start(seed: int) -> torch.Tensor:
        return esmm(INPUTS, Network(seed=seed)).parameters.matrices.clone()

    assert torch.equal(start(1), start(1))
    assert not torch.equal(start(1), start(2))


def test_no_rows_give_no_logits():
    ctr_logit, cvr_logit = esmm(INPUTS, Network()).forward(inputs(0))
    assert ctr_logit.shape == cvr_logit.shape == (0,)
