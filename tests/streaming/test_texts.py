"""Texts: what is joined is split again, or it is said that it cannot be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.texts import MISSING, Texts, joined

WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=5)
VALUES = WORDS | st.none() | st.booleans() | st.integers() | st.integers(-3, 4100) | st.just(MISSING)


def encoded(value):
    if value is None or value == MISSING:
        return b"\xff"
    return (value if isinstance(value, str) else str(int(value))).encode()


def parts(texts):
    return [texts.buffer[end - length : end] for end, length in zip(texts.ends, texts.lengths, strict=True)]


@given(st.lists(st.lists(VALUES, min_size=1, max_size=5), max_size=4))
def test_what_is_joined_in_pieces_is_split_into_its_texts(pieces):
    values = [value for piece in pieces for value in piece]
    texts = Texts.split([joined(piece) for piece in pieces], len(values))
    assert parts(texts) == [encoded(value) for value in values]
    assert len(texts) == len(values)


@pytest.mark.parametrize("values", [["\0"], ["a", "b\0c"], ["", "\0", None]])
def test_a_text_with_a_nul_cannot_be_told_from_two(values):
    assert Texts.split([joined(values)], len(values)) is None


def test_texts_of_several_runs_of_bytes_lie_one_behind_the_other_in_one():
    a, b = Texts.split([joined(["x", "yz"])], 2), Texts.split([joined(["", "ä", None])], 3)
    assert parts(Texts.together([a, b, a])) == [b"x", b"yz", b"", "ä".encode(), b"\xff", b"x", b"yz"]
