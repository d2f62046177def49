"""The page and the table on a comparison: what they show, what they say where there is nothing to show, and that nothing hostile gets through."""

from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import plotly.graph_objects
import pytest
from planted_runs import ORDINARY, Method, plant
from plotly.offline import get_plotlyjs
from rich.console import Console

from streaming.console import print_whole
from streaming.lab.compare.course import share_so_far, smoothed_above_oracle
from streaming.lab.compare.outcome import LeftOut, Results
from streaming.lab.compare.page import render, write_page
from streaming.lab.compare.results import results, write_results
from streaming.lab.compare.table import HEAD, table
from streaming.lab.compare.theme import COLOURS, colour
from streaming.lab.compare.words import notes, sentences, standing


class Reader(HTMLParser):
    """What a browser would make of a page: its elements, its visible words, its pictures."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.pictures: list[dict[str, Any]] = []
        self._inside = ""
        before, found, after = text.partition(get_plotlyjs())
        assert found
        self.feed(before + after)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script" and data.startswith('draw("'):
            self.pictures.append(json.loads(data[data.index(",") + 1 : -1]))
        elif self._inside not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return results(plant(tmp_path_factory.mktemp("compare"), seeds=(0, 1), clicks=16_000, days=9).directory)


@pytest.fixture(scope="module")
def page(ordinary: Results) -> Reader:
    return Reader(render(ordinary))


def shown(found: Results) -> str:
    console = Console(width=200, file=io.StringIO())
    console.print(table(found))
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def test_no_figure_is_cut_short_where_the_terminal_is_narrow(
    ordinary: Results, capsys: pytest.CaptureFixture[str]
) -> None:
    print_whole(table(ordinary))  # where nothing is a terminal, a line is taken for 80 letters
    printed = capsys.readouterr().out
    assert "…" not in printed
    assert max(map(len, printed.splitlines())) > 120


def test_what_a_frame_shows_ends_within_it(page: Reader) -> None:
    rows = [picture for picture in page.pictures if picture["layout"]["yaxis"].get("type") == "category"]
    assert rows
    for picture in rows:
        low, high = picture["layout"]["xaxis"]["range"]
        ends = [x for trace in picture["data"] for x in trace["x"]]
        assert low < min(ends) <= max(ends) < high


def test_shares_above_100_percent_stay_in_the_frame(page: Reader, ordinary: Results) -> None:
    pictures = [p for p in page.pictures if "share of the gap from" in p["layout"]["yaxis"]["title"]["text"]]
    assert len(pictures) == 2
    for picture in pictures:
        low, high = picture["layout"]["yaxis"]["range"]
        shares = np.array([y for trace in picture["data"] for y in trace["y"]])
        assert ((shares > low) & (shares < high)).mean() >= 0.9
    gaps = [p for p in page.pictures if p["layout"]["xaxis"]["title"]["text"] == "share of the gap"]
    assert [p["layout"]["xaxis"]["tickformat"] for p in gaps] == [".0%", ".0%"]


def test_the_page_has_every_section_and_its_contents_lead_there(page: Reader) -> None:
    anchors = [attributes["id"] for tag, attributes in page.elements if tag == "section"]
    assert anchors == ["summary", "gap", "oracle", "time", "calibration", "cost", "seeds", "notes"]
    assert [a["href"] for tag, a in page.elements if tag == "a"] == [f"#{anchor}" for anchor in anchors]


def test_the_page_asks_the_network_for_nothing(page: Reader) -> None:
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "img", "object", "embed", "base")
        assert "src" not in attributes
    [policy] = [a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in (policy or "")


def test_the_page_can_be_read_by_day_and_by_night(ordinary: Results) -> None:
    text = render(ordinary)
    assert "@media (prefers-color-scheme: dark)" in text
    assert "Plotly.relayout(box, wanted)" in text
    for tone in [*COLOURS.values(), colour("mine"), colour("mine", 3)]:
        for ground in ("#ffffff", "#15181d"):
            assert contrast(tone, ground) >= 2.9, tone


def contrast(one: str, other: str) -> float:
    """As the web's guidelines reckon it (WCAG 2)."""

    def luminance(tone: str) -> float:
        parts = np.array([int(tone[at : at + 2], 16) for at in (1, 3, 5)]) / 255
        linear = np.where(parts <= 0.03928, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_every_picture_is_one_plotly_can_draw(page: Reader) -> None:
    assert len(page.pictures) == 12
    for picture in page.pictures:
        plotly.graph_objects.Figure(picture)
        assert picture["data"]


def test_the_summary_shows_what_compare_json_holds(ordinary: Results, page: Reader) -> None:
    for method in ordinary.methods:
        pooled, hourly = method.overall.pooled, method.overall.mean_over_hours
        assert pooled.log_loss is not None
        assert hourly.auc is not None
        assert f"{pooled.log_loss:.5f} {pooled.calibration:.3f} {pooled.auc:.4f} {hourly.auc:.4f}" in page.text
    share = ordinary.method("survival").share_from_pretrained.log_loss.value
    assert share is not None
    assert f"survival has the lowest log loss, and closes {100 * share:.0f} %" in page.text


def test_every_day_has_its_calibration_of_every_method(ordinary: Results, page: Reader) -> None:
    for at in range(len(ordinary.days.start_ms)):
        row = " ".join(f"{method.by_day.calibration[at]:.3f}" for method in ordinary.methods)
        assert f"{ordinary.days.positives[at]:,} {row}" in page.text


def test_the_page_is_written_whole_and_the_same_each_time(ordinary: Results, tmp_path: Path) -> None:
    path = write_page(ordinary, tmp_path / "compare.html")
    first = path.read_bytes()
    assert write_page(ordinary, path).read_bytes() == first
    assert [found.name for found in tmp_path.iterdir()] == ["compare.html"]


def test_the_page_can_be_made_from_the_json_alone(ordinary: Results) -> None:
    assert render(msgspec.json.decode(msgspec.json.encode(ordinary), type=Results)) == render(ordinary)


def test_the_course_is_that_of_a_loop_over_hours(ordinary: Results) -> None:
    method, oracle, start = (ordinary.method(name).by_hour.log_loss for name in ("es_dfm", "oracle", "pretrained"))
    hours, clicks = ordinary.hours.start_ms, ordinary.hours.clicks
    smooth, so_far = [], []
    for at, hour in enumerate(hours):
        around = [i for i, other in enumerate(hours) if -12 * 3_600_000 <= other - hour < 12 * 3_600_000]
        above = sum(clicks[i] * ((method[i] or 0) - (oracle[i] or 0)) for i in around)
        smooth.append(above / sum(clicks[i] for i in around))
        gap = sum(clicks[i] * ((start[i] or 0) - (oracle[i] or 0)) for i in range(at + 1))
        closed = sum(clicks[i] * ((start[i] or 0) - (method[i] or 0)) for i in range(at + 1))
        so_far.append(pytest.approx(closed / gap) if gap > 0 else None)
    assert smoothed_above_oracle(ordinary, ordinary.method("es_dfm")) == pytest.approx(smooth)
    assert share_so_far(ordinary, ordinary.method("es_dfm"), "pretrained") == so_far
    final = ordinary.method("es_dfm").share_from_pretrained.log_loss.value
    assert share_so_far(ordinary, ordinary.method("es_dfm"), "pretrained")[-1] == pytest.approx(final)


@pytest.mark.parametrize(
    ("arguments", "reasons"),
    [
        pytest.param({"methods": {name: ORDINARY[name] for name in ("oracle", "window", "pretrained")}}, ["no value pretrained, window and oracle alone were compared"], id="anchors alone"),
        pytest.param({"days": 3}, ["2 days are too few for intervals", "too few days"], id="two days"),
        pytest.param({"clicks": 500, "rate": 0.05}, ["hours have no conversion, or nothing else"], id="rare conversions"),
        pytest.param({"rate": 1e-9}, ["no value no conversions", "no hour has both conversions and clicks without"], id="no conversions"),
        pytest.param({"methods": dict.fromkeys(ORDINARY, Method())}, ["no gap: oracle is no better than pretrained here", "no value oracle is never ahead of window"], id="all alike"),
        pytest.param({"methods": ORDINARY | {"dfm": Method(ended="breaker")}}, ["dfm-seed0 is left out: it ended early: breaker."], id="ended"),
        pytest.param({"methods": ORDINARY | {"dfm": Method(scored_until=0.5)}}, ["clicks that every run scored; dfm-seed0 scored"], id="scored half"),
    ],
)  # fmt: skip
def test_a_figure_without_a_value_says_so_and_why(
    tmp_path: Path, arguments: dict[str, Any], reasons: list[str]
) -> None:
    found = results(plant(tmp_path, **{"clicks": 3_000, **arguments}).directory)
    read = Reader(render(found))
    for reason in reasons:
        assert reason in read.text
    assert not re.search(r"\b(nan|NaN|None|inf)\b", read.text)
    assert not re.search(r"\b(nan|None|inf)\b", shown(found))


def test_compare_json_is_written_whole_and_reads_back(ordinary: Results, tmp_path: Path) -> None:
    path = write_results(ordinary, tmp_path / "compare.json")
    assert msgspec.json.decode(path.read_bytes(), type=Results) == ordinary
    assert path.read_bytes().endswith(b"\n")
    assert [found.name for found in tmp_path.iterdir()] == ["compare.json"]


def test_names_from_files_are_text_and_no_markup(ordinary: Results) -> None:
    hostile = '</script><b onclick="x">[red]&'
    methods = [
        msgspec.structs.replace(method, method=hostile) if method.method == "es_dfm" else method
        for method in ordinary.methods
    ]
    renamed = msgspec.structs.replace(ordinary, methods=methods, left_out=[LeftOut("<img>", "<script>")])
    read = Reader(render(renamed))
    assert not [tag for tag, attributes in read.elements if tag in ("b", "img") or "onclick" in attributes]
    assert "<img> is left out: <script>." in read.text
    assert hostile in shown(renamed)


def test_the_table_has_a_row_a_method_and_the_figures_of_the_page(ordinary: Results) -> None:
    text = shown(ordinary)
    for name in HEAD:
        assert name in text
    lines = [line for line in text.splitlines() if line.split() and line.split()[0] in ORDINARY]
    assert [line.split()[0] for line in lines] == [method.method for method in ordinary.methods]
    [window] = [line for line in lines if line.split()[0] == "window"]
    assert f"{ordinary.method('window').overall.pooled.calibration:.3f}" in window
    assert " 0 % " in window
    assert "means of 2 seeds" in text
    [oracle] = [line for line in lines if line.split()[0] == "oracle"]
    assert " - " in oracle


def test_words_say_who_stands_where(ordinary: Results) -> None:
    assert standing(ordinary.method("oracle")) == "goal"
    assert standing(ordinary.method("window")) == "apart"
    assert sentences(ordinary)[-1].startswith("Waiting alone (window) predicts 45 % of the conversions")
    assert notes(ordinary) == []


def test_words_tell_of_a_seed_that_is_missing(tmp_path: Path) -> None:
    planted = plant(tmp_path, seeds=(0, 1, 2), clicks=3_000)
    (planted.directory / "runs" / "es_dfm-seed1.json").unlink()
    told = notes(results(planted.directory))
    assert "es_dfm ran under 0 and 2 of the seeds 0, 1 and 2." in told
    assert "es_dfm-seed1 is left out: it did not finish: es_dfm-seed1.json is not there." in told


def test_a_method_of_ones_own_has_a_colour_and_it_is_nobody_elses() -> None:
    assert colour("survival") == COLOURS["survival"]
    own = [colour("mine", at) for at in range(3)]
    assert len({*own, *COLOURS.values()}) == 3 + len(COLOURS)
