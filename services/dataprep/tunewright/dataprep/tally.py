"""Counts what happens to rows, and keeps a few examples of each, so that every figure can be looked at.

The sum always holds: rows in = rows out + rows dropped, by reason. Knows nothing of how anything is decided.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypedDict

from tunewright.chassis.errors import InvalidData, Violation
from tunewright.dataprep.cleaning import RULES, Cleaned
from tunewright.dataprep.reading import Line, Problem, Source, as_violation
from tunewright.dataprep.shapes import Message, Recognition

UNREADABLE = {
    "invalid_json": "The line is not valid JSON",
    "not_an_object": "The line is JSON, but no object",
    "missing_field": "A field that the file's shape needs is missing",
    "wrong_type": "A field holds something other than text or messages",
    "unsupported_role": "A message has a role other than system, user or assistant",
    "unsupported_content": "A message holds images, tool calls or other parts that are not text",
    "wrong_order": "User and assistant do not alternate",
    "no_answer": "The conversation does not end with the assistant",
    "line_too_long": "The line is too long to be read",
}
"""Reason → words, for rows that cannot be read as training rows."""
UNFIT = {
    "empty_question": "A question without text, after cleaning",
    "empty_answer": "An answer without text, after cleaning",
    "answer_too_short": "Answers shorter than min_answer_chars",
    "too_long": "Messages longer than max_chars together",
}
"""Reason → words, for readable rows that are not worth training on."""
DUPLICATE = "duplicate"
REASONS = {**UNREADABLE, **UNFIT, DUPLICATE: "Says the same as another row, which is kept"}

_EXAMPLES = 4
_VIOLATIONS = 20
_EXCERPT_CHARS = 600
_LEAD_CHARS = 80


class Example(TypedDict):
    """A dropped row."""

    file: str
    line: int
    detail: str
    """What is wrong with it, with the field where one is."""
    text: str
    kept: str
    """Text of the row that is kept in its place; empty where there is none."""


class Change(TypedDict):
    """A message before and after cleaning."""

    file: str
    line: int
    role: str
    before: str
    after: str


@dataclass(slots=True)
class FileTally:
    """What one file held."""

    source: Source
    recognition: Recognition
    rows: int = 0
    unreadable: int = 0
    kept: int = 0


@dataclass(slots=True)
class Tally:
    """All counts of one run."""

    files: list[FileTally] = field(default_factory=list)
    rows_in: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    changes: Counter[str] = field(default_factory=Counter)
    changed_rows: int = 0
    markup_left: int = 0
    drop_examples: dict[str, list[Example]] = field(default_factory=dict)
    change_examples: dict[str, list[Change]] = field(default_factory=dict)
    violations: list[Violation] = field(default_factory=list)

    def begin(self, source: Source, recognition: Recognition) -> None:
        """Start counting for the next file."""
        self.files.append(FileTally(source, recognition))

    def read(self) -> None:
        """Count one line that is not blank."""
        self.rows_in += 1
        self.files[-1].rows += 1

    def unreadable(self, line: Line, problem: Problem) -> None:
        """Count a row that cannot be read."""
        file = self.files[-1]
        file.unreadable += 1
        place = as_violation(file.source, line.number, problem)
        if len(self.violations) < _VIOLATIONS:
            self.violations.append(place)
        text = line.raw[: 4 * _EXCERPT_CHARS].decode("utf-8", "ignore")
        detail = f"{problem.field}: {problem.description}" if problem.field else problem.description
        self.drop(problem.reason, drop_example(file.source.name, line.number, detail, text))

    def drop(self, reason: str, example: Example | None = None) -> None:
        """Count a dropped row; the first few examples of each reason are kept."""
        self.dropped[reason] += 1
        if example is not None and self.wants_example(reason):
            self.drop_examples.setdefault(reason, []).append(example)

    def wants_example(self, reason: str) -> bool:
        """Return True while examples of this reason are still few."""
        return len(self.drop_examples.get(reason, ())) < _EXAMPLES

    def changed(self, line: int, before: Sequence[Message], cleaned: Cleaned) -> None:
        """Count what cleaning did to a row."""
        self.markup_left += cleaned.markup_left
        self.changed_rows += bool(cleaned.rules)
        self.changes.update(cleaned.rules.keys())
        for rule, index in cleaned.rules.items():
            examples = self.change_examples.setdefault(rule, [])
            if len(examples) < _EXAMPLES:
                old, new = before[index]["content"], cleaned.messages[index]["content"]
                start = max(0, _common_prefix(old, new) - _LEAD_CHARS)
                examples.append(
                    {
                        "file": self.files[-1].source.name,
                        "line": line,
                        "role": before[index]["role"],
                        "before": excerpt(old, start),
                        "after": excerpt(new, start),
                    }
                )

    @property
    def rows_out(self) -> int:
        """Rows kept."""
        return self.rows_in - self.dropped.total()

    def refuse_if_unreadable(self, max_invalid_fraction: float) -> None:
        """Refuse the run if too many rows could not be read.

        Raises:
            InvalidData: with the first twenty places.
        """
        count = sum(self.dropped[reason] for reason in UNREADABLE)
        if count <= max_invalid_fraction * self.rows_in:
            return
        first = self.violations[0]
        raise InvalidData(
            f"{count:,} of {self.rows_in:,} rows ({count / self.rows_in:.1%}) cannot be read; max_invalid_fraction "
            f"allows {max_invalid_fraction:.1%}. The first: {first.field}: {first.description}",
            remedy="Correct the rows named, or raise max_invalid_fraction to drop them.",
            violations=self.violations,
        )

    def refuse_if_nothing_left(self) -> None:
        """Refuse a run that would make an empty dataset.

        Raises:
            InvalidData: with the reasons, the most frequent first.
        """
        if self.rows_out:
            return
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in self.dropped.most_common())
        names = ", ".join(file.source.name for file in self.files)
        raise InvalidData(
            f"{names}: no row is left of {self.rows_in:,} ({reasons})",
            remedy="Correct the rows, or loosen the setting that dropped most of them.",
            violations=self.violations,
        )

    def by_rule(self) -> dict[str, int]:
        """Return rule → rows it changed, in the order of the rules."""
        return {rule: self.changes[rule] for rule in RULES if self.changes[rule]}

    def by_reason(self) -> dict[str, int]:
        """Return reason → rows dropped, in the order of the stages."""
        return {reason: self.dropped[reason] for reason in REASONS if self.dropped[reason]}


def drop_example(file: str, line: int, detail: str, text: str, kept: str = "") -> Example:
    """Return an example with its texts cut to a readable length."""
    return {"file": file, "line": line, "detail": detail, "text": excerpt(text), "kept": excerpt(kept)}


def excerpt(text: str, start: int = 0) -> str:
    """Return a piece of the text, with an ellipsis where something is left out."""
    piece = text[start : start + _EXCERPT_CHARS]
    return ("…" if start else "") + piece + ("…" if start + _EXCERPT_CHARS < len(text) else "")


def _common_prefix(one: str, other: str) -> int:
    length = min(len(one), len(other))
    return next((index for index in range(length) if one[index] != other[index]), length)
