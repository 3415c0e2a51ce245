"""Whether one more engine fits: what it needs beside what others have claimed. Knows no processes and no models.

On a CPU an engine takes its weights, its key-value cache and about 2 GiB for Python, PyTorch and vLLM (3.4 GB were seen
with 0.27 GB of weights and 1 GiB of cache). On a GPU vLLM takes the share it is told, whatever the model needs.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from tunewright.chassis.errors import OutOfResources
from tunewright.inference.spec import DeploymentSpec

_ENGINE_BYTES = 2 << 30
_REMEDY = "Stop a deployment, lower kv_cache_bytes or gpu_memory_utilization, or let this one replace another."


class MemoryBudget:
    """Claims of engines on one machine's memory. Thread-safe.

    Args:
        limit_bytes: what all engines together may take on a CPU; 0: what is free when one is started.
        on_cpu: False where engines run on a GPU.
    """

    def __init__(self, limit_bytes: int, *, on_cpu: bool) -> None:
        self._limit = limit_bytes
        self._on_cpu = on_cpu
        self._lock = threading.Lock()
        self._claimed_bytes = 0
        self._claimed_share = 0.0

    @contextmanager
    def claim(self, spec: DeploymentSpec, weight_bytes: int) -> Iterator[None]:
        """Keep an engine's memory for it inside the block.

        Raises:
            OutOfResources: there is not so much.
        """
        needed = weight_bytes + spec.kv_cache_bytes + _ENGINE_BYTES if self._on_cpu else 0
        share = 0.0 if self._on_cpu else spec.gpu_memory_utilization
        with self._lock:
            self._check(needed, share)
            self._claimed_bytes += needed
            self._claimed_share += share
        try:
            yield
        finally:
            with self._lock:
                self._claimed_bytes -= needed
                self._claimed_share -= share

    def _check(self, needed: int, share: float) -> None:
        if self._claimed_share + share > 1.0 + 1e-9:
            free = f"{1 - self._claimed_share:.0%} of the GPU is left, this engine wants {share:.0%}"
            raise OutOfResources(f"no memory for one more engine: {free}", remedy=_REMEDY)
        room = self._limit - self._claimed_bytes if self._limit else int(psutil.virtual_memory().available)
        if needed > room:
            text = f"{max(0, room) / 1e9:.1f} GB are left, this engine needs {needed / 1e9:.1f}"
            raise OutOfResources(f"no memory for one more engine: {text}", remedy=_REMEDY)
