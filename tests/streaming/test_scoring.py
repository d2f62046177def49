"""One prediction an impression, scored when its labels are final; totals a perfect model looks perfect in."""

import math
from collections import defaultdict
from itertools import pairwise

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming.events import Impression, Served
from streaming.examples import Example, Examples, Kind, Slot
from streaming.hourly import HOUR_MS
from streaming.scoring import Prediction, Scoreboard, ScoreboardState, delay_edges

T0 = 472_222 * HOUR_MS
CLICK_WINDOW = 900_000
ATTRIBUTION = 4 * HOUR_MS


def scoreboard(attribution_window_ms=ATTRIBUTION):
    return Scoreboard(click_window_ms=CLICK_WINDOW, attribution_window_ms=attribution_window_ms)


def impression(name, at=T0, served=None):
    return Impression(name, at, msgspec.Raw(b"{}"), served)


def unclicked(shown):
    return Example(shown.event_time_ms + CLICK_WINDOW, Kind.UNCLICKED, Slot.CLICK, 0, shown)


def clicked(shown, click_ms):
    return Example(shown.event_time_ms + CLICK_WINDOW, Kind.CLICKED, Slot.CLICK, 0, shown, click_ms)


def oracle(shown, click_ms, *, converted):
    return Example(click_ms, Kind.ORACLE, Slot.OBSERVED, 0, shown, click_ms, None, converted)


def matured(shown, click_ms, *, converted):
    return Example(click_ms + ATTRIBUTION, Kind.MATURED, Slot.SETTLED, 0, shown, click_ms, None, converted)


def outcome(shown, click_ms, conversion_ms=None, attribution=ATTRIBUTION):
    converted = conversion_ms is not None
    return Example(click_ms + attribution, Kind.OUTCOME, Slot.OUTCOME, 0, shown, click_ms, conversion_ms, converted)


def in_order(examples):
    return sorted(examples, key=lambda e: (e.due_ms, e.impression.impression_id, e.slot))


def world(n, hours, seed, *, served_share=0.0, ctr=0.15, cvr=0.4):
    """(examples in the order in which they leave, impression_id -> planted pctr, pcvr)."""
    rng = np.random.default_rng(seed)
    examples, truth = [], {}
    for number, at in enumerate(np.sort(rng.integers(0, hours * HOUR_MS, n)).tolist()):
        pctr, pcvr = min(ctr * rng.gamma(4) / 4, 0.9), min(cvr * rng.gamma(4) / 4, 0.9)
        served = Served(pctr / 2, pcvr / 2) if rng.random() < served_share else None
        shown = impression(f"i-{number}", T0 + at, served)
        truth[shown.impression_id] = pctr, pcvr
        if rng.random() >= pctr:
            examples.append(unclicked(shown))
            continue
        click = shown.event_time_ms + int(rng.integers(0, CLICK_WINDOW))
        conversion = click + int(rng.integers(0, ATTRIBUTION)) if rng.random() < pcvr else None
        examples += [clicked(shown, click), outcome(shown, click, conversion)]
        examples.append(matured(shown, click, converted=conversion is not None))
        if rng.random() < 0.3:
            examples.append(oracle(shown, click, converted=conversion is not None))
    return in_order(examples), truth


def teach(board, examples, truth):
    """Predicts the planted truth at an impression's first example, and nonsense after it."""
    seen = board.__dict__.setdefault("seen_by_test", set())
    p = [
        truth[e.impression.impression_id] if e.impression.impression_id not in seen else (0.77, 0.77) for e in examples
    ]
    seen.update(e.impression.impression_id for e in examples)
    return predict(board, examples, [a for a, _ in p], [b for _, b in p])


def predict(board, examples, pctr, pcvr):
    return board.predict(Examples.of(examples), pctr, pcvr).each()


def brute_force(examples, truth, watermark):
    """(task, whose) -> labels and predictions of what counts at the watermark; the second writing."""
    due_before = [e for e in examples if e.due_ms < watermark]
    final = {e.impression.impression_id: e for e in due_before if e.kind == Kind.OUTCOME}
    found = defaultdict(list)
    for example in due_before:
        shown = example.impression
        pctr, pcvr = truth[shown.impression_id]
        whose = "model"
        if shown.served is not None:
            pctr, pcvr, whose = shown.served.pctr, shown.served.pcvr, "served"
        settled = shown.event_time_ms // HOUR_MS * HOUR_MS + HOUR_MS + CLICK_WINDOW
        if example.kind in (Kind.UNCLICKED, Kind.CLICKED) and watermark > settled:
            found["ctr", whose].append((pctr, example.kind == Kind.CLICKED))
        if example.kind in (Kind.UNCLICKED, Kind.CLICKED) and watermark > settled + ATTRIBUTION:
            outcome_of = final.get(shown.impression_id)
            found["ctcvr", whose].append((pctr * pcvr, outcome_of is not None and outcome_of.converted))
        if example.kind == Kind.OUTCOME:
            found["cvr", whose].append((pcvr, example.converted))
    return found


