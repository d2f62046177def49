"""What requests and answers of the scorer look like, as OpenAPI 3.1 says it. Decides nothing: `score_request.py` does."""

from __future__ import annotations

from typing import Any

from streaming.score_request import MOST_KEY
from streaming.serving import LEAST_FACTOR, MOST_FACTOR, Serving

_NUMBER = {"type": "number", "minimum": 0}
_PROBABILITY = {"type": "number", "minimum": 0, "maximum": 1}
_FEATURES = {"type": "object", "description": "Features by name, as impressions log them; others are ignored."}


def question_form(serving: Serving) -> dict[str, Any]:
    """The body of `POST /score`."""
    factors = {
        "type": "object",
        "description": "Factors of the ranking score, each taken to its exponent in serving.factors.",
        "properties": {
            name: {"type": "number", "minimum": LEAST_FACTOR if exponent < 0 else 0, "maximum": MOST_FACTOR}
            for name, exponent in serving.factors.items()
        },
        "required": list(serving.factors),
        "additionalProperties": False,
    }
    item = {
        "type": "object",
        "description": "The features of an item, and the factors of its ranking score. Its own features come before those of the context.",
        "properties": {"factors": factors},
        "required": ["factors"] if serving.factors else [],
    }
    return {
        "type": "object",
        "properties": {
            "context": _FEATURES
            | {"description": "The features that all items have in common: the user's, the page's."},
            "items": {"type": "array", "items": item, "maxItems": serving.max_items},
            "key": {
                "type": ["string", "null"],
                "maxLength": MOST_KEY,
                "description": "Yours: sent back with the answer.",
            },
        },
        "required": ["items"],
        "additionalProperties": False,
    }


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


ANSWER: dict[str, Any] = _object(
    {
        "weights": _object(
            {
                "name": {"type": "string"},
                "epoch": {"type": "integer"},
                "version": {"type": "integer"},
                "method": {"type": "string"},
                "watermark_ms": {
                    "type": ["integer", "null"],
                    "description": "Event time up to which they have learned.",
                },
            }
        ),
        "items": {
            "type": "array",
            "description": "In the order of the request.",
            "items": _object(
                {
                    "pctr": _PROBABILITY,
                    "pcvr": _PROBABILITY,
                    "pctcvr": _PROBABILITY,
                    "score": _NUMBER | {"description": "To rank by."},
                    "served": _object(
                        {"pctr": _PROBABILITY, "pcvr": _PROBABILITY, "weights_version": {"type": "integer"}}
                    )
                    | {"description": "What the item's impression should log under `served`."},
                }
            ),
        },
        "key": {"type": ["string", "null"]},
    }
)

ERROR: dict[str, Any] = _object(
    {
        "error": _object(
            {"code": {"type": "string"}, "message": {"type": "string", "description": "What is wrong, and what to do."}}
        )
    }
)

READINESS: dict[str, Any] = _object(
    {
        "ready": {"type": "boolean"},
        "reasons": {"type": "array", "items": {"type": "string"}},
        "weights": {"type": ["string", "null"]},
        "unseen_alarms": {"type": "array", "items": {"type": "string"}},
    }
)


def json_form(schema: dict[str, Any], description: str) -> dict[str, Any]:
    """A body of JSON."""
    return {"description": description, "content": {"application/json": {"schema": schema}}}


FAULTS: dict[int, tuple[str, str]] = {
    400: ("malformed", "The body is no JSON."),
    401: ("unauthorized", "The key is missing or wrong."),
    408: ("too_slow", "The body did not arrive in time."),
    413: ("too_large", "The body has too many bytes."),
    415: ("media_type", "The body is not declared as JSON."),
    422: ("invalid", "The body is JSON of another form, has too many items, or a factor is out of its range."),
    503: ("unavailable", "There are no weights yet, or too many requests at once."),
}
"""Status -> its code and what it means."""


def with_score(schema: dict[str, Any], serving: Serving, *, key_header: str | None) -> dict[str, Any]:
    """An OpenAPI document, changed in place to tell of `POST /score` as well; a key is asked for where its header has a name."""
    responses = {"200": json_form(ANSWER, "Scores, all of one version of the weights.")}
    responses |= {
        str(status): json_form(ERROR, says) for status, (_, says) in FAULTS.items() if status != 401 or key_header
    }
    operation: dict[str, Any] = {
        "summary": "Score items for one user",
        "operationId": "score",
        "requestBody": json_form(question_form(serving), "One user's context and the items to rank.")
        | {"required": True},
        "responses": responses,
    }
    if key_header is not None:
        operation["security"] = [{"key": []}]
        key = {"type": "apiKey", "in": "header", "name": key_header}
        schema.setdefault("components", {})["securitySchemes"] = {"key": key}
    schema["paths"]["/score"] = {"post": operation}
    return schema
