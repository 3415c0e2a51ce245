"""Whether a run takes the fast path, and how: tokens of a pass and what each layer keeps, within the memory there is.

Knows sizes, no values.
"""

from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import psutil
import torch

from tunewright.chassis.errors import OutOfResources
from tunewright.chassis.stage import Reporter
from tunewright.trainer.device import Device
from tunewright.trainer.fast.arithmetic import Arithmetic, TorchArithmetic
from tunewright.trainer.fast.attention import Attention
from tunewright.trainer.fast.flash4 import flash4
from tunewright.trainer.fast.passes import (
    HEAD_TILE,
    Away,
    Keep,
    Movable,
    Plan,
    Sizes,
    plan_within,
    room_for_passes,
    trained_bytes,
)
from tunewright.trainer.fast.path import FastPath
from tunewright.trainer.fast.placing import bring, place
from tunewright.trainer.fast.reading import Decoder, heads_of, read, why_not
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
    *,
    alone: bool = True,
) -> FastPath | None:
    """Return the fast path of this run, None if it takes the plain one; tell which, and why.

    Args:
        model: with its adapters.
        spec: of the run.
        device: where it takes place.
        longest: tokens of the longest row.
        report: hears the choice.
        alone: nobody else trains this base, so that parts of it may go to host memory.

    Raises:
        OutOfResources: the base was loaded into host memory, and the run cannot take the fast path.
    """
    if spec.fast_path == "off":
        return None
    why = why_not(model, spec, device)
    if why is None and device.type == "cpu" and spec.fast_path == "auto":
        why = "fast_path is auto, which takes the fast one on GPUs only"
    if why is None and spec.fsdp != "off" and group.current().size > 1:
        why = "the base lies in shards (fsdp), which only the plain one gathers"
    on_host = device.type == "cuda" and not next(model.parameters()).is_cuda
    if why is not None and on_host:
        raise OutOfResources(
            f"the base does not fit on {device.name}, and the path that needs only two of its layers there is not for "
            f"this run: {why}",
            remedy="Change what the reason names, take a smaller base or a larger GPU.",
        )
    if why is not None:
        report.event("fast_path", f"the plain path is taken: {why}", fast=False, reason=why)
        return None
    stream = bring(model, torch.device("cuda", device.index)) if on_host else None
    attention, not_flash4 = _attention(model, device)
    decoder = replace(read(model, device, _arithmetic(device), attention), stream=stream)
    budget = _gpu_budget(spec) if device.type == "cuda" else 0.0
    plan = _gpu_plan(decoder, spec, longest, budget, alone=alone) if budget else _cpu_plan(decoder, spec, longest)
    decoder = place(model, decoder, plan)
    by = "FlashAttention 4" if attention else f"torch ({not_flash4})"
    told = f"the fast path is taken: {plan.describe()}; attention by {by}"
    report.event("fast_path", told, fast=True, tokens_a_pass=plan.tokens)
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


def _movable(decoder: Decoder) -> Movable:
    """Return what is still on the GPU of what can go."""
    assert isinstance(decoder.head, torch.Tensor)  # noqa: S101 - nothing has been placed yet, for the type checker
    head = max(0, decoder.head.nbytes - 2 * HEAD_TILE)
    if decoder.stream is not None:
        return Movable(0, 0, head)
    tied = decoder.embedding.data_ptr() == decoder.head.data_ptr()
    linears = (frozen.weight for layer in decoder.layers for group in layer.groups for frozen in group.frozen)
    return Movable(0 if tied else decoder.embedding.nbytes, sum(weight.nbytes for weight in linears), head)


def _gpu_plan(decoder: Decoder, spec: TrainingSpec, longest: int, budget: float, *, alone: bool) -> Plan:
    trained = sum(
        group.down_RK.numel() + group.outputs * sum(group.ranks) for layer in decoder.layers for group in layer.groups
    )
    taken = torch.cuda.memory_allocated()
    places = list(Away) if alone else [Away.NOTHING]
    if decoder.stream is not None:
        places = [Away.LAYERS, Away.HEAD]
    return plan_within(
        _sizes(decoder),
        len(decoder.layers),
        room_for_passes(budget, taken, trained * trained_bytes(spec.optim), decoder.workspace.bytes),
        longest,
        max(longest, longest * spec.batch_rows),
        keep_all=not spec.gradient_checkpointing,
        movable=_movable(decoder),
        places=places,
    )


def _cpu_plan(decoder: Decoder, spec: TrainingSpec, longest: int) -> Plan:
    sizes, layers = _sizes(decoder), len(decoder.layers)
    tokens = max(longest, _CPU_TOKENS)
    everything = sizes.of_pass(tokens, (Keep.ALL,) * layers)
    fits = everything <= psutil.virtual_memory().available * _CPU_SHARE
    keep = Keep.ALL if fits or not spec.gradient_checkpointing else Keep.INPUT
    return Plan(tokens, (keep,) * layers)


def _attention(model: Any, device: Device) -> tuple[Attention | None, str]:  # noqa: ANN401 - PEFT ships no types
    heads = heads_of(model.get_base_model())
    return flash4(torch.device(device.type, device.index), heads.queries, heads.keys, heads.width)


def _arithmetic(device: Device) -> Arithmetic:
    if device.type != "cuda" or find_spec("triton") is None:
        return TorchArithmetic()
    from tunewright.trainer.fast.triton_arithmetic import TritonArithmetic  # noqa: PLC0415 - CPU builds bring no Triton

    return TritonArithmetic()
