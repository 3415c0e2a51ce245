"""Compares the clean rows of a block with the test sets, and does what the settings say. Knows no files, no hashes."""

from collections.abc import Sequence

import numpy as np
import orjson
from numpy.typing import NDArray

from tunewright.dataprep.contamination.findings import best_of_rows, findings, words
from tunewright.dataprep.contamination.matching import Matches, match
from tunewright.dataprep.contamination.table import Table
from tunewright.dataprep.excerpts import drop_example
from tunewright.dataprep.parts import Parts
from tunewright.dataprep.shapes import Message
from tunewright.dataprep.spec import Contamination
from tunewright.dataprep.tally import CONTAMINATED, Counts


def compare(
    rows: Sequence[list[Message]], lines: Sequence[int], name: str, tests: Table, spec: Contamination, counts: Counts
) -> tuple[NDArray[np.bool_], dict[int, bytes]]:
    """Look rows up in the test sets, and count what is found.

    Args:
        rows: clean ones, of one file.
        lines: number of each in the file.
        name: of the file.
        tests: the test sets.
        spec: from which overlap on, and what becomes of such rows.
        counts: of the block.

    Returns:
        Which rows stay, and what is written into the lines of some of them: number → a piece of JSON.
    """
    stay = np.ones(len(rows), np.bool_)
    matches = match(Parts.of_messages(rows), tests, spec.min_overlap)
    if not len(matches.rows):
        return stay, {}
    found = findings(matches, tests, rows, lines, name)
    counts.contamination.add(found)
    best = best_of_rows(matches)
    if spec.action == "flag":
        return stay, _marks(matches, best, tests)
    for example in found.examples:
        counts.add_example(CONTAMINATED, drop_example(name, example["line"], words(example), example["text"]))
    counts.dropped[CONTAMINATED] += len(best)
    stay[matches.rows[best]] = False
    return stay, {}


def _marks(matches: Matches, best: NDArray[np.int64], tests: Table) -> dict[int, bytes]:
    marks = {}
    for row, message in zip(matches.rows[best].tolist(), matches.messages[best].tolist(), strict=True):
        place = tests.place(message)
        mark = {"test": place.test, "file": place.file, "line": place.line}
        marks[row] = b',"contaminated":' + orjson.dumps(mark)
    return marks
