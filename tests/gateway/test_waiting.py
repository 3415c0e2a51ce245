"""Requests that find no engine, or a silent one: whom they blame, how often they ask, what they hold meanwhile."""

import asyncio
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast, get_args

import httpx
import pytest
from fastapi import FastAPI
from pydantic import SecretStr

from tests.gateway.engine import KEY, Engine
from tunewright.chassis.errors import Unavailable
from tunewright.gateway.aliases import Alias
from tunewright.gateway.engines import EngineAnswer, EngineGone, Engines
from tunewright.gateway.http import chat, errors
from tunewright.gateway.http.auth import InferKey
from tunewright.gateway.keys import KeyRecord
from tunewright.gateway.routing import Recovering, Route, Routes
from tunewright.gateway.settings import GatewaySettings
from tunewright.gateway.traffic import Traffic
from tunewright.gateway.versions import VersionState
from tunewright.v1 import inference_pb2

MODEL = f"models/{'a' * 64}"
CANARY, SERVING = ("bot", 2), ("bot", 1)
READY, RECOVERING = inference_pb2.DEPLOYMENT_STATE_READY, inference_pb2.DEPLOYMENT_STATE_RECOVERING
BODY = {"model": "bot", "messages": [{"role": "user", "content": "hello"}]}
Resolve = Callable[[], Route]


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine() as found:
        yield found
        found.shutdown()


def _routes(serving: int | None, canary: int, listed: list[float] | None = None) -> Routes:
    """Routes of an alias whose canary has all users."""
    states = {"bot-1": serving, "bot-2": canary}
    deployments = [
        inference_pb2.Deployment(name=name, state=cast("Any", s)) for name, s in states.items() if s is not None
    ]
    seen = [] if listed is None else listed
    versions = [
        SimpleNamespace(
            alias="bot", model=MODEL, adapter=None, number=1, deployment="bot-1", state=VersionState.SERVING, weight=0
        ),
        SimpleNamespace(
            alias="bot", model=MODEL, adapter=None, number=2, deployment="bot-2", state=VersionState.CANARY, weight=100
        ),
    ]
    alias = Alias(name="bot", deployment="bot-1", run_id="", created_at=0)

    def listing() -> list[inference_pb2.Deployment]:
        seen.append(time.monotonic())
        return deployments

    parts: Any = (
        SimpleNamespace(all=lambda: {"bot": alias}),
        SimpleNamespace(live=lambda: versions),
        SimpleNamespace(deployments=listing),
    )
    return Routes(*parts)


def test_a_canary_is_missed_only_where_the_serving_version_answers_in_its_place() -> None:
    assert _routes(READY, READY).resolve("bot").version == CANARY
    found = _routes(READY, RECOVERING).resolve("bot")
    assert (found.version, found.missed) == (SERVING, CANARY)
    with pytest.raises(Recovering):
        _routes(RECOVERING, RECOVERING).resolve("bot")


@pytest.mark.parametrize("state", [None, inference_pb2.DEPLOYMENT_STATE_STOPPED])
def test_a_name_whose_deployment_is_stopped_for_a_swap_is_worth_waiting_for(state: int | None) -> None:
    routes = _routes(state, RECOVERING)
    with pytest.raises(Recovering, match="make room"):
        routes.resolve("bot")
    assert (routes.table()["bot"].state, routes.table()["bot"].absent) == ("recovering", True)
    assert routes.table()["bot"].artifact == MODEL


def test_a_name_whose_deployment_failed_is_503_at_once() -> None:
    with pytest.raises(Unavailable, match="is failed") as caught:
        _routes(inference_pb2.DEPLOYMENT_STATE_FAILED, RECOVERING).resolve("bot")
    assert not isinstance(caught.value, Recovering)


def test_those_who_wait_share_a_look_up_and_a_change_is_seen_at_once() -> None:
    listed: list[float] = []
    routes = _routes(READY, READY, listed)
    for _ in range(20):
        routes.forget(0.25)
        routes.table()
    assert len(listed) == 1
    routes.forget()
    routes.table()
    assert len(listed) == 2


class _Front:
    """The chat's own application before stand-ins for what it looks up, with the real way to a real small engine."""

    def __init__(self, resolve: Resolve, *, limit: int = 10, read_seconds: float = 5) -> None:
        settings = GatewaySettings(
            inference_engine_key=SecretStr(KEY), max_open_completions=limit, recovery_wait_seconds=2, _env_file=None
        )  # type: ignore[call-arg] # pydantic's own
        self.traffic = Traffic()
        self.resolve = resolve
        nothing = SimpleNamespace(count=lambda *_, **__: None, take_tokens=lambda *_: None)
        routes = _routes(READY, READY)
        self.state = SimpleNamespace(
            settings=settings,
            open_completions=0,
            rollouts=SimpleNamespace(traffic=self.traffic),
            routes=routes,
            engines=Engines(tls=True, read_seconds=read_seconds),
            usage=nothing,
            meter=nothing,
            models=SimpleNamespace(known=lambda *_: False, resolve=lambda *_: self.resolve(), forget=lambda *_: None),
            stopping=asyncio.Event(),
        )
        self.app = FastAPI()
        self.app.include_router(chat.router)
        errors.install(self.app)
        self.app.state.gateway = self.state
        key = KeyRecord(id="k", name="k", created_at=0, salt="", sha256="")
        self.app.dependency_overrides[get_args(InferKey)[1].dependency] = lambda: key

    async def ask(self, told: str = "hello", **more: object) -> httpx.Response:
        body = {**BODY, "messages": [{"role": "user", "content": told}], **more}
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            answer = await client.post("/v1/chat/completions", json=body)
        engines = self.state.engines
        if self.state.open_completions == 0 and engines._session is not None:
            await engines._session.close()
            engines._session = None
        return answer

    def errors(self, key: tuple[str, int]) -> int:
        return self.traffic.figures(key, 60).errors

    def answers(self, key: tuple[str, int]) -> int:
        return self.traffic.figures(key, 60).requests


