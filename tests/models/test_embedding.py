"""Rows that appear with their ids: lookups, start vectors, eviction, snapshots."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.embedding import Table, start_vectors
from models.id_index import Distinct, IdIndex

EXTREMES = [0, -1, 1, 2**63 - 1, -(2**63), 1024, 2048, 1 << 62]
ids_lists = st.lists(st.sampled_from(EXTREMES) | st.integers(-(2**63), 2**63 - 1) | st.integers(0, 30), max_size=40)


def array(ids) -> np.ndarray:
    return np.array(ids, np.int64)


def table(max_rows: int | None = None) -> Table:
    return Table(width=4, seed=7, initial_sum=1e-3, max_rows=max_rows, device="cpu")


def teach(own: Table, ids, *, step: int, slope: float = 1.0) -> None:
    """One step in which every position of the batch has the same gradient."""
    places = own.look_up(array(ids))
    gradient = torch.zeros(len(places.rows), own.width).index_add_(
        0, places.inverse, torch.full((len(ids), own.width), slope)
    )
    own.learn(places, own.read(places), gradient, rate=0.1, step=step)


def vectors_of(own: Table, ids) -> torch.Tensor:
    places = own.look_up(array(ids))
    return own.read(places)[places.inverse]


# Small multiples of this all hash to slot 0: 0x9E3779B97F4A7C15 times it is 1 in 64 bits.
UNSPREAD = pow(0x9E3779B97F4A7C15, -1, 2**64)
crowded = st.integers(0, 50).map(lambda k: int(np.uint64(k * UNSPREAD % 2**64).astype(np.int64)))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(st.sampled_from(EXTREMES) | crowded | st.integers(0, 30), max_size=40), max_size=4))
def test_different_ids_are_told_apart_in_order_of_first_appearance(batches):
    distinct = Distinct()
    for ids in batches:
        first, inverse = distinct.of(array(ids))
        different = list(dict.fromkeys(ids))
        assert [ids[at] for at in first] == different
        assert first.tolist() == [ids.index(id_) for id_ in different]
        assert inverse.tolist() == [different.index(id_) for id_ in ids]


def test_many_ids_are_told_apart_also_where_they_hash_alike():
    rng = np.random.default_rng(0)
    for ids in (rng.zipf(1.2, 50_000), np.arange(50_000).astype(np.uint64) * np.uint64(UNSPREAD)):
        ids = ids.view(np.int64)
        first, inverse = Distinct().of(ids)
        assert (ids[first][inverse] == ids).all()
        assert len(np.unique(ids[first])) == len(first)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(ids_lists, ids_lists), max_size=6))
def test_index_answers_like_a_dict(rounds):
    index, law, rows = IdIndex(), {}, 0
    for coming, going in rounds:
        new = list(dict.fromkeys(i for i in coming if i not in law))
        index.insert(array(new), np.arange(rows, rows + len(new)))
        law |= {id_: rows + k for k, id_ in enumerate(new)}
        rows += len(new)
        gone = [i for i in dict.fromkeys(going) if i in law]
        index.remove(array(gone))
        for id_ in gone:
            del law[id_]
        asked = coming + going + EXTREMES
        assert index.find(array(asked)).tolist() == [law.get(id_, -1) for id_ in asked]


def test_index_holds_many_consecutive_ids_through_growth_and_removal():
    index, ids = IdIndex(), np.arange(-50_000, 50_000)
    for part in np.split(ids, 10):
        index.insert(part, part + 50_000)
    assert (index.find(ids) == ids + 50_000).all()
    index.remove(ids[::2])
    assert (index.find(ids[::2]) == -1).all()
    assert (index.find(ids[1::2]) == ids[1::2] + 50_000).all()


def test_index_does_not_grow_from_ids_that_come_and_go():
    index = IdIndex()
    for turn in range(200):
        ids = np.arange(100) + 1000 * turn
        index.insert(ids, np.arange(100))
        index.remove(ids)
    assert len(index._rows) <= 2048


@settings(deadline=None, max_examples=60)
@given(st.lists(ids_lists, max_size=6))
def test_rows_are_numbered_in_order_of_first_appearance(batches):
    own = table()
    for step, ids in enumerate(batches, 1):
        teach(own, ids, step=step)
    assert own.ids.tolist() == list(dict.fromkeys(id_ for ids in batches for id_ in ids))


@settings(deadline=None, max_examples=40)
@given(ids_lists, ids_lists)
def test_places_lead_every_position_to_its_own_row(taught, asked):
    own = table()
    teach(own, taught, step=1)
    places = own.look_up(array(asked))
    row = {id_: number for number, id_ in enumerate(own.ids.tolist() + places.new_ids.tolist())}
    assert places.rows[places.inverse.numpy()].tolist() == [row[id_] for id_ in asked]
    assert len(set(places.rows.tolist())) == len(places.rows) == len(set(asked))


def test_unseen_id_is_answered_with_the_vector_it_will_start_from():
    own = table()
    teach(own, [1, 2], step=1)
    before = vectors_of(own, [9, 1, 0])
    assert torch.equal(before[[0, 2]], torch.from_numpy(start_vectors(array([9, 0]), width=4, seed=7)))
    teach(own, [9, 0], step=2, slope=0.0)
    assert torch.equal(vectors_of(own, [9, 1, 0]), before)


def test_looking_up_makes_no_row():
    own = table()
    vectors_of(own, range(5000))
    assert len(own) == 0
    assert own.look_up(array([3])).new_ids.tolist() == [3]


def test_start_vectors_are_uniform_small_and_differ_by_id_and_seed():
    vectors = start_vectors(np.arange(20_000), width=4, seed=0)
    assert np.abs(vectors).max() <= 0.01
    assert np.abs(np.quantile(vectors, [0.1, 0.5, 0.9], axis=0).T - [-0.008, 0, 0.008]).max() < 2e-4
    assert np.abs(np.corrcoef(vectors.T) - np.eye(4)).max() < 0.03
    assert len(np.unique(vectors, axis=0)) == 20_000
    assert not (start_vectors(array([5]), width=4, seed=0) == start_vectors(array([5]), width=4, seed=1)).any()


def splitmix(value: int) -> int:
    """The finalizer of SplitMix64 over Python's own integers."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        value = (value ^ (value >> shift)) * factor % 2**64
    return value ^ (value >> 31)


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(EXTREMES) | st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**63))
def test_start_vectors_come_from_id_and_seed_by_splitmix(id_, seed):
    state = splitmix(id_ % 2**64 ^ splitmix(seed))
    bits = [splitmix((state + (k + 1) * 0x9E3779B97F4A7C15) % 2**64) >> 40 for k in range(3)]
    expected = [0.01 * (bit / 2**23 - 1) for bit in bits]
    np.testing.assert_allclose(start_vectors(array([id_]), width=3, seed=seed)[0], expected, rtol=1e-6, atol=1e-9)


