"""The page on a run: every figure it shows, what it says where there is none, and that nothing hostile gets through."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import plotly.graph_objects
import pytest
import zstandard
from fabricate import FabricatedRun, fabricate_run, measure, write_frames
from hypothesis import given, settings
from hypothesis import strategies as st
from plotly.offline import get_plotlyjs
from sklearn.metrics import roc_auc_score

from models.observed_ratio import observed_ratio
from streaming.lab.report import RunFilesError, write_report
from streaming.lab.report.files import read_metrics, sample_side_output
from streaming.lab.report.page import Html, Page, element, escaped, number
from streaming.lab.report.sums import RunSums, open_run_sums
from streaming.metrics import CohortMetrics, EarlyMetrics, RunMetrics

TASKS = ("ctr", "cvr", "ctcvr")
HOSTILE = '</script><script>alert(1)</script><img src=x onerror="alert(2)">\' & \u2028 \u202e'


class Reader(HTMLParser):
    """What a browser would make of a page: its elements, its visible words, its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.scripts: list[str] = []
        self._inside = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag if tag in ("script", "style") else ""
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif not self._inside:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    @property
    def pictures(self) -> list[dict[str, Any]]:
        return [
            json.loads(script[script.index(",") + 1 : -1]) for script in self.scripts if script.startswith('draw("')
        ]


def read(path: Path) -> Reader:
    """The page without plotly, which must be there once and is 99 % of it."""
    before, found, after = path.read_text(encoding="utf-8").partition(get_plotlyjs())
    assert found
    assert get_plotlyjs() not in after
    return Reader(before + after)


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory: pytest.TempPathFactory) -> tuple[FabricatedRun, Reader]:
    made = fabricate_run(tmp_path_factory.mktemp("ordinary"), impressions=4_000, bias=1.6, served_share=0.3)
    return made, read(write_report(made.run, log=made.log))


def test_the_page_has_every_section_and_its_contents_lead_there(ordinary: tuple[FabricatedRun, Reader]) -> None:
    _, page = ordinary
    anchors = [attributes["id"] for tag, attributes in page.elements if tag == "section"]
    links = [attributes["href"] for tag, attributes in page.elements if tag == "a"]
    assert anchors == [
        "summary",
        "time",
        "early",
        "reliability",
        "delays",
        "volumes",
        "side",
        "training",
        "open",
        "notes",
    ]
    assert links == [f"#{anchor}" for anchor in anchors]


