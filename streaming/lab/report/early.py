"""The report's section on calibration before labels are final; must not know how files are read or pages drawn."""

from __future__ import annotations

from streaming.lab.report import early_figures, page
from streaming.lab.report.early_figures import Ratio
from streaming.lab.report.page import Html, Page, element, number
from streaming.lab.report.scores import title_of
from streaming.lab.report.style import COLOURS
from streaming.lab.report.sums import HOUR_MS
from streaming.metrics import CohortMetrics, EarlyMetrics, RunMetrics

_BAND = "rgba(196,98,27,0.13)"
_NOTHING_EXPECTED = "nothing was expected by then"


def early(report: Page, metrics: RunMetrics) -> None:
    """Observed over expected conversions of clicks whose labels are open, by age, for whose predictions there are."""
    blocks: list[Html] = []
    for whose, told in sorted(metrics.early.items()):
        picture = report.picture(
            f"{title_of('cvr', whose)}: observed over expected, by age of the clicks",
            "1 is right, below it too much was promised: the inverse of the calibration above. Each point: all hours of clicks that stand at "
            "that age. Lines and the band are 95 % intervals, which know the error of F; what lies outside the frame is in the table.",
            early_figures.ratios(
                [_ratio(one) for one in told.ages if one.ratio is not None],
                None if told.total.ratio is None else _ratio(told.total),
                COLOURS["cvr"],
                _BAND,
            ),
            _NOTHING_EXPECTED if told.ages else "metrics.json does not tell ages: its version was earlier",
        )
        note = element("p", _what_it_rests_on(told), class_="note")
        blocks.append(page.pair(page.joined([picture, note]), _table(told)))
    if not metrics.early:
        blocks.append(page.no_value(_why_none(metrics)))
    report.section(
        "early",
        "Early calibration",
        "Conversions that have come of clicks whose labels are still open, over those expected by now: the sum of pCVR × F(age), F being the "
        "share of conversions that come within an age. It tells today what final labels will tell an attribution window later. Off at all "
        "ages alike, pCVR is off. Off at young ages alone, either pCVR has just moved or conversions have begun to come sooner or later.",
        *blocks,
    )


def _ratio(one: CohortMetrics) -> Ratio:
    assert one.ratio is not None
    assert one.low is not None
    assert one.high is not None
    hover = f"{_age(one)}: {one.ratio:.3g} ({one.low:.3g} to {one.high:.3g})<br>{one.observed:,} of {one.expected:,.1f} expected, {one.clicks:,} clicks"
    return Ratio(
        age_seconds=(one.age_ms or 0) / 1000,
        expected=one.expected,
        ratio=one.ratio,
        low=one.low,
        high=one.high,
        is_prior=one.rests_on_prior,
        hover=hover,
    )


def _age(one: CohortMetrics) -> str:
    return "all together" if one.age_ms is None else page.duration(one.age_ms)


def _table(told: EarlyMetrics) -> Html:
    """All together, then an age a row, youngest first, with the time at which its clicks were."""
    rows = []
    for one in (told.total, *told.ages):
        starts = [hour.start_ms for hour in told.cohorts if hour.age_ms == one.age_ms and hour.start_ms is not None]
        tag = element("span", "prior", class_="tag") if one.rests_on_prior else ""
        name = element("span", _age(one), tag, class_="name")
        ratio = number(one.ratio, 2, _NOTHING_EXPECTED)
        if one.low is not None and one.high is not None:
            ratio = page.joined([ratio, element("small", f"{one.low:.2f} to {one.high:.2f}", class_="below")])
        rows.append(
            [
                page.joined([name, element("small", _hours(starts), class_="below")]),
                page.count(one.clicks),
                page.joined([page.count(one.observed), " of ", number(one.expected, 1, "")]),
                ratio,
            ]
        )
    return page.table(("age (clicks of, UTC)", "clicks", "came of expected", "ratio"), rows, tall=True)


def _hours(starts_ms: list[int]) -> str:
    """From the start of the first hour to the end of the last, the day but once where it is one."""
    if not starts_ms:
        return ""
    start, end = page.moment(min(starts_ms)), page.moment(max(starts_ms) + HOUR_MS)
    return f"{start[5:]} to {end[11:] if start[:10] == end[:10] else end[5:]}"


def _what_it_rests_on(told: EarlyMetrics) -> str:
    if not told.total.rests_on_prior:
        return "F is learned from this stream at every age shown."
    learned = [one for one in told.ages if not one.rests_on_prior]
    where = "At every age shown" if not learned else "Where a mark is hollow (a row says prior)"
    return (
        f"{where}, F rests on labels.delay_prior_ages_ms and labels.delay_prior_shares of the settings, since conversions so late have hardly "
        "been seen yet. There a ratio off 1 may be the prior's fault, not pCVR's, and the interval does not know how wrong a prior can be."
    )


def _why_none(metrics: RunMetrics) -> str:
    if not metrics.examples.get("CLICKED"):
        return "no clicks yet"
    if metrics.open_clicks == 0:
        return "no click is open: every label is final, and the figures above are all there is to know"
    return "no hour of clicks is over long enough for conversions of its clicks to be counted at the first age"
