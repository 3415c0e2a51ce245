"""Finds rows that hold parts of a test set: runs of tokens that stand in both, word for word in their normal form.

A run is `ngram` tokens, or `ngram_characters` where most of the first are characters of scripts without spaces between
words (Brown et al. 2020, appendix C, took 13 words). A run that stands in more than MOST_ENTRIES entries of a test set
is its template and does not count. A test set's part of fewer tokens than a run counts whole, from FEWEST_TOKENS on, if
a row's part says no more and no less. System messages are left out. Knows no files.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tunewright.dataprep.characters import ALONE, LIMIT, SPACE, WORD, tables
from tunewright.dataprep.compiling import compiled
from tunewright.dataprep.forms import Forms, normal_forms
from tunewright.dataprep.hashing import mix
from tunewright.dataprep.parts import SYSTEM, Parts
from tunewright.dataprep.spec import Contamination
from tunewright.dataprep.utf8 import character

MOST_ENTRIES = 10
"""Entries of one test set beyond which a run is taken for its template, as in Brown et al. 2020."""

FEWEST_TOKENS = 5
"""Tokens of the shortest part that counts whole."""

_BASE = np.uint64(0xD6E8FEB86659FD93)
_PRIME = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True)
class Index:
    """Runs of all test sets, ascending by hash."""

    hashes: NDArray[np.uint64]
    tests: NDArray[np.int32]
    """Number of the test set in `names` of each run."""
    entries: NDArray[np.int64]
    """Number of the first entry of that set that holds the run."""
    names: tuple[str, ...]
    ngram: int
    ngram_characters: int


@dataclass(frozen=True, slots=True)
class Overlap:
    """What a row has in common with a test set."""

    row: int
    """Number of the row in its block."""
    test: str
    """Name of the test set."""
    entry: int
    """Number of the entry in it, from 0."""
    ngram: str
    """The first run found, in normal form."""
    share: float
    """Share of the row's runs that stand in a test set, 0 to 1."""


@dataclass(frozen=True, slots=True)
class _Runs:
    hashes: NDArray[np.uint64]
    rows: NDArray[np.int64]
    starts: NDArray[np.int64]
    """Byte of the forms where each run begins."""
    ends: NDArray[np.int64]


def build(tests: Mapping[str, Iterable[Parts]], spec: Contamination) -> Index:
    """Return the runs of the test sets: name → its rows, in pieces of any size."""
    hashes, numbers, entries = [np.empty(0, np.uint64)], [np.empty(0, np.int32)], [np.empty(0, np.int64)]
    for number, pieces in enumerate(tests.values()):
        own = _of_one_test(pieces, spec)
        hashes.append(own[0])
        entries.append(own[1])
        numbers.append(np.full(len(own[0]), number, np.int32))
    joined, test, entry = np.concatenate(hashes), np.concatenate(numbers), np.concatenate(entries)
    order = np.lexsort((test, joined))
    return Index(joined[order], test[order], entry[order], tuple(tests), spec.ngram, spec.ngram_characters)


def check(parts: Parts, index: Index) -> list[Overlap]:
    """Return the rows of a block that hold a run of a test set, each once, in their order."""
    if not len(index.hashes):
        return []
    forms = normal_forms(parts)
    runs = _runs(forms, index.ngram, index.ngram_characters)
    place = np.minimum(np.searchsorted(index.hashes, runs.hashes), len(index.hashes) - 1)
    found = np.flatnonzero(index.hashes[place] == runs.hashes)
    return list(_overlaps(forms, runs, found, place, index))


def _overlaps(
    forms: Forms, runs: _Runs, found: NDArray[np.int64], place: NDArray[np.int64], index: Index
) -> Iterator[Overlap]:
    total = np.bincount(runs.rows, minlength=len(forms.parts))
    hits = np.bincount(runs.rows[found], minlength=len(forms.parts))
    rows, firsts = np.unique(runs.rows[found], return_index=True)
    for row, first in zip(rows.tolist(), found[firsts].tolist(), strict=True):
        where = int(place[first])
        text = forms.data[runs.starts[first] : runs.ends[first]].tobytes().decode("utf-8", "replace")
        name = index.names[int(index.tests[where])]
        yield Overlap(row, name, int(index.entries[where]), text.strip(), float(hits[row] / total[row]))


