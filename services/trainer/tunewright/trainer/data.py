"""Rows of a dataset artifact, as dataprep writes it. Knows no tokenizer and no model."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewright.chassis.errors import InvalidData, Violation

TRAIN_FILE = "train.jsonl"
VALIDATION_FILE = "validation.jsonl"
_ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class Row:
    """One conversation."""

    id: str
    messages: list[dict[str, str]]
    """Each with `role` (system, user, assistant) and `content`."""
    place: str
    """File and line, for messages to people: `train.jsonl:17`."""


def load_dataset(directory: Path) -> tuple[list[Row], list[Row]]:
    """Return the training rows and the held-out rows, in the files' order.

    Raises:
        InvalidData: not a dataset artifact, no training rows, or a malformed row (file and line named).
    """
    if not (directory / TRAIN_FILE).is_file():
        raise InvalidData(
            f"the dataset holds no {TRAIN_FILE}: only what data preparation made can be trained on",
            remedy="Prepare the raw files first and give the dataset that comes out.",
        )
    train = _rows(directory / TRAIN_FILE)
    if not train:
        raise InvalidData(f"{TRAIN_FILE} holds no rows", remedy="Look at the dataset's report: why was all dropped?")
    validation = _rows(directory / VALIDATION_FILE) if (directory / VALIDATION_FILE).is_file() else []
    return train, validation


def _rows(path: Path) -> list[Row]:
    with path.open("rb") as file:
        return [_row(line, f"{path.name}:{number}") for number, line in enumerate(file, start=1) if line.strip()]


def _row(line: bytes, place: str) -> Row:
    try:
        document = json.loads(line)
    except ValueError as error:
        raise _wrong(place, f"not JSON: {error}") from error
    messages = document.get("messages") if isinstance(document, dict) else None
    if not isinstance(messages, list) or not messages or not all(_is_message(message) for message in messages):
        raise _wrong(place, f"`messages` must be a list of {{role: {' | '.join(_ROLES)}, content: text}}")
    if not any(message["role"] == "assistant" for message in messages):
        raise _wrong(place, "no message of the assistant, hence nothing to learn")
    plain = [{"role": message["role"], "content": message["content"]} for message in messages]
    return Row(id=str(document.get("id", place)), messages=plain, place=place)


def _is_message(value: Any) -> bool:  # noqa: ANN401 - any JSON value
    return isinstance(value, dict) and value.get("role") in _ROLES and isinstance(value.get("content"), str)


def _wrong(place: str, why: str) -> InvalidData:
    return InvalidData(f"{place}: {why}", violations=[Violation(place, why)])
