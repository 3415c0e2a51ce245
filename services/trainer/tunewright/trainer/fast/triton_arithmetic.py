# ruff: noqa: N803 - shapes stand in names
"""`Arithmetic` by the Triton kernels: what a GPU runs. Knows grids and tiles, no model.

Imported on GPUs only, as CPU builds of torch bring no Triton.
"""

from typing import Any

import torch
import triton

from tunewright.trainer.fast import kernels
from tunewright.trainer.fast.arithmetic import TorchArithmetic
from tunewright.trainer.fast.dropout import Dropout

_SMALLEST_DOT = 16
"""Triton multiplies no smaller matrices."""
_PARTS = 3
"""Adapters of one input that a kernel takes at once: Q, K and V."""
_TOGETHER = 512
"""Tokens that one program sums over: columns alone would be too few programs for a GPU."""


class TritonArithmetic(TorchArithmetic):
    """By kernels; what has no kernel of its own is plain torch. See `Arithmetic`."""

    def unpack(self, weight: Any, out: torch.Tensor) -> None:  # noqa: ANN401 - bitsandbytes ships no types
        """See `Arithmetic`."""
        state = weight.quant_state
        blocks, tile = out.shape[0] * out.shape[1] // 64, 64
        second = state.state2 if state.nested else state
        kernels.unpack[(triton.cdiv(blocks, tile),)](
            weight.data, state.absmax, second.code, second.absmax, state.offset if state.nested else state.absmax,
            state.code, out, out.stride(0), blocks, ROW_BLOCKS=out.shape[1] // 64, NESTED=state.nested, TILE=tile,
            num_warps=2,
        )  # fmt: skip

    def add_norm(
        self, x: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor, eps: float, out: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Arithmetic`."""
        rows, width = x.shape
        total = x if delta is None else torch.empty(rows, width, dtype=x.dtype, device=x.device)
        other = x if delta is None else delta
        factors = torch.empty(rows, dtype=torch.float32, device=x.device)
        tile = triton.next_power_of_2(width)
        kernels.add_norm[(rows,)](
            x, x.stride(0), other, other.stride(0), total, weight, factors, out, out.stride(0), eps, width,
            ADDS=delta is not None, TILE=tile, num_warps=_warps(tile),
        )  # fmt: skip
        return total, factors

    def norm_backward(
        self, grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, factors: torch.Tensor, into: torch.Tensor
    ) -> None:
        """See `Arithmetic`."""
        rows, width = grad.shape
        tile = triton.next_power_of_2(width)
        kernels.norm_backward[(rows,)](
            grad.contiguous(), x, x.stride(0), weight, factors, into, width, TILE=tile, num_warps=_warps(tile)
        )

    def rotate(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, out: torch.Tensor) -> None:
        """See `Arithmetic`."""
        rows, heads, width = x.shape
        kernels.rotate[(rows,)](
            x, x.stride(0), out, out.stride(0), cos, sin, heads, WIDTH=width,
            HALF=triton.next_power_of_2(width // 2), HEADS=triton.next_power_of_2(heads), num_warps=4,
        )  # fmt: skip

    def swiglu(self, gate_up: torch.Tensor, out: torch.Tensor) -> None:
        """See `Arithmetic`."""
        rows, width = len(out), out.shape[1]
        grid = (triton.cdiv(rows, 4), triton.cdiv(width, 512))
        kernels.swiglu[grid](gate_up, out, out.stride(0), rows, width, ROWS=4, TILE=512, num_warps=4)

    def swiglu_backward(self, gate_up: torch.Tensor, grad: torch.Tensor) -> None:
        """See `Arithmetic`."""
        rows, width = grad.shape
        grid = (triton.cdiv(rows, 4), triton.cdiv(width, 512))
        kernels.swiglu_backward[grid](gate_up, grad, rows, width, ROWS=4, TILE=512, num_warps=4)

    def adapter_inputs(
        self, x: torch.Tensor, down_RK: torch.Tensor, ranks: tuple[int, ...], dropout: Dropout | None,
        out: torch.Tensor,
    ) -> None:  # fmt: skip
        """See `Arithmetic`."""
        if dropout is None or not _even(ranks):
            super().adapter_inputs(x, down_RK, ranks, dropout, out)
            return
        rows, width = x.shape
        tile = 32 if rows <= 8192 else 64  # noqa: PLR2004 - fewer rows a program fill the GPU where there are few
        kernels.adapter_inputs[(triton.cdiv(rows, tile),)](
            x, x.stride(0), down_RK, out, out.stride(0), dropout.rows_T, *_keys(dropout), dropout.threshold,
            dropout.scale, rows, width, **_sizes(ranks), ROWS=tile, TILE=64, num_warps=4,
        )  # fmt: skip

    def adapter_input_gradient(
        self, grad_TR: torch.Tensor, down_RK: torch.Tensor, ranks: tuple[int, ...], dropout: Dropout | None,
        into: torch.Tensor,
    ) -> None:  # fmt: skip
        """See `Arithmetic`."""
        if dropout is None or not _even(ranks):
            super().adapter_input_gradient(grad_TR, down_RK, ranks, dropout, into)
            return
        rows, width = into.shape
        kernels.adapter_input_gradient[(triton.cdiv(rows, 64), triton.cdiv(width, 64))](
            grad_TR, down_RK, into, dropout.rows_T, *_keys(dropout), dropout.threshold, dropout.scale, rows, width,
            **_sizes(ranks), ROWS=64, TILE=64, num_warps=4,
        )  # fmt: skip

    def adapter_down_gradient(
        self, grad_TR: torch.Tensor, x: torch.Tensor, ranks: tuple[int, ...], dropout: Dropout | None,
    ) -> torch.Tensor:  # fmt: skip
        """See `Arithmetic`."""
        if dropout is None or not _even(ranks):
            return super().adapter_down_gradient(grad_TR, x, ranks, dropout)
        rows, width = x.shape
        splits = triton.cdiv(rows, _TOGETHER)
        sums = torch.empty(splits, sum(ranks), width, dtype=torch.float32, device=x.device)
        kernels.adapter_down_gradient[(triton.cdiv(width, 64), splits)](
            grad_TR, x, x.stride(0), sums, dropout.rows_T, *_keys(dropout), dropout.threshold, dropout.scale, rows,
            width, EACH=_TOGETHER, **_sizes(ranks), ROWS=64, TILE=64, num_warps=4,
        )  # fmt: skip
        return sums.sum(0)

    def cross_entropy(
        self, logits: torch.Tensor, labels: torch.Tensor, scale: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Arithmetic`."""
        rows, words = logits.shape
        losses = torch.empty(rows, dtype=torch.float32, device=logits.device)
        right = torch.empty(rows, dtype=torch.int64, device=logits.device)
        kernels.cross_entropy[(rows,)](logits, labels, losses, right, scale, words, TILE=4096, num_warps=8)
        return losses, right

    def add_to_sums(
        self, logits: torch.Tensor, labels: torch.Tensor, highest: torch.Tensor, total: torch.Tensor,
        wanted: torch.Tensor,
    ) -> None:  # fmt: skip
        """See `Arithmetic`."""
        rows, words = logits.shape
        kernels.add_to_sums[(rows,)](logits, labels, highest, total, wanted, words, TILE=2048, num_warps=8)

    def softmax_gradient(self, logits: torch.Tensor, labels: torch.Tensor, log_sum: torch.Tensor, scale: float) -> None:
        """See `Arithmetic`."""
        rows, words = logits.shape
        kernels.softmax_gradient[(rows, triton.cdiv(words, 2048))](
            logits, labels, log_sum, scale, words, TILE=2048, num_warps=8
        )


def _warps(tile: int) -> int:
    return 8 if tile >= 2048 else 4  # noqa: PLR2004 - a thread has 8 to 16 elements then


def _even(ranks: tuple[int, ...]) -> bool:
    """Return True if the kernels know these ranks: the same for each adapter."""
    return len(set(ranks)) == 1 and len(ranks) <= _PARTS


def _sizes(ranks: tuple[int, ...]) -> dict[str, int]:
    return {"RANK": ranks[0], "RANKS": max(_SMALLEST_DOT, triton.next_power_of_2(ranks[0])), "PARTS": len(ranks)}


def _keys(dropout: Dropout) -> list[int]:
    signed = [key - (1 << 32) if key >> 31 else key for key in dropout.keys]
    return [*signed, 0, 0][:_PARTS]
