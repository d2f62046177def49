"""What a feature, a network and an optimizer are set to; must not know torch, so that reading settings stays cheap."""

from __future__ import annotations

from typing import Literal

import msgspec

FeatureKind = Literal["categorical", "multi", "sequence", "numeric", "crossed"]
Transform = Literal["none", "log", "buckets"]
Task = Literal["shared", "ctr", "cvr"]
RefusalReason = Literal["running_away", "exploding", "not_finite"]


class Feature(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One input of the model, as the settings name it.

    Args:
        name: its name; also the path inside `features` (dots descend) unless `path` is given.
        kind: `categorical` (one id), `multi` (a set of ids, mean of their vectors), `sequence` (ids in order, the
            newest `max_length` count, mean of their vectors), `numeric` (one number), `crossed` (one id made
            of the ids of the categorical features named in `inputs`).
        path: where it stands inside `features`; None is `name`.
        width: length of its embedding vector; None is `network.embedding_width`. Without meaning for plain numbers.
        transform: numeric only. `none` is (x - center) / scale, `log` is sign(x) log(1 + |x|) and then the same,
            `buckets` turns x into an id by `boundaries` and gives it an embedding.
        boundaries: ascending bucket edges for `buckets`; x falls in bucket i if boundaries[i-1] <= x < boundaries[i].
        center, scale: subtracted and divided by, after `log`.
        inputs: the categorical features that a crossed one is made of, two or more.
        ids_of: another feature whose ids (and rows) this one shares, such as a history of items with the item; None is its own.
        task: which tower sees it: both, or one alone.
        max_length: multi and sequence only: longer lists keep their last `max_length` values.
    """

    name: str
    kind: FeatureKind
    path: str | None = None
    width: int | None = None
    transform: Transform = "none"
    boundaries: tuple[float, ...] = ()
    center: float = 0.0
    scale: float = 1.0
    inputs: tuple[str, ...] = ()
    ids_of: str | None = None
    task: Task = "shared"
    max_length: int = 50

    @property
    def is_embedded(self) -> bool:
        """Whether it reaches the network as a vector of a table, not as a plain number."""
        return self.kind != "numeric" or self.transform == "buckets"

    @property
    def is_bag(self) -> bool:
        """Whether it holds any number of ids a row."""
        return self.kind in ("multi", "sequence")


class Labels(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How late labels are taught.

    Args:
        method: a row of `models/delay.py`, or `module:NAME` for a `models.delay.Method` of your own, which must hold the laws.
        normalization: `unit` mass, or as the `paper` has it, to reproduce one; with network.objective = "composed" only.
        horizons: steps from the observation to the attribution window at which `survival` and `dfm` look at open clicks again.
        kappa: whether an unclicked impression weighs as much as clicks teach at the time; off for studies alone.
        growth: whether mass that arrives late is scaled by how much more traffic there is now than about its click (rho); off for studies alone.
        delay_model: what tells how late conversions come: `hazard` by features, at every age; `global`, one curve for all clicks; `heads`,
            the papers' two probabilities at the observation window, taught by final labels. It matters to methods that look at S.
        delay_half_life_ms: event time in which what the delay model learned loses half its weight.
        delay_prior_ages_ms, delay_prior_shares: what is believed of delays before the stream shows them: of the conversions that
            ever come, the share that has come by each age. As it stands, what is published of the Criteo log.
    """

    method: str = "mature"
    normalization: Literal["unit", "paper"] = "unit"
    horizons: int = 6
    kappa: bool = True
    growth: bool = True
    delay_model: Literal["hazard", "global", "heads"] = "hazard"
    delay_half_life_ms: int = 2_419_200_000  # 28 days
    delay_prior_ages_ms: tuple[int, ...] = (3_600_000, 86_400_000, 604_800_000, 1_209_600_000, 2_592_000_000)
    delay_prior_shares: tuple[float, ...] = (0.35, 0.5, 0.81, 0.87, 1.0)


class Network(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Shape and start of the network.

    Args:
        name: which network of `models/`; only `esmm` so far.
        objective: `esmm` teaches CVR through the product pCTR * pCVR over all impressions, `composed` on clicks alone,
            `both` sums the two.
        composed_weight: of `composed` within `both`.
        towers: widths of the hidden layers of each tower.
        embedding_width: length of an embedding vector where the feature does not say.
        prior_ctr, prior_cvr: where pCTR and pCVR start: the head biases are their logits.
        max_rows: most rows an embedding table keeps; the least recently touched leave first. None is no limit.
        seed: every random start comes from it.
        device: where tables and optimizers live.
        threads: torch's threads within an operation; results are bit-for-bit equal only at the same number.
    """

    name: Literal["esmm"] = "esmm"
    objective: Literal["esmm", "composed", "both"] = "esmm"
    composed_weight: float = 1.0
    towers: tuple[int, ...] = (128, 64)
    embedding_width: int = 8
    prior_ctr: float = 0.04
    prior_cvr: float = 0.1
    max_rows: int | None = None
    seed: int = 0
    device: str = "cpu"
    threads: int = 2


class Optimizer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How far one step moves the weights.

    Args:
        embedding_learning_rate: of the per-row Adagrad on embeddings.
        embedding_initial_accumulator: where Adagrad's sums start. Near zero on purpose: sums are divided by the batch
            size, so CVR gradients are small and the customary 0.1 would never be outgrown.
        dense_learning_rate: of Adam on the towers.
        dense_weight_decay: decoupled (AdamW), per step, times the learning rate.
        warmup_steps: steps over which both rates grow from 0 to full.
        decay_half_life_steps: steps after which both rates have halved; None never.
    """

    embedding_learning_rate: float = 0.02
    embedding_initial_accumulator: float = 1e-7
    dense_learning_rate: float = 1e-3
    dense_weight_decay: float = 0.0
    warmup_steps: int = 0
    decay_half_life_steps: int | None = None


class Safeguards(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When a batch is refused instead of learned.

    Args:
        breaker_ratio: a batch whose mean pCVR over clicked rows exceeds this many times the running OUTCOME rate is refused.
        breaker_armed_after: positive OUTCOMEs seen before the breaker is armed.
        breaker_min_rows: clicked rows that a batch must have for its mean pCVR to be judged: of a few it is chance.
        loss_limit: a batch whose loss per row (nats) exceeds this is refused as exploding; a NaN or infinity always is.
        breaker_limit: refused batches after which the run ends.
    """

    breaker_ratio: float = 5.0
    breaker_armed_after: int = 50
    breaker_min_rows: int = 20
    loss_limit: float = 20.0
    breaker_limit: int = 10
