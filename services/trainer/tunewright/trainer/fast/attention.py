"""Causal attention in which each document sees itself alone, forward and backward, by torch's own kernels.

On a GPU flash attention over documents of different lengths; on a CPU the same kernel document by document.
`flash4.py` has another one. Knows no model.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import torch


@dataclass(frozen=True, slots=True)
class Documents:
    """Where the documents of a pass lie."""

    ends: torch.Tensor
    """Where each begins, and where the last ends: int32 [documents + 1], on the device."""
    places: tuple[int, ...]
    """The same as numbers."""
    longest: int
    """Tokens of the longest document."""

    @classmethod
    def of(cls, lengths: list[int], device: torch.device) -> "Documents":
        """Return the places of documents of these lengths, one after the other."""
        places = [0]
        for length in lengths:
            places.append(places[-1] + length)
        return cls(torch.tensor(places, dtype=torch.int32, device=device), tuple(places), max(lengths))


Saved = tuple[Any, ...]
"""What the backward pass needs beside queries, keys, values and outputs."""


class Attention(Protocol):
    """Both directions; two implementations."""

    def forward(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, documents: Documents, scale: float
    ) -> tuple[torch.Tensor, Saved]:
        """Return the outputs [T, H, d] and what the backward pass needs; keys and values may have fewer heads."""

    def backward(
        self,
        grad: torch.Tensor,
        tensors: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor],
        saved: Saved,
        documents: Documents,
        scale: float,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the gradients of queries, keys and values; `tensors` are these and the outputs, `grad` [T, H, d]."""


class TorchAttention:
    """By what torch brings. See `Attention`."""

    def forward(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, documents: Documents, scale: float
    ) -> tuple[torch.Tensor, Saved]:
        """See `Attention`."""
        if queries.is_cuda:
            ends, longest = documents.ends, documents.longest
            out, log_sums, state, unused, _ = torch.ops.aten._flash_attention_forward(  # noqa: SLF001 - no public door
                queries, keys, values, ends, ends, longest, longest, 0.0, True, False, scale=scale
            )
            return out, (log_sums, state, unused)
        pieces = [
            torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(  # noqa: SLF001 - likewise
                *_of_one(queries, keys, values, begin, end), 0.0, True, scale=scale
            )
            for begin, end in pairwise(documents.places)
        ]
        return torch.cat([out[0].transpose(0, 1) for out, _ in pieces]), tuple(pieces)

    def backward(
        self,
        grad: torch.Tensor,
        tensors: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor],
        saved: Saved,
        documents: Documents,
        scale: float,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """See `Attention`."""
        queries, keys, values, out = tensors
        if queries.is_cuda:
            ends, longest = documents.ends, documents.longest
            log_sums, state, unused = saved
            found: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = torch.ops.aten._flash_attention_backward(  # noqa: SLF001 - likewise
                grad, queries, keys, values, out, log_sums, ends, ends, longest, longest, 0.0, True, state, unused,
                scale=scale,
            )  # fmt: skip
            return found
        shared = queries.shape[1] // keys.shape[1]
        gradients: list[list[torch.Tensor]] = [[], [], []]
        for (begin, end), (piece, log_sums) in zip(pairwise(documents.places), saved, strict=True):
            heads = _of_one(queries, keys, values, begin, end)
            back = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(  # noqa: SLF001 - likewise
                grad[None, begin:end].transpose(1, 2), *heads, piece, log_sums, 0.0, True, scale=scale
            )
            for kept, each, several in zip(gradients, back, (1, shared, shared), strict=True):
                kept.append(each[0].unflatten(0, (-1, several)).sum(1).transpose(0, 1))
        dq, dk, dv = (torch.cat(kept) for kept in gradients)
        return dq, dk, dv


def _of_one(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, begin: int, end: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return one document's heads as [1, H, length, d], keys and values repeated for the queries that share them."""
    shared = queries.shape[1] // keys.shape[1]
    q, k, v = (tensor[None, begin:end].transpose(1, 2) for tensor in (queries, keys, values))
    return q, k.repeat_interleave(shared, 1), v.repeat_interleave(shared, 1)
