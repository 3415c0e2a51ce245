"""How far one model is from another: both are run on the same probes and their logits compared.

References are PEFT's own unmerged forward passes, so a fault in our merge cannot hide in both. One model is in memory
at a time; logits wait in files. Knows nothing of how a merge was made (`candidates.py` says which models there are).
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
from transformers import AutoModelForCausalLM, GgufConfig

from tunewright.merger.probes import Probe


@dataclass(frozen=True, slots=True)
class Agreement:
    """One model against a reference, over all tokens of all probes."""

    mean_kl: float
    """Mean of KL(reference ‖ model) over tokens, nats."""
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
def unmerged_model(
    base: Path, adapter: Path, machine: Machine, prepare: Callable[[Any], None] | None = None
) -> Iterator[Any]:
    """Yield base + adapter, run by PEFT unmerged; the memory is free again after the block.

    Args:
        base: folder of the model.
        adapter: folder of the adapter.
        machine: where it runs.
        prepare: changes the base before the adapter is put on it.
    """
    loaded = _load(base, machine)
    if prepare is not None:
        prepare(loaded)
    model = PeftModel.from_pretrained(loaded, str(adapter)).to(machine.device).eval()
    del loaded
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


@contextmanager
def gguf_model(folder: Path, machine: Machine) -> Iterator[Any]:
    """Yield the model of a folder's GGUF file, unpacked."""
    model: Any = AutoModelForCausalLM.from_pretrained(
        str(folder),
        gguf_file=next(folder.glob("*.gguf")).name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=machine.dtype,
        local_files_only=True,
    )
    model = model.to(machine.device).eval()
    try:
        yield model
    finally:
        del model
        _free()


class Logits:
    """A model's logits on all probes, a file each, in a scratch folder that `close` removes."""

    def __init__(self, probe_count: int) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="merge-logits-")
        self._count = probe_count
        self.eval_loss: float | None = None
        """Mean loss of the answers' tokens, nats; None if the probes hold none."""

    def record(self, model: Any, probes: list[Probe], on_probe: Callable[[], None]) -> None:  # noqa: ANN401 - a transformers or PEFT model
        """Run the model over the probes."""
        losses = []
        for index, probe in enumerate(probes):
            logits = logits_T_V(model, probe.ids)
            losses.append(_answer_loss(logits, probe))
            save_file({"logits": logits}, self._path(index))
            on_probe()
        answers = torch.cat(losses)
        self.eval_loss = float(answers.mean()) if len(answers) else None

    def against(self, reference: "Logits") -> Agreement:
        """Return how well this model agrees with a reference that was run on the same probes."""
        kls, agreeing, worst = [], 0, 0.0
        for index in range(self._count):
            theirs, mine = reference.probe(index), self.probe(index)
            kls.append(kl_T(theirs, mine))
            agreeing += int((theirs.argmax(-1) == mine.argmax(-1)).sum())
            worst = max(worst, float((theirs - mine).abs().max()))
        kl = torch.cat(kls)
        return Agreement(float(kl.mean()), float(kl.max()), agreeing / len(kl), worst, len(kl), self._count)

    def probe(self, index: int) -> torch.Tensor:
        """Return the logits on one probe, tokens × vocabulary."""
        return load_file(self._path(index))["logits"]

    def close(self) -> None:
        """Remove the files."""
        self._folder.cleanup()

    def _path(self, index: int) -> str:
        return str(Path(self._folder.name) / f"{index}.safetensors")


def logits_T_V(model: Any, token_ids: list[int]) -> torch.Tensor:  # noqa: ANN401, N802 - shape in the name: tokens × vocabulary
    """Return the fp32 logits after each token, on the CPU."""
    with torch.inference_mode():
        ids = torch.tensor([token_ids], device=model.device)
        logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits[0]
    return logits.float().cpu()


def kl_T(reference: torch.Tensor, other: torch.Tensor) -> torch.Tensor:  # noqa: N802 - shape in the name
    """Return KL(reference ‖ other) in nats for each row of logits; not below 0, where rounding may lead."""
    p, q = reference.double().log_softmax(-1), other.double().log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).clamp(min=0)


def _answer_loss(logits: torch.Tensor, probe: Probe) -> torch.Tensor:
    """Return the loss of each of the answer's tokens, nats; the first token of a text has nothing before it."""
    start = max(1, probe.answer_start)
    targets = torch.tensor(probe.ids[start:], dtype=torch.long)
    return torch.nn.functional.cross_entropy(logits[start - 1 : -1], targets, reduction="none")


def _load(folder: Path, machine: Machine) -> Any:  # noqa: ANN401 - a transformers model
    return AutoModelForCausalLM.from_pretrained(
        str(folder), dtype=machine.dtype, local_files_only=True, trust_remote_code=False, use_safetensors=True
    )


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
