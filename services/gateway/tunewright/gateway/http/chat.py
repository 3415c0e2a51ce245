"""/v1/chat/completions and /v1/completions: passed through to the engine that serves the model.

The answer's bytes are the engine's own, event by event as they come, but for two things: `model` is the name that was
asked for, not that of the deployment behind it, and the tokens are counted (relay.py). A client that goes away ends the
engine's work. Of the request, `model` is rewritten and null is left out: it means unset.
"""

import asyncio
import json
import logging
import re
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.concurrency import run_in_threadpool

from tunewright.chassis.errors import InvalidSpec, Unavailable, Violation
from tunewright.gateway import metrics
from tunewright.gateway.engines import EngineAnswer, EngineGone, EngineSilent
from tunewright.gateway.http.auth import InferKey
from tunewright.gateway.http.errors import (
    RETRY_AFTER_SECONDS,
    EngineTimeout,
    TooManyRequests,
    error_object,
    type_of_status,
)
from tunewright.gateway.http.relay import Relay
from tunewright.gateway.http.state import State, state_of
from tunewright.gateway.http.stopwatch import ERROR_EVENT, Stopwatch
from tunewright.gateway.keys import KeyRecord
from tunewright.gateway.routing import ModelNotFound, Recovering, Route
from tunewright.gateway.traffic import Key
from tunewright.gateway.visible import CHECKPOINT

_ERROR_BYTES = 1 << 20
_CLIENT_GONE = 499
_SSE = "text/event-stream"
_CHECKPOINT_SECONDS = 120.0
"""Longest wait for a checkpoint's adapter, and for an engine of its base where none runs."""
_CHECKPOINT_POLL_SECONDS = 0.5
_BOUND = re.compile(r"(\w+) must be ")
_LOCATION = re.compile(r"'loc': \('body', '(\w+)'")
_NAMED = {"tool choice": "tools", "tool-call-parser": "tools", "response_format": "response_format"}
"""Words of the engine's refusals that come without a field → the field that they are about."""
_USER_FIELDS = ("safety_identifier", "user")
"""Where OpenAI's requests name the end user; the first that is there decides between versions."""
_RECOVERY_POLL_SECONDS = 0.25
_NOTICE_SECONDS = 20.0
"""How long inference may take to notice that an engine died: vLLM outlives its dead core for up to 7 s under load."""
_TRIES = 3
_VERSIONS_FAULT = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND}
"""Of the engine's refusals, those that no client can cause: the gateway's key, the name that the gateway asks for."""
_ENGINE_DEAD = b"EngineCore encountered an issue"
"""What vLLM's HTTP server says while it outlives its engine for a moment."""
_BODY = {"requestBody": {"required": True, "content": {"application/json": {"schema": {
    "type": "object", "required": ["model"], "properties": {"model": {"type": "string"}}, "additionalProperties": True,
}}}}}  # fmt: skip

_log = logging.getLogger(__name__)
router = APIRouter(tags=["chat"])


@router.post("/v1/chat/completions", openapi_extra=_BODY)
async def chat_completions(request: Request, key: InferKey) -> Response:
    """Answer a chat, as a whole or as a stream."""
    return await _pass_through(request, "chat/completions", key)


@router.post("/v1/completions", openapi_extra=_BODY)
async def completions(request: Request, key: InferKey) -> Response:
    """Complete a text, as a whole or as a stream."""
    return await _pass_through(request, "completions", key)


async def _pass_through(request: Request, path: str, key: KeyRecord) -> Response:
    state = state_of(request)
    document = _parsed(await request.body(), path)
    if state.open_completions >= state.settings.max_open_completions:
        raise TooManyRequests(f"{state.open_completions} completions are under way; that is the limit.")
    blamed: set[Key] = set()
    async with AsyncExitStack() as place:  # held while the request waits for an engine, too
        state.open_completions += 1
        place.callback(_close_one, state)
        for _ in range(_TRIES):
            route = await _resolve(state, key, document)
            watch = Stopwatch(state.rollouts.traffic, route.version, blamed)
            response = await _answered(
                request, path, Relay(route, document, state.usage, state.meter, key), route, watch, place
            )
            if response is not None:
                return response
            await _await_another(state, key, document, route)
    raise Unavailable(
        f"The engine of {document['model']!r} does not answer: it is being started again.",
        remedy="Try again in a few seconds.",
    )


