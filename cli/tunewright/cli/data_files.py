"""The data files that an entry of a recipe names: one file, or every data file below a folder. Opens none of them.

Knows endings of names, sizes and links; what stands in files is the data preparation's to judge.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from tunewright.cli.errors import CliError

DATA_ENDINGS = frozenset(
    {".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".tab", ".parquet", ".pq", ".txt", ".text", ".md", ".html", ".htm"}
)
COMPRESSED_ENDINGS = frozenset({".gz", ".zst", ".zstd", ".bz2", ".xz"})
MAX_FILES = 1000
"""Files of one run: each is an upload of its own."""


@dataclass(frozen=True)
class DataFiles:
    """What one entry of `data` stands for."""

    path: Path
    files: list[Path]
    """In order of their paths."""
    skipped: list[str] = field(default_factory=list)
    """Path below the folder, and why it is left out."""
    is_folder: bool = False

    @property
    def name(self) -> str:
        """What people call it."""
        return self.path.name

    @property
    def count(self) -> int:
        """How many files there are."""
        return len(self.files)

    def local(self) -> Iterator[Path]:
        """Yield each file, as a file of this machine."""
        yield from self.files

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(path.stat().st_size for path in self.files)

    def words(self) -> str:
        """Return what a folder holds, and what of it is left out."""
        left = f"; left out: {', '.join(self.skipped)}" if self.skipped else ""
        return f"{self.path.name}: {len(self.files):,} files, {self.size_bytes / 1e6:,.1f} MB{left}"


def find_data_files(path: Path) -> DataFiles:
    """Return the files of a path.

    Raises:
        CliError: it cannot be read, is empty, or a folder without data or with too much of it.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise CliError(f"{path} cannot be read: {error.strerror}", remedy="Check the path and its rights.") from error
    if path.is_dir():
        return _below(path)
    if not path.is_file():
        raise CliError(f"{path} is neither a file nor a folder")
    if size == 0:
        raise CliError(f"{path} is empty")
    return DataFiles(path, [path])


def _below(folder: Path) -> DataFiles:
    taken: list[Path] = []
    skipped: list[str] = []
    for path in _walk(folder):
        shown = path.relative_to(folder).as_posix()
        if why := _why_not(path, folder):
            skipped.append(f"{shown} ({why})")
        else:
            taken.append(path)
    checked(str(folder), len(taken), skipped)
    return DataFiles(folder, taken, skipped, is_folder=True)


def _walk(folder: Path) -> Iterator[Path]:
    """Yield what lies below a folder, by path; nothing hidden. Links to folders may lead in circles: not followed."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise CliError(f"{folder} cannot be read: {error.strerror}", remedy="Check its rights.") from error
    for entry in entries:
        if entry.name.startswith((".", "__MACOSX")):
            continue
        if entry.is_dir() and not entry.is_symlink():
            yield from _walk(entry)
        else:
            yield entry


def _why_not(path: Path, folder: Path) -> str:
    """Return why a path is left out; nothing if it is data."""
    if path.is_symlink() and not path.exists():
        return "a link to nothing"
    if path.is_dir():
        return "a link to a folder"
    if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
        return "a link out of the folder"
    if not path.is_file():
        return "no file"
    return why_left_out(path.name, path.stat().st_size)


def why_left_out(name: str, size_bytes: int) -> str:
    """Return why a file of this name and size is left out; nothing if it is data."""
    names = [suffix.lower() for suffix in PurePosixPath(name).suffixes]
    if names and names[-1] in COMPRESSED_ENDINGS:
        names.pop()
    if not names or names[-1] not in DATA_ENDINGS:
        return "no data by its name"
    return "" if size_bytes else "empty"


def checked(place: str, count: int, skipped: list[str]) -> None:
    """Refuse a folder, or what is like one, that holds no data file or too many.

    Raises:
        CliError: it does.
    """
    if not count:
        held = f": {', '.join(skipped[:8])}" if skipped else ""
        raise CliError(
            f"{place} holds no data file{held}",
            remedy=f"Known endings are {', '.join(sorted(DATA_ENDINGS))}, each also with .gz, .zst, .bz2 or .xz.",
        )
    if count > MAX_FILES:
        raise CliError(
            f"{place} holds {count:,} data files; a run takes {MAX_FILES:,}",
            remedy="Join them: documents as rows with a `text` field in one JSON Lines file.",
        )
