"""Bytes of model files on this machine, read at their place into memory that the caller gives. Knows no formats.

No file is mapped: pages of a mapped file count as the process's memory, and a cut file would end it by a signal.
"""

import os
import threading
from pathlib import Path
from typing import Protocol

from tunewright.chassis.errors import Refused


class Source(Protocol):
    """Where model files are read from; safe for threads."""

    def read_into(self, file: Path, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes of `file` from `offset` on.

        Raises:
            Refused: the file ends before.
        """

    def expect(self, file: Path, offset: int, size: int) -> None:
        """Hear that these bytes will be read soon."""


class LocalFiles:
    """Files on this machine, opened once each."""

    def __init__(self) -> None:
        self._descriptors: dict[Path, int] = {}
        self._lock = threading.Lock()

    def read_into(self, file: Path, offset: int, buffer: memoryview) -> None:
        """See Source."""
        descriptor = self._open(file)
        while buffer:
            count = os.preadv(descriptor, [buffer], offset)
            if not count:
                raise Refused(f"{file.name} ends before its header says", remedy="Fetch the file again.")
            buffer, offset = buffer[count:], offset + count

    def expect(self, file: Path, offset: int, size: int) -> None:
        """See Source: the kernel reads them ahead."""
        os.posix_fadvise(self._open(file), offset, size, os.POSIX_FADV_WILLNEED)

    def close(self) -> None:
        """Close all files."""
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()

    def _open(self, file: Path) -> int:
        with self._lock:
            if file not in self._descriptors:
                self._descriptors[file] = os.open(file, os.O_RDONLY)
            return self._descriptors[file]


def write_at(descriptor: int, data: memoryview, offset: int) -> None:
    """Write all of `data` at `offset`."""
    while data:
        count = os.pwrite(descriptor, data, offset)
        data, offset = data[count:], offset + count
