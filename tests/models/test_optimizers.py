"""Steps of the optimizers, beside torch's own."""

import numpy as np
import pytest
import torch

from models.embedding import Table
from models.layers.parameters import Parameters
from models.optimizers import DenseAdam, schedule
from models.schema import Optimizer


def test_rows_learn_as_with_the_sparse_adagrad_of_torch():
    rng = np.random.default_rng(0)
    batches = [rng.zipf(1.4, 64) % 40 for _ in range(30)]  # many repeats within a batch
    weights = torch.from_numpy(rng.normal(size=(64, 5)).astype(np.float32))  # the loss of a position
    own = Table(width=5, seed=3, initial_sum=0.02, max_rows=None, device="cpu")
    every_id = np.arange(40)
    start = own.look_up(every_id)
    theirs = torch.nn.Embedding(40, 5, sparse=True)
    with torch.no_grad():
        theirs.weight.copy_(own.read(start)[start.inverse])
    adagrad = torch.optim.Adagrad(theirs.parameters(), lr=0.1, initial_accumulator_value=0.02)

    for step, ids in enumerate(batches, 1):
        adagrad.zero_grad()
        (theirs(torch.from_numpy(ids)).pow(2) * weights).sum().backward()
        with torch.sparse.check_sparse_tensor_invariants():  # torch warns unless asked to check or not to
            adagrad.step()

        places = own.look_up(ids)
        vectors = own.read(places).requires_grad_()
        (vectors[places.inverse].pow(2) * weights).sum().backward()
        own.learn(places, vectors.detach().clone(), vectors.grad, rate=0.1, step=step)

    places = own.look_up(every_id)
    torch.testing.assert_close(own.read(places)[places.inverse], theirs.weight.detach())


def test_dense_weights_learn_as_with_adamw_but_biases_do_not_decay():
    own = Parameters({"matrix": (3, 5), "bias": (3,), "other": (2, 2)}, device="cpu")
    adam = DenseAdam(own, weight_decay=0.3)
    generator = torch.Generator().manual_seed(0)
    for value in own.value.values():
        value.copy_(torch.rand(value.shape, generator=generator))
    theirs = {name: value.clone().requires_grad_() for name, value in own.value.items()}
    matrices = {"params": [theirs["matrix"], theirs["other"]], "weight_decay": 0.3}
    judge = torch.optim.AdamW([matrices, {"params": [theirs["bias"]], "weight_decay": 0.0}], lr=0.01)
    for _ in range(5):
        for name, weight in theirs.items():
            weight.grad = torch.rand(weight.shape, generator=generator) - 0.5
            own.gradient[name].copy_(weight.grad)
        judge.step()
        adam.step(rate=0.01)
    for name, weight in theirs.items():
        torch.testing.assert_close(own.value[name], weight.detach())


def test_restored_adam_goes_on_bit_for_bit():
    def make() -> tuple[Parameters, DenseAdam]:
        parameters = Parameters({"matrix": (3, 5), "bias": (3,)}, device="cpu")
        return parameters, DenseAdam(parameters, weight_decay=0.0)

    def teach(parameters: Parameters, adam: DenseAdam, step: int) -> None:
        for name in parameters.gradient:
            parameters.gradient[name].copy_(
                torch.sin(torch.arange(parameters.gradient[name].numel()) + step).view_as(parameters.gradient[name])
            )
        adam.step(rate=0.1 / step)

    whole, cut, other = make(), make(), make()
    for step in (1, 2, 3):
        teach(*whole, step)
        teach(*cut, step)
    other[0].restore(cut[0].snapshot())
    other[1].restore(cut[1].snapshot())
    for step in (4, 5):
        teach(*whole, step)
        teach(*other, step)
    assert torch.equal(whole[0].matrices, other[0].matrices)
    assert torch.equal(whole[0].vectors, other[0].vectors)


@pytest.mark.parametrize(
    ("settings", "step", "expected"),
    [
        pytest.param(Optimizer(), 1, 1.0, id="constant from the first step"),
        pytest.param(Optimizer(), 10**6, 1.0, id="constant for ever"),
        pytest.param(Optimizer(warmup_steps=10), 1, 0.1, id="a tenth at first"),
        pytest.param(Optimizer(warmup_steps=10), 10, 1.0, id="full at the end of the warm-up"),
        pytest.param(Optimizer(warmup_steps=10), 11, 1.0, id="full after it"),
        pytest.param(Optimizer(decay_half_life_steps=100), 1, 1.0, id="decay starts at full"),
        pytest.param(Optimizer(decay_half_life_steps=100), 201, 0.25, id="two half-lives on"),
        pytest.param(Optimizer(warmup_steps=400, decay_half_life_steps=100), 201, 0.25 * 201 / 400, id="both"),
    ],
)
def test_schedule(settings, step, expected):
    assert schedule(settings, step) == pytest.approx(expected)
