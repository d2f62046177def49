"""The papers' two heads against planted probabilities."""

import numpy as np
import pytest

from models.batch import Inputs
from models.delay_heads import TwoHeads
from models.schema import Feature

FEATURES = [Feature(name="campaign", kind="categorical"), Feature(name="noise", kind="categorical")]
CVR = np.array([0.05, 0.1, 0.2, 0.4, 0.6])
SURVIVAL = np.array([0.8, 0.2, 0.5, 0.7, 0.3])


def clicks(n, seed):
    rng = np.random.default_rng(seed)
    ids = np.stack([rng.integers(0, 5, n), 100 + rng.integers(0, 200, n)], axis=1)
    inputs = Inputs(ids, np.zeros(0, np.int64), np.zeros(1, np.int64), np.zeros((n, 0), np.float32))
    converted = rng.random(n) < CVR[ids[:, 0]]
    observed = converted & (rng.random(n) >= SURVIVAL[ids[:, 0]])
    return inputs, observed, converted


def fitted(n=20_000, parts=1):
    heads = TwoHeads(FEATURES)
    inputs, observed, converted = clicks(n, seed=1)
    for some in np.array_split(np.arange(n), parts):
        part = Inputs(inputs.ids[some], inputs.bag_ids, inputs.bag_offsets, inputs.numbers[some])
        heads.fit(part, observed=observed[some], converted=converted[some])
    return heads


def test_the_heads_find_the_planted_probabilities():
    inputs, _, _ = clicks(2000, seed=2)
    campaign = inputs.ids[:, 0]
    dp = (CVR * SURVIVAL)[campaign]
    rn = ((1 - CVR) / (1 - CVR + CVR * SURVIVAL))[campaign]
    predicted = fitted().predict(inputs)
    assert np.abs(predicted.dp - dp).mean() < 0.02
    assert np.abs(predicted.rn - rn).mean() < 0.025
    assert ((predicted.dp > 0) & (predicted.dp < 1) & (predicted.rn > 0) & (predicted.rn < 1)).all()


def test_unfitted_heads_have_the_rates_of_the_prior():
    inputs, _, _ = clicks(3, seed=3)
    predicted = TwoHeads(FEATURES, prior_cvr=0.2).predict(inputs)
    np.testing.assert_allclose(predicted.dp, 0.1)
    np.testing.assert_allclose(predicted.rn, 0.8 / 0.9)


def test_fitted_heads_are_given_back_bit_for_bit():
    heads, copy = fitted(3000), TwoHeads(FEATURES)
    copy.restore(heads.snapshot())
    inputs, observed, converted = clicks(500, seed=4)
    for one in (heads, copy):
        one.fit(inputs, observed=observed, converted=converted)
    assert heads.predict(inputs).dp.tobytes() == copy.predict(inputs).dp.tobytes()
    assert heads.predict(inputs).rn.tobytes() == copy.predict(inputs).rn.tobytes()


def test_history_in_many_parts_teaches_what_it_teaches_at_once():
    inputs, _, _ = clicks(500, seed=5)
    once, often = fitted(parts=1).predict(inputs), fitted(parts=37).predict(inputs)
    np.testing.assert_allclose(once.dp, often.dp, atol=0.02)
    np.testing.assert_allclose(once.rn, often.rn, atol=0.02)


def test_heads_are_taught_once_they_have_seen_twenty_late_conversions():
    heads, (inputs, _, _) = TwoHeads(FEATURES), clicks(19, seed=8)
    late, none = np.ones(19, np.bool_), np.zeros(19, np.bool_)
    heads.fit(inputs, observed=late, converted=late)  # all of them early: nothing was late
    heads.fit(inputs, observed=none, converted=late)
    assert not heads.is_taught
    heads.fit(clicks(1, seed=9)[0], observed=none[:1], converted=late[:1])
    assert heads.is_taught
    copy = TwoHeads(FEATURES)
    copy.restore(heads.snapshot())
    assert copy.is_taught


def test_what_was_learned_long_ago_weighs_less():
    def after(half_life_ms):
        heads, (inputs, _, _) = TwoHeads([], half_life_ms=half_life_ms), clicks(2000, seed=10)
        none = np.zeros(2000, np.bool_)
        order = np.arange(2000) % 10
        heads.fit(inputs, observed=none, converted=order < 4, at_ms=0)
        heads.fit(inputs, observed=none, converted=order < 1, at_ms=1000)
        return heads.predict(inputs).dp.mean()

    assert after(10**9) == pytest.approx(0.25, abs=0.03)
    assert after(100) == pytest.approx(0.1, abs=0.02)


def test_no_clicks_are_no_harm():
    inputs, observed, converted = clicks(0, seed=6)
    heads = TwoHeads(FEATURES)
    heads.fit(inputs, observed=observed, converted=converted)
    assert heads.predict(inputs).dp.shape == (0,)


def test_labels_that_contradict_each_other_or_the_rows_are_refused():
    inputs, observed, _ = clicks(3, seed=7)
    with pytest.raises(ValueError, match=r"converted must hold wherever observed does \(row 1 does not\)"):
        TwoHeads(FEATURES).fit(inputs, observed=np.array([False, True, True]), converted=np.zeros(3, np.bool_))
    with pytest.raises(ValueError, match=r"must have as many rows \(got 3, 3, 2\)"):
        TwoHeads(FEATURES).fit(inputs, observed=observed, converted=np.zeros(2, np.bool_))
    with pytest.raises(ValueError, match=r"prior_cvr must lie above 0 and below 1 \(got 1\)"):
        TwoHeads(FEATURES, prior_cvr=1)
