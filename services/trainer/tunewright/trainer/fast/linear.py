# ruff: noqa: N803, N815 - shapes stand in names
"""Linear layers that read one input, as one matrix product: frozen, in NF4, with adapters of float32 beside.

The frozen weights are unpacked into one buffer that all layers take turns in, with room for the adapters' second halves
and the biases as further columns: one product does it all, [x, x·Aᵀ, 1] · [W, B, bias]ᵀ. There is no gradient for what
is frozen. Knows nothing of decoders.
"""

from dataclasses import dataclass, field
from typing import Any

import torch

from tunewright.trainer.fast.arithmetic import Arithmetic, product32, spans
from tunewright.trainer.fast.dropout import Dropout
from tunewright.trainer.fast.passes import columns_beside


@dataclass(frozen=True, slots=True)
class Adapter:
    """PEFT's two matrices of one layer: `up` [N, r] · `down` [r, K] · scaling."""

    down: torch.nn.Parameter
    up: torch.nn.Parameter
    scaling: float


@dataclass(frozen=True, slots=True)
class Frozen:
    """One layer's weights as bitsandbytes keeps them."""

    weight: Any
    """bitsandbytes.nn.Params4bit"""
    bias: torch.Tensor | None
    shape: tuple[int, int]
    """Outputs and inputs."""


@dataclass(slots=True)
class Workspace:
    """The buffer that weights are unpacked into; as large as the largest group needs."""

    dtype: torch.dtype
    device: torch.device
    _elements: int = 0
    _buffer: torch.Tensor | None = None

    def reserve(self, elements: int) -> None:
        """Make room for `elements`."""
        self._elements = max(self._elements, elements)

    @property
    def bytes(self) -> int:
        """Size of the buffer."""
        return self._elements * self.dtype.itemsize

    def take(self, rows: int, columns: int) -> torch.Tensor:
        """Return the buffer as [rows, columns]; what was in it is gone."""
        if self._buffer is None:
            self._buffer = torch.zeros(self._elements, dtype=self.dtype, device=self.device)
        return self._buffer[: rows * columns].view(rows, columns)


