"""Whatever the number of processes, a step has the rows of one process, and all go through as many passes."""

import itertools

import pytest

from tunewright.chassis.errors import InvalidSpec
from tunewright.trainer.encoding import IGNORED
from tunewright.trainer.ranks import sharing
from tunewright.trainer.ranks.group import Group
from tunewright.trainer.spec import TrainingSpec


def share(rows: int, micro_batch: int, passes: int, size: int, epoch: int = 1) -> list[list[list[int]]]:
    """Return process → its micro-batches of an epoch."""
    found = []
    for rank in range(size):
        order = sharing.order_of(range(rows), seed=7)
        batches = sharing.ShareOfSteps(order, rows, micro_batch, passes, Group(rank, size))
        batches.set_epoch(epoch)
        found.append(list(batches))
        assert len(found[-1]) == len(batches)
    return found


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("micro_batch", [1, 2, 3])
@pytest.mark.parametrize("rows", [1, 7, 8, 31, 64])
def test_each_step_has_the_rows_of_one_process(rows: int, micro_batch: int, size: int) -> None:
    passes = 12
    (alone,) = share(rows, micro_batch, passes, 1)
    several = share(rows, micro_batch, passes, size)
    assert len({len(batches) for batches in several}) == 1
    steps = [list(itertools.chain(*alone[at : at + passes])) for at in range(0, len(alone), passes)]
    own = passes // size
    for step, wanted in enumerate(steps):
        found = [row for batches in several for batch in batches[step * own : (step + 1) * own] for row in batch]
        assert sorted(row for row in found if row != rows) == sorted(wanted)


def test_another_epoch_has_another_order() -> None:
    assert share(31, 2, 4, 2, epoch=1) != share(31, 2, 4, 2, epoch=2)


@pytest.mark.parametrize(("rows", "batch", "size"), list(itertools.product([1, 5, 8, 17], [1, 2, 4], [2, 3])))
def test_an_evaluation_sees_each_row_once_in_equally_many_batches(rows: int, batch: int, size: int) -> None:
    shares = [list(sharing.ShareOfEvaluation(rows, batch, Group(rank, size))) for rank in range(size)]
    assert len({len(batches) for batches in shares}) == 1
    assert sorted(row for batches in shares for each in batches for row in each if row != rows) == list(range(rows))


def test_a_blank_has_nothing_that_counts() -> None:
    rows = sharing.WithBlank([{"input_ids": [1, 2], "labels": [IGNORED, 2]}])
    assert rows[1] == {"input_ids": [1, 2], "labels": [IGNORED, IGNORED]}
    pairs = sharing.WithBlank([{"prompt_ids": [1], "chosen_ids": [2], "rejected_ids": [3]}])
    assert pairs[1] == {"prompt_ids": [1], "chosen_ids": [], "rejected_ids": []}


@pytest.mark.parametrize(
    ("rows", "passes", "processes", "found"),
    [(2, 8, 2, (2, 8)), (4, 1, 2, (2, 2)), (3, 4, 4, (3, 4)), (8, 3, 3, (8, 3)), (4, 3, 4, (3, 4)), (8, 1, 8, (1, 8))],
)
def test_micro_batches_shrink_where_they_must_and_the_effective_batch_stays(
    rows: int, passes: int, processes: int, found: tuple[int, int]
) -> None:
    spec = TrainingSpec(per_device_train_batch_size=rows, gradient_accumulation_steps=passes)
    shared = sharing.shared(spec, processes)
    assert (shared.per_device_train_batch_size, shared.gradient_accumulation_steps) == found
    assert shared.batch_rows == spec.batch_rows
    assert shared.gradient_accumulation_steps % processes == 0


def test_a_batch_that_does_not_divide_is_refused_with_both_numbers() -> None:
    spec = TrainingSpec(per_device_train_batch_size=2, gradient_accumulation_steps=5)
    with pytest.raises(InvalidSpec, match=r"4 processes cannot share an effective batch of 10 rows") as caught:
        sharing.shared(spec, 4)
    assert "gradient_accumulation_steps" in caught.value.remedy
