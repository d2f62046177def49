"""How gradients move weights: Adagrad on embedding rows, Adam on dense layers, one schedule; must not know a network."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from models.layers.parameters import Parameters
from models.schema import Optimizer

_ADAGRAD_EPSILON = 1e-10  # keeps 0 / 0 away from rows whose sums start at 0; torch.optim.Adagrad's own


def adagrad_(vectors: torch.Tensor, sums: torch.Tensor, gradient: torch.Tensor, *, rate: float) -> None:
    """One step of Adagrad on some rows, in place.

    A sum is kept for every element, not one for a row: CTR gradients are some twenty times those of CVR, and a
    sum that they share would hold the directions that serve CVR at the pace that CTR needs.

    Args:
        vectors: (U, D) the rows' weights.
        sums: (U, D) their squared gradients so far.
        gradient: (U, D) of the whole batch: what several positions say of one row is added up before it is squared.
        rate: learning rate of this step.

    Source:
        Duchi et al., "Adaptive Subgradient Methods", JMLR 2011; rows without gradient stay as in `torch.optim.Adagrad`
        with sparse gradients.
    """
    if vectors.device.type != "cpu":
        sums.addcmul_(gradient, gradient)
        vectors.addcdiv_(gradient, sums.sqrt().add_(_ADAGRAD_EPSILON), value=-rate)
        return
    # The same in one pass, as `torch.optim.Adagrad(fused=True)` has it: .28 ms for (11600, 16) on one core, .55 in four.
    torch._fused_adagrad_(
        [vectors],
        [gradient],
        [sums],
        [torch.ones(())],  # the step, by which the rate would decay
        lr=rate,
        lr_decay=0.0,
        weight_decay=0.0,
        eps=_ADAGRAD_EPSILON,
        maximize=False,
    )


def schedule(optimizer: Optimizer, step: int) -> float:
    """What both learning rates are multiplied by at a step, counted from 1.

    Example:
        >>> settings = Optimizer(warmup_steps=4, decay_half_life_steps=100)
        >>> [schedule(settings, step) for step in (1, 2)], round(schedule(settings, 101), 3)
        ([0.25, 0.49654...], 0.5)
    """
    warmup = min(1.0, step / optimizer.warmup_steps) if optimizer.warmup_steps else 1.0
    half_life = optimizer.decay_half_life_steps
    return warmup * (0.5 ** ((step - 1) / half_life) if half_life is not None else 1.0)


class DenseAdam:
    """Adam with decoupled weight decay over all dense weights as two flat vectors; biases do not decay.

    A head's bias carries the prior rate: pulling it to 0 would pull predictions to a half.

    Source:
        Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019.
    """

    def __init__(self, parameters: Parameters, *, weight_decay: float) -> None:
        self._flat = {
            "matrices": _Moments.of(parameters.matrices, weight_decay=weight_decay),
            "vectors": _Moments.of(parameters.vectors, weight_decay=0.0),
        }

    def step(self, *, rate: float) -> None:
        """Moves the weights by the gradients that stand in `Parameters`."""
        for moments in self._flat.values():
            moments.step(rate=rate)

    def snapshot(self) -> dict[str, torch.Tensor]:
        """Its running means, by name, as CPU copies."""
        return {
            f"adam.{name}.{key}": value.to("cpu", copy=True)
            for name, moments in self._flat.items()
            for key, value in moments.state.items()
        }

    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        """Takes back what `snapshot` gave."""
        for name, moments in self._flat.items():
            for key, value in moments.state.items():
                value.copy_(tensors[f"adam.{name}.{key}"])


@dataclass(frozen=True, slots=True)
class _Moments:
    """Adam's state of one flat vector of weights, under the names that `torch.optim.AdamW` has for it."""

    weights: torch.Tensor
    gradient: torch.Tensor
    weight_decay: float
    state: dict[str, torch.Tensor]

    @classmethod
    def of(cls, weights: torch.Tensor, *, weight_decay: float) -> _Moments:
        assert weights.grad is not None
        state = {"step": torch.zeros((), device=weights.device)}
        state |= {name: torch.zeros_like(weights) for name in ("exp_avg", "exp_avg_sq")}
        return cls(weights, weights.grad, weight_decay, state)

    def step(self, *, rate: float) -> None:
        # What `AdamW(fused=True)` calls; what it does around that takes longer than the step: .25 ms with it, .1 without.
        self.state["step"].add_(1)
        torch._fused_adamw_(
            [self.weights],
            [self.gradient],
            [self.state["exp_avg"]],
            [self.state["exp_avg_sq"]],
            [],
            [self.state["step"]],
            lr=rate,
            beta1=0.9,
            beta2=0.999,
            weight_decay=self.weight_decay,
            eps=1e-8,
            amsgrad=False,
            maximize=False,
        )