def test_growth_keeps_vectors_and_sums():
    grown, whole = table(), table()
    teach(grown, range(10), step=1)
    teach(whole, range(10), step=1)
    teach(grown, range(10, 5000), step=2)
    for step in (2, 3):
        teach(whole, range(10), step=step)
    for step in (3, 4):
        teach(grown, range(10), step=step)
    assert torch.equal(vectors_of(grown, range(10)), vectors_of(whole, range(10)))


class LeastRecentlyTouched:
    """The second writing of eviction: a dict a step at a time."""

    def __init__(self, max_rows: int) -> None:
        self.max_rows, self.touched, self.row, self.evicted = max_rows, {}, {}, []

    def teach(self, ids, *, step: int) -> None:
        new = list(dict.fromkeys(id_ for id_ in ids if id_ not in self.touched))
        self.touched |= {id_: step for id_ in ids if id_ in self.touched}
        for id_ in self._freed(len(new) - max(0, self.max_rows - len(self.row)), step):
            self.row[new.pop(0)] = self.row.pop(id_)
            self.evicted.append(id_)
            del self.touched[id_]
        for id_ in new:
            self.row[id_] = len(self.row)
        self.touched |= dict.fromkeys(ids, step)

    def _freed(self, wanted: int, step: int) -> list[int]:
        old = sorted((touched, self.row[id_], id_) for id_, touched in self.touched.items() if touched < step)
        return [id_ for _, _, id_ in old[: max(0, wanted)]]


