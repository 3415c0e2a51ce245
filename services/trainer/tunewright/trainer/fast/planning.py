"""Whether a run takes the fast path, and how: tokens of a pass and what each layer keeps, within the memory there is.

Knows sizes, no values.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import psutil
import torch

from tunewright.chassis.stage import Reporter
from tunewright.trainer.device import Device
from tunewright.trainer.fast.arithmetic import Arithmetic, TorchArithmetic
from tunewright.trainer.fast.layer import Keep
from tunewright.trainer.fast.path import FastPath, Plan
from tunewright.trainer.fast.reading import Decoder, read, why_not
from tunewright.trainer.spec import TrainingSpec

_SPEED = {1024: 0.75, 2048: 0.87, 4096: 0.95, 8192: 0.97, 16384: 1.0}
"""Relative speed of passes of so many tokens with everything kept: measured on an H100 with a 7B shape, see
docs/performance.md. Smaller cards are filled by fewer tokens, so that the order stays and the differences shrink."""
_AGAIN = {Keep.ALL: 0.0, Keep.ATTENTION: 0.18, Keep.INPUT: 0.30}
"""Time that a layer takes more when it is computed again, likewise."""
_CPU_TOKENS = 1024
_CPU_SHARE = 0.25
"""Of the memory that is free, what kept layers may take on a CPU."""
_MARGIN = 0.94
"""Share of a GPU's budget that is planned with; the rest is what the allocator cannot fill."""
_FIXED = 1.2e9
"""Bytes for logits with their gradient, the library's own workspaces and small tensors."""
_OPTIMIZER = 4 + 8 + 2
"""Bytes a trained parameter takes beside itself: gradient, optimizer state at its largest, working copy."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes that one token takes in one layer."""

    kept: dict[Keep, int]
    passing: int
    """In the layer at work, at its highest, beside what is kept."""

    @classmethod
    def of(cls, decoder: Decoder) -> "Sizes":
        """Return the sizes of a decoder's layers."""
        layer, each = decoder.layers[0], decoder.workspace.dtype.itemsize
        width, mlp = layer.qkv.inputs, layer.down.inputs
        made = sum(sum(group.ranks) for group in layer.groups)
        attention = width + layer.qkv.outputs + layer.output.inputs + layer.heads.queries * 4 // each
        alone = each * (width + made) + 8
        everything = alone + each * (attention + 2 * mlp)
        kept = {Keep.INPUT: alone, Keep.ATTENTION: alone + each * attention, Keep.ALL: everything}
        return cls(kept, each * (4 * mlp + 6 * width + layer.qkv.outputs + attention))

    def of_pass(self, tokens: int, keeps: tuple[Keep, ...]) -> int:
        """Return the bytes of a pass at its highest."""
        return tokens * (sum(self.kept[keep] for keep in keeps) + self.passing)


def fast_path(
    model: Any,  # noqa: ANN401 - PEFT ships no types
    spec: TrainingSpec,
    device: Device,
    longest: int,
    report: Reporter,
) -> FastPath | None:
    """Return the fast path of this run, None if it takes the plain one; tell which, and why.

    Args:
        model: with its adapters.
        spec: of the run.
        device: where it takes place.
        longest: tokens of the longest row.
        report: hears the choice.
    """
    if spec.fast_path == "off":
        return None
    why = why_not(model, spec, device)
    if why is None and device.type == "cpu" and spec.fast_path == "auto":
        why = "fast_path is auto, which takes the fast one on GPUs only"
    if why is not None:
        report.event("fast_path", f"the plain path is taken: {why}", fast=False, reason=why)
        return None
    decoder = read(model, device, _arithmetic(device))
    budget = _gpu_budget(spec) if device.type == "cuda" else 0.0
    plan = _gpu_plan(decoder, spec, longest, budget) if budget else _cpu_plan(decoder, spec, longest)
    report.event("fast_path", f"the fast path is taken: {plan.describe()}", fast=True, tokens_a_pass=plan.tokens)
    return FastPath(decoder, plan, dropout=spec.lora_dropout, seed=spec.seed, planned_gb=budget / 1e9)


