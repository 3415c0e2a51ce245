"""What runs in a worker of the cluster: functions of arrays and bytes. Knows no files, no cluster, no other task.

A range is a part of the scale of all band keys, 0 to 2**64; a bucket lies in one range whole. Each row's key of each
band goes to its range, so that ranges can be as many and as small as the cluster needs.
"""

import functools
import hashlib
import itertools
import pickle
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tunewright.chassis.errors import Refused
from tunewright.dataprep import features, near_duplicates, rules
from tunewright.dataprep.blocks import Block
from tunewright.dataprep.clusters import Pairs
from tunewright.dataprep.deciding import sets_of
from tunewright.dataprep.mapping import Job, Mapped, work_off
from tunewright.dataprep.repeats import repeated
from tunewright.dataprep.shingling import Sets
from tunewright.dataprep.spec import Duplicates

_PACKAGES = ("ftfy", "numba", "numpy", "orjson", "py3langid", "pyarrow", "selectolax")
"""Whose version may show in the dataset's bytes."""


@dataclass(frozen=True, slots=True)
class Keys:
    """Band keys of one range, of some block's rows."""

    keys: NDArray[np.uint64]
    rows: NDArray[np.int64]
    """Numbers of the rows; of a single block counted from its first."""
    bands: NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class Shingled:
    """Sets and sketches of some rows."""

    sets: Sets
    sketches: NDArray[np.uint8]


