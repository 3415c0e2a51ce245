# ruff: noqa: N803 - shapes stand in names
"""The parts between the matrix products, in plain torch: the meaning of the fast path, and what a CPU runs.

`kernels.py` has the same functions as Triton kernels. Sums are formed in float32 and rounded once, to the type of what
is written. Knows no model.
"""

from typing import Any, Protocol

import torch
from bitsandbytes.functional import dequantize_4bit
from torch.nn import functional

from tunewright.trainer.fast.dropout import Dropout

IGNORED = -100


class Arithmetic(Protocol):
    """What the fast path needs beside matrix products; two implementations."""

    def unpack(self, weight: Any, out: torch.Tensor) -> None:  # noqa: ANN401 - bitsandbytes ships no types
        """Write bitsandbytes' 4-bit `weight` into `out` [N, K]."""

    def add_norm(
        self, x: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor, eps: float, out: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write RMSNorm(x + delta) into `out` [T, D]; return the sum and the float32 factors [T] that normalise it."""

    def norm_backward(
        self, grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, factors: torch.Tensor, into: torch.Tensor
    ) -> None:
        """Add to `into` [T, D] the gradient of `x`, given that of its norm."""

    def rotate(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, out: torch.Tensor) -> None:
        """Write into `out` the heads `x` [T, H, d] turned by the angles [T, d]; minus `sin` turns back."""

    def swiglu(self, gate_up: torch.Tensor, out: torch.Tensor) -> None:
        """Write silu(gate) × up into `out` [T, F]; `gate_up` is [T, 2F]."""

    def swiglu_backward(self, gate_up: torch.Tensor, grad: torch.Tensor) -> None:
        """Turn `gate_up` into its gradient and `grad`, which is that of the activation, into the activation."""

    def adapter_inputs(
        self, x: torch.Tensor, down_RK: torch.Tensor, ranks: tuple[int, ...], dropout: Dropout | None, out: torch.Tensor
    ) -> None:
        """Write into `out` [T, R] what each adapter makes of its own dropped-out `x` [T, K]."""

    def adapter_input_gradient(
        self, grad_TR: torch.Tensor, down_RK: torch.Tensor, ranks: tuple[int, ...], dropout: Dropout | None,
        into: torch.Tensor,
    ) -> None:  # fmt: skip
        """Add to `into` [T, K] what comes back through the adapters."""

    def adapter_down_gradient(
        self, grad_TR: torch.Tensor, x: torch.Tensor, ranks: tuple[int, ...], dropout: Dropout | None
    ) -> torch.Tensor:
        """Return the gradient of the adapters' first halves, [R, K]."""

    def cross_entropy(
        self, logits: torch.Tensor, labels: torch.Tensor, scale: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Turn `logits` [C, V] into their gradient × `scale`; return the losses [C], float32, and which were right."""

    def add_to_sums(
        self, logits: torch.Tensor, labels: torch.Tensor, highest: torch.Tensor, total: torch.Tensor,
        wanted: torch.Tensor,
    ) -> None:  # fmt: skip
        """Take a tile of logits [C, v] into the softmax's sums, float32 [C], in place.

        `highest` is the highest logit so far, `total` the sum of exp(logit - highest), `wanted` the label's logit;
        labels outside of 0 to v - 1 lie in other tiles.
        """

    def softmax_gradient(self, logits: torch.Tensor, labels: torch.Tensor, log_sum: torch.Tensor, scale: float) -> None:
        """Turn a tile of logits [C, v] into its gradient × `scale`; labels as in `add_to_sums`."""


def product32(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return a @ b in float32 where the device forms it so, else in the type of `a`."""
    return torch.mm(a, b, out_dtype=torch.float32) if a.is_cuda and a.dtype is not torch.float32 else torch.mm(a, b)


class TorchArithmetic:
    """Plain torch, any device. See `Arithmetic`."""

    def unpack(self, weight: Any, out: torch.Tensor) -> None:  # noqa: ANN401 - bitsandbytes ships no types
        """See `Arithmetic`."""
        out.copy_(dequantize_4bit(weight.data, weight.quant_state))

    def add_norm(
        self, x: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor, eps: float, out: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Arithmetic`."""
        total = x if delta is None else x + delta
        wide = total.float()
        factors = torch.rsqrt(wide.square().mean(-1) + eps)
        torch.mul(wide * factors[:, None], weight, out=out) if out.dtype is torch.float32 else out.copy_(
            (wide * factors[:, None]).mul_(weight)
        )
        return total, factors

    def norm_backward(
        self, grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, factors: torch.Tensor, into: torch.Tensor
    ) -> None:
        """See `Arithmetic`."""
        weighted = grad.float().mul_(weight) if grad.dtype is not torch.float32 else grad * weight
        normal = x.float() * factors[:, None]
        share = (weighted * normal).mean(-1, keepdim=True)
        into.add_(weighted.sub_(normal.mul_(share)).mul_(factors[:, None]))

    def rotate(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, out: torch.Tensor) -> None:
        """See `Arithmetic`."""
        half = x.shape[-1] // 2
        left, right = x[..., :half].float(), x[..., half:].float()
        cosine, sine = cos[:, None, :half], sin[:, None, :half]
        turned = left * cosine - right * sine
        out[..., half:] = right * cosine + left * sine
        out[..., :half] = turned

    def swiglu(self, gate_up: torch.Tensor, out: torch.Tensor) -> None:
        """See `Arithmetic`."""
        gate, up = gate_up.chunk(2, dim=-1)
        out.copy_(functional.silu(gate.float()).mul_(up))

    def swiglu_backward(self, gate_up: torch.Tensor, grad: torch.Tensor) -> None:
        """See `Arithmetic`."""
        gate_out, up_out = gate_up.chunk(2, dim=-1)
        gate, up, wide = gate_out.float(), up_out.float(), grad.float()
        opened = torch.sigmoid(gate)
        active = gate * opened
        made = active * up
        gate_grad = (opened + active * (1 - opened)).mul_(up).mul_(wide)
        up_out.copy_(active.mul_(wide))
        gate_out.copy_(gate_grad)
        grad.copy_(made)

    def adapter_inputs(
        self, x: torch.Tensor, down_RK: torch.Tensor, ranks: tuple[int, ...], dropout: Dropout | None, out: torch.Tensor
    ) -> None:
        """See `Arithmetic`."""
        if dropout is None:
            out.copy_(torch.mm(x, down_RK.t()))
            return
        for part, (begin, end) in enumerate(spans(ranks)):
            if begin < end:
                kept = x * dropout.mask(part, x.shape[1])
                out[:, begin:end] = torch.mm(kept, down_RK[begin:end].t()) * dropout.scale

    def adapter_input_gradient(
        self, grad_TR: torch.Tensor, down_RK: torch.Tensor, ranks: tuple[int, ...], dropout: Dropout | None,
        into: torch.Tensor,
    ) -> None:  # fmt: skip
        """See `Arithmetic`."""
        if dropout is None:
            into.addmm_(grad_TR, down_RK)
            return
        for part, (begin, end) in enumerate(spans(ranks)):
            if begin < end:
                back = torch.mm(grad_TR[:, begin:end] * dropout.scale, down_RK[begin:end])
                into.add_(back.mul_(dropout.mask(part, into.shape[1])))

    def adapter_down_gradient(
        self, grad_TR: torch.Tensor, x: torch.Tensor, ranks: tuple[int, ...], dropout: Dropout | None
    ) -> torch.Tensor:
        """See `Arithmetic`."""
        if dropout is None:
            return product32(grad_TR.t(), x)
        pieces = [
            product32(grad_TR[:, begin:end].t(), x * dropout.mask(part, x.shape[1])) * dropout.scale
            for part, (begin, end) in enumerate(spans(ranks))
            if begin < end
        ]
        return torch.cat(pieces)

    def cross_entropy(
        self, logits: torch.Tensor, labels: torch.Tensor, scale: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Arithmetic`."""
        wide = logits.float()
        right = wide.argmax(-1) == labels
        total = torch.logsumexp(wide, -1)
        at = labels[:, None]
        losses = total - wide.gather(-1, at)[:, 0]
        gradient = torch.exp(wide.sub_(total[:, None]), out=wide)
        gradient.scatter_add_(-1, at, torch.full_like(at, -1, dtype=gradient.dtype))
        logits.copy_(gradient.mul_(scale))
        return losses, right

    def add_to_sums(
        self, logits: torch.Tensor, labels: torch.Tensor, highest: torch.Tensor, total: torch.Tensor,
        wanted: torch.Tensor,
    ) -> None:  # fmt: skip
        """See `Arithmetic`."""
        wide = logits.float()
        higher = torch.maximum(highest, wide.amax(-1))
        here, at = _within(labels, logits)
        wanted.copy_(torch.where(here, wide.gather(-1, at)[:, 0], wanted))
        sums = torch.exp(wide - higher[:, None]).sum(-1)
        total.mul_(torch.exp(highest - higher)).add_(sums)
        highest.copy_(higher)

    def softmax_gradient(self, logits: torch.Tensor, labels: torch.Tensor, log_sum: torch.Tensor, scale: float) -> None:
        """See `Arithmetic`."""
        gradient = torch.exp(logits.float() - log_sum[:, None])
        here, at = _within(labels, logits)
        gradient.scatter_add_(-1, at, -here[:, None].to(gradient.dtype))
        logits.copy_(gradient.mul_(scale))


def _within(labels: torch.Tensor, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return which labels lie in a tile, and columns [C, 1] that exist for all."""
    here = (labels >= 0) & (labels < logits.shape[1])
    return here, torch.where(here, labels, 0)[:, None]


def spans(ranks: tuple[int, ...]) -> list[tuple[int, int]]:
    """Return where the rows of each adapter begin and end."""
    ends = [sum(ranks[: part + 1]) for part in range(len(ranks))]
    return list(zip([0, *ends[:-1]], ends, strict=True))
