"""Whether a run takes the fast path, and how: tokens of a pass and what each layer keeps, within the memory there is.

Knows sizes, no values.
"""

from importlib.util import find_spec
from typing import Any

import psutil
import torch

from tunewright.chassis.stage import Reporter
from tunewright.trainer.device import Device
from tunewright.trainer.fast.arithmetic import Arithmetic, TorchArithmetic
from tunewright.trainer.fast.passes import Keep, Plan, Sizes, plan_within, room_for_passes
from tunewright.trainer.fast.path import FastPath
from tunewright.trainer.fast.reading import Decoder, read, why_not
from tunewright.trainer.ranks import group
from tunewright.trainer.spec import TrainingSpec

_CPU_TOKENS = 1024
_CPU_SHARE = 0.25
"""Of the memory that is free, what kept layers may take on a CPU."""


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
    if why is None and spec.fsdp != "off" and group.current().size > 1:
        why = "the base lies in shards (fsdp), which only the plain one gathers"
    if why is not None:
        report.event("fast_path", f"the plain path is taken: {why}", fast=False, reason=why)
        return None
    decoder = read(model, device, _arithmetic(device))
    budget = _gpu_budget(spec) if device.type == "cuda" else 0.0
    plan = _gpu_plan(decoder, spec, longest, budget) if budget else _cpu_plan(decoder, spec, longest)
    report.event("fast_path", f"the fast path is taken: {plan.describe()}", fast=True, tokens_a_pass=plan.tokens)
    return FastPath(decoder, plan, dropout=spec.lora_dropout, seed=spec.seed, planned_gb=budget / 1e9)


def _sizes(decoder: Decoder) -> Sizes:
    layer = decoder.layers[0]
    return Sizes.of_layer(
        width=layer.qkv.inputs,
        mlp=layer.down.inputs,
        qkv=layer.qkv.outputs,
        attended=layer.output.inputs,
        heads=layer.heads.queries,
        ranks=sum(sum(group.ranks) for group in layer.groups),
        each=decoder.workspace.dtype.itemsize,
    )


def _gpu_budget(spec: TrainingSpec) -> float:
    """Return the bytes of the GPU that may be planned with, what lies there already included."""
    free, _ = torch.cuda.mem_get_info()
    mine = torch.cuda.memory_reserved()
    return min(spec.vram_budget_gb * 1e9, free + mine) if spec.vram_budget_gb else float(free + mine)


def _gpu_plan(decoder: Decoder, spec: TrainingSpec, longest: int, budget: float) -> Plan:
    trained = sum(
        group.down_RK.numel() + group.outputs * sum(group.ranks) for layer in decoder.layers for group in layer.groups
    )
    room = room_for_passes(budget, torch.cuda.memory_allocated(), trained, decoder.workspace.bytes)
    most = max(longest, longest * spec.batch_rows)
    return plan_within(
        _sizes(decoder), len(decoder.layers), room, longest, most, keep_all=not spec.gradient_checkpointing
    )


def _cpu_plan(decoder: Decoder, spec: TrainingSpec, longest: int) -> Plan:
    sizes, layers = _sizes(decoder), len(decoder.layers)
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
