"""The files of a model while they are written: room taken first, parts noted when they are there, names given last.

What a process that was killed left behind is gone on with: each part's checksum is noted once its bytes are written,
and a part counts as there only if it still has that checksum. Knows nothing of merging, and does not import torch.
"""

import errno
import json
import os
import shutil
import threading
from pathlib import Path

import xxhash

from tunewright.chassis.errors import DiskFull
from tunewright.merger.files import write_at
from tunewright.merger.parts import Part
from tunewright.merger.sharding import Shard

_SUFFIX = ".partial"
_NOTES = ".parts"
_READ_BYTES = 1 << 20


class UnfinishedModel:
    """Weight files on their way in a folder; safe for threads once opened.

    Args:
        folder: where the files appear, all of them at the end or none.
        shards: the files.
        mark: what the parts depend on; parts noted under another mark are written again.
    """

    def __init__(self, folder: Path, shards: list[Shard], mark: str) -> None:
        self._folder, self._shards, self._mark = folder, shards, mark
        self._notes = folder / _NOTES
        self._descriptors: list[int] = []
        self._noted: dict[str, str] = {}
        self._lock = threading.Lock()

    def open(self) -> None:
        """Take the room for all files.

        Raises:
            DiskFull: there is too little, with what is needed and what is there; nothing is left behind.
        """
        self._noted = self._read_notes()
        try:
            self._allocate()
        except OSError as error:
            self.close()
            if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
                raise
            self._remove()
            free = shutil.disk_usage(self._folder).free
            needed = sum(shard.size_bytes for shard in self._shards)
            raise DiskFull(
                f"the merged weights take {needed:,} bytes, {free:,} are free where they are written"
            ) from error

    def holds(self, part: Part) -> bool:
        """Return True if the part was written before and its bytes are still those."""
        noted = self._noted.get(_key(part))
        return noted is not None and noted == self._checksum(part)

    def write(self, part: Part, data: memoryview) -> None:
        """Write a part's bytes, and note it."""
        write_at(self._descriptors[part.shard], data, part.offset)
        self._note({_key(part): xxhash.xxh3_64_hexdigest(data)})

    def finish(self) -> list[Path]:
        """Let all files appear under their names and return them; the index is for the caller to write."""
        self.close()
        paths = [self._folder / shard.name for shard in self._shards]
        for path in paths:
            partial = _partial(path)
            if partial.exists():  # else an earlier attempt was killed between two of these
                partial.replace(path)
        self._notes.unlink(missing_ok=True)
        return paths

    def close(self) -> None:
        """Close the files; what was written stays for the next attempt."""
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors = []

    def _allocate(self) -> None:
        for shard in self._shards:
            path = self._folder / shard.name
            standing = path if self._noted and path.exists() else _partial(path)
            self._descriptors.append(os.open(standing, os.O_RDWR | os.O_CREAT, 0o644))
            os.posix_fallocate(self._descriptors[-1], 0, shard.size_bytes)
            os.ftruncate(self._descriptors[-1], shard.size_bytes)
        if not self._noted:
            self._note({"mark": self._mark})

    def _read_notes(self) -> dict[str, str]:
        """Return part → checksum; nothing if the notes are of another merge."""
        text = self._notes.read_text("utf-8", errors="replace") if self._notes.exists() else ""
        found: dict[str, str] = {}
        for line in text.splitlines():
            try:
                found |= json.loads(line)
            except ValueError:
                continue  # cut short when its process was killed: that part is written again
        if found.get("mark") != self._mark:
            self._remove()
            for path in self._folder.glob("*.safetensors*"):  # of another merge: they would be published beside these
                path.unlink()
            return {}
        if not text.endswith("\n"):
            with self._notes.open("a", encoding="utf-8") as file:
                file.write("\n")
        return found

    def _note(self, entry: dict[str, str]) -> None:
        with self._lock, self._notes.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def _checksum(self, part: Part) -> str:
        digest, position, end = xxhash.xxh3_64(), part.offset, part.offset + part.size_bytes
        while position < end:
            data = os.pread(self._descriptors[part.shard], min(_READ_BYTES, end - position), position)
            if not data:
                break
            digest.update(data)
            position += len(data)
        return digest.hexdigest()

    def _remove(self) -> None:
        for path in (self._notes, *self._folder.glob(f"*.safetensors{_SUFFIX}")):
            path.unlink(missing_ok=True)


def _partial(path: Path) -> Path:
    return path.with_name(path.name + _SUFFIX)


def _key(part: Part) -> str:
    return f"{part.shard}/{part.number}"
