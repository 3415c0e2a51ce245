"""Reads the rows of test sets: by the same readers, shapes, cleaning and masking as training rows. Knows no hashes.

Where a row is no conversation (a benchmark's own fields, a question without an answer), all its texts are compared.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tunewright.chassis.errors import InvalidData
from tunewright.chassis.stage import Reporter, Severity
from tunewright.dataprep import rules
from tunewright.dataprep.blocks import BLOCK_BYTES, Block, blocks, read_block
from tunewright.dataprep.contamination.table import Table, TestRows, build
from tunewright.dataprep.parts import Parts
from tunewright.dataprep.problems import RowError
from tunewright.dataprep.readers import Source, examine
from tunewright.dataprep.shapes import Message, recognise
from tunewright.dataprep.shaping import Shaper
from tunewright.dataprep.spec import DataprepSpec
from tunewright.dataprep.uploads import Files

_DEEPEST = 8
"""Levels of objects and lists in which texts are looked for."""


def read_table(files: Files, spec: DataprepSpec, folder: Path, report: Reporter) -> Table | None:
    """Return the table of a run's test sets; None where there are none, or rows are not to be compared with them.

    Raises:
        InvalidData: a file of a test set cannot be read, or has no text at all.
    """
    if not files.test or spec.contamination.action == "off":
        return None
    names = list(dict.fromkeys(files.test_names))
    pieces = _read(files.test, [names.index(name) for name in files.test_names], names, spec, report)
    return build(pieces, names, [source.name for source in files.test], spec.contamination.ngram, folder)


def _read(
    sources: Sequence[Source], sets: Sequence[int], names: Sequence[str], spec: DataprepSpec, report: Reporter
) -> Iterator[TestRows]:
    """Yield the rows of all test files; `sets` holds the number of each file's set, `names` the names of the sets."""
    shapers = [_shaper(source, names[test], report) for source, test in zip(sources, sets, strict=True)]
    texts, broken = [0] * len(sources), [0] * len(sources)
    for block in blocks(sources, BLOCK_BYTES):
        report.raise_if_stopped()
        source = sources[block.file]
        lines, rows = _rows(block, source, shapers[block.file])
        texts[block.file] += len(rows)
        broken[block.file] += len(lines) - len(rows)
        if rows:
            cleaned = rules.apply(rows, spec).rows
            numbers = [number for number in lines if number]
            yield TestRows(sets[block.file], block.file, numbers, Parts.of_messages(cleaned))
    for source, count, lost in zip(sources, texts, broken, strict=True):
        if not count:
            raise InvalidData(
                f"test set {source.name} holds no row with text",
                remedy="Give a file with questions and answers, or with any texts, one object a row.",
            )
        if lost:
            text = f"{source.name}: {lost:,} rows of this test set cannot be read and are compared with nothing"
            report.event("test_rows_unreadable", text, severity=Severity.WARNING, rows=lost, file=source.name)


def _shaper(source: Source, name: str, report: Reporter) -> Shaper | None:
    layout = examine(source).words()
    try:
        seen = recognise(source, source.reading.format)
    except InvalidData:
        if source.reading.fields or source.reading.format != "auto":
            raise
        text = f"{source.name}: test set {name}, {layout}; its rows are no conversations: all their texts are compared"
        report.event("test_set", text, file=source.name, name=name, layout=layout, shape="")
        return None
    text = f"{source.name}: test set {name}, {layout}; {seen.words()}"
    report.event("test_set", text, file=source.name, name=name, layout=layout, shape=seen.shape)
    return Shaper(seen)


def _rows(block: Block, source: Source, shaper: Shaper | None) -> tuple[list[int], list[list[Message]]]:
    """Return line numbers, 0 for each row that cannot be read or has no text, and the rows of the others."""
    lines: list[int] = []
    rows: list[list[Message]] = []
    for line in read_block(block, source):
        messages = [] if line.problem is not None else _messages(line.value, shaper)
        lines.append(line.number if messages else 0)
        if messages:
            rows.append(messages)
    return lines, rows


def _messages(value: Any, shaper: Shaper | None) -> list[Message]:  # noqa: ANN401 - any JSON value
    if shaper is not None:
        try:
            return shaper(value)
        except RowError:
            pass  # not a row to train on, but its texts are a test's all the same
    return [{"role": "user", "content": text} for text in _texts(value, _DEEPEST)]


def _texts(value: Any, deepest: int) -> Iterator[str]:  # noqa: ANN401 - any JSON value
    if isinstance(value, str):
        if value.strip():
            yield value
    elif deepest and isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part, deepest - 1)
