"""What a deployment asks of its engine. Field names are those of the proto, and mostly vLLM's own options."""

from pydantic import Field

from tunewright.chassis.spec import Spec


class DeploymentSpec(Spec):
    """How one engine is set up; the model and the adapter travel beside it."""

    max_model_len: int = Field(default=0, ge=0, le=4_194_304)
    """Tokens of prompt and answer together; 0 leaves it to the model's config."""
    max_num_seqs: int = Field(default=8, ge=1, le=4096)
    """Requests that are computed at once; others wait in the engine's queue."""
    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1)
    """Share of the GPU's memory that the engine may take; not used on a CPU."""
    enforce_eager: bool = True
    """No compilation and no CUDA graphs: starts sooner, answers slower on a GPU."""
    max_loras: int = Field(default=4, ge=1, le=256)
    """Adapters that are computed in one batch, of an engine that serves adapters; a request for one more waits."""
    max_cpu_loras: int = Field(default=32, ge=1, le=4096)
    """Adapters that stay in memory; of more, those asked for least recently are read from disk again when needed."""
    max_lora_rank: int = Field(default=0, ge=0, le=512)
    """Highest rank of an adapter; 0 takes that of the first one, 16 at least. One of a higher rank gets an engine of
    its own."""
    kv_cache_bytes: int = Field(default=1 << 30, ge=0)
    """Bytes of key-value cache on a CPU, not used on a GPU; 0 leaves it to vLLM, which takes half of the memory."""