@functools.cache
def room_digest() -> str:
    """Return what tells this room's code from any other that might give other bytes: SHA-256 of its files, versions."""
    room = Path(rules.__file__).parent
    found = hashlib.sha256(platform.python_version().encode())
    for path in sorted(room.rglob("*.py")):
        found.update(path.relative_to(room).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    for name in _PACKAGES:
        found.update(f"{name}=={metadata.version(name)}\n".encode())
    return found.hexdigest()


def map_block(block: Block, job: bytes, ranges: int, version: str) -> tuple[Mapped | list[bytes] | Keys, ...]:
    """Work a block off that carries its bytes; return facts and counts, its lines, and the keys of each range.

    Args:
        block: with its bytes.
        job: as `packed` returns it.
        ranges: how many; 0 where near-duplicates are not looked for.
        version: the stage's `room_digest`.

    Raises:
        InvalidData: the file is broken.
        Refused: this node has other code than the stage.
    """
    _prepare(version)
    worked = work_off(block, _unpacked(job))
    return worked.mapped, worked.lines, *divide(worked.bands, ranges)


def packed(job: Job) -> bytes:
    """Return the job as a worker unpacks it once, not once a block: a tokenizer in it takes a second to load."""
    return pickle.dumps(job)


def divide(bands: NDArray[np.uint64], ranges: int) -> list[Keys]:
    """Return the keys of each range, those of a band together; rows without bands give none."""
    if not ranges:
        return []
    rows = len(bands)
    keys = np.ascontiguousarray(bands.T).ravel()
    owner = np.minimum(keys // _width(ranges), np.uint64(ranges - 1)).astype(np.int64)
    order = np.argsort(owner, kind="stable")
    ends = np.cumsum(np.bincount(owner, minlength=ranges))
    parts = np.split(order, ends[:-1])
    return [Keys(keys[part], part % max(rows, 1), (part // max(rows, 1)).astype(np.uint16)) for part in parts]


def meet(alive: NDArray[np.bool_], firsts: NDArray[np.int64], *parts: Keys) -> NDArray[np.int64]:
    """Return, ascending, the living rows that share a key of this range with another.

    Args:
        alive: of all rows.
        firsts: number of each block's first row.
        parts: keys of this range, block by block.
    """
    found = _join(alive, firsts, parts)
    meeting = np.zeros(len(found.keys), np.bool_)
    for first, last in _bands_of(found):
        keys = found.keys[first:last]
        rows = repeated(keys, np.ones(len(keys), np.bool_))
        _, place, count = np.unique(keys[rows], return_inverse=True, return_counts=True)
        meeting[first + rows[count[place] > 1]] = True
    return np.unique(found.rows[meeting])


def shingle(
    lines: Sequence[bytes], owners: Sequence[NDArray[np.int64]], spec: Duplicates, version: str
) -> list[Shingled]:
    """Return for each range the sets of those of the rows that are in it; `owners` holds their places in `lines`."""
    _prepare(version)
    whole = sets_of(lines, spec.shingle)
    sketches = near_duplicates.low_sketches(whole, spec.permutations)
    return [Shingled(_taken(whole, places), sketches[places]) for places in owners]


def compare(
    rows: NDArray[np.int64],
    worth: NDArray[np.uint64],
    alive: NDArray[np.bool_],
    firsts: NDArray[np.int64],
    spec: Duplicates,
    blocks: int,
    *parts: object,
) -> tuple[Pairs, dict[str, int]]:
    """Return the verified pairs of one range, and what was compared.

    Args:
        rows: what `meet` found.
        worth: of those rows.
        alive: of all rows.
        firsts: number of each block's first row.
        spec: threshold, permutations.
        blocks: how many of `parts` are Keys.
        parts: the Keys of the range, block by block, then the Shingled of its rows, in their order.
    """
    keys = _join(alive, firsts, [part for part in parts[:blocks] if isinstance(part, Keys)])
    shingled = [part for part in parts[blocks:] if isinstance(part, Shingled)]
    stats = near_duplicates.new_stats()
    candidates = _candidates(rows, shingled)
    bands = (_of_band(rows, keys, first, last) for first, last in _bands_of(keys))
    pairs = near_duplicates.compare_all(candidates, bands, worth, spec, stats, lambda: None)
    return pairs, stats


def _prepare(version: str) -> None:
    if room_digest() != version:
        raise Refused(
            f"Ray node {platform.node()} has another version of data preparation, or of a package under it, than the "
            "stage: the dataset would depend on where rows are worked off",
            remedy="Run the same image on all nodes as here.",
        )
    _warm()


@functools.lru_cache(maxsize=1)
def _unpacked(job: bytes) -> Job:
    found = pickle.loads(job)  # noqa: S301 - from the stage, over Ray, which speaks pickle itself
    if not isinstance(found, Job):
        raise TypeError(f"{type(found).__name__} is no job")
    return found


@functools.cache
def _warm() -> None:
    rules.warm()
    features.warm()


def _width(ranges: int) -> np.uint64:
    return np.uint64((1 << 64) // ranges)


def _join(alive: NDArray[np.bool_], firsts: NDArray[np.int64], parts: Sequence[Keys]) -> Keys:
    """Return the keys of living rows of all blocks, by band, then row."""
    rows = np.concatenate([part.rows + first for part, first in zip(parts, firsts.tolist(), strict=True)])
    keys, bands = (np.concatenate([getattr(part, name) for part in parts]) for name in ("keys", "bands"))
    order = np.lexsort((rows, bands))
    order = order[alive[rows[order]]]
    return Keys(keys[order], rows[order], bands[order])


def _bands_of(found: Keys) -> list[tuple[int, int]]:
    edges = [0, *(np.flatnonzero(np.diff(found.bands)) + 1).tolist(), len(found.bands)]
    return list(itertools.pairwise(edges))


def _of_band(
    rows: NDArray[np.int64], found: Keys, first: int, last: int
) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    keys, present = np.zeros(len(rows), np.uint64), np.zeros(len(rows), np.bool_)
    mine = np.isin(found.rows[first:last], rows, assume_unique=True)
    places = np.searchsorted(rows, found.rows[first:last][mine])
    keys[places], present[places] = found.keys[first:last][mine], True
    return keys, present


def _taken(whole: Sets, places: NDArray[np.int64]) -> Sets:
    """Return some rows of the sets."""
    values, ends = [], []
    for data, stops in ((whole.whole, whole.whole_ends), (whole.answers, whole.answer_ends)):
        starts = np.concatenate([[0], stops])[places]
        sizes = stops[places] - starts
        own = np.cumsum(sizes)
        values.append(data[np.repeat(starts - (own - sizes), sizes) + np.arange(int(sizes.sum()))])
        ends.append(own)
    return Sets(values[0], ends[0], values[1], ends[1])


def _candidates(rows: NDArray[np.int64], parts: Sequence[Shingled]) -> near_duplicates.Candidates:
    def joined(name: str) -> NDArray[np.uint64]:
        return np.concatenate([getattr(part.sets, name) for part in parts])

    def ends(name: str) -> NDArray[np.int64]:
        return np.cumsum(np.concatenate([np.diff(getattr(part.sets, name), prepend=0) for part in parts]))

    sketches = np.concatenate([part.sketches for part in parts])
    return near_duplicates.Candidates(
        rows, joined("whole"), ends("whole_ends"), joined("answers"), ends("answer_ends"), sketches
    )
