"""Clean rows on their way: their lines in a scratch file, their facts in memory, about 100 bytes a row.

Knows nothing of cleaning, duplicates and splits; rows are numbered in the order in which they come.
"""

import tempfile
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

from tunewright.dataprep.shapes import Message

_DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True)
class Row:
    """One clean row."""

    file: str
    line: int
    messages: list[Message]
    identity: bytes
    """SHA-256 of its roles and normalised texts: the row's id."""
    digest: bytes
    """SHA-256 of its messages to the last character."""
    question: int
    """Place of its question on the scale of the split."""
    worth: int
    """Quality among rows of the same identity."""

    def to_line(self) -> bytes:
        """Return the row as it stands in the dataset."""
        source = {"file": self.file, "line": self.line}
        document = {"id": self.identity.hex(), "messages": self.messages, "source": source}
        return orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)


class RowStore:
    """Rows between the first and the second pass. The scratch file has no name, so nothing of it can be left behind."""

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder, buffering=1 << 20)  # noqa: SIM115 - closed by __exit__
        self._ends = array("Q", [0])
        self._digests = bytearray()
        self._files: list[str] = []
        self._file_numbers = array("L")
        self.questions = array("Q")
        """Place of each row's question."""
        self.question_chars = array("L")
        """Characters of each row's system and user messages."""
        self.answer_chars = array("L")
        """Characters of each row's assistant messages."""

    def __len__(self) -> int:
        return len(self.questions)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, row: Row) -> None:
        """Take the next row."""
        line = row.to_line()
        self._file.write(line)
        self._ends.append(self._ends[-1] + len(line))
        self._digests += row.digest
        self.questions.append(row.question)
        answer = sum(len(message["content"]) for message in row.messages if message["role"] == "assistant")
        self.answer_chars.append(answer)
        self.question_chars.append(sum(len(message["content"]) for message in row.messages) - answer)
        if not self._files or self._files[-1] != row.file:
            self._files.append(row.file)
        self._file_numbers.append(len(self._files) - 1)

    def lines(self) -> Iterator[bytes]:
        """Yield all rows as they stand in the dataset, in order."""
        self._file.seek(0)
        yield from self._file

    def read(self, number: int) -> dict[str, Any]:
        """Return one row, parsed; not to be called while `lines` is being read."""
        self._file.seek(self._ends[number])
        line: dict[str, Any] = orjson.loads(self._file.read(self._ends[number + 1] - self._ends[number]))
        return line

    def digest(self, number: int) -> bytes:
        """Return the SHA-256 of a row's messages."""
        return bytes(self._digests[number * _DIGEST_BYTES : (number + 1) * _DIGEST_BYTES])

    def file(self, number: int) -> str:
        """Return the name of the file that a row came from."""
        return self._files[self._file_numbers[number]]
