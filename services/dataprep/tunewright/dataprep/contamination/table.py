"""The n-grams and whole questions of all test sets: sorted arrays of hashes, mapped from disk, shared by all workers.

For each different n-gram of the test sets, about as many as they have words: 8 bytes for its hash, 4 for the place of
its postings, 4 for each posting, 1 to 2 for the filter that most n-grams of training rows end at.

n-grams that many rows of a test set share are boilerplate (a prompt's template, a form of answer), and count for
nothing: those in more rows than `boilerplate_limit` of the set. Messages that are equal in a set are one. Texts are not
kept.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.dataprep.characters import tables
from tunewright.dataprep.compiling import compiled
from tunewright.dataprep.contamination.grams import (
    Buffers,
    Characters,
    buffers,
    grams,
    is_short,
    pair_key,
    question_key,
    tokenise,
    whole,
)
from tunewright.dataprep.parts import ASSISTANT, CHOSEN, REJECTED, SYSTEM, USER, Parts

FILTER_BITS = 8
"""Bits of the filter for each n-gram, at the least: one in eight n-grams that stand in no test set passes it."""
_FEW, _SHARE = 10, 0.02


@dataclass(frozen=True, slots=True)
class Place:
    """Where a test row stands."""

    test: str
    """Name of the test set."""
    file: str
    line: int


@dataclass(frozen=True, slots=True)
class TestRows:
    """Some rows of one test set's file."""

    __test__ = False
    test: int
    """Number of the set."""
    file: int
    """Number of the file."""
    lines: Sequence[int]
    """Line or row in the file, of each row."""
    parts: Parts


@dataclass(frozen=True, slots=True)
class Table:
    """All test sets. m messages (equal ones of a set are one), g different n-grams; arrays are read-only."""

    ngram: int
    grams: NDArray[np.uint64]
    """g; ascending."""
    firsts: NDArray[np.uint32]
    """g + 1; where the postings of each n-gram begin."""
    messages: NDArray[np.uint32]
    """Postings: numbers of the messages that have the n-gram."""
    passing: NDArray[np.uint8]
    """Filter: a bit for the upper bits of each n-gram."""
    keys: NDArray[np.uint64]
    """Whole questions, ascending."""
    key_messages: NDArray[np.uint32]
    """The message of each."""
    totals: NDArray[np.uint32]
    """m; different n-grams of each message that are no boilerplate."""
    tests: NDArray[np.uint16]
    """m; number of each message's test set."""
    files: NDArray[np.uint16]
    lines: NDArray[np.uint32]
    names: tuple[str, ...]
    """Of the test sets."""
    file_names: tuple[str, ...]
    rows: tuple[int, ...]
    """Of each test set."""
    boilerplate: tuple[int, ...]
    """n-grams of each set that count for nothing."""

    def place(self, message: int) -> Place:
        """Return where a message stands."""
        name = self.names[int(self.tests[message])]
        return Place(name, self.file_names[int(self.files[message])], int(self.lines[message]))


@dataclass(frozen=True, slots=True)
class _Collected:
    """What one piece of test rows holds; messages numbered within it."""

    grams: NDArray[np.uint64]
    owners: NDArray[np.uint32]
    content: NDArray[np.uint64]
    keys: NDArray[np.uint64]
    key_owners: NDArray[np.uint32]
    rows: NDArray[np.uint32]


