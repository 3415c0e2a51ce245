"""What deployments share: artifacts on this machine's disk, ports, starting slots, and how an engine is built.

Knows the store through the chassis's cache; knows nothing of states.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import quote

from tunewright.artifacts import Store
from tunewright.artifacts.transfer import load_manifest
from tunewright.chassis.inputs import InputCache
from tunewright.inference import weights
from tunewright.inference.client import EngineClient
from tunewright.inference.command import Adapter, EngineHost, EnginePlan, runs_on_cpu
from tunewright.inference.engine import Engine, Patience
from tunewright.inference.golden import GoldenPrompt, read_golden
from tunewright.inference.ports import PortPool
from tunewright.inference.records import Wanted
from tunewright.inference.settings import InferenceSettings

Tick = Callable[[str], None]
"""Told what is done now; raises if that is not wanted any more."""

_SLOT_POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Prepared:
    """A deployment whose artifacts lie on disk."""

    plan: EnginePlan
    prompts: list[GoldenPrompt]


class Workshop:
    """Prepares artifacts and builds engines. Thread-safe.

    Raises:
        Refused: no engine is installed.
    """

    def __init__(self, settings: InferenceSettings, store: Store) -> None:
        self._settings = settings
        self._store = store
        self._work_dir = settings.work_dir.resolve()
        self._cache = InputCache(store, self._work_dir / "models")
        self._ports = PortPool(settings.bind_address, settings.ports)
        on_cpu = runs_on_cpu()
        self._slots = threading.Semaphore(settings.engine_parallel_starts or (2 if on_cpu else 1))
        self._host = EngineHost(
            bind=settings.bind_address,
            key=settings.engine_key.get_secret_value(),
            cache=self._work_dir / "engine-cache",
            shutdown_seconds=max(1, int(settings.stop_grace_seconds)),
            on_cpu=on_cpu,
            tls_cert=settings.tls_cert,
            tls_key=settings.tls_key,
        )
        self._patience = Patience(
            start=settings.engine_start_timeout_seconds,
            probe=settings.engine_probe_interval_seconds,
            hang=settings.engine_hang_seconds,
        )

    @contextmanager
    def prepare(self, wanted: Wanted, tick: Tick) -> Iterator[Prepared]:
        """Fetch, verify and inspect the artifacts; they stay on disk inside the block.

        Raises:
            ArtifactError: not in the store, damaged, or the store does not answer.
            Refused: a model or adapter that cannot be served.
            OSError: no room left on the disk.
        """
        refs = {"model": wanted.model_ref} | ({"adapter": wanted.adapter_ref} if wanted.adapter_ref else {})
        tick("fetching the model")
        total = sum(entry.size_bytes for ref in refs.values() for entry in load_manifest(self._store, ref).files)
        with self._cache.hold(refs, _percent(total, tick)) as held:
            tick("looking at the model's files")
            model = held["model"].folder
            weights.check_model(model)
            adapter = None
            if "adapter" in held:
                folder = held["adapter"].folder
                adapter = Adapter(folder, weights.adapter_rank(folder), weights.adapter_modules(folder))
            prompts = read_golden(adapter.path if adapter else model)
            yield Prepared(EnginePlan(wanted.name, model, wanted.deployment_spec, adapter), prompts)

    @contextmanager
    def start_slot(self, tick: Tick) -> Iterator[None]:
        """Wait until few enough other engines are starting."""
        while not self._slots.acquire(timeout=_SLOT_POLL_SECONDS):
            tick("waiting until other engines have started")
        try:
            yield
        finally:
            self._slots.release()

    @contextmanager
    def engine(self, plan: EnginePlan) -> Iterator[tuple[str, Engine]]:
        """Start an engine and yield its endpoint and itself; it is gone after the block.

        Raises:
            OutOfResources: no port is free.
        """
        settings = self._settings
        with self._ports.hold() as port:
            authority = settings.tls_ca if settings.tls_cert else None
            client = EngineClient(self._host.bind, port, self._host.key, authority=authority, host=settings.engine_host)
            log_file = self._work_dir / "engines" / quote(plan.name, safe="@:") / "engine.log"
            with Engine(plan, self._host, port, client, self._patience, log_file) as engine:
                scheme = "https" if authority else "http"
                yield f"{scheme}://{settings.engine_host}:{port}/v1", engine


def _percent(total: int, tick: Tick) -> Callable[[int], None]:
    moved, lock = 0, threading.Lock()

    def progress(count: int) -> None:
        """Tell how much has come in, by tenths."""
        nonlocal moved
        with lock:
            moved += count
            tenths = min(10, moved * 10 // max(1, total))
        tick(f"fetching the model, {tenths * 10} %")

    return progress
