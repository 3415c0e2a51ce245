"""Why an engine died, from its exit status and the last lines of its log, as a member of the error tree.

Knows the words of vLLM, PyTorch and the kernel; knows nothing of processes.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tunewright.chassis.errors import EngineDied, Internal, OutOfResources, Refused, TunewrightError

_SHOWN_LINES = 12
_SIGNALS = 128
"""Exit statuses above it tell the signal that ended a process."""
_PORT_REMEDY = "It is started again on another port; widen TUNEWRIGHT_ENGINE_PORTS if this goes on."
_PREFIX = re.compile(r"^\(\w+(?:-\d+)? pid=\d+\)\s*")


@dataclass(frozen=True, slots=True)
class _Symptom:
    pattern: re.Pattern[str]
    error: type[TunewrightError]
    meaning: str
    remedy: str


def _symptom(pattern: str, error: type[TunewrightError], meaning: str, remedy: str = "") -> _Symptom:
    return _Symptom(re.compile(pattern, re.IGNORECASE), error, meaning, remedy)


# In this order; the first that is found anywhere in the last lines counts.
_SYMPTOMS = (
    _symptom(r"address already in use", EngineDied, "its port was taken by another process", _PORT_REMEDY),
    _symptom(
        r"KV cache.{0,80}(is larger than|is needed)"
        r"|max.{0,40}seq.{0,10}len.{0,60}larger than the maximum number of tokens",
        Refused,
        "the key-value cache has no room for one request of max_model_len tokens",
        "Lower max_model_len, or raise kv_cache_bytes (CPU) or gpu_memory_utilization (GPU).",
    ),
    _symptom(
        r"User-specified max_model_len .{0,80}greater than the derived",
        Refused,
        "max_model_len is more than the model was made for",
        "Lower max_model_len, or leave it out.",
    ),
    _symptom(
        r"out of memory|can't allocate memory|Cannot allocate memory|MemoryError|bad_alloc|oom-kill"
        r"|No available memory for the cache blocks|Free memory on device .{0,120}less than desired"
        r"|not enough (free )?memory",
        OutOfResources,
        "it ran out of memory",
        "Free memory, lower max_model_len, max_num_seqs or kv_cache_bytes, or stop another deployment.",
    ),
    _symptom(
        r"No space left on device", OutOfResources, "the disk or /dev/shm is full", "Free space in the work directory."
    ),
    _symptom(
        r"safetensors_rust\.SafetensorError|HeaderTooLarge|MetadataIncompleteBuffer|InvalidHeader",
        Refused,
        "the weights are damaged",
        "Run the stage that made the model again.",
    ),
    _symptom(
        r"Model architectures .{0,200}(not supported|failed to be inspected)|no module or parameter named"
        r"|does not recognize this architecture",
        Refused,
        "vLLM does not serve this architecture",
        "See vLLM's list of supported models.",
    ),
    _symptom(
        r"Unsupported CPU attention configuration|head_size .{0,60}not supported",
        Refused,
        "the size of its attention heads is not served on this device",
    ),
)


def diagnose(exit_code: int | None, log: Sequence[str], *, killed_by_kernel: bool = False) -> TunewrightError:
    """Return the error that tells why an engine ended.

    Args:
        exit_code: its exit status; None if it had to be killed.
        log: last lines of its output.
        killed_by_kernel: the kernel reported an out-of-memory kill while it ran.
    """
    shown = "\n".join(line for line in (_PREFIX.sub("", line) for line in log[-_SHOWN_LINES * 4 :]) if line)[-2000:]
    text = "\n".join(log)
    if killed_by_kernel:
        return OutOfResources(
            f"the engine was killed by the kernel: the machine or its container ran out of memory\n{shown}",
            remedy="Give it more memory, lower kv_cache_bytes, or stop another deployment.",
        )
    for symptom in _SYMPTOMS:
        if symptom.pattern.search(text):
            return symptom.error(f"the engine ended: {symptom.meaning}\n{shown}", remedy=symptom.remedy)
    by_signal = exit_code is not None and exit_code > _SIGNALS
    how = f"was killed by signal {(exit_code or 0) - _SIGNALS}" if by_signal else f"ended with status {exit_code}"
    return EngineDied(f"the engine {how}; last lines of its log:\n{shown}")


def kernel_kills() -> int:
    """Return how many processes the kernel has killed for want of memory, in this container and on this machine."""
    total = 0
    for path in (Path("/sys/fs/cgroup/memory.events"), Path("/proc/vmstat")):
        try:
            lines = path.read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
    return total


def is_final(error: TunewrightError) -> bool:
    """Return True if starting the same engine again cannot help."""
    return isinstance(error, (Refused, Internal)) or not (error.retryable or isinstance(error, OutOfResources))
