"""The reduce step: which rows stay, over all blocks. Arrays only; row by row nothing is read but candidates' texts.

exact duplicates → near-duplicates → conflicts → split → mixing
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import orjson
from numpy.typing import NDArray

from tunewright.dataprep import conflicts, dedup, mixing, near_duplicates
from tunewright.dataprep.clusters import Groups, joined
from tunewright.dataprep.kinds import messages_of
from tunewright.dataprep.parts import Parts
from tunewright.dataprep.pool import Check
from tunewright.dataprep.rows import Rows
from tunewright.dataprep.shingling import Sets, sets
from tunewright.dataprep.spec import DataprepSpec, Duplicates
from tunewright.dataprep.splitting import held_out, linked
from tunewright.dataprep.tally import CONFLICT, DUPLICATE, NEAR_DUPLICATE, NOT_MIXED, SEMANTIC_DUPLICATE

PIECE = 4096
"""Rows whose texts are held at once."""


@dataclass(slots=True)
class Decisions:
    """What became of n rows."""

    alive: NDArray[np.bool_]
    kept_instead: NDArray[np.int64]
    """Number of the row that is kept in this one's place, its own if there is none."""
    similarity: NDArray[np.float32]
    cluster: NDArray[np.int64]
    conflict: NDArray[np.int64]
    reasons: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    """Reason → numbers of the rows dropped for it, in order."""
    places: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, np.uint64))
    """Place of each row's group on the scale of the split."""
    by_row: bool = False
    """True if all rows have one question, so that rows had to be divided instead of questions."""
    validation: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))
    copies: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """How often each row stands in the training side."""
    shares: list[mixing.Share] = field(default_factory=list)

    @property
    def train(self) -> NDArray[np.bool_]:
        """Rows of the training side."""
        return self.copies > 0

    def drop(self, reason: str, rows: NDArray[np.int64]) -> None:
        """Drop rows that are alive."""
        self.alive[rows] = False
        self.reasons[reason] = rows


FindSemantic = Callable[[Rows, NDArray[np.bool_], Path, Check], Groups]
"""All rows, which of them take part, folder for scratch files → the semantic duplicates."""
FindNear = Callable[[Rows, NDArray[np.bool_], Duplicates, Path, Check], Groups]
"""All rows, which of them take part, settings, folder for scratch files → the near-duplicates."""


def find_near(rows: Rows, alive: NDArray[np.bool_], spec: Duplicates, scratch: Path, check: Check) -> Groups:
    """Find near-duplicates in this process."""
    read_sets = _set_reader(rows, spec)
    return near_duplicates.find(rows.band, rows.facts.worth, alive, read_sets, spec, scratch, check)


def decide(
    rows: Rows,
    spec: DataprepSpec,
    sources: Sequence[tuple[str, float]],
    scratch: Path,
    check: Check,
    near: FindNear = find_near,
    semantic: FindSemantic | None = None,
    held_out_files: Sequence[bool] = (),
) -> Decisions:
    """Return what becomes of the rows.

    Args:
        rows: all of them.
        spec: the settings.
        sources: name and weight of each file's source.
        scratch: folder for scratch files.
        check: called often; what it raises ends the work.
        near: finds near-duplicates.
        semantic: finds semantic duplicates; None where they are not looked for.
        held_out_files: whether each file's rows are held out; none so: the split chooses.

    Raises:
        InvalidData: a source has too few rows for the mixing asked for.
    """
    count = len(rows)
    own = np.arange(count)
    found = Decisions(
        np.ones(count, np.bool_), own.copy(), np.ones(count, np.float32), own, np.full(count, -1, np.int64)
    )
    check()
    if spec.duplicates.exact:
        found.kept_instead = dedup.find_exact(rows.facts.identity, rows.facts.worth)
        found.drop(DUPLICATE, np.flatnonzero(found.kept_instead != own))
    if spec.duplicates.near:
        _take_near(near(rows, found.alive, spec.duplicates, scratch, check), found)
    if semantic is not None:
        _take_semantic(semantic(rows, found.alive, scratch, check), rows.facts.worth, found)
    _conflicts(rows, spec, found)
    _split(rows, spec, held_out_files, found)
    check()
    _mix(rows, spec, [name for name, _ in sources], [weight for _, weight in sources], found)
    return found


def _take_near(groups: Groups, found: Decisions) -> None:
    dropped = np.flatnonzero((groups.kept_instead != np.arange(len(found.alive))) & found.alive)
    found.cluster, found.similarity = groups.cluster, groups.similarity
    found.kept_instead[dropped] = groups.kept_instead[dropped]
    found.drop(NEAR_DUPLICATE, dropped)


