"""Held-out rows of a dataset artifact. Knows nothing of models."""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tunewright.chassis.errors import InvalidData

VALIDATION = "validation.jsonl"


class Message(BaseModel):
    """One turn."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    role: str
    content: str
    tool_calls: tuple[dict[str, Any], ...] | None = None
    tool_call_id: str | None = None
    name: str | None = None
    weight: int | None = Field(default=None, exclude=True)
    """0 keeps an answer from being learnt, and from being scored."""


class Row(BaseModel):
    """One held-out conversation; of a pair of answers, its prompt with the chosen one; or a document."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    """SHA-256 of the normalised messages."""
    messages: tuple[Message, ...] = ()
    text: str = ""
    """A document; there are no messages then."""
    tools: tuple[dict[str, Any], ...] = ()
    """Definitions of the tools that the assistant may call."""

    def turns(self, end: int | None = None) -> list[dict[str, Any]]:
        """Return the messages before `end` (all if None) as plain mappings, in OpenAI's form."""
        return [message.model_dump(mode="json", exclude_none=True) for message in self.messages[:end]]

    def asked_and_answered(self) -> tuple[str, str]:
        """Return the last question and its written answer, for people; of a document nothing, and itself."""
        if self.text:
            return "", self.text
        last = self.answers[-1]
        return self.messages[last - 1].content if last else "", self.messages[last].content

    @property
    def answers(self) -> list[int]:
        """Places of the assistant's turns that are learnt, calls of tools among them."""
        return [
            place for place, message in enumerate(self.messages) if message.role == "assistant" and message.weight != 0
        ]

    @property
    def answered_in_words(self) -> bool:
        """True if the last answer is a text: a call of a tool cannot be compared word by word."""
        return bool(self.messages) and bool(self.messages[self.answers[-1]].content)


def read_rows(dataset: Path, max_rows: int) -> list[Row]:
    """Return the held-out rows in order of id, at most `max_rows` (0: all).

    Raises:
        InvalidData: no rows, or a row that is none; file and line are named.
    """
    rows = []
    with (dataset / VALIDATION).open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            rows.append(_row(line, number))
    if not rows:
        raise InvalidData(f"{VALIDATION} holds no rows to evaluate on", remedy="Raise dataprep.validation_fraction.")
    rows.sort(key=lambda row: row.id)
    return rows[:max_rows] if max_rows else rows


def _row(line: str, number: int) -> Row:
    try:
        document: Any = json.loads(line)
        if isinstance(document, dict) and "chosen" in document:
            chosen = {"role": "assistant", "content": document["chosen"]}
            document = {**document, "messages": [*document["messages"], chosen]}
        row = Row.model_validate(document)
    except (KeyError, TypeError, ValueError, ValidationError) as error:
        raise InvalidData(f"{VALIDATION}:{number} is no dataset row: {str(error).splitlines()[0]}") from error
    if not row.text and not row.answers:
        raise InvalidData(f"{VALIDATION}:{number} has no answer of the assistant")
    return row
