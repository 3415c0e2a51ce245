"""Finds near-duplicates among all rows: rows that meet in a band are compared, shingle by shingle.

LSH only proposes: a pair counts if the Jaccard similarity of the two sets of shingles reaches the threshold, that of
the answers alone half of it (a long shared text with another short answer is no duplicate). Rows with different system
messages never meet. In a bucket each row is compared with the better ones that have no better twin there themselves.
One band at a time is in memory, about 50 bytes a row; the shingles of rows that meet another lie in a scratch file
without a name. Worth alone decides, so that neither the order of rows nor the cut of blocks does. What a bucket gives
depends on its own rows only, so that buckets may be divided among machines. Knows no texts.
"""

import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray

from tunewright.dataprep.clusters import Groups, Pairs, group
from tunewright.dataprep.compiling import compiled
from tunewright.dataprep.repeats import repeated
from tunewright.dataprep.shingling import Sets
from tunewright.dataprep.sketching import banding, estimate_floor, sketch
from tunewright.dataprep.spec import Duplicates

MOST_LEADERS = 2000
"""Rows of one bucket that each further row is compared with; beyond that the comparisons left out are counted."""

ANSWER_SHARE = 0.5
"""Share of the threshold that the answers alone must reach."""

_Kind = TypeVar("_Kind", np.uint8, np.uint64)

_NO_PAIRS = Pairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
_PIECE = 1 << 16
"""Rows between two looks at whether to stop."""

_Bands = Callable[[int], NDArray[np.uint64]]
_ReadSets = Callable[[NDArray[np.int64]], Iterable[Sets]]


@dataclass(frozen=True, slots=True)
class Candidates:
    """Rows that meet another, with their sets; numbered from 0 in the order of their rows."""

    rows: NDArray[np.int64]
    whole: NDArray[np.uint64]
    whole_ends: NDArray[np.int64]
    answers: NDArray[np.uint64]
    answer_ends: NDArray[np.int64]
    sketches: NDArray[np.uint8]
    """m × permutations: the low byte of each place, to leave out most comparisons by (Li and König, 2010)."""


def find(
    read_band: _Bands,
    worth: NDArray[np.uint64],
    alive: NDArray[np.bool_],
    read_sets: _ReadSets,
    spec: Duplicates,
    folder: Path,
    check: Callable[[], None],
) -> Groups:
    """Return the near-duplicates among the living rows.

    Args:
        read_band: number of a band → that column of `Features.bands`, of all rows.
        worth: of each row, greater is better.
        alive: rows that take part.
        read_sets: row numbers, ascending → their sets in that order, in pieces of any size.
        spec: threshold, permutations.
        folder: where the scratch files lie.
        check: called often; what it raises ends the search.
    """
    bands = banding(spec.permutations, spec.threshold).bands
    rows = _meeting(read_band, bands, alive, check)
    stats = new_stats() | {"candidates": len(rows)}
    if not len(rows):
        return group(merge([]), worth, stats)
    with (
        tempfile.TemporaryFile(dir=folder) as whole,
        tempfile.TemporaryFile(dir=folder) as answers,
        tempfile.TemporaryFile(dir=folder) as sketches,
    ):
        candidates = _fetch(rows, read_sets, spec.permutations, (whole, answers, sketches), check)
        present = np.ones(len(rows), np.bool_)
        keys = ((read_band(band)[rows], present) for band in range(bands))
        pairs = compare_all(candidates, keys, worth[rows], spec, stats, check)
    stats["pairs"] = len(pairs.worse)
    return group(pairs, worth, stats)


def new_stats() -> dict[str, int]:
    """Return the counts of a search that has not begun."""
    return dict.fromkeys(("candidates", "compared", "verified", "pairs", "left_out"), 0)