@pytest.mark.parametrize("batch_size", [1, 7, 10_000])
def test_totals_are_those_of_a_second_writing_at_any_watermark(batch_size):
    examples, truth = world(300, 6, seed=1, served_share=0.3)
    for watermark in range(T0, examples[-1].due_ms + 8 * HOUR_MS, 3 * HOUR_MS + 1):
        board, known = scoreboard(), [e for e in examples if e.due_ms < watermark]
        for start in range(0, len(known), batch_size):
            teach(board, known[start : start + batch_size], truth)
        found, expected = board.metrics(watermark).tasks, brute_force(examples, truth, watermark)
        for task in ("ctr", "cvr", "ctcvr"):
            for whose in ("model", "served"):
                pairs = expected[task, whose]
                figures = found.get(task, {}).get(whose)
                assert (0 if figures is None else figures.n) == len(pairs)
                if pairs:
                    assert figures.sum_p == pytest.approx(sum(p for p, _ in pairs), rel=1e-12)
                    assert figures.sum_y == sum(y for _, y in pairs)
                    nats = -sum(math.log(p if y else 1 - p) for p, y in pairs)
                    assert figures.sum_log_loss == pytest.approx(nats, rel=1e-9)


def test_every_impression_gets_one_prediction_in_the_order_of_its_first_example():
    examples, truth = world(300, 3, seed=2, served_share=0.2)
    board = scoreboard()
    made = [p for start in range(0, len(examples), 50) for p in teach(board, examples[start : start + 50], truth)]
    firsts = list(dict.fromkeys(e.impression.impression_id for e in examples))
    assert [prediction.impression_id for prediction in made] == firsts
    model = {p.impression_id: (p.pctr, p.pcvr) for p in made if p.whose == "model"}
    assert model == {name: truth[name] for name in model}
    served = {p.impression_id: (p.pctr, p.pcvr) for p in made if p.whose == "served"}
    assert served == {name: (truth[name][0] / 2, truth[name][1] / 2) for name in served}
    assert model
    assert served
    assert board.metrics(None).open_predictions == 0


def test_what_the_model_says_later_is_ignored():
    shown, board = impression("i-1"), scoreboard()
    first = predict(board, [oracle(shown, T0 + 5, converted=True)], [0.1], [0.2])
    assert first == [Prediction("i-1", T0, 0.1, 0.2, "model")]
    assert predict(board, [clicked(shown, T0 + 5)], [0.9], [0.9]) == []
    assert predict(board, [outcome(shown, T0 + 5, T0 + 9)], [0.8], [0.8]) == []
    tasks = board.metrics(T0 + 100 * HOUR_MS).tasks
    assert {task: tasks[task]["model"].sum_p for task in tasks} == {"ctr": 0.1, "cvr": 0.2, "ctcvr": 0.1 * 0.2}


def test_a_served_prediction_that_is_no_probability_is_not_scored():
    board = scoreboard()
    made = predict(board, [unclicked(impression("i-1", served=Served(1.5, 0.1)))], [0.3], [0.2])
    assert made == [Prediction("i-1", T0, 0.3, 0.2, "model")]


def test_an_outcome_before_the_click_window_ends_waits_for_the_click():
    # impression 0 ---- click 1 s ---- outcome 61 s ---- CLICKED 15 min
    board = scoreboard(attribution_window_ms=60_000)
    shown, click = impression("i-1"), T0 + 1_000
    predict(board, [outcome(shown, click, click + 9, attribution=60_000)], [0.1], [0.2])
    assert board.metrics(None).open_predictions == 1
    assert predict(board, [clicked(shown, click)], [0.9], [0.9]) == []
    assert board.metrics(None).open_predictions == 0
    assert board.metrics(T0 + 9 * HOUR_MS).tasks["ctcvr"]["model"].sum_y == 1


def test_a_click_from_before_the_run_counts_for_cvr_alone():
    board = scoreboard()
    predict(board, [outcome(impression("i-1"), T0 + 5, T0 + 9)], [0.1], [0.2])
    tasks = board.metrics(T0 + 100 * HOUR_MS).tasks
    assert list(tasks) == ["cvr"]
    assert board.metrics(None).open_predictions == 0


