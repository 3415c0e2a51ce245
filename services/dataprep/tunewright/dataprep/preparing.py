"""The first pass: lines of one file in, clean rows out, all else into the tally. Knows no duplicates, no split."""

import hashlib
from collections.abc import Iterator

import orjson

from tunewright.dataprep.cleaning import clean_messages
from tunewright.dataprep.dedup import quality
from tunewright.dataprep.filters import Rejection, reject, reject_raw
from tunewright.dataprep.normalising import identity, normalise, question_form
from tunewright.dataprep.reading import Line, Source, read_lines
from tunewright.dataprep.rows import Row
from tunewright.dataprep.shapes import Message, RowError, Shape, to_messages
from tunewright.dataprep.spec import DataprepSpec
from tunewright.dataprep.splitting import place
from tunewright.dataprep.tally import Tally, drop_example


def prepare(source: Source, shape: Shape, spec: DataprepSpec, tally: Tally) -> Iterator[tuple[Line, Row | None]]:
    """Yield each line of a file with its clean row, or with None where the row was dropped (and counted)."""
    for line in read_lines(source):
        tally.read()
        yield line, _prepare(line, source, shape, spec, tally)


def _prepare(line: Line, source: Source, shape: Shape, spec: DataprepSpec, tally: Tally) -> Row | None:
    if line.problem is not None:
        tally.unreadable(line, line.problem)
        return None
    try:
        raw = to_messages(line.value, shape, spec.system_prompt)
    except RowError as error:
        tally.unreadable(line, error.problem)
        return None
    if rejection := reject_raw(raw, spec):
        _drop(rejection, raw, line, source, tally)
        return None
    cleaned = clean_messages(raw, strip_html=spec.cleaning.html)
    if rejection := reject(cleaned.messages, spec):
        _drop(rejection, cleaned.messages, line, source, tally)
        return None
    tally.changed(line.number, raw, cleaned)
    return _row(cleaned.messages, len(cleaned.rules), source.name, line.number, spec.seed)


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
