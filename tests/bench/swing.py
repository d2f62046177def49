"""Why `survival` lends no positives: with soft labels it swings. No network, no sample unless asked for.

    swing.py modes      period of the slowest oscillation about p, and what is left of it after one period, by how fast the learner is
    swing.py start      a cold start in expectation: calibration by day, as methods start and as they might
    swing.py chance     the same with conversions drawn: means and standard deviations by day
    swing.py rhythm     the rhythm of a day, with rho and without: calibration, and how far it swings within a day
    swing.py product    "esmm" with a pCTR that is off: where each method settles

tau is the time in which `oracle` forgets an error, momentum how long gradients are averaged over. The measured learner (batches of an hour, Adam at .9)
has about 2 to 4 hours and 10.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from itertools import pairwise

import numpy as np
from one_weight import DAY, STEP_H, Learner, Lives, believed_from_prior, by_day, calibration, told, traffic

from models.batch import Float64

SPEEDS = ((48.0, 0.0), (12.0, 0.0), (3.5, 0.0), (12.0, 9.0), (3.5, 9.0), (1.5, 7.0))  # tau_h, momentum_h
METHODS = {
    "oracle": Learner(method="oracle", tau_h=1),
    "es_dfm": Learner(method="es_dfm", tau_h=1),
    "survival": Learner(method="survival", tau_h=1, own_from_h=0),
    "soft labels": Learner(method="soft", tau_h=1),
    "own weights from the first day": Learner(method="soft", tau_h=1, own_from_h=0),
    "straddling clicks end as es_dfm": Learner(method="soft", tau_h=1, straddling="es_dfm"),
    "straddling clicks end untaught": Learner(method="soft", tau_h=1, straddling="nothing"),
    "straddling clicks looked at again": Learner(method="soft", tau_h=1, straddling="looked at again"),
}


def feedback(lives: Lives, *, soft: bool) -> tuple[float, Float64, Float64]:
    """Of an error in f, how much is taught back at once, and how much of it is taken back how many hours later.

    Returns:
        d(mass taught at the first look) / df in the slope of the loss; lags in hours (n,); shares (n,), 1 in all.
    """
    p, came, looks = lives.p, np.append(0.0, lives.completed), lives.looks
    # z = f (1 - F) / (1 - f F); what leans on f is z, in the negatives alone (f of it), or in the positives too (1).
    by_f = np.array([(1 - came[age]) / (1 - p * came[age]) ** 2 for age in looks[:-1]]) * (1.0 if soft else p)
    lags, mass = [], []
    for k, (age, after) in enumerate(pairwise(looks)):
        for step in range(age + 1, after + 1):
            lags.append(step - looks[0])
            mass.append(p * (came[step] - came[step - 1]) * by_f[k])
        then = by_f[k + 1] if k + 2 < len(looks) else 0.0
        lags.append(after - looks[0])
        mass.append((1 - p * came[after]) * (by_f[k] - then))
    at_once = (1 - p * came[looks[0]]) * by_f[0]
    return float(at_once), np.array(lags) * STEP_H, np.array(mass) / np.sum(mass)


def slowest(at_once: float, lags: Float64, shares: Float64, tau_h: float, momentum_h: float) -> complex | None:
    """The root with the largest real part, and a period from 12 to 300 hours, of x tau (1 + x momentum) + 1 - s + s K(x) = 0."""

    def equation(x: complex) -> complex:
        return x * tau_h * (1 + x * momentum_h) + 1 - at_once + at_once * complex((shares * np.exp(-x * lags)).sum())

    best: complex | None = None
    for decay in (-0.2, -0.1, -0.03, 0.0, 0.03):
        for period in (12, 18, 24, 36, 48, 60, 72, 96, 144, 300):
            x = complex(decay, 2 * np.pi / period)
            for _ in range(60):
                slope = (equation(x + 1e-6) - equation(x - 1e-6)) / 2e-6
                if abs(slope) < 1e-12:
                    break
                x -= equation(x) / slope
                if not abs(x) < 5:
                    break
            if abs(x) < 5 and abs(equation(x)) < 1e-8 and 2 * np.pi / 300 < x.imag < 2 * np.pi / 12 + 1e-3:
                best = x if best is None or x.real > best.real else best
    return best


def modes() -> None:
    """By w_o, form, momentum and tau."""
    for first_look_h in (1.0, 0.5):
        lives = Lives(first_look_h=first_look_h)
        for name, is_soft in (("survival", False), ("soft labels", True)):
            at_once, lags, shares = feedback(lives, soft=is_soft)
            print(
                f"\nw_o {first_look_h:g} h, {name}: of an error in f {at_once:.2f} is taught back at once and taken back after "
                f"{(lags * shares).sum():.0f} hours on average; {1 - at_once:.2f} pulls at once"
            )
            taus = (1.5, 3.5, 8.0, 16.0, 48.0)
            print("| momentum, h | " + " | ".join(f"tau {tau:g} h" for tau in taus) + " |")
            for momentum_h in (0.0, 3.0, 7.0, 10.0):
                cells = []
                for tau in taus:
                    root = slowest(at_once, lags, shares, tau, momentum_h)
                    period = 0.0 if root is None else 2 * np.pi / root.imag
                    cells.append("none" if root is None else f"{period:.0f} h, {np.exp(root.real * period):.2f}")
                print(f"| {momentum_h:g} | {' | '.join(cells)} |")


def start(days: int) -> None:
    """Without chance: the delay model known, or from its prior; with the rhythm of a day and without."""
    lives = Lives()
    for rhythm in (0.0, 0.6):
        clicks = traffic(days, rhythm=rhythm, clicks_a_day=1000.0)
        happens, prior = lives.expected(clicks), believed_from_prior(lives, len(clicks))
        for tau_h, momentum_h in SPEEDS:
            print(f"\nrhythm {rhythm:g}, tau {tau_h:g} h, momentum {momentum_h:g} h")
            for name, plain in METHODS.items():
                own = replace(plain, tau_h=tau_h, momentum_h=momentum_h, starts_at=1.25)
                known = by_day(calibration(own, lives, clicks, happens), clicks)
                learned = by_day(calibration(own, lives, clicks, happens, prior.__getitem__), clicks)
                print(f"  {name:34s} F known {told(known)} | from the prior {told(learned)}")


def chance(days: int, draws: int) -> None:
    """With conversions drawn, F from its prior, the rhythm of a day."""
    lives = Lives()
    for conversions, tau_h, momentum_h in ((280, 3.5, 9.0), (280, 3.5, 0.0), (820, 1.5, 7.0), (820, 1.5, 0.0)):
        mean = traffic(days, rhythm=0.6, clicks_a_day=conversions / lives.p)
        prior = believed_from_prior(lives, len(mean))
        print(f"\n{conversions} conversions a day, tau {tau_h:g} h, momentum {momentum_h:g} h, {draws} draws")
        lots = [lives.drawn(mean, np.random.default_rng(draw)) for draw in range(draws)]
        for name in ("oracle", "es_dfm", "survival", "soft labels", "straddling clicks looked at again"):
            own = replace(METHODS[name], tau_h=tau_h, momentum_h=momentum_h)
            found = np.array([by_day(calibration(own, lives, *lot, prior.__getitem__), mean) for lot in lots])
            print(
                f"  {name:34s} days 2 to 6: {told(found.mean(axis=0)[1:6])} (sd {told(found.std(axis=0)[1:6])}); "
                f"sd of a day from day 7 on {found[:, 6:].std():.3f}; beyond .1 from p from day 4 on {(np.abs(found[:, 3:] - 1) > 0.1).mean():.2f} of days"
            )


def rhythm(days: int) -> None:
    """In expectation, from the ninth day on: clicks of 20:00 are four times those of 8:00."""
    lives = Lives()
    clicks = traffic(days, rhythm=0.6, clicks_a_day=20_000.0)
    happens = lives.expected(clicks)
    for tau_h, momentum_h in ((12.0, 7.0), (3.5, 9.0), (1.5, 7.0), (1.5, 0.0)):
        for name in ("oracle", "es_dfm", "defer", "ddfm", "survival"):
            told_of = []
            for growth in (False, True):
                own = Learner(
                    method=name,
                    tau_h=tau_h,
                    momentum_h=momentum_h,
                    own_from_h=0 if name == "survival" else None,
                    growth=growth,
                )
                found = calibration(own, lives, clicks, happens)
                told_of.append(
                    f"{by_day(found, clicks)[8:].mean():.3f}, {found[8 * DAY :].min():.2f} to {found[8 * DAY :].max():.2f}"
                )
            print(f"| {tau_h:g} h, {momentum_h:g} h | `{name}` | {told_of[0]} | {told_of[1]} |")


def product(days: int) -> None:
    """Long after the start, in expectation, beside p ctr / pCTR and p / (2 pCTR / ctr - 1)."""
    lives = Lives(p=0.1)
    clicks = traffic(days, rhythm=0.0, clicks_a_day=1000.0)
    happens = lives.expected(clicks)
    for ratio in (1.2, 1.0, 0.9, 0.8, 0.7):
        found = {}
        for name, plain in {
            name: Learner(method=name, tau_h=12) for name in ("oracle", "es_dfm", "defer", "ddfm", "survival", "soft")
        }.items():
            found[name] = float(
                by_day(calibration(replace(plain, pctr_over_ctr=ratio), lives, clicks, happens), clicks)[-1]
            )
        print(
            f"pCTR / ctr {ratio:g}: 1 / ratio {1 / ratio:.3f}, 1 / (2 ratio - 1) {1 / (2 * ratio - 1):.3f} | "
            + ", ".join(f"{name} {value:.3f}" for name, value in found.items())
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ask", choices=("modes", "start", "chance", "rhythm", "product"))
    parser.add_argument("--days", type=int, default=14)
    parser.add_argument("--draws", type=int, default=12)
    args = parser.parse_args()
    if args.ask == "modes":
        modes()
    elif args.ask == "start":
        start(args.days)
    elif args.ask == "chance":
        chance(args.days, args.draws)
    elif args.ask == "rhythm":
        rhythm(args.days)
    else:
        product(max(args.days, 21))


if __name__ == "__main__":
    main()