def test_the_page_asks_the_network_for_nothing(ordinary: tuple[FabricatedRun, Reader]) -> None:
    _, page = ordinary
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "img", "object", "embed", "base")
        assert "src" not in attributes
        assert not any(name.startswith("on") for name in attributes)
        assert attributes.get("href", "#").startswith("#")
    [policy] = [a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policy


def test_every_picture_is_one_plotly_can_draw(ordinary: tuple[FabricatedRun, Reader]) -> None:
    _, page = ordinary
    assert len(page.pictures) >= 15
    for picture in page.pictures:
        plotly.graph_objects.Figure(picture)  # refuses a property that does not exist, or a value it cannot take
        assert picture["data"]


def test_a_table_stands_beside_every_picture(ordinary: tuple[FabricatedRun, Reader]) -> None:
    _, page = ordinary
    tags = [tag for tag, _ in page.elements]
    for start in (index for index, (_, a) in enumerate(page.elements) if a.get("class") == "pair"):
        assert "table" in tags[start : start + 60]


def test_the_headline_shows_what_metrics_json_holds_with_the_truth_beside_it(
    ordinary: tuple[FabricatedRun, Reader],
) -> None:
    made, page = ordinary
    for by_whose in made.metrics.tasks.values():
        for figures in by_whose.values():
            assert figures.calibration is not None
            assert figures.normalized_entropy is not None
            assert f"{figures.n:,} {figures.sum_y:,.0f} {figures.calibration:.3f}" in page.text
            assert f"{figures.normalized_entropy:.4f}" in page.text
            assert f"{figures.auc:.4f}" in page.text  # the fabricator's is exact
    assert page.text.count("the truth itself") >= 6
    assert "best that any model could reach" in page.text


def test_the_same_files_give_the_same_page(ordinary: tuple[FabricatedRun, Reader]) -> None:
    made, _ = ordinary
    first = write_report(made.run, log=made.log).read_bytes()
    assert write_report(made.run, log=made.log).read_bytes() == first
    assert not list(made.run.glob("*.part"))


def test_without_a_log_no_truth_is_shown(ordinary: tuple[FabricatedRun, Reader], tmp_path: Path) -> None:
    made, _ = ordinary
    assert "the truth itself" not in read(write_report(made.run)).text
    assert "holds no truth.parquet" in read(write_report(made.run, log=tmp_path)).text


def test_titles_claim_nothing_that_figures_could_deny(ordinary: tuple[FabricatedRun, Reader]) -> None:
    _, page = ordinary
    for title, subtitle in (
        ("Calibration", "; 1 is right"),
        ("Normalised entropy", "lower is better"),
        ("AUC", "one half is chance"),
    ):
        assert re.search(rf"{title} (Predicted|Log loss|The share)[^.]*{subtitle}", page.text)
    titles = [
        (attributes["aria-label"] or "").partition(".")[0]
        for _, attributes in page.elements
        if attributes.get("class") == "plot"
    ]
    assert len(titles) == len(page.pictures)
    assert not re.search(r"\b(stands|stays|settles|falls|keep|above|below)\b", " ".join(titles))


def test_a_run_without_conversions_says_so_beside_its_delays(tmp_path: Path) -> None:
    made = fabricate_run(tmp_path, impressions=600, cvr=0.0)
    text = read(write_report(made.run)).text
    delays = text[text.index("Label delay", text.index("Reliability ")) : text.index("What was read, what was joined")]
    assert "no value no conversions yet among clicks whose attribution window has passed" in delays


def test_open_hours_are_grey_and_alone(ordinary: tuple[FabricatedRun, Reader]) -> None:
    made, page = ordinary
    assert any(not hour.is_complete for hour in made.metrics.hours)
    marks = [trace for picture in page.pictures for trace in picture["data"] if "still open" in trace.get("name", "")]
    assert marks
    assert all(trace["mode"] == "markers" and trace["marker"]["color"] == "#fff" for trace in marks)
    assert " open " in page.text


def early_of(page: Reader) -> str:
    return page.text[page.text.index("Conversions that have come of clicks") : page.text.index("Of what was predicted")]


def early_pictures(page: Reader) -> list[dict[str, Any]]:
    return [
        picture for picture in page.pictures if picture["layout"]["yaxis"]["title"]["text"] == "observed / expected"
    ]


def test_early_calibration_is_drawn_and_told_by_age_for_whose_predictions_there_are(
    ordinary: tuple[FabricatedRun, Reader],
) -> None:
    made, page = ordinary
    text = early_of(page)
    assert "CVR: observed over expected" in text
    assert "CVR, served: observed over expected" in text
    assert "F is learned from this stream at every age shown." in text
    for early, picture in zip(made.metrics.early.values(), early_pictures(page), strict=True):
        for one in (early.total, *early.ages):
            assert (
                f"{one.clicks:,} {one.observed:,} of {number(one.expected, 1, '')} {one.ratio:.2f} {one.low:.2f} to"
                in text
            )
        drawn = [age for trace in picture["data"] if trace["mode"] == "markers" for age in trace["x"]]
        assert sorted(drawn) == pytest.approx([(one.age_ms or 0) / 1000 for one in early.ages], rel=1e-5)
        assert any(trace.get("name") == "all together, 95 %" for trace in picture["data"])


def with_early(root: Path, early: dict[str, EarlyMetrics], **more: Any) -> Reader:
    made = fabricate_run(root, impressions=400)
    metrics = msgspec.structs.replace(made.metrics, early=early, **more)
    (made.run / "metrics.json").write_bytes(msgspec.json.encode(metrics))
    return read(write_report(made.run))


def cohort(age_ms: int | None, observed: int, *, expected: float = 10.0, is_prior: bool = False) -> CohortMetrics:
    ratio, low, high = observed_ratio(observed, expected)
    return CohortMetrics(
        start_ms=None, age_ms=age_ms, clicks=70, expected=expected, observed=observed, ratio=ratio, low=low, high=high,
        rests_on_prior=is_prior,
    )  # fmt: skip


def test_what_rests_on_the_prior_is_hollow_and_said(tmp_path: Path) -> None:
    ages = [cohort(3_600_000, 12, is_prior=True), cohort(86_400_000, 0)]
    early = EarlyMetrics(total=cohort(None, 12, is_prior=True), cohorts=[], ages=ages)
    page = with_early(tmp_path, {"model": early})
    assert "Where a mark is hollow (a row says prior), F rests on labels.delay_prior_ages_ms" in early_of(page)
    [picture] = early_pictures(page)
    marks = {trace["name"]: trace["marker"]["symbol"] for trace in picture["data"] if trace["mode"] == "markers"}
    assert marks == {"by age, rests on the prior": "circle-open", "by age, 95 %, none observed": "triangle-down"}
    foot = 10 ** picture["layout"]["yaxis"]["range"][0]
    assert all(min(trace["y"]) > foot for trace in picture["data"])


@pytest.mark.parametrize(
    ("early", "more", "reason"),
    [
        ({}, {"examples": {}}, "no clicks yet"),
        ({}, {"open_clicks": 0}, "no click is open: every label is final"),
        ({}, {"open_clicks": 3}, "no hour of clicks is over long enough"),
        ({"model": EarlyMetrics(total=cohort(None, 3), cohorts=[])}, {}, "metrics.json does not tell ages"),
        (
            {"model": EarlyMetrics(total=cohort(None, 0, expected=0.0), cohorts=[], ages=[cohort(1, 0, expected=0.0)])},
            {},
            "no value nothing was expected by then",
        ),
    ],
)
def test_without_early_calibration_the_reason_is_told(
    tmp_path: Path, early: dict[str, EarlyMetrics], more: dict[str, Any], reason: str
) -> None:
    page = with_early(tmp_path, early, **more)
    assert reason in early_of(page)
    assert not early_pictures(page)


def test_kappa_that_weighs_nothing_has_no_value(tmp_path: Path) -> None:
    made = fabricate_run(tmp_path, impressions=400)
    path = made.run / "examples.jsonl.zst"
    lines = [msgspec.json.decode(line) for line in zstandard.ZstdDecompressor().stream_reader(
        path.read_bytes(), read_across_frames=True).read().splitlines()]  # fmt: skip
    write_frames(path, [line | ({"neg": 0.0} if line["kind"] == "UNCLICKED" else {}) for line in lines])
    (made.run / "metrics.json").write_bytes(msgspec.json.encode(msgspec.structs.replace(made.metrics, kappa=0.0)))
    text = read(write_report(made.run)).text
    assert text.count("no value unclicked impressions weigh nothing: objective composed") == 2


def test_windows_of_the_settings_are_marked_on_the_delay_curve(ordinary: tuple[FabricatedRun, Reader]) -> None:
    _, page = ordinary
    [picture] = [p for p in page.pictures if any(t.get("name") == "click to conversion" for t in p["data"])]
    marked = {note["text"] for note in picture["layout"]["annotations"]}
    assert marked == {"click window", "observation window", "attribution window"}
    [curve] = [trace for trace in picture["data"] if trace["name"] == "click to conversion"]
    assert curve["y"][0] == 0
    assert curve["y"][-1] == 100
    assert curve["x"] == sorted(curve["x"])


def test_settings_that_cannot_be_read_cost_the_marks_alone(tmp_path: Path) -> None:
    made = fabricate_run(tmp_path, impressions=800)
    (made.run / "settings.toml").write_text("[windows]\nno_such_key = 1\n")
    assert "cannot read: windows are not marked" in read(write_report(made.run)).text
    (made.run / "settings.toml").unlink()
    assert "settings.toml is not in the run directory" in read(write_report(made.run)).text


@pytest.mark.parametrize(
    ("arguments", "reasons"),
    [
        pytest.param(
            {"ctr": 0.0}, ["no clicks yet", "no label of a click yet", "no conversions yet"], id="zero clicks"
        ),
        pytest.param({"cvr": 0.0}, ["no conversions yet"], id="zero conversions"),
        pytest.param({"ctr": 1.0}, ["only clicks: nothing to tell apart"], id="all clicks"),
        pytest.param({"ctr": 1.0, "cvr": 1.0}, ["only clicks: nothing to tell apart"], id="all convert"),
        pytest.param({"impressions": 0}, ["no label of an impression yet", "nothing was read"], id="empty log"),
        pytest.param({"impressions": 1}, ["no label of an impression yet"], id="one impression"),
        pytest.param({"days": 0.03, "ctr": 0.3}, ["no hour is complete yet"], id="minutes of log"),
    ],
)
def test_a_figure_without_a_value_says_so_and_why(
    tmp_path: Path, arguments: dict[str, Any], reasons: list[str]
) -> None:
    made = fabricate_run(tmp_path, **{"impressions": 600, **arguments})
    page = read(write_report(made.run, log=made.log))
    for reason in reasons:
        assert f"no value {reason}" in page.text
    assert not re.search(r"\b(nan|NaN|None(?! of it)|inf)\b", page.text)
    for picture in page.pictures:
        plotly.graph_objects.Figure(picture)


def test_ids_of_any_kind_find_their_labels(tmp_path: Path) -> None:
    plain = fabricate_run(tmp_path / "plain", impressions=900)
    huge = fabricate_run(
        tmp_path / "huge", impressions=900, identify="9" * 40 + "{:06}" + "\U0001f600\t\"'" + "x" * 3_000
    )
    with (
        open_run_sums(plain.run, plain.log, plain.metrics) as one,
        open_run_sums(huge.run, huge.log, huge.metrics) as other,
    ):
        for task in TASKS:
            assert one.scores(task, "model") == other.scores(task, "model")
            assert one.scores(task, "model", of="truth") == other.scores(task, "model", of="truth")


def test_hostile_strings_are_words_and_nothing_else(tmp_path: Path) -> None:
    made = fabricate_run(tmp_path, impressions=500)
    metrics = made.metrics
    metrics.feature_faults = {HOSTILE: 3}
    metrics.refused_batches = {HOSTILE: 1}
    metrics.events[HOSTILE] = 1
    metrics.examples[HOSTILE] = 1
    metrics.side_outputs["late"] = {HOSTILE: 2, "click": 1}
    (made.run / "metrics.json").write_bytes(msgspec.json.encode(metrics))
    line = {"door": "late", "kind": HOSTILE, "reason": HOSTILE, "at": HOSTILE, "record": HOSTILE}
    (made.run / "late.jsonl").write_bytes(msgspec.json.encode(line) + b"\n")
    text = (made.run / "settings.toml").read_text()
    (made.run / "settings.toml").write_text(text + f"# {HOSTILE}\n")
    run = made.run.rename(made.run.with_name("<script>alert(3)<%2Fscript>*[a]?'"))
    page = read(write_report(run, log=made.log))
    harmless = fabricate_run(tmp_path / "harmless", impressions=500)
    elsewhere = read(write_report(harmless.run, log=harmless.log))
    tags = {tag for tag, _ in page.elements}
    assert tags == {tag for tag, _ in elsewhere.elements}
    assert len(page.scripts) - len(page.pictures) == len(elsewhere.scripts) - len(elsewhere.pictures)
    assert page.text.count("<script>alert(1)</script>") >= 6
    assert "<script>alert(3)" in page.text
    for picture in page.pictures:
        assert "<script" not in json.dumps(picture).replace("&lt;script", "")


def test_up_to_five_records_of_each_kind_are_shown_whole(ordinary: tuple[FabricatedRun, Reader]) -> None:
    made, page = ordinary
    assert "duplicates, click: 5 of 14" in page.text
    assert "duplicates, conversion: 4 of 4" in page.text
    found = sample_side_output(made.run, "duplicates", made.metrics.side_outputs["duplicates"])
    assert [len(records) for records in found.values()] == [5, 4]
    assert all(record.record is not None for records in found.values() for record in records)


def test_samples_skip_torn_lines_and_show_base64(tmp_path: Path) -> None:
    lines = [
        b'{"kind":"click","at":"a:1","record":"torn',
        b'{"kind":"click","at":"a:2","record_base64":"/w=="}',
        b"\xff",
    ]
    (tmp_path / "late.jsonl").write_bytes(b"\n".join(lines))
    [record] = sample_side_output(tmp_path, "late", {"click": 3, "conversion": 0})["click"]
    assert (record.at, record.record, record.record_base64) == ("a:2", None, "/w==")
    assert sample_side_output(tmp_path, "orphans", {"click": 3}) == {"click": []}


def test_a_torn_end_of_the_files_is_left_out(tmp_path: Path) -> None:
    made = fabricate_run(tmp_path, impressions=3_000)
    for name in ("examples.jsonl.zst", "predictions.jsonl.zst"):
        path = made.run / name
        path.write_bytes(path.read_bytes()[:-40])
    page = read(write_report(made.run, log=made.log))
    assert "metrics.json counts" in page.text, "that the files hold fewer rows than were counted must be said"


def test_files_that_are_not_there_are_reasons_and_no_errors(tmp_path: Path) -> None:
    made = fabricate_run(tmp_path, impressions=600)
    for path in made.run.iterdir():
        if path.name != "metrics.json":
            path.unlink()
    page = read(write_report(made.run, log=made.log))
    assert "examples.jsonl.zst is not in the run directory" in page.text
    assert "the files do not hold its rows" in page.text
    assert "late.jsonl holds no record of this kind" in page.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist: name the directory"),
        (b"{", "cannot be read"),
        (b'{"steps": "many"}', "Expected `int`, got `str`"),
        (b'{"format": 2}', "format 2, this version reads up to 1: upgrade"),
    ],
)
def test_metrics_that_cannot_be_used_are_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "metrics.json").write_bytes(content)
    with pytest.raises(RunFilesError, match=message):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_a_truth_that_is_no_parquet_is_refused(tmp_path: Path) -> None:
    made = fabricate_run(tmp_path, impressions=100)
    (made.log / "truth.parquet").write_bytes(b"no parquet")
    with pytest.raises(RunFilesError, match=r"cannot be read: .*`docs/formats\.md`"):
        write_report(made.run, log=made.log)


