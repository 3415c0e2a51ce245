"""How far the merged model is from base + adapter: both are run on the same probes and their logits compared.

The reference is PEFT's own unmerged forward pass, so a fault in our merge cannot hide in both. One model is in memory
at a time; the reference's logits wait in files. Knows nothing of how the merge was made.
"""

import gc
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

Probe = list[int]


@dataclass(frozen=True, slots=True)
class Agreement:
    """The merged model against base + adapter, over all tokens of all probes."""

    mean_kl: float
    """Mean of KL(base + adapter ‖ merged) over tokens, nats."""
    max_kl: float
    """The worst token's, nats."""
    top1_agreement: float
    """Share of tokens after which both name the same next token, 0 to 1."""
    max_abs_logit_diff: float
    tokens: int
    probes: int


@dataclass(frozen=True, slots=True)
class Machine:
    """Where and how exactly the models are run."""

    device: str
    dtype: torch.dtype


def choose_machine(weight_bytes: int, base_dtype: torch.dtype) -> Machine:
    """Return the device and dtype of the comparison.

    fp32 leaves the rounding of the merged weights as the only difference between the two models; it is used where the
    fp32 weights take at most half of the device's memory, the base's own dtype otherwise.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    memory = torch.cuda.mem_get_info()[1] if device == "cuda" else psutil.virtual_memory().total
    fp32_bytes = weight_bytes * 4 // base_dtype.itemsize
    return Machine(device, torch.float32 if fp32_bytes <= memory // 2 else base_dtype)


@contextmanager
def unmerged_model(base: Path, adapter: Path, machine: Machine) -> Iterator[Any]:
    """Yield base + adapter, run by PEFT unmerged; the memory is free again after the block."""
    model = PeftModel.from_pretrained(_load(base, machine), str(adapter)).to(machine.device).eval()
    try:
        yield model
    finally:
        del model
        _free()


@contextmanager
def plain_model(folder: Path, machine: Machine) -> Iterator[Any]:
    """Yield a model as `from_pretrained` loads it."""
    model = _load(folder, machine).to(machine.device).eval()
    try:
        yield model
    finally:
        del model
        _free()


class ReferenceLogits:
    """The reference's logits, one file a probe, in a scratch folder that `close` removes."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="merge-reference-")

    def record(self, model: Any, probes: list[Probe], on_probe: Callable[[], None]) -> None:  # noqa: ANN401 - a transformers or PEFT model
        """Run the reference over the probes."""
        for index, probe in enumerate(probes):
            save_file({"logits": logits_T_V(model, probe)}, self._path(index))
            on_probe()

    def compare(self, model: Any, probes: list[Probe], on_probe: Callable[[], None]) -> Agreement:  # noqa: ANN401 - likewise
        """Run the merged model over the same probes and return how well it agrees."""
        kls, agreeing, worst = [], 0, 0.0
        for index, probe in enumerate(probes):
            reference, merged = load_file(self._path(index))["logits"], logits_T_V(model, probe)
            kls.append(kl_T(reference, merged))
            agreeing += int((reference.argmax(-1) == merged.argmax(-1)).sum())
            worst = max(worst, float((reference - merged).abs().max()))
            on_probe()
        kl = torch.cat(kls)
        return Agreement(float(kl.mean()), float(kl.max()), agreeing / len(kl), worst, len(kl), len(probes))

    def close(self) -> None:
        """Remove the files."""
        self._folder.cleanup()

    def _path(self, index: int) -> str:
        return str(Path(self._folder.name) / f"{index}.safetensors")


def logits_T_V(model: Any, probe: Probe) -> torch.Tensor:  # noqa: ANN401, N802 - shape in the name: tokens × vocabulary
    """Return the fp32 logits after each token of a probe, on the CPU."""
    with torch.inference_mode():
        ids = torch.tensor([probe], device=model.device)
        logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits[0]
    return logits.float().cpu()


def kl_T(reference: torch.Tensor, other: torch.Tensor) -> torch.Tensor:  # noqa: N802 - shape in the name
    """Return KL(reference ‖ other) in nats for each row of logits; not below 0, where rounding may lead."""
    p, q = reference.double().log_softmax(-1), other.double().log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).clamp(min=0)


def _load(folder: Path, machine: Machine) -> Any:  # noqa: ANN401 - a transformers model
    return AutoModelForCausalLM.from_pretrained(
        str(folder), dtype=machine.dtype, local_files_only=True, trust_remote_code=False, use_safetensors=True
    )


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
