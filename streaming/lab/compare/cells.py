"""Cells of a comparison's tables, as markup; must not know which table they stand in."""

from __future__ import annotations

from streaming.lab.compare import pictures
from streaming.lab.compare.bootstrap import Estimate
from streaming.lab.compare.outcome import ANCHORS, ORACLE, PRETRAINED, WINDOW, MethodResult, Results
from streaming.lab.compare.words import percent, percent_interval, signed, signed_interval, standing
from streaming.lab.report import page
from streaming.lab.report.page import Html, element, number

NO_RANK = "conversions and clicks without are not both there"


def name_cell(results: Results, method: MethodResult) -> Html:
    """A method's name behind its colour, with its part in the comparison."""
    chip = element("span", class_="chip", style=f"--tone:{pictures.colours(results)[method.method]}")
    tag = {ORACLE: "goal", WINDOW: "start", PRETRAINED: "start"}.get(method.method)
    tags = [element("span", tag, class_="tag")] if tag is not None else []
    return element("span", chip, method.method, *tags, class_="name")


def share_figure(found: Estimate) -> Html:
    """A share in percent, or why there is none."""
    return number(None, 0, found.reason or "") if found.value is None else page.escaped(percent(found.value))


def share_cell(found: Estimate) -> Html:
    """A share with its interval."""
    return page.joined([share_figure(found), element("span", percent_interval(found), class_="interval")])


def difference_cell(found: Estimate) -> Html:
    """A difference with its sign and its interval, or why there is none."""
    if found.value is None:
        return number(None, 0, found.reason or "")
    return page.joined([signed(found.value), element("span", signed_interval(found), class_="interval")])


def ratio_cell(found: Estimate) -> Html:
    """A ratio with its interval, or why there is none."""
    ends = "" if found.low is None or found.high is None else f"{found.low:.3f} to {found.high:.3f}"
    return page.joined([number(found.value, 3, found.reason or ""), element("span", ends, class_="interval")])


def standing_cell(method: MethodResult) -> Html:
    """Whether the days can tell a method from `oracle`; nothing for the anchors."""
    if method.method in ANCHORS:
        return Html("")
    words = standing(method)
    return element("span", words, class_={"within": "good", "apart": "bad"}.get(words, "soft"))