def test_the_sums_of_the_files_are_those_of_a_second_writing(tmp_path: Path) -> None:
    made = fabricate_run(tmp_path, impressions=5_000, days=8, bias=2.0, served_share=0.4, seed=7)
    with open_run_sums(made.run, made.log, made.metrics) as sums:
        for task in TASKS:
            for whose in ("model", "served"):
                expected = msgspec.structs.asdict(made.metrics.tasks[task][whose])
                found = sums.scores(task, whose, bins=10)
                assert found is not None
                for name, value in msgspec.structs.asdict(found).items():
                    if name == "reliability":
                        assert np.allclose(value, expected[name])
                    elif name != "auc_error":
                        assert value == pytest.approx(expected[name], rel=1e-9), (task, whose, name)
        facts = sums.facts_by_hour()
        assert sum(n for _, n in facts["clicks"]) == made.metrics.examples["CLICKED"]
        assert sum(n for _, n in facts["impressions"]) == sum(
            made.metrics.examples[k] for k in ("CLICKED", "UNCLICKED")
        )
        by_kind: dict[str, int] = {}
        for kind, _, n in sums.examples_by_hour():
            by_kind[kind] = by_kind.get(kind, 0) + n
        assert by_kind == made.metrics.examples
        assert sum(hour.rows for hour in sums.taught_by_hour()) == made.metrics.taught


