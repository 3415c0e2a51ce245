"""The map step: one block in; its clean rows into the scratch folder, their facts and counts out.

read → shape → clean, mask, filter → tokens → features. Runs in whatever process; knows no other block and decides
nothing that needs one.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import orjson
from numpy.typing import NDArray

from tunewright.dataprep import features as featuring
from tunewright.dataprep import histograms, repeated_lines, rules, scratch
from tunewright.dataprep.blocks import Block, read_block
from tunewright.dataprep.cleaning import ANSWERS, clean_messages
from tunewright.dataprep.comparing import compare
from tunewright.dataprep.contamination.table import Table
from tunewright.dataprep.dedup import worth
from tunewright.dataprep.excerpts import as_text, drop_example
from tunewright.dataprep.filters import reject_tokens
from tunewright.dataprep.kinds import RowKind, body_of
from tunewright.dataprep.parts import ASSISTANT, CHOSEN, REJECTED, TEXT, Parts
from tunewright.dataprep.problems import RowError
from tunewright.dataprep.readers import Line, Source, pieces
from tunewright.dataprep.rows import Facts
from tunewright.dataprep.shapes import Message, Recognition
from tunewright.dataprep.shaping import Shaper
from tunewright.dataprep.spec import DataprepSpec
from tunewright.dataprep.splitting import place
from tunewright.dataprep.tally import Counts, Shown
from tunewright.dataprep.tokens import TokenCounter

_ANSWERS = (ASSISTANT, CHOSEN, TEXT)


@dataclass(frozen=True, slots=True)
class Job:
    """All that is the same for every block."""

    spec: DataprepSpec
    sources: Sequence[Source]
    recognitions: Sequence[Recognition]
    kind: RowKind
    folder: Path
    """The scratch folder."""
    tests: Table | None = None
    """The test sets that rows are compared with."""
    counter: TokenCounter | None = None
    """Counts tokens as the base does; None where no base is known."""
    repeated: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Upload → lines of its documents that are furniture."""
    shown: Shown = field(default_factory=Shown, compare=False)
    """What this process has given examples of."""


@dataclass(frozen=True, slots=True)
class Mapped:
    """What became of a block."""

    block: Block
    facts: Facts
    counts: Counts


@dataclass(slots=True)
class _Read:
    """Rows of a block that could be read."""

    numbers: list[int] = field(default_factory=list)
    messages: list[list[Message]] = field(default_factory=list)
    keys: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Row → place of the group, and stratum, where the split goes by fields."""
    documents: dict[int, int] = field(default_factory=dict)
    """Row that is a piece of a document → the document's place."""
    trimmed: dict[int, list[Message]] = field(default_factory=dict)
    """Row that lost a block of repeated lines → what it was."""

    def add(self, number: int, messages: list[Message]) -> None:
        """Take a row of that line."""
        self.numbers.append(number)
        self.messages.append(messages)


@dataclass(frozen=True, slots=True)
class Worked:
    """All that came out of a block."""

    mapped: Mapped
    lines: list[bytes]
    """The rows as they will stand in the dataset."""
    bands: NDArray[np.uint64]
    """n × bands; `Features.bands`."""


def map_block(block: Block, job: Job) -> Mapped:
    """Work a block off; its rows and band keys go into the scratch folder.

    Raises:
        InvalidData: the file is broken in a way that leaves no rows behind that place.
    """
    worked = work_off(block, job)
    scratch.write_block(job.folder, block.number, worked.lines, worked.bands)
    return worked.mapped


