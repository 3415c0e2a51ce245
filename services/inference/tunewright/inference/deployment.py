"""One engine kept answering under one name, whatever happens to it. Knows no store and no gRPC.

It serves one model; with slots it also takes adapters, which `adapters.py` brings to it and away.

    STARTING ── golden prompt answered ──► READY ── died, hung ──► RECOVERING ──► READY
       │                                     │                        │
       └── cannot work, or died too often ───┴──────────► FAILED ◄────┘          anything ── undeployed ──► STOPPED

Replacing what a name serves is drain and swap: running answers are finished, the engine ends, the next one starts; in
between the name does not answer, and the detail says so. Callers that must not miss a beat deploy under a second name
and move their alias.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum

from tunewright.artifacts import ArtifactError
from tunewright.chassis.errors import OutOfResources, StoreDown, TunewrightError, foreign
from tunewright.inference import metrics
from tunewright.inference.command import Slots
from tunewright.inference.diagnosis import is_final
from tunewright.inference.engine import Engine
from tunewright.inference.golden import GoldenPrompt, Proof
from tunewright.inference.records import Wanted
from tunewright.inference.workshop import Prepared, Workshop

_MAX_BACKOFF_SECONDS = 60.0
_MEMORY_SECONDS = 10.0
_RESTARTS_OF_THE_UNPROVEN = 2
"""An engine that never answered is most likely not to answer next time either; each try takes half a minute."""

_log = logging.getLogger(__name__)


class State(StrEnum):
    """State of a deployment; the value is the name of the proto's enum without its prefix."""

    STARTING = "STARTING"
    READY = "READY"
    RECOVERING = "RECOVERING"
    FAILED = "FAILED"
    STOPPED = "STOPPED"


@dataclass(frozen=True, slots=True)
class Status:
    """A deployment as callers see it."""

    wanted: Wanted
    state: State = State.STARTING
    detail: str = "waiting to be started"
    endpoint: str = ""
    """OpenAI-compatible root; empty unless an engine answers there."""
    failure: TunewrightError | None = None
    ready_time: float | None = None
    """Unix time, seconds, of the first answer of the running engine."""
    restarts: int = 0


@dataclass(frozen=True, slots=True)
class Restarts:
    """How often an engine may die."""

    limit: int
    window: float
    """Seconds."""
    backoff: float
    """Seconds before the first restart in a window; doubles with each further one."""


class _Changed(Exception):
    """Something else is wanted now."""


