"""Data preparation of files and folders as they lie here, in a process of its own, and what it left.

Reads the report that it wrote; knows nothing of how rows are judged, nor of how a report is shown.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from tunewright.cli.data_files import find_data_files
from tunewright.cli.errors import CliError

ALLOWED_UNREADABLE = 0.2
"""`max_invalid_fraction` of a run that says nothing of it; here all rows are looked at, and the judgement told."""
_TOO_MANY = "max_invalid_fraction allows"
"""In the words with which data preparation refuses; then it is asked once more, to let them pass."""
_PLAIN_SECONDS = 5.0
_REFUSED_FILE = "file_refused"
"""Type of the events by which data preparation names files of which it cannot say what they hold."""
_TOLD_ELSEWHERE = frozenset({"rows_unreadable", _REFUSED_FILE})
_QUOTED_LINES = 24


@dataclass(frozen=True, kw_only=True)
class Inspected:
    """What came of it."""

    folder: Path
    """Where dataset and report lie."""
    report: dict[str, Any]
    audit: dict[str, Any] | None
    """Exact token counts and masks, where a base was given."""
    refusal: dict[str, str] | None
    """Why a run would refuse the data, and what to do; None if it would not."""
    warnings: list[str] = field(default_factory=list)
    refused: list[dict[str, str]] = field(default_factory=list)
    """Files that nothing can be said of (`file`, `why`, `remedy`); the others were looked at without them."""

    def document(self) -> dict[str, Any]:
        """Return it for programs."""
        told = {"output": str(self.folder), "refusal": self.refusal, "refused_files": self.refused}
        return {**told, "warnings": self.warnings, "report": self.report}


def inspect_paths(
    paths: Sequence[Path], output: Path | None, spec: Path | None, base: Path | None, max_length: int | None
) -> Inspected:
    """Prepare files and folders as a run would; unreadable rows are counted, however many.

    Files that nothing can be said of are named, and the others prepared without them.

    Args:
        paths: files, or folders of which every data file is taken.
        output: new folder for dataset and report; None: beside the first path.
        spec: YAML with the fields of a recipe's dataprep section.
        base: folder of a base model or of its tokenizer alone.
        max_length: tokens that a row may have in training.

    Raises:
        CliError: a path, the spec or the base cannot be read, or nothing of the data can be used.
    """
    values = _spec(spec, max_length)
    allowed = values.get("max_invalid_fraction", ALLOWED_UNREADABLE)
    folder = output or _unused(paths[0])
    with tempfile.TemporaryDirectory() as scratch:
        job = _Job(folder, Path(scratch), _linked(paths, Path(scratch)), values, base)
        warnings = job.run()
    report = json.loads((folder / "report.json").read_bytes())
    audit = folder / "audit.json"
    if base is not None and not audit.is_file():
        problem = f"{base.resolve().name} has no tokenizer that can be read"
        raise CliError(problem, lines=warnings, remedy="Name a base's folder with tokenizer.json.")
    found = json.loads(audit.read_bytes()) if base is not None else None
    return Inspected(
        folder=folder,
        report=report,
        audit=found,
        refusal=_refusal(report, allowed, found, job.refused),
        warnings=warnings,
        refused=job.refused,
    )


class _Job:
    """Data preparation, asked again without what it refused, so that the rest is seen.

    Args:
        folder: for dataset and report.
        scratch: for the spec.
        uploads: input name → folder of links to the files.
        values: fields of the spec.
        base: folder of the base or its tokenizer, if any.
    """

    def __init__(
        self, folder: Path, scratch: Path, uploads: dict[str, Path], values: Mapping[str, Any], base: Path | None
    ) -> None:
        self._folder = folder
        self._settings = scratch / "spec.yaml"
        self._uploads = uploads
        self._values = dict(values)
        self._base = base
        self.refused: list[dict[str, str]] = []

    def run(self) -> list[str]:
        """Return what it warned of.

        Raises:
            CliError: it failed, and nothing is left to look at.
        """
        while True:
            self._settings.write_text(yaml.safe_dump(self._values), encoding="utf-8")
            refused: list[dict[str, str]] = []
            try:
                return _child(self._command(), self._folder, refused)
            except CliError as error:
                if refused and self._without([told["file"] for told in refused]):
                    self.refused += refused
                elif any(_TOO_MANY in line for line in error.lines) and self._values.get("max_invalid_fraction") != 1:
                    self._values["max_invalid_fraction"] = 1.0
                else:
                    raise

    def _command(self) -> list[str]:
        command = ["tunewright.dataprep", "run", str(self._settings), "--output", str(self._folder)]
        inputs = [*self._uploads.items(), *([("base", self._base.resolve())] if self._base else [])]
        given = [word for name, path in inputs for word in ("--input", f"{name}={path}")]
        return [*command, "--events", "json", *given]

    def _without(self, names: Sequence[str]) -> bool:
        """Take files away, with what the spec says of their input if it has no others; False if none would be left."""
        gone = {upload / name for upload in self._uploads.values() for name in names}
        left = {
            name: sum(path not in gone for path in upload.rglob("*") if not path.is_dir())
            for name, upload in self._uploads.items()
        }
        if not any(left.values()) or not any(path.exists() for path in gone):
            return False
        for path in gone:
            path.unlink(missing_ok=True)
        if sources := self._values.get("sources"):
            pairs = zip(sources, self._uploads, strict=False)
            self._values["sources"] = [source for source, name in pairs if left[name]]
        self._uploads = {name: upload for name, upload in self._uploads.items() if left[name]}
        return True


def _spec(path: Path | None, max_length: int | None) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if path is not None:
        if not path.is_file():
            raise CliError(f"{path} is no file", remedy="Name a YAML file with the fields of a dataprep section.")
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise CliError(f"{path} is no readable YAML: {error}", remedy="Correct the line named.") from error
    if not isinstance(values, dict):
        raise CliError(f"{path} holds no mapping of fields", remedy="Write `field: value` lines.")
    if max_length is not None:
        if "audit" in values:
            raise CliError("--max-length and the spec's audit say two things", remedy="Leave one of them out.")
        values = {**values, "audit": {"max_length": max_length}}
    return values


def _unused(path: Path) -> Path:
    """Return a new folder's name beside a path, after it."""
    named = path.resolve()
    stem = named.stem if named.is_file() else named.name
    folders = (named.with_name(f"{stem}-inspected{f'-{number}' if number > 1 else ''}") for number in range(1, 10_000))
    return next(folder for folder in folders if not folder.exists())


