"""n-grams of texts as 64-bit hashes: n words in a row, in scripts without spaces between words 2·n characters.

Letters are case-folded and made narrow, punctuation and spacing do not count; an apostrophe parts no word. One word
weighs as two characters of Chinese and its like (the ratio by which MassiveText's limits are carried over, see
`measuring.py`): an n-gram is the shortest run of tokens from its first one on that weighs n words, so mixed text has
n-grams too. They do not run over the end of a message. Knows nothing of test sets.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tunewright.dataprep.characters import ALONE, LIMIT, WORD, Tables
from tunewright.dataprep.compiling import compiled
from tunewright.dataprep.hashing import mix
from tunewright.dataprep.utf8 import ASCII, character

WORD_WEIGHT, CHARACTER_WEIGHT = 2, 1
SHORT_QUESTION = 5
"""Words; an equal question of fewer says nothing by itself ("Who are you?"), only with an equal answer."""
QUESTION_SALT, PAIR_SALT = np.uint64(1), np.uint64(2)

_PRIME = np.uint64(0x9E3779B97F4A7C15)
_BASE = np.uint64(0xD6E8FEB86659FD93)
_APOSTROPHE = 0x27


class Buffers(NamedTuple):
    """Room for the tokens of the longest text, used again for each."""

    sums: NDArray[np.uint64]
    """Polynomial hash of the first k tokens, k from 0."""
    weights: NDArray[np.int64]
    """Weight of the first k tokens."""
    starts: NDArray[np.int64]
    """Byte at which each token begins."""
    ends: NDArray[np.int64]
    powers: NDArray[np.uint64]
    """Powers of the polynomial's base, up to the most tokens in an n-gram."""


class Characters(NamedTuple):
    """The tables of `characters.py` that tokens are made by."""

    kinds: NDArray[np.uint8]
    folded: NDArray[np.int32]
    expansions: NDArray[np.int32]

    @classmethod
    def of(cls, tables: Tables) -> "Characters":
        """Return them."""
        return cls(tables.kinds, tables.folded, tables.expansions)


def buffers(longest: int, ngram: int) -> Buffers:
    """Return room for texts of up to `longest` bytes."""
    powers = np.cumprod(np.append(np.uint64(1), np.full(ngram * WORD_WEIGHT + 1, _BASE)))
    room = longest + 2
    return Buffers(
        np.zeros(room, np.uint64), np.zeros(room, np.int64), np.zeros(room, np.int64), np.zeros(room, np.int64), powers
    )


@compiled
def tokenise(  # noqa: C901, PLR0912 - one pass over the characters
    data: NDArray[np.uint8], start: int, end: int, characters: Characters, into: Buffers
) -> int:
    """Write sums, weights and places of a text's tokens; return their number."""
    count, word, in_word, at, began = 0, np.uint64(0), False, start, start
    size: int
    number: int | np.int64
    where: int | np.int64
    while at < end:
        here = at
        if data[at] < ASCII:
            point, size = np.int64(data[at]), 1
        else:
            point, size = character(data, at)
        at += size
        new, number, where = point, 1, 0
        if point < LIMIT:
            new = np.int64(characters.folded[point])
            if new < -1:
                where = -2 - new
                number = np.int64(characters.expansions[where])
            elif new < 0:
                new = point
        for index in range(number):
            if number > 1:
                new = np.int64(characters.expansions[where + 1 + index])
            kind = characters.kinds[new] if new < LIMIT else np.uint8(WORD | ALONE)
            alone = (kind & ALONE) != 0 and (kind & WORD) != 0
            if (kind & WORD) and not alone:
                if not in_word:
                    word, in_word, began = np.uint64(0), True, here
                word = (word ^ np.uint64(new)) * _PRIME
                continue
            if new == _APOSTROPHE and in_word:
                continue
            if in_word:
                count = _add(into, count, mix(word), WORD_WEIGHT, began, here)
                in_word = False
            if alone:
                count = _add(into, count, mix(np.uint64(new)), CHARACTER_WEIGHT, here, at)
    if in_word:
        count = _add(into, count, mix(word), WORD_WEIGHT, began, end)
    return count


@compiled
def _add(into: Buffers, count: int, token: np.uint64, weight: int, start: int, end: int) -> int:
    into.sums[count + 1] = into.sums[count] * _BASE + token
    into.weights[count + 1] = into.weights[count] + weight
    into.starts[count], into.ends[count] = start, end
    return count + 1


@compiled
def grams(count: int, ngram: int, room: Buffers, out: NDArray[np.uint64], used: int) -> int:
    """Write the n-grams of a tokenised text behind the first `used`; return how many there are then."""
    last, heavy = 0, ngram * WORD_WEIGHT
    for first in range(count):
        while last < count and room.weights[last] - room.weights[first] < heavy:
            last += 1
        if room.weights[last] - room.weights[first] < heavy:
            break
        out[used] = mix(room.sums[last] - room.sums[first] * room.powers[last - first])
        used += 1
    return used


@compiled
def whole(count: int, room: Buffers) -> np.uint64:
    """Return the hash of all tokens of a text."""
    return mix(room.sums[count] ^ np.uint64(count))


@compiled
def is_short(count: int, room: Buffers) -> bool:
    """Return True if a question is too short to say anything by itself."""
    return bool(room.weights[count] < SHORT_QUESTION * WORD_WEIGHT)


@compiled
def question_key(question: np.uint64) -> np.uint64:
    """Return the key under which a whole question is looked up."""
    return mix(question ^ QUESTION_SALT)


@compiled
def pair_key(question: np.uint64, answer: np.uint64) -> np.uint64:
    """Return the key under which a short question with its answer is looked up."""
    return mix(question * _PRIME + (answer ^ PAIR_SALT))
