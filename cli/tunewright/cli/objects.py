"""Data files in an object store: `s3://bucket/prefix/` is listed, and each object is fetched for a moment to be sent.

The store's client runs in a process of its own (`python -m tunewright.chassis.objects`), which gets address and keys by
the TUNEWRIGHT_STORE_ variables that the services read. They stand in no command line, message or log.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from tunewright.cli.console import size
from tunewright.cli.data_files import checked, why_left_out
from tunewright.cli.errors import CliError
from tunewright.cli.stack.folder import StackFolder

SCHEME = "s3://"
MAX_UPLOAD_BYTES = 2 << 30
"""Of one object, as the gateway's default; TUNEWRIGHT_MAX_UPLOAD_BYTES raises both."""
_STORE = "TUNEWRIGHT_STORE_"


@dataclass(frozen=True)
class ObjectFiles:
    """What one entry of `data` stands for, in an object store."""

    address: str
    """s3://bucket/prefix/ or s3://bucket/key."""
    objects: list[tuple[str, int]]
    """Key and size in bytes, in order of key."""
    skipped: list[str]
    """What lies below the prefix and is left out, and why."""
    is_folder: bool
    store: Mapping[str, str] = field(repr=False)
    """Variables for the process that fetches."""

    @property
    def name(self) -> str:
        """What people call it."""
        return self.address

    @property
    def count(self) -> int:
        """How many files there are."""
        return len(self.objects)

    @property
    def size_bytes(self) -> int:
        """Bytes of all objects."""
        return sum(size_bytes for _, size_bytes in self.objects)

    def words(self) -> str:
        """Return what lies below the prefix, and what of it is left out."""
        left = f"; left out: {', '.join(self.skipped)}" if self.skipped else ""
        return f"{self.address}: {self.count:,} files, {self.size_bytes / 1e6:,.1f} MB{left}"

    def local(self) -> Iterator[Path]:
        """Yield each object as a file of this machine, which is gone when the next is asked for.

        Raises:
            CliError: the store does not answer, an object is gone or has changed, or the disk has no room.
        """
        with tempfile.TemporaryDirectory() as scratch, _process("get", self.address, self.store) as child:
            for number, (key, size_bytes) in enumerate(self.objects):
                _check_room(Path(scratch), key, size_bytes)
                path = Path(scratch) / str(number) / key.rpartition("/")[2]
                path.parent.mkdir()
                asked = {"key": key, "size_bytes": size_bytes, "path": str(path)}
                _write(child, json.dumps(asked))
                if not child.answers.readline():
                    return  # it died: leaving `_process` tells why
                yield path
                path.unlink()


def find_objects(address: str, store: Mapping[str, str]) -> ObjectFiles:
    """Return the data files below a prefix (all endings that folders take), or the one object of that key.

    Args:
        address: s3://bucket/prefix/ or s3://bucket/key.
        store: variables for what the environment does not say: endpoint, keys, region, authority.

    Raises:
        CliError: the address is malformed, the store refuses or is down, nothing is there, or an object is too large.
    """
    bucket, _, prefix = address.removeprefix(SCHEME).partition("/")
    if not bucket or "@" in bucket:
        raise CliError(
            f"{address} names no bucket", remedy="Write s3://bucket/prefix/; keys stand in TUNEWRIGHT_STORE_…"
        )
    with _process("list", address, store) as child:
        listed = sorted((str(item["key"]), int(item["size_bytes"])) for item in map(json.loads, child.answers))
    if single := [one for one in listed if one[0] == prefix and prefix]:
        if not single[0][1]:
            raise CliError(f"{address} is empty")
        return _limited(ObjectFiles(address, single, [], is_folder=False, store=store))
    folder = prefix if not prefix or prefix.endswith("/") else f"{prefix}/"
    taken, skipped = [], []
    for key, size_bytes in listed:
        shown = key.removeprefix(folder)
        if not key.startswith(folder) or key.endswith("/") or _hidden(shown):
            continue
        if why := why_left_out(shown, size_bytes):
            skipped.append(f"{shown} ({why})")
        else:
            taken.append((key, size_bytes))
    checked(address, len(taken), skipped)
    return _limited(ObjectFiles(address, taken, skipped, is_folder=True, store=store))


def stack_store(stack: StackFolder | None) -> dict[str, str]:
    """Return the variables that tell of a local stack's own store; none where there is no stack, or it was never up."""
    if stack is None or not stack.exists:
        return {}
    known = stack.status().services.get("store")
    address = known.addresses.get("s3") if known else None
    if not address:
        return {}
    config = stack.config()
    return {
        f"{_STORE}ENDPOINT": f"http://{address}",
        f"{_STORE}ACCESS_KEY": config.store_access_key,
        f"{_STORE}SECRET_KEY": config.store_secret_key,
    }


def _hidden(shown: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in shown.split("/"))


def _limited(found: ObjectFiles) -> ObjectFiles:
    said = os.environ.get("TUNEWRIGHT_MAX_UPLOAD_BYTES", "")
    most = int(said) if said.isdecimal() else MAX_UPLOAD_BYTES
    for key, size_bytes in found.objects:
        if size_bytes > most:
            raise CliError(
                f"{found.address}: {key} holds {size(size_bytes)}; the gateway takes {size(most)} a file",
                remedy="Split it, or raise TUNEWRIGHT_MAX_UPLOAD_BYTES, for the gateway too.",
            )
    return found


def _check_room(folder: Path, key: str, size_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if size_bytes > free:
        what = f"{key} holds {size(size_bytes)}, and {size(free)} are free in {folder.parent}"
        raise CliError(what, remedy="Make room, or set TMPDIR to another folder.")


@dataclass(frozen=True)
class _Process:
    """The process that speaks to the store."""

    questions: IO[str]
    answers: IO[str]


def _write(child: _Process, line: str) -> None:
    try:
        child.questions.write(f"{line}\n")
        child.questions.flush()
    except BrokenPipeError:
        pass  # it died: there is no answer either, and its own words are told


@contextmanager
def _process(what: str, address: str, store: Mapping[str, str]) -> Iterator[_Process]:
    """Run the store's client; what it was asked is done when the context is left.

    Raises:
        CliError: it failed; with its own words.
    """
    said = {name: value for name, value in os.environ.items() if name.startswith(_STORE) and value}
    environment = {**os.environ, **(said if f"{_STORE}ENDPOINT" in said else {**store, **said})}
    command = [sys.executable, "-m", "tunewright.chassis.objects", what, address]
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as words,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=words, text=True, env=environment
        ) as child,
    ):
        if child.stdin is None or child.stdout is None:
            raise CliError("the store's client has no pipes")
        yield _Process(child.stdin, child.stdout)
        child.stdin.close()
        if child.wait():
            words.seek(0)
            lines = [line.removeprefix("objects: ") for line in words.read().splitlines() if line.strip()]
            message, *remedy = lines[-2:] or [f"{address} cannot be read"]
            raise CliError(message, remedy=remedy[0] if remedy else "")
