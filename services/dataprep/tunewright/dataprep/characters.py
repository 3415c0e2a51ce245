"""What single characters are and become, as tables for compiled loops. Knows no text.

Unicode's own data, as Python has it. The tables reach to U+1FFFF; what lies beyond is rare (ideographs of extension B
and later) and left to Python.
"""

import unicodedata
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

LIMIT = 0x20000
"""Code points below this are in the tables."""

WORD, SPACE, CJK, FINAL, BEFORE_FINAL, BREAK, ALONE = 1, 2, 4, 8, 16, 32, 64
"""WORD: letters, digits, marks and the underscore; SPACE, BREAK: as `str.split`, `str.splitlines` see them; FINAL:
punctuation that may end a word; BEFORE_FINAL: what may stand before it; ALONE: characters of scripts that put no
spaces between words, each a token by itself."""

UNSAFE = -1
"""In `Tables.folded`: what becomes of the character depends on its neighbours, or takes more than twice its bytes."""

TYPOGRAPHIC = {"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "-"}
CJK_STOPS = "、。，；：？！"
CJK_RANGES = ((0x3040, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xAC00, 0xD7AF))
_NO_SPACES = ((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3005, 0x3007), (0xF900, 0xFAFF))
_FINAL_PUNCTUATION = ".,:;?!…"
_LINE_BREAKS = "\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
_JAMO_THAT_JOIN = (*range(0x1161, 0x1176), *range(0x11A8, 0x11C3))
_GROWTH = 2


@dataclass(frozen=True, slots=True)
class Tables:
    """One entry for each code point below `LIMIT`."""

    kinds: NDArray[np.uint8]
    """Sum of WORD, SPACE, …"""
    folded: NDArray[np.int32]
    """What NFKC and case folding make of it: one code point, or UNSAFE, or -2 - its place in `expansions`."""
    expansions: NDArray[np.int32]
    """Where a character becomes several: their number, then they themselves."""


@cache
def tables() -> Tables:
    """Return the tables; they take 0.1 s to make, once a process."""
    kinds = np.zeros(LIMIT, np.uint8)
    folded = np.arange(LIMIT, dtype=np.int32)
    expansions: list[int] = []
    joining = _joining()
    for point in range(LIMIT):
        character = chr(point)
        kinds[point] = _kind(character)
        folded[point] = _fold(character, joining, expansions)
    for first, last in CJK_RANGES:
        kinds[first : last + 1] |= CJK | ALONE
    for first, last in _NO_SPACES:
        kinds[first : last + 1] |= ALONE
    return Tables(kinds, folded, np.array([*expansions, 0], np.int32))


def _kind(character: str) -> int:
    kind = 0
    if character.isalnum() or character == "_" or unicodedata.category(character)[0] == "M":
        kind |= WORD
    if character.isspace():
        kind |= SPACE
    if character in _FINAL_PUNCTUATION:
        kind |= FINAL
    if character.isalnum() or character in "_)\"'":
        kind |= BEFORE_FINAL
    if character in _LINE_BREAKS:
        kind |= BREAK
    return kind


def _fold(character: str, joining: frozenset[str], expansions: list[int]) -> int:
    if character in TYPOGRAPHIC:
        return ord(TYPOGRAPHIC[character])
    if character in CJK_STOPS:
        return ord(" ")
    whole = unicodedata.normalize("NFKC", character)
    if any(part in joining or unicodedata.combining(part) for part in whole):
        return UNSAFE
    form = whole.casefold()
    if len(form) == 1 and form < chr(LIMIT):
        return ord(form)
    size = len(character.encode("utf-8", "surrogatepass"))
    if not form or max(form) >= chr(LIMIT) or len(form.encode("utf-8", "surrogatepass")) > _GROWTH * size:
        return UNSAFE
    expansions += [len(form), *map(ord, form)]
    return -2 - (len(expansions) - 1 - len(form))


def _joining() -> frozenset[str]:
    """Return the characters that may join what stands before them into another character."""
    second = set(map(chr, _JAMO_THAT_JOIN))
    for point in range(LIMIT):
        parts = unicodedata.decomposition(chr(point)).split()
        if len(parts) == 2 and not parts[0].startswith("<"):  # noqa: PLR2004 - a canonical pair
            second.add(chr(int(parts[1], 16)))
    return frozenset(second)
