"""Looks at the documents of each upload before they are prepared, to know the lines that are its site's furniture.

A look, not a reading: of one file its beginning, of a folder every so many files. Knows no rules.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence

from tunewright.dataprep.problems import RowError
from tunewright.dataprep.readers import Source, examine, read_lines
from tunewright.dataprep.repeated_lines import find_repeated
from tunewright.dataprep.shapes import Recognition
from tunewright.dataprep.shaping import Shaper

LOOKED_AT_BYTES = 32 << 20
"""Of each upload, at most."""


def repeated_in(sources: Sequence[Source], recognitions: Sequence[Recognition]) -> dict[str, frozenset[str]]:
    """Return upload → its repeated lines; of uploads that have none, nothing. A file cut into pieces is one document.

    Args:
        sources: files that hold documents.
        recognitions: what each of them is.
    """
    uploads: dict[str, list[tuple[Source, Recognition]]] = defaultdict(list)
    for source, seen in zip(sources, recognitions, strict=True):
        uploads[source.input].append((source, seen))
    found = {name: find_repeated(_texts(files)) for name, files in uploads.items()}
    return {name: lines for name, lines in found.items() if lines}


def _texts(files: Sequence[tuple[Source, Recognition]]) -> Iterator[str]:
    total = sum(source.size_bytes for source, _ in files)
    step = min(len(files), max(1, math.ceil(total / LOOKED_AT_BYTES)))
    left = LOOKED_AT_BYTES
    for source, seen in files[::step]:
        texts = _rows_of(source, seen, left)
        for text in ["\n".join(texts)] if seen.is_document else texts:
            left -= len(text)
            yield text
        if left <= 0:
            return


def _rows_of(source: Source, seen: Recognition, most: int) -> Iterator[str]:
    """Yield the texts of a file's rows, until they have as many characters as `most`."""
    shaped = Shaper(seen)
    for line in read_lines(source, examine(source)):
        if line.problem is not None:
            continue
        try:
            text = shaped(line.value)[0]["content"]
        except RowError:
            continue
        yield text
        most -= len(text)
        if most <= 0:
            return
