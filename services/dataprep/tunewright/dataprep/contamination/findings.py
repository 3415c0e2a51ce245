"""What was found of test sets in training rows: counts, and a few examples with the text that both have.

Findings of blocks can be added up, in the order of the input. Decides by `matching.py`; knows no files.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from tunewright.dataprep.contamination.matching import Matches, overlap
from tunewright.dataprep.contamination.table import Table
from tunewright.dataprep.excerpts import excerpt
from tunewright.dataprep.shapes import Message

_EXAMPLES = 8


class Overlap(TypedDict):
    """A training row that holds what stands in a test set."""

    file: str
    line: int
    test: str
    """Name of the test set."""
    test_file: str
    test_line: int
    share: float
    """Of the test message's n-grams that stand in the row, 0 to 1."""
    whole_question: bool
    """True if the row asks the very question of the test row."""
    text: str
    """The longest piece that stands in both, as the training row has it."""


@dataclass(slots=True)
class Findings:
    """Of one block, or of several."""

    rows: int = 0
    """Contaminated rows."""
    by_test: Counter[int] = field(default_factory=Counter)
    """Number of the test set → rows that hold something of it; a row may count for several."""
    messages: set[int] = field(default_factory=set)
    """Messages of test sets that were found in any row."""
    examples: list[Overlap] = field(default_factory=list)

    def add(self, other: "Findings") -> None:
        """Add the findings of the next block."""
        self.rows += other.rows
        self.by_test.update(other.by_test)
        self.messages |= other.messages
        self.examples += other.examples[: _EXAMPLES - len(self.examples)]

    def document(self, table: Table) -> list[dict[str, Any]]:
        """Return the figures of each test set."""
        found = np.array(sorted(self.messages), np.int64)
        places = np.stack([table.tests[found], table.files[found], table.lines[found]], axis=1).astype(np.int64)
        rows_found = np.bincount(np.unique(places, axis=0)[:, 0], minlength=len(table.names)) if len(found) else None
        return [
            {
                "name": name,
                "rows": table.rows[number],
                "rows_found": int(rows_found[number]) if rows_found is not None else 0,
                "training_rows": self.by_test[number],
                "boilerplate_ngrams": table.boilerplate[number],
            }
            for number, name in enumerate(table.names)
        ]


def best_of_rows(matches: Matches) -> NDArray[np.int64]:
    """Return for each row found the place of its closest match: the greatest share, of equal ones the first message."""
    order = np.lexsort((matches.messages, -matches.shares, matches.rows))
    new = np.ones(len(order), np.bool_)
    new[1:] = matches.rows[order[1:]] != matches.rows[order[:-1]]
    best: NDArray[np.int64] = order[new]
    return best


def findings(
    matches: Matches, table: Table, rows: Sequence[Sequence[Message]], lines: Sequence[int], file: str
) -> Findings:
    """Return the findings of a block.

    Args:
        matches: of the block's rows.
        table: what they were matched with.
        rows: the block's.
        lines: number of each row in its file.
        file: name of the file.
    """
    best = best_of_rows(matches)
    tests = np.stack([matches.rows, table.tests[matches.messages].astype(np.int64)], axis=1)
    found = Findings(len(best), Counter(np.unique(tests, axis=0)[:, 1].tolist()), set(matches.messages.tolist()))
    for place in best[:_EXAMPLES].tolist():
        row, message = int(matches.rows[place]), int(matches.messages[place])
        where = table.place(message)
        texts = [turn["content"] or "" for turn in rows[row]]
        piece = max((overlap(text, table, message) for text in texts), key=len) or texts[0]
        found.examples.append(
            {
                "file": file,
                "line": lines[row],
                "test": where.test,
                "test_file": where.file,
                "test_line": where.line,
                "share": round(float(matches.shares[place]), 4),
                "whole_question": bool(matches.questions[place]),
                "text": excerpt(piece),
            }
        )
    return found


def words(example: Overlap) -> str:
    """Return an example for people."""
    place = f"{example['test']} ({example['test_file']}:{example['test_line']})"
    if example["whole_question"]:
        return f"asks the question of the test set {place}"
    return f"holds {example['share']:.0%} of a message of the test set {place}"
