"""The scorer over HTTP: reads a body within its limits, hands it on, sends what comes back. Decides nothing about scores or readiness."""

from __future__ import annotations

import asyncio
import hmac
import time

import msgspec
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from streaming.adapters.http_forms import FAULTS, READINESS, json_form, with_score
from streaming.adapters.serving_metrics import ServingMetrics
from streaming.reader import WeightsReader
from streaming.readiness import not_ready
from streaming.score_request import RequestError, answer, read_question
from streaming.serving import Serving

KEY_HEADER = "x-api-key"
_STATUS_OF = {"malformed": 400, "invalid": 422, "too_many_items": 422}
_JSON = "application/json"


class _FaultError(Exception):
    """A request that is refused, with its status."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = FAULTS[status][0] if code is None else code


def scorer(reader: WeightsReader, serving: Serving, *, api_key: str | None = None) -> FastAPI:
    """The application: `POST /score`, `/healthz`, `/readyz`, `/metrics`, `/openapi.json`, `/docs`.

    Scores are made within the event loop: they take as long as a hop to another thread and its wait for the interpreter would.

    Args:
        reader: polled by somebody else.
        serving: limits and exponents.
        api_key: what `x-api-key` must hold for scores; None asks for none.
    """
    app = FastAPI(
        title="afterclick",
        summary="pCTR, pCVR, pCTCVR and a ranking score, from the newest published weights.",
        version="1",
        redirect_slashes=False,
        redoc_url=None,
    )
    door = _Door(reader, serving, api_key)
    # Not a route of FastAPI's, whose look at arguments takes 0.3 ms of a request that has none; it is told of in the OpenAPI below.
    app.add_route("/score", door.score, methods=["POST"])
    app.add_api_route("/healthz", door.healthz, summary="Whether the process answers", response_class=Response,
                      responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}})  # fmt: skip
    app.add_api_route("/readyz", door.readyz, summary="Whether it should be asked", response_class=Response,
                      responses={200: json_form(READINESS, "It should."), 503: json_form(READINESS, "It should not, and why.")})  # fmt: skip
    app.add_api_route("/metrics", door.metrics, summary="Figures for Prometheus", response_class=Response,
                      responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}})  # fmt: skip
    app.add_exception_handler(HTTPException, _told)
    plain = app.openapi
    app.openapi = lambda: with_score(plain(), serving, key_header=None if api_key is None else KEY_HEADER)  # type: ignore[method-assign]
    return app


class _Door:
    """What the routes do."""

    def __init__(self, reader: WeightsReader, serving: Serving, api_key: str | None) -> None:
        self._reader, self._serving = reader, serving
        self._key = None if api_key is None else api_key.encode()
        self._metrics = ServingMetrics(reader, serving)
        self._open = 0

    async def score(self, request: Request) -> Response:
        """Scores the items of one user's request with the newest weights."""
        started = time.perf_counter()
        self._open += 1
        try:
            body = self._answer(await self._body(request))
            response = Response(body, media_type=_JSON)
        except RequestError as error:
            response = _refusal(_STATUS_OF[error.code], error.code, str(error))
        except _FaultError as fault:
            response = _refusal(fault.status, fault.code, str(fault))
        finally:
            self._open -= 1
        self._metrics.on_answer(response.status_code, time.perf_counter() - started)
        return response

    def _answer(self, body: bytes) -> bytes:
        served = self._reader.served
        if served is None:
            raise _FaultError(503, not_ready(self._reader, self._serving)[0], "no_weights")
        found, scores = answer(read_question(body, self._serving), served, self._serving)
        self._metrics.on_scores(scores)
        return found

    async def _body(self, request: Request) -> bytes:
        """The body, once it is seen to be from whom it may be, of the kind and within the size it may have."""
        headers, most = request.headers, self._serving.max_body_bytes
        if self._key is not None and not hmac.compare_digest(
            headers.get(KEY_HEADER, "").encode("utf-8", "replace"), self._key
        ):
            raise _FaultError(401, f"{KEY_HEADER} must hold the key of this scorer: ask whoever runs it")
        if self._open > self._serving.max_concurrent_requests:
            raise _FaultError(
                503, f"{self._open} requests are open, serving.max_concurrent_requests allows fewer: try again", "busy"
            )
        kind = headers.get("content-type", _JSON).partition(";")[0].strip().lower()
        if kind != _JSON:
            raise _FaultError(415, f"content-type must be {_JSON} (got {kind[:80]!r}): send JSON, and say so")
        too_large = _FaultError(
            413, f"the body must be {most} bytes at most, as serving.max_body_bytes says: ask with fewer items"
        )
        declared = headers.get("content-length", "")
        if declared.isascii() and declared.isdigit() and int(declared[:18]) > most:
            raise too_large
        pieces, size = [], 0
        try:
            async with asyncio.timeout(self._serving.request_timeout_ms / 1000):
                async for piece in request.stream():
                    size += len(piece)
                    if size > most:
                        raise too_large
                    pieces.append(piece)
        except (TimeoutError, ClientDisconnect) as error:
            limit = self._serving.request_timeout_ms
            raise _FaultError(
                408, f"the body did not arrive within {limit} ms (serving.request_timeout_ms): send it in one go"
            ) from error
        return b"".join(pieces)

    async def healthz(self) -> Response:
        """The process is alive and its loop turns."""
        return Response("ok\n", media_type="text/plain")

    async def readyz(self) -> Response:
        """Weights are in service, and not staler than the settings allow."""
        reasons, served = not_ready(self._reader, self._serving), self._reader.served
        told = {
            "ready": not reasons,
            "reasons": reasons,
            "weights": None if served is None else served.manifest.name,
            "unseen_alarms": self._metrics.unseen_alarms,
        }
        return Response(msgspec.json.encode(told), 503 if reasons else 200, media_type=_JSON)

    async def metrics(self) -> Response:
        """Prometheus text."""
        return Response(self._metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _refusal(status: int, code: str, message: str) -> Response:
    headers = {"retry-after": "1"} if status == 503 else {"connection": "close"} if status in (408, 413) else None
    body = msgspec.json.encode({"error": {"code": code, "message": message}})
    return Response(body, status, headers, media_type=_JSON)


async def _told(request: Request, error: Exception) -> Response:
    """What the framework refuses (no such path, wrong method), in the same form."""
    assert isinstance(error, HTTPException)
    where = f"{request.method} {request.url.path[:200]}"
    response = _refusal(error.status_code, "no_such_route", f"{where}: {error.detail}; POST /score, or see /docs")
    response.headers.update(error.headers or {})
    return response
