"""One adapter, brought to a running engine and away again without a request being dropped.

    STARTING ── fetched, verified, loaded, proven ──► READY ── engine died ──► RECOVERING ── loaded again ──► READY
       └── refused ──► FAILED                           └── undeployed ──► STOPPED; unloaded a few seconds later

It answers under its deployment's name and the beginning of its id (`records.served_model_name`). vLLM keeps a request's
adapter for as long as it runs and reads it from disk again if others took its place in memory, so the files stay until
well after the name is gone. Knows no store and no gRPC.
"""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import replace

import httpx

from tunewright.artifacts import ArtifactError
from tunewright.chassis.errors import Refused, StoreDown, TunewrightError, foreign
from tunewright.inference import metrics
from tunewright.inference.client import EngineError
from tunewright.inference.deployment import State, Status
from tunewright.inference.engine import Engine
from tunewright.inference.golden import Proof
from tunewright.inference.hosts import Host, Hosts
from tunewright.inference.records import Wanted
from tunewright.inference.workshop import Adapter, Workshop

_RETRY_SECONDS = 1.0
_MAX_TRIES = 5
_FILES_SECONDS = 60.0
"""How long the files of an adapter that was unloaded stay for requests that are still under way."""

_log = logging.getLogger(__name__)


class AdapterDeployment:
    """An adapter on a shared engine. Thread-safe; its work is done by `executor`, one piece at a time.

    Args:
        wanted: what to serve, with an adapter.
        workshop: brings the adapter's files.
        hosts: the engines.
        executor: threads that adapters share.
        unload_seconds: how long it still answers after it was stopped.
    """

    def __init__(
        self, wanted: Wanted, workshop: Workshop, hosts: Hosts, executor: Executor, unload_seconds: float
    ) -> None:
        self._workshop = workshop
        self._hosts = hosts
        self._executor = executor
        self._unload_seconds = unload_seconds
        self._lock = threading.Lock()
        self._status = Status(wanted, detail="waiting to be fetched")
        self._files = ExitStack()
        self._adapter: Adapter | None = None
        self._host: Host | None = None
        self._engine: Engine | None = None
        self._proof: Proof | None = None
        self._tries = 0
        self._began = time.monotonic()
        self._scheduled = self._again = self._stopped = False
        self._poke()

    @property
    def status(self) -> Status:
        """How it stands right now."""
        return self._status

    def metrics_page(self) -> Callable[[], str] | None:
        """Return None: its engine has a page of its own."""
        return None

    def replace(self, wanted: Wanted) -> None:
        """Try again if it failed. Another adapter is another `AdapterDeployment`."""
        with self._lock:
            if self._status.state is not State.FAILED:
                return
            self._status = Status(wanted, detail="trying again", restarts=self._status.restarts)
            self._tries, self._began = 0, time.monotonic()
        host = self._host
        if host is not None and host.deployment.status.state is State.FAILED:
            host.deployment.replace(host.deployment.status.wanted)
        self._poke()

    def stop(self) -> None:
        """Take it away; returns at once. Requests that come within `unload_seconds` are still answered."""
        with self._lock:
            if self._stopped:
                return
            self._stopped = True
            self._status = replace(self._status, state=State.STOPPED, endpoint="", detail="finishing running answers")
        metrics.forget(self._status.wanted.name)
        _later(self._unload_seconds, self._unload)

    def join(self, seconds: float) -> bool:
        """Return True: answers under way are its engine's, which is waited for."""
        del seconds
        return True

    def _poke(self) -> None:
        """Let a thread look at it, once more if one does already."""
        with self._lock:
            self._again = True
            if self._scheduled:
                return
            self._scheduled = True
        try:
            self._executor.submit(self._work)
        except RuntimeError:  # the service is shutting down
            _log.debug("no more work", extra={"deployment": self._status.wanted.name})

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._again or self._stopped:
                    self._scheduled = False
                    return
                self._again = False
            try:
                self._step()
            except (httpx.TransportError, EngineError) as error:
                self._try_again(error)
            except Exception as error:  # noqa: BLE001 - the border of the thread: a deployment never ends unheard
                self._fail(error)

    def _step(self) -> None:
        """Do the next thing that is missing."""
        if self._status.state is State.FAILED:
            return
        wanted = self._status.wanted
        if self._adapter is None:
            self._tell(detail="fetching the adapter")
            assert wanted.adapter_ref is not None  # noqa: S101 - what this class is for
            self._adapter = self._files.enter_context(self._workshop.prepare_adapter(wanted.adapter_ref))
        host = self._host or self._join_host(wanted, self._adapter)
        if host is None:
            return
        engine = host.deployment.engine
        if engine is None:
            self._engine = None
            self._follow(host.deployment.status)
        elif engine is not self._engine:
            self._load(engine, host, self._adapter)

    def _join_host(self, wanted: Wanted, adapter: Adapter) -> Host | None:
        """Return the engine to load it on; None if it was undeployed meanwhile: then no engine and no file stays."""
        host = None if self._stopped else self._hosts.join(wanted, adapter, self._poke)
        with self._lock:
            if not self._stopped:
                self._host = host
                return host
        if host is not None:
            self._hosts.leave(host, self._poke)
        self._files.close()
        return None

    def _follow(self, host: Status) -> None:
        """Stand as the engine stands."""
        if host.state is State.FAILED:
            failure = host.failure or Refused(host.detail)
            self._tell(state=State.FAILED, endpoint="", detail=f"its engine failed: {host.detail}", failure=failure)
            return
        proven = self._status.ready_time is not None
        state = State.RECOVERING if proven else State.STARTING
        why = host.failure if proven else None
        self._tell(state=state, endpoint="", detail=f"its engine: {host.detail}", failure=why)

    def _load(self, engine: Engine, host: Host, adapter: Adapter) -> None:
        wanted, name = self._status.wanted, self._status.wanted.served_model_name
        began = max(self._began, time.monotonic() - engine.age)
        host.owners[name] = self
        engine.unload(name)  # the same adapter, undeployed a moment ago
        if self._proof is None:
            self._tell(detail="loading it and asking its golden prompts")
            proof = engine.prove_adapter(name, adapter.folder, adapter.prompts)
            metrics.ADAPTER_LOAD_SECONDS.observe(time.monotonic() - began)
            if adapter.prompts:
                metrics.GOLDEN_AGREEMENT.labels(wanted.name).set(proof.token_share)
            self._proof = proof
        else:
            engine.load_again(name, adapter.folder)
        if self._stopped and name not in host.owners:  # undeployed meanwhile
            engine.unload(name)
            return
        self._engine = engine
        self._tries = 0
        seconds = time.monotonic() - began
        detail = f"{self._proof}; loaded in {seconds:.2f} s"
        restarts = self._status.restarts + (self._status.ready_time is not None)
        endpoint = host.deployment.status.endpoint
        if not endpoint:  # it died meanwhile; the next news brings it here again
            self._engine = None
            return
        _log.info("adapter answers", extra={"deployment": wanted.name, "served_model_name": name, "seconds": seconds})
        self._tell(
            state=State.READY,
            detail=detail,
            endpoint=endpoint,
            failure=None,
            ready_time=time.time(),
            restarts=restarts,
        )

    def _try_again(self, error: Exception) -> None:
        self._tries += 1
        if self._tries >= _MAX_TRIES and self._host is not None and self._host.deployment.engine is not None:
            self._fail(Refused(f"the engine does not take the adapter: {error}"))
            return
        self._tell(detail=f"trying again: {error!r}")
        _later(_RETRY_SECONDS, self._poke)

    def _fail(self, error: Exception) -> None:
        failure = error if isinstance(error, TunewrightError) else foreign(error)
        if isinstance(error, ArtifactError) and isinstance(failure, StoreDown):
            self._tell(detail=f"waiting for the object store: {failure.message}")
            _later(2 * _RETRY_SECONDS, self._poke)
            return
        _log.error("adapter failed", extra={"deployment": self._status.wanted.name}, exc_info=error)
        detail = failure.message.partition("\n")[0]
        self._tell(state=State.FAILED, detail=detail, endpoint="", failure=failure)

    def _unload(self) -> None:
        host, name = self._host, self._status.wanted.served_model_name
        if host is not None:
            if host.owners.get(name) is self:
                del host.owners[name]
                if (engine := host.deployment.engine) is not None:
                    engine.unload(name)
            self._hosts.leave(host, self._poke)
        with self._lock:
            self._status = replace(self._status, detail="stopped")
        _later(_FILES_SECONDS, self._files.close)

    def _tell(self, **changes: object) -> None:
        with self._lock:
            if not self._stopped:
                self._status = replace(self._status, **changes)  # type: ignore[arg-type] # names are Status's own


def _later(seconds: float, action: Callable[[], None]) -> None:
    timer = threading.Timer(seconds, action)
    timer.daemon = True
    timer.start()
