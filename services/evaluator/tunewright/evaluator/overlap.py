"""How near a free answer is to the written one: exact match, token F1, ROUGE-L. Own formulas, stated; no library.

Tokens are lower-cased runs of letters and digits; Chinese, Japanese and Korean characters count one by one, since those
texts have no spaces. Knows nothing of models.
"""

import re
from collections import Counter
from dataclasses import dataclass

_TOKEN = re.compile(r"[぀-ヿ㐀-䶿一-鿿豈-﫿가-힯]|[^\W_぀-ヿ㐀-䶿一-鿿豈-﫿가-힯]+")


@dataclass(frozen=True, slots=True)
class Overlap:
    """All from 0 to 1."""

    exact_match: float
    """1 if both are equal but for white space."""
    token_f1: float
    """Harmonic mean of precision and recall over tokens as a bag, as SQuAD counts it."""
    rouge_l: float
    """The same over the longest common subsequence (Lin 2004, F with beta 1)."""


def overlap(answer: str, reference: str) -> Overlap:
    """Compare an answer with the reference."""
    exact = float(" ".join(answer.split()) == " ".join(reference.split()))
    mine, theirs = tokens(answer), tokens(reference)
    if not mine or not theirs:
        same = float(not mine and not theirs and exact)
        return Overlap(exact, same, same)
    shared = sum((Counter(mine) & Counter(theirs)).values())
    longest = _longest_common_subsequence(mine, theirs)
    return Overlap(exact, _f1(shared, len(mine), len(theirs)), _f1(longest, len(mine), len(theirs)))


def tokens(text: str) -> list[str]:
    """Return the tokens of a text."""
    return _TOKEN.findall(text.lower())


def _f1(shared: int, mine: int, theirs: int) -> float:
    return 2 * shared / (mine + theirs)


def _longest_common_subsequence(mine: list[str], theirs: list[str]) -> int:
    previous = [0] * (len(theirs) + 1)
    for token in mine:
        current = [0]
        for place, other in enumerate(theirs):
            current.append(previous[place] + 1 if token == other else max(previous[place + 1], current[place]))
        previous = current
    return previous[-1]
