"""Pieces of one self-contained HTML page: escaping, numbers, tables, pictures; must not know what a run is."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from plotly.offline import get_plotlyjs

from streaming.lab.report.style import STYLE

LONGEST_TEXT = 1_200  # characters of one foreign string that a page shows; the files hold the rest


class Html(str):
    """Text that is markup already. Any other string is escaped before it reaches a page."""

    __slots__ = ()


class Picture(dict[str, Any]):
    """A plotly figure as plain data (`data`, `layout`), with its height in pixels under `layout`."""


def escaped(text: str) -> Html:
    """Any string as harmless markup; markup stays as it is. Long strings are cut, and say so.

    Example:
        >>> escaped("<script>")
        '&lt;script&gt;'
    """
    if isinstance(text, Html):
        return text
    if len(text) > LONGEST_TEXT:
        text = f"{text[:LONGEST_TEXT]} … ({len(text):,} characters in all)"
    # A NUL is no HTML; the rest of what a terminal would act on means nothing to a browser.
    return Html(html.escape(text.replace("\0", "\N{REPLACEMENT CHARACTER}")))


def joined(pieces: Iterable[str]) -> Html:
    """Pieces one after the other, escaped where they need it."""
    return Html("".join(escaped(piece) for piece in pieces))


def element(name: str, *pieces: str, **attributes: str) -> Html:
    """An HTML element; `class_` stands for `class`.

    Example:
        >>> element("p", "1 < 2", class_="lead")
        '<p class="lead">1 &lt; 2</p>'
    """
    marks = "".join(f' {key.rstrip("_").replace("_", "-")}="{html.escape(text)}"' for key, text in attributes.items())
    return Html(f"<{name}{marks}>{joined(pieces)}</{name}>")


def number(value: float | None, digits: int, reason: str) -> Html:
    """A figure with so many decimals, or "no value" and why.

    Example:
        >>> number(0.98765, 3, "no clicks yet")
        '0.988'
        >>> number(0.000123, 3, "no clicks yet")  # more decimals where there would be none
        '0.00012'
        >>> number(None, 3, "no clicks yet")
        '<span class="none">no value<small>no clicks yet</small></span>'
    """
    if value is None or not math.isfinite(value):
        return element("span", "no value", element("small", reason), class_="none")
    if value and abs(value) < 10.0**-digits:
        return Html(f"{value:.2g}")
    return Html(f"{value:,.{digits}f}")


def count(value: float) -> Html:
    """A whole number with separators."""
    return Html(f"{value:,.0f}")


def share(part: float, whole: float) -> Html:
    """A part in percent; a dash where there is no whole."""
    return Html(f"{100 * part / whole:.2f} %" if whole else "–")


def moment(event_time_ms: int | None) -> str:
    """An event time in UTC, to the minute; what no calendar holds stays a number.

    Example:
        >>> moment(1_717_200_060_000)
        '2024-06-01 00:01'
        >>> moment(10**18)
        '1000000000000000000 ms'
    """
    if event_time_ms is None:
        return "none yet"
    try:
        return datetime.fromtimestamp(event_time_ms / 1000, tz=UTC).strftime("%Y-%m-%d %H:%M")
    except (OverflowError, ValueError, OSError):
        return f"{event_time_ms} ms"


def duration(milliseconds: float) -> str:
    """A length of time in the unit that suits it.

    Example:
        >>> duration(900_000), duration(604_800_000), duration(1_500)
        ('15 min', '7 d', '1.5 s')
    """
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1_000)):
        if milliseconds >= size:
            return f"{milliseconds / size:.3g} {unit}"
    return f"{milliseconds:.3g} ms"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, words: int = 1, tall: bool = False) -> Html:
    """A table that scrolls by itself where the page is narrower.

    Args:
        head: one title a column.
        rows: cells; strings are escaped.
        words: columns from the left that hold words; the others hold numbers and stand to the right.
        tall: it may be long, and scrolls inside its box.
    """
    kinds = ["" if column < words else "number" for column in range(len(head))]
    top = [element("th", title, scope="col", class_=kind) for title, kind in zip(head, kinds, strict=True)]
    body = [
        element("tr", *(element("td", cell, class_=kind) for cell, kind in zip(row, kinds, strict=True)))
        for row in rows
    ]
    inner = element("table", element("thead", element("tr", *top)), element("tbody", *body))
    return element("div", inner, class_="table tall" if tall else "table", tabindex="0")


class Page:
    """A page that grows section by section, with its table of contents.

    Args:
        title: of the page.
        subtitle: one line under it.

    Example:
        >>> page = Page("Run", "of a test")
        >>> page.section("open", "What is open", "Nothing.")
        >>> page.render().count("What is open")     # in the contents, and above the section
        2
    """

    def __init__(self, title: str, subtitle: str) -> None:
        self._title = title
        self._subtitle = subtitle
        self._contents: list[Html] = []
        self._sections: list[Html] = []
        self._pictures = 0

    def section(self, anchor: str, title: str, lead: str, *blocks: str) -> None:
        """Adds a section. `title` says what it is about, `lead` what one should see."""
        self._contents.append(element("li", element("a", title, href=f"#{anchor}")))
        heading = joined([element("h2", title), element("p", lead, class_="lead")])
        self._sections.append(element("section", heading, *blocks, id=anchor))

    def picture(self, title: str, caption: str, figure: Picture | None, reason: str = "") -> Html:
        """A picture under its title; where there is none, the reason in its place."""
        words = joined([element("h3", title), element("p", caption, class_="caption")])
        if figure is None:
            return element("figure", words, no_value(reason))
        self._pictures += 1
        name = f"picture-{self._pictures}"
        # Rounded on the way in and without NaN: what cannot be drawn must have been left out by who made it.
        data = json.dumps(figure, allow_nan=False, separators=(",", ":"))
        for mark in "<>&":
            data = data.replace(mark, f"\\u{ord(mark):04x}")
        height = f"height:{figure['layout']['height']}px"
        box = element("div", id=name, class_="plot", role="img", aria_label=f"{title}. {caption}", style=height)
        return element("figure", words, box, Html(f'<script>draw("{name}",{data})</script>'))

    def render(self) -> str:
        """The whole page; nothing in it asks the network for anything, and the browser is told to refuse if it did."""
        policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:"
        head = joined(
            [
                Html('<meta charset="utf-8">'),
                Html(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
                Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
                element("title", self._title),
                Html(f"<style>{STYLE}</style>"),
                Html(f"<script>{get_plotlyjs()}</script>"),
                Html(f"<script>{_DRAW}</script>"),
            ]
        )
        top = element("header", element("h1", self._title), element("p", self._subtitle))
        contents = element("nav", element("ol", *self._contents), aria_label="Contents")
        words = Html("<noscript><p>The pictures need JavaScript; the tables do not.</p></noscript>")
        body = element("body", top, element("div", contents, element("main", words, *self._sections), class_="columns"))
        return f'<!doctype html>\n<html lang="en"><head>{head}</head>{body}</html>\n'


# Drawn once the page stands: before that a column may still be as wide as two.
_DRAW = """function draw(name, figure) {
  addEventListener("DOMContentLoaded", () =>
    Plotly.newPlot(name, figure.data, figure.layout, {responsive: true, displayModeBar: false}));
}"""


def no_value(reason: str) -> Html:
    """A box in the place of a picture or of tables that cannot be drawn: that there is no value, and why."""
    return element("div", element("span", "no value"), element("small", reason), class_="empty")


def pair(figure: str, beside: str) -> Html:
    """A picture with its table beside it, or under it on a narrow screen."""
    return element("div", element("div", figure), element("div", beside), class_="pair")


def grid(*cells: str) -> Html:
    """As many equal columns as fit."""
    return element("div", *(element("div", cell) for cell in cells), class_="grid")


def folded(summary: str, *pieces: str) -> Html:
    """Something to be opened by who wants it."""
    return element("details", element("summary", summary), *pieces)
