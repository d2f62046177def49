"""Ids: what `streaming/ids.py` promises to other languages, written a second time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from streaming.ids import Salt, crossed, from_digests

PUBLISHED = [
    -245582449419113112,
    -1416073733686640304,
    -2677738765028288500,
    8921019753639357234,
    3304252728563799588,
    8180744751363407230,
    3418027545271186326,
    -5010731370062215317,
    -7006058745345907348,
]
VALUES = st.one_of(
    st.none(), st.text(), st.booleans(), st.integers(), st.integers(-5, 5000), st.sampled_from([4095, 4096])
)


def signed(x: int) -> int:
    return x - 2**64 if x >= 2**63 else x


def id_of(salt: str, value: str | int | None) -> int:
    seed = xxh3_64_intdigest(salt.encode("utf-8"), 0)
    if value is None:
        return signed(xxh3_64_intdigest(b"\xff", seed))
    text = value if isinstance(value, str) else str(int(value))
    return signed(xxh3_64_intdigest(text.encode("utf-8"), seed))


def crossed_id_of(salt: str, ids: list[int]) -> int:
    x = xxh3_64_intdigest(b"\xfe", xxh3_64_intdigest(salt.encode("utf-8"), 0))
    for one in ids:
        x ^= one % 2**64
        x ^= x >> 30
        x = x * 0xBF58476D1CE4E5B9 % 2**64
        x ^= x >> 27
        x = x * 0x94D049BB133111EB % 2**64
        x ^= x >> 31
    return signed(x)


@given(st.text(max_size=8), st.lists(VALUES, max_size=20))
@settings(deadline=None, max_examples=60)
def test_ids_follow_the_written_rule(salt, values):
    assert Salt(salt).ids(values).tolist() == [id_of(salt, value) for value in values]


@given(st.lists(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=3, max_size=3), min_size=1, max_size=4))
@settings(deadline=None, max_examples=60)
def test_crossed_ids_follow_the_written_rule(columns):
    crossed = Salt("a,b").cross([np.array(column, np.int64) for column in columns])
    assert crossed.tolist() == [crossed_id_of("a,b", list(row)) for row in zip(*columns, strict=True)]


def test_features_crossed_at_once_are_each_as_crossed_alone():
    salts = [Salt("a,b"), Salt("c,d")]
    columns = np.random.default_rng(0).integers(-(2**63), 2**63 - 1, (3, 2, 5))
    together = crossed(np.array([[salt.crossing] for salt in salts], np.uint64), list(columns))
    assert together.tolist() == [salt.cross(list(columns[:, number])).tolist() for number, salt in enumerate(salts)]


def test_published_ids_do_not_change():
    salt = Salt("item_id")
    values = ["", "a", "größe", "a" * 300, 0, -1, 4096, 10**30, None]
    assert salt.ids(values).tolist() == PUBLISHED


def test_crossing_tells_the_order_of_its_inputs_apart():
    a, b = Salt("a").ids(["x"]), Salt("b").ids(["x"])
    assert Salt("a,b").cross([a, b]) != Salt("a,b").cross([b, a])


def test_a_missing_value_has_the_id_of_no_text_that_looks_missing():
    salt = Salt("item_id")
    assert salt.missing not in salt.ids(["", "None", "null", "\xff", "ÿ", 0, False]).tolist()


@pytest.mark.parametrize("size", [0, 1, 65])
def test_a_column_hashed_in_parts_is_the_column_hashed_whole(size):
    salt = Salt("x")
    values = [*range(size), *map(str, range(size)), None][:size]
    parts = b"".join(salt.digests(values[start : start + 7]) for start in range(0, size, 7))
    assert from_digests(parts).tolist() == salt.ids(values).tolist()
