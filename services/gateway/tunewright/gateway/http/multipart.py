"""A multipart form with one file, streamed to disk: nothing of it is held in memory. Knows nothing of stores.

Starlette's own form parser would spool the file into the temporary directory first and copy it from there.
"""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from tunewright.chassis.errors import InvalidSpec, Violation
from tunewright.gateway.http.errors import TooLarge

_MAX_FIELD_BYTES = 1 << 16
_MAX_PARTS = 16
_ODD_CHARACTERS = re.compile(r"[^\w.+@ -]")


@dataclass
class Form:
    """What a form held."""

    fields: dict[str, str] = field(default_factory=dict)
    filename: str | None = None
    """The file's own name, without folders and odd characters; None if there was no file."""
    size_bytes: int = 0


async def read_form(
    chunks: AsyncIterator[bytes], content_type: str, folder: Path, *, max_bytes: int, field_name: str = "file"
) -> Form:
    """Read a form; its file lies in `folder` under the name that it tells.

    Args:
        chunks: the body of the request.
        content_type: header with the boundary.
        folder: an empty folder.
        max_bytes: largest size of the file.
        field_name: the field that holds it.

    Raises:
        InvalidSpec: not a form, or a damaged one.
        TooLarge: the file is larger than `max_bytes`; what was written stays in the folder.
    """
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data" or b"boundary" not in options:
        raise InvalidSpec(f"The request must be multipart/form-data with a `{field_name}`.")
    reader = _Reader(folder, max_bytes, field_name)
    parser = MultipartParser(options[b"boundary"], reader.callbacks())  # type: ignore[arg-type] # its TypedDict is total
    try:
        async for chunk in chunks:
            parser.write(chunk)
        parser.finalize()
    except MultipartParseError as error:
        raise InvalidSpec(f"The form is damaged: {error}") from error
    finally:
        reader.close()
    if not reader.ended:
        raise InvalidSpec("The form ends before its closing boundary: the upload was cut off.")
    return reader.form


class _Reader:
    """Takes the parser's callbacks, one part after the other."""

    def __init__(self, folder: Path, max_bytes: int, field_name: str) -> None:
        self.form = Form()
        self._field_name = field_name
        self.ended = False
        self._folder = folder
        self._max_bytes = max_bytes
        self._file: BinaryIO | None = None
        self._parts = 0
        self._reset()

    def callbacks(self) -> dict[str, object]:
        """Return what the parser is to call at which event."""
        return {
            "on_part_begin": self._reset,
            "on_header_field": self._on_header_field,
            "on_header_value": self._on_header_value,
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers_finished,
            "on_part_data": self._on_data,
            "on_part_end": self._on_part_end,
            "on_end": self._on_end,
        }

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _reset(self) -> None:
        self._header = self._value = b""
        self._disposition = b""
        self._name = ""
        self._text = b""

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]
        self._check_field(self._header)

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]
        self._check_field(self._value)

    def _on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def _on_headers_finished(self) -> None:
        self._parts += 1
        if self._parts > _MAX_PARTS:
            raise InvalidSpec(f"A form of at most {_MAX_PARTS} parts is expected.")
        _kind, options = parse_options_header(self._disposition)
        self._name = options.get(b"name", b"").decode(errors="replace")
        if b"filename" in options:
            self._open(options[b"filename"].decode(errors="replace"))

    def _open(self, filename: str) -> None:
        if self._name != self._field_name or self.form.filename is not None:
            raise InvalidSpec(
                f"One file is expected, in the field `{self._field_name}`.",
                violations=[Violation(self._field_name, "one is expected")],
            )
        self.form.filename = safe_name(filename)
        self._file = (self._folder / self.form.filename).open("xb")

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        if self._file is None:
            self._text += data[start:end]
            self._check_field(self._text)
            return
        self.form.size_bytes += end - start
        if self.form.size_bytes > self._max_bytes:
            raise TooLarge(
                f"The file is larger than {self._max_bytes} bytes.",
                violations=[Violation(self._field_name, "too large")],
            )
        self._file.write(data[start:end])

    def _on_part_end(self) -> None:
        if self._file is not None:
            self.close()
        else:
            self.form.fields[self._name] = self._text.decode(errors="replace")

    def _on_end(self) -> None:
        self.ended = True

    def _check_field(self, value: bytes) -> None:
        if len(value) > _MAX_FIELD_BYTES:
            raise TooLarge(f"A field of the form is larger than {_MAX_FIELD_BYTES} bytes.")


def safe_name(filename: str) -> str:
    """Return a plain file name: no folders, no odd characters, at most 200 bytes, never empty or hidden."""
    plain = _ODD_CHARACTERS.sub("_", filename.replace("\\", "/").rpartition("/")[2]).strip(". ")
    while len(plain.encode()) > 200:  # noqa: PLR2004 - file systems take 255 bytes, and we add to it
        plain = plain[1:]
    return plain or "upload"
