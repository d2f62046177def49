from __future__ import annotations

import collections
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from streaming.events import EventDecoder, Malformed, RecordKind
from streaming.lab.dials import DAY_MS, DEFECT_SHARES, HOUR_MS
from streaming.lab.disorder import DAMAGES
from streaming.lab.facts import IdSpace
from streaming.lab.population import draw_items, draw_users
from streaming.lab.traffic import RECENT, Traffic, impressions_by_step
from streaming.lab.truth import Truth
from streaming.lab.world import STEMS, World, WorldSummary, generate, truth_of
from streaming.lab.worldsettings import batch_interval_ms
from streaming.settings import Fields, parse

# Small, but with facts enough to count: 5,000 impressions, about 1,500 clicks and 600 conversions.
SMALL: dict[str, Any] = {"impressions": 5_000, "days": 3, "users": 300, "items": 400, "ctr": 0.3, "cvr": 0.4}


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, World, WorldSummary]:
    """More than one chunk, many facts, nothing wrong."""
    log = tmp_path_factory.mktemp("dense")
    world = World.clean(impressions=36_000, days=6, users=2_000, items=3_000, ctr=0.2, cvr=0.4)
    return log, world, generate(log, world)


@pytest.fixture(scope="module")
def dense_impressions(dense: tuple[Path, World, WorldSummary]) -> list[dict[str, Any]]:
    return records(dense[0], "impressions")


def records(log: Path, stem: str) -> list[dict[str, Any]]:
    return [msgspec.json.decode(line) for line in (log / f"{stem}.jsonl").read_bytes().splitlines()]


def files(log: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(log.iterdir())}


# --- the same and not the same -------------------------------------------------------------------------------------