async def _answered(
    request: Request, path: str, relay: Relay, route: Route, watch: Stopwatch, place: AsyncExitStack
) -> Response | None:
    """Return the engine's answer, None if the engine died before the first byte of it: then it may be asked again.

    Raises:
        EngineTimeout: it took the request and says nothing.
    """
    state = state_of(request)
    body = json.dumps(relay.request, ensure_ascii=False).encode(errors="surrogatepass")
    async with AsyncExitStack() as stack:
        stack.enter_context(state.routes.answering(route.deployment))
        try:
            answer = await _ask(request, state, route, path, body, stack)
        except Unavailable:
            watch.end(ok=False)
            return None
        except EngineTimeout:
            watch.end(ok=False)
            raise
        if answer is None:
            return Response(status_code=_CLIENT_GONE)
        if answer.status >= 400:  # noqa: PLR2004 - errors
            if answer.status >= 500 or answer.status in _VERSIONS_FAULT:  # noqa: PLR2004
                watch.end(ok=False)
            error = await _engine_error(answer)
            return None if _ENGINE_DEAD in error.body else error
        watch.blame(route.missed)
        await stack.enter_async_context(place.pop_all())
        stack.callback(relay.count)
        return await _answer(answer, relay, watch, stack.pop_all())
    raise AssertionError("an exit stack swallows nothing")


async def _await_another(state: State, key: KeyRecord, document: dict[str, Any], dead: Route) -> None:
    """Return once a dead engine is known to be dead, or another one answers for the model; or after some seconds."""
    deadline = time.monotonic() + min(_NOTICE_SECONDS, state.settings.recovery_wait_seconds)
    while time.monotonic() < deadline:
        state.models.forget(_RECOVERY_POLL_SECONDS)
        try:
            if await run_in_threadpool(state.models.resolve, key.project, document["model"], _user(document)) != dead:
                return
        except Recovering:
            return
        await asyncio.sleep(_RECOVERY_POLL_SECONDS)


def _user(document: dict[str, Any]) -> str:
    return next((value for name in _USER_FIELDS if isinstance(value := document.get(name), str)), "")


def _close_one(state: State) -> None:
    state.open_completions -= 1


