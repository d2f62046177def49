"""A question for scores and its answer, bytes to bytes. Must not know HTTP, or how weights came to be in service."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from streaming.events import Served as ServedFields
from streaming.ranking import RankingError, ranking_scores
from streaming.reader import Scores, Served
from streaming.serving import Serving

MOST_KEY = 256  # characters of a request's key: it is sent back, and meant for an id
_BRACE = ord("{")


class RequestError(ValueError):
    """A question that cannot be answered; the message names the argument, what is wrong and what to do.

    Args:
        code: what kind of fault it is, for machines.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class _Question(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    items: list[msgspec.Raw]
    context: msgspec.Raw = msgspec.Raw(b"{}")
    key: str | None = None


class _Factors(msgspec.Struct, frozen=True, gc=False):
    factors: dict[str, float] = {}


class Item(msgspec.Struct, frozen=True, gc=False):
    """The scores of an item; `served` is what its impression should log."""

    pctr: float
    pcvr: float
    pctcvr: float
    score: float
    served: ServedFields


class Version(msgspec.Struct, frozen=True, gc=False):
    """The weights that answered: all items are of this one version."""

    name: str
    epoch: int
    version: int
    method: str
    watermark_ms: int | None


class Answer(msgspec.Struct, frozen=True, gc=False):
    """The items in the order of the question."""

    weights: Version
    items: list[Item]
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: one user's context and many items.

    Args:
        context: raw features that the items have in common. items: raw features of each.
        factors: of each item's ranking score; None where the settings name none.
        key: what the caller calls the question; sent back.
    """

    context: msgspec.Raw
    items: list[msgspec.Raw]
    factors: list[Mapping[str, float]] | None
    key: str | None


_question = msgspec.json.Decoder(_Question)
_factors = msgspec.json.Decoder(_Factors)
_encoder = msgspec.json.Encoder()


def read_question(body: bytes, serving: Serving) -> Question:
    """The question that a body holds.

    Raises:
        RequestError: no JSON (`malformed`), not of this form (`invalid`), or more items than the settings allow (`too_many_items`).

    Example:
        >>> question = read_question(b'{"context": {"user": "u"}, "items": [{"item": "a"}]}', Serving())
        >>> len(question.items), question.factors, question.key
        (1, None, None)
    """
    try:
        body.decode()
        asked = _question.decode(body)
    except msgspec.ValidationError as error:
        raise RequestError(
            "invalid", f'the body is no question ({error}): send {{"context": {{..}}, "items": [{{..}}, ..]}}'
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError("malformed", f"the body is no JSON ({error}): send one JSON object in UTF-8") from error
    if len(asked.items) > serving.max_items:
        raise RequestError(
            "too_many_items",
            f"items must be {serving.max_items} at most (got {len(asked.items)}), as serving.max_items says: ask more than once",
        )
    if asked.key is not None and len(asked.key) > MOST_KEY:
        raise RequestError(
            "invalid", f"key must be {MOST_KEY} characters at most (got {len(asked.key)}): send a shorter one"
        )
    if not _is_object(asked.context):
        raise RequestError("invalid", "context must be an object of features: send {} where there are none")
    factors = None
    if serving.factors or b"factors" in body or b"\\" in body:
        factors = [_factors_of(number, item) for number, item in enumerate(asked.items)]
    elif not all(map(_is_object, asked.items)):
        number = next(number for number, item in enumerate(asked.items) if not _is_object(item))
        raise RequestError("invalid", f"items[{number}] must be an object of features")
    return Question(asked.context, asked.items, factors, asked.key)


def _is_object(raw: msgspec.Raw) -> bool:
    return memoryview(raw)[0] == _BRACE


def _factors_of(number: int, item: msgspec.Raw) -> Mapping[str, float]:
    try:
        return _factors.decode(item).factors
    except (msgspec.MsgspecError, RecursionError) as error:
        raise RequestError(
            "invalid", f"items[{number}] must be an object of features, its factors an object of numbers ({error})"
        ) from error


def answer(question: Question, served: Served, serving: Serving) -> tuple[bytes, Scores]:
    """The answer as JSON, and the scores in it.

    Raises:
        RequestError: a factor is missing, unknown or out of its range (`invalid`).
    """
    scores = served.score(question.items, shared=bytes(question.context))
    try:
        ranks = ranking_scores(serving, scores.pctr, scores.pcvr, question.factors)
    except RankingError as error:
        raise RequestError("invalid", str(error)) from error
    manifest = served.manifest
    number = manifest.version
    columns = (scores.pctr.tolist(), scores.pcvr.tolist(), scores.pctcvr.tolist(), ranks.tolist())
    items = [
        Item(pctr, pcvr, pctcvr, rank, ServedFields(pctr, pcvr, number))
        for pctr, pcvr, pctcvr, rank in zip(*columns, strict=True)
    ]
    version = Version(manifest.name, manifest.epoch, number, manifest.method, manifest.watermark_ms)
    return _encoder.encode(Answer(version, items, question.key)), scores