def boilerplate_limit(rows: int) -> int:
    """Return in how many rows of a test set an n-gram may stand: a fiftieth of them, but at least 10 (of few, half)."""
    return max(2, min(_FEW, rows // 2), int(_SHARE * rows))


def build(pieces: Iterable[TestRows], names: Sequence[str], files: Sequence[str], ngram: int, folder: Path) -> Table:
    """Return the table of all test rows; its large arrays lie in `folder`, mapped.

    Args:
        pieces: rows of the sets, in the order of the sets.
        names: of the sets.
        files: names of the files.
        ngram: words.
        folder: where the arrays are written.
    """
    found, tests, places, lines, counts = [], [], [], [], [0] * len(names)
    for piece in pieces:
        collected = _collect_all(piece.parts, ngram)
        found.append(collected)
        size = len(collected.content)
        tests.append(np.full(size, piece.test, np.uint16))
        places.append(np.full(size, piece.file, np.uint16))
        lines.append(np.array(piece.lines, np.uint32)[collected.rows])
        counts[piece.test] += len(piece.parts)
    firsts = np.cumsum([0, *(len(one.content) for one in found)])
    sets = np.concatenate(tests)
    twin = _first_twins(sets, np.concatenate([one.content for one in found]))
    owners = twin[_joined([one.owners + first for one, first in zip(found, firsts, strict=False)])]
    values, owners, removed = _informative(np.concatenate([one.grams for one in found]), owners, sets, counts)
    new = np.ones(len(values), np.bool_)
    new[1:] = values[1:] != values[:-1]
    starts = np.flatnonzero(new)
    keys = np.concatenate([one.keys for one in found])
    keyed = twin[_joined([one.key_owners + first for one, first in zip(found, firsts, strict=False)])]
    keys, where = np.unique(keys, return_index=True)
    arrays: dict[str, Any] = {
        "grams": values[starts],
        "firsts": np.append(starts, len(values)).astype(np.uint32),
        "messages": owners.astype(np.uint32),
        "passing": _filter(values[starts]),
        "keys": keys,
        "key_messages": keyed[where].astype(np.uint32),
        "totals": np.bincount(owners, minlength=len(sets)).astype(np.uint32),
        "tests": sets,
        "files": np.concatenate(places),
        "lines": np.concatenate(lines),
    }
    return Table(
        ngram, **{name: _mapped(folder / f"tests.{name}.npy", array) for name, array in arrays.items()},
        names=tuple(names), file_names=tuple(files), rows=tuple(counts), boilerplate=tuple(removed),
    )  # fmt: skip


def _joined(arrays: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.concatenate(arrays).astype(np.int64)


def _collect_all(parts: Parts, ngram: int) -> _Collected:
    size = len(parts.data) + 1
    values, owners = np.empty(size, np.uint64), np.empty(size, np.uint32)
    keys, key_owners = np.empty(2 * len(parts.ends), np.uint64), np.empty(2 * len(parts.ends), np.uint32)
    content, rows = np.empty(len(parts.ends), np.uint64), np.empty(len(parts.ends), np.uint32)
    room = buffers(int(np.diff(parts.ends, prepend=0).max(initial=0)), ngram)
    used, keyed = _collect(
        parts.data, parts.ends, parts.roles, parts.rows, ngram, Characters.of(tables()), room,
        values, owners, content, rows, keys, key_owners,
    )  # fmt: skip
    return _Collected(
        values[:used].copy(), owners[:used].copy(), content, keys[:keyed].copy(), key_owners[:keyed].copy(), rows
    )


def _first_twins(sets: NDArray[np.uint16], content: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return for each message the first one of its set with the same content."""
    order = np.lexsort((np.arange(len(content)), content, sets))
    new = np.ones(len(order), np.bool_)
    new[1:] = (content[order[1:]] != content[order[:-1]]) | (sets[order[1:]] != sets[order[:-1]])
    twin = np.empty(len(order), np.int64)
    twin[order] = order[new][np.cumsum(new) - 1]
    return twin


def _informative(
    values: NDArray[np.uint64], owners: NDArray[np.int64], sets: NDArray[np.uint16], rows: Sequence[int]
) -> tuple[NDArray[np.uint64], NDArray[np.int64], list[int]]:
    """Return the n-grams that are no boilerplate, ascending, each once a message; and by set how many are left out."""
    order = np.lexsort((owners, values))
    values, owners = values[order], owners[order]
    new = np.ones(len(values), np.bool_)
    new[1:] = (values[1:] != values[:-1]) | (owners[1:] != owners[:-1])
    values, owners = values[new], owners[new]
    of = sets[owners]
    run = np.ones(len(values), np.bool_)
    run[1:] = (values[1:] != values[:-1]) | (of[1:] != of[:-1])
    lengths = np.diff(np.append(np.flatnonzero(run), len(values)))
    limits = np.array([boilerplate_limit(count) for count in rows])
    common = lengths > limits[of[run]]
    kept = ~np.repeat(common, lengths)
    removed = np.bincount(of[run][common], minlength=len(rows)).tolist()
    return values[kept], owners[kept], removed


def filter_shift(size_bytes: int) -> int:
    """Return by how many bits an n-gram is shifted to become its place in a filter of this size."""
    return 64 - int(8 * size_bytes - 1).bit_length()


def _filter(values: NDArray[np.uint64]) -> NDArray[np.uint8]:
    bits = max(10, int(len(values) * FILTER_BITS - 1).bit_length())
    passing = np.zeros(1 << (bits - 3), np.uint8)
    at = values >> np.uint64(64 - bits)
    np.bitwise_or.at(passing, at >> np.uint64(3), np.uint8(1) << (at & np.uint64(7)).astype(np.uint8))
    return passing


def _mapped(path: Path, array: NDArray[Any]) -> NDArray[Any]:
    np.save(path, array)
    return np.asarray(np.load(path, mmap_mode="r" if array.size else None)).view(np.ndarray)


@compiled
def _collect(
    data: NDArray[np.uint8],
    ends: NDArray[np.int64],
    roles: NDArray[np.uint8],
    rows: NDArray[np.int64],
    ngram: int,
    characters: Characters,
    room: Buffers,
    values: NDArray[np.uint64],
    owners: NDArray[np.uint32],
    content: NDArray[np.uint64],
    row_of: NDArray[np.uint32],
    keys: NDArray[np.uint64],
    key_owners: NDArray[np.uint32],
) -> tuple[int, int]:
    """Write n-grams and keys with their messages; return how many there are of each."""
    used = keyed = part = start = 0
    for row in range(len(rows)):
        asked, question = -1, np.uint64(0)
        while part < rows[row]:
            count = tokenise(data, start, ends[part], characters, room)
            start = ends[part]
            row_of[part], content[part] = row, whole(count, room)
            if count > 0 and roles[part] != SYSTEM:
                before = used
                used = grams(count, ngram, room, values, used)
                owners[before:used] = part
                if roles[part] == USER:
                    asked, question = part, content[part]
                    if not is_short(count, room):
                        keys[keyed], key_owners[keyed] = question_key(question), part
                        keyed += 1
                elif asked >= 0 and (roles[part] in (ASSISTANT, CHOSEN, REJECTED)):
                    keys[keyed], key_owners[keyed] = pair_key(question, content[part]), asked
                    keyed += 1
            part += 1
    return used, keyed
