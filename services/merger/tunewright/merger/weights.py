"""The arithmetic of a merge, on rows of one matrix: W' = W + scaling · B·A in fp32, rounded once to the base's dtype.

DoRA (https://arxiv.org/abs/2402.09353): W' = m · V / ‖V‖ with V = W + scaling · B·A, norms over each output's inputs,
as PEFT merges it. `prepare` reads what a tensor's rows have in common, `Change.apply` changes some of them in place.
Knows nothing of files to be written (`streaming.py`), nor whether the result is any good (`comparison.py`).
"""

import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch

from tunewright.chassis.errors import Refused
from tunewright.merger.headers import TensorInfo
from tunewright.merger.plan import LowRank, MergePlan, Replacement
from tunewright.merger.quantization import Quantization

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Dtypes of safetensors → of torch."""

_BLOCK_ELEMENTS = 1 << 19
"""Elements that are in fp32 at a time: 2 MiB, about what a core's cache holds."""

_local = threading.local()


def main_dtype(tensors: list[TensorInfo]) -> torch.dtype:
    """Return the dtype that most of the weights' bytes have."""
    bytes_by_dtype: dict[str, int] = {}
    for tensor in tensors:
        bytes_by_dtype[tensor.dtype] = bytes_by_dtype.get(tensor.dtype, 0) + tensor.size_bytes
    return DTYPES[max(bytes_by_dtype, key=lambda name: bytes_by_dtype[name])]


ReadRows = Callable[[TensorInfo, int, int], torch.Tensor]
"""Returns rows start to stop of a tensor as it lies in its file."""


class Change(Protocol):
    """What happens to one tensor."""

    def apply(self, rows: torch.Tensor, start: int, base: torch.Tensor | None = None) -> None:
        """Change `rows` in place, from row `start` on.

        Args:
            rows: the base's, and then the merged model's.
            start: number of the first of them.
            base: what stands for the base's rows in their place, in any dtype.

        Raises:
            Refused: the result holds NaN or infinity.
        """


def prepare(tensor: TensorInfo, plan: MergePlan, read: ReadRows) -> Change:
    """Return what happens to a tensor that the plan changes, with all that its rows have in common in memory."""
    if plan.quantization is not None and tensor.name in plan.quantized:
        return _prepare_dequantized(tensor, plan, read, plan.quantization)
    return _prepare_plain(tensor, plan, read)


def _prepare_dequantized(tensor: TensorInfo, plan: MergePlan, read: ReadRows, quantization: Quantization) -> Change:
    from tunewright.merger.dequantized import round_trip  # noqa: PLC0415 - seconds that most merges have no need of

    whole = round_trip(_whole(tensor, read), quantization, transpose=plan.quantized[tensor.name])

    def read_dequantized(other: TensorInfo, start: int, stop: int) -> torch.Tensor:
        """Return the dequantised rows where the base's are asked for."""
        return whole[start:stop] if other is tensor else read(other, start, stop)

    added = _prepare_plain(tensor, plan, read_dequantized) if tensor.name in plan.changes else None
    return _Dequantized(whole, added)


def _prepare_plain(tensor: TensorInfo, plan: MergePlan, read: ReadRows) -> Change:
    change = plan.changes[tensor.name]
    if isinstance(change, Replacement):
        return _Replaced(tensor, plan.adapter[change.name], read)
    a, b = (_whole(plan.adapter[name], read).float() for name in (change.a, change.b))
    magnitude = None if change.magnitude is None else _whole(plan.adapter[change.magnitude], read).float().flatten()
    return _Added.of(tensor, change, a, b, magnitude, read)


@dataclass(frozen=True, slots=True)
class _Replaced:
    """Rows that the adapter's own take the place of."""

    tensor: TensorInfo
    own: TensorInfo
    read: ReadRows

    def apply(self, rows: torch.Tensor, start: int, base: torch.Tensor | None = None) -> None:  # noqa: ARG002 - takes its place
        """See Change."""
        rows.copy_(self.read(self.own, start, start + len(rows)))
        _refuse_what_is_no_number(rows, self.tensor.name)


@dataclass(frozen=True, slots=True)
class _Dequantized:
    """Rows of a weight as 4 bits left it, changed further if the adapter changes them."""

    whole: torch.Tensor
    added: Change | None

    def apply(self, rows: torch.Tensor, start: int, base: torch.Tensor | None = None) -> None:  # noqa: ARG002 - is its own
        """See Change."""
        mine = self.whole[start : start + len(rows)]
        if self.added is None:
            rows.copy_(mine)
        else:
            self.added.apply(rows, start, mine)


