"""Puts what a plan sends to host memory there: embedding, layers' weights, head. Knows a model's modules.

place   a model on the GPU: what the plan sends away goes
bring   a model in host memory, as it is larger than the GPU: what must be on the GPU comes
"""

from dataclasses import replace
from typing import Any

import torch

from tunewright.trainer.fast.head import HostHead
from tunewright.trainer.fast.passes import GROUPS, HEAD_TILE, Away, Plan
from tunewright.trainer.fast.reading import Decoder
from tunewright.trainer.fast.streaming import LayerStream


def place(model: Any, decoder: Decoder, plan: Plan) -> Decoder:  # noqa: ANN401 - PEFT ships no types
    """Return the decoder, and leave the model, with what the plan sends away in host memory.

    The model computes the same afterwards, by hooks, without gradients: its training is the fast path's alone.
    """
    if plan.away is Away.NOTHING:
        return decoder
    causal = model.get_base_model()
    body, device = causal.model, decoder.workspace.device
    tied = body.embed_tokens.weight is causal.lm_head.weight
    if plan.away is Away.HEAD:
        causal.lm_head = HostHead(causal.lm_head.weight, device, HEAD_TILE)
        decoder = replace(decoder, head=causal.lm_head)
        if tied:
            body.embed_tokens = HostEmbedding(causal.lm_head.host, device)
            decoder = replace(decoder, embedding=causal.lm_head.host)
    if not tied and not isinstance(body.embed_tokens, HostEmbedding):
        decoder = replace(decoder, embedding=_embedding_on_host(body, device))
    if plan.away in (Away.LAYERS, Away.HEAD) and decoder.stream is None:
        decoder = replace(decoder, stream=_stream(causal, device))
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return decoder


def bring(model: Any, device: torch.device) -> LayerStream:  # noqa: ANN401 - PEFT ships no types
    """Take a model from host memory to the device, but for the embedding and the layers' 4-bit weights.

    As after `place`, it computes the same everywhere, and nobody but the fast path trains it.
    """
    causal = model.get_base_model()
    stream = _stream(causal, device)
    if causal.model.embed_tokens.weight is not causal.lm_head.weight:
        _embedding_on_host(causal.model, device)
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.device != device:
            tensor.data = tensor.data.to(device)
    causal.hf_device_map = {"": device.index or 0}  # what accelerate looks at: all that trains is there
    return stream


def _stream(causal: Any, device: torch.device) -> LayerStream:  # noqa: ANN401
    modules = causal.model.layers
    stream = LayerStream([_linears(module) for module in modules], device)
    stream.hook(modules)
    return stream


class HostEmbedding(torch.nn.Module):
    """An embedding whose rows are looked up in host memory.

    `host` [V, D] is no parameter of the model: whoever moves those, or asks where they are, does not mean this.
    """

    def __init__(self, weight: torch.Tensor, device: torch.device) -> None:
        super().__init__()
        self.host = weight.cpu()
        self._device = device

    @property
    def weight(self) -> torch.Tensor:
        """As an embedding's, in host memory."""
        return self.host

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the rows of `ids`, on the device."""
        return torch.nn.functional.embedding(ids.cpu(), self.host).to(self._device)


def _embedding_on_host(body: Any, device: torch.device) -> torch.Tensor:  # noqa: ANN401
    """Replace a decoder's embedding; return its weights."""
    body.embed_tokens = HostEmbedding(body.embed_tokens.weight.data, device)
    weight: torch.Tensor = body.embed_tokens.weight
    return weight


def _linears(module: Any) -> list[Any]:  # noqa: ANN401
    named = {name.rpartition(".")[2]: each for name, each in module.named_modules()}
    linears = [named[name] for names in GROUPS for name in names]
    return [getattr(linear, "base_layer", linear) for linear in linears]
