"""How long people take to click and to convert: mixtures drawn by inverse CDF. Must not know who they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

MINUTE_MS = 60_000
DAY_MS = 86_400_000

# 0.35 Exp(10 min) + 0.43 Exp(2.5 d) + 0.22 U(0, 30 d) reproduces what is published of the Criteo log (Chapelle 2014):
# F(1 h) .36, F(1 d) .50, F(7 d) .81, F(14 d) .88. Windows other than 30 d keep the shape of the two long components.
_CRITEO_WINDOW_MS = 30 * DAY_MS
_SHORT_MEAN_MS = 10 * MINUTE_MS
_MIDDLE_MEAN_MS = 2.5 * DAY_MS
_MIDDLE_OF_LONG = 0.43 / (0.43 + 0.22)

# Clicks: a glance takes seconds, a page read to its end minutes; in a short window both shrink with it.
_GLANCE_MEAN_MS, _READ_MEAN_MS, _GLANCE_SHARE = 15_000, 2 * MINUTE_MS, 0.7


def _exponential_cdf(delay_ms: Floats, mean_ms: float, window_ms: int) -> Floats:
    """CDF of an exponential cut at the window."""
    return np.asarray(np.expm1(-delay_ms / mean_ms) / np.expm1(-window_ms / mean_ms))


def _exponential_quantile(u: Floats, mean_ms: float, window_ms: int) -> Floats:
    return np.asarray(-mean_ms * np.log1p(u * np.expm1(-window_ms / mean_ms)))


def conversion_means_ms(attribution_window_ms: int) -> tuple[float, float]:
    """Means, before the cut at the window, of the short and of the middle component."""
    return (
        min(_SHORT_MEAN_MS, attribution_window_ms / 30),
        _MIDDLE_MEAN_MS * attribution_window_ms / _CRITEO_WINDOW_MS,
    )


def conversion_delay_cdf(delay_ms: Any, short_share: Any, attribution_window_ms: int) -> Floats:
    """P(h <= delay | converted within the window): the law by which conversions come, in click-to-conversion milliseconds.

    With s = short_share, w = attribution_window_ms, each component cut at w and renormalised by itself:

        F(h) = s Exp(min(10 min, w / 30)) + (1 - s) (0.66 Exp(w / 12) + 0.34 U(0, w))

    so `short_share` stays the share of the short component whatever the window. Arguments broadcast.

    Example:
        >>> days = 86_400_000
        >>> conversion_delay_cdf([3_600_000, 1 * days, 7 * days, 30 * days], 0.35, 30 * days).round(2).tolist()
        [0.36, 0.5, 0.81, 1.0]

    Source:
        Chapelle, "Modeling Delayed Feedback in Display Advertising", KDD 2014, for the figures; the mixture is ours.
    """
    window_ms = attribution_window_ms
    delay = np.clip(np.asarray(delay_ms, dtype=np.float64), 0.0, window_ms)
    short = np.asarray(short_share, dtype=np.float64)
    short_mean, middle_mean = conversion_means_ms(window_ms)
    middle = _exponential_cdf(delay, middle_mean, window_ms)
    long = _MIDDLE_OF_LONG * middle + (1 - _MIDDLE_OF_LONG) * delay / window_ms
    return np.asarray(short * _exponential_cdf(delay, short_mean, window_ms) + (1 - short) * long)


def draw_conversion_delays(rng: np.random.Generator, short_share: Floats, attribution_window_ms: int) -> Ints:
    """A click-to-conversion delay in milliseconds for each converter, within [0, attribution_window_ms]."""
    window_ms = attribution_window_ms
    which, u = rng.random((2, len(short_share)))
    short_mean, middle_mean = conversion_means_ms(window_ms)
    delay = np.where(
        which < short_share,
        _exponential_quantile(u, short_mean, window_ms),
        np.where(
            which < short_share + (1 - short_share) * _MIDDLE_OF_LONG,
            _exponential_quantile(u, middle_mean, window_ms),
            u * window_ms,
        ),
    )
    return np.asarray(np.minimum(delay, window_ms).astype(np.int64))


def draw_click_delays(rng: np.random.Generator, n: int, click_window_ms: int) -> Ints:
    """An impression-to-click delay in milliseconds for each of n clicks, within [0, click_window_ms]."""
    which, u = rng.random((2, n))
    glance = _exponential_quantile(u, min(_GLANCE_MEAN_MS, click_window_ms / 20), click_window_ms)
    read = _exponential_quantile(u, min(_READ_MEAN_MS, click_window_ms / 5), click_window_ms)
    delay = np.where(which < _GLANCE_SHARE, glance, read)
    return np.asarray(np.minimum(delay, click_window_ms).astype(np.int64))