class Deployment:
    """Keeps one engine answering, in a thread of its own.

    Args:
        wanted: what to serve.
        workshop: fetches artifacts and builds engines.
        restarts: how often its engine may die.
        health_interval: seconds between two looks at a ready engine.
        make_room: stops another deployment and returns once it is gone; for `wanted.replaces`.
        slots: room for adapters.
        on_change: called whenever the status or the engine is another one.
    """

    def __init__(
        self,
        wanted: Wanted,
        workshop: Workshop,
        restarts: Restarts,
        health_interval: float,
        *,
        make_room: Callable[[str], None],
        slots: Slots | None = None,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._make_room = make_room
        self._slots = slots
        self._on_change = on_change
        self._workshop = workshop
        self._restarts = restarts
        self._health_interval = health_interval
        self._lock = threading.Lock()
        self._wanted: Wanted | None = wanted
        self._status = Status(wanted)
        self._changed = threading.Event()
        self._engine: Engine | None = None
        self._thread = threading.Thread(target=self._run, name=f"deployment-{wanted.name}", daemon=True)
        self._thread.start()

    @property
    def status(self) -> Status:
        """How it stands right now."""
        return self._status

    @property
    def engine(self) -> Engine | None:
        """The engine that answers right now."""
        return self._engine

    def metrics_page(self) -> Callable[[], str] | None:
        """Return the function that asks a ready engine for its metrics, None if there is no such engine."""
        engine = self._engine
        return None if engine is None else lambda: engine.client.metrics(2.0)

    def replace(self, wanted: Wanted) -> None:
        """Serve this from now on; the same as before is left alone unless it failed."""
        with self._lock:
            if wanted.same_as(self._status.wanted) and self._status.state is not State.FAILED:
                return
            same = wanted.model == self._status.wanted.model
            detail = "trying again" if same else "another model is wanted: finishing answers, then swapping"
            self._wanted = wanted
            self._status = Status(wanted, detail=detail, restarts=self._status.restarts)
            self._changed.set()

    def stop(self) -> None:
        """Finish running answers and end the engine; returns at once, see `join`."""
        with self._lock:
            self._wanted = None
            self._status = replace(self._status, state=State.STOPPED, endpoint="", detail="finishing running answers")
            self._changed.set()
        self._on_change()

    def join(self, seconds: float) -> bool:
        """Wait until it is stopped, at most `seconds`; return True if it is."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (wanted := self._next()) is not None:
            try:
                self._serve(wanted)
            except _Changed:
                continue
            except Exception as error:  # noqa: BLE001 - the border of the thread: a deployment never ends unheard
                failure = foreign(error)
                _log.error("deployment failed", extra={"deployment": wanted.name}, exc_info=error)
                self._tell(state=State.FAILED, detail=failure.message.partition("\n")[0], endpoint="", failure=failure)
                self._changed.wait()
        self._tell(detail="stopped")
        metrics.forget(self._status.wanted.name)

    def _next(self) -> Wanted | None:
        with self._lock:
            self._changed.clear()
            return self._wanted

    def _serve(self, wanted: Wanted) -> None:
        """Keep `wanted` answering until something else is wanted."""
        deaths: deque[float] = deque()
        with self._prepared(wanted) as prepared:
            while True:
                try:
                    self._one_life(prepared)
                except TunewrightError as error:
                    self._after_death(error, deaths)

    @contextmanager
    def _prepared(self, wanted: Wanted) -> Iterator[Prepared]:
        with ExitStack() as stack:
            while True:
                try:
                    prepared = stack.enter_context(self._workshop.prepare(wanted, self._slots, self._tick))
                    break
                except ArtifactError as error:
                    failure = foreign(error)
                    if not isinstance(failure, StoreDown):
                        raise failure from error
                    self._tell(detail=f"waiting for the object store: {failure.message}")
                    self._pause(2.0)
            yield prepared

    def _one_life(self, prepared: Prepared) -> None:
        """Start an engine, prove it, watch it; ends by an exception only."""
        with ExitStack() as stack:
            self._claim_memory(stack, prepared)
            with self._workshop.start_slot(self._tick):
                endpoint, engine = stack.enter_context(self._workshop.engine(prepared.plan))
                proof = engine.prove(prepared.prompts, self._tick)
            self._answers(engine, endpoint, proof, prepared.prompts)
            try:
                self._watch(engine)
            except _Changed:
                engine.drain()
                raise
            finally:
                self._engine = None

    def _claim_memory(self, stack: ExitStack, prepared: Prepared) -> None:
        memory, wanted = self._workshop.memory, self._status.wanted
        try:
            stack.enter_context(memory.claim(prepared.plan.spec, prepared.weight_bytes))
        except OutOfResources as error:
            if not wanted.replaces:
                raise
            _log.warning("drain and swap", extra={"deployment": wanted.name, "replaces": wanted.replaces})
            self._tick(f"{error.message}: {wanted.replaces} finishes its answers and makes room")
            self._make_room(wanted.replaces)
            stack.enter_context(memory.claim(prepared.plan.spec, prepared.weight_bytes))

    def _answers(self, engine: Engine, endpoint: str, proof: Proof, prompts: list[GoldenPrompt]) -> None:
        name = self._status.wanted.name
        metrics.ENGINE_START_SECONDS.observe(engine.age)
        if prompts:
            metrics.GOLDEN_AGREEMENT.labels(name).set(proof.token_share)
        figures = {"seconds": round(engine.age, 1), "resident_bytes": engine.resident_bytes(), "proof": str(proof)}
        _log.info("engine answers", extra={"deployment": name, "endpoint": endpoint, **figures})
        self._engine = engine
        detail = f"{proof}; started in {engine.age:.0f} s"
        self._tell(state=State.READY, detail=detail, endpoint=endpoint, failure=None, ready_time=time.time())

    def _watch(self, engine: Engine) -> None:
        measured = 0.0
        while True:
            self._raise_if_changed()
            engine.look(self._health_interval)
            self._raise_if_changed()
            engine.check()
            if time.monotonic() - measured > _MEMORY_SECONDS:
                metrics.ENGINE_RSS.labels(self._status.wanted.name).set(engine.resident_bytes())
                measured = time.monotonic()

    def _after_death(self, error: TunewrightError, deaths: "deque[float]") -> None:
        """Wait before the next try.

        Raises:
            TunewrightError: there will be none.
        """
        self._raise_if_changed()
        now = time.monotonic()
        deaths.append(now)
        while deaths and now - deaths[0] > self._restarts.window:
            deaths.popleft()
        if is_final(error):
            raise error
        was_ready = self._status.ready_time is not None
        limit = self._restarts.limit if was_ready else min(self._restarts.limit, _RESTARTS_OF_THE_UNPROVEN)
        if len(deaths) > limit:
            raise type(error)(
                f"given up after {len(deaths)} deaths within {self._restarts.window:.0f} s: {error.message}",
                remedy=error.remedy,
            )
        seconds = min(self._restarts.backoff * 2 ** (len(deaths) - 1), _MAX_BACKOFF_SECONDS)
        state = State.RECOVERING if was_ready else State.STARTING
        name = self._status.wanted.name
        _log.warning(
            "engine died; starting it again", extra={"deployment": name, "wait_s": seconds, "why": error.message}
        )
        detail = f"{error.message.partition(chr(10))[0]}; starting again in {seconds:.0f} s"
        restarts = self._status.restarts + 1
        self._tell(state=state, detail=detail, endpoint="", failure=error, restarts=restarts)
        metrics.ENGINE_RESTARTS.labels(name).inc()
        self._pause(seconds)

    def _tick(self, detail: str) -> None:
        self._raise_if_changed()
        if detail != self._status.detail:
            self._tell(detail=detail)

    def _pause(self, seconds: float) -> None:
        if self._changed.wait(seconds):
            raise _Changed

    def _raise_if_changed(self) -> None:
        if self._changed.is_set():
            raise _Changed

    def _tell(self, **changes: object) -> None:
        with self._lock:
            if self._changed.is_set():  # what is told is about something that nobody wants any more
                changes = {"detail": changes["detail"]} if self._wanted is None and "detail" in changes else {}
            self._status = replace(self._status, **changes)  # type: ignore[arg-type] # names are Status's own
        self._on_change()
