"""One served model, asked over vLLM's HTTP interface: token ids, log-probabilities of given tokens, greedy answers.

Waits out an engine that is restarting, within a bound; hears a stop between two requests. Knows nothing of rows.
"""

import asyncio
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx
from pydantic import BaseModel, ConfigDict, Field

from tunewright.chassis.errors import Conflict, NotFound, TunewrightError, Unauthenticated, Unavailable

_PATIENCE_SECONDS = 300.0
"""How long an endpoint may not answer before the evaluation fails: a large model's restart takes minutes."""
_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 0.5, 10.0
_REQUEST_SECONDS = 600.0
_RETRIED = {429, 500, 502, 503, 504}


class Target(BaseModel):
    """Where a model answers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    endpoint: str = Field(pattern=r"^https?://")
    """OpenAI-compatible root, such as http://127.0.0.1:8101/v1."""
    served_model_name: str = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class Tokens:
    """A conversation as the engine reads it."""

    ids: list[int]
    strings: list[str]
    """As the vocabulary spells them; empty unless asked for."""
    max_model_len: int
    """Tokens that the engine takes at most."""


@dataclass(frozen=True, slots=True)
class TokenScore:
    """What a model thought of one given token, with everything before it in sight."""

    logprob: float
    """Natural logarithm of its probability."""
    rank: int
    """1 if it was the model's first choice."""


class Endpoint:
    """A served model.

    Args:
        target: where it answers and under which name.
        key: bearer key; empty for none. Never logged.
        tls_ca: PEM authority of an https endpoint.
        check_stop: called before each request and each wait; raises to stop.
        on_wait: told in words when the endpoint does not answer, once for each wait.
        patience_seconds: bound of all waits for one request.
    """

    def __init__(
        self,
        target: Target,
        *,
        key: str = "",
        tls_ca: Path | None = None,
        check_stop: Callable[[], None] = lambda: None,
        on_wait: Callable[[str], None] = lambda _text: None,
        patience_seconds: float = _PATIENCE_SECONDS,
    ) -> None:
        self.target = target
        self._check_stop = check_stop
        self._on_wait = on_wait
        self._patience = patience_seconds
        self._root = target.endpoint.rstrip("/").removesuffix("/v1")
        verify = ssl.create_default_context(cafile=str(tls_ca)) if tls_ca else True
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        # Named as a service of this stack, so the environment's proxies are not for it.
        self._http = httpx.AsyncClient(headers=headers, verify=verify, timeout=_REQUEST_SECONDS, trust_env=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def tokenize(
        self, messages: list[dict[str, Any]], tools: Sequence[Any] = (), *, generate: bool, strings: bool = False
    ) -> Tokens:
        """Return a conversation's token ids by the model's own chat template.

        Args:
            messages: the conversation.
            tools: definitions of the tools that it may call.
            generate: end with the marker after which the model answers.
            strings: return the tokens' texts too.
        """
        body = {"messages": messages, "add_generation_prompt": generate, "return_token_strs": strings} | _with(tools)
        found = await self._post("/tokenize", body)
        return Tokens(found["tokens"], found.get("token_strs") or [], int(found["max_model_len"]))

    async def tokenize_text(self, text: str) -> Tokens:
        """Return a document's token ids, with the special token that the tokenizer begins with, if any."""
        found = await self._post("/tokenize", {"prompt": text})
        return Tokens(found["tokens"], [], int(found["max_model_len"]))

    async def score(self, ids: list[int]) -> list[TokenScore]:
        """Return what the model thought of each token but the first, which has nothing before it."""
        # One token is generated because vLLM generates no fewer. 0 alternatives: the given tokens alone, with ranks.
        body = {"prompt": ids, "max_tokens": 1, "temperature": 0, "prompt_logprobs": 0, "add_special_tokens": False}
        found = await self._post("/v1/completions", body)
        by_place: list[dict[str, Any]] = found["choices"][0]["prompt_logprobs"][1:]
        entries = [at[str(token)] for token, at in zip(ids[1:], by_place, strict=True)]
        return [TokenScore(float(entry["logprob"]), int(entry["rank"])) for entry in entries]

    async def answer(self, messages: list[dict[str, Any]], max_tokens: int, tools: Sequence[Any] = ()) -> str:
        """Return the model's greedy answer as it wrote it; sampling defaults of the model's own are switched off."""
        # The engine hands tools to the template, but parses no calls: not every engine is told how.
        choice = {"tool_choice": "none"} if tools else {}
        body = {"messages": messages, "max_tokens": max_tokens, "seed": 0, **_GREEDY, **_with(tools), **choice}
        found = await self._post("/v1/chat/completions", body)
        return str(found["choices"][0]["message"]["content"] or "")

    async def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        deadline, wait = time.monotonic() + self._patience, _FIRST_WAIT_SECONDS
        while True:
            self._check_stop()
            try:
                answer = await self._http.post(self._root + path, json={"model": self.target.served_model_name, **body})
            except httpx.TransportError as error:
                problem = Unavailable(self._says(f"does not answer: {type(error).__name__}: {error}"))
                cause: Exception | None = error
            else:
                if answer.is_success:
                    found: dict[str, Any] = answer.json()
                    return found
                if answer.status_code not in _RETRIED:
                    raise self._refusal(path, answer)
                problem, cause = Unavailable(self._says(f"answers {answer.status_code}")), None
            if time.monotonic() + wait > deadline:
                raise problem from cause
            self._on_wait(f"{problem.message}; trying again in {wait:g} s")
            await self._sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT_SECONDS)

    async def _sleep(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._check_stop()
            await asyncio.sleep(min(left, 0.5))

    def _refusal(self, path: str, answer: httpx.Response) -> TunewrightError:
        try:
            words = str(answer.json()["error"]["message"])
        except (ValueError, KeyError, TypeError):
            words = answer.text[:300]
        match answer.status_code:
            case 401 | 403:
                return Unauthenticated(
                    self._says("refuses the key"), remedy="Set TUNEWRIGHT_ENGINE_KEY to the inference service's."
                )
            case 404:
                return NotFound(self._says(f"has no {path} or no such model: {words}"), remedy="Is it deployed?")
            case _:
                return Conflict(self._says(f"refuses {path} with {answer.status_code}: {words}"))

    def _says(self, what: str) -> str:
        return f"{self.target.served_model_name} at {self.target.endpoint} {what}"


_GREEDY = {
    "temperature": 0,
    "top_p": 1.0,
    "top_k": -1,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
"""All of them said: vLLM otherwise takes what the model's generation_config.json says, such as a repetition penalty."""


def _with(tools: Sequence[Any]) -> dict[str, Any]:
    return {"tools": list(tools)} if tools else {}
