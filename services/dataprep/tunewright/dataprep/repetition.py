"""Tells answers that repeat themselves: loops of a broken model, lists pasted twice.

Thresholds are those of MassiveText (Rae et al. 2021, "Scaling Language Models: Methods, Analysis & Insights from Training
Gopher", table A1): the share of characters in the most frequent n-gram of 2, 3 and 4 words (0.20, 0.18, 0.16), in repeated
n-grams of 5 to 10 words (0.15 to 0.10), and the share of repeated lines (0.30). A word of Chinese, Japanese or Korean
is taken as two characters. As there, n-grams count in texts of fifty words or more. Those limits were made for web pages;
an answer of fewer than three hundred words has its subject's name in it again and again, so there they are doubled (of
4,963 answers of the AWS documentation the undoubled ones drop 142). In shorter ones, from twenty units on, fewer than
one different unit in five is a loop. Lines count from six on. Knows nothing of rows.
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
_LINES_SHARE = 0.30
_SHORT_WORDS, _SHORT_ALLOWANCE = 300, 2
_WORDS, _LINES, _LOOP_UNITS, _LOOP_SHARE = 50, 6, 20, 0.2

_COLUMNS = np.array([column for column, _ in LIMITS.values()])
_SHARES = np.array([share for _, share in LIMITS.values()], np.float32)


def excess(measures: m.Measures) -> npt.NDArray[Any]:
    """Return for each text the largest of its shares over their limits; above 1 it repeats itself."""
    long = _words(measures) >= _WORDS
    ratios = (measures[:, _COLUMNS] / _SHARES).max(axis=1, initial=0) * long / _allowance(measures)
    lines = measures[:, m.DUPLICATE_LINES] / np.maximum(measures[:, m.LINES], 1) / _LINES_SHARE
    distinct = measures[:, m.DISTINCT] / np.maximum(measures[:, m.UNITS], 1)
    loop = (measures[:, m.UNITS] >= _LOOP_UNITS) * ~long * _LOOP_SHARE / np.maximum(distinct, 1e-3)
    worst: npt.NDArray[Any] = np.maximum.reduce([ratios, lines * (measures[:, m.LINES] >= _LINES), loop])
    return worst


def words(measures: m.Measures) -> str:
    """Return in words which limit one text (its row of measures) is above, and by what."""
    whole = measures[None, :]
    if _words(whole)[0] >= _WORDS:
        allowance = float(_allowance(whole)[0])
        for name, (column, usual) in LIMITS.items():
            if measures[column] > (limit := usual * allowance):
                return f"{name} take {measures[column]:.0%} of the text; {limit:.0%} is the limit"
    if measures[m.LINES] >= _LINES and measures[m.DUPLICATE_LINES] > _LINES_SHARE * measures[m.LINES]:
        return f"{measures[m.DUPLICATE_LINES]:.0f} of {measures[m.LINES]:.0f} lines repeat an earlier one"
    return f"{measures[m.UNITS]:.0f} words, only {measures[m.DISTINCT]:.0f} different ones"


def _allowance(measures: m.Measures) -> npt.NDArray[np.float64]:
    return np.where(_words(measures) < _SHORT_WORDS, _SHORT_ALLOWANCE, 1.0)


def _words(measures: m.Measures) -> npt.NDArray[Any]:
    counted: npt.NDArray[Any] = measures[:, m.UNITS] - measures[:, m.WIDE_UNITS] / 2
    return counted
