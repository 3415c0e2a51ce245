"""Runs the real stage on rows, bytes or files, and holds what came out."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunewright.artifacts import Manifest
from tunewright.chassis.errors import Interrupted
from tunewright.chassis.stage import Severity
from tunewright.dataprep.spec import DataprepSpec
from tunewright.dataprep.stage import run

FILES = ("train.jsonl", "validation.jsonl", "report.json", "report.html")


@dataclass
class Recorder:
    """A reporter that remembers; stops the stage at the given call of `raise_if_stopped`."""

    checkpoints: Path = Path("unused")
    runtime: Mapping[str, Any] = field(default_factory=dict)
    events: list[tuple[str, str, Severity]] = field(default_factory=list)
    steps: list[tuple[int, int]] = field(default_factory=list)
    figures: list[dict[str, float]] = field(default_factory=list)
    stop: bool = False

    def progress(self, step: int, total: int, *, unit: str, **figures: float) -> None:
        assert unit == "rows"
        self.steps.append((step, total))
        self.figures.append(figures)

    def event(self, type_: str, message: str, *, severity: Severity = Severity.INFO, **data: object) -> None:
        json.dumps(data)
        self.events.append((type_, message, severity))

    def checkpoint(self, directory: Path, step: int) -> None:
        raise AssertionError(f"data preparation has no checkpoints: {directory} {step}")

    def stop_requested(self) -> bool:
        return self.stop

    def raise_if_stopped(self) -> None:
        if self.stop:
            raise Interrupted("stopped before its end")

    def messages(self, type_: str) -> list[str]:
        """Texts of the events of one type."""
        return [message for kind, message, _ in self.events if kind == type_]


@dataclass
class Prepared:
    """What a run left."""

    manifest: Manifest
    output: Path
    report: Recorder

    @property
    def train(self) -> list[dict[str, Any]]:
        return lines_of(self.output / "train.jsonl")

    @property
    def validation(self) -> list[dict[str, Any]]:
        return lines_of(self.output / "validation.jsonl")

    @property
    def rows(self) -> list[dict[str, Any]]:
        return sorted([*self.train, *self.validation], key=lambda row: (row["source"]["file"], row["source"]["line"]))

    @property
    def document(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.output / "report.json").read_bytes())
        return document

    @property
    def page(self) -> str:
        return (self.output / "report.html").read_text(encoding="utf-8")

    def answers(self) -> list[str]:
        """Last messages of all rows, in order of the input."""
        return [row["messages"][-1]["content"] for row in self.rows]


def lines_of(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSON Lines file."""
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of the dataset in `folder`."""
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES}


def pair(question: str, answer: str, context: str = "") -> dict[str, str]:
    """An instruction row."""
    return {"instruction": question, "input": context, "output": answer}


def to_jsonl(rows: list[Any]) -> bytes:
    """JSON Lines of the rows; a row given as a string is a line as it stands."""
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    return "".join(f"{line}\n" for line in lines).encode()


def prepare(folder: Path, content: list[Any] | bytes, *, name: str = "raw.jsonl", **settings: object) -> Prepared:
    """Run the stage on one file with these rows (or bytes)."""
    upload = folder / "upload"
    upload.mkdir(exist_ok=True)
    (upload / name).write_bytes(content if isinstance(content, bytes) else to_jsonl(content))
    return prepare_inputs(folder, {"upload_000": upload}, **settings)


def prepare_inputs(folder: Path, inputs: Mapping[str, Path], **settings: object) -> Prepared:
    """Run the stage on inputs that lie on disk."""
    output = folder / "output"
    output.mkdir(exist_ok=True)
    report = Recorder()
    return Prepared(run(DataprepSpec.from_mapping(settings), inputs, output, report), output, report)
