"""The scorer as others ask it: scores, clear refusals, readiness, figures; and what a machine makes up from its OpenAPI."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from scorers import FakeSource, probability, tiny

from models.manifest import Published
from streaming.adapters.http import scorer
from streaming.ids import Salt
from streaming.reader import WeightsReader
from streaming.serving import Serving


class Scorer:
    """A scorer in this process, its clock and its weights in the hand of the test."""

    def __init__(self, *versions: Published, serving: Serving | None = None, api_key: str | None = None) -> None:
        self.now_ms = 0
        self.source = FakeSource(*versions)
        self.reader = WeightsReader(self.source, clock=lambda: self.now_ms)
        self.reader.poll()
        self.app = scorer(self.reader, Serving() if serving is None else serving, api_key=api_key)
        self.client = TestClient(self.app)

    def score(self, body: object, **headers: str) -> Any:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.client.post("/score", content=content, headers={"content-type": "application/json"} | headers)

    def figure(self, name: str) -> float | None:
        for line in self.client.get("/metrics").text.splitlines():
            if line.startswith(f"afterclick_serving_{name} "):
                return float(line.split()[-1])
        return None


@pytest.fixture
def plain() -> Iterator[Scorer]:
    found = Scorer(tiny(3, 7, logit=1.0, rows={int(Salt("user").ids(["known"])[0]): 1.0}, watermark_ms=900))
    with found.client:
        yield found


def test_items_of_one_user_are_scored_by_one_version(plain):
    p = probability(1.0)
    answer = plain.score({"context": {"user": "known"}, "items": [{"item": 1}, {"item": 2, "user": "x"}], "key": "q1"})
    assert answer.status_code == 200
    told = answer.json()
    assert told["key"] == "q1"
    assert told["weights"] == {
        "name": "000003-0000000007",
        "epoch": 3,
        "version": 7,
        "method": "mature",
        "watermark_ms": 900,
    }
    for item in told["items"]:
        assert item["pctr"] == item["pcvr"] == pytest.approx(p)
        assert item["pctcvr"] == item["score"] == item["pctr"] * item["pcvr"]
        assert item["served"] == {"pctr": item["pctr"], "pcvr": item["pcvr"], "weights_version": 7}
    assert plain.score({"items": []}).json()["items"] == []


def test_the_ranking_score_is_a_product_of_powers():
    serving = Serving(pctr_exponent=2.0, pcvr_exponent=0.5, factors={"bid": 1.0, "age": -1.0})
    asked = {"items": [{"factors": {"bid": 3, "age": 2.0}}, {"factors": {"bid": 0, "age": 1}}]}
    p = probability(1.0)
    found = [item["score"] for item in Scorer(tiny(1, 1, logit=1.0), serving=serving).score(asked).json()["items"]]
    assert found == pytest.approx([p**2 * p**0.5 * 3 / 2, 0.0])


BAD_FACTORS = [
    ({}, "items[0].factors.bid must be a number from 0 to 1e+12 (got nothing), as serving.factors names it"),
    ({"bid": -1, "age": 1}, "items[0].factors.bid must be a number from 0 to 1e+12 (got -1.0)"),
    ({"bid": 1, "age": 0}, "items[0].factors.age must be a number from 1e-12 to 1e+12 (got 0.0)"),
    ({"bid": 1, "age": 1, "bids": 1}, "items[0].factors.bids is unknown: serving.factors names bid, age"),
    ({"bid": "1", "age": 1}, "items[0] must be an object of features, its factors an object of numbers"),
    ({"bid": 1e13, "age": 1}, "items[0].factors.bid must be a number from 0 to 1e+12 (got 10000000000000.0)"),
]


@pytest.mark.parametrize(("factors", "says"), BAD_FACTORS)
def test_factors_that_cannot_be_used_are_refused_by_name(factors, says):
    asked = Scorer(tiny(1, 1), serving=Serving(factors={"bid": 1.0, "age": -1.0}))
    answer = asked.score({"items": [{"factors": factors}]})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid")
    assert says in answer.json()["error"]["message"]


REFUSED = [
    (b"garbage", 400, "malformed", "no JSON"),
    (b"", 400, "malformed", "truncated"),
    (b'{"items": [{"a": "\xff"}]}', 400, "malformed", "utf-8"),
    (b'{"items": ' + b"[" * 100_000, 400, "malformed", "recursion"),
    (b"[]", 422, "invalid", "Expected `object`"),
    (b"{}", 422, "invalid", "missing required field `items`"),
    (b'{"items": [], "user": 1}', 422, "invalid", "unknown field `user`"),
    (b'{"items": [{}, 5]}', 422, "invalid", "items[1] must be an object"),
    (b'{"items": [{"factors": {"bid": 1}}]}', 422, "invalid", "serving.factors names none"),
    (b'{"items": [{"\\u0066actors": {"bid": 1}}]}', 422, "invalid", "serving.factors names none"),
    (b'{"items": [], "context": null}', 422, "invalid", "context must be an object"),
    (b'{"items": [], "key": "%s"}' % (b"k" * 257), 422, "invalid", "256 characters at most (got 257)"),
    (b'{"items": [%s{}]}' % (b"{}," * 1000), 422, "too_many_items", "1000 at most (got 1001)"),
    (b'{"items": [%s{}]}' % (b"{}," * 1_000_000), 422, "too_many_items", "1000 at most (got 1000001)"),
    (b" " * 4_194_305, 413, "too_large", "4194304 bytes at most"),
]


@pytest.mark.parametrize(
    ("body", "status", "code", "says"), REFUSED, ids=[f"{row[1]}-{n}" for n, row in enumerate(REFUSED)]
)
def test_what_cannot_be_answered_is_refused_with_what_to_do(plain, body, status, code, says):
    answer = plain.score(body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert says in answer.json()["error"]["message"]
    assert plain.score({"items": [{}]}).status_code == 200, "and it goes on"


def test_a_body_without_a_length_is_cut_off_at_the_limit(plain):
    answer = plain.client.post(
        "/score", content=(b" " * 65_536 for _ in range(1_000)), headers={"content-type": "application/json"}
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")


async def sent_slowly(asked: Scorer, *, requests: int) -> list[int]:
    """The statuses of requests that are open at once, and whose bodies never end."""

    async def receive() -> dict[str, object]:
        await asyncio.sleep(60)
        raise AssertionError

    async def status() -> int:
        told: list[dict[str, Any]] = []

        async def send(message: dict[str, Any]) -> None:
            told.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/score",
            "headers": [],
            "query_string": b"",
            "http_version": "1.1",
        }
        await asked.app(scope, receive, send)
        return int(told[0]["status"])

    return list(await asyncio.gather(*[status() for _ in range(requests)]))


def test_a_body_that_does_not_arrive_is_given_up_and_too_many_at_once_are_told_so():
    asked = Scorer(tiny(1, 1), serving=Serving(request_timeout_ms=50, max_concurrent_requests=2))
    assert sorted(asyncio.run(sent_slowly(asked, requests=4))) == [408, 408, 503, 503]
    assert asked.score({"items": []}).status_code == 200


def test_a_body_of_another_kind_is_refused(plain):
    answer = plain.score(b"{}", **{"content-type": "text/csv"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "media_type")
    assert plain.score({"items": []}, **{"content-type": "Application/JSON; charset=utf-8"}).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/score", 405), ("POST", "/nowhere", 404), ("GET", "/score/", 404)]
)
def test_other_paths_and_methods_are_refused_in_the_same_form(plain, method, path, status):
    answer = plain.client.request(method, path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, "no_such_route")
    assert ("allow" in answer.headers) == (status == 405)


def test_scores_are_for_who_has_the_key_and_health_for_everyone():
    guarded = Scorer(tiny(1, 1), api_key="s3cret-ü")
    for headers in ({}, {"x-api-key": ""}, {"x-api-key": "s3cret"}):
        answer = guarded.score({"items": []}, **headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthorized")
        assert "s3cret" not in answer.text
    for path in ("/healthz", "/readyz", "/metrics", "/openapi.json"):
        assert guarded.client.get(path).status_code == 200


def test_the_right_key_opens():
    guarded = Scorer(tiny(1, 1), api_key="s3cret")
    assert guarded.score({"items": []}, **{"x-api-key": "s3cret"}).status_code == 200


def test_it_is_ready_with_weights_that_are_fresh_enough():
    scorer_ = Scorer(serving=Serving(max_watermark_age_ms=1_000, max_version_age_ms=5_000))
    assert scorer_.client.get("/healthz").text == "ok\n"
    answer = scorer_.client.get("/readyz")
    assert answer.status_code == 503
    assert "nothing was published yet" in answer.json()["reasons"][0]
    assert scorer_.score({"items": []}).json()["error"]["code"] == "no_weights"

    scorer_.source.publish(tiny(1, 1, watermark_ms=100))
    scorer_.reader.poll()
    assert scorer_.client.get("/readyz").json() == {
        "ready": True,
        "reasons": [],
        "weights": "000001-0000000001",
        "unseen_alarms": [],
    }
    scorer_.now_ms = 1_101
    answer = scorer_.client.get("/readyz")
    assert answer.status_code == 503
    assert (
        "the watermark of version 000001-0000000001 is 1001 ms old, serving.max_watermark_age_ms is 1000"
        in answer.json()["reasons"][0]
    )
    scorer_.now_ms = 6_000
    assert len(scorer_.client.get("/readyz").json()["reasons"]) == 2
    assert scorer_.score({"items": []}).status_code == 200, "who asks all the same is answered"


def test_figures_tell_of_requests_ids_and_weights(plain):
    plain.now_ms = 2_900
    plain.score({"context": {"user": "known"}, "items": [{}, {"user": "new"}, {"user": ["bad"]}]})
    plain.score(b"garbage")
    plain.source.publish(Published(tiny(3, 8).manifest, {}))
    plain.reader.poll()
    told = {
        'requests_total{status="200"}': 1, 'requests_total{status="400"}': 1, "items_total": 3,
        'ids_total{feature="user"}': 3, 'unseen_ids_total{feature="user"}': 1, 'feature_faults_total{feature="user"}': 1,
        "weights_epoch": 3, "weights_version": 7, "embedding_rows": 1, "watermark_timestamp_seconds": 0.9, "watermark_age_seconds": 2.0,
        "version_age_seconds": 2.9, "weights_swaps_total": 1, 'refused_versions_total{reason="damaged"}': 1, "request_seconds_count": 2,
    }  # fmt: skip
    assert {name: plain.figure(name) for name in told} == told


def test_an_alarm_rises_where_too_many_ids_have_no_row():
    few = Scorer(tiny(1, 1), serving=Serving(unseen_window=100, unseen_alarm_share=0.5))
    few.score({"items": [{"user": "a"}] * 9})
    assert few.figure('unseen_ids_alarm{feature="user"}') == 0.0, "a share of few is chance"
    few.score({"items": [{"user": "a"}]})
    assert (few.figure('unseen_ids_ratio{feature="user"}'), few.figure('unseen_ids_alarm{feature="user"}')) == (
        1.0,
        1.0,
    )
    assert few.client.get("/readyz").json()["unseen_alarms"] == ["user"]


MODES = [GenerationMode.POSITIVE, GenerationMode.NEGATIVE]
GUARDED = Serving(factors={"bid": 1.0, "age": -1.0}, max_items=3)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
@pytest.mark.parametrize("api_key", [None, "s3cret"], ids=["open", "guarded"])
def test_the_openapi_holds_for_whatever_a_machine_makes_of_it(mode, api_key):
    asked = Scorer(tiny(1, 1, logit=1.0), serving=Serving() if api_key is None else GUARDED, api_key=api_key)
    headers = {} if api_key is None else {"x-api-key": api_key}
    schema = schemathesis.openapi.from_asgi("/openapi.json", asked.app)
    statuses: list[int] = []
    labels = set()
    for found in schema.get_all_operations():
        operation = found.ok()
        is_posted = operation.method == "post"
        if mode == GenerationMode.NEGATIVE and not is_posted:
            continue  # nothing of it can be wrong
        labels.add(operation.label)

        @settings(max_examples=60 if is_posted else 2, deadline=None, database=None, derandomize=True,
                  suppress_health_check=list(HealthCheck))  # fmt: skip
        @given(case=operation.as_strategy(generation_mode=mode))
        def check(case: schemathesis.Case) -> None:
            statuses.append(case.call_and_validate(headers=headers).status_code)

        check()
    assert "POST /score" in labels
    assert set(statuses) <= ({200} if mode == GenerationMode.POSITIVE else {400, 401, 413, 415, 422})
