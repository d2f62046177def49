"""Lines of a settings file for people: a key, its value, what it means; must not know which settings there are."""

from __future__ import annotations

import textwrap

import tomli_w

from streaming.lab.durations import in_words

WIDTH = 118


def comment(*sentences: str) -> str:
    """A comment, each sentence wrapped on lines of its own.

    Example:
        >>> print(comment("How long.", "Why."))
        # How long.
        # Why.
    """
    return "\n".join(
        f"# {line}"
        for sentence in sentences
        for line in textwrap.wrap(_printable(sentence), WIDTH, break_long_words=False, break_on_hyphens=False)
    )


def pair(key: str, value: object, remark: str = "") -> str:
    """A key and its value, and a remark behind it.

    Example:
        >>> print(pair("name", "it's", "a name"))
        name = "it's"  # a name
    """
    return tomli_w.dumps({key: value}).strip() + (f"  # {_printable(remark)}" if remark else "")


def duration(key: str, ms: int, meaning: str, why: str) -> str:
    """A length of time in milliseconds under its meaning and the reason for its value.

    Example:
        >>> print(duration("click_window_ms", 900_000, "How long a click may take.", "Seen: 11 min."))
        # How long a click may take.
        # Seen: 11 min.
        click_window_ms = 900_000  # 15 min
    """
    return f"{comment(meaning, why)}\n{key} = {ms:_}  # {in_words(ms)}"


def _printable(text: str) -> str:
    # What a log holds gets into remarks, and TOML refuses control characters even in comments.
    return "".join(character if character.isprintable() else " " for character in text)