def test_cvr_enters_at_once_and_the_others_when_the_hour_is_complete():
    board, shown = scoreboard(), impression("i-1")
    ctr_known, all_known = T0 + HOUR_MS + CLICK_WINDOW, T0 + HOUR_MS + CLICK_WINDOW + ATTRIBUTION

    def entered(watermark):
        tasks = board.metrics(watermark).tasks
        return {task: tasks[task]["model"].n for task in tasks}

    predict(board, [clicked(shown, T0)], [0.1], [0.2])
    assert [entered(at) for at in (None, ctr_known, ctr_known + 1)] == [{"ctr": 0}, {"ctr": 0}, {"ctr": 1}]
    predict(board, [outcome(shown, T0)], [0.9], [0.9])
    assert entered(T0 + ATTRIBUTION + 1) == {"ctr": 1, "cvr": 1, "ctcvr": 0}
    assert entered(all_known) == {"ctr": 1, "cvr": 1, "ctcvr": 0}
    assert entered(all_known + 1) == {"ctr": 1, "cvr": 1, "ctcvr": 1}
    complete = {hour.task: hour.is_complete for hour in board.metrics(ctr_known + 1).hours}
    assert complete == {"ctr": True, "cvr": False, "ctcvr": False}


def test_a_perfect_model_is_calibrated_in_totals_at_every_moment_and_not_in_the_rows_seen_so_far():
    examples, truth = world(12_000, 24, seed=3)
    board, moments, worst_so_far = scoreboard(), 0, 0.0
    for watermark in range(T0 + HOUR_MS, T0 + 36 * HOUR_MS, HOUR_MS // 2):
        teach(board, [e for e in examples if watermark - HOUR_MS // 2 <= e.due_ms < watermark], truth)
        metrics = board.metrics(watermark)
        for task, by_whose in metrics.tasks.items():
            figures = by_whose["model"]
            if figures.sum_y >= 30:
                moments += 1
                assert abs(figures.calibration - 1) < 4 / math.sqrt(figures.sum_y), (task, watermark)
        rows = [hour for hour in metrics.hours if hour.task == "ctcvr"]
        positives = sum(hour.sum_y for hour in rows)
        if positives >= 30:
            worst_so_far = max(worst_so_far, sum(hour.sum_p for hour in rows) / positives - 1)
    assert moments > 100
    assert worst_so_far > 1  # what totals over incomplete hours would have said of the same model


def test_hours_hold_every_scored_row_and_say_which_are_complete():
    examples, truth = world(400, 5, seed=4)
    board = scoreboard()
    teach(board, examples, truth)
    watermark = T0 + 3 * HOUR_MS + CLICK_WINDOW + ATTRIBUTION + 1
    metrics = board.metrics(watermark)
    ctcvr = [hour for hour in metrics.hours if hour.task == "ctcvr"]
    assert [hour.hour_ms for hour in ctcvr] == [T0 + k * HOUR_MS for k in range(5)]
    assert sum(hour.n for hour in ctcvr) == 400
    assert [hour.is_complete for hour in ctcvr] == [True, True, True, False, False]
    assert sum(hour.n for hour in ctcvr if hour.is_complete) == metrics.tasks["ctcvr"]["model"].n


def json_of(state):
    return msgspec.json.decode(msgspec.json.encode(state), type=ScoreboardState)


def msgpack_of(state):
    return msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=ScoreboardState)


WORLD = world(250, 12, seed=5, served_share=0.2)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, len(WORLD[0])), st.sampled_from([json_of, msgpack_of]))
def test_restored_at_any_cut_it_ends_with_the_same_bits(cut, carried):
    examples, truth = WORLD
    straight, until, after = scoreboard(), scoreboard(), scoreboard()
    teach(straight, examples[:cut], truth)
    teach(until, examples[:cut], truth)
    after.restore(carried(until.snapshot()))
    after.__dict__["seen_by_test"] = until.__dict__["seen_by_test"]
    for board in (straight, after):
        teach(board, examples[cut:], truth)
    watermark = examples[-1].due_ms - 3 * HOUR_MS
    assert msgspec.json.encode(after.snapshot()) == msgspec.json.encode(straight.snapshot())
    assert msgspec.json.encode(after.metrics(watermark)) == msgspec.json.encode(straight.metrics(watermark))
    assert (after.outcomes, after.positive_outcomes) == (straight.outcomes, straight.positive_outcomes)


