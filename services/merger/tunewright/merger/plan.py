"""The plan of a merge: what happens to each tensor of the base. Made from headers alone, so refusals cost nothing.

Plan, then apply: `weights.py` applies. Knows nothing of probes and tokenizers, and does not import torch.
"""

from dataclasses import dataclass, field
from pathlib import Path

from tunewright.chassis.errors import Refused
from tunewright.merger.adapter_config import WEIGHTS_NAME, AdapterConfig
from tunewright.merger.headers import TensorInfo, read_header
from tunewright.merger.quantization import Quantization

PREFIX = "base_model.model."
"""What PEFT writes before every module name."""
_A, _B, _MAGNITUDE = ".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"
_TIED = ("lm_head.weight", "embed_tokens.weight", "wte.weight")


@dataclass(frozen=True, slots=True)
class LowRank:
    """W + scaling · B·A, and for DoRA the columns' norms set to a trained magnitude."""

    a: str
    """Name of A, r × in, in the adapter's file."""
    b: str
    """Name of B, out × r."""
    scaling: float
    magnitude: str | None
    """Name of DoRA's magnitude, one figure an output; None for LoRA."""
    transpose: bool
    """True where the base stores in × out (fan_in_fan_out, as GPT-2 does)."""


@dataclass(frozen=True, slots=True)
class Replacement:
    """A module trained as a whole (`modules_to_save`): the adapter's tensor takes the base's place."""

    name: str


@dataclass(frozen=True, slots=True)
class MergePlan:
    """Everything that the merged weights depend on."""

    tensors: tuple[TensorInfo, ...]
    """The base's tensors: file after file, each in the order of its data."""
    adapter: dict[str, TensorInfo]
    """The adapter's tensors by name."""
    changes: dict[str, LowRank | Replacement] = field(default_factory=dict)
    """Base tensor → what happens to it; all others are copied."""
    quantization: Quantization | None = None
    """How the base is quantised and dequantised before; None: not at all."""
    quantized: dict[str, bool] = field(default_factory=dict)
    """Base tensor that is quantised before → whether it is stored transposed."""

    @property
    def touched(self) -> set[str]:
        """Base tensors that are not merely copied."""
        return self.changes.keys() | self.quantized.keys()


def plan_merge(adapter: Path, config: AdapterConfig, tensors: list[TensorInfo], *, tied: bool) -> MergePlan:
    """Return the plan for merging `adapter` (a folder) into a base with these tensors.

    Args:
        adapter: folder of the adapter.
        config: its settings.
        tensors: the base's.
        tied: the base's config says that input embedding and output head are one tensor.

    Raises:
        Refused: a tensor of the adapter has no place in this base, or does not fit it; all of them are named.
    """
    base = {tensor.name: tensor for tensor in tensors}
    own = {info.name: info for info in read_header(adapter / WEIGHTS_NAME)}
    found = {_plain(name): info for name, info in own.items()}
    changes: dict[str, LowRank | Replacement] = {}
    problems: list[str] = []
    for name, info in found.items():
        change: LowRank | Replacement | None
        if name.endswith(_A):
            module = name.removesuffix(_A)
            problem, change = _low_rank(module, found, base, config)
            target = f"{module}.weight"
        elif name.endswith(_B) or _MAGNITUDE in name:
            continue
        else:
            target, change = name, Replacement(info.name)
            problem = _replacement_problem(name, info, base)
        if problem:
            problems.append(problem)
        elif change is not None:
            changes[target] = change
    problems += _orphans(found) + (_tied_problems(changes) if tied else [])
    if problems or not changes:
        raise _no_fit(problems or ["the adapter holds no LoRA tensors"])
    return MergePlan(tuple(tensors), own, changes)


def _low_rank(
    module: str, found: dict[str, TensorInfo], base: dict[str, TensorInfo], config: AdapterConfig
) -> tuple[str, LowRank | None]:
    a, b, weight = found[module + _A], found.get(module + _B), base.get(f"{module}.weight")
    magnitude = found.get(f"{module}{_MAGNITUDE}.weight") or found.get(module + _MAGNITUDE)
    if weight is None:
        return f"{module}: the base has no such layer", None
    if b is None or config.use_dora != (magnitude is not None):
        return f"{module}: lora_B or the DoRA magnitude is missing or unexpected", None
    if len(weight.shape) != 2 or len(a.shape) != 2:  # noqa: PLR2004 - matrices
        return f"{module}: only linear layers are merged, its weight has shape {weight.shape}", None
    rank = config.rank(module)
    outputs, inputs = reversed(weight.shape) if config.fan_in_fan_out else weight.shape
    if a.shape != (rank, inputs) or b.shape != (outputs, rank):
        return f"{module}: A {a.shape} and B {b.shape} do not fit r={rank} and the base's {weight.shape}", None
    name = magnitude.name if magnitude else None
    return "", LowRank(a.name, b.name, config.scaling(module), name, config.fan_in_fan_out)


def _replacement_problem(name: str, info: TensorInfo, base: dict[str, TensorInfo]) -> str:
    if name not in base:
        return f"{name}: the base has no such tensor"
    if info.shape != base[name].shape:
        return f"{name}: trained as {info.shape}, the base has {base[name].shape} (tokens were added?)"
    return ""


def _orphans(found: dict[str, TensorInfo]) -> list[str]:
    return [f"{name}: has no lora_A" for name in found if name.endswith(_B) and name.removesuffix(_B) + _A not in found]


def _tied_problems(changes: dict[str, LowRank | Replacement]) -> list[str]:
    return [
        f"{name}: tied to its twin in this base, one cannot change alone" for name in changes if name.endswith(_TIED)
    ]


def _plain(name: str) -> str:
    return name.removeprefix(PREFIX).replace(".modules_to_save.", ".")


def _no_fit(problems: list[str]) -> Refused:
    shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")  # noqa: PLR2004 - five are enough to see it
    return Refused(
        f"the adapter does not fit this base: {shown}",
        remedy="Name the base that the adapter was trained on (its manifest's parents.base).",
    )
