"""The report's section on calibration over event time; must not know how files are read or pages drawn."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from streaming.lab.report import figures, page
from streaming.lab.report.figures import Line, Point
from streaming.lab.report.page import Html, Page, element, number
from streaming.lab.report.scores import TASKS, interval, place, title_of
from streaming.lab.report.style import COLOURS
from streaming.lab.report.sums import HOUR_MS, RunSums
from streaming.metrics import HourMetrics, RunMetrics

DAY_MS = 24 * HOUR_MS
_BUCKETS_MS = (HOUR_MS, 3 * HOUR_MS, 6 * HOUR_MS, DAY_MS, 7 * DAY_MS, 30 * DAY_MS)
# A line of more points than this is noise, and a table of more rows is not read.
_MOST_BUCKETS = 42
# Positives that make a calibration worth a point: its 95 % interval is then a third to either side.
_POSITIVES_A_POINT = 40

Key = tuple[str, str]  # task, whose


def bucket_ms(hours_ms: Iterable[int], most: int) -> int:
    """The shortest bucket of time, from one hour on, that needs no more than so many for these hours.

    Example:
        >>> bucket_ms([0, 40 * HOUR_MS], 42) // HOUR_MS, bucket_ms([0, 200 * HOUR_MS], 42) // HOUR_MS
        (1, 6)
    """
    hours = list(hours_ms)
    span = max(hours) - min(hours) if hours else 0
    return next((size for size in _BUCKETS_MS if span // size < most), _BUCKETS_MS[-1])


def _bucket_worth_drawing(hours: Sequence[HourMetrics]) -> int:
    """Long enough for some positives of the rarest task a point; a day is long enough for anything."""
    positives: dict[str, float] = {}
    for hour in hours:
        positives[hour.task] = positives.get(hour.task, 0.0) + hour.sum_y
    worth = max(int(min(positives.values(), default=0.0) / _POSITIVES_A_POINT), 1)
    times = [hour.hour_ms for hour in hours]
    return max(bucket_ms(times, _MOST_BUCKETS), min(DAY_MS, bucket_ms(times, worth)))


class Bucket:
    """The sums of one task over some time."""

    def __init__(self) -> None:
        self.n, self.sum_p, self.sum_y, self.sum_log_loss = 0, 0.0, 0.0, 0.0

    def add(self, hour: HourMetrics) -> None:
        """Takes in an hour."""
        self.n += hour.n
        self.sum_p += hour.sum_p
        self.sum_y += hour.sum_y
        self.sum_log_loss += hour.sum_log_loss

    @property
    def calibration(self) -> float | None:
        """Sum p / sum y; None without positives."""
        return self.sum_p / self.sum_y if self.sum_y > 0 else None

    @property
    def normalized_entropy(self) -> float | None:
        """Log loss over the entropy of the mean; None if all labels are alike."""
        if not 0 < self.sum_y < self.n:
            return None
        rate = self.sum_y / self.n
        return self.sum_log_loss / self.n / -(rate * math.log(rate) + (1 - rate) * math.log1p(-rate))


def over_time(report: Page, metrics: RunMetrics, sums: RunSums) -> None:
    """Calibration and NE by time of the impression, and where truth is known, against it."""
    hours = [hour for hour in metrics.hours if hour.task in TASKS]
    size = _bucket_worth_drawing(hours)
    # Hours that are complete and hours that are not never share a sum: the one is a figure, the other a hint.
    buckets: dict[tuple[int, Key, bool], Bucket] = {}
    for hour in hours:
        at = (hour.hour_ms - hour.hour_ms % size, (hour.task, hour.whose), not hour.is_complete)
        buckets.setdefault(at, Bucket()).add(hour)
    points: dict[str, dict[Key, list[Point]]] = {"calibration": {}, "normalized_entropy": {}}
    cells: dict[str, dict[tuple[int, bool], dict[Key, Html]]] = {"calibration": {}, "normalized_entropy": {}}
    for start, key, is_open in sorted(buckets, key=lambda found: (found[0], place(*found[1]), found[2])):
        bucket = buckets[start, key, is_open]
        for figure in points:
            value = getattr(bucket, figure)
            row = cells[figure].setdefault((start, is_open), {})
            row[key] = _cell(key[0], bucket, value)
            if not value:
                continue
            bounds = interval(value, bucket.sum_y) if figure == "calibration" else None
            low, high = bounds or (None, None)
            hover = f"{bucket.sum_y:,.0f} of {bucket.n:,}"
            point = Point(
                when=page.moment(start), value=value, low=low, high=high, is_complete=not is_open, hover=hover
            )
            points[figure].setdefault(key, []).append(point)
    why = "no positives yet" if hours else "no prediction has met a label yet"
    each = f"each point {page.duration(size)} of impressions"
    calibration = report.picture(
        f"Calibration ({each})",
        "Predicted over observed positives, with 95 % intervals; 1 is right. Hollow grey: labels of that time are still open, so that "
        "observed positives may be too few; what lies outside the frame is in the table.",
        figures.over_time(_lines(points["calibration"]), "sum p / sum y", is_ratio=True),
        why,
    )
    entropy = report.picture(
        f"Normalised entropy ({each})",
        "Log loss over the entropy of that time's own share of positives: lower is better, below 1 the model knows more than the mean.",
        figures.over_time(_lines(points["normalized_entropy"]), "NE"),
        why,
    )
    blocks = [
        page.pair(calibration, _table(cells["calibration"], size)),
        page.pair(entropy, _table(cells["normalized_entropy"], size)),
    ]
    if sums.has_truth:
        blocks.append(_against_truth(report, sums))
    report.section(
        "time",
        "Calibration over event time",
        "By the time at which an impression was shown. A model that keeps up stays level when the world moves.",
        *blocks,
    )


def _cell(task: str, bucket: Bucket, value: float | None) -> Html:
    event = TASKS[task][1]
    return number(value, 3, f"no {event}s" if bucket.sum_y <= 0 else f"only {event}s")


def _table(cells: dict[tuple[int, bool], dict[Key, Html]], size: int) -> Html:
    """One row a time, twice where a part of it is still open; one column a task and whose."""
    keys = sorted({key for row in cells.values() for key in row}, key=lambda key: place(*key))
    rows: list[list[str]] = []
    for (start, is_open), row in sorted(cells.items()):
        # Months are drawn by the day, and a midnight needs no clock.
        when = page.moment(start)[:10] if size >= DAY_MS else page.moment(start)
        tag = element("span", "open", class_="tag") if is_open else ""
        tone = "soft" if is_open else ""
        values = (element("span", row.get(key, "–"), class_=tone) for key in keys)
        rows.append([element("span", when, tag, class_="name"), *values])
    titles = [title_of(*key) for key in keys]
    return page.table(("from, UTC", *titles), rows, tall=True) if rows else Html("")


def _lines(points: dict[Key, list[Point]]) -> list[Line]:
    return [
        Line(
            name=title_of(task, whose),
            colour=COLOURS[task],
            points=points[task, whose],
            dash="solid" if whose == "model" else "dot",
        )
        for task, whose in sorted(points, key=lambda key: place(*key))
    ]


def _against_truth(report: Page, sums: RunSums) -> Html:
    hours = sums.against_truth()
    size = bucket_ms((hour for _, _, hour, *_ in hours), _MOST_BUCKETS)
    buckets: dict[tuple[int, Key], tuple[float, float, int]] = {}
    for task, whose, hour, sum_p, sum_truth, n in hours:
        at = (hour - hour % size, (task, whose))
        p, truth, rows_before = buckets.get(at, (0.0, 0.0, 0))
        buckets[at] = (p + sum_p, truth + sum_truth, rows_before + n)
    points: dict[Key, list[Point]] = {}
    cells: dict[tuple[int, bool], dict[Key, Html]] = {}
    for start, key in sorted(buckets, key=lambda found: (found[0], place(*found[1]))):
        sum_p, sum_truth, n = buckets[start, key]
        ratio = sum_p / sum_truth if sum_truth > 0 else None
        cells.setdefault((start, False), {})[key] = number(ratio, 3, "the truth is 0")
        if ratio:
            points.setdefault(key, []).append(Point(when=page.moment(start), value=ratio, hover=f"{n:,} rows"))
    picture = report.picture(
        f"Against the truth: predicted over true probability (each point {page.duration(size)})",
        "1 is right. No label enters, so there is no noise of labels and nothing is open. CVR is over the clicked impressions.",
        figures.over_time(_lines(points), "sum p / sum of true p", is_ratio=True),
        "no prediction has a known truth",
    )
    return page.pair(picture, _table(cells, size))
