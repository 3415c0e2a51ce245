"""A score of an answer's form, 0 to 1: cheap, deterministic, no model. It says nothing of whether the answer is right.

The score is the product of six factors, each 1 in the range of ordinary texts and falling on a straight line to its
lowest value outside. The ranges of the first three are those of Gopher's quality rules (Rae et al. 2021, appendix A.1):

| factor | 1 while | lowest | at |
|---|---|---|---|
| letters among visible characters, fenced code left out (from 20 characters) | ≥ 0.6 | 0.2 | 0.2 |
| mean length of words of an alphabet (from 20 words) | 3 to 10 characters | 0.2 | 1.5 and 20 |
| `#` and ellipses per word (from 20 words) | ≤ 0.1 | 0.2 | 0.5 |
| repetition: the largest share over its limit (`repetition.py`) | ≤ 0.7 | 0.1 | 1.5 |
| capitals among letters (from 40 letters) | ≤ 0.4 | 0.3 | 0.9 |
| broken characters (U+FFFD) | none | 0.3 | any |

An answer of thirty words or more that stops in the middle of a sentence loses a fifth. A row has the score of its
worst answer. Knows nothing of rows.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tunewright.dataprep import measuring as m
from tunewright.dataprep.repetition import excess

Scores = npt.NDArray[np.float32]
_BREAKS_OFF, _BROKEN = 0.8, 0.3
_LEAST_CHARS, _LEAST_WORDS, _LEAST_LETTERS, _LEAST_UNITS = 20, 20, 40, 30


def score(measures: m.Measures) -> Scores:
    """Return the score of each text, 0 to 1."""
    visible, letters, units = measures[:, m.VISIBLE], measures[:, m.LETTERS], measures[:, m.UNITS]
    words = units - measures[:, m.WIDE_UNITS]
    length = measures[:, m.WORD_CHARS] / np.maximum(words, 1)
    factors = (
        _line(letters / np.maximum(visible, 1), (0.2, 0.6), (0.2, 1), visible >= _LEAST_CHARS),
        _line(length, (1.5, 3, 10, 20), (0.2, 1, 1, 0.2), words >= _LEAST_WORDS),
        _line(measures[:, m.SYMBOLS] / np.maximum(units, 1), (0.1, 0.5), (1, 0.2), units >= _LEAST_WORDS),
        _line(excess(measures), (0.7, 1.5), (1, 0.1), units >= 0),
        _line(measures[:, m.CAPITALS] / np.maximum(letters, 1), (0.4, 0.9), (1, 0.3), letters >= _LEAST_LETTERS),
        np.where(measures[:, m.REPLACEMENTS] > 0, _BROKEN, 1),
        np.where((units >= _LEAST_UNITS) & (measures[:, m.ENDS_WELL] == 0), _BREAKS_OFF, 1),
    )
    product: Scores = np.prod(factors, axis=0).astype(np.float32)
    return product


def _line(
    values: npt.NDArray[Any], places: Sequence[float], heights: Sequence[float], counts: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    """Return the height at each value on the line through the given points, and 1 for texts too short to count."""
    return np.where(counts, np.interp(values, places, heights), 1.0)
