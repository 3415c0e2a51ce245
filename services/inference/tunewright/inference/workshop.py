"""What deployments share: artifacts on this machine's disk, ports, starting slots, and how an engine is built.

Knows the store through the chassis's cache; knows nothing of states.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from tunewright.artifacts import ArtifactRef, Store
from tunewright.artifacts.transfer import load_manifest
from tunewright.chassis.inputs import InputCache
from tunewright.inference import weights
from tunewright.inference.client import EngineClient
from tunewright.inference.command import EngineHost, EnginePlan, Slots, runs_on_cpu
from tunewright.inference.engine import Engine, Patience
from tunewright.inference.golden import GoldenPrompt, read_golden
from tunewright.inference.memory import MemoryBudget
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
    weight_bytes: int


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter that lies on disk and was found to be one that vLLM can serve."""

    folder: Path
    rank: int
    modules: tuple[str, ...]
    """Last parts of the names of the modules it acts on, such as q_proj."""
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
        self.memory = MemoryBudget(settings.engine_memory_bytes, on_cpu=on_cpu)
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
    def prepare(self, wanted: Wanted, slots: Slots | None, tick: Tick) -> Iterator[Prepared]:
        """Fetch, verify and inspect a model; it stays on disk inside the block.

        Raises:
            ArtifactError: not in the store, damaged, or the store does not answer.
            Refused: a model that cannot be served.
            OSError: no room left on the disk.
        """
        tick("fetching the model")
        total = sum(entry.size_bytes for entry in load_manifest(self._store, wanted.model_ref).files)
        with self._cache.hold({"model": wanted.model_ref}, _percent(total, tick)) as held:
            tick("looking at the model's files")
            model = held["model"].folder
            weight_bytes = weights.check_model(model)
            slots = slots and Slots(slots.rank, weights.adaptable(model, slots.modules))
            plan = EnginePlan(wanted.name, model, wanted.deployment_spec, slots)
            yield Prepared(plan, read_golden(model), weight_bytes)

    @contextmanager
    def prepare_adapter(self, ref: ArtifactRef) -> Iterator[Adapter]:
        """Fetch, verify and inspect an adapter; it stays on disk inside the block, where engines may read it again.

        Raises:
            ArtifactError: not in the store, damaged, or the store does not answer.
            Refused: an adapter that vLLM cannot serve unmerged.
            OSError: no room left on the disk.
        """
        with self._cache.hold({"adapter": ref}) as held:
            folder = held["adapter"].folder
            rank, modules = weights.adapter_rank(folder), weights.adapter_modules(folder)
            yield Adapter(folder, rank, modules, read_golden(folder))

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
