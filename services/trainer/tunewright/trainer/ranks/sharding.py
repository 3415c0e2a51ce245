"""A frozen base of which each process keeps its part of every layer: FSDP2, for weights in 4 bits too.

A layer's weights are gathered when it is their turn, forward and backward, and given up after it. What is trained stays
whole with each process, as are embeddings, norm and head; so adapters, optimizer, checkpoints and the averaging of
gradients know nothing of it.

bitsandbytes' own weights would lose their quantisation state as FSDP makes parameters of them, and its way round that,
4-bit codes stored as bf16, lets some of them be taken for NaN and rewritten on the way (bitsandbytes issue 1945). Here
the packed bytes travel as bytes, beside their state: the result is the same to the last bit.
"""

from typing import Any

import torch
from bitsandbytes.autograd._functions import matmul_4bit
from bitsandbytes.nn.modules import Linear4bit
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from tunewright.chassis.stage import Reporter
from tunewright.trainer.ranks import group


class Sharded4bit(nn.Module):
    """Stands for a `Linear4bit`: the same product, from packed bytes that may be gathered for it.

    Args:
        layer: quantised already.
        parts: into which its bytes will be divided.
    """

    def __init__(self, layer: Any, parts: int) -> None:  # noqa: ANN401 - bitsandbytes ships no types
        super().__init__()
        packed: torch.Tensor = layer.weight.data.view(torch.uint8).flatten()
        rows = parts if packed.numel() % parts == 0 else packed.numel()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.compute_dtype = layer.compute_dtype
        self.quant_state = layer.weight.quant_state
        self.weight = nn.Parameter(packed.view(rows, -1), requires_grad=False)
        self.bias = layer.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x times the weights, in x's type, as `Linear4bit` does."""
        bias = None if self.bias is None else self.bias.to(self.compute_dtype)
        packed = self.weight.reshape(-1, 1).t()
        found: torch.Tensor = matmul_4bit(x.to(self.compute_dtype), packed, bias=bias, quant_state=self.quant_state)
        return found.to(x.dtype)


def shard(model: Any, report: Reporter) -> Any:  # noqa: ANN401 - PEFT ships no types
    """Divide the layers of a base with adapters among the processes, in place, and tell; return the model."""
    size = group.current().size
    decoder = model.get_base_model().base_model
    names = set(model.get_base_model()._no_split_modules)  # noqa: SLF001 - what transformers' own FSDP goes by
    layers = [module for module in decoder.modules() if type(module).__name__ in names]
    for layer in layers:
        for name, module in list(layer.named_modules()):
            if isinstance(module, Linear4bit):
                parent, _, last = name.rpartition(".")
                setattr(layer.get_submodule(parent), last, Sharded4bit(module, size))
    inside = {parameter for layer in layers for parameter in layer.parameters()}
    whole = {parameter for parameter in decoder.parameters() if parameter.requires_grad or parameter not in inside}
    mesh = init_device_mesh(next(decoder.parameters()).device.type, (size,))
    for layer in layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=True, ignored_params=whole)
    fully_shard(decoder, mesh=mesh, ignored_params=whole)
    shards = [parameter for parameter in decoder.parameters() if isinstance(parameter, DTensor)]
    kept, total = sum(part.to_local().nbytes for part in shards), sum(part.nbytes for part in shards)
    text = f"each of {size} processes keeps {kept / 1e6:.1f} of the layers' {total / 1e6:.1f} MB"
    report.event("sharded", text, kept_bytes=kept, total_bytes=total)
    return model


def packed_parameters(model: Any) -> int:  # noqa: ANN401
    """Return how many parameters are counted once though their byte holds two."""
    return sum(module.weight.numel() for module in model.modules() if isinstance(module, Sharded4bit))