def _parsed(body: bytes, path: str) -> dict[str, Any]:
    """Return the request without what is null. Raises InvalidSpec with the name of a field that is missing."""
    try:
        document = json.loads(body, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise InvalidSpec(f"The body is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise InvalidSpec("The body must be a JSON object.")
    document = {name: value for name, value in document.items() if value is not None}
    if not isinstance(document.get("model"), str):
        raise _wrong("model", "text is expected")
    if path == "chat/completions":
        messages = document.get("messages")
        if not isinstance(messages, list) or not messages:
            raise _wrong("messages", "a list of at least one message is expected")
    elif "prompt" not in document:
        raise _wrong("prompt", "missing")
    return document


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number in JSON")


def _wrong(field: str, description: str) -> InvalidSpec:
    return InvalidSpec(f"{field}: {description}", violations=[Violation(field, description)])


async def _resolve(state: State, key: KeyRecord, document: dict[str, Any]) -> Route:
    """Return where the model answers; an engine that is started again after its death is waited for."""
    model, user = document["model"], _user(document)
    deadline = time.monotonic() + state.settings.recovery_wait_seconds
    while True:
        try:
            if state.models.known(key.project, model):
                return state.models.resolve(key.project, model, user)
            return await run_in_threadpool(state.models.resolve, key.project, model, user)
        except Recovering:
            if time.monotonic() >= deadline or state.stopping.is_set():
                raise
            await asyncio.sleep(_RECOVERY_POLL_SECONDS)
        except ModelNotFound:
            if not CHECKPOINT.fullmatch(model):
                raise
            await run_in_threadpool(state.checkpoints.deploy, key, model)
            return await _once_it_answers(state, key.project, model)
        except Unavailable:
            if not CHECKPOINT.fullmatch(model):
                raise
            return await _once_it_answers(state, key.project, model)


async def _once_it_answers(state: State, project: str, model: str) -> Route:
    """Return where a checkpoint answers that was just deployed: its first questions wait for it. Raises Unavailable."""
    deadline = time.monotonic() + _CHECKPOINT_SECONDS
    while True:
        state.models.forget(_RECOVERY_POLL_SECONDS)
        try:
            return await run_in_threadpool(state.models.resolve, project, model)
        except Unavailable:
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(_CHECKPOINT_POLL_SECONDS)


async def _ask(
    request: Request, state: State, route: Route, path: str, body: bytes, stack: AsyncExitStack
) -> EngineAnswer | None:
    """Return the engine's answer once its headers are there, None if the client went away before that."""
    started = time.perf_counter()
    headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
    if key := state.settings.inference_engine_key.get_secret_value():
        headers["Authorization"] = f"Bearer {key}"
    asking = asyncio.ensure_future(state.engines.post(f"{route.endpoint.rstrip('/')}/{path}", body, headers))
    leaving = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({asking, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not asking.done():
            return None
        answer = asking.result()
    except EngineSilent as error:
        raise EngineTimeout(f"The engine of {route.model!r} took the request and did not answer in time.") from error
    except EngineGone as error:
        state.routes.forget()
        raise Unavailable(
            f"The engine of {route.model!r} does not answer ({error}).",
            remedy="Try again in a few seconds.",
        ) from error
    finally:
        leaving.cancel()
        if not asking.done():
            asking.cancel()
    stack.push_async_callback(answer.close)
    metrics.FIRST_BYTE_SECONDS.observe(time.perf_counter() - started)
    return answer


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _answer(answer: EngineAnswer, relay: Relay, watch: Stopwatch, resources: AsyncExitStack) -> Response:
    media_type = answer.media_type
    headers = {"Content-Type": media_type, "X-Accel-Buffering": "no"}
    if media_type.startswith(_SSE):
        return _Closing(_relay(answer, relay, watch), answer.status, headers, resources)
    async with resources:
        try:
            data = b"".join([chunk async for chunk in answer.pieces()])
        except EngineSilent as error:
            watch.end(ok=False)
            raise EngineTimeout("The engine fell silent within its answer.") from error
        except EngineGone as error:
            watch.end(ok=False)
            raise Unavailable("The engine broke off its answer.", remedy="Try again in a few seconds.") from error
        whole = relay.whole(data)
        watch.whole(relay.told_tokens)
        watch.end(ok=True)
        return Response(whole, answer.status, headers)


class _Closing(StreamingResponse):
    """A stream that gives back what it holds however it ends: sent, cut off by the client, or never begun."""

    def __init__(
        self, content: AsyncIterator[bytes], status: int, headers: dict[str, str], resources: AsyncExitStack
    ) -> None:
        super().__init__(content, status, headers)
        self._resources = resources

    async def __call__(self, *arguments: Any) -> None:  # noqa: ANN401 - ASGI's own three
        async with self._resources:
            await super().__call__(*arguments)


async def _relay(answer: EngineAnswer, relay: Relay, watch: Stopwatch) -> AsyncIterator[bytes]:
    try:
        async for chunk in answer.pieces():
            watch.piece(chunk)
            at = chunk.find(ERROR_EVENT)
            if data := relay.piece(chunk if at < 0 else chunk[:at]):
                yield data
            if at >= 0:  # the engine's own words end the stream, without the [DONE] that vLLM sends after them
                watch.end(ok=False)
                yield _error_event(_error_in(chunk[at:].partition(b"\n\n")[0].removeprefix(b"data: ")))
                return
        if data := relay.rest():
            yield data
        watch.end(ok=True)
    except EngineGone as error:
        watch.end(ok=False)
        _log.warning("an engine broke off its answer: %s", error)
        yield _error_event({})


def _error_event(found: dict[str, Any]) -> bytes:
    """Return the event that ends a stream: the engine's error in OpenAI's shape, or that it broke off."""
    message = str(found.get("message") or "")
    if message and _ENGINE_DEAD.decode() not in message:
        error = error_object(message, "server_error", found.get("param"), None)
    else:
        text = "The engine broke off its answer: it is being restarted. Try again in a few seconds."
        error = error_object(text, "server_error", None, "unavailable")
    return f"data: {json.dumps(error)}\n\n".encode()


async def _engine_error(answer: EngineAnswer) -> JSONResponse:
    """Return the engine's error in OpenAI's shape with all four keys; engines put the status where the code belongs."""
    data = b""
    try:
        async for chunk in answer.pieces():
            data += chunk
            if len(data) > _ERROR_BYTES:
                break
    except EngineGone as error:
        _log.warning("an engine broke off the text of its error: %s", error)
    status = answer.status
    if status in {401, 403}:
        _log.error("the engine refuses the gateway's key: TUNEWRIGHT_INFERENCE_ENGINE_KEY is wrong")
        status, data = 503, b""
    found = _error_in(data)
    message = str(found.get("message") or "The engine could not answer.")
    code = found.get("code") if isinstance(found.get("code"), str) else None
    if "maximum context length" in message:
        code = "context_length_exceeded"
    kind = found["type"] if str(found.get("type", "")).endswith("_error") else type_of_status(status)
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)} if status in {429, 503} else {}
    told = found.get("param")
    param = told.removeprefix("body.") if isinstance(told, str) else _field_in(message)
    return JSONResponse(error_object(message, kind, param, code), status, headers)


def _field_in(message: str) -> str | None:
    """Return the field that the engine's validation names: `'loc': ('body', 'temperature')`."""
    found = _LOCATION.search(message) or _BOUND.match(message)
    if found:
        return found[1]
    return next((field for words, field in _NAMED.items() if words in message.lower()), None)


def _error_in(data: bytes) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except ValueError:
        return {}
    found = document.get("error", document) if isinstance(document, dict) else {}
    return found if isinstance(found, dict) else {"message": str(found)}
