"""Counts what happens to rows, and keeps a few examples of each, so that every figure can be looked at.

The sum always holds: rows in = rows out + rows dropped, by reason. Knows nothing of how anything is decided.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tunewright.chassis.errors import InvalidData, Violation
from tunewright.dataprep import filters, histograms
from tunewright.dataprep.contamination.findings import Findings
from tunewright.dataprep.excerpts import EXCERPT_CHARS, Change, Example, change_example, drop_example
from tunewright.dataprep.readers import Layout, Line, Problem, Source, as_violation, excerpt_of
from tunewright.dataprep.rules import RULE_WORDS
from tunewright.dataprep.shapes import Message, Recognition

UNREADABLE = {
    "invalid_json": "The line is not valid JSON",
    "duplicate_key": "A key stands twice in one object",
    "not_an_object": "The line is JSON, but no object",
    "missing_field": "A field that the file's shape needs is missing",
    "wrong_type": "A field holds something other than text or messages",
    "unsupported_role": "A message has a role other than system, user, assistant or tool",
    "unsupported_content": "A message holds images or other parts that are not text",
    "invalid_tools": "A call, its result and the definitions of tools do not fit together",
    "wrong_order": "User and assistant do not alternate",
    "no_answer": "The conversation does not end with the assistant",
    "line_too_long": "The line is too long to be read",
    "invalid_encoding": "The line's bytes are no text in the file's encoding",
    "wrong_columns": "The row has more or fewer columns than the header",
    "invalid_csv": "The row is not valid CSV",
    "invalid_html": "The document is not readable HTML",
    "no_shared_prompt": "The chosen and the rejected answer do not answer one prompt",
}
"""Reason → words, for rows that cannot be read as training rows."""
CONTAMINATED = "contaminated"
UNFIT = {**filters.REASONS, CONTAMINATED: "Holds what stands in a test set"}
"""Reason → words, for readable rows that are not worth training on."""
DUPLICATE = "duplicate"
NEAR_DUPLICATE = "near_duplicate"
SEMANTIC_DUPLICATE = "semantic_duplicate"
CONFLICT = "conflict"
NOT_MIXED = "not_mixed"
GLOBAL = {
    DUPLICATE: "Says the same as another row, which is kept",
    NEAR_DUPLICATE: "Says nearly the same as another row, which is kept",
    SEMANTIC_DUPLICATE: "Says in other words what another row says, which is kept",
    CONFLICT: "Asks what another row asks, and answers differently",
    NOT_MIXED: "Its source has more rows than the mixing asks for",
}
"""Reason → words, for rows that are dropped because of other rows."""
REASONS = {**UNREADABLE, **UNFIT, **GLOBAL}
REMEDIES = {
    "invalid_json": "Write one JSON value a line, quotes and line breaks inside it escaped.",
    "duplicate_key": "Remove one of them, or give it a name of its own.",
    "not_an_object": "Write an object with named fields: {…}.",
    "missing_field": "Give the field, or map it by `fields` in the recipe.",
    "wrong_type": "Write text there.",
    "unsupported_role": "Name the role system, user or assistant, or leave the row out.",
    "unsupported_content": "Leave out what is not text.",
    "invalid_tools": "Define each function that is called in `tools`, and give each call and its result one id.",
    "wrong_order": "Let user and assistant take turns.",
    "no_answer": "End the conversation with the assistant's answer, or leave the row out.",
    "line_too_long": "Cut the row into several.",
    "invalid_encoding": "Save the file in one encoding, best UTF-8, or name it by `reading.encoding`.",
    "wrong_columns": "Put text that holds the delimiter or a line break in quotes.",
    "invalid_csv": "Close the quote that is open on this row.",
    "invalid_html": "Save the document as text or as whole HTML.",
    "no_shared_prompt": "Give `prompt` apart, or begin both answers with the same messages.",
}
"""Reason → what to do about it, of every reason in `UNREADABLE`."""

_EXAMPLES = 4
_VIOLATIONS = 20
_PLACES = 20
_RAW_CHARS = EXCERPT_CHARS + 20_000
"""Characters of an unreadable row that are looked at: a secret that begins in the piece shown is seen whole."""


@dataclass(slots=True)
class Shown:
    """Which blocks a process has given examples of: once four are of earlier blocks, those of a later one are too late.

    What is kept are the first examples in the order of the input, whoever worked the blocks off, and in whatever order.
    Making them costs a twentieth of a block's time. May be sent to another process.
    """

    given: dict[str, dict[int, int]] = field(default_factory=dict)
    """Reason or rule → number of a block → examples that it gave."""

    def enough(self, block: int) -> frozenset[str]:
        """Return the reasons and rules of which a block needs no example."""
        return frozenset(
            name
            for name, blocks in self.given.items()
            if sum(count for earlier, count in blocks.items() if earlier < block) >= _EXAMPLES
        )

    def note(self, block: int, counts: "Counts") -> None:
        """Take down which examples a block gave. It may be worked off twice."""
        sizes = {name: len(examples) for name, examples in counts.drop_examples.items()}
        sizes |= {name: len(examples) for name, examples in counts.change_examples.items()}
        for name, size in sizes.items():
            self.given.setdefault(name, {})[block] = size


class Unread(NamedTuple):
    """A row that cannot be read, and why."""

    source: Source
    line: int
    problem: Problem


@dataclass(slots=True)
class Counts:
    """What one block held; counts of blocks can be added up, in the order of the input."""

    rows: int = 0
    unreadable: int = 0
    cut: int = 0
    """Rows whose document was cut."""
    pieces: int = 0
    """Rows that came of them."""
    dropped: Counter[str] = field(default_factory=Counter)
    changes: Counter[str] = field(default_factory=Counter)
    changed_rows: int = 0
    markup_left: int = 0
    masked: Counter[str] = field(default_factory=Counter)
    """Kind of personal data → places masked."""
    drop_examples: dict[str, list[Example]] = field(default_factory=dict)
    change_examples: dict[str, list[Change]] = field(default_factory=dict)
    unread: list[Unread] = field(default_factory=list)
    """The first of them."""
    unreadable_lines: list[int] = field(default_factory=list)
    """The first of them."""
    lengths: NDArray[np.int64] = field(default_factory=lambda: np.zeros((2, histograms.BARS), np.int64))
    """Bars of question and answer lengths, characters, of all readable rows as they came."""
    contamination: Findings = field(default_factory=Findings)
    enough: frozenset[str] = frozenset()
    """Reasons and rules of which no example is wanted: earlier blocks gave them."""

    def drop(self, reason: str, example: Example | None = None) -> None:
        """Count a dropped row; the first few examples of each reason are kept."""
        self.dropped[reason] += 1
        if example is not None:
            self.add_example(reason, example)

    def add_example(self, reason: str, example: Example) -> None:
        """Keep an example of a dropped row while they are few."""
        if self.wants_example(reason):
            self.drop_examples.setdefault(reason, []).append(example)

    def wants_example(self, reason: str) -> bool:
        """Return True while examples of this reason are still few."""
        return reason not in self.enough and len(self.drop_examples.get(reason, ())) < _EXAMPLES

    def refuse(self, source: Source, line: Line, problem: Problem) -> None:
        """Count a row that cannot be read."""
        self.unreadable += 1
        if len(self.unreadable_lines) < _PLACES:
            self.unreadable_lines.append(line.number)
        if len(self.unread) < _VIOLATIONS:
            self.unread.append(Unread(source, line.number, problem))
        if not self.wants_example(problem.reason):
            self.drop(problem.reason)
            return
        text = excerpt_of(line, _RAW_CHARS)
        detail = f"{problem.field}: {problem.description}" if problem.field else problem.description
        self.drop(problem.reason, drop_example(source.name, line.number, detail, text))

    def change(
        self, file: str, line: int, rules: Mapping[str, int], before: Sequence[Message], after: Sequence[Message]
    ) -> None:
        """Count what the rules did to a row; `rules` holds rule → the first message it changed."""
        self.changed_rows += 1
        self.changes.update(rules.keys())
        for rule, index in rules.items():
            if rule in self.enough:
                continue
            examples = self.change_examples.setdefault(rule, [])
            if len(examples) < _EXAMPLES:
                examples.append(change_example(file, line, before[index], after[index]))

    def add(self, other: "Counts") -> None:
        """Add the counts of the next block."""
        self.rows += other.rows
        self.unreadable += other.unreadable
        self.cut += other.cut
        self.pieces += other.pieces
        self.changed_rows += other.changed_rows
        self.markup_left += other.markup_left
        self.dropped.update(other.dropped)
        self.changes.update(other.changes)
        self.masked.update(other.masked)
        self.lengths = self.lengths + other.lengths
        self.contamination.add(other.contamination)
        for reason, drops in other.drop_examples.items():
            kept = self.drop_examples.setdefault(reason, [])
            kept += drops[: _EXAMPLES - len(kept)]
        for rule, changes in other.change_examples.items():
            held = self.change_examples.setdefault(rule, [])
            held += changes[: _EXAMPLES - len(held)]
        self.unread += other.unread[: _VIOLATIONS - len(self.unread)]

    @property
    def violations(self) -> list[Violation]:
        """The first rows that cannot be read, with their places."""
        return [as_violation(*one) for one in self.unread]


@dataclass(slots=True)
class FileTally:
    """What one file held."""

    source: Source
    recognition: Recognition
    layout: Layout
    rows: int = 0
    """Pieces of documents counted each."""
    unreadable: int = 0
    cut: int = 0
    """Documents that were cut, where the file holds many."""
    pieces: int = 0
    """Rows that came of them."""
    unreadable_lines: list[int] = field(default_factory=list)
    """The first of them, counted as the layout counts."""


@dataclass(slots=True)
class Tally:
    """All counts of one run."""

    files: list[FileTally] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)

    def add(self, file: int, counts: Counts) -> None:
        """Add the counts of the next block, which is of this file."""
        self.files[file].rows += counts.rows
        self.files[file].unreadable += counts.unreadable
        self.files[file].cut += counts.cut
        self.files[file].pieces += counts.pieces
        lines = self.files[file].unreadable_lines
        lines += counts.unreadable_lines[: _PLACES - len(lines)]
        self.counts.add(counts)

    @property
    def rows_in(self) -> int:
        """Rows read."""
        return self.counts.rows

    @property
    def rows_out(self) -> int:
        """Rows kept."""
        return self.rows_in - self.counts.dropped.total()

    def refuse_if_unreadable(self, max_invalid_fraction: float) -> None:
        """Refuse the run if too many rows could not be read.

        Raises:
            InvalidData: with the first twenty places.
        """
        count = sum(self.counts.dropped[reason] for reason in UNREADABLE)
        if count <= max_invalid_fraction * self.rows_in:
            return
        first = self.counts.violations[0]
        raise InvalidData(
            f"{count:,} of {self.rows_in:,} rows ({count / self.rows_in:.1%}) cannot be read; max_invalid_fraction "
            f"allows {max_invalid_fraction:.1%}. The first: {first.field}: {first.description}",
            remedy="Correct the rows named, or raise max_invalid_fraction to drop them.",
            violations=self.counts.violations,
        )

    def refuse_if_nothing_left(self) -> None:
        """Refuse a run that would make an empty dataset.

        Raises:
            InvalidData: with the reasons, the most frequent first.
        """
        if self.rows_out:
            return
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in self.counts.dropped.most_common())
        names = ", ".join(file.source.name for file in self.files)
        raise InvalidData(
            f"{names}: no row is left of {self.rows_in:,} ({reasons})",
            remedy="Correct the rows, or loosen the setting that dropped most of them.",
            violations=self.counts.violations,
        )

    def by_rule(self) -> dict[str, int]:
        """Return rule → rows it changed, in the order of the rules."""
        return {rule: self.counts.changes[rule] for rule in RULE_WORDS if self.counts.changes[rule]}

    def by_reason(self) -> dict[str, int]:
        """Return reason → rows dropped, in the order of the stages."""
        return {reason: self.counts.dropped[reason] for reason in REASONS if self.counts.dropped[reason]}