def test_equal_dials_write_equal_bytes_and_another_seed_writes_others(tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        generate(tmp_path / name, World(seed=seed, **SMALL))
    one, again, other = files(tmp_path / "one"), files(tmp_path / "again"), files(tmp_path / "other")
    names = ["clicks.jsonl", "conversions.jsonl", "impressions.jsonl", "settings.toml", "truth.parquet", "world.json"]
    assert list(one) == names
    assert one == again
    assert all(one[name] != other[name] for name in names)


def test_mishaps_change_nothing_about_what_happened(tmp_path: Path) -> None:
    shares = dict.fromkeys(DEFECT_SHARES, 0.1)
    clean = generate(tmp_path / "clean", World.clean(**SMALL))
    dirty = generate(tmp_path / "dirty", World(**SMALL, **shares))
    assert files(tmp_path / "clean")["truth.parquet"] == files(tmp_path / "dirty")["truth.parquet"]
    assert (clean.clicks, clean.conversions, clean.cvr_auc) == (dirty.clicks, dirty.conversions, dirty.cvr_auc)
    assert all(dirty.mishaps.values())
    assert not any(clean.mishaps.values())


def test_ids_of_strangers_are_nobodys() -> None:
    ids = IdSpace(seed=3, use=0)
    taken, strangers = ids.take(20_000), IdSpace.beside(ids).take(20_000)
    assert len(np.unique(np.concatenate((taken, strangers)))) == 40_000


# --- what is shown -------------------------------------------------------------------------------------------------


def test_a_clean_log_holds_every_impression_once_in_the_order_of_time(
    dense: tuple[Path, World, WorldSummary], dense_impressions: list[dict[str, Any]]
) -> None:
    (log, world, summary), impressions = dense, dense_impressions
    truth = truth_of(log)
    assert len(impressions) == len(truth) == summary.impressions == summary.lines["impressions"] == world.impressions
    assert [record["impression_id"] for record in impressions] == truth.impression_id.tolist()
    assert [record["event_time_ms"] for record in impressions] == sorted(truth.event_time_ms.tolist())
    assert len(set(truth.impression_id.tolist())) == len(truth)
    assert all(len(name) == 16 and int(name, 16) >= 0 for name in truth.impression_id.tolist())
    assert world.start_ms <= truth.event_time_ms[0]
    assert truth.event_time_ms[-1] < world.start_ms + 6 * DAY_MS


def test_history_is_what_the_user_was_shown_before(dense_impressions: list[dict[str, Any]]) -> None:
    shown: dict[str, list[tuple[int, str]]] = collections.defaultdict(list)
    full = 0
    for record in dense_impressions:
        features, before = record["features"], shown[record["features"]["user_id"]]
        assert features["recent_items"] == [item for _, item in before[-RECENT:]]
        assert ("recency_hours" in features) == bool(before)
        if before:
            hours = (record["event_time_ms"] - before[-1][0]) / HOUR_MS
            assert abs(features["recency_hours"] - hours) < 6e-4
        full += len(before) >= RECENT
        before.append((record["event_time_ms"], features["item_id"]))
    assert full > 10_000


def test_settings_fit_the_log(dense: tuple[Path, World, WorldSummary], dense_impressions: list[dict[str, Any]]) -> None:
    (log, world, _), impressions = dense, dense_impressions
    settings = parse((log / "settings.toml").read_text())
    assert settings.windows.click_window_ms == world.click_window_ms
    assert settings.windows.attribution_window_ms == world.attribution_window_ms
    assert settings.batching.batch_interval_ms == batch_interval_ms(world)
    assert settings.labels.method == "mature"
    assert len(settings.features) >= 12
    assert {feature.kind for feature in settings.features} == {"categorical", "multi", "sequence", "numeric", "crossed"}
    assert {feature.transform for feature in settings.features} == {"none", "log", "buckets"}
    types = {"categorical": str, "multi": list, "sequence": list, "numeric": (int, float)}
    found: collections.Counter[str] = collections.Counter()
    for record in impressions:
        for feature in settings.features:
            value = record["features"].get(feature.name)
            if value is not None:
                found[feature.name] += 1
                assert isinstance(value, types[feature.kind])
    logged = {feature.name for feature in settings.features if feature.kind != "crossed"}
    assert found.keys() == logged == {name for record in impressions for name in record["features"]}
    missing = {name for name in logged if found[name] < len(impressions)}
    assert missing == {"age", "city", "brand", "quality", "recency_hours"}


@pytest.mark.parametrize(
    "dials",
    [
        {"attribution_window_ms": 900_000},
        {"click_window_ms": 1_000},
        {"out_of_orderness_ms": HOUR_MS},
        {"impressions": 1},
    ],
)
def test_settings_of_odd_worlds_can_be_used(tmp_path: Path, dials: dict[str, int]) -> None:
    generate(tmp_path, World(**(SMALL | {"impressions": 100} | dials)))
    parse((tmp_path / "settings.toml").read_text())


def test_some_items_appear_only_later(tmp_path: Path) -> None:
    first_seen = {}
    for share in (0.0, 0.5):
        log = tmp_path / str(share)
        generate(log, World.clean(**SMALL, new_item_share=share, item_zipf=0.0))
        seen: dict[str, int] = {}
        for record in records(log, "impressions"):
            seen.setdefault(record["features"]["item_id"], record["event_time_ms"])
        first_seen[share] = np.array(list(seen.values()))
    middle = World().start_ms + 1.5 * DAY_MS
    assert (first_seen[0.0] > middle).mean() < 0.02
    assert (first_seen[0.5] > middle).mean() > 0.2


def test_more_than_ten_thousand_items_by_default(tmp_path: Path) -> None:
    generate(tmp_path, World.clean(impressions=20_000))
    items = {record["features"]["item_id"] for record in records(tmp_path, "impressions")}
    assert World().items > 10_000
    assert len(items) > 4_000


def test_traffic_follows_the_clock_and_grows() -> None:
    world = World(impressions=1_000_000, days=4, growth_per_day=0.5, rhythm=0.6)
    edges, counts = impressions_by_step(world)
    assert counts.sum() == 1_000_000
    day = (edges[:-1] - world.start_ms) // DAY_MS
    by_day = np.bincount(day, counts)
    assert by_day[1:] / by_day[:-1] == pytest.approx([1.5] * 3, rel=1e-3)
    hour = edges[:-1] // HOUR_MS % 24
    assert counts[(day == 1) & (hour == 20)].sum() > 3 * counts[(day == 1) & (hour == 8)].sum()


# --- how they answer -----------------------------------------------------------------------------------------------


def facts_by_truth(log: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Click times and conversion times of a clean log in the order of its truth (NaN: none), and the times of impressions."""
    truth = truth_of(log)
    clicks = {record["impression_id"]: record["event_time_ms"] for record in records(log, "clicks")}
    conversions = {record["impression_id"]: record["event_time_ms"] for record in records(log, "conversions")}
    ids = truth.impression_id.tolist()
    clicked = np.array([clicks.get(name, np.nan) for name in ids])
    return clicked, np.array([conversions.get(name, np.nan) for name in ids]), truth.event_time_ms.astype(float)


def test_facts_come_as_often_as_the_truth_says_in_every_tenth(dense: tuple[Path, World, WorldSummary]) -> None:
    log, _, summary = dense
    truth, (click_ms, conversion_ms, _) = truth_of(log), facts_by_truth(log)
    clicked, converted = ~np.isnan(click_ms), ~np.isnan(conversion_ms)
    assert (summary.clicks, summary.conversions) == (clicked.sum(), converted.sum())
    assert not (converted & ~clicked).any()
    for p, y in ((truth.pctr, clicked), (truth.pcvr[clicked], converted[clicked])):
        for rows in np.array_split(np.argsort(p), 10):
            sd = np.sqrt((p[rows] * (1 - p[rows])).sum())
            assert abs(y[rows].sum() - p[rows].sum()) < 4 * sd
    assert summary.mean_pctr == pytest.approx(truth.pctr.mean())
    assert summary.ctr_auc == pytest.approx(roc_auc_score(clicked, truth.pctr))
    assert summary.cvr_auc == pytest.approx(roc_auc_score(converted[clicked], truth.pcvr[clicked]))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_rates_and_attainable_auc_are_those_of_a_real_log(seed: int) -> None:
    # From the law itself, on 30,000 impressions of the default world: expected AUCs, free of the luck of 100 conversions.
    world = World.clean(seed=seed, impressions=30_000)
    rng = np.random.default_rng(seed)
    users, items = draw_users(rng, world), draw_items(rng, world)
    truth = Truth(world, users, items, rng)
    parts = [truth.of(shown) for shown in Traffic(world, users, items, rng).chunks()]
    pctr, pcvr = (np.concatenate([getattr(part, name) for part in parts]) for name in ("pctr", "pcvr"))
    assert pctr.mean() == pytest.approx(0.04, rel=0.12)
    assert (pctr * pcvr).sum() / pctr.sum() == pytest.approx(0.1, rel=0.12)
    assert 0.70 < expected_auc(pctr, np.ones_like(pctr)) < 0.76
    assert 0.72 < expected_auc(pcvr, pctr) < 0.80
    assert 0.3 < np.corrcoef(pctr, pcvr)[0, 1] < 0.9


def expected_auc(p: np.ndarray, weight: np.ndarray) -> float:
    """P(a positive scores above a negative) if labels are drawn from p and rows count by weight."""
    order = np.argsort(p)
    positive, negative = (weight * p)[order], (weight * (1 - p))[order]
    return float((positive * (np.cumsum(negative) - negative / 2)).sum() / (positive.sum() * negative.sum()))


def test_without_signal_probabilities_are_constant(tmp_path: Path) -> None:
    generate(tmp_path, World.clean(**SMALL, signal=0.0))
    truth = truth_of(tmp_path)
    assert np.ptp(truth.pctr) < 1e-12
    assert np.ptp(truth.pcvr) < 1e-12
    assert truth.pctr[0] == pytest.approx(0.3)
    assert truth.pcvr[0] == pytest.approx(0.4)
    assert np.ptp(truth.short_share) > 0.3


def test_delays_follow_their_law_and_depend_on_x(dense: tuple[Path, World, WorldSummary]) -> None:
    log, world, _ = dense
    truth, (click_ms, conversion_ms, shown_ms) = truth_of(log), facts_by_truth(log)
    converted = ~np.isnan(conversion_ms)
    delay_ms, short = (conversion_ms - click_ms)[converted], truth.short_share[converted]
    assert delay_ms.min() >= 0
    assert delay_ms.max() <= world.attribution_window_ms
    assert kolmogorov_distance(mixture_cdf(delay_ms, short, world.attribution_window_ms)) < 1.95 / np.sqrt(
        len(delay_ms)
    )
    # One law for all would be seen: in the half with the larger share of quick ones, half an hour is enough more often.
    quick = short > np.median(short)
    assert (delay_ms[quick] < 0.5 * HOUR_MS).mean() > 1.5 * (delay_ms[~quick] < 0.5 * HOUR_MS).mean()
    assert np.corrcoef(truth.pcvr, truth.short_share)[0, 1] > 0.5
    assert short.mean() == pytest.approx(world.short_share, abs=0.06)
    click_delay_ms = (click_ms - shown_ms)[~np.isnan(click_ms)]
    assert click_delay_ms.min() >= 0
    assert click_delay_ms.max() <= world.click_window_ms
    assert np.median(click_delay_ms) < 60_000
    assert conversion_ms[converted].max() > shown_ms.max() + world.attribution_window_ms / 2  # the log goes on


def mixture_cdf(delay_ms: np.ndarray, short: np.ndarray, window_ms: int) -> np.ndarray:
    """The law of the design, written a second time, for windows of five hours and more."""

    def cut(mean_ms: float) -> np.ndarray:
        return (1 - np.exp(-delay_ms / mean_ms)) / (1 - np.exp(-window_ms / mean_ms))

    middle, uniform = cut(2.5 / 30 * window_ms), delay_ms / window_ms
    return short * cut(10 * 60_000) + (1 - short) * (0.43 * middle + 0.22 * uniform) / 0.65


def kolmogorov_distance(u: np.ndarray) -> float:
    """How far a sample is from uniform on [0, 1]; above 1.95 / sqrt n once in a thousand samples."""
    u, n = np.sort(u), len(u)
    return float(max((np.arange(1, n + 1) / n - u).max(), (u - np.arange(n) / n).max()))


def test_without_contrast_everybody_has_one_delay_law(tmp_path: Path) -> None:
    generate(tmp_path, World.clean(**SMALL, delay_contrast=0.0, short_share=0.2))
    assert truth_of(tmp_path).short_share == pytest.approx(0.2)


@pytest.mark.parametrize(("degrees", "moves"), [(0.0, False), (3.0, True)])
def test_drift_changes_what_features_mean_but_not_the_rates(degrees: float, moves: bool) -> None:
    world = World.clean(**SMALL | {"days": 14}, drift_degrees_per_day=degrees)
    rng = np.random.default_rng(0)
    users, items = draw_users(rng, world), draw_items(rng, world)
    truth, shown = Truth(world, users, items, rng), Traffic(world, users, items, rng).sample(5_000)
    first = replace(shown, event_time_ms=world.start_ms + shown.event_time_ms % DAY_MS)
    last = replace(first, event_time_ms=first.event_time_ms + 13 * DAY_MS)
    before, after = truth.of(first), truth.of(last)
    for name in ("pctr", "pcvr"):
        one, other = getattr(before, name), getattr(after, name)
        assert np.allclose(one, other) is not moves
        if moves:
            assert 0.5 < np.corrcoef(one, other)[0, 1] < 0.97
        assert one.mean() == pytest.approx(other.mean(), rel=0.06)


# --- what goes wrong -----------------------------------------------------------------------------------------------


def mishaps_seen(log: Path, world: World) -> set[str]:
    """Which dials of defects must have been above 0, judged by the files alone."""
    seen = set()
    shown = dict(zip((truth := truth_of(log)).impression_id.tolist(), truth.event_time_ms.tolist(), strict=True))
    end_ms = world.start_ms + world.duration_ms + world.attribution_window_ms
    clicks: dict[str, int] = {}
    for kind, stem in zip(RecordKind, STEMS, strict=True):
        lines = (log / f"{stem}.jsonl").read_bytes().splitlines()
        decoded = EventDecoder(kind, Fields()).decode(lines)
        good = [
            msgspec.json.decode(line)
            for line, event in zip(lines, decoded, strict=True)
            if not isinstance(event, Malformed)
        ]
        past = [record for record in good if record["event_time_ms"] <= end_ms + world.click_window_ms]
        times = np.array([record["event_time_ms"] for record in past])
        behind_ms = np.maximum.accumulate(times) - times
        if len(good) < len(lines):
            seen.add("malformed_share")
        if len(past) < len(good):
            seen.add("future_share")
        if len(set(lines)) < len(lines):
            seen.add("redelivered_share")
        elif ((behind_ms > 0) & (behind_ms <= world.out_of_orderness_ms)).any():
            seen.add("disorder_share")  # a copy that comes later is not counted as disorder of its own
        if len(set(lines)) == len(lines) and (behind_ms > world.out_of_orderness_ms).any():
            seen.add("late_share")
        names = collections.Counter(json.dumps([r["impression_id"], r["event_time_ms"]]) for r in past)
        if stem != "impressions" and len({msgspec.json.decode(name)[0] for name in names}) < len(names):
            seen.add("second_fact_share")
        for record in past:
            name, time_ms = record["impression_id"], record["event_time_ms"]
            if stem == "impressions":
                seen |= {"feature_fault_share"} if isinstance(record["features"]["price"], str) else set()
            elif name not in shown:
                seen.add("orphan_share")
            elif stem == "clicks":
                seen |= {"clock_skew_share"} if time_ms < shown[name] else set()
                seen |= {"out_of_window_share"} if time_ms > shown[name] + world.click_window_ms else set()
                clicks[name] = max(time_ms, shown[name])
            elif name not in clicks:
                seen.add("view_through_share")
            elif time_ms > clicks[name] + world.attribution_window_ms:
                seen.add("out_of_window_share")
    return seen


@pytest.mark.parametrize("dial", [None, *DEFECT_SHARES])
def test_each_dial_brings_its_own_mishap_and_no_other(tmp_path: Path, dial: str | None) -> None:
    world = World.clean(**SMALL, **({} if dial is None else {dial: 0.05}))
    generate(tmp_path, world)
    seen = mishaps_seen(tmp_path, world)
    if dial == "late_share":
        seen -= {"disorder_share"}  # a late record seldom overtakes by seconds alone, but it may
    assert seen == ({dial} if dial else set())


def test_all_mishaps_are_there_by_default(tmp_path: Path) -> None:
    summary = generate(tmp_path, World(impressions=20_000, ctr=0.2, cvr=0.4))
    assert all(summary.mishaps.values()), summary.mishaps


def test_disorder_within_the_bound_never_exceeds_it_and_lateness_does(tmp_path: Path) -> None:
    # An impression every nine seconds: what is late finds its file's clock at most a few of these behind its arrival.
    dials = SMALL | {"days": 0.5}
    world = World.clean(**dials, disorder_share=0.5)
    generate(tmp_path / "bounded", world)
    generate(tmp_path / "late", World.clean(**dials, late_share=0.05, late_beyond_closing_share=1.0))
    behind = {}
    for name in ("bounded", "late"):
        times = np.array([record["event_time_ms"] for record in records(tmp_path / name, "impressions")])
        behind[name] = np.maximum.accumulate(times) - times
    assert 0 < behind["bounded"].max() <= world.out_of_orderness_ms
    late = (behind["late"] > 0) & (
        times < world.start_ms + 5 * HOUR_MS
    )  # at the end nothing comes that they could be behind
    assert 50 < late.sum() < 200
    assert behind["late"][late].min() > world.click_window_ms  # their impressions have closed


def test_stamps_from_the_future_stand_alone(tmp_path: Path) -> None:
    world = World.clean(**SMALL, future_share=0.5)
    generate(tmp_path, world)
    for stem in STEMS:
        times = np.array([record["event_time_ms"] for record in records(tmp_path, stem)])
        wrong = np.flatnonzero(times > world.start_ms + world.duration_ms + world.attribution_window_ms + DAY_MS / 2)
        assert len(wrong) >= 2
        assert np.diff(wrong).min() > 32


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", list(RecordKind))
def test_every_damage_makes_a_line_unreadable(
    dense: tuple[Path, World, WorldSummary], damage: Any, kind: RecordKind
) -> None:
    with (dense[0] / f"{kind.stem}.jsonl").open("rb") as file:
        line = file.readline()
    decoder = EventDecoder(kind, Fields())
    assert not isinstance(decoder.decode([line])[0], Malformed)
    assert damage(line).count(b"\n") == 1
    assert isinstance(decoder.decode([damage(line)])[0], Malformed)


# --- how it is asked for -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dials", "message"),
    [
        ({"seed": -1}, "seed must be a whole number of 0 or more .got -1.: random numbers start from it"),
        ({"impressions": 0}, "impressions must be a whole number of 1 or more"),
        ({"impressions": 1e6}, "impressions must be a whole number"),
        ({"items": 10}, "items must be a whole number of 100 or more"),
        ({"cvr": 1.0}, "cvr must lie between 0 and 1, both excluded"),
        ({"late_share": 1.5}, "late_share must lie between 0 and 1 .got 1.5."),
        ({"signal": float("nan")}, "signal must lie between 0 and 3"),
        ({"days": 0}, "days must lie between 0.01 and 3650"),
        ({"growth_per_day": 11}, "growth_per_day must lie between"),
        ({"start_ms": 1_767_571_200}, "looks like seconds"),
        ({"attribution_window_ms": 1.5}, "attribution_window_ms must be a whole number from 60000 ms"),
        ({"attribution_window_ms": 60_000}, "attribution_window_ms must be at least click_window_ms = 900000"),
        ({"out_of_orderness_ms": 0}, "there is no room for disorder"),
        ({"clock_skew_ms": 0}, "no stamp could be off"),
    ],
)
def test_a_dial_out_of_range_is_refused_by_name(dials: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        World(**dials)


def test_the_dials_are_kept_beside_the_log(dense: tuple[Path, World, WorldSummary]) -> None:
    log, world, _ = dense
    assert msgspec.json.decode((log / "world.json").read_bytes(), type=World) == world


def test_a_log_is_never_written_over(dense: tuple[Path, World, WorldSummary]) -> None:
    with pytest.raises(FileExistsError, match=r"already holds impressions\.jsonl: give an empty or new directory"):
        generate(dense[0], World())


def test_truth_is_asked_of_a_simulated_log_only(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no truth.parquet"):
        truth_of(tmp_path)


def test_progress_climbs_to_the_number_of_impressions(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    generate(tmp_path, World.clean(impressions=40_000, days=1, users=100, items=100), lambda *at: told.append(at))
    assert len(told) >= 2
    assert told == sorted(told)
    assert told[-1] == (40_000, 40_000)


def test_a_world_in_which_nobody_clicks_is_a_log_all_the_same(tmp_path: Path) -> None:
    summary = generate(tmp_path, World.clean(impressions=5, ctr=1e-9))
    assert (summary.clicks, summary.mean_pcvr, summary.ctr_auc, summary.cvr_auc) == (0, None, None, None)
    assert (tmp_path / "clicks.jsonl").read_bytes() == (tmp_path / "conversions.jsonl").read_bytes() == b""