@settings(deadline=None, max_examples=80)
@given(st.lists(st.lists(st.integers(-4, 12), max_size=10), max_size=12), st.integers(1, 8))
def test_full_table_hands_on_the_rows_untouched_for_longest(batches, max_rows):
    own, law = table(max_rows), LeastRecentlyTouched(max_rows)
    for step, ids in enumerate(batches, 1):
        teach(own, ids, step=step)
        law.teach(ids, step=step)
        assert own.ids.tolist() == sorted(law.row, key=law.row.__getitem__)
    evicted = [id_ for at, id_ in enumerate(law.evicted) if id_ not in law.evicted[at + 1 :] and id_ not in law.row]
    assert own.take_evicted().tolist() == evicted
    assert own.take_evicted().tolist() == []


def test_queue_of_a_large_table_evicts_in_the_same_order():
    rng = np.random.default_rng(0)
    own, law = table(3000), LeastRecentlyTouched(3000)
    batches = [np.arange(3000), *rng.integers(0, 6000, (200, 8))]  # some 4 new ids a step, 11 rows queued at once
    for step, ids in enumerate(batches, 1):
        teach(own, ids, step=step)
        law.teach(ids.tolist(), step=step)
    assert len(law.evicted) > 500
    assert own.ids.tolist() == sorted(law.row, key=law.row.__getitem__)


def test_evicted_id_comes_back_as_if_never_seen():
    own, fresh = table(max_rows=2), table()
    teach(own, [1, 2], step=1)
    teach(own, [3, 2], step=2)
    assert own.ids.tolist() == [3, 2]
    teach(own, [1], step=3)  # the row of 3 or 2? both were touched in step 2: the lower one
    teach(fresh, [1], step=1)
    assert own.ids.tolist() == [1, 2]
    assert torch.equal(vectors_of(own, [1]), vectors_of(fresh, [1]))
    assert own.take_evicted().tolist() == [3]


def test_batch_larger_than_the_limit_keeps_all_its_rows():
    own = table(max_rows=2)
    teach(own, [1, 2, 3, 4, 5], step=1)
    assert own.ids.tolist() == [1, 2, 3, 4, 5]
    teach(own, [6], step=2)
    assert len(own) == 5


def test_rows_touched_since_a_step_are_those_of_later_batches():
    own = table()
    teach(own, [5, 6, 7], step=1)
    teach(own, [7, 8], step=2)
    assert own.ids[own.touched_since(1)].tolist() == [7, 8]
    assert own.ids[own.touched_since(0)].tolist() == [5, 6, 7, 8]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.lists(st.integers(-4, 12), max_size=10), min_size=2, max_size=8), st.data())
def test_restored_table_goes_on_as_if_never_cut(batches, data):
    cut = data.draw(st.integers(0, len(batches)))
    whole, first, second = table(6), table(6), table(6)
    teach(second, [99], step=1)  # what was there before must not matter
    for step, ids in enumerate(batches, 1):
        teach(whole, ids, step=step)
        teach(first if step <= cut else second, ids, step=step)
        if step == cut:
            second.restore(first.snapshot())
    if cut == 0:
        return
    if cut == len(batches):
        second.restore(first.snapshot())
    for name, tensor in whole.snapshot().items():
        assert torch.equal(second.snapshot()[name], tensor), name


def test_snapshot_is_a_copy():
    own = table()
    teach(own, [1, 2], step=1)
    taken = own.snapshot()
    before = {name: tensor.clone() for name, tensor in taken.items()}
    teach(own, [1, 2, 3], step=2)
    assert all(torch.equal(taken[name], before[name]) for name in taken)
