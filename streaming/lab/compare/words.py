"""How figures of a comparison are put into words, for a page and a terminal alike; must not know either."""

from __future__ import annotations

from streaming.lab.compare.bootstrap import Estimate
from streaming.lab.compare.outcome import ANCHORS, ORACLE, WINDOW, MethodResult, Results

ROLES = {
    "oracle": "the goal: told every final label at the click, which nobody can be",
    "window": "a start: waits the observation window, and takes no conversion yet for none at all",
    "pretrained": "a start: the initial model, which learns nothing from the stream",
}


def percent(share: float | None) -> str:
    """A share, whole percents; "no value" without.

    Example:
        >>> percent(0.876), percent(-0.0312), percent(-0.001), percent(None)
        ('88 %', '-3 %', '0 %', 'no value')
    """
    return "no value" if share is None else f"{round(100 * share) + 0} %"


def percent_interval(found: Estimate) -> str:
    """The ends of a share's interval; empty without one.

    Example:
        >>> percent_interval(Estimate(0.9, 0.87, 0.93))
        '87 to 93 %'
    """
    return (
        ""
        if found.low is None or found.high is None
        else f"{round(100 * found.low) + 0} to {round(100 * found.high) + 0} %"
    )


def signed(value: float | None, digits: int = 5) -> str:
    """A difference with its sign; "no value" without.

    Example:
        >>> signed(0.00123), signed(-0.5, 2), signed(0.0)
        ('+0.00123', '-0.50', '0')
    """
    if value is None:
        return "no value"
    return "0" if value == 0 else f"{value:+.{digits}f}"


def signed_interval(found: Estimate, digits: int = 5) -> str:
    """The ends of a difference's interval; empty without one."""
    return (
        ""
        if found.low is None or found.high is None
        else f"{signed(found.low, digits)} to {signed(found.high, digits)}"
    )


def sentences(results: Results) -> list[str]:
    """What a reader should take home, from the figures alone.

    Which method has the lowest log loss, which the days cannot tell from `oracle`, and what waiting costs.
    """
    found = []
    learners = [method for method in results.methods if method.method not in ANCHORS]
    if learners:
        best = learners[0]
        share = best.share_from_pretrained.log_loss
        closed = (
            "" if share.value is None else f", and closes {percent(share.value)} of the gap from pretrained to oracle"
        )
        found.append(f"Of the methods that can be used, {best.method} has the lowest log loss{closed}.")
        within = [method.method for method in learners if method.against_oracle.is_within]
        if within:
            found.append(
                f"These days cannot tell {_listed(within)} from oracle: the interval of the difference contains 0."
            )
        elif results.resamples:
            found.append("Each of them is worse than oracle by more than the days' own noise.")
    calibration = results.method(WINDOW).against_oracle.calibration_ratio.value
    if calibration is not None:
        found.append(f"Waiting alone (window) predicts {percent(calibration)} of the conversions that oracle predicts.")
    return found


def notes(results: Results) -> list[str]:
    """What to know before trusting the figures: few days, hours left out, runs that scored less, runs left out."""
    found = []
    if not results.resamples:
        found.append(f"{len(results.days.start_ms)} days are too few for intervals: differences may be chance.")
    elif len(results.seeds) == 1:
        found.append("One seed: intervals tell how days differ, not how training with another seed would.")
    if results.hours_without_auc:
        found.append(
            f"{results.hours_without_auc:,} of {len(results.hours.start_ms):,} hours have no conversion, or nothing else: they have no AUC, "
            "PR-AUC or NE, and no part in those means over hours."
        )
    scored = {
        f"{method.method}-seed{run.seed}": run.clicks_scored for method in results.methods for run in method.by_seed
    }
    if max(scored.values()) > results.clicks:
        fewest = min(scored, key=lambda name: scored[name])
        found.append(
            f"Compared are the {results.clicks:,} clicks that every run scored; {fewest} scored {scored[fewest]:,}, others up to {max(scored.values()):,}."
        )
    found += [f"{method.method} ran under {_listed([str(run.seed) for run in method.by_seed])} of the seeds {_listed([str(seed) for seed in results.seeds])}."
              for method in results.methods if len(method.by_seed) < len(results.seeds)]  # fmt: skip
    found += [f"{left.run} is left out: {left.reason}." for left in results.left_out]
    return found


def standing(method: MethodResult) -> str:
    """Where a method stands to `oracle`: "goal", "within", "apart", or that the days are too few."""
    if method.method == ORACLE:
        return "goal"
    return {None: "too few days", True: "within", False: "apart"}[method.against_oracle.is_within]


def _listed(names: list[str]) -> str:
    """Names in a sentence.

    Example:
        >>> _listed(["a"]), _listed(["a", "b", "c"])
        ('a', 'a, b and c')
    """
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
