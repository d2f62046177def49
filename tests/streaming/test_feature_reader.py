"""Features: raw JSON to the inputs of a model, against a slow second writing over `json.loads`."""

import functools
import json
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.schema import Feature
from streaming.features import FeatureReader
from streaming.ids import Salt as UncachedSalt

Salt = functools.cache(UncachedSalt)

FEATURES = (
    Feature(name="price", kind="numeric", transform="log", center=1.0, scale=2.0),
    Feature(name="item", kind="categorical"),
    Feature(name="user", kind="categorical", path="who.id"),
    Feature(name="age", kind="numeric", path="who.age", transform="buckets", boundaries=(18.0, 30.0, 65.0)),
    Feature(name="item_by_user", kind="crossed", inputs=("user", "item")),
    Feature(name="history", kind="sequence", ids_of="item", max_length=3),
    Feature(name="tags", kind="multi"),
    Feature(name="score", kind="numeric", path="who.score"),
)
ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 70),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=4),
    st.just({}),
)
LIST = st.lists(ANYTHING, max_size=6)
WHO = st.fixed_dictionaries(
    {}, optional={"id": ANYTHING, "age": ANYTHING | st.integers(0, 99), "score": ANYTHING | LIST}
)
ROW = ANYTHING | st.fixed_dictionaries(
    {},
    optional={
        "price": ANYTHING | st.floats(-1e3, 1e3),
        "item": ANYTHING | st.text(max_size=2),
        "who": ANYTHING | WHO,
        "who.id": ANYTHING,
        "history": LIST | st.lists(st.text(max_size=2), max_size=6) | ANYTHING,
        "tags": LIST | ANYTHING,
        "other": ANYTHING | LIST,
    },
)


class SlowReader:
    """One row, one feature, one value at a time."""

    def __init__(self):
        self.faults = {}

    def fault(self, name):
        self.faults[name] = self.faults.get(name, 0) + 1

    def value(self, row, name, path, is_right):
        if row is not None and not isinstance(row, dict):
            self.fault(name)
            return None
        row = row or {}
        head, _, rest = path.partition(".")
        found = row.get(path)
        if found is not None and not is_right(found):
            self.fault(name)
            found = None
        if not rest:
            return found
        below = self.value(row.get(head), name, rest, is_right)
        return below if found is None else found

    def word(self, row, feature):
        return self.value(row, feature.name, feature.path or feature.name, lambda x: isinstance(x, str | int))

    def number(self, row, feature):
        right = self.value(
            row,
            feature.name,
            feature.path or feature.name,
            lambda x: isinstance(x, int | float) and not isinstance(x, bool),
        )
        return math.nan if right is None else float(right)

    def words(self, row, feature):
        found = self.value(row, feature.name, feature.path or feature.name, lambda x: isinstance(x, list)) or []
        for wrong in found:
            if wrong is not None and not isinstance(wrong, str | int):
                self.fault(feature.name)
        return [x for x in found if isinstance(x, str | int)][-feature.max_length :] or [None]

    def read(self, rows):
        price, item, user, age, crossed, history, tags, score = FEATURES
        ids, numbers, bags = [], [], [[], []]
        for row in rows:
            item_id, user_id = (Salt(f.name).ids([self.word(row, f)]) for f in (item, user))
            years = self.number(row, age)
            bucket = None if math.isnan(years) else sum(edge <= years for edge in age.boundaries)
            cross = Salt(crossed.name).cross([user_id, item_id])
            ids.append([int(item_id[0]), int(user_id[0]), int(Salt("age").ids([bucket])[0]), int(cross[0])])
            cost = self.number(row, price)
            plain = [(math.copysign(math.log1p(abs(cost)), cost) - 1.0) / 2.0, self.number(row, score)]
            if abs(plain[1]) >= 2.0**128:
                self.fault("score")
                plain[1] = math.nan
            numbers.append(plain)
            bags[0].append(Salt("item").ids(self.words(row, history)).tolist())
            bags[1].append(Salt("tags").ids(self.words(row, tags)).tolist())
        return ids, bags[0] + bags[1], numbers


def bags_of(inputs):
    return [inputs.bag_ids[a:b].tolist() for a, b in zip(inputs.bag_offsets[:-1], inputs.bag_offsets[1:], strict=True)]


@given(st.lists(ROW, max_size=6))
@settings(deadline=None, max_examples=100)
def test_reading_agrees_with_a_slow_second_writing(rows):
    reader, slow = FeatureReader(FEATURES), SlowReader()
    inputs = reader.read([json.dumps(row).encode() for row in rows])
    ids, bags, numbers = slow.read(rows)
    assert inputs.ids.tolist() == ids
    assert bags_of(inputs) == bags
    np.testing.assert_allclose(inputs.numbers, np.array(numbers, np.float32).reshape(len(rows), 2), rtol=1e-6)
    assert reader.faults == slow.faults


WRITINGS = (
    functools.partial(json.dumps, separators=(",", ":"), ensure_ascii=False),
    functools.partial(json.dumps, ensure_ascii=False),
    json.dumps,
    functools.partial(json.dumps, indent=1),
)