def _linked(paths: Sequence[Path], scratch: Path) -> dict[str, Path]:
    """Return input name → folder of links, one input a path, in their order; files are named as the user named them."""
    found = [(path.resolve(), find_data_files(path)) for path in paths]
    names = Counter(path.name for path, _ in found)
    above = Path(os.path.commonpath([path.parent for path, _ in found]))
    uploads: dict[str, Path] = {}
    for number, (path, data) in enumerate(found):
        upload = uploads[f"upload_{number:03d}"] = scratch / f"upload_{number:03d}"
        shown = Path(path.name) if names[path.name] == 1 else path.relative_to(above)
        for file in data.files:
            link = upload / (shown / file.relative_to(data.path) if data.is_folder else shown)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file.resolve())
    return uploads


def _child(command: Sequence[str], folder: Path, refused: list[dict[str, str]]) -> list[str]:
    """Run data preparation to its end, showing how far it is; return what it warned of.

    Files that it refuses are added to `refused`.

    Raises:
        CliError: it failed; its words are quoted.
    """
    warnings: list[str] = []
    words = deque[str](maxlen=_QUOTED_LINES)
    try:
        with subprocess.Popen(
            [sys.executable, "-m", *command], stderr=subprocess.PIPE, text=True, errors="replace"
        ) as child:
            _follow(child.stderr or (), warnings, refused, words)
    finally:
        for perhaps_empty in (folder.with_name(f"{folder.name}.checkpoints"), folder):
            with suppress(OSError):
                perhaps_empty.rmdir()
    if child.returncode:
        lines = [line.removeprefix("dataprep: ") for line in words if line.strip()]
        raise CliError("data preparation failed", lines=lines)
    return warnings


def _follow(lines: Iterable[str], warnings: list[str], refused: list[dict[str, str]], words: deque[str]) -> None:
    """Show progress; note the warnings, the files refused, and what is no event."""
    with _progress() as show:
        for line in lines:
            event = _event(line)
            if event is None:
                words.append(line.rstrip())
            elif event["type"] == "progress":
                show(event["data"])
            elif event["type"] == _REFUSED_FILE:
                refused.append(event["data"])
            elif event["severity"] != "info" and event["type"] not in _TOLD_ELSEWHERE:
                warnings.append(event["message"])


def _event(line: str) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and {"type", "severity", "message", "data"} <= event.keys() else None


@contextmanager
def _progress() -> Iterator[Any]:
    """Yield what shows a progress event, on stderr: a bar on a terminal, else a line every few seconds."""
    console = Console(stderr=True)
    if not console.is_terminal:
        told = time.monotonic()

        def say(data: Mapping[str, Any]) -> None:
            nonlocal told
            if time.monotonic() - told >= _PLAIN_SECONDS:
                told = time.monotonic()
                console.print(_words(data), highlight=False, soft_wrap=True)

        yield say
        return
    columns = TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("reading", total=None)
        yield lambda data: bar.update(
            task, completed=data["step"], total=data["total"], description=_words(data), refresh=True
        )


def _words(data: Mapping[str, Any]) -> str:
    return f"{data['step']:,} of about {data['total']:,} rows, {data.get('rows_per_second', 0):,.0f} rows/s"


def unreadable_rows(report: Mapping[str, Any]) -> int:
    """Return how many rows of all files cannot be read."""
    steps = {step["step"]: step["rows"] for step in report["funnel"]}
    return int(steps["read"] - steps["readable"])


def _refusal(
    report: Mapping[str, Any],
    allowed: float,
    audit: Mapping[str, Any] | None,
    refused: Sequence[Mapping[str, str]],
) -> dict[str, str] | None:
    if refused:
        files = ", ".join(told["file"] for told in refused)
        why = f"a run would refuse this: {files} cannot be used"
        return {"why": why, "remedy": refused[0]["remedy"]}
    unreadable = unreadable_rows(report)
    if unreadable > allowed * report["rows_in"]:
        share = unreadable / report["rows_in"]
        why = f"a run would refuse this: {share:.1%} of the rows cannot be read, and {allowed:.1%} may be unreadable"
        return {"why": why, "remedy": "Correct the rows named above, or raise max_invalid_fraction."}
    refusal: dict[str, str] | None = audit["refusal"] if audit else None
    return refusal and {"why": refusal["why"], "remedy": refusal["remedy"]}
