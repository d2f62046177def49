"""The delay models that a setting chooses between: what each answers, and what each is taught by."""

import numpy as np
import pytest

from models.batch import Inputs
from models.completion import CompletionModel
from models.delay_curve import DelayPrior, GlobalCurve
from models.delay_models import OneCurve, delay_model_of
from models.schema import Feature, Labels

HOUR_MS = 3_600_000
EDGES = (HOUR_MS, 3 * HOUR_MS, 24 * HOUR_MS, 72 * HOUR_MS)
USER = [Feature(name="user", kind="categorical")]


def users(*ids):
    none = np.zeros(0, np.int64)
    return Inputs(
        np.array(ids, np.int64).reshape(-1, 1), none, np.zeros(1, np.int64), np.zeros((len(ids), 0), np.float32)
    )


def taught(model):
    """User 5 converts in the second bin, user 6 in the third."""
    for _ in range(50):
        for edge in (1, 2, 3):
            bins = np.array([1, 2])
            shown = bins <= edge
            model.learn(users(*np.array([5, 6])[shown]), np.full(shown.sum(), edge), bins[shown] == edge, at_ms=0)
    return model


@pytest.mark.parametrize(("name", "kind"), [("hazard", CompletionModel), ("global", OneCurve), ("heads", OneCurve)])
def test_the_setting_chooses_the_curve(name, kind):
    model = delay_model_of(Labels(delay_model=name), USER, edges=EDGES)
    assert type(model) is kind
    assert model.edges == EDGES
    prior = DelayPrior().completed(EDGES)
    np.testing.assert_allclose(model.completed_at_edges(users(1, 2)), np.tile(prior, (2, 1)), atol=1e-3)


def test_one_curve_is_that_of_all_clicks_whatever_they_look_like():
    one, by_features = (
        taught(delay_model_of(Labels(delay_model=name), USER, edges=EDGES)) for name in ("global", "hazard")
    )
    at_edges = one.completed_at_edges(users(5, 6, 7))
    assert (at_edges == by_features.curve.completed_at_edges()).all()  # the same counts
    assert by_features.completed_at_edges(users(5))[0, 1] > at_edges[0, 1] + 0.2 > by_features.completed_at_edges(users(6))[0, 1] + 0.2  # fmt: skip
    ages = np.array([[HOUR_MS, 2 * HOUR_MS], [0, 72 * HOUR_MS]])
    assert one.completed(users(5, 6), ages).tolist() == one.curve.completed(ages).tolist()
    np.testing.assert_allclose(one.survival_at(users(5, 6), 3 * HOUR_MS), 1 - at_edges[:2, 1])
    assert not one.rests_on_prior(3 * HOUR_MS)


def test_no_clicks_have_no_curve():
    model = OneCurve(GlobalCurve(EDGES, prior=DelayPrior(), half_life_ms=1))
    model.learn(users(), np.zeros(0, np.int64), np.zeros(0, np.bool_), at_ms=0)
    assert model.completed_at_edges(users()).shape == (0, 4)
    assert model.survival_at(users(), HOUR_MS).shape == (0,)


def test_one_curve_is_given_back_bit_for_bit():
    one, copy = (delay_model_of(Labels(delay_model="global"), USER, edges=EDGES) for _ in range(2))
    copy.restore(taught(one).snapshot())
    for model in (one, copy):
        taught(model)
    assert one.completed_at_edges(users(1)).tobytes() == copy.completed_at_edges(users(1)).tobytes()
