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
    down_RK: torch.Tensor = field(init=False)
    """First halves of the adapters with their scaling, in the compute type."""
    beside_NP: torch.Tensor = field(init=False)
    """Second halves, each in its own rows and columns, and the bias: the columns beside the weights."""

    def __post_init__(self) -> None:
        outputs, inputs, columns = self.outputs, self.inputs, self.columns
        self.workspace.reserve(outputs * (inputs + columns))
        settings: Any = {"dtype": self.workspace.dtype, "device": self.workspace.device}
        self.down_RK = torch.zeros(sum(self.ranks), inputs, **settings)
        self.beside_NP = torch.zeros(outputs, columns, **settings)
        for frozen, (begin, end) in zip(self.frozen, self._rows(), strict=True):
            if frozen.bias is not None:
                self.beside_NP[begin:end, sum(self.ranks)] = frozen.bias

    @property
    def ranks(self) -> tuple[int, ...]:
        """The rank of each layer's adapter, 0 where it has none."""
        return tuple(adapter.down.shape[0] if adapter else 0 for adapter in self.adapters)

    @property
    def inputs(self) -> int:
        """K."""
        return self.frozen[0].shape[1]

    @property
    def outputs(self) -> int:
        """N of all layers together."""
        return sum(frozen.shape[0] for frozen in self.frozen)

    @property
    def columns(self) -> int:
        """P, the columns beside the weights."""
        return columns_beside(sum(self.ranks), biased=any(frozen.bias is not None for frozen in self.frozen))

    def refresh(self) -> None:
        """Take over what the optimizer made of the adapters."""
        for adapter, (row, row_end), (rank, rank_end) in self._placed():
            torch.mul(adapter.down.detach(), adapter.scaling, out=self.down_RK[rank:rank_end])
            self.beside_NP[row:row_end, rank:rank_end] = adapter.up.detach()

    def new_input(self, tokens: int) -> torch.Tensor:
        """Return room for an input [T, K + P]; the caller fills the first K columns."""
        room = torch.empty(tokens, self.inputs + self.columns, dtype=self.workspace.dtype, device=self.workspace.device)
        ranks = sum(self.ranks)
        room[:, self.inputs + ranks :] = 0
        if ranks < self.columns:
            room[:, self.inputs + ranks] = 1
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
        weights = self.workspace.take(self.outputs, self.inputs + self.columns)
        self._unpack(weights)
        weights[:, self.inputs :] = self.beside_NP
        return torch.mm(room, weights.t())

    def input_gradient(self, grad: torch.Tensor, grad_TR: torch.Tensor, dropout: Dropout | None) -> torch.Tensor:
        """Return the gradient of the input [T, K], given those of outputs and of what the first halves made."""
        weights = self.workspace.take(self.outputs, self.inputs)
        self._unpack(weights)
        back = torch.mm(grad, weights)
        if self.ranks:
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
        for adapter, (row, row_end), (rank, rank_end) in self._placed():
            gradient_of(adapter.down).add_(down[rank:rank_end], alpha=adapter.scaling)
            gradient_of(adapter.up).add_(up[row:row_end, rank:rank_end])

    def _unpack(self, weights: torch.Tensor) -> None:
        for frozen, (begin, end) in zip(self.frozen, self._rows(), strict=True):
            self.arithmetic.unpack(frozen.weight, weights[begin:end, : self.inputs])

    def _rows(self) -> list[tuple[int, int]]:
        return spans(tuple(frozen.shape[0] for frozen in self.frozen))

    def _placed(self) -> list[tuple[Adapter, tuple[int, int], tuple[int, int]]]:
        """Return the adapters with their rows and their ranks."""
        every = zip(self.adapters, self._rows(), spans(self.ranks), strict=True)
        return [(adapter, rows, ranks) for adapter, rows, ranks in every if adapter]


def gradient_of(parameter: torch.nn.Parameter) -> torch.Tensor:
    """Return the parameter's gradient, zero where it had none."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad
