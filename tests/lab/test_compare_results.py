"""What a comparison comes to: every figure against a second writing over the planted predictions, and every refusal."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from planted_runs import DAY_MS, HOUR_MS, ORDINARY, START_MS, Columns, Method, Planted, plant
from safetensors.numpy import load_file, save_file
from sklearn import metrics

from streaming.lab.compare.figures import Figures
from streaming.lab.compare.files import ResultsError, RunRecord
from streaming.lab.compare.outcome import Results
from streaming.lab.compare.results import results


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory: pytest.TempPathFactory) -> tuple[Planted, Results]:
    planted = plant(tmp_path_factory.mktemp("compare"), seeds=(0, 1))
    return planted, results(planted.directory)


def plain_figures(p: Columns, y: Columns) -> Figures:
    """The figures of one set of clicks, by another hand: every pair, every threshold."""
    log_loss = float(-(y * np.log(p) + (1 - y) * np.log(1 - p)).mean())
    rate, positives, negatives = y.mean(), p[y == 1], p[y == 0]
    if not positives.size or not negatives.size:
        return Figures(log_loss, None, float(p.sum() / y.sum()) if positives.size else None, None, None)
    pairs = np.subtract.outer(positives, negatives)
    chosen = p >= np.unique(p)[::-1, None]  # a row a threshold, the highest first
    true = (chosen & (y == 1)).sum(axis=1)
    recall = np.append(0.0, true / len(positives))
    precision = np.append(1.0, true / chosen.sum(axis=1))
    return Figures(
        log_loss=log_loss,
        normalized_entropy=float(log_loss / -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))),
        calibration=float(p.sum() / y.sum()),
        auc=float((pairs > 0).mean() + (pairs == 0).mean() / 2),
        pr_auc=float((np.diff(recall) * (precision[1:] + precision[:-1]) / 2).sum()),
    )


def pieces(planted: Planted, method: str, seed: int, size: int) -> Iterator[tuple[Columns, Columns]]:
    """(p, y) of each hour or day in which something was scored."""
    p = planted.predictions[method, seed]
    scored = ~np.isnan(p)
    of = planted.click_ms // size
    for piece in sorted(set(of[scored].tolist())):
        rows = scored & (of == piece)
        yield p[rows], planted.label[rows]


def approximately(expected: Figures) -> Figures:
    return msgspec.structs.replace(
        expected,
        **{k: None if v is None else pytest.approx(v, rel=1e-9) for k, v in msgspec.structs.asdict(expected).items()},
    )


def test_pooled_figures_are_scikit_learns(ordinary: tuple[Planted, Results]) -> None:
    planted, found = ordinary
    for method in found.methods:
        for run in method.by_seed:
            p = planted.predictions[method.method, run.seed]
            p, y = p[~np.isnan(p)], planted.label[~np.isnan(p)]
            precision, recall, _ = metrics.precision_recall_curve(y, p)
            rate = np.full(len(y), y.mean())
            assert run.overall.pooled == approximately(
                Figures(
                    log_loss=metrics.log_loss(y, p),
                    normalized_entropy=metrics.log_loss(y, p) / metrics.log_loss(y, rate),
                    calibration=p.sum() / y.sum(),
                    auc=metrics.roc_auc_score(y, p),
                    pr_auc=metrics.auc(recall, precision),
                )
            )


@pytest.mark.parametrize("method", ["oracle", "survival"])
def test_means_over_hours_are_a_second_writings(ordinary: tuple[Planted, Results], method: str) -> None:
    planted, found = ordinary
    for run in found.method(method).by_seed:
        by_hour = [(len(y), plain_figures(p, y)) for p, y in pieces(planted, method, run.seed, HOUR_MS)]
        for name in Figures.__struct_fields__:
            told = [(n, getattr(one, name)) for n, one in by_hour if getattr(one, name) is not None]
            mean = sum(n * value for n, value in told) / sum(n for n, _ in told)
            assert getattr(run.overall.mean_over_hours, name) == pytest.approx(mean), name


def test_the_two_forms_of_an_area_are_different_numbers(ordinary: tuple[Planted, Results]) -> None:
    overall = ordinary[1].method("pretrained").overall
    assert overall.pooled.log_loss == pytest.approx(overall.mean_over_hours.log_loss)
    assert overall.pooled.auc is not None
    assert overall.mean_over_hours.auc is not None
    assert abs(overall.pooled.auc - overall.mean_over_hours.auc) > 1e-6


def test_each_hour_and_day_has_its_own_figures_the_mean_over_seeds(ordinary: tuple[Planted, Results]) -> None:
    planted, found = ordinary
    for size, slices, series in (
        (HOUR_MS, found.hours, found.method("survival").by_hour),
        (DAY_MS, found.days, found.method("survival").by_day),
    ):
        one, other = (
            [plain_figures(*piece) for piece in pieces(planted, "survival", seed, size)] for seed in found.seeds
        )
        clicks = [(len(y), int(y.sum())) for _, y in pieces(planted, "survival", 0, size)]
        assert list(zip(slices.clicks, slices.positives, strict=True)) == clicks
        for name in Figures.__struct_fields__:
            expected = [
                None if getattr(a, name) is None else pytest.approx((getattr(a, name) + getattr(b, name)) / 2)
                for a, b in zip(one, other, strict=True)
            ]
            assert getattr(series, name) == expected, name
    assert found.days.start_ms == [START_MS + day * DAY_MS for day in range(1, 8)]
    assert found.clicks == sum(found.hours.clicks) == sum(found.days.clicks)


def test_a_planted_bias_is_the_calibration(tmp_path: Path) -> None:
    biases = {"window": 0.43, "pretrained": 0.8, "oracle": 1.0, "defer": 1.27}
    found = results(
        plant(tmp_path, {name: Method(bias=bias) for name, bias in biases.items()}, clicks=20_000).directory
    )
    oracle = found.method("oracle").overall.pooled.calibration
    assert oracle == pytest.approx(1.0, abs=0.05)  # labels are drawn: their noise, and no more
    for name, bias in biases.items():
        ratio = found.method(name).against_oracle.calibration_ratio
        assert ratio.value == pytest.approx(bias, rel=0.01)
        assert ratio.low is not None
        assert ratio.high is not None
        assert ratio.high - ratio.low < 0.01  # the labels' noise cancels


def brute_share(planted: Planted, method: str, start: str, figure: str, seeds: list[int]) -> float:
    """From means over hours, weighted by clicks, hour after hour; the mean over seeds above and below."""
    values = {}
    for name in (method, start, "oracle"):
        total, clicks = 0.0, 0
        for seed in seeds:
            for p, y in pieces(planted, name, seed, HOUR_MS):
                value = getattr(plain_figures(p, y), figure)
                if value is not None:
                    total, clicks = total + value * len(y), clicks + len(y)
        values[name] = total / clicks
    return (values[start] - values[method]) / (values[start] - values["oracle"])


@pytest.mark.parametrize("figure", ["log_loss", "auc", "pr_auc"])
def test_shares_are_a_second_writings_with_the_sign_the_right_way_round(
    ordinary: tuple[Planted, Results], figure: str
) -> None:
    planted, found = ordinary
    for method in ("es_dfm", "survival"):
        share = getattr(found.method(method).share_from_pretrained, figure)
        assert share.value == pytest.approx(brute_share(planted, method, "pretrained", figure, [0, 1]))
        assert share.low < share.value < share.high
        assert 0.8 < share.value < 1.05
    assert getattr(found.method("pretrained").share_from_pretrained, figure).value == 0.0
    assert getattr(found.method("oracle").share_from_pretrained, figure).value == 1.0
    log_loss = found.method("survival").share_from_window.log_loss
    assert log_loss.value == pytest.approx(brute_share(planted, "survival", "window", "log_loss", [0, 1]))


def test_where_window_ranks_as_well_as_oracle_no_share_of_auc_is_told(ordinary: tuple[Planted, Results]) -> None:
    share = ordinary[1].method("survival").share_from_window.auc
    assert share.value is None
    assert share.reason is not None
    assert "noise" in share.reason or "no gap" in share.reason


def test_an_interval_is_that_of_drawing_whole_days_for_both_sides(ordinary: tuple[Planted, Results]) -> None:
    planted, found = ordinary
    count = len(found.days.start_ms)
    losses = {}
    for method in ("es_dfm", "oracle"):
        by_seed = [
            [metrics.log_loss(y, p, normalize=False) for p, y in pieces(planted, method, seed, DAY_MS)]
            for seed in (0, 1)
        ]
        losses[method] = np.mean(by_seed, axis=0)
    clicks = np.array(found.days.clicks)
    random, differences = np.random.default_rng(0), []
    for _ in range(found.resamples):
        days = np.repeat(np.arange(count), random.multinomial(count, [1 / count] * count))
        differences.append((losses["es_dfm"][days].sum() - losses["oracle"][days].sum()) / clicks[days].sum())
    value = (losses["es_dfm"].sum() - losses["oracle"].sum()) / clicks.sum()
    stretch = math.sqrt(7 / 6) * 2.447 / 1.96  # Student's t with 6 degrees of freedom
    low, high = (value + (np.quantile(differences, at) - value) * stretch for at in (0.025, 0.975))
    told = found.method("es_dfm").against_oracle.log_loss
    assert (told.value, told.low, told.high) == pytest.approx((value, low, high), abs=2e-3 * (high - low))


def test_what_the_days_cannot_tell_from_oracle_is_within_it_and_what_they_can_is_not(tmp_path: Path) -> None:
    planted = plant(tmp_path, ORDINARY | {"twin": Method(noise=0.05), "naive": Method(bias=1.4)})
    found = results(planted.directory)
    within = {method.method: method.against_oracle.is_within for method in found.methods}
    assert within == {
        "oracle": True, "twin": True, "naive": False, "window": False, "pretrained": False,
        "es_dfm": within["es_dfm"], "survival": within["survival"],
    }  # fmt: skip
    assert found.methods[-1].method in ("window", "pretrained")
    losses = [method.overall.pooled.log_loss for method in found.methods]
    assert losses == sorted(losses, key=lambda loss: loss or 0.0)


def test_only_clicks_that_every_run_scored_are_compared(tmp_path: Path) -> None:
    planted = plant(tmp_path, ORDINARY | {"short": Method(scored_until=0.6)})
    common = np.all([~np.isnan(p) for p in planted.predictions.values()], axis=0)
    found = results(planted.directory)
    assert found.clicks == common.sum() < (~np.isnan(planted.predictions["oracle", 0])).sum()
    assert found.positives == planted.label[common].sum()
    assert found.clicks_in_log == len(common)
    p = planted.predictions["survival", 0][common]
    assert found.method("survival").overall.pooled == approximately(plain_figures(p, planted.label[common]))
    assert found.method("short").by_seed[0].clicks_scored == found.clicks
    assert found.method("oracle").by_seed[0].clicks_scored == (~np.isnan(planted.predictions["oracle", 0])).sum()


def test_seeds_are_averaged_and_their_spread_told(ordinary: tuple[Planted, Results]) -> None:
    method = ordinary[1].method("es_dfm")
    runs = [run.overall.pooled.auc or 0.0 for run in method.by_seed]
    assert runs[0] != runs[1]
    assert method.overall.pooled.auc == pytest.approx(np.mean(runs))
    assert method.spread.pooled.auc == pytest.approx(np.std(runs, ddof=1))
    assert method.cost.seconds == pytest.approx(np.mean([run.cost.seconds for run in method.by_seed]))


def test_one_seed_has_no_spread(tmp_path: Path) -> None:
    found = results(plant(tmp_path).directory)
    assert found.method("es_dfm").spread.pooled == Figures(None, None, None, None, None)


def test_costs_are_told_beside_windows(ordinary: tuple[Planted, Results]) -> None:
    cost = ordinary[1].method("survival").cost
    assert cost.events_per_click == pytest.approx(6.8)
    assert cost.effective_share == pytest.approx(0.8, abs=1e-4)
    seconds = [40.0 + 6 * 6.8 + seed for seed in (0, 1)]
    assert cost.seconds_over_window == pytest.approx(np.mean([a / (46.0 + s) for s, a in enumerate(seconds)]))
    untaught = ordinary[1].method("pretrained").cost
    assert untaught.events_per_click is None
    assert untaught.effective_share is None


def test_hours_without_a_conversion_have_no_area_and_are_counted(tmp_path: Path) -> None:
    found = results(plant(tmp_path, clicks=600, rate=0.1).directory)
    auc = found.method("oracle").by_hour.auc
    bare = [at for at, (n, y) in enumerate(zip(found.hours.clicks, found.hours.positives, strict=True)) if y in (0, n)]
    assert bare
    assert [at for at, value in enumerate(auc) if value is None] == bare
    assert found.hours_without_auc == len(bare)
    no_conversion = [at for at, y in enumerate(found.hours.positives) if y == 0]
    calibration = found.method("oracle").by_hour.calibration
    assert [at for at, value in enumerate(calibration) if value is None] == no_conversion


def test_a_log_without_a_conversion_says_so_everywhere(tmp_path: Path) -> None:
    planted = plant(tmp_path)
    columns = load_file(planted.directory / "clicks.safetensors")
    save_file(columns | {"label": np.zeros_like(columns["label"])}, planted.directory / "clicks.safetensors")
    found = results(planted.directory)
    method = found.method("survival")
    assert method.overall.pooled.calibration is None
    assert method.against_oracle.calibration_ratio.reason == "no conversions among the compared clicks"
    assert method.against_oracle.auc.reason == "no hour has both conversions and clicks without"
    assert found.median_delay_ms is None


def test_few_days_give_figures_without_intervals(tmp_path: Path) -> None:
    found = results(plant(tmp_path, days=4).directory)
    method = found.method("survival")
    assert method.against_oracle.is_within is None
    assert method.against_oracle.log_loss.value is not None
    assert method.against_oracle.log_loss.reason == "no interval: 3 days, and fewer than 5 can agree by chance"
    assert found.resamples == 0


def test_the_same_files_give_the_same_json_and_it_reads_back(ordinary: tuple[Planted, Results]) -> None:
    planted, found = ordinary
    encoded = msgspec.json.encode(found)
    assert msgspec.json.encode(results(planted.directory)) == encoded
    assert msgspec.json.decode(encoded, type=Results) == found


def test_a_run_that_ended_early_is_left_out_with_its_reason(tmp_path: Path) -> None:
    methods = ORDINARY | {"naive": Method(ended="the breaker refused 3 batches", scored_until=0.01)}
    found = results(plant(tmp_path, methods).directory)
    assert [(one.run, one.reason) for one in found.left_out] == [
        ("naive-seed0", "it ended early: the breaker refused 3 batches")
    ]
    assert found == msgspec.structs.replace(results(plant(tmp_path / "without").directory), left_out=found.left_out)


def test_a_seed_without_an_anchor_is_left_out_whole(tmp_path: Path) -> None:
    planted = plant(tmp_path, seeds=(0, 1))
    (planted.directory / "runs" / "window-seed1.safetensors").unlink()
    found = results(planted.directory)
    assert found.seeds == [0]
    reasons = {one.run: one.reason for one in found.left_out}
    assert reasons["window-seed1"] == "it did not finish: window-seed1.safetensors is not there"
    assert reasons["survival-seed1"] == "under seed 1 there is no whole run of window to compare it with"
    assert len(reasons) == len(ORDINARY)


def test_a_method_that_lacks_a_seed_is_compared_under_the_others_alone(tmp_path: Path) -> None:
    planted = plant(tmp_path, seeds=(0, 1))
    (planted.directory / "runs" / "survival-seed0.json").unlink()
    found = results(planted.directory)
    assert [run.seed for run in found.method("survival").by_seed] == [1]
    share = found.method("survival").share_from_window.log_loss.value
    assert share == pytest.approx(brute_share(planted, "survival", "window", "log_loss", [1]))


def _remove(*names: str) -> Callable[[Path], None]:
    def remove(directory: Path) -> None:
        for name in names:
            (directory / name).unlink()

    return remove


def _cut(name: str, keep: int) -> Callable[[Path], None]:
    def cut(directory: Path) -> None:
        (directory / name).write_bytes((directory / name).read_bytes()[:keep])

    return cut


def _replace(name: str, **columns: npt.NDArray[np.generic]) -> Callable[[Path], None]:
    def replace(directory: Path) -> None:
        save_file(load_file(directory / name) | columns, directory / name)

    return replace


def _rename(old: str, new: str) -> Callable[[Path], None]:
    def rename(directory: Path) -> None:
        for ending in (".json", ".safetensors"):
            (directory / "runs" / f"{old}{ending}").rename(directory / "runs" / f"{new}{ending}")

    return rename


def _end_oracle(directory: Path) -> None:
    path = directory / "runs" / "oracle-seed0.json"
    record = msgspec.json.decode(path.read_bytes(), type=RunRecord)
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(record, ended="disk full")))


P = "runs/es_dfm-seed0.safetensors"


@pytest.mark.parametrize(
    ("harm", "complaint"),
    [
        (_remove("clicks.safetensors"), r"clicks.safetensors does not exist: name the directory that `afterclick compare"),
        (_remove("runs/oracle-seed0.json"), r"no whole run of oracle; oracle-seed0: it did not finish: oracle-seed0.json is"),
        (_remove("runs/window-seed0.json", "runs/window-seed0.safetensors"), r"needs runs of pretrained, window, oracle under one seed.*no whole run of window;"),
        (_remove("runs/pretrained-seed0.safetensors"), r"no whole run of pretrained"),
        (_end_oracle, r"no whole run of oracle; oracle-seed0 ended early \(disk full\); run `afterclick compare` again"),
        (_cut("clicks.safetensors", 200), r"clicks.safetensors is damaged \(.*\): remove it and compare again"),
        (_cut(P, 0), r"es_dfm-seed0.safetensors is damaged"),
        (_cut("runs/es_dfm-seed0.json", 30), r"es_dfm-seed0.json is damaged \(.*truncated"),
        (_replace(P, p=np.full(10, 0.5)), r"holds 10 predictions for the 12,000 clicks of clicks.safetensors: it is of another log"),
        (_replace(P, p=np.full(12_000, 1.5)), r"p\[0\] must be a probability, 0 to 1, or NaN where none was made \(got 1.5\)"),
        (_replace(P, p=np.full(12_000, 1)), r"p must be a row of floats, got int64 of shape \(12000,\)"),
        (_replace(P, p=np.full(12_000, np.nan)), r"no click of .* was scored by all 5 runs \(es_dfm-seed0 scored 0, the fewest\)"),
        (_replace("clicks.safetensors", delay_ms=np.zeros(3, np.int64)), r"its columns must be of one length, got .*'delay_ms': 3"),
        (_replace("clicks.safetensors", label=np.full(12_000, 0.5)), r"a scored click must be labelled 0 or 1 \(got 0.5\)"),
        (_replace("clicks.safetensors", click_ms=np.arange(12_000)[::-1].copy()), r"must hold clicks in order of click_ms"),
        (_rename("es_dfm-seed0", "defer-seed0"), r"defer-seed0.json must be called es_dfm-seed0.json"),
        (_rename("es_dfm-seed0", "es_dfm"), r"es_dfm.json must be called es_dfm-seed0.json"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused_by_name(
    tmp_path: Path, harm: Callable[[Path], None], complaint: str
) -> None:
    directory = plant(tmp_path).directory
    harm(directory)
    with pytest.raises(ResultsError, match=complaint):
        results(directory)


def test_a_method_that_was_not_compared_has_no_result(ordinary: tuple[Planted, Results]) -> None:
    with pytest.raises(KeyError, match="mature"):
        ordinary[1].method("mature")