def _scored_clicks(directory: Path, p: list[float], y: list[int]) -> RunSums:
    ids = [str(row) for row in range(len(p))]
    kinds = ["CLICKED" if clicked else "UNCLICKED" for clicked in y]
    examples = [
        {"kind": kind, "slot": "click", "due_ms": 1, "impression_id": i, "impression_ms": 0}
        for kind, i in zip(kinds, ids, strict=True)
    ]
    predictions = [
        {"impression_id": i, "event_time_ms": 0, "pctr": score, "pcvr": 0.5, "whose": "model"}
        for i, score in zip(ids, p, strict=True)
    ]
    write_frames(directory / "examples.jsonl.zst", examples, rows_a_frame=7)
    write_frames(directory / "predictions.jsonl.zst", reversed(predictions), rows_a_frame=5)
    scratch = directory / "scratch"
    scratch.mkdir()
    return RunSums(scratch, directory, None, RunMetrics())


@settings(deadline=None, max_examples=10)
@given(st.lists(st.tuples(st.sampled_from([0.01, 0.1, 0.25, 0.5, 0.9]), st.integers(0, 1)), min_size=1, max_size=40))
def test_auc_is_exact_with_ties(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[float, int]]) -> None:
    p, y = [score for score, _ in rows], [label for _, label in rows]
    sums = _scored_clicks(tmp_path_factory.mktemp("auc"), p, y)
    found = sums.scores("ctr", "model", bins=3)
    sums.close()
    assert found is not None
    if len(set(y)) == 2:
        assert found.auc == pytest.approx(roc_auc_score(y, p))
    else:
        assert found.auc is None
        assert found.normalized_entropy is None
    plain = measure(np.array(p), np.array(y, dtype=float), bins=3)
    assert (found.n, found.calibration) == (plain.n, pytest.approx(plain.calibration) if sum(y) else None)


