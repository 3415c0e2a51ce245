"""The client's patience and refusals, against a real local HTTP server that fails as engines fail."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tunewright.chassis.errors import Conflict, Interrupted, NotFound, Unavailable
from tunewright.evaluator.client import Endpoint, Target, Tokens, TokenScore
from tunewright.evaluator.heldout import Row

Answer = tuple[int, dict[str, Any]]
TOKENS = {"tokens": [1, 2], "max_model_len": 16, "count": 2}


@contextmanager
def server(answer: Callable[[int, dict[str, Any]], Answer]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Serve `answer(number of the request, its body)`; yields the endpoint and the list of bodies seen."""
    seen: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append({"path": self.path, "authorization": self.headers.get("Authorization"), **body})
            status, document = answer(len(seen), body)
            data = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{running.server_address[1]}/v1", seen
    finally:
        running.shutdown()
        thread.join()
        running.server_close()


def tokenize(endpoint: str, **settings: Any) -> Tokens:  # noqa: ANN401 - of the client
    async def ask() -> Tokens:
        async with Endpoint(Target(endpoint=endpoint, served_model_name="m"), **settings) as client:
            return await client.tokenize([{"role": "user", "content": "hi"}], generate=True)

    return asyncio.run(ask())


def test_an_engine_that_restarts_is_waited_for_and_the_wait_is_told() -> None:
    waits: list[str] = []
    with server(lambda number, _: (503, {}) if number < 3 else (200, TOKENS)) as (endpoint, seen):
        assert tokenize(endpoint, on_wait=waits.append, key="k").ids == [1, 2]
    assert len(seen) == 3
    assert len(waits) == 2
    assert "answers 503" in waits[0]
    assert seen[0]["authorization"] == "Bearer k"
    assert (seen[0]["path"], seen[0]["model"]) == ("/tokenize", "m")


def test_an_engine_that_stays_away_ends_in_unavailable_within_the_bound() -> None:
    started = time.monotonic()
    with pytest.raises(Unavailable, match=r"m at http://127\.0\.0\.1:1/v1 does not answer: ConnectError"):
        tokenize("http://127.0.0.1:1/v1", patience_seconds=1.0)
    assert time.monotonic() - started < 3


def test_a_stop_is_heard_while_waiting() -> None:
    stops = iter([None, None, None])

    def check() -> None:
        try:
            next(stops)
        except StopIteration:
            raise Interrupted("stopped") from None

    with pytest.raises(Interrupted):
        tokenize("http://127.0.0.1:1/v1", check_stop=check)


@pytest.mark.parametrize(("status", "error"), [(404, NotFound), (400, Conflict)])
def test_a_refusal_is_not_retried_and_carries_the_engines_words(status: int, error: type[Exception]) -> None:
    with (
        server(lambda _n, _b: (status, {"error": {"message": "the engine's words"}})) as (endpoint, seen),
        pytest.raises(error, match="the engine's words"),
    ):
        tokenize(endpoint)
    assert len(seen) == 1


def test_scores_are_those_of_the_given_tokens_in_order() -> None:
    def answer(_number: int, body: dict[str, Any]) -> Answer:
        given = body["prompt"]
        entries = [None, *({str(token): {"logprob": -float(token), "rank": token} for token in [t]} for t in given[1:])]
        return 200, {"choices": [{"prompt_logprobs": entries}]}

    async def ask(endpoint: str) -> list[TokenScore]:
        async with Endpoint(Target(endpoint=endpoint, served_model_name="m")) as client:
            return await client.score([7, 1, 3])

    with server(answer) as (endpoint, _seen):
        assert asyncio.run(ask(endpoint)) == [TokenScore(-1.0, 1), TokenScore(-3.0, 3)]


def test_greedy_answers_switch_off_the_models_own_sampling_defaults() -> None:
    async def ask(endpoint: str) -> str:
        async with Endpoint(Target(endpoint=endpoint, served_model_name="m")) as client:
            return await client.answer([{"role": "user", "content": "hi"}], 5)

    with server(lambda _n, _b: (200, {"choices": [{"message": {"content": "ho"}}]})) as (endpoint, seen):
        assert asyncio.run(ask(endpoint)) == "ho"
    assert seen[0]["repetition_penalty"] == 1.0
    assert seen[0]["temperature"] == 0
    assert seen[0]["max_tokens"] == 5


TOOL = {"type": "function", "function": {"name": "f", "description": None, "parameters": None}}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":  1}'}}
TURNS = [
    {"role": "user", "content": "q"},
    {"role": "assistant", "content": "no", "weight": 0},
    {"role": "user", "content": "again"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "1", "tool_call_id": "c1"},
    {"role": "assistant", "content": "one"},
]


def test_a_held_out_row_with_tools_is_asked_in_openais_form_and_turns_of_weight_0_are_not_scored() -> None:
    row = Row.model_validate({"id": "x", "messages": TURNS, "tools": [TOOL]})
    assert row.answers == [3, 5]
    assert row.turns(5)[1] == {"role": "assistant", "content": "no"}
    assert row.turns()[3] == TURNS[3]
    assert row.answered_in_words
    assert not Row.model_validate({"id": "x", "messages": TURNS[:4]}).answered_in_words

    async def ask(endpoint: str) -> str:
        async with Endpoint(Target(endpoint=endpoint, served_model_name="m")) as client:
            await client.tokenize(row.turns(5), row.tools, generate=True)
            return await client.answer(row.turns(5), 4, row.tools)

    said = {"choices": [{"message": {"content": "one"}}]}
    with server(lambda number, _: (200, TOKENS if number == 1 else said)) as (endpoint, seen):
        assert asyncio.run(ask(endpoint)) == "one"
    assert [request["tools"] for request in seen] == [[TOOL], [TOOL]]
    assert seen[1]["tool_choice"] == "none"