@given(st.lists(ROW, min_size=1, max_size=12), st.sampled_from(WRITINGS))
@settings(deadline=None, max_examples=60)
def test_a_batch_of_many_rows_is_what_its_rows_are_one_by_one(rows, dumps):
    raws, times = [dumps(row).encode() for row in rows], 128 // len(rows) + 1
    one_by_one, at_once = FeatureReader(FEATURES), FeatureReader(FEATURES)
    singles = [one_by_one.read([raw]) for raw in raws] * times
    inputs = at_once.read(raws * times)
    assert inputs.ids.tolist() == [single.ids[0].tolist() for single in singles]
    assert bags_of(inputs) == [bags_of(single)[bag] for bag in (0, 1) for single in singles]
    np.testing.assert_array_equal(inputs.numbers, np.concatenate([single.numbers for single in singles]))
    assert at_once.faults == {name: times * faults for name, faults in one_by_one.faults.items()}


@pytest.mark.parametrize(
    "odd",
    [
        {"tags": ["a", None, 1.5]},
        {"tags": ["a", 7]},
        {"tags": "a", "history": ["b"]},
        {"history": ["\n", '"', "\\", "x"]},
        {"item": "a\0b"},
        {"item": {}},
        {"price": "9.99", "history": ["b"]},
        {"who": 5},
        {"price": 1e39, "who": {"score": 1e39}},
        None,
        5,
    ],
)
def test_an_odd_row_among_many_changes_none_of_them(odd):
    usual = {"price": 1, "item": "i7", "who": {"id": 7, "age": 30, "score": 0.5}, "history": ["i1", "i2"], "tags": [1]}
    reader, slow = FeatureReader(FEATURES), SlowReader()
    rows = [usual] * 70 + [odd] + [usual] * 70 + [odd]
    inputs = reader.read([json.dumps(row, separators=(",", ":")).encode() for row in rows])
    ids, bags, numbers = slow.read(rows)
    assert inputs.ids.tolist() == ids
    assert bags_of(inputs) == bags
    np.testing.assert_allclose(inputs.numbers, np.array(numbers, np.float32), rtol=1e-6)
    assert reader.faults == slow.faults


@given(st.lists(ROW, min_size=5, max_size=6))
@settings(deadline=None, max_examples=30)
def test_a_row_is_read_the_same_alone_and_among_others(rows):
    raws = [json.dumps(row).encode() for row in rows]
    together, alone = FeatureReader(FEATURES), FeatureReader(FEATURES)
    inputs = together.read(raws * 28)  # more than one chunk
    singles = [alone.read([raw]) for raw in raws] * 28
    assert inputs.ids.tolist() == [single.ids[0].tolist() for single in singles]
    np.testing.assert_array_equal(inputs.numbers, np.concatenate([single.numbers for single in singles]))
    assert bags_of(inputs) == [bags_of(single)[bag] for bag in (0, 1) for single in singles]
    assert together.faults == {name: 28 * faults for name, faults in alone.faults.items()}


@pytest.mark.parametrize("rows", [0, 1, 2, 64, 65, 127, 128, 129, 257])
def test_shapes_and_types_hold_for_any_number_of_rows(rows):
    inputs = FeatureReader(FEATURES).read([b'{"tags":[1,2]}'] * rows)
    assert (inputs.ids.shape, inputs.numbers.shape, inputs.bag_offsets.shape) == ((rows, 4), (rows, 2), (2 * rows + 1,))
    assert inputs.bag_ids.shape == (3 * rows,)
    assert [array.dtype.name for array in (inputs.ids, inputs.bag_ids, inputs.bag_offsets, inputs.numbers)] == [
        "int64"
    ] * 3 + ["float32"]
    assert len(inputs) == rows
    assert inputs.bag_offsets[0] == 0


def test_features_of_one_kind_alone_leave_the_other_arrays_empty():
    inputs = FeatureReader([Feature(name="x", kind="numeric")]).read([b'{"x":1}', b'{"x":2}'])
    assert (inputs.ids.shape, inputs.bag_ids.shape, inputs.bag_offsets.tolist()) == ((2, 0), (0,), [0])
    assert inputs.numbers.tolist() == [[1.0], [2.0]]


def test_a_number_and_its_text_are_one_id_and_two_features_are_not():
    reader = FeatureReader([Feature(name="a", kind="categorical"), Feature(name="b", kind="categorical")])
    ids = reader.read([b'{"a":7,"b":7}', b'{"a":"7","b":"7"}']).ids
    assert ids[0].tolist() == ids[1].tolist()
    assert ids[0, 0] != ids[0, 1]


def test_a_list_longer_than_its_maximum_keeps_the_last_that_count():
    reader = FeatureReader([Feature(name="h", kind="sequence", max_length=2)])
    inputs = reader.read([b'{"h":["a","b","c",1.5,null]}', b'{"h":["a","b","c"]}'])
    assert bags_of(inputs) == [Salt("h").ids(["b", "c"]).tolist()] * 2
    assert reader.faults == {"h": 1}