@dataclass(frozen=True, slots=True)
class _Added:
    """Rows to which a low-rank product is added."""

    name: str
    left: torch.Tensor
    """rows × r; with the scaling in it where that costs no rounding."""
    right: torch.Tensor
    """r × columns."""
    scaling: float
    """What the product is still to be multiplied by."""
    factor: torch.Tensor | None = None
    """DoRA's m / ‖V‖: rows × 1, or 1 × columns where the base is stored transposed."""

    @classmethod
    def of(
        cls,
        tensor: TensorInfo,
        change: LowRank,
        a: torch.Tensor,
        b: torch.Tensor,
        magnitude: torch.Tensor | None,
        read: ReadRows,
    ) -> "_Added":
        """Return the change of a matrix by A (r × in), B (out × r) and for DoRA its magnitude, one figure an output."""
        left, right = (a.T.contiguous(), b.T.contiguous()) if change.transpose else (b, a)
        exact = math.frexp(change.scaling)[0] == 0.5  # noqa: PLR2004 - a power of two: multiplying by it rounds nothing
        plain = cls(tensor.name, left * change.scaling if exact else left, right, 1.0 if exact else change.scaling)
        if magnitude is None:
            return plain
        outputs_are_rows = not change.transpose
        norms = plain._norms(_blocks(tensor, read), by_row=outputs_are_rows)
        factor = (magnitude / norms).unsqueeze(1 if outputs_are_rows else 0)
        return cls(tensor.name, plain.left, plain.right, plain.scaling, factor)

    def apply(self, rows: torch.Tensor, start: int, base: torch.Tensor | None = None) -> None:
        """See Change."""
        before = rows if base is None else base
        step = max(1, _BLOCK_ELEMENTS // rows.shape[1])
        for first in range(0, len(rows), step):
            block = rows[first : first + step]
            merged = self._added(before[first : first + step], start + first)
            if self.factor is not None:
                by_row = self.factor.shape[1] == 1
                merged *= self.factor[start + first :][: len(block)] if by_row else self.factor
            if not _all_finite(merged, block.dtype):
                raise _no_number(self.name)
            block.copy_(merged)

    def _added(self, block: torch.Tensor, start: int) -> torch.Tensor:
        """Return W + scaling · B·A in fp32 for the base's rows from `start` on."""
        left = self.left[start : start + len(block)]
        if self.scaling == 1:
            return (
                block.float().addmm_(left, self.right)
                if block.dtype != torch.float32
                else block.addmm(left, self.right)
            )
        return torch.mm(left, self.right).mul_(self.scaling).add_(block)

    def _norms(self, blocks: Iterator[tuple[int, torch.Tensor]], *, by_row: bool) -> torch.Tensor:
        """Return ‖V‖ of each output, read block by block."""
        found = []
        for start, block in blocks:
            added = self._added(block, start)
            found.append(
                torch.linalg.vector_norm(added, dim=1) if by_row else added.square_().sum(0, dtype=torch.float64)
            )
        return torch.cat(found) if by_row else torch.stack(found).sum(0).sqrt_().float()


def _scratch(shape: torch.Size) -> torch.Tensor:
    """Return this thread's own fp32 memory: taken anew for each block, its pages would be cleared each time."""
    count = shape.numel()
    if getattr(_local, "scratch", None) is None or _local.scratch.numel() < count:
        _local.scratch = torch.empty(max(count, _BLOCK_ELEMENTS))
    found: torch.Tensor = _local.scratch[:count].view(shape)
    return found


def _blocks(tensor: TensorInfo, read: ReadRows) -> Iterator[tuple[int, torch.Tensor]]:
    rows, columns = tensor.shape
    step = max(1, _BLOCK_ELEMENTS // columns)
    for start in range(0, rows, step):
        yield start, read(tensor, start, min(start + step, rows))


def _whole(tensor: TensorInfo, read: ReadRows) -> torch.Tensor:
    return read(tensor, 0, tensor.shape[0] if tensor.shape else 1).reshape(tensor.shape)


def _all_finite(merged: torch.Tensor, dtype: torch.dtype) -> bool:
    """Return True if no value is NaN or becomes infinity in `dtype`; one pass where all lie well within its range."""
    low, high = (float(end) for end in torch.aminmax(merged))
    limit = torch.finfo(dtype).max
    return (-limit < low and high < limit) or bool(torch.isfinite(merged.to(dtype)).all())


def _refuse_what_is_no_number(rows: torch.Tensor, name: str) -> None:
    if not bool(torch.isfinite(rows).all()):
        raise _no_number(name)


def _no_number(name: str) -> Refused:
    return Refused(
        f"merging made NaN or infinity in {name}",
        remedy="The adapter is broken or too large for the base's dtype: look at its training loss.",
    )
