"""All deployments of this service: deploy, look, undeploy, restore after a restart, drain. Knows no gRPC.

The store holds what is wanted; a record is written before anything is started and deleted before anything is stopped,
so that a kill -9 at any moment ends in what was asked for last.
"""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from tunewright.artifacts import ArtifactError, ArtifactRef, Kind, ObjectNotFound, Store
from tunewright.artifacts.transfer import load_manifest
from tunewright.chassis.errors import InvalidSpec, NotFound, Refused, Unavailable, Violation, foreign
from tunewright.inference import metrics, records
from tunewright.inference.adapters import AdapterDeployment
from tunewright.inference.command import Slots
from tunewright.inference.deployment import Deployment, Restarts, State, Status
from tunewright.inference.hosts import Hosts, Listener
from tunewright.inference.records import Wanted
from tunewright.inference.settings import InferenceSettings
from tunewright.inference.workshop import Workshop

_JOIN_MARGIN_SECONDS = 15.0
_ADAPTER_THREADS = 4

Entry = Deployment | AdapterDeployment
"""A model with an engine of its own, or an adapter on a shared one."""

_log = logging.getLogger(__name__)


class Supervisor:
    """Keeps everything that the store says is wanted answering. Thread-safe."""

    def __init__(self, settings: InferenceSettings, store: Store) -> None:
        self._store = store
        self._workshop = Workshop(settings, store)
        self._restarts = Restarts(
            settings.engine_max_restarts, settings.engine_restart_window_seconds, settings.engine_backoff_seconds
        )
        self._health_interval = settings.engine_health_interval_seconds
        self._join_seconds = settings.stop_grace_seconds + _JOIN_MARGIN_SECONDS
        self._lock = threading.Lock()
        self._deployments: dict[str, Entry] = {}
        self._draining = False
        self._unload_seconds = settings.adapter_unload_seconds
        self._hosts = Hosts(self._make_engine, settings.engine_idle_seconds)
        self._adapter_work = ThreadPoolExecutor(_ADAPTER_THREADS, thread_name_prefix="adapter")
        for state in State:
            metrics.DEPLOYMENTS.labels(state.value).set_function(partial(self._count, state))
        metrics.ADAPTERS.set_function(self._count_adapters)

    def restore(self) -> int:
        """Start what the store says is wanted; return how many deployments that is.

        Raises:
            TunewrightError: the store does not answer, or a record is malformed.
        """
        try:
            found = records.load_all(self._store)
        except ArtifactError as error:
            raise foreign(error) from error
        for wanted in found:
            _log.info("restoring a deployment", extra={"deployment": wanted.name, "model": wanted.model})
            self._apply(wanted)
        return len(found)

    def deploy(self, wanted: Wanted, *, validate_only: bool = False) -> Status:
        """Serve this under its name: attach to what runs, replace what differs, try again what failed.

        Raises:
            InvalidSpec: a wrong name, or a reference of the wrong kind.
            NotFound: an artifact is not in the store.
            Refused: the adapter was made for another base.
            Unavailable: the store does not answer, or the service is shutting down.
        """
        records.checked_name(wanted.name)
        self._check_artifacts(wanted)
        if validate_only:
            return Status(wanted, detail="valid; nothing was started")
        with self._lock:
            if self._draining:
                raise Unavailable("the service is shutting down")
            known = self._deployments.get(wanted.name)
            if known is not None:
                kept = known.status.wanted.create_time
                wanted = wanted.model_copy(update={"create_time": kept})
            if known is None or not wanted.same_as(known.status.wanted):
                self._stored(lambda: wanted.save(self._store))
        return self._apply(wanted).status

    def get(self, name: str) -> Status:
        """Return how a deployment stands.

        Raises:
            NotFound: there is none of this name.
        """
        return self._known(name).status

    def all(self) -> list[Status]:
        """Return how all deployments stand, oldest first."""
        found = [deployment.status for deployment in list(self._deployments.values())]
        return sorted(found, key=lambda status: status.wanted.create_time)

    def undeploy(self, name: str) -> Status:
        """Stop a deployment for good; running answers are finished in the background.

        Raises:
            NotFound: there is none of this name.
            StoreDown: the store does not answer; nothing was stopped.
        """
        deployment = self._known(name)
        self._stored(lambda: records.delete(self._store, name))
        with self._lock:
            self._deployments.pop(name, None)
        deployment.stop()
        return deployment.status

    def drain(self) -> None:
        """Take no more deployments, let running answers end within the grace, end all engines; the store keeps all."""
        with self._lock:
            self._draining = True
            running = list(self._deployments.values())
        for deployment in running:
            deployment.stop()
        running += self._hosts.close()
        self._adapter_work.shutdown(wait=False, cancel_futures=True)
        deadline = time.monotonic() + self._join_seconds
        for deployment in running:
            if not deployment.join(max(0.0, deadline - time.monotonic())):
                _log.error("an engine did not end in time", extra={"deployment": deployment.status.wanted.name})

    def metric_pages(self) -> dict[str, Callable[[], str]]:
        """Return engine → function that asks it for metrics; a shared one goes by the name of its base."""
        pages = {name: deployment.metrics_page() for name, deployment in list(self._deployments.items())}
        pages |= {engine.status.wanted.name: engine.metrics_page() for engine in self._hosts.all()}
        return {name: page for name, page in pages.items() if page is not None}

    def _apply(self, wanted: Wanted) -> Entry:
        with self._lock:
            known = self._deployments.get(wanted.name)
            if known is not None and _can_become(known, wanted):
                known.replace(wanted)
                return known
            if known is not None:
                known.stop()
            if wanted.adapter is None:
                found: Entry = self._make_engine(wanted)
            else:
                found = AdapterDeployment(wanted, self._workshop, self._hosts, self._adapter_work, self._unload_seconds)
            self._deployments[wanted.name] = found
            return found

    def _make_engine(
        self, wanted: Wanted, slots: Slots | None = None, on_change: Listener = lambda: None
    ) -> Deployment:
        return Deployment(
            wanted,
            self._workshop,
            self._restarts,
            self._health_interval,
            make_room=self._make_room,
            slots=slots,
            on_change=on_change,
        )

    def _make_room(self, name: str) -> None:
        """Drain and stop a deployment that another one replaces; return once its engine is gone."""
        deployment = self._deployments.get(name)
        if deployment is None:
            return
        self.undeploy(name)
        if not deployment.join(self._join_seconds):
            raise Unavailable(
                f"the engine of {name!r}, which is to make room, has not ended after {self._join_seconds:g} s",
                remedy="Try again once it has; the service's log says what it waits for.",
            )

    def _known(self, name: str) -> Entry:
        deployment = self._deployments.get(name)
        if deployment is None:
            raise NotFound(f"there is no deployment {name!r}", remedy="List the deployments, or deploy it.")
        return deployment

    def _check_artifacts(self, wanted: Wanted) -> None:
        _check_kind("model", wanted.model_ref, Kind.MODEL)
        base = wanted.model
        self._manifest_parents("model", wanted.model_ref)
        if wanted.adapter_ref is not None:
            _check_kind("adapter", wanted.adapter_ref, Kind.ADAPTER)
            trained_on = self._manifest_parents("adapter", wanted.adapter_ref).get("base", base)
            if trained_on != base:
                raise Refused(
                    f"the adapter was trained on {trained_on}, not on {base}",
                    remedy="Deploy it on the base it was trained on.",
                )

    def _manifest_parents(self, what: str, ref: ArtifactRef) -> dict[str, str]:
        try:
            return load_manifest(self._store, ref).parents
        except ObjectNotFound as error:
            raise NotFound(f"{what}: the object store holds no artifact {ref}") from error
        except ArtifactError as error:
            raise foreign(error) from error

    def _stored(self, action: Callable[[], None]) -> None:
        try:
            action()
        except ArtifactError as error:
            raise foreign(error) from error

    def _count(self, state: State) -> float:
        return float(sum(deployment.status.state is state for deployment in list(self._deployments.values())))

    def _count_adapters(self) -> float:
        entries = list(self._deployments.values())
        return float(sum(each.status.state is State.READY and not isinstance(each, Deployment) for each in entries))


def _can_become(known: Entry, wanted: Wanted) -> bool:
    """Return True if an entry can serve `wanted` itself: an engine another model, an adapter only itself again."""
    if isinstance(known, Deployment):
        return wanted.adapter is None
    return wanted.same_as(known.status.wanted)


def _check_kind(field: str, ref: ArtifactRef, kind: Kind) -> None:
    if ref.kind is not kind:
        text = f"names one of {ref.kind.value}, {kind.value} is needed"
        raise InvalidSpec(f"{field} {text}", violations=[Violation(field, text)])