def _meeting(read_band: _Bands, bands: int, alive: NDArray[np.bool_], check: Callable[[], None]) -> NDArray[np.int64]:
    """Return the rows that share a bucket with another in any band."""
    meeting = np.zeros(len(alive), np.bool_)
    for band in range(bands):
        check()
        keys = read_band(band)
        rows = repeated(keys, alive)
        _, place, count = np.unique(keys[rows], return_inverse=True, return_counts=True)
        meeting[rows[count[place] > 1]] = True
    return np.flatnonzero(meeting)


def _fetch(
    rows: NDArray[np.int64],
    read_sets: _ReadSets,
    permutations: int,
    files: tuple[BinaryIO, BinaryIO, BinaryIO],
    check: Callable[[], None],
) -> Candidates:
    whole_lengths, answer_lengths = [], []
    for piece in read_sets(rows):
        check()
        sketches = low_sketches(piece, permutations)
        for file, array in zip(files, (piece.whole.data, piece.answers.data, sketches.data), strict=True):
            file.write(array)
        whole_lengths.append(np.diff(piece.whole_ends, prepend=0))
        answer_lengths.append(np.diff(piece.answer_ends, prepend=0))
    return Candidates(
        rows,
        _mapped(files[0], np.uint64),
        np.cumsum(np.concatenate(whole_lengths)),
        _mapped(files[1], np.uint64),
        np.cumsum(np.concatenate(answer_lengths)),
        _mapped(files[2], np.uint8).reshape(len(rows), permutations),
    )


def low_sketches(piece: Sets, permutations: int) -> NDArray[np.uint8]:
    """Return n × permutations: the low byte of each place of the rows' sketches."""
    sketches = np.empty((len(piece.whole_ends), permutations), np.uint8)
    _sketch_all(piece.whole, piece.whole_ends, permutations, sketches)
    return sketches


def _mapped(file: BinaryIO, kind: type[_Kind]) -> NDArray[_Kind]:
    file.flush()
    if not file.tell():
        return np.empty(0, kind)
    return np.memmap(file, kind, mode="r").view(np.ndarray)


def compare_all(
    candidates: Candidates,
    bands: Iterable[tuple[NDArray[np.uint64], NDArray[np.bool_]]],
    worth: NDArray[np.uint64],
    spec: Duplicates,
    stats: dict[str, int],
    check: Callable[[], None],
) -> Pairs:
    """Return the verified pairs of all buckets, each once, by the numbers of their rows.

    Args:
        candidates: the rows with their sets.
        bands: of each band, each candidate's key and whether it takes part.
        worth: of each candidate, greater is better.
        spec: threshold, permutations.
        stats: what was compared is added to it.
        check: called often; what it raises ends the search.
    """
    rows = candidates.rows
    floor = estimate_floor(spec.permutations, spec.threshold)
    known = np.full(len(rows), -1, np.int64)
    found: list[Pairs] = []
    for keys, present in bands:
        meeting = repeated(keys, present)
        order = meeting[np.lexsort((meeting, ~worth[meeting], keys[meeting]))]
        starts = np.flatnonzero(np.diff(keys[order], prepend=~keys[order[:1]]))
        for first, last in _pieces(starts, len(order)):
            check()
            found.append(_compare(candidates, order[first:last], keys, known, floor, spec.threshold, stats))
        found = [merge(found)]
    pairs = merge(found)
    return Pairs(rows[pairs.worse], rows[pairs.better], pairs.similarity)


def _pieces(starts: NDArray[np.int64], end: int) -> Iterable[tuple[int, int]]:
    """Yield ranges of whole buckets of about _PIECE rows."""
    first = 0
    while first < end:
        after = np.searchsorted(starts, first + _PIECE)
        last = int(starts[after]) if after < len(starts) else end
        yield first, last
        first = last


def _compare(
    candidates: Candidates,
    order: NDArray[np.int64],
    keys: NDArray[np.uint64],
    known: NDArray[np.int64],
    floor: int,
    threshold: float,
    stats: dict[str, int],
) -> Pairs:
    worse, better = np.empty(len(order), np.int64), np.empty(len(order), np.int64)
    similarity, counts = np.empty(len(order), np.float32), np.zeros(3, np.int64)
    used = _compare_buckets(
        order, keys, candidates.whole, candidates.whole_ends, candidates.answers, candidates.answer_ends,
        candidates.sketches, known, floor, threshold, worse, better, similarity, counts,
    )  # fmt: skip
    for name, count in zip(("compared", "verified", "left_out"), counts.tolist(), strict=True):
        stats[name] += count
    return Pairs(worse[:used], better[:used], similarity[:used])


