"""What a merge and an import are asked to do. Knows nothing of how."""

from typing import Literal

from pydantic import Field

from tunewright.chassis.spec import Spec

DEFAULT_MAX_KL = 0.003
"""Nats per token. Rounding the merged weights to bf16 costs 0.0002 on SmolLM2-135M after a real QLoRA run (0.00001 on
the tests' tiny model); a scaling that is wrong by a tenth costs 0.009, by half 0.24."""


class MergeSpec(Spec):
    """Merge of an adapter into its full-precision base."""

    merge: Literal["auto", "full_precision", "dequantized"] = "auto"
    """Weights that the adapter is merged into: the base's own, or what 4 bits made of them in QLoRA's training, on
    which the adapter learned. `auto` merges into both, and takes the one nearest to the model as trained."""
    max_trained_kl: float = Field(default=0.5, gt=0, le=100)
    """Largest mean KL divergence, nats per token, of the published model from the model as it was trained."""
    probe_count: int = Field(default=16, ge=1, le=1024)
    """Held-out conversations whose logits are compared, in order of their hash."""
    probe_max_length: int = Field(default=256, ge=8, le=4096)
    """Tokens of each probe at most; longer ones are cut at their end."""
    max_kl: float = Field(default=DEFAULT_MAX_KL, gt=0, le=100)
    """Largest mean KL divergence, nats per token, of the merged model from base + adapter that is still published."""
    min_golden_agreement: float = Field(default=0.8, ge=0, le=1)
    """Smallest share of the trainer's recorded answer tokens that base + adapter must name first too, 0 to 1. At most
    0.3 is asked of an adapter without a manifest, which does not tell what its base was quantised to."""
    max_golden_kl: float = Field(default=0.02, gt=0, le=100)
    """Largest mean KL divergence, nats, of base + adapter from the first steps that the trainer recorded. 0.0002 after
    a real QLoRA run; alpha × 2 or × 0.5 0.05, two layers exchanged 0.03. At least 0.5 is allowed without a manifest."""
    max_shard_bytes: int = Field(default=5_000_000_000, ge=1_000_000)
    """Bytes of tensors in each safetensors file at most; a larger tensor gets a file of its own."""


class ExportSpec(Spec):
    """A merged model in another form, for other engines."""

    format: Literal["fp8", "int4", "gguf"]
    """fp8 and int4 for vLLM (compressed-tensors), gguf for llama.cpp."""
    gguf_type: Literal["q8_0", "bf16", "f16"] = "q8_0"
    """Type of a gguf's matrices."""
    probe_count: int = Field(default=16, ge=1, le=1024)
    """Held-out conversations whose logits are compared, in order of their hash."""
    probe_max_length: int = Field(default=256, ge=8, le=4096)
    """Tokens of each probe at most."""
    max_kl: float = Field(default=0.5, gt=0, le=100)
    """Largest mean KL divergence, nats per token, of what is loaded back from the model that is still published."""
    max_shard_bytes: int = Field(default=5_000_000_000, ge=1_000_000)
    """Bytes of tensors in each safetensors file at most."""


class ImportSpec(Spec):
    """A base model to bring into the store."""

    source: str = Field(min_length=1, max_length=512)
    """A hub's id such as `Qwen/Qwen2.5-7B-Instruct`, or a folder below the service's import root."""
    revision: str = Field(default="", max_length=128)
    """Branch, tag or commit on the hub (empty: main); of a folder, the fingerprint of its files, set by the service."""
