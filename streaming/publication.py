"""How and where weights are published, and which of them are refused, as settings. Must not know who publishes or reads."""

from __future__ import annotations

from typing import Literal

import msgspec

RowFormat = Literal["fp32", "fp16", "int8"]
TargetName = Literal["directory", "redis", "kafka"]
_MOST_HELD_OUT = 0.5


class Publishing(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which versions there are, and where they go. No part of the result: nothing here changes what is learned."""

    targets: tuple[TargetName, ...] = (
        "directory",
    )  # "directory" is RUN/weights; redis and kafka get the same versions besides
    snapshot_every: int = 10  # every so many versions a snapshot, deltas between; 1 is snapshots alone
    delta_interval_ms: int | None = (
        None  # of event time: a delta at its multiples, besides those of the cuts; None is none
    )
    least_interval_ms: int = 1_000  # of processing time, between two such deltas: catching up must not flood readers
    epsilon: float = 0.0  # rows that moved no farther (L2) wait; above 0 it costs a copy of all vectors
    row_format: RowFormat = "fp32"  # fp16 halves and int8 quarters the rows, see docs/weights.md for what that costs
    retry_ms: int = 500  # before a target that did not answer is tried again, at first; each time twice as long
    retry_most_ms: int = 30_000
    waiting_most: int = 16  # versions kept for a target that is away; then they are dropped, and a snapshot follows
    close_timeout_ms: int = 10_000  # at the end of a run, how long targets have to take what still waits for them

    def __post_init__(self) -> None:
        if "directory" not in self.targets or len(set(self.targets)) < len(self.targets):
            raise ValueError(
                f'publishing.targets must hold "directory", and each target once (got {list(self.targets)}): '
                "RUN/weights is where a rollback finds the versions there were"
            )


class Gate(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which versions are refused. NaN and infinity always are; the other rules hold where they are set."""

    calibration_least: float | None = None  # sum p / sum y on the newest labels, of CVR
    calibration_most: float | None = None
    log_loss_ratio_most: float | None = None  # log loss over that of the version served, on the same labels; 1.05, say
    held_out_share: float = (
        0.01  # of impressions that teach nothing, so that these rules see labels no version has learned; 0: none
    )
    outcomes_kept: int = 2_000  # the newest matured clicks of those, which versions are judged by; 0 judges by none
    outcomes_least: int = 200  # with fewer, nothing is said by them
    row_norm_most: float | None = None  # L2 of a row, or of a dense tensor over the root of its size
    join_coverage_least: float | None = None  # clicks and conversions that found their impression, of all that left
    on_refusal: Literal["go_on", "stop", "fall_back"] = "go_on"  # fall_back: train on from the last version that passed

    def __post_init__(self) -> None:
        if not 0 <= self.held_out_share <= _MOST_HELD_OUT:
            raise ValueError(
                f"gate.held_out_share must be from 0 to {_MOST_HELD_OUT} (got {self.held_out_share}): what is held out is not learned"
            )

    @property
    def judges_labels(self) -> bool:
        """Whether a rule that is set looks at labels."""
        rules = (self.calibration_least, self.calibration_most, self.log_loss_ratio_most)
        return self.outcomes_kept > 0 and any(rule is not None for rule in rules)

    @property
    def of_result(self) -> dict[str, float | str | None]:
        """What of it makes a difference to what is learned: what is held out, and all of it where training falls back.

        Example:
            >>> Gate(calibration_most=1.2, on_refusal="stop").of_result == Gate(calibration_most=9.0).of_result
            True
        """
        if self.on_refusal == "fall_back":
            return msgspec.structs.asdict(self)
        share = self.held_out_share if self.judges_labels else 0.0
        return {"held_out_share": share, "outcomes_kept": self.outcomes_kept}