def merge(found: Sequence[Pairs]) -> Pairs:
    """Return all pairs, each once, in order of the worse and the better row."""
    found = [_NO_PAIRS, *found]
    worse, better = (np.concatenate([getattr(pairs, name) for pairs in found]) for name in ("worse", "better"))
    similarity = np.concatenate([pairs.similarity for pairs in found])
    order = np.lexsort((better, worse))
    worse, better = worse[order], better[order]
    new = np.ones(len(order), np.bool_)
    new[1:] = (np.diff(worse) != 0) | (np.diff(better) != 0)
    return Pairs(worse[new], better[new], similarity[order][new])


@compiled
def _sketch_all(
    values: NDArray[np.uint64], ends: NDArray[np.int64], permutations: int, sketches: NDArray[np.uint8]
) -> None:
    places, start = np.empty(permutations, np.uint64), 0
    for row in range(len(ends)):
        sketch(values, start, ends[row], places)
        for at in range(permutations):
            sketches[row, at] = np.uint8(places[at] & np.uint64(0xFF))
        start = ends[row]


@compiled
def _compare_buckets(  # noqa: C901 - one loop; in parts it would pass fourteen arrays around
    order: NDArray[np.int64],
    keys: NDArray[np.uint64],
    whole: NDArray[np.uint64],
    whole_ends: NDArray[np.int64],
    answers: NDArray[np.uint64],
    answer_ends: NDArray[np.int64],
    sketches: NDArray[np.uint8],
    known: NDArray[np.int64],
    floor: int,
    threshold: float,
    worse: NDArray[np.int64],
    better: NDArray[np.int64],
    similarity: NDArray[np.float32],
    counts: NDArray[np.int64],
) -> int:
    """Write the pairs found; `order` holds bucket after bucket, each from its best row to its worst."""
    leaders = np.empty(MOST_LEADERS, np.int64)
    used = lead = 0
    for index in range(len(order)):
        row = order[index]
        if index == 0 or keys[row] != keys[order[index - 1]]:
            lead = 0
        twin, likeness = -1, 0.0
        for at in range(lead):
            leader = leaders[at]
            if known[row] == leader:
                twin = leader
                break
            counts[0] += 1
            if _agreeing(sketches, row, leader) < floor:
                continue
            counts[1] += 1
            likeness = _jaccard(whole, whole_ends, row, leader)
            if likeness < threshold:
                continue
            if _jaccard(answers, answer_ends, row, leader) >= threshold * ANSWER_SHARE:
                twin = leader
                break
        if twin < 0:
            if lead < MOST_LEADERS:
                leaders[lead] = row
                lead += 1
            else:
                counts[2] += 1
        elif known[row] != twin:
            worse[used], better[used], similarity[used] = row, twin, likeness
            used += 1
            if known[row] < 0:
                known[row] = twin
    return used


@compiled
def _agreeing(sketches: NDArray[np.uint8], one: int, other: int) -> int:
    count = 0
    for at in range(sketches.shape[1]):
        count += sketches[one, at] == sketches[other, at]
    return count


@compiled
def _jaccard(values: NDArray[np.uint64], ends: NDArray[np.int64], one: int, other: int) -> float:
    """Return the Jaccard similarity of two ascending sets; of two empty ones 1."""
    i, j = (ends[one - 1] if one else 0), (ends[other - 1] if other else 0)
    total, both = ends[one] - i + ends[other] - j, 0
    while i < ends[one] and j < ends[other]:
        left, right = values[i], values[j]
        both += left == right
        i += left <= right
        j += right <= left
    return both / (total - both) if total else 1.0
