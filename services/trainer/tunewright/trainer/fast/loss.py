# ruff: noqa: N803 - shapes stand in names
"""The head and the cross-entropy of the tokens that count, some rows at a time: no logits of a whole pass ever exist.

The head is frozen, so that the loss's gradient goes straight on to the hidden states. Knows no layers.
"""

from dataclasses import dataclass

import torch

from tunewright.trainer.fast.arithmetic import Arithmetic


@dataclass(frozen=True, slots=True)
class Losses:
    """What one pass says of the tokens that count."""

    nats: torch.Tensor
    """Sum, float32, on the device."""
    right: torch.Tensor
    """How many have the highest logit, on the device."""
    counted: int


def loss_and_gradient(
    hidden: torch.Tensor, head_VD: torch.Tensor, labels: torch.Tensor, places: torch.Tensor, scale: float,
    arithmetic: Arithmetic, room: int,
) -> tuple[Losses, torch.Tensor]:  # fmt: skip
    """Return the losses at `places`, and the gradient of `hidden` [T, D] × `scale`.

    Args:
        hidden: normalised outputs of the last layer.
        head_VD: the head's weights.
        labels: what follows at each of `places`.
        places: rows of `hidden` that count.
        scale: one over the tokens of the optimizer step.
        arithmetic: for the cross-entropy.
        room: bytes of logits in hand at once, in the compute type.
    """
    gradient = torch.zeros_like(hidden)
    nats = torch.zeros((), device=hidden.device)
    right = torch.zeros((), dtype=torch.int64, device=hidden.device)
    rows = max(1, min(len(places), room // (head_VD.shape[0] * head_VD.element_size())))
    for begin in range(0, len(places), rows):
        at, wanted = places[begin : begin + rows], labels[begin : begin + rows]
        logits = torch.mm(hidden.index_select(0, at), head_VD.t())
        losses, hits = arithmetic.cross_entropy(logits, wanted, scale)
        gradient.index_copy_(0, at, torch.mm(logits, head_VD))
        nats += losses.sum()
        right += hits.sum()
    return Losses(nats, right, len(places)), gradient
