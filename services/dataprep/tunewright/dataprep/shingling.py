"""Shingles: what near-duplicates have in common. Windows of k neighbouring tokens, as 64-bit hashes.

A token is a word, one character of a script that puts no spaces between words (Chinese, Japanese, Thai …), or one
symbol; so Chinese has windows of k characters, and mixed text has both. Windows run on from one message to the next,
so that a short answer counts as k tokens do. System messages are left out: they are the same in thousands of rows that
have nothing else in common. A row of fewer than k tokens is one shingle. A rejected answer's
tokens are other ones than a chosen answer's: the same pair the other way round says the opposite. Knows nothing of
sketches.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tunewright.dataprep.compiling import compiled
from tunewright.dataprep.forms import normal_forms
from tunewright.dataprep.hashing import sort_set, windows
from tunewright.dataprep.parts import Parts


@dataclass(frozen=True, slots=True)
class Sets:
    """Sets of shingles of n rows: ascending, each once."""

    whole: NDArray[np.uint64]
    whole_ends: NDArray[np.int64]
    """n; where each row's set ends in `whole`."""
    answers: NDArray[np.uint64]
    """Of the answers alone."""
    answer_ends: NDArray[np.int64]


def sets(parts: Parts, shingle: int) -> Sets:
    """Return the sets of shingles of rows; a shingle is a window of `shingle` tokens."""
    tokens = normal_forms(parts).tokens
    everything = np.ones(len(tokens.hashes), np.bool_)
    return Sets(
        *_sets_of(tokens.hashes, tokens.ends, everything, shingle),
        *_sets_of(tokens.hashes, tokens.ends, tokens.answers, shingle),
    )


@compiled
def _sets_of(
    hashes: NDArray[np.uint64], ends: NDArray[np.int64], chosen: NDArray[np.bool_], shingle: int
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Return each row's set of windows over its chosen tokens."""
    out, out_ends = np.empty(len(hashes), np.uint64), np.empty(len(ends), np.int64)
    tokens = np.empty(len(hashes), np.uint64)
    start = used = 0
    for row in range(len(ends)):
        count = 0
        for at in range(start, ends[row]):
            if chosen[at]:
                tokens[count] = hashes[at]
                count += 1
        begin = used
        used = windows(tokens, 0, count, shingle, out, used)
        used = sort_set(out, begin, used, tokens)
        out_ends[row] = used
        start = ends[row]
    return out[:used].copy(), out_ends
