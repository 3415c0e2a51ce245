"""Tells answers that repeat themselves: loops of a broken model, passages pasted twice.

A loop is told by what it is: passages that stand three times or more one right after the other, a fifth of the text.
Of the 20,014 answers of the AWS documentation no more than 17 % of any does, of planted loops at least 44 %.

What is repeated elsewhere is told by the shares of MassiveText (Rae et al. 2021, "Scaling Language Models: Methods,
Analysis & Insights from Training Gopher", table A1): of characters in the most frequent n-gram of 2, 3 and 4 words (0.20,
0.18, 0.16) and in repeated n-grams of 5 to 10 words (0.15 to 0.10). A word of Chinese, Japanese or Korean is taken as two
characters; n-grams count in texts of fifty words or more. Those limits were made for web pages. An answer names its
subject again and again and describes the members of a list in the same words, so here they are three times as high: the
plain ones dropped 0.5 % of that documentation although they were doubled below three hundred words, and all but one of
those answers were good. A text of which half is pasted twice is beyond them. In shorter ones, from twenty units on, fewer
than one different unit in five is a loop. Lines (0.30 repeated) count from six on. Knows nothing of rows.
"""

# ruff: noqa: E501 - tables and patterns, and Chinese characters, which count twice

from typing import Any

import numpy as np
import numpy.typing as npt

from tunewright.dataprep import measuring as m

LIMITS = {
    "the most frequent two words": (m.TOP_2, 0.20),
    "the most frequent three words": (m.TOP_3, 0.18),
    "the most frequent four words": (m.TOP_4, 0.16),
    "repeated sequences of five words": (m.DUPLICATE_5, 0.15),
    "repeated sequences of six words": (m.DUPLICATE_6, 0.14),
    "repeated sequences of seven words": (m.DUPLICATE_6 + 1, 0.13),
    "repeated sequences of eight words": (m.DUPLICATE_6 + 2, 0.12),
    "repeated sequences of nine words": (m.DUPLICATE_6 + 3, 0.11),
    "repeated sequences of ten words": (m.DUPLICATE_6 + 4, 0.10),
}
"""What repeats → its column in the measures, and the share of characters above which a text repeats itself."""
_ALLOWANCE = 3
_IN_A_ROW_SHARE = 0.20
_LINES_SHARE = 0.30
_WORDS, _LINES, _LOOP_UNITS, _LOOP_SHARE = 50, 6, 20, 0.2

_COLUMNS = np.array([column for column, _ in LIMITS.values()])
_SHARES = np.array([share for _, share in LIMITS.values()], np.float32)


def excess(measures: m.Measures) -> npt.NDArray[Any]:
    """Return for each text the largest of its shares over their limits; above 1 it repeats itself."""
    long = _words(measures) >= _WORDS
    ratios = (measures[:, _COLUMNS] / _SHARES).max(axis=1, initial=0) * long / _ALLOWANCE
    in_a_row = measures[:, m.IN_A_ROW] * long / _IN_A_ROW_SHARE
    lines = measures[:, m.DUPLICATE_LINES] / np.maximum(measures[:, m.LINES], 1) / _LINES_SHARE
    distinct = measures[:, m.DISTINCT] / np.maximum(measures[:, m.UNITS], 1)
    loop = (measures[:, m.UNITS] >= _LOOP_UNITS) * ~long * _LOOP_SHARE / np.maximum(distinct, 1e-3)
    worst: npt.NDArray[Any] = np.maximum.reduce([ratios, in_a_row, lines * (measures[:, m.LINES] >= _LINES), loop])
    return worst


def words(measures: m.Measures) -> str:
    """Return in words which limit one text (its row of measures) is above, and by what."""
    if _words(measures[None, :])[0] >= _WORDS:
        if (share := measures[m.IN_A_ROW]) > _IN_A_ROW_SHARE:
            return f"passages that stand three times or more in a row take {share:.0%} of the text"
        for name, (column, usual) in LIMITS.items():
            if measures[column] > (limit := usual * _ALLOWANCE):
                return f"{name} take {measures[column]:.0%} of the text; {limit:.0%} is the limit"
    if measures[m.LINES] >= _LINES and measures[m.DUPLICATE_LINES] > _LINES_SHARE * measures[m.LINES]:
        return f"{measures[m.DUPLICATE_LINES]:.0f} of {measures[m.LINES]:.0f} lines repeat an earlier one"
    return f"{measures[m.UNITS]:.0f} words, only {measures[m.DISTINCT]:.0f} different ones"


def _words(measures: m.Measures) -> npt.NDArray[Any]:
    counted: npt.NDArray[Any] = measures[:, m.UNITS] - measures[:, m.WIDE_UNITS] / 2
    return counted