def _of_one_test(pieces: Iterable[Parts], spec: Contamination) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Return the runs of one test set that are not its template, and the first entry of each."""
    hashes, entries, before = [np.empty(0, np.uint64)], [np.empty(0, np.int64)], 0
    for parts in pieces:
        runs = _runs(normal_forms(parts), spec.ngram, spec.ngram_characters)
        hashes.append(runs.hashes)
        entries.append(runs.rows + before)
        before += len(parts)
    joined = np.stack([np.concatenate(hashes), np.concatenate(entries).astype(np.uint64)], axis=1)
    once = np.unique(joined, axis=0)
    keys, firsts, counts = np.unique(once[:, 0], return_index=True, return_counts=True)
    rare = counts <= MOST_ENTRIES
    return keys[rare], once[firsts[rare], 1].astype(np.int64)


def _runs(forms: Forms, ngram: int, ngram_characters: int) -> _Runs:
    room = len(forms.data) + 1
    hashes, rows = np.empty(room, np.uint64), np.empty(room, np.int64)
    starts, ends = np.empty(room, np.int64), np.empty(room, np.int64)
    used = _runs_of_all(
        forms.data, forms.starts, forms.ends, forms.parts.rows, forms.parts.roles, tables().kinds, ngram,
        ngram_characters, hashes, rows, starts, ends,
    )  # fmt: skip
    return _Runs(hashes[:used], rows[:used], starts[:used], ends[:used])


@compiled
def _runs_of_all(
    data: NDArray[np.uint8],
    part_starts: NDArray[np.int64],
    part_ends: NDArray[np.int64],
    row_ends: NDArray[np.int64],
    roles: NDArray[np.uint8],
    classes: NDArray[np.uint8],
    ngram: int,
    ngram_characters: int,
    hashes: NDArray[np.uint64],
    rows: NDArray[np.int64],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
) -> int:
    room = len(data) + 1
    token, token_start, token_end = np.empty(room, np.uint64), np.empty(room, np.int64), np.empty(room, np.int64)
    alone = np.empty(room, np.bool_)
    used = part = 0
    for row in range(len(row_ends)):
        while part < row_ends[row]:
            if roles[part] != SYSTEM:
                count = _tokens(data, part_starts[part], part_ends[part], classes, token, token_start, token_end, alone)
                first = 0
                while first < count:
                    size = _run_length(alone, first, count, ngram, ngram_characters)
                    if size == 0:
                        break
                    value = np.uint64(size)
                    for at in range(first, first + size):
                        value = value * _BASE + token[at]
                    hashes[used], rows[used] = mix(value), row
                    starts[used], ends[used] = token_start[first], token_end[first + size - 1]
                    used += 1
                    first += 1
            part += 1
    return used


@compiled
def _run_length(alone: NDArray[np.bool_], first: int, count: int, ngram: int, ngram_characters: int) -> int:
    """Return the tokens of the run that begins at `first`, 0 if there is none."""
    single = 0
    for at in range(first, min(first + ngram, count)):
        single += alone[at]
    size = ngram_characters if 2 * single > min(ngram, count - first) else ngram
    if first + size <= count:
        return size
    return count if first == 0 and count >= FEWEST_TOKENS else 0


@compiled
def _tokens(
    data: NDArray[np.uint8],
    start: int,
    end: int,
    classes: NDArray[np.uint8],
    token: NDArray[np.uint64],
    token_start: NDArray[np.int64],
    token_end: NDArray[np.int64],
    alone: NDArray[np.bool_],
) -> int:
    """Write words and single characters (of scripts without spaces, and symbols) with their bytes; return how many."""
    used, at, in_word = 0, start, False
    size: int
    while at < end:
        point, size = character(data, at)
        kind = classes[point] if point < LIMIT else np.uint8(WORD | ALONE)
        if kind & WORD and not kind & ALONE:
            if not in_word:
                token[used], token_start[used], alone[used] = np.uint64(0), at, False
                used += 1
            token[used - 1] = (token[used - 1] ^ np.uint64(point)) * _PRIME
            token_end[used - 1] = at + size
            in_word = True
        else:
            in_word = False
            if not kind & SPACE:
                token[used], token_start[used], token_end[used] = mix(np.uint64(point)), at, at + size
                alone[used] = (kind & ALONE) != 0
                used += 1
        at += size
    return used