def _route(endpoint: str, version: tuple[str, int], missed: tuple[str, int] | None = None, life: int = 0) -> Route:
    return Route(
        model="bot", deployment="bot", endpoint=endpoint, served="bot", life=life, version=version, missed=missed
    )


async def test_a_crash_of_a_shared_engine_is_no_error_of_a_canary_that_waits_for_it(engine: Engine) -> None:
    since = time.monotonic()

    def resolve() -> Route:
        if time.monotonic() - since < 1:
            raise Recovering("recovering")
        return _route(engine.url, SERVING, missed=CANARY)

    front = _Front(resolve)
    assert (await front.ask()).status_code == httpx.codes.OK
    assert front.errors(CANARY) == 1, "once, since the serving version answered in its place"
    assert (front.answers(SERVING), front.errors(SERVING)) == (1, 0)


async def test_a_request_that_is_asked_again_counts_one_error() -> None:
    lives = iter(range(100))
    front = _Front(lambda: _route("http://127.0.0.1:9/v1", CANARY, life=next(lives)))
    assert (await front.ask()).status_code == httpx.codes.SERVICE_UNAVAILABLE
    assert next(lives) > 4, "it was asked again"
    assert (front.answers(CANARY), front.errors(CANARY)) == (1, 1)


async def test_a_silent_engine_is_504_in_openais_shape_and_is_not_asked_again(engine: Engine) -> None:
    front = _Front(lambda: _route(engine.url, CANARY), read_seconds=0.3)
    answer = await front.ask("slow")
    assert answer.status_code == httpx.codes.GATEWAY_TIMEOUT
    error = answer.json()["error"]
    assert (error["type"], error["code"], error["param"]) == ("server_error", "engine_timeout", None)
    assert len(engine.asked) == 1
    assert front.errors(CANARY) == 1
    assert front.state.open_completions == 0


@pytest.mark.parametrize(("told", "status"), [("too long", 400), ("busy", 429)])
async def test_what_a_client_got_wrong_is_no_answer_of_the_version(engine: Engine, told: str, status: int) -> None:
    front = _Front(lambda: _route(engine.url, CANARY))
    assert (await front.ask(told)).status_code == status
    assert front.answers(CANARY) == 0


async def test_an_engine_that_refuses_the_gateways_key_is_an_error_of_its_version(engine: Engine) -> None:
    front = _Front(lambda: _route(engine.url, CANARY))
    front.state.settings = front.state.settings.model_copy(update={"inference_engine_key": SecretStr("wrong")})
    assert (await front.ask()).status_code == httpx.codes.SERVICE_UNAVAILABLE
    assert front.errors(CANARY) == 1


async def test_a_request_that_waits_for_an_engine_holds_its_place() -> None:
    def resolve() -> Route:
        raise Recovering("recovering")

    front = _Front(resolve, limit=1)
    waiting = asyncio.create_task(front.ask())
    await asyncio.sleep(0.3)
    assert (await front.ask()).status_code == httpx.codes.TOO_MANY_REQUESTS
    assert (await waiting).status_code == httpx.codes.SERVICE_UNAVAILABLE
    assert front.state.open_completions == 0


async def test_whole_answers_are_timed_by_their_tokens(engine: Engine) -> None:
    front = _Front(lambda: _route(engine.url, CANARY))
    assert (await front.ask()).status_code == httpx.codes.OK
    found = front.traffic.figures(CANARY, 60)
    assert (found.wholes, found.streams) == (1, 0)
    assert found.whole_token_p50 is not None
    assert found.whole_token_p50 > 0


@pytest.mark.parametrize("stream", [True, False])
async def test_an_answer_gives_its_place_back(engine: Engine, stream: bool) -> None:  # noqa: FBT001 - a parameter of the test
    front = _Front(lambda: _route(engine.url, CANARY), limit=1)
    for _ in range(2):
        assert (await front.ask(stream=stream)).status_code == httpx.codes.OK
    assert front.state.open_completions == 0


async def test_an_error_whose_text_breaks_off_is_still_told() -> None:
    class _Broken:
        status = 500

        async def pieces(self) -> Any:  # noqa: ANN401 - an async generator
            yield b'{"error"'
            raise EngineGone("ClientPayloadError")

    answer = await chat._engine_error(cast("EngineAnswer", _Broken()))
    assert answer.status_code == 500
