"""What the processes of a run agree on, by small messages beside the gradients. One process agrees with itself.

A group of its own over gloo: on GPUs these few bytes wait for no kernel, and a process that looks at a loss does not
stand in the way of NCCL. Values travel as JSON and float64, never as pickles. Knows no model and no rows.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any

import torch
from torch import distributed

PATIENCE_SECONDS = "RANK_PATIENCE_SECONDS"
"""Variable, beside RANK: how long a process waits for another before it says so."""


@dataclass(frozen=True, slots=True)
class Group:
    """The processes of this run, seen from one of them."""

    rank: int = 0
    size: int = 1
    _control: Any = None

    def sums(self, *values: float) -> list[float]:
        """Return the sum over all processes of each value."""
        if self.size == 1:
            return list(values)
        found = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(found, group=self._control)
        return [float(value) for value in found]

    def any(self, flag: bool) -> bool:  # noqa: FBT001 - the flag is the message
        """Return True if it is true for one of the processes."""
        return self.sums(float(flag))[0] > 0

    def gather(self, value: Any) -> list[Any]:  # noqa: ANN401 - any JSON
        """Return the JSON values of all processes, in the order of their ranks."""
        if self.size == 1:
            return [value]
        data = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        return [json.loads(bytes(part.tolist())) for part in self.tensors(data)]

    def tensors(self, own: torch.Tensor) -> list[torch.Tensor]:
        """Return the vectors of all processes, which may differ in length, not in type; on the CPU."""
        lengths = [0] * self.size
        lengths[self.rank] = len(own)
        lengths = [int(length) for length in self.sums(*lengths)]
        padded = torch.zeros(max(lengths), dtype=own.dtype)
        padded[: len(own)] = own
        found = [torch.empty_like(padded) for _ in range(self.size)]
        distributed.all_gather(found, padded, group=self._control)
        return [part[:length] for part, length in zip(found, lengths, strict=True)]


ALONE = Group()


def current() -> Group:
    """Return the group that this process has joined; alone if it joined none."""
    return _joined() if distributed.is_initialized() else ALONE


def join(meeting_point: str, *, cuda: bool) -> Group:
    """Meet the other processes; RANK and WORLD_SIZE tell which of how many this is, PATIENCE_SECONDS how long it waits.

    Args:
        meeting_point: URL of a store as torch.distributed takes it.
        cuda: gradients travel by NCCL.
    """
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    backend = "nccl" if cuda else "gloo"
    distributed.init_process_group(backend, init_method=meeting_point, rank=rank, world_size=size, timeout=_patience())
    return _joined()


def _patience() -> timedelta:
    return timedelta(seconds=float(os.environ[PATIENCE_SECONDS]))


@cache
def _joined() -> Group:
    control = distributed.new_group(backend="gloo", timeout=_patience())
    return Group(distributed.get_rank(), distributed.get_world_size(), control)


def average(tensors: Sequence[torch.Tensor]) -> None:
    """Replace each tensor by its mean over all processes, as few messages as there are buckets of 64 MB."""
    for bucket in _buckets(tensors):
        flat = torch.cat([tensor.flatten() for tensor in bucket])
        distributed.all_reduce(flat)
        flat /= distributed.get_world_size()
        for tensor, part in zip(bucket, torch.split(flat, [tensor.numel() for tensor in bucket]), strict=True):
            tensor.copy_(part.view_as(tensor))


def _buckets(tensors: Sequence[torch.Tensor]) -> list[list[torch.Tensor]]:
    buckets: list[list[torch.Tensor]] = []
    size = 0
    for tensor in tensors:
        if not buckets or size + tensor.nbytes > _BUCKET_BYTES or buckets[-1][0].dtype != tensor.dtype:
            buckets.append([])
            size = 0
        buckets[-1].append(tensor)
        size += tensor.nbytes
    return buckets


_BUCKET_BYTES = 64 << 20
