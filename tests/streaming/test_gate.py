"""Which versions are refused, and why."""

import math

import numpy as np
import pytest
import torch

from streaming.gate import Compared, coverage_of, refusal
from streaming.metrics import IngestFigures
from streaming.publication import Gate

TENSORS = {
    "dense.bias": torch.tensor([3.0, -4.0]),
    "table_2.ids": torch.tensor([7, 8]),
    "table_2.vectors": torch.tensor([[0.0, 1.0], [3.0, 4.0]]),
}
NOTHING = Compared(np.zeros(0, np.bool_), np.zeros(0), np.zeros(0))


def compared(pcvr, served=math.nan, conversions=100, clicks=1_000):
    converted = np.arange(clicks) < conversions
    return Compared(converted, np.full(clicks, pcvr), np.full(clicks, served))


def reason(found):
    return None if found is None else found.reason


def test_without_rules_all_passes_that_is_finite():
    assert refusal(Gate(), TENSORS, compared(0.9, 0.1), 0.0) is None


@pytest.mark.parametrize("name", ["dense.bias", "table_2.vectors"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_and_infinity_never_pass(name, bad):
    broken = dict(TENSORS) | {name: TENSORS[name].clone()}
    broken[name].view(-1)[1] = bad
    found = refusal(Gate(), broken, NOTHING, None)
    assert (reason(found), found.says) == ("not_finite", f"{name} holds NaN or infinity")


@pytest.mark.parametrize(
    ("most", "says"),
    [
        (6.0, None),
        (4.9, "the row of id 8 in table_2 has a norm of 5, gate"),
        (3.5, "dense.bias has a root mean square of 3.54"),
    ],
)
def test_rows_and_dense_tensors_beyond_the_norm_are_refused(most, says):
    found = refusal(Gate(row_norm_most=most), TENSORS, NOTHING, None)
    assert reason(found) == (None if says is None else "norm")
    assert found is None or found.says.startswith(says)


def test_rows_of_bytes_are_measured_as_what_they_stand_for():
    packed = {
        "table_2.ids": torch.tensor([7]),
        "table_2.vectors": torch.tensor([[127, 0]], dtype=torch.int8),
        "table_2.scales": torch.tensor([1.0]),
    }
    assert reason(refusal(Gate(row_norm_most=126.0), packed, NOTHING, None)) == "norm"
    assert refusal(Gate(row_norm_most=128.0), packed, NOTHING, None) is None


@pytest.mark.parametrize(
    ("pcvr", "clicks", "expected"),
    [(0.1, 1_000, None), (0.16, 1_000, "calibration"), (0.06, 1_000, "calibration"), (0.9, 199, None)],
    ids=["right", "too high", "too low", "too few to tell"],
)
def test_calibration_out_of_bounds_is_refused(pcvr, clicks, expected):
    rules = Gate(calibration_least=0.7, calibration_most=1.5)
    assert reason(refusal(rules, TENSORS, compared(pcvr, clicks=clicks, conversions=clicks // 10), None)) == expected


def test_without_a_conversion_there_is_no_calibration():
    assert refusal(Gate(calibration_most=1.5), TENSORS, compared(0.1, conversions=0), None) is None


@pytest.mark.parametrize(
    ("pcvr", "served", "expected"),
    [(0.1, 0.1, None), (0.1, 0.3, None), (0.3, 0.1, "log_loss"), (0.3, math.nan, None), (0.0, 0.1, "log_loss")],
    ids=["as good", "better", "worse", "nothing to compare with", "sure and wrong"],
)
def test_a_log_loss_worse_than_that_of_the_version_served_is_refused(pcvr, served, expected):
    assert reason(refusal(Gate(log_loss_ratio_most=1.05), TENSORS, compared(pcvr, served), None)) == expected


@pytest.mark.parametrize(("coverage", "expected"), [(0.95, None), (0.85, "coverage"), (None, None)])
def test_a_join_that_loses_too_much_is_refused(coverage, expected):
    assert reason(refusal(Gate(join_coverage_least=0.9), TENSORS, NOTHING, coverage)) == expected


def test_coverage_is_the_share_of_clicks_and_conversions_that_were_neither_late_nor_orphans():
    figures = IngestFigures(
        events={"impression": 900, "click": 80, "conversion": 20},
        side_outputs={"late": {"click": 3, "impression": 50}, "orphans": {"conversion": 2}, "duplicates": {"click": 9}},
    )
    assert coverage_of(figures) == 0.95
    assert coverage_of(IngestFigures()) is None
