"""Bytes of a file in order, whatever it is packed in: decompressed, converted to UTF-8, carriage returns made newlines.

Knows no rows. Memory: one piece at a time; nothing is ever unpacked to disk.
"""

import codecs
import lzma
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from tunewright.chassis.errors import InvalidData, Violation

_READ_BYTES = 1 << 20


class Stream:
    """Reads a file as UTF-8 from its first character on; made by `open_stream`."""

    def __init__(self, name: str, file: BinaryIO, unpacked: BinaryIO, codec: str, *, carriage_returns: bool) -> None:
        self._name = name
        self._file = file
        self._unpacked = unpacked
        self._decoder = codecs.getincrementaldecoder(codec)() if codec else None
        self._carriage_returns = carriage_returns
        self._decoded = 0

    @property
    def file_offset(self) -> int:
        """Bytes of the file on disk that were read so far."""
        return self._file.tell()

    def read(self, size: int) -> bytes:
        """Return about `size` more bytes, at least one; empty at the end.

        Raises:
            InvalidData: the archive is broken or cut off, or bytes are no text in the file's encoding.
        """
        while True:
            piece = self._read(size)
            if self._decoder is not None:
                piece, ended = self._decode(piece), not piece
            else:
                ended = not piece
            if piece or ended:
                return piece.replace(b"\r", b"\n") if self._carriage_returns else piece

    def _read(self, size: int) -> bytes:
        try:
            return bytes(self._unpacked.read(size))
        except (OSError, EOFError, lzma.LZMAError, pa.ArrowException) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise InvalidData(
                f"{self._name}: the archive is broken or cut off near byte {self.file_offset:,}: {error}",
                remedy="Compress it again, or upload it again.",
                violations=[Violation(self._name, str(error))],
            ) from error

    def _decode(self, piece: bytes) -> bytes:
        assert self._decoder is not None  # noqa: S101 - for the type checker
        pending = len(self._decoder.getstate()[0])
        try:
            text = self._decoder.decode(piece, not piece)
        except UnicodeDecodeError as error:
            offset = self._decoded - pending + error.start
            raise InvalidData(
                f"{self._name} is no {error.encoding}: byte 0x{error.object[error.start]:02x} at offset {offset:,}: "
                f"{error.reason}",
                remedy="Convert the file to UTF-8.",
                violations=[Violation(self._name, f"byte at offset {offset} is no {error.encoding}")],
            ) from error
        self._decoded += len(piece)
        return text.encode("utf-8", "surrogatepass")


@contextmanager
def open_stream(
    name: str, path: Path, compression: str, codec: str = "", *, skip: int = 0, carriage_returns: bool = False
) -> Iterator[Stream]:
    """Open a file as a stream.

    Args:
        name: what to call it in errors.
        path: the file.
        compression: empty, gzip, zstd, bz2 or xz.
        codec: convert from this encoding; empty if the bytes are to be taken as they are.
        skip: bytes to leave out at the beginning, after unpacking (a byte order mark).
        carriage_returns: lines end with a carriage return alone; each becomes a newline.
    """
    with path.open("rb", buffering=0) as file, unpack(file, compression) as unpacked:
        stream = Stream(name, file, unpacked, codec, carriage_returns=carriage_returns)
        left = skip
        while left and (piece := stream._read(left)):  # noqa: SLF001 - the same module
            left -= len(piece)
        stream._decoded = skip  # noqa: SLF001 - offsets are those of the file
        yield stream


@contextmanager
def unpack(file: BinaryIO, compression: str) -> Iterator[BinaryIO]:
    """Return a file that gives the unpacked bytes; several members or frames in a row are one text."""
    if compression == "xz":
        with lzma.LZMAFile(file) as unpacked:
            yield unpacked  # type: ignore[misc]  # it reads as one
    elif compression:
        with pa.CompressedInputStream(pa.PythonFile(file, mode="r"), compression) as unpacked:
            yield unpacked
    else:
        yield file
