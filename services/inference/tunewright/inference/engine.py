"""One vLLM engine from start to end: started, proven, watched, drained, killed. Knows no deployments and no store."""

import contextlib
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import httpx

from tunewright.chassis.errors import EngineDied, TunewrightError
from tunewright.inference import command, diagnosis, golden, weights
from tunewright.inference.client import EngineClient, EngineError
from tunewright.inference.command import EngineHost, EnginePlan
from tunewright.inference.golden import GoldenPrompt, Proof
from tunewright.inference.process import EngineProcess

_POLL_SECONDS = 0.25
_HEALTH_SECONDS = 10.0
_METRICS_SECONDS = 5.0
_PROVE_SECONDS = 120.0
_FLUSH_SECONDS = 2.0
_TOKEN_COUNTERS = ("vllm:prompt_tokens_total", "vllm:generation_tokens_total")


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds after which an engine counts as dead."""

    start: float
    """From the start of its process to the answer to its golden prompt."""
    probe: float
    """Without a token, until the golden prompt is asked."""
    hang: float
    """Without a token or a sign of life, while a question waits."""


class Engine:
    """A running engine. Leave its block, and all of its processes are gone.

    Args:
        plan: what it serves.
        host: what all engines share.
        port: where it listens.
        client: how to ask it.
        patience: when it counts as dead.
        log_file: its output.
    """

    def __init__(
        self, plan: EnginePlan, host: EngineHost, port: int, client: EngineClient, patience: Patience, log_file: Path
    ) -> None:
        self.client = client
        self.room = 0
        """Tokens of prompt and answer together, known once it is proven."""
        self.loading = threading.Lock()
        """Held while an adapter is loaded: vLLM reads them one after the other anyway."""
        self._plan = plan
        self._folder = log_file.parent
        self._grace = host.shutdown_seconds
        self._patience = patience
        self._kernel_kills = diagnosis.kernel_kills()
        self._process = EngineProcess(command.arguments(plan, host, port), command.environment(plan, host), log_file)
        self._prompts: list[GoldenPrompt] = []
        self._asker = ThreadPoolExecutor(1, thread_name_prefix="golden")
        self._asked: Future[None] | None = None
        self._tokens = -1.0
        self._last_life = self._last_token = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self.client.close()
        self._asker.shutdown(wait=True)

    @property
    def age(self) -> float:
        """Seconds since its process was started."""
        return time.monotonic() - self._process.started

    def resident_bytes(self) -> int:
        """Return the resident memory of all its processes."""
        return self._process.resident_bytes()

    @property
    def name(self) -> str:
        """Name under which its model answers without adapters."""
        return self._plan.name

    def prove_adapter(self, name: str, folder: Path, prompts: list[GoldenPrompt]) -> Proof:
        """Load an adapter under a name that was never used for another one, and compare it with its record.

        An adapter that is refused is unloaded again.

        Raises:
            Refused: it changes nothing, or does not answer as it was trained to.
            EngineError, httpx.TransportError: the engine cannot load it, or does not answer.
        """
        with self.loading:
            self.client.load_adapter(name, folder, _PROVE_SECONDS)
        try:
            fitting = golden.fitting(prompts, self.room)
            golden.answer_once(self.client, name, fitting, _PROVE_SECONDS)
            proof = golden.prove(self.client, name, prompts, self.room, _PROVE_SECONDS)
            self._check_adapter_acts(name, folder, fitting)
            golden.try_long_prompts(self.client, name, self.room, _PROVE_SECONDS)
        except BaseException:
            with contextlib.suppress(httpx.TransportError, EngineError):
                self.client.unload_adapter(name, _HEALTH_SECONDS)
            raise
        return proof

    def _check_adapter_acts(self, name: str, folder: Path, prompts: list[GoldenPrompt]) -> None:
        """Compare it with a copy of itself that is all zeros, which is the base.

        The base itself cannot be asked: vLLM's CPU engine gives requests without an adapter the last slot's one when
        they share a batch with requests that have one (vllm#48421).
        """
        zero = f"{name}@zero"
        with tempfile.TemporaryDirectory(dir=self._folder) as scratch:
            weights.write_zero_adapter(folder, Path(scratch) / "zero")
            with self.loading:
                self.client.load_adapter(zero, Path(scratch) / "zero", _PROVE_SECONDS)
            try:
                golden.check_adapter_acts(self.client, name, zero, prompts, _PROVE_SECONDS)
            finally:
                self.unload(zero)

    def load_again(self, name: str, folder: Path) -> None:
        """Load an adapter that was proven on an engine of the same kind before.

        Raises:
            EngineError, httpx.TransportError: the engine cannot load it, or does not answer.
        """
        with self.loading:
            self.client.load_adapter(name, folder, _PROVE_SECONDS)

    def unload(self, name: str) -> None:
        """Take no more requests for an adapter; harmless if the engine is gone or never had it."""
        with contextlib.suppress(httpx.TransportError, EngineError):
            self.client.unload_adapter(name, _HEALTH_SECONDS)

    def prove(self, prompts: list[GoldenPrompt], tick: Callable[[str], None]) -> Proof:
        """Wait until it answers, and compare it with the record.

        Args:
            prompts: golden prompts of the artifact.
            tick: called at least every second with what is done now; what it raises ends the wait.

        Raises:
            TunewrightError: it died, took too long, or does not answer as it should.
        """
        while not self._is_up():
            tick("the engine loads the model")
            self.look(_POLL_SECONDS)
            if self.age > self._patience.start:
                raise self._death(f"it did not answer within {self._patience.start:.0f} s")
        tick("asking the golden prompts")
        name = self._plan.name
        try:
            card = self.client.card(name, _PROVE_SECONDS)
            if card.get("root") != str(self._plan.model):
                raise EngineDied(f"another engine answers on this port; it serves {card.get('root')}")
            self.room = room = int(card.get("max_model_len") or 0)
            self._prompts = golden.fitting(prompts, room)
            golden.answer_once(self.client, name, self._prompts, _PROVE_SECONDS)
            proof = golden.prove(self.client, name, prompts, room, _PROVE_SECONDS)
            golden.try_long_prompts(self.client, name, room, _PROVE_SECONDS)
        except (httpx.TransportError, EngineError) as error:
            self._process.wait(_HEALTH_SECONDS)  # an engine that dies of its first prompt takes a moment to end
            raise self._death(f"it did not answer the golden prompt: {error!r}") from error
        self._last_life = self._last_token = time.monotonic()
        return proof

    def look(self, seconds: float) -> None:
        """Return after `seconds` if its process still runs by then.

        Raises:
            TunewrightError: why it ended.
        """
        if self._process.wait(seconds) is not None:
            raise self._death("its process ended")

    def check(self) -> None:
        """Ask for a sign of life and, when it made no token for a while, for the answer to a golden prompt.

        Raises:
            TunewrightError: it is dead or hung.
        """
        try:
            if not self.client.healthy(min(_HEALTH_SECONDS, self._patience.hang)):
                self._process.wait(_HEALTH_SECONDS)
                raise self._death("it says that it is not healthy")
            self._last_life = time.monotonic()
        except httpx.TransportError as error:
            if time.monotonic() - self._last_life > self._patience.hang:
                raise EngineDied(
                    f"the engine hung: no sign of life for {self._patience.hang:.0f} s: {error!r}"
                ) from error
            return
        if self._asked is not None:
            self._hear_answer(self._asked)
        elif time.monotonic() - self._last_token > self._patience.probe and not self._makes_tokens():
            self._asked = self._asker.submit(
                golden.answer_once, self.client, self._plan.name, self._prompts, self._patience.hang
            )

    def drain(self) -> None:
        """Ask it to finish its running answers and end; wait for that within the grace.

        vLLM finishes all answers, then closes its port, then waits for idle connections of clients to close, for ever
        if they are TLS. So a closed port means that all is done but the last bytes, which have two seconds.
        """
        self._process.terminate()
        deadline = time.monotonic() + self._grace
        while self._process.wait(_POLL_SECONDS) is None and time.monotonic() < deadline:
            if not self.client.listens():
                self._process.wait(_FLUSH_SECONDS)
                return

    def _is_up(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return self.client.healthy(_HEALTH_SECONDS)
        return False

    def _hear_answer(self, asked: Future[None]) -> None:
        if not asked.done():
            return
        self._asked = None
        error = asked.exception()
        if error is None or self._makes_tokens():  # a prompt may wait long behind others; tokens are the sign of life
            self._last_token = time.monotonic()
        elif isinstance(error, httpx.TimeoutException):
            raise EngineDied(
                f"the engine hung: no token for {self._patience.hang:.0f} s while a golden prompt waited"
            ) from error
        else:
            self._process.wait(_HEALTH_SECONDS)
            raise self._death(f"it did not answer the golden prompt: {error!r}") from error

    def _makes_tokens(self) -> bool:
        try:
            lines = self.client.metrics(_METRICS_SECONDS).splitlines()
        except (httpx.TransportError, EngineError):
            return False
        before, self._tokens = (
            self._tokens,
            sum(float(li.rsplit(" ", 1)[1]) for li in lines if li.startswith(_TOKEN_COUNTERS)),
        )
        if self._tokens > before:
            self._last_token = time.monotonic()
        return self._tokens > before

    def _death(self, what: str) -> TunewrightError:
        code = self._process.exit_code
        killed = diagnosis.kernel_kills() > self._kernel_kills
        error = diagnosis.diagnose(code, self._process.log_tail(), killed_by_kernel=killed)
        if code is None and isinstance(error, EngineDied):
            return EngineDied(f"the engine is of no use: {what}\n" + error.message.partition("\n")[2])
        return error
