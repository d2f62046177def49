"""The ranking score: a product of powers, by a second writing; factors that cannot be used are refused by name."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.ranking import RankingError, ranking_scores
from streaming.serving import LEAST_FACTOR, MOST_EXPONENTS, MOST_FACTOR, Serving

EXPONENTS = st.floats(-MOST_EXPONENTS / 2, MOST_EXPONENTS / 2)
FACTORS = st.floats(LEAST_FACTOR, MOST_FACTOR)


@given(
    a=st.floats(0, 5), b=st.floats(0, 5), one=EXPONENTS, other=EXPONENTS,
    items=st.lists(st.tuples(st.floats(1e-6, 1), st.floats(1e-6, 1), FACTORS, FACTORS), min_size=1, max_size=5),
)  # fmt: skip
def test_it_is_the_product_written_out(a, b, one, other, items):
    serving = Serving(pctr_exponent=a, pcvr_exponent=b, factors={"bid": one, "boost": other})
    pctr, pcvr = np.array([item[0] for item in items]), np.array([item[1] for item in items])
    found = ranking_scores(serving, pctr, pcvr, [{"bid": x, "boost": y} for _, _, x, y in items])
    assert np.isfinite(found).all()
    for score, (p, q, x, y) in zip(found, items, strict=True):
        log = a * math.log(p) + b * math.log(q) + one * math.log(x) + other * math.log(y)
        if log > -700:
            assert score == pytest.approx(math.exp(log), rel=1e-9)


def test_without_items_there_are_no_scores():
    assert len(ranking_scores(Serving(factors={"bid": 1.0}), np.zeros(0), np.zeros(0), [])) == 0


@pytest.mark.parametrize("given_", [None, [{}], [{"bid": math.nan}], [{"bid": math.inf}], [{"bid": 1.0, "other": 1.0}]])
def test_factors_that_are_not_those_of_the_settings_are_refused(given_):
    with pytest.raises(RankingError, match=r"items\[0\].factors.(bid must be a number|other is unknown)"):
        ranking_scores(Serving(factors={"bid": 1.0}), np.ones(1), np.ones(1), given_)
