"""Lists out of their JSON, against `json.loads`."""

import functools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming.lists import Lists, lines

NASTY = st.sampled_from(
    ["", ",", '","', "[", "]", "[]", "null", " ", ", ", "a", "t60", "größe", "\n", '"', "\\", "7", "\x7f"]
)
WORDS = st.text(max_size=4) | NASTY
INTEGERS = st.integers(0, 10**18 - 1) | st.integers(0, 9)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=2),
)
VALUES = st.lists(WORDS, max_size=4) | st.lists(INTEGERS, max_size=4) | st.lists(ANYTHING, max_size=3) | ANYTHING
WRITINGS = st.sampled_from(
    [
        functools.partial(json.dumps, separators=(",", ":"), ensure_ascii=False),
        functools.partial(json.dumps, separators=(",", ":")),
        json.dumps,
        functools.partial(json.dumps, separators=(" , ", " : ")),
        functools.partial(json.dumps, indent=1),
    ]
)


def read(raws):
    """The words of each list, as UTF-8; None where it is not plain."""
    lists, is_plain = Lists.read([lines(raws)], len(raws))
    words = lists.words
    each = [words.buffer[end - length : end] for end, length in zip(words.ends, words.lengths, strict=True)]
    found = [[each.pop(0) for _ in range(count)] for count in lists.counts]
    return [values if plain else None for values, plain in zip(found, is_plain.tolist(), strict=True)]


def words_of(value):
    """The words of a list of words; None if it is none."""
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(word, str | int) for word in value):
        return None
    return [(word if isinstance(word, str) else str(int(word))).encode() for word in value]


@given(st.lists(st.tuples(VALUES, WRITINGS), min_size=1, max_size=6))
@settings(max_examples=200, deadline=None)
def test_what_is_plain_is_a_list_of_these_words_and_nothing_else(cases):
    for (value, _), found in zip(cases, read([dumps(value).encode() for value, dumps in cases]), strict=True):
        assert found is None or found == words_of(value)


@given(
    st.lists(st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters='"\\'))), min_size=1)
)
def test_lists_of_strings_without_escapes_are_plain_with_spaces_or_without(values):
    for ensure_ascii in (True, False):
        for separators in ((",", ":"), (", ", ": ")):
            raws = [json.dumps(value, ensure_ascii=ensure_ascii, separators=separators).encode() for value in values]
            assert read(raws) == [words_of(value) for value in values]


@given(st.lists(st.lists(INTEGERS), min_size=1))
def test_lists_of_integers_are_plain_with_spaces_or_without(values):
    for separators in ((",", ":"), (", ", ": ")):
        assert read([json.dumps(value, separators=separators).encode() for value in values]) == [
            words_of(value) for value in values
        ]


@pytest.mark.parametrize(
    "raw",
    [
        *(b"5", b"true", b'"a"', b'"]"', b"{}", b'{"a":"b"}', b'["a",null]', b'["a",5]', b'["a",true]', b'["a",1.5]'),
        *(
            b'[["a"]]',
            b'["a",["b"],"c"]',
            b'["a" ,"b"]',
            b'[ "a"]',
            b'["a\\n"]',
            b'["\\""]',
            b'["a","\xff"]',
            b'[{"a":"b"}]',
        ),
        *(
            b"[1.5]",
            b"[-5]",
            b"[-0]",
            b"[1e5]",
            b"[[1]]",
            b"[1,[2]]",
            b"[true]",
            b"[null]",
            b"[1,null]",
            b"[{}]",
            b"[[]]",
        ),
        *(b"[1234567890123456789]", b"[" + b"9" * 5000 + b"]", b'["a",\n"b"]', b"[1,\n2]", b"[\t1]"),
    ],
)
@pytest.mark.parametrize(
    "others",
    [[b'["a","b"]', b"[]"], [b"[1,2]", b"[]"], [b'["a["]', b'["]"]', b'[","]'], [b'["x", "y"]', None, b"null"]],
)
def test_what_is_no_plain_list_is_not_taken_for_one(raw, others):
    *before, found = read([*others, raw])
    assert found is None
    for other, of_other in zip(others, before, strict=True):
        assert of_other is None or of_other == words_of(json.loads(other or b"null"))


@pytest.mark.parametrize(
    "raw",
    [
        b"[]",
        b"null",
        b'[""]',
        b'["",""]',
        b'[","]',
        b'["a",",","b"]',
        b'["a", ", ", "b"]',
        b'["[]"]',
        b'["null"]',
        b'["n"]',
    ],
)
def test_a_string_is_read_as_it_is_whatever_is_in_it(raw):
    assert read([b'["x"]', raw, raw, b'["x", "y"]']) == [[b"x"], *[words_of(json.loads(raw))] * 2, [b"x", b"y"]]


def test_lists_of_other_rows_keep_their_words():
    lists, _ = Lists.read([lines([b'["a","b"]', None]), lines([b'["c"]', b'["d","e"]'])], 4)
    _, is_plain = Lists.read([lines([b"5", b"[]", b"[]", b"5"])], 4)
    left = lists.without(~is_plain)
    assert left.counts.tolist() == [0, 0, 1, 0]
    assert left.words.buffer[left.words.ends[0] - 1 : left.words.ends[0]] == b"c"
