"""What has to be taught so that an impression has been taught its right label: truth less what was taught. Must not know a model."""

from __future__ import annotations

import msgspec

from streaming.late_facts import Truth
from streaming.ledger import Account

MOST = 2.0
"""No weight is larger: one click must not throw a model, however it was weighed before."""


class Correction(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The weights that put one impression right; below 0 takes back.

    Args:
        clicked, unclicked: of the CTR labels.
        kappa: of the negative in the product loss that it has as an impression without a click.
        pos, neg: a+ and a- on the click.
        converted: the final conversion label that is told with it; None if none is.
    """

    clicked: float = 0.0
    unclicked: float = 0.0
    kappa: float = 0.0
    pos: float = 0.0
    neg: float = 0.0
    converted: bool | None = None

    @property
    def teaches_click(self) -> bool:
        """Whether it teaches a CTR label."""
        return (self.clicked, self.unclicked) != (0.0, 0.0)

    def __bool__(self) -> bool:
        return self.teaches_click or self.converted is not None


def correction(
    account: Account,
    truth: Truth,
    *,
    kappa: float,
    click_is_within_reach: bool = True,
    label_is_within_reach: bool = True,
) -> Correction:
    """What is to be taught of an impression, every weight held within 2; nothing where nothing is wrong or not final yet.

    Args:
        account: what it has been taught. truth: what is known of it.
        kappa: what an impression without a click weighs in the product loss now; 0 where that has no part.
        click_is_within_reach, label_is_within_reach: whether the model has learned of the time when these labels were due; a rebuilt one has
            not of what was before its first day, and must not learn of it the late facts alone.

    Example:
        >>> taught = Account(0, is_joined=True, click_ms=5, neg=0.75, label=False)
        >>> truth = Truth(click_ms=5, conversion_ms=9, value=None, is_click_final=True, is_label_final=True, logged=None, at=())
        >>> found = correction(taught, truth, kappa=1.0)
        >>> found.pos, found.neg, found.clicked
        (1.0, -0.75, 0.0)
    """
    is_clicked = truth.click_ms is not None
    clicked = unclicked = by_unclicked = pos = neg = 0.0
    is_wrong = is_clicked if account.is_joined else True
    if account.is_joined and account.click_ms is not None and not account.came_late:
        is_wrong = False  # the stream told it, or refused to
    if click_is_within_reach and truth.is_click_final and is_wrong:
        clicked, unclicked = float(is_clicked) - account.clicked, float(not is_clicked) - account.unclicked
        if is_clicked:
            by_unclicked = -account.kappa
        elif unclicked:
            by_unclicked = kappa
    converted: bool | None = None
    if is_clicked and label_is_within_reach and truth.is_click_final and truth.is_label_final:
        label = truth.conversion_ms is not None
        if account.label is None or (label and not account.label):
            converted = label
            pos, neg = float(label) - account.pos, float(not label) - account.neg
    return Correction(
        clicked=_held(clicked),
        unclicked=_held(unclicked),
        kappa=_held(by_unclicked),
        pos=_held(pos),
        neg=_held(neg),
        converted=converted,
    )


def _held(weight: float) -> float:
    return min(max(weight, -MOST), MOST) + 0.0  # -0.0 is 0.0