def plan_within(sizes: Sizes, layers: int, free_bytes: float, longest: int, most: int, *, keep_all: bool) -> Plan:
    """Return the plan that is estimated fastest of those that take up to `free_bytes`.

    Args:
        sizes: of a token in a layer.
        layers: of the model.
        free_bytes: for activations.
        longest: tokens of the longest row: no pass can be smaller.
        most: tokens of a whole step: no pass needs to be larger.
        keep_all: nothing is computed twice, whatever memory it takes.
    """
    steps = sorted({min(max(tokens, longest), most) for tokens in _SPEED} | {longest})
    if keep_all:
        fitting = [tokens for tokens in steps if sizes.of_pass(tokens, (Keep.ALL,) * layers) <= free_bytes]
        return Plan(fitting[-1] if fitting else longest, (Keep.ALL,) * layers)
    plans = [_most_kept(sizes, layers, free_bytes, tokens) for tokens in steps]
    found = [plan for plan in plans if plan is not None]
    return max(found, key=_speed) if found else Plan(longest, (Keep.INPUT,) * layers)


def _most_kept(sizes: Sizes, layers: int, free_bytes: float, tokens: int) -> Plan | None:
    """Return the plan with passes of `tokens` that keeps the most; None if not even the inputs fit."""
    left = free_bytes - sizes.of_pass(tokens, (Keep.INPUT,) * layers)
    if left < 0:
        return None
    attention, everything = (
        tokens * (sizes.kept[keep] - sizes.kept[Keep.INPUT]) for keep in (Keep.ATTENTION, Keep.ALL)
    )
    whole = min(layers, int(left // everything))
    partly = min(layers - whole, int((left - whole * everything) // attention))
    # The last layers keep the most: theirs is freed first, before the backward pass needs room of its own.
    keeps = (Keep.INPUT,) * (layers - whole - partly) + (Keep.ATTENTION,) * partly + (Keep.ALL,) * whole
    return Plan(tokens, keeps)


def _speed(plan: Plan) -> float:
    known = max((tokens for tokens in _SPEED if tokens <= plan.tokens), default=min(_SPEED))
    again = sum(_AGAIN[keep] for keep in plan.keeps) / len(plan.keeps)
    return _SPEED[known] / (1 + again)


def _gpu_budget(spec: TrainingSpec) -> float:
    """Return the bytes of the GPU that may be planned with, what lies there already included."""
    free, _ = torch.cuda.mem_get_info()
    mine = torch.cuda.memory_reserved()
    return min(spec.vram_budget_gb * 1e9, free + mine) if spec.vram_budget_gb else float(free + mine)


def _gpu_plan(decoder: Decoder, spec: TrainingSpec, longest: int, budget: float) -> Plan:
    trained = sum(
        group.down_RK.numel() + group.outputs * sum(group.ranks) for layer in decoder.layers for group in layer.groups
    )
    room = budget * _MARGIN - torch.cuda.memory_allocated() - _FIXED - trained * _OPTIMIZER - decoder.workspace.bytes
    most = max(longest, longest * spec.batch_rows)
    return plan_within(
        Sizes.of(decoder), len(decoder.layers), room, longest, most, keep_all=not spec.gradient_checkpointing
    )


def _cpu_plan(decoder: Decoder, spec: TrainingSpec, longest: int) -> Plan:
    sizes, layers = Sizes.of(decoder), len(decoder.layers)
    tokens = max(longest, _CPU_TOKENS)
    everything = sizes.of_pass(tokens, (Keep.ALL,) * layers)
    fits = everything <= psutil.virtual_memory().available * _CPU_SHARE
    keep = Keep.ALL if fits or not spec.gradient_checkpointing else Keep.INPUT
    return Plan(tokens, (keep,) * layers)


def _arithmetic(device: Device) -> Arithmetic:
    if device.type != "cuda" or find_spec("triton") is None:
        return TorchArithmetic()
    from tunewright.trainer.fast.triton_arithmetic import TritonArithmetic  # noqa: PLC0415 - CPU builds bring no Triton

    return TritonArithmetic()
