# ruff: noqa: N806 - shapes stand in names
"""One decoder layer, forward and backward by hand: attention and SwiGLU with RMSNorm before each, residuals around.

How much of the forward pass is kept for the backward pass is a choice for each layer (`Keep`). Knows no documents'
content, no loss and no optimizer.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from tunewright.trainer.fast.arithmetic import Arithmetic
from tunewright.trainer.fast.attention import Attention, Documents, Saved
from tunewright.trainer.fast.dropout import Dropout
from tunewright.trainer.fast.linear import LinearGroup
from tunewright.trainer.fast.passes import Keep


@dataclass(frozen=True, slots=True)
class Norm:
    """An RMSNorm."""

    weight: torch.Tensor
    eps: float


@dataclass(frozen=True, slots=True)
class Heads:
    """How a layer's outputs divide into heads."""

    queries: int
    keys: int
    width: int
    scale: float
    """Of the scores: 1 / √width in most models."""

    def split(self, qkv: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return queries, keys and values [T, heads, width] of [T, all]; views."""
        q_end = self.queries * self.width
        k_end = q_end + self.keys * self.width
        parts = (qkv[:, :q_end], qkv[:, q_end:k_end], qkv[:, k_end:])
        q, k, v = (part.view(len(part), -1, self.width) for part in parts)
        return q, k, v

    def turning(self, qkv: torch.Tensor) -> torch.Tensor:
        """Return queries and keys [T, heads of both, width], which positions turn; a view."""
        heads = self.queries + self.keys
        return qkv[:, : heads * self.width].view(len(qkv), heads, self.width)


@dataclass(frozen=True, slots=True)
class Pass:
    """What all layers need to know of the tokens in hand."""

    documents: Documents
    cos: torch.Tensor
    """[T, head width], float32."""
    sin: torch.Tensor
    sin_back: torch.Tensor
    """Minus `sin`: turns back."""
    dropout: Callable[[LinearGroup], Dropout | None]
    """Masks of a group; equal ones whenever it is asked."""


@dataclass(slots=True)
class Kept:
    """What the backward pass finds of one layer. None: make it again."""

    x: torch.Tensor
    dropouts: dict[int, Dropout | None]
    made: dict[int, torch.Tensor] = field(default_factory=dict)
    """By group: what the adapters' first halves made, [T, R]."""
    factors: torch.Tensor | None = None
    raw: torch.Tensor | None = None
    """Queries and keys before their norms, of models that have such."""
    heads: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None
    attended: torch.Tensor | None = None
    saved: Saved | None = None
    middle: torch.Tensor | None = None
    middle_factors: torch.Tensor | None = None
    gate_up: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class Layer:
    """The parts of one layer; `first` has no trained layer before it, so that no gradient leaves it."""

    qkv: LinearGroup
    output: LinearGroup
    gate_up: LinearGroup
    down: LinearGroup
    norm: Norm
    middle_norm: Norm
    query_norm: Norm | None
    key_norm: Norm | None
    heads: Heads
    arithmetic: Arithmetic
    attention: Attention
    first: bool

    @property
    def groups(self) -> tuple[LinearGroup, ...]:
        """All of its linear layers."""
        return self.qkv, self.output, self.gate_up, self.down

    def forward(
        self, x: torch.Tensor, delta: torch.Tensor | None, given: Pass, keep: Keep
    ) -> tuple[torch.Tensor, torch.Tensor, Kept]:
        """Return the residual stream without the last part, that part, and what the backward pass needs."""
        room = self.qkv.new_input(len(x))
        total, factors = self.arithmetic.add_norm(x, delta, self.norm.weight, self.norm.eps, self._left(self.qkv, room))
        kept = Kept(total, {group.number: given.dropout(group) for group in self.groups}, factors=factors)
        kept.made[self.qkv.number] = self.qkv.adapt(room, kept.dropouts[self.qkv.number])
        self._attention(room, given, kept)
        del room
        room, middle = self._after_attention(kept, adapt=True)
        kept.made[self.gate_up.number] = self.gate_up.adapt(room, kept.dropouts[self.gate_up.number])
        kept.gate_up = self.gate_up.forward(room)
        del room
        active = self.down.new_input(len(x))
        self.arithmetic.swiglu(kept.gate_up, self._left(self.down, active))
        kept.made[self.down.number] = self.down.adapt(active, kept.dropouts[self.down.number])
        _forget(kept, keep)
        return middle, self.down.forward(active), kept

    def backward(self, kept: Kept, grad: torch.Tensor, given: Pass) -> None:
        """Add the adapters' gradients; turn `grad` [T, D], that of the layer's output, into that of its input."""
        self._make_again(kept, given)
        self._mlp_backward(kept, grad)
        self._attention_backward(kept, grad, given)

    def _attention(self, room: torch.Tensor, given: Pass, kept: Kept) -> None:
        """Go from the normalised input to the attended values."""
        raw = self.qkv.forward(room)
        if self.query_norm is not None and self.key_norm is not None:
            kept.raw = raw
            kept.heads = self._turned_norms(raw, given)
        else:
            turning = self.heads.turning(raw)
            self.arithmetic.rotate(turning, given.cos, given.sin, turning)
            kept.heads = self.heads.split(raw)
        kept.attended, kept.saved = self.attention.forward(*kept.heads, given.documents, self.heads.scale)

    def _turned_norms(self, raw: torch.Tensor, given: Pass) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the heads of a model that has norms of queries and of keys."""
        turned = torch.empty_like(raw)
        queries, keys, values = self.heads.split(turned)
        norms = (self.query_norm, self.key_norm)
        for before, norm, after in zip(self.heads.split(raw), norms, (queries, keys), strict=False):
            assert norm is not None  # noqa: S101 - the caller has looked
            self.arithmetic.rotate(self._head_norm(before, norm)[0], given.cos, given.sin, after)
        values.copy_(self.heads.split(raw)[2])
        return queries, keys, values

    def _after_attention(self, kept: Kept, *, adapt: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the MLP's normalised input, and the residual stream in the layer's middle."""
        assert kept.attended is not None  # noqa: S101 - set by _attention, for the type checker
        room = self.output.new_input(len(kept.x))
        self._left(self.output, room).copy_(kept.attended.flatten(1))
        if adapt:
            kept.made[self.output.number] = self.output.adapt(room, kept.dropouts[self.output.number])
        else:
            self._adapted(self.output, room, kept)
        delta = self.output.forward(room)
        normal = self.gate_up.new_input(len(kept.x))
        kept.middle, kept.middle_factors = self.arithmetic.add_norm(
            kept.x, delta, self.middle_norm.weight, self.middle_norm.eps, self._left(self.gate_up, normal)
        )
        return normal, kept.middle

    def _make_again(self, kept: Kept, given: Pass) -> None:
        """Compute what was not kept."""
        normal = None
        if kept.attended is None:
            room = self._normal_input(kept)
            self._adapted(self.qkv, room, kept)
            self._attention(room, given, kept)
            del room
            normal, _ = self._after_attention(kept, adapt=False)
        if kept.gate_up is None:
            normal = self._middle_input(kept) if normal is None else normal
            self._adapted(self.gate_up, normal, kept)
            kept.gate_up = self.gate_up.forward(normal)

    def _mlp_backward(self, kept: Kept, grad: torch.Tensor) -> None:
        assert kept.gate_up is not None and kept.middle is not None and kept.middle_factors is not None  # noqa: S101, PT018 - as above
        down, dropout = self.down, kept.dropouts[self.down.number]
        grad_TR = down.rank_gradient(grad)
        active = down.input_gradient(grad, grad_TR, dropout)
        self.arithmetic.swiglu_backward(kept.gate_up, active)
        down.add_adapter_gradients(grad, grad_TR, active, kept.made[down.number], dropout)
        del active
        normal = self._middle_input(kept)
        back = self._through(self.gate_up, kept, kept.gate_up, self._left(self.gate_up, normal))
        kept.gate_up = None
        self.arithmetic.norm_backward(back, kept.middle, self.middle_norm.weight, kept.middle_factors, grad)

    def _attention_backward(self, kept: Kept, grad: torch.Tensor, given: Pass) -> None:
        assert kept.attended is not None and kept.heads is not None and kept.saved is not None  # noqa: S101, PT018 - as above
        back = self._through(self.output, kept, grad, kept.attended.flatten(1))
        tensors = (*kept.heads, kept.attended)
        dq, dk, dv = self.attention.backward(
            back.view_as(kept.attended), tensors, kept.saved, given.documents, self.heads.scale
        )
        kept.heads = kept.attended = kept.saved = None
        grad_qkv = torch.empty(len(grad), self.qkv.outputs, dtype=grad.dtype, device=grad.device)
        back_q, back_k, back_v = self.heads.split(grad_qkv)
        self.arithmetic.rotate(dq, given.cos, given.sin_back, back_q)
        self.arithmetic.rotate(dk, given.cos, given.sin_back, back_k)
        back_v.copy_(dv)
        self._head_norms_backward(kept, back_q, back_k)
        normal = self._normal_input(kept)
        assert kept.factors is not None  # noqa: S101 - as above
        into = self._through(self.qkv, kept, grad_qkv, self._left(self.qkv, normal), stop=self.first)
        if not self.first:
            self.arithmetic.norm_backward(into, kept.x, self.norm.weight, kept.factors, grad)

    def _through(
        self, group: LinearGroup, kept: Kept, grad: torch.Tensor, x: torch.Tensor, *, stop: bool = False
    ) -> torch.Tensor:
        """Add the gradients of a group's adapters; return that of its input, or `grad` where it stops."""
        dropout = kept.dropouts[group.number]
        grad_TR = group.rank_gradient(grad)
        group.add_adapter_gradients(grad, grad_TR, x, kept.made[group.number], dropout)
        return grad if stop else group.input_gradient(grad, grad_TR, dropout)

    def _head_norm(self, heads: torch.Tensor, norm: Norm) -> tuple[torch.Tensor, torch.Tensor]:
        """Return each head normalised on its own, and the factors."""
        flat = heads.reshape(-1, self.heads.width)
        out = torch.empty_like(flat)
        _, factors = self.arithmetic.add_norm(flat, None, norm.weight, norm.eps, out)
        return out.view(heads.shape), factors

    def _head_norms_backward(self, kept: Kept, back_q: torch.Tensor, back_k: torch.Tensor) -> None:
        """Take the gradients of queries and keys back through their own norms, in place."""
        if kept.raw is None or self.query_norm is None or self.key_norm is None:
            return
        queries, keys, _ = self.heads.split(kept.raw)
        for heads, back, norm in ((queries, back_q, self.query_norm), (keys, back_k, self.key_norm)):
            factors = self._head_norm(heads, norm)[1]
            flat = heads.reshape(-1, self.heads.width)
            into = torch.zeros_like(flat)
            self.arithmetic.norm_backward(back.reshape_as(flat), flat, norm.weight, factors, into)
            back.copy_(into.view(back.shape))

    def _normal_input(self, kept: Kept) -> torch.Tensor:
        room = self.qkv.new_input(len(kept.x))
        _, kept.factors = self.arithmetic.add_norm(
            kept.x, None, self.norm.weight, self.norm.eps, self._left(self.qkv, room)
        )
        return room

    def _middle_input(self, kept: Kept) -> torch.Tensor:
        assert kept.middle is not None  # noqa: S101 - set by _after_attention
        room = self.gate_up.new_input(len(kept.x))
        self.arithmetic.add_norm(
            kept.middle, None, self.middle_norm.weight, self.middle_norm.eps, self._left(self.gate_up, room)
        )
        return room

    def _adapted(self, group: LinearGroup, room: torch.Tensor, kept: Kept) -> None:
        """Fill the columns of `room` with what the adapters made in the forward pass."""
        made = kept.made[group.number]
        room[:, group.inputs : group.inputs + made.shape[1]] = made

    def _left(self, group: LinearGroup, room: torch.Tensor) -> torch.Tensor:
        return room[:, : group.inputs]


def _forget(kept: Kept, keep: Keep) -> None:
    if keep is not Keep.ALL:
        kept.gate_up = None
    if keep in (Keep.INPUT, Keep.HOST):
        kept.raw = kept.heads = kept.attended = kept.saved = None
        kept.middle = kept.middle_factors = None