def work_off(block: Block, job: Job) -> Worked:
    """Work a block off; writes nothing.

    Raises:
        InvalidData: the file is broken in a way that leaves no rows behind that place.
    """
    counts = Counts(enough=job.shown.enough(block.number))
    read = _read(block, job, counts)
    name = job.sources[block.file].name
    treated = rules.apply(read.messages, job.spec)
    counts.lengths += _raw_lengths(read.messages, treated.raw_sizes)
    tokens = _tokens(treated, job)
    counts.markup_left += len(treated.markup_left)
    counts.masked.update(treated.masked)
    for number, rejection in sorted(treated.rejections.items()):
        example = None
        if counts.wants_example(rejection.reason):
            text = as_text(treated.rows[number])
            example = drop_example(name, read.numbers[number], rejection.detail, text)
        counts.drop(rejection.reason, example)
    kept = [number for number in range(len(treated.rows)) if number not in treated.rejections]
    marks: dict[int, bytes] = {}
    if job.tests is not None:
        own, places = [treated.rows[number] for number in kept], [read.numbers[number] for number in kept]
        stay, marks = compare(own, places, name, job.tests, job.spec.contamination, counts)
        kept = [number for number, stays in zip(kept, stay.tolist(), strict=True) if stays]
    for number in read.trimmed:
        treated.changes[number] = {repeated_lines.RULE: 0, **treated.changes.get(number, {})}
    for number in sorted(treated.changes.keys() & set(kept)):
        before = read.trimmed.get(number, read.messages[number])
        counts.change(name, read.numbers[number], treated.changes[number], before, treated.rows[number])
    changes = np.array([len(treated.changes.get(number, ())) for number in kept], np.uint8)
    rows = [treated.rows[number] for number in kept]
    parts = Parts.of_messages(rows, treated.encoded_of(kept))
    lines, facts, bands = _describe(rows, parts, [read.numbers[number] for number in kept], name, changes, marks, job)
    keys = np.zeros((len(kept), 2), np.uint64)
    if read.keys:
        keys = np.array([read.keys[number] for number in kept], np.uint64).reshape(-1, 2)
    if read.documents:
        documents = np.array([read.documents.get(number, 0) for number in kept], np.uint64)
        facts["question"] = np.where(documents != 0, documents, facts["question"])
    if job.kind is RowKind.PREFERENCE:
        facts["prompt"], facts["answer"] = _contradictions(rows, job.spec.seed)
    facts["quality"], facts["tokens"] = treated.quality[kept], tokens[kept]
    facts["group"], facts["stratum"] = keys[:, 0].copy(), keys[:, 1].copy()
    job.shown.note(block.number, counts)
    return Worked(Mapped(block, Facts(**cast("Any", facts)), counts), lines, bands)


def _tokens(treated: rules.Treatment, job: Job) -> NDArray[np.uint32]:
    """Return the tokens of each row, 0 of those rejected before, and reject those with too few or too many."""
    tokens = np.zeros(len(treated.rows), np.uint32)
    if job.counter is None:
        return tokens
    numbers = [number for number in range(len(tokens)) if number not in treated.rejections]
    rows = [treated.rows[number] for number in numbers]
    tokens[numbers] = job.counter.count(rows, treated.encoded_of(numbers))
    if job.spec.filters.by_tokens:
        for number in numbers:
            if rejection := reject_tokens(int(tokens[number]), job.spec.filters):
                treated.rejections[number] = rejection
    return tokens


def _read(block: Block, job: Job, counts: Counts) -> _Read:  # noqa: C901 - a row's way, told once
    source = job.sources[block.file]
    recognition = job.recognitions[block.file]
    whole = place(source.name.encode(), job.spec.seed) if recognition.is_document else 0
    shaped = Shaper(recognition, job.spec.system_prompt)
    found = _Read()
    split, seed, limit = job.spec.split, job.spec.seed, source.reading.piece_chars
    repeated = job.repeated.get(source.input, frozenset())
    by_field = split.by not in {"cluster", "question"} or bool(split.stratify_by)
    simple = not (by_field or repeated or whole) and job.kind is RowKind.CONVERSATION
    for line, begins, ends in _with_edges(block, source, is_document=recognition.is_document):
        counts.rows += 1
        if simple and line.problem is None and (plain := shaped.plain(line.value)) is not None:
            found.add(line.number, plain)
            continue
        if line.problem is not None:
            counts.refuse(source, line, line.problem)
            continue
        try:
            messages = shaped(line.value)
            keys = (_key(line.value, split.by, seed), _key(line.value, split.stratify_by, seed)) if by_field else (0, 0)
        except RowError as error:
            counts.refuse(source, line, error.problem)
            continue
        original = messages
        if repeated and (begins or ends):
            text = repeated_lines.without_blocks(messages[0]["content"], repeated, begins=begins, ends=ends)
            if text != messages[0]["content"]:
                messages = [{"role": "text", "content": text}]
        rows, document = [messages], whole
        if job.kind is RowKind.TEXT and len(messages[0]["content"]) > limit:
            rows, document = _cut(messages, line.number, source, job.spec, counts)
        if messages is not original:
            found.trimmed[len(found.messages)] = original
        for row in rows:
            if by_field:
                found.keys[len(found.messages)] = keys
            if document:
                found.documents[len(found.messages)] = document
            found.add(line.number, row)
    return found


def _with_edges(block: Block, source: Source, *, is_document: bool) -> Iterator[tuple[Line, bool, bool]]:
    """Yield the rows of a block, and of each whether its document begins and ends with it.

    A row is a document of its own, unless the file is one. Of a packed file, blocks whose bytes were all read ahead
    with the file's last ones count as its end.
    """
    if not is_document:
        yield from ((line, True, True) for line in read_block(block, source))
        return
    begins = block.part.number == 0
    held: Line | None = None
    for line in read_block(block, source):
        if held is not None:
            yield held, begins, False
            begins = False
        held = line
    if held is not None:
        yield held, begins, block.end >= source.size_bytes


