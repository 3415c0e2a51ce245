"""Engines that adapters share: found by base and settings, made when the first adapter needs one, ended when idle.

Knows no adapter's files; an adapter brings its rank and modules.
"""

import itertools
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from tunewright.chassis.errors import Unavailable
from tunewright.inference.command import Slots, lora_rank
from tunewright.inference.deployment import Deployment, State
from tunewright.inference.records import Wanted
from tunewright.inference.workshop import Adapter

_MIN_RANK = 16

Listener = Callable[[], None]
MakeEngine = Callable[[Wanted, Slots, Listener], Deployment]


@dataclass(eq=False)
class Host:
    """One shared engine and who waits for news of it."""

    key: str
    slots: Slots
    listeners: list[Listener] = field(default_factory=list)
    owners: dict[str, object] = field(default_factory=dict)
    """Name in the engine → who loaded it last: the one who may unload it."""
    deployment: Deployment = field(init=False)

    def tell(self) -> None:
        """Tell everyone that something changed."""
        for listener in list(self.listeners):
            listener()


class Hosts:
    """All shared engines. Thread-safe.

    Args:
        make_engine: starts one.
        idle_seconds: how long an engine without adapters is kept.
    """

    def __init__(self, make_engine: MakeEngine, idle_seconds: float) -> None:
        self._make_engine = make_engine
        self._idle_seconds = idle_seconds
        self._lock = threading.Lock()
        self._hosts: list[Host] = []
        self._numbers = itertools.count(1)
        self._closed = False

    def join(self, wanted: Wanted, adapter: Adapter, listener: Listener) -> Host:
        """Return the engine on which an adapter is to be served, started if there is none; call `listener` of its news.

        Raises:
            Refused: the adapter's rank is above what vLLM serves.
            Unavailable: the service is shutting down.
        """
        key = json.dumps([wanted.model, wanted.spec], sort_keys=True)
        with self._lock:
            if self._closed:
                raise Unavailable("the service is shutting down")
            host = next((host for host in self._hosts if _fits(host, key, adapter)), None)
            if host is None:
                host = self._start(key, wanted, adapter)
            host.listeners.append(listener)
        if host.deployment.status.state is State.FAILED:
            host.deployment.replace(host.deployment.status.wanted)
        return host

    def leave(self, host: Host, listener: Listener) -> None:
        """Call `listener` no more; an engine that nobody listens to any more ends after a while."""
        with self._lock:
            host.listeners.remove(listener)
            if host.listeners or self._closed:
                return
        timer = threading.Timer(self._idle_seconds, self._end_if_idle, (host,))
        timer.daemon = True
        timer.start()

    def all(self) -> list[Deployment]:
        """Return the engines."""
        with self._lock:
            return [host.deployment for host in self._hosts]

    def close(self) -> list[Deployment]:
        """Let every engine finish its answers and end; return them."""
        with self._lock:
            self._closed = True
        engines = self.all()
        for engine in engines:
            engine.stop()
        return engines

    def _start(self, key: str, wanted: Wanted, adapter: Adapter) -> Host:
        rank = lora_rank(max(_MIN_RANK, adapter.rank, wanted.deployment_spec.max_lora_rank))
        host = Host(key, Slots(rank, adapter.modules))
        name = f"base-{wanted.model_ref.id[:12]}-{next(self._numbers)}"
        engine = wanted.model_copy(update={"name": name, "adapter": None})
        host.deployment = self._make_engine(engine, host.slots, host.tell)
        self._hosts.append(host)
        return host

    def _end_if_idle(self, host: Host) -> None:
        with self._lock:
            if host.listeners or host not in self._hosts:
                return
            self._hosts.remove(host)
        host.deployment.stop()


def _fits(host: Host, key: str, adapter: Adapter) -> bool:
    return host.key == key and host.slots.hold(adapter.rank, adapter.modules)
