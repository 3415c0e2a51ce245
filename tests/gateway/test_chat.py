"""Chat and completions: passed through to the engine, byte for byte and as they come."""

import contextlib
import json
import time
from typing import Any

import httpx
import pytest

from tests.gateway.conftest import MakeGateway
from tests.gateway.engine import CHUNK_SECONDS, stream_lines
from tests.gateway.processes import Gateway, recipe


@pytest.fixture(scope="module")
def model(gateway: Gateway) -> str:
    """A public name that answers, as an alias of a deployment of another name."""
    run_id = gateway.submit(recipe("chat-bot", gateway.upload()))
    gateway.wait(run_id, "succeeded")
    return "chat-bot"


def _body(model: str, told: str, **more: object) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": told}], **more}


def _engine(gateway: Gateway) -> dict[str, Any]:
    """Return what the engine counted."""
    found = next(run for run in gateway.get("/v1/runs", limit=100)["data"] if run["name"] == "chat-bot")
    targets = gateway.get(f"/v1/artifacts/{found['artifacts']['evaluate']}/files/logs/targets.json")
    counted: dict[str, Any] = httpx.get(targets["tuned"]["endpoint"]).json()
    return counted


def test_a_stream_comes_byte_for_byte_and_without_waiting_for_its_end(gateway: Gateway, model: str) -> None:
    arrived: list[float] = []
    data = b""
    with (
        gateway.client() as client,
        client.stream("POST", "/v1/chat/completions", json=_body(model, "one two three", stream=True)) as answer,
    ):
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        for chunk in answer.iter_raw():
            arrived.append(time.monotonic())
            data += chunk
    assert data == b"".join(stream_lines(model, "one two three"))
    assert len(arrived) >= 5
    assert arrived[-1] - arrived[0] > 4 * CHUNK_SECONDS


def test_a_whole_answer_and_a_text_completion_pass_through(gateway: Gateway, model: str) -> None:
    chat = gateway.post("/v1/chat/completions", _body(model, "hello"))
    assert chat["choices"][0]["message"]["content"] == "hello"
    text = gateway.post("/v1/completions", {"model": model, "prompt": "once"})
    assert text["choices"][0]["text"] == "once"


def test_base_and_candidate_answer_under_their_own_names(gateway: Gateway, model: str) -> None:
    deployment = gateway.get(f"/v1/models/{model}")["tunewright"]["deployment"]
    for name in (f"{model}-base", deployment):
        assert gateway.post("/v1/chat/completions", _body(name, "hello"))["model"] == name


@pytest.mark.parametrize("told", ["many words " * 40, "slow"])
def test_a_client_that_goes_away_ends_the_engines_work(gateway: Gateway, model: str, told: str) -> None:
    before = _engine(gateway)["aborted"]
    body = _body(model, told, stream=True)
    with gateway.client() as client:
        client.timeout = httpx.Timeout(0.5)
        with (
            contextlib.suppress(httpx.ReadTimeout),
            client.stream("POST", "/v1/chat/completions", json=body) as answer,
        ):
            next(answer.iter_raw())
    deadline = time.monotonic() + 5
    while _engine(gateway)["aborted"] == before:
        assert time.monotonic() < deadline, "the engine is still at it"
        time.sleep(0.1)


@pytest.mark.parametrize("told", ["break", "die"])
def test_an_engine_that_breaks_off_is_told_inside_the_stream(gateway: Gateway, model: str, told: str) -> None:
    with gateway.client() as client:
        answer = client.post("/v1/chat/completions", json=_body(model, told, stream=True))
    assert "[DONE]" not in answer.text
    last = answer.text.strip().split("\n\n")[-1]
    error = json.loads(last.removeprefix("data: "))["error"]
    assert error["code"] == "unavailable"
    assert set(error) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("told", "status", "code", "kind", "param"),
    [
        ("too long", 400, "context_length_exceeded", "invalid_request_error", None),
        ("tools", 400, None, "invalid_request_error", "tools"),
        ("too warm", 400, None, "invalid_request_error", "temperature"),
        ("hot", 400, None, "invalid_request_error", "temperature"),
        ("none of it", 400, None, "invalid_request_error", "n"),
        ("busy", 429, None, "rate_limit_error", None),
    ],
)
def test_the_engines_errors_come_in_openais_shape(
    gateway: Gateway, model: str, told: str, status: int, code: str | None, kind: str, param: str | None
) -> None:
    with gateway.client() as client:
        answer = client.post("/v1/chat/completions", json=_body(model, told))
    assert answer.status_code == status
    error = answer.json()["error"]
    assert (error["code"], error["type"], error["param"]) == (code, kind, param)
    assert (answer.headers.get("retry-after") is not None) == (status == httpx.codes.TOO_MANY_REQUESTS)


def test_an_unknown_model_is_404_and_a_recovering_one_503_with_retry_after(gateway: Gateway, model: str) -> None:
    artifact = gateway.get(f"/v1/models/{model}")["tunewright"]["artifact"]
    gateway.post("/v1/deployments", {"name": "recovering", "model": artifact})
    with gateway.client() as client:
        unknown = client.post("/v1/chat/completions", json=_body("nobody", "hello"))
        assert unknown.status_code == httpx.codes.NOT_FOUND
        assert unknown.json()["error"]["code"] == "model_not_found"
        recovering = client.post("/v1/chat/completions", json=_body("recovering", "hello"))
        assert recovering.status_code == httpx.codes.SERVICE_UNAVAILABLE
        assert recovering.headers["retry-after"] == "2"
        assert client.delete("/v1/deployments/recovering").status_code == httpx.codes.OK
        gone = client.post("/v1/chat/completions", json=_body("recovering", "hello"))
        assert gone.status_code == httpx.codes.NOT_FOUND


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "not JSON"),
        (b"[]", "JSON object"),
        (b'{"messages": []}', "model"),
        (b'{"model": "chat-bot"}', "messages"),
        (b'{"model": "chat-bot", "messages": []}', "messages"),
        (b'{"model": "chat-bot", "messages": null}', "messages"),
        (b'{"model": "chat-bot", "messages": "hello"}', "messages"),
        (b'{"model": "chat-bot", "messages": [], "temperature": NaN}', "NaN"),
        (b'{"model": 7}', "model"),
        (b"\xff\xfe", "not JSON"),
        (b'{"model": ' + b"[" * 40000, "not JSON"),
    ],
)
def test_a_malformed_body_is_400_and_names_what_is_wrong(gateway: Gateway, body: bytes, says: str) -> None:
    with gateway.client() as client:
        answer = client.post("/v1/chat/completions", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == httpx.codes.BAD_REQUEST, answer.text
    assert says in answer.json()["error"]["message"]


def test_more_completions_than_the_limit_are_429(make_gateway: MakeGateway, gateway: Gateway, model: str) -> None:
    small = make_gateway(max_open_completions="1")
    name = f"{model}-base"
    with (
        small.client() as client,
        client.stream("POST", "/v1/chat/completions", json=_body(name, "a b c d", stream=True)) as first,
    ):
        assert first.status_code == httpx.codes.OK
        second = client.post("/v1/chat/completions", json=_body(name, "hello"))
        assert second.status_code == httpx.codes.TOO_MANY_REQUESTS
        assert second.json()["error"]["code"] == "rate_limit_exceeded"
        assert int(second.headers["retry-after"]) > 0
        first.read()
    assert small.post("/v1/chat/completions", _body(name, "hello"))["choices"]
    assert gateway.get("/healthz")["status"] == "ok"