def _cut(
    messages: list[Message], number: int, source: Source, spec: DataprepSpec, counts: Counts
) -> tuple[list[list[Message]], int]:
    """Return a long document in pieces, and its place on the split's scale. Markup is cleaned while it is whole."""
    document = place(messages[0]["content"].encode("utf-8", "surrogatepass"), spec.seed)
    if "<" in messages[0]["content"]:
        cleaned = clean_messages(messages, spec.cleaning)
        if cleaned.rules:
            counts.change(source.name, number, cleaned.rules, messages, cleaned.messages)
            messages = cleaned.messages
    texts = [piece for piece in pieces(messages[0]["content"], source.reading.piece_chars) if piece.strip()] or [""]
    rows: list[list[Message]] = [[{"role": "text", "content": piece.strip("\n")}] for piece in texts]
    if len(rows) > 1:
        counts.rows += len(rows) - 1
        counts.cut += 1
        counts.pieces += len(rows)
    return rows, document


def _key(value: dict[str, object], name: str, seed: int) -> int:
    """Return the place of a field's value; of no field, where the split does not go by one.

    Raises:
        RowError: the row does not have the field.
    """
    if not name or name in {"cluster", "question"}:
        return 0
    if name not in value:
        raise RowError("missing_field", name, "is missing; the split goes by this field")
    return place(orjson.dumps(value[name], option=orjson.OPT_SORT_KEYS), seed)


def _raw_lengths(rows: list[list[Message]], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the bars of question and answer lengths, given those of messages; rejected answers count as neither."""
    roles = [message["role"] for row in rows for message in row]
    is_answer = np.array([role in ANSWERS for role in roles], np.bool_)
    is_other = ~is_answer & np.array([role != "rejected" for role in roles], np.bool_)
    owner = np.repeat(np.arange(len(rows)), np.fromiter(map(len, rows), np.int64, len(rows)))
    sides = (np.bincount(owner, sizes * side, len(rows)).astype(np.int64) for side in (is_other, is_answer))
    return np.stack([histograms.bars(side) for side in sides])


def _describe(
    rows: list[list[Message]],
    parts: Parts,
    numbers: list[int],
    name: str,
    changes: NDArray[np.uint8],
    marks: dict[int, bytes],
    job: Job,
) -> tuple[list[bytes], dict[str, NDArray[np.generic]], NDArray[np.uint64]]:
    """Return the lines of clean rows, their facts, and their band keys; `marks` go into the lines of some rows."""
    found = featuring.features(parts, job.spec.duplicates, seed=job.spec.seed)
    bodies = [body_of(messages, job.kind) for messages in rows]
    digest = np.frombuffer(b"".join([hashlib.sha256(body).digest() for body in bodies]), np.uint8).reshape(-1, 32)
    identity = found.identity.tobytes().hex()
    tail = b',"source":{"file":' + orjson.dumps(name) + b',"line":'
    lines = [
        b'{"id":"%b",%b%b%d}%b}\n'
        % (identity[64 * row : 64 * row + 64].encode(), body, tail, number, marks.get(row, b""))
        for row, (body, number) in enumerate(zip(bodies, numbers, strict=True))
    ]
    answers, others = _lengths(parts, found.sizes)
    facts: dict[str, NDArray[np.generic]] = {
        "sizes": np.fromiter(map(len, lines), np.uint32, len(lines)),
        "identity": np.ascontiguousarray(found.identity[:, :16]).view(np.uint64),
        "digest": digest,
        "worth": worth(changes, found.distinct, digest),
        "question": found.question,
        "prompt": found.prompt if job.kind is RowKind.CONVERSATION else np.zeros(len(rows), np.uint64),
        "answer": found.answer,
        "question_chars": others,
        "answer_chars": answers,
    }
    return lines, facts, found.bands


def _contradictions(rows: list[list[Message]], seed: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Return for each pair what it compares, and what it prefers: pairs may prefer one thing both ways."""
    compared = [[*row[:-2], *sorted(message["content"] for message in row[-2:])] for row in rows]
    prefers = [row[-2]["content"] for row in rows]
    return (
        np.array([place(orjson.dumps(value), seed) for value in compared], np.uint64),
        np.array([place(value.encode("utf-8", "surrogatepass"), seed) for value in prefers], np.uint64),
    )


def _lengths(parts: Parts, sizes: NDArray[np.int64]) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Return each row's characters, given those of each part: those of answers, and all others but rejected answers."""
    owner = np.repeat(np.arange(len(parts)), np.diff(parts.rows, prepend=0))
    is_answer = np.isin(parts.roles, _ANSWERS)
    answers = np.bincount(owner[is_answer], sizes[is_answer], len(parts)).astype(np.uint32)
    is_other = ~is_answer & (parts.roles != REJECTED)
    return answers, np.bincount(owner[is_other], sizes[is_other], len(parts)).astype(np.uint32)
