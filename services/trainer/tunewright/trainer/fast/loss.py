# ruff: noqa: N803 - shapes stand in names
"""The head and the cross-entropy of the tokens that count, a part at a time: no logits of a whole pass ever exist.

The head is frozen, so that the loss's gradient goes straight on to the hidden states. A head on the GPU is multiplied
with some rows at a time; of one in host memory, tiles of words come to the GPU twice, for all rows: for the sums of the
softmax, then for the gradient. Knows no layers.
"""

from dataclasses import dataclass

import torch

from tunewright.trainer.fast.arithmetic import Arithmetic, product32
from tunewright.trainer.fast.head import HostHead


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


def loss_and_gradient_by_tiles(
    hidden: torch.Tensor, head: HostHead, labels: torch.Tensor, places: torch.Tensor, scale: float,
    arithmetic: Arithmetic,
) -> tuple[Losses, torch.Tensor]:  # fmt: skip
    """Do as `loss_and_gradient` with a head in host memory; logits of one tile are in hand at once."""
    rows = hidden.index_select(0, places)
    highest = torch.full((len(rows),), float("-inf"), device=hidden.device)
    total, wanted = torch.zeros_like(highest), torch.zeros_like(highest)
    for first, tile in head.tiles():
        arithmetic.add_to_sums(torch.mm(rows, tile.t()), labels - first, highest, total, wanted)
    log_sum = highest + total.log()
    back = torch.zeros(rows.shape, dtype=torch.float32, device=hidden.device)
    for first, tile in head.tiles():
        logits = torch.mm(rows, tile.t())
        arithmetic.softmax_gradient(logits, labels - first, log_sum, scale)
        back += product32(logits, tile)
    gradient = torch.zeros_like(hidden).index_copy_(0, places, back.to(hidden.dtype))
    return Losses((log_sum - wanted).sum(), (wanted >= highest).sum(), len(places)), gradient