def test_missing_and_empty_lists_hold_the_missing_id_between_full_ones():
    salt = Salt("h")
    inputs = FeatureReader([Feature(name="h", kind="multi")]).read(
        [b"{}", b'{"h":["a","b"]}', b'{"h":[]}', b'{"h":null}', b'{"h":["c"]}']
    )
    a, b, c = salt.ids(["a", "b", "c"]).tolist()
    assert bags_of(inputs) == [[salt.missing], [a, b], [salt.missing], [salt.missing], [c]]


@pytest.mark.parametrize(
    ("x", "bucket"), [(-1e300, 0), (17.999, 0), (18, 1), (29.9, 1), (30, 2), (65, 3), (1e300, 3), (None, None)]
)
def test_a_number_on_a_boundary_falls_in_the_bucket_above_it(x, bucket):
    feature = Feature(name="age", kind="numeric", transform="buckets", boundaries=(18.0, 30.0, 65.0))
    inputs = FeatureReader([feature]).read([json.dumps({"age": x}).encode()])
    assert inputs.ids.tolist() == [Salt("age").ids([bucket]).tolist()]


@pytest.mark.parametrize(
    ("transform", "x", "expected"),
    [("none", 5.0, 1.5), ("log", math.e - 1, -0.5), ("log", 1 - math.e, -1.5), ("log", 0, -1.0)],
)
def test_plain_numbers_are_transformed_centred_and_scaled(transform, x, expected):
    feature = Feature(name="x", kind="numeric", transform=transform, center=2.0, scale=2.0)
    inputs = FeatureReader([feature]).read([json.dumps({"x": x}).encode()])
    assert inputs.numbers[0, 0] == pytest.approx(expected)


def test_a_number_too_large_for_float32_is_missing_and_counted():
    reader = FeatureReader([Feature(name="x", kind="numeric"), Feature(name="y", kind="numeric", scale=1e-300)])
    inputs = reader.read([b'{"x":1e39,"y":1e300}', b'{"x":1e38,"y":0}'])
    np.testing.assert_array_equal(inputs.numbers, np.array([[np.nan, np.nan], [1e38, 0]], np.float32))
    assert reader.faults == {"x": 1, "y": 1}


def test_counting_goes_on_from_a_cut():
    reader = FeatureReader([Feature(name="x", kind="numeric")])
    reader.faults.update({"x": 5})
    reader.read([b'{"x":"seven"}'])
    assert reader.faults == {"x": 6}


def test_rows_with_a_part_in_common_read_as_if_each_had_it_all():
    shared = {"user": "u", "age": 3, "list": ["a", "b"], "price": 2.5, "hour": 7}
    rows = [{"item": "a"}, {"item": 5, "price": 1, "list": ["c"]}, {"user": "v", "hour": 1, "list": []}, {"age": 4}]
    features = [
        Feature(name="user", kind="categorical"),
        Feature(name="item", kind="categorical"),
        Feature(name="age", kind="categorical"),
        Feature(name="both", kind="crossed", inputs=("user", "item")),
        Feature(name="list", kind="multi", ids_of="item"),
        Feature(name="hour", kind="numeric", transform="buckets", boundaries=(2.0, 5.0)),
        Feature(name="price", kind="numeric"),
        Feature(name="none", kind="numeric"),
    ]
    reader = FeatureReader(features)
    beside = reader.read_beside(json.dumps(shared).encode(), [json.dumps(row).encode() for row in rows])
    merged = reader.read([json.dumps(shared | row).encode() for row in rows])
    for one, other in zip(fields_of(beside), fields_of(merged), strict=True):
        np.testing.assert_array_equal(one, other)
    assert reader.faults == {}
    assert len(reader.read_beside(b"{}", [])) == 0


@pytest.mark.parametrize("own", [{}, {"tags": ["mine"]}])
def test_a_long_list_that_rows_have_in_common_is_cut_before_it_is_said_of_each(own):
    reader = FeatureReader((Feature(name="tags", kind="multi", max_length=3),))
    shared = json.dumps({"tags": [f"t{number}" for number in range(50_000)]}).encode()
    rows = [json.dumps(own).encode(), *([b"{}"] * 499)]
    tracemalloc.start()
    beside = reader.read_beside(shared, rows)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(beside.bag_ids) == 3 * len(rows) - 2 * bool(own)
    assert peak < 20_000_000, "25 million ids would be 200 MB and more"


def test_what_is_wrong_in_the_common_part_is_counted_once():
    reader = FeatureReader([Feature(name="user", kind="categorical"), Feature(name="price", kind="numeric")])
    reader.read_beside(b'{"user":{}}', [b'{"price":"9"}', b'{"price":1}'])
    assert reader.faults == {"user": 1, "price": 1}


def fields_of(inputs):
    return inputs.ids, inputs.bag_ids, inputs.bag_offsets, inputs.numbers
