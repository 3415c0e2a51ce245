"""Which rows of an optimizer step are whose. A step's rows, and their order, are those of one process.

A step takes `batch_rows` rows of the epoch's order, in micro-batches; micro-batch n goes to process n modulo their
number. Where an epoch ends within a round, the others get a blank: one row of which nothing counts, so that all go
through as many passes. No row is seen twice, none is left out. Knows no model.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

from accelerate.data_loader import SeedableRandomSampler
from torch.utils.data import BatchSampler, DataLoader, Dataset

from tunewright.chassis.errors import InvalidSpec, Violation
from tunewright.trainer.encoding import IGNORED
from tunewright.trainer.ranks.group import Group
from tunewright.trainer.spec import TrainingSpec

Row = dict[str, list[int]]


def shared(spec: TrainingSpec, processes: int) -> TrainingSpec:
    """Return the spec with micro-batches that so many processes can share evenly; the effective batch stays.

    Its gradient_accumulation_steps are those of all processes together.

    Raises:
        InvalidSpec: the effective batch is no multiple of the processes.
    """
    if spec.batch_rows % processes:
        why = (
            f"{processes} processes cannot share an effective batch of {spec.batch_rows} rows evenly "
            f"(per_device_train_batch_size {spec.per_device_train_batch_size} × gradient_accumulation_steps "
            f"{spec.gradient_accumulation_steps})"
        )
        raise InvalidSpec(
            f"processes: {why}",
            remedy="Set gradient_accumulation_steps to a multiple of processes, or processes to 0 (all GPUs that fit).",
            violations=[Violation("processes", why)],
        )
    own = spec.batch_rows // processes
    rows = next(rows for rows in range(min(spec.per_device_train_batch_size, own), 0, -1) if own % rows == 0)
    settings = {"per_device_train_batch_size": rows, "gradient_accumulation_steps": spec.batch_rows // rows}
    return spec.model_copy(update=settings)


class ShareOfSteps(BatchSampler):
    """Yields the micro-batches of one process: numbers of rows, or of the blank.

    Args:
        order: yields the numbers of all rows, anew each epoch.
        rows: how many there are; the blank has the number after the last.
        micro_batch: rows of one pass.
        passes: of one optimizer step, of all processes together.
        group: this process among all.
    """

    def __init__(self, order: SeedableRandomSampler, rows: int, micro_batch: int, passes: int, group: Group) -> None:
        self._order = order
        self._rows = rows
        self._micro_batch = micro_batch
        self._passes = passes
        self._group = group

    def __iter__(self) -> Iterator[list[int]]:
        """Yield an epoch's micro-batches."""
        order = list(self._order)
        batches = [order[at : at + self._micro_batch] for at in range(0, len(order), self._micro_batch)]
        for begin in range(0, len(batches), self._passes):
            step = batches[begin : begin + self._passes]
            for number in range(self._group.rank, _rounds(len(step), self._group) * self._group.size, self._group.size):
                yield step[number] if number < len(step) else [self._rows]

    def __len__(self) -> int:
        """Return the micro-batches of an epoch."""
        batches = math.ceil(self._rows / self._micro_batch)
        whole, rest = divmod(batches, self._passes)
        return whole * _rounds(self._passes, self._group) + _rounds(rest, self._group)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch."""
        self._order.set_epoch(epoch)


class ShareOfEvaluation(BatchSampler):
    """Yields every n-th row in batches, then blanks until all processes have had as many batches.

    Args:
        rows: how many there are; the blank has the number after the last.
        batch: rows of one pass.
        group: this process among all.
    """

    def __init__(self, rows: int, batch: int, group: Group) -> None:
        self._own = list(range(group.rank, rows, group.size))
        self._batch = batch
        self._blank = rows
        self._batches = math.ceil(math.ceil(rows / group.size) / batch)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the batches."""
        for number in range(self._batches):
            yield self._own[number * self._batch : (number + 1) * self._batch] or [self._blank]

    def __len__(self) -> int:
        """Return how many there are."""
        return self._batches


class WithBlank(Dataset[Row]):
    """The rows, and after the last one a blank: the first row with nothing in it that counts."""

    def __init__(self, rows: Any) -> None:  # noqa: ANN401 - datasets ships no types
        self._rows = rows

    def __len__(self) -> int:
        """Return how many rows there are, the blank not counted."""
        return len(self._rows)

    def __getitem__(self, number: int) -> Row:
        """Return a row, or the blank."""
        return blank(self._rows[0]) if number == len(self._rows) else self._rows[number]


def blank(row: Row) -> Row:
    """Return the row with nothing that counts: labels ignored, or answers empty."""
    empty: dict[str, Callable[[list[int]], list[int]]] = {
        "labels": lambda ids: [IGNORED] * len(ids),
        "chosen_ids": lambda _: [],
        "rejected_ids": lambda _: [],
    }
    return {name: empty[name](value) if name in empty else value for name, value in row.items()}


class Loader(DataLoader[Row]):
    """A loader whose order transformers can set by the epoch."""

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch."""
        if isinstance(self.batch_sampler, ShareOfSteps):
            self.batch_sampler.set_epoch(epoch)


def order_of(rows: Any, seed: int) -> SeedableRandomSampler:  # noqa: ANN401
    """Return the order in which a run alone takes the rows: accelerate's."""
    return SeedableRandomSampler(rows, data_seed=seed)


def _rounds(passes: int, group: Group) -> int:
    return math.ceil(passes / group.size)
