"""XXH3 of many texts at once, against that of the package."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from streaming.texts import Texts
from streaming.xxh3 import xxh3_64

SEEDS = st.integers(0, 2**64 - 1) | st.sampled_from([0, 1, 2**32 - 1, 2**32, 2**63, 2**64 - 1])


def hashed(texts, seeds, gap):
    ends = np.cumsum([len(text) + len(gap) for text in texts]) - len(gap)
    lengths = np.array([len(text) for text in texts], np.int64)
    return xxh3_64(Texts(gap.join(texts), ends, lengths), np.array(seeds, np.uint64)).tolist()


def expected(texts, seeds):
    return [xxh3_64_intdigest(text, seed) for text, seed in zip(texts, seeds, strict=True)]


@given(st.lists(st.tuples(st.binary(max_size=140), SEEDS), min_size=1, max_size=30), st.binary(max_size=3))
@settings(deadline=None, max_examples=60)
def test_texts_of_any_bytes_under_any_seeds_are_hashed_as_the_package_does(cases, gap):
    texts, seeds = ([case[place] for case in cases] * (600 // len(cases) + 1) for place in (0, 1))
    assert hashed(texts, seeds, gap) == expected(texts, seeds)


@pytest.mark.parametrize("size", [*range(20), 31, 32, 33, 63, 64, 65, 95, 96, 97, 127, 128, 129, 240, 241, 1000])
def test_each_length_has_its_rule(size):
    random = np.random.default_rng(size)
    texts = [random.bytes(size) for _ in range(600)]
    seeds = random.integers(0, 2**64 - 1, 600, np.uint64).tolist()
    assert hashed(texts, seeds, b"") == expected(texts, seeds)


@pytest.mark.parametrize("count", [0, 1, 511, 512, 513])
def test_few_texts_are_hashed_as_many_are(count):
    texts = [b"text %d" % number for number in range(count)]
    assert hashed(texts, range(count), b"\n") == expected(texts, range(count))
