"""Maps on the logit: rising, finite, and read the same from their tensors."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.logit_map import LogitMap, logit, probability

numbers = st.floats(-30, 30)


@st.composite
def maps(draw):
    at = sorted(draw(st.lists(st.integers(-300, 300), max_size=6, unique=True)))
    to = sorted(draw(st.lists(numbers, min_size=len(at), max_size=len(at))))
    return LogitMap(at=np.array(at) / 10, to=np.array(to), slope=draw(st.floats(0.1, 10)))


@settings(deadline=None, max_examples=200)
@given(maps(), st.lists(numbers, min_size=1, max_size=20))
def test_a_map_rises_and_its_knots_lead_where_they_say(mapped, logits):
    read = mapped.read(np.sort(logits))
    assert (np.diff(read) >= 0).all()
    assert np.isfinite(read).all()
    np.testing.assert_allclose(mapped.read(mapped.at), mapped.to, atol=1e-13)


@settings(deadline=None, max_examples=100)
@given(maps(), st.lists(numbers, min_size=1, max_size=20))
def test_between_knots_lines_are_straight(mapped, logits):
    def by_hand(s):
        at, to = mapped.at, mapped.to
        if not len(at):
            return s
        if s <= at[0]:
            return to[0] + mapped.slope * (s - at[0])
        if s >= at[-1]:
            return to[-1] + mapped.slope * (s - at[-1])
        right = next(k for k in range(len(at)) if at[k] > s)
        return to[right - 1] + (s - at[right - 1]) / (at[right] - at[right - 1]) * (to[right] - to[right - 1])

    np.testing.assert_allclose(mapped.read(np.array(logits)), [by_hand(s) for s in logits], atol=1e-9)


@settings(deadline=None, max_examples=50)
@given(maps())
def test_tensors_give_every_bit_back(mapped):
    again = LogitMap.of_tensors(mapped.tensors())
    p = np.linspace(0, 1, 30)
    np.testing.assert_array_equal(again.apply(p), mapped.apply(p))
    assert all(tensor.dtype == torch.float64 for tensor in mapped.tensors().values())


def test_no_knots_change_no_bit():
    p = np.array([0.0, 1e-300, 0.1, 1 / 3, 1.0])
    assert LogitMap().is_identity
    np.testing.assert_array_equal(LogitMap().apply(p), p)


def test_certain_predictions_stay_finite_and_inside():
    steep = LogitMap(at=np.array([0.0]), to=np.array([0.0]), slope=50.0)
    ends = steep.apply([0.0, 1e-320, 0.5, 1.0])
    assert np.isfinite(ends).all()
    assert (ends >= 0).all()
    assert (ends <= 1).all()


@given(st.floats(-27, 27))
def test_logit_undoes_probability(s):
    # Near 1 the last bit of p is worth 1e-16 / (1 - p) on the logit.
    assert logit(probability(np.array(s))) == pytest.approx(s, abs=1e-12 + 4e-16 * np.exp(max(s, 0)))


@pytest.mark.parametrize(
    ("at", "to", "slope", "message"),
    [
        ([0.0, 0.0], [0.0, 1.0], 1.0, r"knots must ascend"),
        ([0.0, 1.0], [1.0, 0.0], 1.0, r"knots must ascend"),
        ([0.0], [0.0, 1.0], 1.0, r"at and to must be two rows of one length \(got shapes \(1,\) and \(2,\)\)"),
        ([np.inf], [0.0], 1.0, r"knots must be finite"),
        ([0.0], [np.nan], 1.0, r"knots must be finite"),
        ([0.0], [0.0], 0.0, r"slope above 0 and finite"),
    ],
)
def test_a_map_that_would_not_rise_is_refused(at, to, slope, message):
    with pytest.raises(ValueError, match=message):
        LogitMap(at=np.array(at), to=np.array(to), slope=slope)
