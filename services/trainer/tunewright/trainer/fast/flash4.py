"""Attention by FlashAttention 4, where somebody has installed it: about 1.7 times torch's own on an H100.

https://github.com/Dao-AILab/flash-attention, package flash-attn-4 (BSD; its compiler, nvidia-cutlass-dsl, has NVIDIA's
own licence). It is no dependency of the trainer: its kernels are compiled when first called, for about ten seconds, and
it is young. So it is tried on a few tokens before a run relies on it. Knows no model.
"""

import importlib
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch

from tunewright.trainer.fast.attention import Documents, Saved, TorchAttention

_MODULE = "flash_attn.cute"
_CAPABILITIES = (9, 10)
"""Hopper and Blackwell of data centres."""
_WIDEST_HEAD = 128
_TRIED = (24, 300, 700)
"""Tokens of the documents that it is tried on: less than a tile of its kernels, and several."""
_NEAR = 2e-2
"""How far it may be from torch's attention there, as a share of the norm: bfloat16 has 8 bits."""

Varlen = Callable[..., Any]


class Flash4Attention:
    """By the package's own function, whose autograd keeps what its backward pass needs. See `Attention`."""

    def __init__(self, attend: Varlen) -> None:
        self._attend = attend

    def forward(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, documents: Documents, scale: float
    ) -> tuple[torch.Tensor, Saved]:
        """See `Attention`."""
        heads = tuple(tensor.detach().requires_grad_() for tensor in (queries, keys, values))
        ends, longest = documents.ends, documents.longest
        with torch.enable_grad():
            found = self._attend(
                *heads, cu_seqlens_q=ends, cu_seqlens_k=ends, max_seqlen_q=longest, max_seqlen_k=longest,
                softmax_scale=scale, causal=True,
            )  # fmt: skip
        out = found[0] if isinstance(found, tuple) else found
        return out.detach(), (out, heads)

    def backward(
        self,
        grad: torch.Tensor,
        tensors: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor],
        saved: Saved,
        documents: Documents,
        scale: float,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """See `Attention`."""
        del tensors, documents, scale
        out, heads = saved
        dq, dk, dv = torch.autograd.grad(out, heads, grad)
        return dq, dk, dv


def flash4(device: torch.device, queries: int, keys: int, width: int) -> tuple[Flash4Attention | None, str]:
    """Return the attention of so many heads if it can be used, and otherwise why it cannot.

    Compiles its kernels, which takes some seconds.
    """
    if device.type != "cuda":
        return None, "FlashAttention 4 is for GPUs"
    if torch.cuda.get_device_capability(device)[0] not in _CAPABILITIES or width > _WIDEST_HEAD:
        return None, "FlashAttention 4 does not know this GPU, or heads of this width"
    if find_spec(_MODULE.partition(".")[0]) is None:
        return None, f"{_MODULE} is not installed"
    try:
        found = Flash4Attention(importlib.import_module(_MODULE).flash_attn_varlen_func)
        off = _apart(found, device, queries, keys, width)
    except Exception as error:  # noqa: BLE001 - whatever a compiler throws: torch's attention is there
        return None, f"FlashAttention 4 failed on its trial: {type(error).__name__}: {error}"[:300]
    return (found, "") if off < _NEAR else (None, f"FlashAttention 4 is {off:.0%} off on its trial")


def _apart(found: Flash4Attention, device: torch.device, queries: int, keys: int, width: int) -> float:
    """Return how far its outputs and gradients are from torch's, the worst of them, as a share of their norm."""
    generator = torch.Generator(device).manual_seed(0)
    documents = Documents.of(list(_TRIED), device)
    tokens = sum(_TRIED)

    def drawn(heads: int) -> torch.Tensor:
        return torch.randn(tokens, heads, width, generator=generator, device=device).to(torch.bfloat16)

    heads, grad, scale = (drawn(queries), drawn(keys), drawn(keys)), drawn(queries), width**-0.5
    results = []
    for attention in (found, TorchAttention()):
        out, saved = attention.forward(*heads, documents, scale)
        results.append((out, *attention.backward(grad, (*heads, out), saved, documents, scale)))
    pairs = zip(*results, strict=True)
    return max(float((mine.float() - wanted.float()).norm() / wanted.float().norm()) for mine, wanted in pairs)