def test_predictions_of_exactly_zero_and_one_have_a_finite_log_loss(tmp_path: Path) -> None:
    sums = _scored_clicks(tmp_path, [0.0, 1.0, 0.0, 1.0], [0, 1, 1, 0])
    found = sums.scores("ctr", "model")
    sums.close()
    assert found is not None
    assert found.sum_log_loss == pytest.approx(2 * -np.log(1e-12), rel=1e-4)


def test_an_outcome_whose_click_left_before_this_run_scores_cvr_alone(tmp_path: Path) -> None:
    examples = [{"kind": "OUTCOME", "slot": "outcome", "due_ms": 9, "impression_id": "a", "converted": True}]
    write_frames(tmp_path / "examples.jsonl.zst", examples)
    prediction = {"impression_id": "a", "event_time_ms": 0, "pctr": 0.1, "pcvr": 0.2, "whose": "model"}
    write_frames(tmp_path / "predictions.jsonl.zst", [prediction])
    with open_run_sums(tmp_path, None, RunMetrics()) as sums:
        found = sums.scores("cvr", "model")
        assert found is not None
        assert (found.n, found.sum_y) == (1, 1.0)
        assert sums.scores("ctr", "model") is None
        assert sums.scores("ctcvr", "model") is None


def test_hours_that_are_open_enter_ctr_and_ctcvr_not_and_cvr_at_once(tmp_path: Path) -> None:
    made = fabricate_run(tmp_path, impressions=4_000, days=5, ctr=0.2)
    metrics = read_metrics(made.run)
    metrics.hours = [msgspec.structs.replace(hour, is_complete=False) for hour in metrics.hours]
    with open_run_sums(made.run, None, metrics) as sums:
        assert sums.scores("ctr", "model") is None
        assert sums.scores("ctcvr", "model") is None
        cvr = sums.scores("cvr", "model")
        assert cvr is not None
        assert cvr.n == made.metrics.examples["OUTCOME"]


@settings(deadline=None, max_examples=60)
@given(st.text())
def test_any_text_comes_out_as_that_text_and_no_markup(text: str) -> None:
    page = Reader(element("p", text, title=text))
    assert [tag for tag, _ in page.elements] == ["p"]
    assert "<" not in escaped(text).replace("&lt;", "")


def test_markup_is_not_escaped_twice_and_long_text_is_cut() -> None:
    assert escaped(Html("<b>")) == "<b>"
    assert escaped("x" * 2_000).endswith("… (2,000 characters in all)")


def test_a_picture_that_holds_a_nan_is_our_fault_and_raises() -> None:
    page = Page("t", "s")
    with pytest.raises(ValueError, match="Out of range float"):
        page.picture("t", "c", {"data": [{"y": [float("nan")]}], "layout": {"height": 1}})  # type: ignore[arg-type]