@settings(deadline=None, max_examples=15)
@given(st.sets(st.integers(1, len(WORLD[0]) - 1), max_size=20))
def test_any_split_into_batches_gives_the_same_bits(cuts):
    examples, truth = WORLD
    whole, split = scoreboard(), scoreboard()
    teach(whole, examples, truth)
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(examples)], strict=True):
        teach(split, examples[start:end], truth)
    for watermark in (examples[-1].due_ms - 6 * HOUR_MS, examples[-1].due_ms + 24 * HOUR_MS):
        assert msgspec.json.encode(split.metrics(watermark)) == msgspec.json.encode(whole.metrics(watermark))


def test_asking_changes_nothing_and_a_snapshot_does_not_change():
    examples, truth = WORLD
    board = scoreboard()
    teach(board, examples[:150], truth)
    state = board.snapshot()
    before = msgspec.json.encode(state)
    board.metrics(examples[-1].due_ms)
    assert msgspec.json.encode(board.snapshot()) == before
    teach(board, examples[150:], truth)
    assert msgspec.json.encode(state) == before


def test_an_hour_long_complete_keeps_four_figures_and_no_buckets():
    board = scoreboard()
    predict(board, [unclicked(impression("i-1"))], [0.1], [0.2])
    full = len(board.snapshot().sums[0][2].open)
    predict(board, [unclicked(impression("i-2", T0 + 99 * HOUR_MS))], [0.1], [0.2])
    (_, _, ctr), *_ = board.snapshot().sums
    assert (full, [hour for hour, _ in ctr.open], [hour for hour, *_ in ctr.folded]) == (1, [T0 + 99 * HOUR_MS], [T0])


def test_a_row_that_follows_its_folded_hour_still_counts():
    board = scoreboard()
    predict(board, [unclicked(impression("i-1"))], [0.1], [0.2])
    predict(board, [unclicked(impression("i-2", T0 + 99 * HOUR_MS))], [0.1], [0.2])
    predict(board, [unclicked(impression("i-3", T0 + 1))], [0.25], [0.2])  # of a partition that lags behind
    metrics = board.metrics(T0 + 99 * HOUR_MS)
    assert metrics.tasks["ctr"]["model"].sum_p == 0.1 + 0.25
    assert next(hour.n for hour in metrics.hours if hour.task == "ctr" and hour.hour_ms == T0) == 2


def test_outcomes_are_counted_with_their_delays():
    board = scoreboard()
    delays = [0, 999, 1_000, 3_999, ATTRIBUTION]
    for number, delay in enumerate(delays):
        shown = impression(f"i-{number}")
        predict(board, [clicked(shown, T0), outcome(shown, T0, T0 + delay)], [0.1] * 2, [0.2] * 2)
    shown = impression("i-none")
    predict(board, [clicked(shown, T0), outcome(shown, T0)], [0.1] * 2, [0.2] * 2)
    metrics = board.metrics(None)
    assert (board.outcomes, board.positive_outcomes) == (6, 5)
    assert metrics.delay_edges_ms == delay_edges(ATTRIBUTION)
    edges = [*metrics.delay_edges_ms, math.inf]
    expected = [sum(low <= d < high for d in delays) for low, high in pairwise(edges)]
    assert metrics.delay_counts == expected


def test_an_empty_batch_changes_nothing():
    board = scoreboard()
    assert predict(board, [], [], []) == []
    assert board.metrics(T0).tasks == {}


@pytest.mark.parametrize(
    ("pctr", "pcvr", "match"),
    [
        ([math.nan], [0.1], r"rows_pctr\[0\] must be a probability.*nan.*exploded"),
        ([0.1], [1.5], r"rows_pcvr\[0\] must be a probability"),
        ([0.1, 0.2], [0.1], "rows_pctr must hold one probability for each of the 1 examples"),
    ],
)
def test_a_prediction_that_is_no_probability_is_refused_before_anything_changes(pctr, pcvr, match):
    board = scoreboard()
    before = msgspec.json.encode(board.snapshot())
    with pytest.raises(ValueError, match=match):
        predict(board, [clicked(impression("i-1"), T0)], pctr, pcvr)
    assert msgspec.json.encode(board.snapshot()) == before


def test_a_snapshot_from_another_attribution_window_is_refused():
    with pytest.raises(ValueError, match=r"delays in .* bins.*settings it was made with"):
        scoreboard(attribution_window_ms=60_000).restore(scoreboard().snapshot())
