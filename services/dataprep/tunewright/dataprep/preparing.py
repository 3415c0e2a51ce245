"""The first pass: lines of one file in, clean rows out, all else into the tally. Knows no duplicates, no split."""

import hashlib
import itertools
from collections.abc import Iterator

import orjson

from tunewright.dataprep.cleaning import Cleaned
from tunewright.dataprep.dedup import quality
from tunewright.dataprep.filters import Rejection
from tunewright.dataprep.normalising import identity, normalise, question_form
from tunewright.dataprep.reading import Line, Source, read_lines
from tunewright.dataprep.rows import Row
from tunewright.dataprep.rules import Treatment, apply
from tunewright.dataprep.shapes import Message, RowError, Shape, to_messages
from tunewright.dataprep.spec import DataprepSpec
from tunewright.dataprep.splitting import place
from tunewright.dataprep.tally import Tally, drop_example

_BATCH = 256
"""Rows that the rules take at once."""


def prepare(source: Source, shape: Shape, spec: DataprepSpec, tally: Tally) -> Iterator[tuple[Line, Row | None]]:
    """Yield each line of a file with its clean row, or with None where the row was dropped (and counted)."""
    lines = iter(read_lines(source))
    while batch := list(itertools.islice(lines, _BATCH)):
        shaped = [(line, _shape(line, shape, spec, tally)) for line in batch]
        done = apply([raw for _, raw in shaped if raw is not None], spec)
        number = 0
        for line, raw in shaped:
            tally.read()
            yield line, None if raw is None else _finish(line, raw, done, number, source, spec, tally)
            number += raw is not None


def _shape(line: Line, shape: Shape, spec: DataprepSpec, tally: Tally) -> list[Message] | None:
    if line.problem is not None:
        tally.unreadable(line, line.problem)
        return None
    try:
        return to_messages(line.value, shape, spec.system_prompt)
    except RowError as error:
        tally.unreadable(line, error.problem)
        return None


def _finish(
    line: Line, raw: list[Message], done: Treatment, number: int, source: Source, spec: DataprepSpec, tally: Tally
) -> Row | None:
    messages, rules = done.rows[number], done.changes.get(number, {})
    if rejection := done.rejections.get(number):
        _drop(rejection, messages, line, source, tally)
        return None
    tally.changed(line.number, raw, Cleaned(messages, rules, number in done.markup_left))
    return _row(messages, len(rules), source.name, line.number, spec.seed)


def _row(messages: list[Message], changes: int, file: str, line: int, seed: int) -> Row:
    forms = [normalise(message["content"]) for message in messages]
    digest = hashlib.sha256(orjson.dumps(messages)).digest()
    return Row(
        file=file,
        line=line,
        messages=messages,
        identity=identity(forms, messages),
        digest=digest,
        question=place(question_form(forms, messages).encode(), seed),
        worth=quality(changes, [message["content"] for message in messages], digest),
    )


def _drop(rejection: Rejection, messages: list[Message], line: Line, source: Source, tally: Tally) -> None:
    tally.drop(rejection.reason, drop_example(source.name, line.number, rejection.detail, as_text(messages)))


def as_text(messages: list[Message]) -> str:
    """Return the messages for people, a role before each."""
    return "\n".join(f"{message['role']}: {message['content']}" for message in messages)
