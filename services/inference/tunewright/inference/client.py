"""An engine over HTTP, as its supervisor asks it. Knows nothing of processes and deployments.

Connects to loopback or the bound address, and checks the certificate against the name that others use (`engine_host`).
"""

import socket
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

_SAMPLED = {"temperature": 0.0, "stream": False}


class EngineError(Exception):
    """The engine answered with an error.

    Args:
        status: HTTP status.
        message: the engine's own words.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"HTTP {status}: {message}")
        self.status = status
        self.message = message


class EngineClient:
    """Asks one engine. Thread-safe. Every method raises httpx.TransportError if nobody answers in time.

    Args:
        bind: address that the engine listens on.
        port: its port.
        key: its bearer key.
        authority: PEM file of the authority that signed its certificate; plain HTTP if none.
        host: name in its certificate.
    """

    def __init__(self, bind: str, port: int, key: str, *, authority: Path | None = None, host: str = "") -> None:
        address = "127.0.0.1" if bind in {"", "0.0.0.0", "::"} else bind  # noqa: S104 - compared, not bound
        self._address = (address, port)
        shown = f"[{address}]" if ":" in address else address
        verify: ssl.SSLContext | bool = ssl.create_default_context(cafile=authority) if authority else False
        self._extensions: dict[str, Any] = {"sni_hostname": host} if authority else {}
        self._http = httpx.Client(
            base_url=f"{'https' if authority else 'http'}://{shown}:{port}",
            headers={"Authorization": f"Bearer {key}"},
            verify=verify,
            trust_env=False,
        )

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def listens(self) -> bool:
        """Return True if its port takes connections."""
        try:
            socket.create_connection(self._address, timeout=1.0).close()
        except OSError:
            return False
        return True

    def healthy(self, timeout: float) -> bool:
        """Return True if the engine says that it lives. `timeout` in seconds, here and below."""
        return self._http.get("/health", timeout=timeout, extensions=self._extensions).status_code == httpx.codes.OK

    def metrics(self, timeout: float) -> str:
        """Return its page of Prometheus metrics."""
        return self._checked(self._http.get("/metrics", timeout=timeout, extensions=self._extensions)).text

    def card(self, model: str, timeout: float) -> dict[str, Any]:
        """Return what the engine says of one of its models: `root` (its folder), `max_model_len` (tokens) and more.

        Raises:
            EngineError: it serves no such model.
        """
        answer = self._checked(self._http.get("/v1/models", timeout=timeout, extensions=self._extensions))
        for entry in answer.json()["data"]:
            if entry["id"] == model:
                return dict(entry)
        raise EngineError(answer.status_code, f"the engine does not list {model!r} among its models")

    def load_adapter(self, name: str, folder: Path, timeout: float) -> None:
        """Let the engine serve the adapter in `folder` under `name`, while it goes on answering.

        Raises:
            EngineError: it cannot.
        """
        body = {"lora_name": name, "lora_path": str(folder)}
        self._checked(self._http.post("/v1/load_lora_adapter", json=body, timeout=timeout, extensions=self._extensions))

    def unload_adapter(self, name: str, timeout: float) -> None:
        """Let the engine refuse new requests for an adapter; those under way are finished.

        Raises:
            EngineError: it serves no such adapter.
        """
        body = {"lora_name": name}
        self._checked(
            self._http.post("/v1/unload_lora_adapter", json=body, timeout=timeout, extensions=self._extensions)
        )

    def complete(self, model: str, token_ids: list[int], timeout: float) -> int:
        """Continue a prompt by one token; return the number of tokens made."""
        body = {"model": model, "prompt": token_ids, "max_tokens": 1, **_SAMPLED}
        return int(self._post("/v1/completions", body, timeout)["usage"]["completion_tokens"])

    def tokenize(
        self, model: str, messages: list[dict[str, Any]], timeout: float, tools: Sequence[Any] = ()
    ) -> list[int]:
        """Return the token ids of a chat prompt, generation prompt included."""
        body = {"model": model, "messages": messages, "add_generation_prompt": True}
        if tools:
            body["tools"] = list(tools)
        return [int(token) for token in self._post("/tokenize", body, timeout)["tokens"]]

    def chat(self, model: str, messages: list[dict[str, Any]], timeout: float, *, max_tokens: int = 1) -> int:
        """Answer a chat prompt greedily; return the number of tokens made."""
        body = {"model": model, "messages": messages, "max_tokens": max_tokens, **_SAMPLED}
        return int(self._post("/v1/chat/completions", body, timeout)["usage"]["completion_tokens"])

    def prompt_logprobs(
        self, model: str, token_ids: list[int], timeout: float
    ) -> list[dict[int, dict[str, Any]] | None]:
        """Return for each position the log-probability (nats) and rank of its token and of the most likely one.

        The first position has none. One token is generated too, since the engine makes no fewer.
        """
        body = {"model": model, "prompt": token_ids, "max_tokens": 1, "prompt_logprobs": 1, **_SAMPLED}
        found = self._post("/v1/completions", body, timeout)["choices"][0]["prompt_logprobs"]
        return [None if at is None else {int(token): entry for token, entry in at.items()} for at in found]

    def _post(self, path: str, body: dict[str, Any], timeout: float) -> dict[str, Any]:
        answer = self._checked(self._http.post(path, json=body, timeout=timeout, extensions=self._extensions))
        found: dict[str, Any] = answer.json()
        return found

    def _checked(self, answer: httpx.Response) -> httpx.Response:
        if answer.is_success:
            return answer
        try:
            message = str(answer.json()["error"]["message"])
        except (ValueError, KeyError, TypeError):
            message = answer.text[:500]
        raise EngineError(answer.status_code, message)
