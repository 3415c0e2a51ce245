"""Which engine answers for a model's name: aliases first, then deployments, looked up at most once a second.

Counts the answers under way on each deployment, so that one that was replaced can finish them. Knows nothing of HTTP.
"""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tunewright.chassis.errors import NotFound, Unavailable
from tunewright.chassis.records import ref_from_proto
from tunewright.gateway.aliases import Alias, Aliases
from tunewright.gateway.clients import Rooms
from tunewright.v1 import inference_pb2

_FRESH_SECONDS = 1.0
_LIVE = {
    inference_pb2.DEPLOYMENT_STATE_STARTING,
    inference_pb2.DEPLOYMENT_STATE_READY,
    inference_pb2.DEPLOYMENT_STATE_RECOVERING,
}


class ModelNotFound(NotFound):
    """No alias and no deployment has this name."""

    reason = "MODEL_NOT_FOUND"
    default_remedy = "GET /v1/models lists the models that are served."


@dataclass(frozen=True, kw_only=True)
class Route:
    """Where a model answers."""

    model: str
    """The name that the application asked for."""
    deployment: str
    """The name under which the engine serves it."""
    endpoint: str
    """OpenAI-compatible root of the engine."""


@dataclass(frozen=True, kw_only=True)
class Served:
    """A name that applications may use as `model`."""

    name: str
    deployment: inference_pb2.Deployment
    alias: Alias | None

    @property
    def state(self) -> str:
        """State of the deployment in lower case: starting, ready, recovering."""
        return inference_pb2.DeploymentState.Name(self.deployment.state).removeprefix("DEPLOYMENT_STATE_").lower()

    @property
    def artifact(self) -> str:
        """Reference of the model that answers."""
        return str(ref_from_proto(self.deployment.model))


class Routes:
    """The table of names. Thread-safe; its look-ups block for one gRPC call at most once a second."""

    def __init__(self, aliases: Aliases, rooms: Rooms) -> None:
        self._aliases = aliases
        self._rooms = rooms
        self._lock = threading.Lock()
        self._table: dict[str, Served] = {}
        self._read_at = float("-inf")
        self._open: Counter[str] = Counter()
        self._changed = threading.Condition()

    @property
    def fresh(self) -> bool:
        """True if a look-up asks nobody."""
        return time.monotonic() - self._read_at < _FRESH_SECONDS

    def table(self) -> dict[str, Served]:
        """Return name → what is served, aliases and deployments that are not behind one. Raises Unavailable."""
        with self._lock:
            if not self.fresh:
                self._table = self._read()
                self._read_at = time.monotonic()
            return self._table

    def resolve(self, model: str) -> Route:
        """Return where `model` answers.

        Raises:
            ModelNotFound: nothing has this name.
            Unavailable: it is starting or recovering, or nobody knows because inference is down.
        """
        served = self.table().get(model)
        if served is None:
            raise ModelNotFound(f"The model {model!r} does not exist.")
        if served.deployment.state != inference_pb2.DEPLOYMENT_STATE_READY:
            detail = f" ({served.deployment.detail})" if served.deployment.detail else ""
            raise Unavailable(f"The model {model!r} is {served.state}{detail}.", remedy="Try again in a few seconds.")
        return Route(model=model, deployment=served.deployment.name, endpoint=served.deployment.endpoint)

    def forget(self) -> None:
        """Look everything up again at the next question."""
        self._read_at = float("-inf")

    @contextmanager
    def answering(self, deployment: str) -> Iterator[None]:
        """Count an answer of `deployment` as under way."""
        with self._changed:
            self._open[deployment] += 1
        try:
            yield
        finally:
            with self._changed:
                self._open[deployment] -= 1
                self._changed.notify_all()

    def drain(self, deployment: str, seconds: float) -> None:
        """Wait until `deployment` gives no answers any more, at most `seconds`."""
        with self._changed:
            self._changed.wait_for(lambda: self._open[deployment] == 0, timeout=seconds)

    def _read(self) -> dict[str, Served]:
        aliases = self._aliases.all()
        deployments = {item.name: item for item in self._rooms.deployments() if item.state in _LIVE}
        table = {name: Served(name=name, deployment=item, alias=None) for name, item in deployments.items()}
        for alias in aliases.values():
            if alias.deployment in deployments:
                table[alias.name] = Served(name=alias.name, deployment=deployments[alias.deployment], alias=alias)
        return table
