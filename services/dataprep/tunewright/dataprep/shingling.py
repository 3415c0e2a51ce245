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

from tunewright.dataprep.characters import ALONE, LIMIT, SPACE, WORD, tables
from tunewright.dataprep.compiling import compiled
from tunewright.dataprep.forms import Forms, normal_forms
from tunewright.dataprep.hashing import mix, sort_set, windows
from tunewright.dataprep.parts import ASSISTANT, CHOSEN, REJECTED, SYSTEM, Parts
from tunewright.dataprep.utf8 import ASCII, character

_PRIME = np.uint64(0x9E3779B97F4A7C15)
_ANSWERS = np.zeros(16, np.bool_)
_ANSWERS[[ASSISTANT, CHOSEN, REJECTED]] = True
_LEFT_OUT = np.zeros(16, np.bool_)
_LEFT_OUT[SYSTEM] = True


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens of rows, as 64-bit hashes."""

    hashes: NDArray[np.uint64]
    ends: NDArray[np.int64]
    """n; where each row's tokens end."""
    answers: NDArray[np.bool_]
    """For each token, True if it is an answer's."""


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
    tokens = tokenise(normal_forms(parts))
    everything = np.ones(len(tokens.hashes), np.bool_)
    return Sets(
        *_sets_of(tokens.hashes, tokens.ends, everything, shingle),
        *_sets_of(tokens.hashes, tokens.ends, tokens.answers, shingle),
    )


def tokenise(forms: Forms) -> Tokens:
    """Return the tokens of rows, without those of system messages."""
    room = len(forms.data)
    hashes, answers = np.empty(room, np.uint64), np.empty(room, np.bool_)
    ends = np.empty(len(forms.parts), np.int64)
    used = _tokenise_all(
        forms.data, forms.starts, forms.ends, forms.parts.rows, forms.parts.roles, tables().kinds, hashes, answers, ends
    )
    return Tokens(hashes[:used], ends, answers[:used])


@compiled
def _tokenise_all(
    data: NDArray[np.uint8],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    rows: NDArray[np.int64],
    roles: NDArray[np.uint8],
    classes: NDArray[np.uint8],
    hashes: NDArray[np.uint64],
    answers: NDArray[np.bool_],
    token_ends: NDArray[np.int64],
) -> int:
    used = part = 0
    for row in range(len(rows)):
        while part < rows[row]:
            if not _LEFT_OUT[roles[part]]:
                before = used
                used = _tokenise_one(data, starts[part], ends[part], classes, hashes, used)
                answers[before:used] = _ANSWERS[roles[part]]
                if roles[part] == REJECTED:
                    for at in range(before, used):
                        hashes[at] = mix(hashes[at] ^ _PRIME)
            part += 1
        token_ends[row] = used
    return used


@compiled
def _tokenise_one(
    data: NDArray[np.uint8],
    start: int,
    end: int,
    classes: NDArray[np.uint8],
    hashes: NDArray[np.uint64],
    used: int,
) -> int:
    size: int
    word, in_word, at, last = np.uint64(0), False, start, np.int64(0)
    while at < end:
        byte = data[at]
        if byte < ASCII:
            point, size, kind = np.int64(byte), 1, classes[byte]
        else:
            point, size = character(data, at)
            kind = classes[point] if point < LIMIT else np.uint8(WORD | ALONE)
        at += size
        if kind & WORD and not kind & ALONE:
            word = (word ^ np.uint64(point)) * _PRIME
            in_word = True
            continue
        if in_word:
            hashes[used] = mix(word)
            used += 1
            word, in_word, last = np.uint64(0), False, np.int64(0)
        if not kind & SPACE and (kind & ALONE or point != last):
            hashes[used] = mix(np.uint64(point))
            used += 1
        last = point
    if in_word:
        hashes[used] = mix(word)
        used += 1
    return used


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
