"""Which engine answers for a model's name: aliases first, then deployments, looked up at most once a second.

Counts the answers under way on each deployment, so that one that was replaced can finish them. Knows nothing of HTTP.
"""

import hashlib
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from tunewright.artifacts import ArtifactRef
from tunewright.chassis.errors import NotFound, Unavailable
from tunewright.chassis.records import ref_from_proto, ref_to_proto
from tunewright.gateway.aliases import Alias, Aliases
from tunewright.gateway.clients import Rooms
from tunewright.gateway.versions import ALL_TRAFFIC, Version, Versions, VersionState
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


class Recovering(Unavailable):
    """Its engine died and is being started again: worth waiting for."""

    default_remedy = "Try again in a few seconds."


@dataclass(frozen=True, kw_only=True)
class Route:
    """Where a model answers."""

    model: str
    """The name that the application asked for."""
    deployment: str
    """The name under which the engine serves it."""
    endpoint: str
    """OpenAI-compatible root of the engine."""
    served: str
    """What the engine wants as `model`: with an adapter it is more than the deployment's name."""
    life: int
    """How often its engine was started again: another number, another engine."""
    version: tuple[str, int] | None
    """Alias and number of the version; None for a deployment that was asked by its own name."""
    missed: tuple[str, int] | None = field(default=None, compare=False)
    """Alias and number of the canary in whose place this one answers, because it does not."""


@dataclass(frozen=True, kw_only=True)
class Served:
    """A name that applications may use as `model`."""

    name: str
    deployment: inference_pb2.Deployment
    alias: Alias | None
    version: int = 0
    """Number of the version of the alias that has its traffic."""
    candidate: "Candidate | None" = None
    """What gets a share of the alias's traffic."""
    absent: bool = False
    """True if the alias has a version whose deployment inference does not serve right now, as within a swap."""

    @property
    def state(self) -> str:
        """State of the deployment in lower case: starting, ready, recovering."""
        return inference_pb2.DeploymentState.Name(self.deployment.state).removeprefix("DEPLOYMENT_STATE_").lower()

    @property
    def artifact(self) -> str:
        """Reference of the model that answers."""
        return str(ref_from_proto(self.deployment.model))


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A canary."""

    deployment: inference_pb2.Deployment | None
    """None: inference does not know it right now."""
    version: int
    weight: float
    """Percent of the alias's traffic."""

    @property
    def answers(self) -> bool:
        """True if its engine is ready."""
        ready = inference_pb2.DEPLOYMENT_STATE_READY
        return self.deployment is not None and self.deployment.state == ready


class Routes:
    """The table of names. Thread-safe; its look-ups block for one gRPC call at most once a second.

    Args:
        aliases: which deployment has a name's traffic.
        versions: which one has a share of it.
        rooms: what is served.
    """

    def __init__(self, aliases: Aliases, versions: Versions, rooms: Rooms) -> None:
        self._aliases = aliases
        self._versions = versions
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

    def resolve(self, model: str, user: str = "") -> Route:
        """Return where `model` answers for a user.

        Args:
            model: the name that the application asked for.
            user: who asks; the same one gets the same version, and stays with a canary when its share grows. Without
                one, each request is given a version by chance.

        Raises:
            ModelNotFound: nothing has this name.
            Recovering: its engine died and is being started again.
            Unavailable: it is starting, or nobody knows because inference is down.
        """
        served = self.table().get(model)
        if served is None:
            raise ModelNotFound(f"The model {model!r} does not exist.")
        missed = None
        if (canary := served.candidate) and position(model, user) < canary.weight:
            missed = (model, canary.version)
            if canary.answers and canary.deployment is not None:
                return _route(model, canary.deployment, missed)
        if served.deployment.state == inference_pb2.DEPLOYMENT_STATE_RECOVERING:
            raise Recovering(f"The model {model!r} is recovering ({served.deployment.detail}).")
        if served.deployment.state != inference_pb2.DEPLOYMENT_STATE_READY:
            detail = f" ({served.deployment.detail})" if served.deployment.detail else ""
            raise Unavailable(f"The model {model!r} is {served.state}{detail}.", remedy="Try again in a few seconds.")
        return replace(
            _route(model, served.deployment, (model, served.version) if served.alias else None), missed=missed
        )

    def forget(self, older_than: float = 0) -> None:
        """Look everything up again at the next question, if what is known is older than so many seconds."""
        if time.monotonic() - self._read_at >= older_than:
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
        live = self._versions.live()
        listed = {item.name: item for item in self._rooms.deployments()}
        deployments = {name: item for name, item in listed.items() if item.state in _LIVE}
        table = {name: Served(name=name, deployment=item, alias=None) for name, item in deployments.items()}
        for alias in aliases.values():
            version = next((v for v in live if v.deployment == alias.deployment), None)
            deployment = deployments.get(alias.deployment)
            if deployment is None and version is not None:
                deployment = _stand_in(version, listed.get(alias.deployment))
            if deployment is not None:
                table[alias.name] = Served(
                    name=alias.name,
                    deployment=deployment,
                    alias=alias,
                    version=version.number if version else 0,
                    absent=alias.deployment not in deployments,
                    candidate=_candidate(alias.name, live, deployments),
                )
        return table


def position(alias: str, user: str) -> float:
    """Return where a user stands, 0 to 100; below a canary's weight, the canary answers. Random without a user."""
    if not user:
        return random.random() * ALL_TRAFFIC  # noqa: S311 - shares of traffic, no secret
    digest = hashlib.blake2b(f"{alias}\0{user}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64 * ALL_TRAFFIC


def _stand_in(version: Version, listed: inference_pb2.Deployment | None) -> inference_pb2.Deployment:
    """Return what stands for a version's deployment that is not served: what failed itself, else one to wait for."""
    if listed is not None and listed.state == inference_pb2.DEPLOYMENT_STATE_FAILED:
        return listed
    return inference_pb2.Deployment(
        name=version.deployment,
        state=inference_pb2.DEPLOYMENT_STATE_RECOVERING,
        model=ref_to_proto(ArtifactRef.parse(version.model)),
        adapter=ref_to_proto(ArtifactRef.parse(version.adapter)) if version.adapter else None,
        detail="its engine was stopped, to make room for another version or for a moment",
    )


def _candidate(
    alias: str, live: Sequence[Version], deployments: Mapping[str, inference_pb2.Deployment]
) -> Candidate | None:
    for version in live:
        if version.alias == alias and version.state is VersionState.CANARY:
            deployment = deployments.get(version.deployment)
            return Candidate(deployment=deployment, version=version.number, weight=version.weight)
    return None


def _route(model: str, deployment: inference_pb2.Deployment, version: tuple[str, int] | None) -> Route:
    served = deployment.served_model_name or deployment.name
    return Route(
        model=model,
        deployment=deployment.name,
        endpoint=deployment.endpoint,
        served=served,
        life=deployment.restarts,
        version=version,
    )
