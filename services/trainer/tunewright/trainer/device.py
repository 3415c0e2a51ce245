"""What the machine computes on and in. Knows nothing of training.

One process trains on one device: alone on the first visible GPU, of several on that of its number; or on the CPU.
"""

import os
import resource
from dataclasses import dataclass

import torch

from tunewright.chassis.errors import Refused
from tunewright.chassis.stage import Reporter, Severity
from tunewright.trainer.ranks import group
from tunewright.trainer.spec import TrainingSpec


@dataclass(frozen=True, slots=True)
class Device:
    """Where the run takes place."""

    type: str
    """cuda or cpu."""
    name: str
    compute_dtype: torch.dtype
    index: int = 0
    """Number of the GPU among the visible ones."""

    @property
    def device_map(self) -> dict[str, int | str]:
        """The whole model on this one device, in transformers' words."""
        return {"": self.index if self.type == "cuda" else "cpu"}

    def peak_bytes(self) -> int:
        """Highest memory so far: allocated on the GPU, or resident in the process."""
        if self.type == "cuda":
            return torch.cuda.max_memory_allocated()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def pick_device(spec: TrainingSpec, report: Reporter) -> Device:
    """Return the device that the run uses, and tell which.

    Raises:
        Refused: the compute type asked for does not exist on it.
    """
    cuda = torch.cuda.is_available()
    # Passes of many sizes leave holes in memory that is reserved in fixed pieces: 30 of 78 GB on an H100.
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    index = int(os.environ.get("LOCAL_RANK", "0")) if group.current().size > 1 else 0
    if cuda and group.current().size > 1:
        torch.cuda.set_device(index)
    elif cuda and torch.cuda.device_count() > 1:
        _hide_all_but_first(report)
    dtype = compute_dtype(spec.bnb_4bit_compute_dtype, cuda=cuda)
    name = torch.cuda.get_device_name(index) if cuda else f"CPU, {torch.get_num_threads()} threads"
    report.event("device", f"training on {name} in {_word(dtype)}", device=name, compute_dtype=_word(dtype))
    return Device(type="cuda" if cuda else "cpu", name=name, compute_dtype=dtype, index=index)


def _hide_all_but_first(report: Reporter) -> None:
    """Keep one GPU: transformers would wrap the model in DataParallel, which 4-bit layers do not survive."""
    count = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")
    os.environ["CUDA_VISIBLE_DEVICES"] = visible[0]
    report.event("device", f"{count} GPUs are visible, the first is used", severity=Severity.WARNING, gpus=count)


def compute_dtype(wanted: str, *, cuda: bool) -> torch.dtype:
    """Return the type that a run computes in.

    Raises:
        Refused: the device does not have the one that is wanted.
    """
    bf16 = torch.cuda.is_bf16_supported(including_emulation=False) if cuda else _cpu_computes_bf16()
    if wanted == "auto":
        return torch.bfloat16 if bf16 else torch.float16 if cuda else torch.float32
    if wanted == "bfloat16" and cuda and not bf16:
        raise Refused("this GPU has no bfloat16", remedy="Set bnb_4bit_compute_dtype to auto or float16.")
    if wanted == "float16" and not cuda:
        raise Refused("a CPU does not train in float16", remedy="Set bnb_4bit_compute_dtype to auto.")
    dtype: torch.dtype = getattr(torch, wanted)
    return dtype


def _cpu_computes_bf16() -> bool:
    """Return True if the CPU multiplies bf16 natively (AMX or AVX512_BF16); emulation is slower than float32."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
