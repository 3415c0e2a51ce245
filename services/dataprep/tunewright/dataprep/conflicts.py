"""Finds conflicts: rows that ask the same and answer differently. Knows rows by the hashes of prompt and answer.

The prompt is all that stands before the last answer, in its normal form, system message and earlier turns included.
Nothing here can know which answer is right; who asks decides whether such rows are reported, dropped, or the worthiest
of each question kept.
"""

import numpy as np
from numpy.typing import NDArray

from tunewright.dataprep.repeats import repeated


def find(prompt: NDArray[np.uint64], answer: NDArray[np.uint64], alive: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return for each of n rows the number of the first living row of its conflict, -1 for rows in none."""
    label = np.full(len(prompt), -1, np.int64)
    rows = repeated(prompt, alive & (prompt != 0))
    order = rows[np.lexsort((rows, prompt[rows]))]
    if not len(order):
        return label
    new = np.ones(len(order), np.bool_)
    new[1:] = prompt[order[1:]] != prompt[order[:-1]]
    starts = np.flatnonzero(new)
    least, most = np.minimum.reduceat(answer[order], starts), np.maximum.reduceat(answer[order], starts)
    which = np.cumsum(new) - 1
    label[order] = np.where((least != most)[which], order[starts][which], -1)
    return label


def best_of_each(label: NDArray[np.int64], worth: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return for each row the number of the row kept in its place: of each conflict the worthiest, then the first."""
    kept = np.arange(len(label))
    rows = np.flatnonzero(label >= 0)
    order = rows[np.lexsort((rows, ~worth[rows], label[rows]))]
    if len(order):
        new = np.diff(label[order], prepend=-1) != 0
        kept[order] = order[new][np.cumsum(new) - 1]
    return kept
