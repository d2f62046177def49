"""The settings that are lengths of time, as a log suggests them; must not know features or names of fields."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from streaming.events import RecordKind
from streaming.lab.durations import clean_above, clean_near, in_words
from streaming.lab.findings import Quantiles
from streaming.lab.sampling import Sample
from streaming.lab.toml_text import comment, duration, pair
from streaming.settings import Settings

ENOUGH = 20  # delays below which a quantile of theirs is an anecdote
CUTS = 14  # cuts in the length of a log: often enough to lose little, and each costs a write of the whole state
MOST_SKEW_MS = 3_600_000  # facts stamped earlier than this before what they follow have a wrong clock, not a skewed one

_STANDARD = Settings()


@dataclass(frozen=True, slots=True)
class SuitedWindows:
    """Suggested windows in milliseconds; None where the log has too little to say.

    Example:
        >>> SuitedWindows.suited_to(Quantiles.of(np.arange(50_000)), None)
        SuitedWindows(click_ms=60000, observation_ms=None, attribution_ms=None)
    """

    click_ms: int | None
    observation_ms: int | None
    attribution_ms: int | None

    @classmethod
    def suited_to(cls, click: Quantiles | None, conversion: Quantiles | None) -> SuitedWindows:
        """SuitedWindows for these delays: 99.5 % of the clicks, 99 % of the conversions, a first label at their median."""
        click_ms = observation_ms = attribution_ms = None
        if click is not None and click.n >= ENOUGH:
            click_ms = clean_above(click.p995)
        if conversion is not None and conversion.n >= ENOUGH:
            attribution_ms = clean_above(conversion.p99)
            observation_ms = min(clean_near(max(conversion.p50, 1)), attribution_ms)
        return cls(click_ms, observation_ms, attribution_ms)


@dataclass(frozen=True, slots=True)
class Delays:
    """Delays of first clicks after their impression, and of first conversions after their first click, sorted, milliseconds.

    Args:
        to_click: of pairs of which both halves were seen; negative is before.
        to_conversion: the same.
        clicked: impressions with a click, whether the impression was seen or not.
    """

    to_click: tuple[int, ...]
    to_conversion: tuple[int, ...]
    clicked: int

    @classmethod
    def of(cls, sample: Sample) -> Delays:
        """The delays between the records of a sample."""
        shown, clicks, conversions = (sample.streams[kind].first_of_each() for kind in RecordKind)
        to_click = sorted(at_ms - shown[name] for name, at_ms in clicks.items() if name in shown)
        to_conversion = sorted(at_ms - clicks[name] for name, at_ms in conversions.items() if name in clicks)
        return cls(tuple(to_click), tuple(to_conversion), len(clicks))


def windows_section(sample: Sample, delays: Delays) -> str:
    """[windows]: how long a fact may come after the one it follows."""
    click, conversion = (
        Quantiles.of(np.array([ms for ms in part if ms >= 0], dtype=np.int64))
        for part in (delays.to_click, delays.to_conversion)
    )
    suited, standard = SuitedWindows.suited_to(click, conversion), _STANDARD.windows
    click_ms = standard.click_window_ms if suited.click_ms is None else suited.click_ms
    observation_ms, attribution_ms = standard.observation_window_ms, standard.attribution_window_ms
    why_click = f"The default: {len(delays.to_click)} clicks with their impression are too few to tell."
    if click is not None and suited.click_ms is not None:
        why_click = (
            f"Seen: 99.5 % of {click.n:,} clicks came within {in_words(click.p995)}, half within {in_words(click.p50)}."
        )
    why_observation = "The default."
    why_attribution = f"The default: {len(delays.to_conversion)} conversions with their click are too few to tell."
    if not len(sample.streams[RecordKind.CONVERSION]):
        attribution_ms = observation_ms
        why_attribution = (
            "No conversions were seen, so there is nothing to wait for; else set what your business waits."
        )
    elif conversion is not None and suited.attribution_ms is not None and suited.observation_ms is not None:
        observation_ms, attribution_ms = suited.observation_ms, suited.attribution_ms
        why_observation = f"Seen: half of {conversion.n:,} conversions came within {in_words(conversion.p50)}."
        why_attribution = f"Seen: 99 % within {in_words(conversion.p99)}, the last after {in_words(conversion.max)}."
        span = span_ms(sample)
        if attribution_ms > span / 3:
            why_attribution += f" The log is {in_words(span)} long: longer delays had little chance to be seen."
    return "\n".join(
        [
            comment("How long a fact may come after the one it follows. Both ends count."),
            "[windows]",
            duration(
                "click_window_ms",
                click_ms,
                "From the impression to its click. Every impression waits this long for its click label.",
                why_click,
            ),
            duration(
                "observation_window_ms",
                observation_ms,
                "From the click to its first conversion label, which may still change. Short is fresh, long is seldom wrong.",
                why_observation,
            ),
            duration(
                "attribution_window_ms",
                attribution_ms,
                "From the click to the last conversion that counts; then the label is final. Every click is kept this long.",
                why_attribution,
            ),
        ]
    )


def event_time_section(sample: Sample, delays: Delays) -> str:
    """[event_time]: how disordered the streams may be."""
    disorder = [Quantiles.of(stream.behind_ms()) for stream in sample.streams.values()]
    behind_ms = max((quantiles.nearly_all for quantiles in disorder if quantiles is not None), default=0)
    bound_ms = clean_above(behind_ms)
    lines = [
        comment("How disordered the streams may be."),
        "[event_time]",
        duration(
            "out_of_orderness_ms",
            bound_ms,
            "How far behind its stream's newest a record may be and still be on time. Everything waits this long.",
            f"Seen: 99.9 % of the records (99 % of a short stream) are at most {in_words(behind_ms)} behind.",
        ),
    ]
    if bound_ms >= _STANDARD.event_time.alignment_ms:
        lines.append(
            duration(
                "alignment_ms",
                2 * bound_ms,
                "Live: a stream further ahead of the others than this is paused. Must exceed out_of_orderness_ms.",
                "Twice that. A log of files that is so far out of order is better sorted by time first.",
            )
        )
    early = Quantiles.of(np.array([-ms for ms in delays.to_click + delays.to_conversion if ms < 0], dtype=np.int64))
    if early is not None and _STANDARD.event_time.clock_skew_ms < early.nearly_all <= MOST_SKEW_MS:
        lines.append(
            duration(
                "clock_skew_ms",
                clean_above(early.nearly_all),
                "A fact stamped this much before the one it follows still counts: clocks differ.",
                f"Seen: {early.n:,} facts before the one they follow, nearly all by at most {in_words(early.nearly_all)}.",
            )
        )
    return "\n".join(lines)


def batching_section(sample: Sample) -> str:
    """[batching]: when examples become a batch."""
    interval_ms, why = _batch_interval(sample)
    return "\n".join(
        [
            comment(
                "When examples become a batch. Part of the result: the same log in other batches gives other weights."
            ),
            "[batching]",
            comment(
                "Examples of a gradient step, at most; also what its sums are divided by, however many rows there are."
            ),
            pair("batch_size", _STANDARD.batching.batch_size),
            duration(
                "batch_interval_ms",
                interval_ms,
                "A batch holds examples that fell due within one such interval. Longer fills batches, shorter is fresher.",
                why,
            ),
        ]
    )


def cuts_section(sample: Sample) -> str:
    """[cuts]: where a run can be taken up again."""
    span, (least_ms, _) = span_ms(sample), _batch_interval(sample)
    interval_ms, why = _STANDARD.cuts.cut_interval_ms, "The default."
    if span:
        interval_ms = clean_near(span / CUTS)
        why = f"About {CUTS} in the {in_words(span)} of this log. For a live stream 10 min is usual."
    return "\n".join(
        [
            comment("Cuts: the places a killed run is taken up from, and the times at which weights are published."),
            "[cuts]",
            duration(
                "cut_interval_ms",
                max(interval_ms, least_ms),
                "They happen at multiples of this. Longer loses more to a crash, shorter writes more.",
                why,
            ),
        ]
    )


def span_ms(sample: Sample) -> int:
    """From the first record of a log to its last; 0 if nothing was seen."""
    spans = [span for stream in sample.streams.values() if (span := stream.span_ms()) is not None]
    lasts = [stream.last_ms for stream in sample.streams.values() if stream.last_ms is not None]
    return max(lasts) - min(first for first, _ in spans) if spans and lasts else 0


def _batch_interval(sample: Sample) -> tuple[int, str]:
    shown, size = sample.streams[RecordKind.IMPRESSION], _STANDARD.batching.batch_size
    span = shown.span_ms()
    if span is None or span[0] == span[1]:
        return _STANDARD.batching.batch_interval_ms, "The default: too few impressions to tell their rate."
    filled_ms = (span[1] - span[0]) / (len(shown) - 1) * size
    why = f"Seen: {size:,} impressions take about {in_words(filled_ms)}"
    cut_ms = clean_near(span_ms(sample) / CUTS)
    if clean_near(filled_ms) > cut_ms:
        return cut_ms, f"{why}, too long for a log of this length: it gets {CUTS} intervals in all."
    return clean_near(filled_ms), f"{why}."
