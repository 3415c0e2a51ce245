"""Finds all pairs of rows whose vectors are alike, exactly, by blocks. Knows no texts.

Two rows are alike if the cosine of their questions and the cosine of their answers both reach the threshold, and their
system messages are equal: what only asks alike, or only answers alike, is no duplicate. All pairs are compared (n² / 2
products of matrices, block by block); a pair near the threshold is computed again in a fixed order, so that every
machine decides alike.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tunewright.chassis.errors import InvalidData, InvalidSpec, Violation
from tunewright.dataprep.clusters import Pairs
from tunewright.dataprep.compiling import compiled

MOST_ROWS = 200_000
"""Rows beyond which all pairs take too long: 200,000 rows are 2·10¹⁰ pairs."""
MOST_PAIRS = 20_000_000
_BLOCK = 2048
"""Rows of a block: two matrices of 16 MB of similarities."""
_SLACK = 1e-3
"""Far more than float32 products of vectors of length 1 differ between machines."""


def find_pairs(
    questions: NDArray[np.float32],
    answers: NDArray[np.float32],
    systems: NDArray[np.uint64],
    worth: NDArray[np.uint64],
    threshold: float,
    check: Callable[[], None],
) -> Pairs:
    """Return the pairs of rows that are alike; rows go by number.

    Args:
        questions: n × width; vectors of length 1, or 0.
        answers: likewise.
        systems: n; equal where the system messages are.
        worth: n; the greater is the better of a pair, of equal ones the first.
        threshold: cosine, 0 to 1.
        check: called for each block; what it raises ends the work.

    Raises:
        InvalidSpec: there are too many rows.
        InvalidData: too many pairs are alike.
    """
    if len(worth) > MOST_ROWS:
        text = f"{len(worth):,} rows; semantic duplicates are looked for among {MOST_ROWS:,} at most"
        raise InvalidSpec(f"semantic.model: {text}", violations=[Violation("semantic.model", text)])
    found: list[Pairs] = []
    total = 0
    for first in range(0, len(worth), _BLOCK):
        for second in range(first, len(worth), _BLOCK):
            check()
            pairs = _block(questions, answers, systems, worth, threshold, first, second)
            total += len(pairs.worse)
            if total > MOST_PAIRS:
                raise InvalidData(
                    f"more than {MOST_PAIRS:,} pairs of rows are alike at a cosine of {threshold:g}",
                    remedy="Raise semantic.threshold.",
                )
            found.append(pairs)
    return Pairs(
        np.concatenate([np.zeros(0, np.int64), *(pairs.worse for pairs in found)]),
        np.concatenate([np.zeros(0, np.int64), *(pairs.better for pairs in found)]),
        np.concatenate([np.zeros(0, np.float32), *(pairs.similarity for pairs in found)]),
    )


def _block(
    questions: NDArray[np.float32],
    answers: NDArray[np.float32],
    systems: NDArray[np.uint64],
    worth: NDArray[np.uint64],
    threshold: float,
    first: int,
    second: int,
) -> Pairs:
    left, right = slice(first, first + _BLOCK), slice(second, second + _BLOCK)
    alike = answers[left] @ answers[right].T >= threshold - _SLACK
    asked = questions[left] @ questions[right].T >= threshold - _SLACK
    silent = np.logical_and.outer(~np.any(questions[left], axis=1), ~np.any(questions[right], axis=1))
    ones, others = np.nonzero(alike & (asked | silent))
    ones, others = ones + first, others + second
    ones, others = (side[(ones < others) & (systems[ones] == systems[others])] for side in (ones, others))
    likeness = np.empty(len(ones), np.float32)
    _exactly(questions, answers, ones, others, likeness)
    kept = likeness >= threshold
    ones, others, likeness = ones[kept], others[kept], likeness[kept]
    first_is_better = worth[ones] >= worth[others]
    return Pairs(
        np.where(first_is_better, others, ones).astype(np.int64),
        np.where(first_is_better, ones, others).astype(np.int64),
        np.minimum(likeness, np.float32(1)),
    )


@compiled
def _exactly(
    questions: NDArray[np.float32],
    answers: NDArray[np.float32],
    ones: NDArray[np.int64],
    others: NDArray[np.int64],
    likeness: NDArray[np.float32],
) -> None:
    """Write the lesser cosine of each pair, summed in order."""
    for at in range(len(ones)):
        one, other = ones[at], others[at]
        asked = answered = size = 0.0
        for column in range(answers.shape[1]):
            answered += np.float64(answers[one, column]) * answers[other, column]
            asked += np.float64(questions[one, column]) * questions[other, column]
            size += np.float64(questions[one, column]) * questions[one, column]
        likeness[at] = min(answered, asked) if size > 0 else answered
