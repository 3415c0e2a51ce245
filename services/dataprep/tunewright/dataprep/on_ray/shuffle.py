"""Finds near-duplicates on a Ray cluster, by a shuffle of band keys: the pairs are those of `near_duplicates.find`.

Each range's keys go from the map tasks to the range's own task, which says which rows meet there. Their texts go out
from the stage's scratch folder once, piece by piece; their sets go on to the ranges where they meet others. Clusters
are made in the stage, of all ranges' pairs. Knows nothing of what stands in a text.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tunewright.dataprep import near_duplicates
from tunewright.dataprep.clusters import Groups, group
from tunewright.dataprep.deciding import PIECE
from tunewright.dataprep.on_ray import tasks
from tunewright.dataprep.on_ray.mapping import Mapping
from tunewright.dataprep.on_ray.session import Ref, Session
from tunewright.dataprep.pool import Check
from tunewright.dataprep.rows import Rows
from tunewright.dataprep.spec import Duplicates

_WINDOW = 2
"""Pieces of texts under way for each task at once."""


def finder(session: Session, mapping: Mapping) -> Callable[..., Groups]:
    """Return what finds near-duplicates among the rows that were mapped; a `deciding.FindNear`."""

    def find(rows: Rows, alive: NDArray[np.bool_], spec: Duplicates, scratch: Path, check: Check) -> Groups:
        del scratch, check  # nothing is written; the session hears the wish to stop
        return _find(session, mapping, rows, alive, spec)

    return find


def _find(session: Session, mapping: Mapping, rows: Rows, alive: NDArray[np.bool_], spec: Duplicates) -> Groups:
    shared = session.put(alive), session.put(rows.firsts[:-1])
    keys = [list(parts) for parts in zip(*mapping.keys, strict=True)]
    meeting = session.get([session.start(tasks.meet, *shared, *parts)[0] for parts in keys])
    sets = _shingle(session, rows, meeting, spec)
    compared = [
        session.start(tasks.compare, found, rows.facts.worth[found], *shared, spec, len(parts), *parts, *sets[number])[
            0
        ]
        for number, (found, parts) in enumerate(zip(meeting, keys, strict=True))
        if len(found)
    ]
    results = session.get(compared)
    mapping.forget()
    pairs = near_duplicates.merge([found for found, _ in results])
    stats = {name: sum(counts[name] for _, counts in results) for name in near_duplicates.new_stats()}
    return group(pairs, rows.facts.worth, stats | {"candidates": len(_union(meeting)), "pairs": len(pairs.worse)})


def _shingle(session: Session, rows: Rows, meeting: Sequence[NDArray[np.int64]], spec: Duplicates) -> list[list[Ref]]:
    """Return range → references to the sets of its rows, in their order."""
    found: list[list[Ref]] = [[] for _ in meeting]
    waiting: deque[Ref] = deque()
    for numbers in _pieces(_union(meeting)):
        owners = [np.searchsorted(numbers, _between(own, numbers)) for own in meeting]
        texts = session.put(list(rows.lines(numbers)))
        refs = session.start(tasks.shingle, texts, owners, spec, session.version, returns=len(meeting))
        for own, ref in zip(found, refs, strict=True):
            own.append(ref)
        waiting.append(refs[0])
        while len(waiting) > _WINDOW * session.workers:
            session.wait([waiting.popleft()])
    return found


def _union(meeting: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    return reduce(np.union1d, meeting, np.empty(0, np.int64))


def _pieces(numbers: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(numbers), PIECE):
        yield numbers[start : start + PIECE]


def _between(own: NDArray[np.int64], numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return those of `own` that lie within the span of `numbers`, which holds all of them."""
    first, last = np.searchsorted(own, [numbers[0], numbers[-1] + 1])
    return own[first:last]