@dataclass(slots=True)
class LinearGroup:
    """Layers of one input: Q, K and V; gate and up; or one alone. `number` counts layers across the model."""

    frozen: tuple[Frozen, ...]
    adapters: tuple[Adapter | None, ...]
    workspace: Workspace
    arithmetic: Arithmetic
    number: int
    ranks: tuple[int, ...] = field(init=False)
    """The rank of each layer's adapter, 0 where it has none."""
    inputs: int = field(init=False)
    """K."""
    outputs: int = field(init=False)
    """N of all layers together."""
    columns: int = field(init=False)
    """P, the columns beside the weights."""
    down_RK: torch.Tensor = field(init=False)
    """First halves of the adapters with their scaling, in the compute type."""
    beside_NP: torch.Tensor = field(init=False)
    """Second halves, each in its own rows and columns, and the bias: the columns beside the weights."""
    _placed: list[tuple[Adapter, tuple[int, int], tuple[int, int]]] = field(init=False)
    """The adapters with their rows and their ranks."""
    _tail_P: torch.Tensor | None = field(init=False, default=None)
    """What an input has in the columns beyond the adapters': a one for the bias, then zeros; None if there are none."""
    _with_columns: tuple[torch.Tensor, list[tuple[Any, torch.Tensor]]] | None = field(init=False, default=None)
    _alone: tuple[torch.Tensor, list[tuple[Any, torch.Tensor]]] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        # All that follows stays as it is: asking for it again in each pass is what small passes would wait for.
        self.ranks = tuple(adapter.down.shape[0] if adapter else 0 for adapter in self.adapters)
        self.inputs = self.frozen[0].shape[1]
        self.outputs = sum(frozen.shape[0] for frozen in self.frozen)
        biased = any(frozen.bias is not None for frozen in self.frozen)
        ranks = sum(self.ranks)
        self.columns = columns_beside(ranks, biased=biased)
        every = zip(self.adapters, self._rows(), spans(self.ranks), strict=True)
        self._placed = [(adapter, rows, places) for adapter, rows, places in every if adapter]
        self.workspace.reserve(self.outputs * (self.inputs + self.columns))
        settings: Any = {"dtype": self.workspace.dtype, "device": self.workspace.device}
        self.down_RK = torch.zeros(ranks, self.inputs, **settings)
        self.beside_NP = torch.zeros(self.outputs, self.columns, **settings)
        for frozen, (begin, end) in zip(self.frozen, self._rows(), strict=True):
            if frozen.bias is not None:
                self.beside_NP[begin:end, ranks] = frozen.bias
        if ranks < self.columns:
            self._tail_P = torch.zeros(self.columns - ranks, **settings)
            self._tail_P[0] = 1

    def refresh(self) -> None:
        """Take over what the optimizer made of the adapters."""
        for adapter, (row, row_end), (rank, rank_end) in self._placed:
            torch.mul(adapter.down.detach(), adapter.scaling, out=self.down_RK[rank:rank_end])
            self.beside_NP[row:row_end, rank:rank_end] = adapter.up.detach()

    def new_input(self, tokens: int) -> torch.Tensor:
        """Return room for an input [T, K + P]; the caller fills the first K columns."""
        room = torch.empty(tokens, self.inputs + self.columns, dtype=self.workspace.dtype, device=self.workspace.device)
        if self._tail_P is not None:
            room[:, self.inputs + sum(self.ranks) :] = self._tail_P
        return room

    def adapt(self, room: torch.Tensor, dropout: Dropout | None) -> torch.Tensor:
        """Fill the columns of `room` that the adapters' first halves make; return them as a copy [T, R]."""
        inputs, ranks = self.inputs, sum(self.ranks)
        made = room[:, inputs : inputs + ranks]
        if ranks:
            self.arithmetic.adapter_inputs(room[:, :inputs], self.down_RK, self.ranks, dropout, made)
        return made.clone()

    def forward(self, room: torch.Tensor) -> torch.Tensor:
        """Return the outputs [T, N] of an input whose further columns are filled."""
        if self._with_columns is None:
            self._with_columns = self._views(self.inputs + self.columns)
        weights = self._unpacked(self._with_columns)
        weights[:, self.inputs :] = self.beside_NP
        return torch.mm(room, weights.t())

    def input_gradient(self, grad: torch.Tensor, grad_TR: torch.Tensor, dropout: Dropout | None) -> torch.Tensor:
        """Return the gradient of the input [T, K], given those of outputs and of what the first halves made."""
        if self._alone is None:
            self._alone = self._views(self.inputs)
        back = torch.mm(grad, self._unpacked(self._alone))
        if self._placed:
            self.arithmetic.adapter_input_gradient(grad_TR, self.down_RK, self.ranks, dropout, back)
        return back

    def rank_gradient(self, grad: torch.Tensor) -> torch.Tensor:
        """Return the gradient [T, R] of what the first halves made, given that of the outputs."""
        return torch.mm(grad, self.beside_NP[:, : sum(self.ranks)])

    def add_adapter_gradients(
        self, grad: torch.Tensor, grad_TR: torch.Tensor, x: torch.Tensor, made_TR: torch.Tensor, dropout: Dropout | None
    ) -> None:
        """Add to the adapters' own gradients; `x` is the input [T, K], `made_TR` what `adapt` returned."""
        if not sum(self.ranks):
            return
        down = self.arithmetic.adapter_down_gradient(grad_TR, x, self.ranks, dropout)
        up = product32(grad.t(), made_TR)
        for adapter, (row, row_end), (rank, rank_end) in self._placed:
            gradient_of(adapter.down).add_(down[rank:rank_end], alpha=adapter.scaling)
            gradient_of(adapter.up).add_(up[row:row_end, rank:rank_end])

    def _views(self, columns: int) -> tuple[torch.Tensor, list[tuple[Any, torch.Tensor]]]:
        """Return the buffer as [N, columns], and each layer's frozen weights with where in it they are unpacked to."""
        buffer = self.workspace.take(self.outputs, columns)
        places = zip(self.frozen, self._rows(), strict=True)
        return buffer, [(frozen.weight, buffer[begin:end, : self.inputs]) for frozen, (begin, end) in places]

    def _unpacked(self, views: tuple[torch.Tensor, list[tuple[Any, torch.Tensor]]]) -> torch.Tensor:
        buffer, parts = views
        for weight, place in parts:
            self.arithmetic.unpack(weight, place)
        return buffer

    def _rows(self) -> list[tuple[int, int]]:
        return spans(tuple(frozen.shape[0] for frozen in self.frozen))


def gradient_of(parameter: torch.nn.Parameter) -> torch.Tensor:
    """Return the parameter's gradient, zero where it had none."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad
