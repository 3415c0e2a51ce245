"""The stage's connection to a Ray cluster: starts tasks, waits for them, tells what went wrong. Knows no rows."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray import exceptions

from tunewright.chassis import ray_cluster
from tunewright.chassis.errors import Internal, OutOfResources, Refused, TunewrightError
from tunewright.chassis.stage import Reporter, Severity
from tunewright.dataprep.on_ray.tasks import room_digest

_SECONDS = 0.2
"""Between two looks at the wish to stop."""
_NODES_SECONDS = 2.0
"""Between two looks at the nodes."""
_RETRIES = 3
"""Times that a task is started again whose process or node died."""
_ENOUGH = "Give the cluster's nodes more memory and disk, let fewer tasks work at once (`workers`), or add nodes."

Ref = Any
"""Ray's ObjectRef; its own type differs between a driver in the cluster and a client of it."""


class Session:
    """A connection, until `close`: the cluster then ends the tasks that still run for it.

    Args:
        address: host:port of a cluster that this machine is a node of, or ray://host:port.
        workers: tasks at once; 0 for as many as the cluster has processors.
        report: hears of the cluster, and of nodes that are lost.

    Raises:
        Unavailable: nobody answers there, or only to another token or certificate.
    """

    def __init__(self, address: str, workers: int, report: Reporter) -> None:
        ray_cluster.join(address)
        self._report = report
        self._tasks: dict[Callable[..., object], Any] = {}
        self._nodes = _alive()
        self._looked = time.monotonic()
        self.workers = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))  # type: ignore[no-untyped-call]
        """Tasks at once."""
        self.version = room_digest()
        """What the nodes' code must be."""
        text = f"Works on {len(self._nodes)} Ray nodes, at most {self.workers} tasks at once"
        report.event("launched", text, nodes=len(self._nodes), workers=self.workers)

    def close(self) -> None:
        """Leave the cluster."""
        ray_cluster.leave()

    def put(self, value: object) -> Ref:
        """Return a reference to an object that any task may take."""
        return ray.put(value)

    def start(self, function: Callable[..., object], *arguments: object, returns: int = 1) -> list[Ref]:
        """Start a task and return references to its results."""
        if function not in self._tasks:
            self._tasks[function] = ray.remote(function)
        found = self._tasks[function].options(num_cpus=1, num_returns=returns, max_retries=_RETRIES).remote(*arguments)
        return [found] if returns == 1 else list(found)

    def get(self, refs: Sequence[Ref]) -> list[Any]:
        """Wait for results and return them.

        Raises:
            TunewrightError: what a task raised, or what became of the cluster.
            Interrupted: a stop was requested.
        """
        try:
            self.wait(refs)
            return list(ray.get(list(refs)))
        except exceptions.RayError as error:
            raise _told(error) from error

    def wait(self, refs: Sequence[Ref]) -> None:
        """Wait until all results are there, or have failed.

        Raises:
            Interrupted: a stop was requested.
        """
        waiting = list(refs)
        while waiting:
            self._report.raise_if_stopped()
            self._look_at_nodes()
            _, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=_SECONDS)

    def _look_at_nodes(self) -> None:
        now = time.monotonic()
        if now - self._looked < _NODES_SECONDS:
            return
        self._looked = now
        alive = _alive()
        for node in sorted(self._nodes.keys() - alive.keys()):
            text = f"Ray node {self._nodes[node]} is lost; what it worked on is done again on the others"
            self._report.event("node_lost", text, severity=Severity.WARNING, node=node, nodes=len(alive))
        self._nodes = alive


def _alive() -> dict[str, str]:
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return {node["NodeID"]: node["NodeManagerHostname"] for node in nodes if node["Alive"]}


def _told(error: object) -> TunewrightError:
    """Return what Ray says as an error of ours; what a task raised comes back as it was."""
    match error:
        case TunewrightError() if not isinstance(error, exceptions.RayError):
            found = error
        case exceptions.RayTaskError(cause=TunewrightError() | exceptions.RayError() | ImportError() | MemoryError()):
            found = _told(error.cause)
        case exceptions.RayTaskError():
            found = Internal(f"a Ray task failed: {error.cause!r}")
        case ImportError():
            found = _stranger(str(error))
        case exceptions.RaySystemError() if "No module named" in str(error):
            found = _stranger(_first_line(error))
        case MemoryError():
            found = OutOfResources("a node of the Ray cluster ran out of memory", remedy=_ENOUGH)
        case _:
            text = f"the Ray cluster gave a task up after {_RETRIES} further tries: {type(error).__name__}: {error}"
            found = OutOfResources(text.splitlines()[0], remedy=_ENOUGH)
    return found


def _stranger(text: str) -> Refused:
    return Refused(
        f"the Ray cluster's nodes lack data preparation: {text}", remedy="Run the same image on all nodes as here."
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
