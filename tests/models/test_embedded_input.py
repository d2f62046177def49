"""Gradients of the towers' input, added up by the row that each id has."""

import numpy as np
import pytest
import torch

from models.batch import Inputs
from models.layers.embedded_input import EmbeddedInput
from models.schema import Feature, Network


@pytest.mark.parametrize(("rows", "ids"), [(0, 1), (1, 1), (300, 7), (70_000, 140_000)], ids=str)
def test_the_slopes_of_all_positions_of_an_id_are_added_up(rows, ids):
    rng = np.random.default_rng(1)
    features = [
        Feature(name="own", kind="categorical", width=2, task="ctr"),
        Feature(name="user", kind="categorical", width=2),
        Feature(name="ad", kind="categorical", width=2),
        Feature(name="list", kind="multi", width=2),
    ]
    own = EmbeddedInput(features, network=Network(), initial_sum=0.0)
    each = rng.integers(0, ids, (rows, 3))
    bags = rng.integers(0, ids, 2 * rows)  # two ids a bag
    inputs = Inputs(each, bags, np.arange(rows + 1) * 2, np.zeros((rows, 0), np.float32))
    located = own.locate(inputs)
    vectors = own.read(located)
    slopes = {
        task: torch.from_numpy(rng.normal(size=(rows, own.widths[task])).astype(np.float32)) for task in own.widths
    }
    found = own.backward(slopes, located, vectors)[2]

    judge = torch.zeros(ids, 2, dtype=torch.float64)
    for positions, slope in (
        (each[:, 0], slopes["ctr"]),
        (each[:, 1], slopes["shared"][:, :2]),
        (each[:, 2], slopes["shared"][:, 2:4]),
        (bags[0::2], slopes["shared"][:, 4:] / 2),
        (bags[1::2], slopes["shared"][:, 4:] / 2),
    ):
        judge.index_add_(0, torch.from_numpy(positions), slope.double())
    different = located.places[2].new_ids
    assert sorted(different) == np.unique(np.concatenate([each.ravel(), bags])).tolist()
    mine = torch.zeros(ids, 2, dtype=torch.float64)
    mine[torch.from_numpy(different)] = found.double()
    torch.testing.assert_close(mine, judge, rtol=1e-5, atol=1e-5)