def _take_semantic(groups: Groups, worth: NDArray[np.uint64], found: Decisions) -> None:
    dropped = np.flatnonzero((groups.kept_instead != np.arange(len(found.alive))) & found.alive)
    found.cluster = joined(found.cluster, groups.cluster, worth)
    found.similarity[dropped] = groups.similarity[dropped]
    found.kept_instead[dropped] = groups.kept_instead[dropped]
    found.drop(SEMANTIC_DUPLICATE, dropped)


def _set_reader(rows: Rows, spec: Duplicates) -> Callable[[NDArray[np.int64]], Iterator[Sets]]:
    def read_sets(numbers: NDArray[np.int64]) -> Iterator[Sets]:
        for start in range(0, len(numbers), PIECE):
            yield sets_of(rows.lines(numbers[start : start + PIECE]), spec.shingle)

    return read_sets


def sets_of(lines: Iterable[bytes], shingle: int) -> Sets:
    """Return the sets of shingles of rows given as they stand in the dataset."""
    return sets(Parts.of_messages([messages_of(orjson.loads(line)) for line in lines]), shingle)


def _conflicts(rows: Rows, spec: DataprepSpec, found: Decisions) -> None:
    found.conflict = conflicts.find(rows.facts.prompt, rows.facts.answer, found.alive)
    if spec.conflicts.action == "drop":
        found.drop(CONFLICT, np.flatnonzero(found.conflict >= 0))
    elif spec.conflicts.action == "keep_best":
        kept = conflicts.best_of_each(found.conflict, rows.facts.worth)
        dropped = np.flatnonzero(kept != np.arange(len(rows)))
        found.kept_instead[dropped] = kept[dropped]
        found.drop(CONFLICT, dropped)


def _split(rows: Rows, spec: DataprepSpec, held_out_files: Sequence[bool], found: Decisions) -> None:
    if any(held_out_files):
        found.places = rows.facts.question.copy()
        found.validation = found.alive & np.array(held_out_files, np.bool_)[rows.files]
        return
    alive = np.flatnonzero(found.alive)
    if spec.split.by == "question":
        places = rows.facts.question[alive]
    elif spec.split.by == "cluster":
        places = linked(rows.facts.question[alive], found.cluster[alive])
    else:
        places = rows.facts.group[alive]
    fraction = spec.split.validation_fraction
    found.by_row = fraction > 0 and len(alive) > 1 and len(np.unique(places)) == 1
    if found.by_row:
        places = _keyed(rows.facts.digest[alive], spec.seed)
    strata = rows.facts.stratum[alive] if spec.split.stratify_by else None
    found.places = rows.facts.question.copy()
    found.places[alive] = places
    found.validation = np.zeros(len(rows), np.bool_)
    found.validation[alive] = held_out(places, fraction, strata)


def _mix(
    rows: Rows, spec: DataprepSpec, sources: Sequence[str], weights_of_files: Sequence[float], found: Decisions
) -> None:
    train = found.alive & ~found.validation
    found.copies = train.astype(np.int64)
    weights = dict(zip(sources, weights_of_files, strict=True))
    if not any(weights.values()):
        return
    wanted = {name: weight for name, weight in weights.items() if weight > 0}
    numbers = {name: number for number, name in enumerate(wanted)}
    by_file = np.array([numbers.get(source, -1) for source in sources], np.int64)
    source_of = np.where(train, by_file[rows.files], -1)
    available = {name: int((source_of == number).sum()) for name, number in numbers.items()}
    found.shares = mixing.plan(
        available, wanted, total_rows=spec.mixing.total_rows, max_repeats=spec.mixing.max_repeats
    )
    found.copies = mixing.copies(found.shares, source_of, _keyed(rows.facts.digest, spec.seed))
    left_out = np.flatnonzero(train & (found.copies == 0))
    found.drop(NOT_MIXED, left_out)


def _keyed(digests: NDArray[np.uint8], seed: int) -> NDArray[np.uint64]:
    """Return a keyed hash of each digest: BLAKE2b."""
    key = seed.to_bytes(8, "big")
    data = digests.tobytes()
    found = b"".join(
        hashlib.blake2b(data[at : at + 32], digest_size=8, key=key).digest() for at in range(0, len(data), 32)
    )
    return np.frombuffer(found, ">u8").astype(np.uint64)
