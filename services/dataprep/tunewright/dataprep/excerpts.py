"""Pieces of rows for people: cut to a readable length, and without personal data, whatever the settings say.

A report is passed on more freely than data. So what the finders of `pii` see is shown by its form alone, a dot for each
letter and digit: also where the setting keeps it, and also in rows that are dropped. Knows no counts.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from tunewright.dataprep import scanning
from tunewright.dataprep.pii.finding import find
from tunewright.dataprep.shapes import Message
from tunewright.dataprep.tool_use import said

EXCERPT_CHARS = 600
_LEAD_CHARS = 80
_ESCAPED = re.compile(r'"(?:[^"\\\n]++|\\.)*+"')
_MARGIN_CHARS = 20_000
"""Beyond the piece shown, this much is looked at too: a secret at its edge is seen whole."""


class Example(TypedDict):
    """A dropped row."""

    file: str
    line: int
    detail: str
    """What is wrong with it, with the field where one is."""
    text: str
    kept: str
    """Text of the row that is kept in its place; empty where there is none."""


class Change(TypedDict):
    """A message before and after the rules."""

    file: str
    line: int
    role: str
    before: str
    after: str


def hidden(text: str) -> str:
    """Return the text with the letters and digits of personal data as dots; no character moves.

    Where escapes of JSON stand before or in it, its whole literal is dots.
    """
    text = _hidden(text)
    return _ESCAPED.sub(_hidden_literal, text) if "\\" in text else text


def _hidden_literal(match: re.Match[str]) -> str:
    try:
        said = json.loads(match[0])
    except ValueError:
        return match[0]
    return match[0] if _hidden(said) == said else f'"{"•" * (len(match[0]) - 2)}"'


def _hidden(text: str) -> str:
    while found := find(text, scanning.scan_one(text)):
        pieces, position = [], 0
        for place in found:
            own = text[place.start : place.end]
            dots = "".join("•" if character.isalnum() else character for character in own)
            pieces += [text[position : place.start], dots if dots != own else "•" * len(own)]
            position = place.end
        text = "".join([*pieces, text[position:]])
    return text


def excerpt(text: str, start: int = 0, chars: int = EXCERPT_CHARS) -> str:
    """Return a piece of the text, personal data hidden, with an ellipsis where something is left out."""
    first = max(0, start - _MARGIN_CHARS)
    shown = hidden(text[first : start + chars + _MARGIN_CHARS])[start - first :][:chars]
    return ("…" if start else "") + shown + ("…" if start + chars < len(text) else "")


def as_text(turns: Sequence[Mapping[str, Any]]) -> str:
    """Return turns for people, a role before each."""
    return "\n".join(f"{turn['role']}: {said(turn)}" for turn in turns)


def drop_example(file: str, line: int, detail: str, text: str, kept: str = "") -> Example:
    """Return an example of a dropped row."""
    return {"file": file, "line": line, "detail": excerpt(detail), "text": excerpt(text), "kept": excerpt(kept)}


def change_example(file: str, line: int, before: Message, after: Message) -> Change:
    """Return a message before and after, from a little before the first difference on."""
    old, new = said(before), said(after)
    start = max(0, _common_prefix(old, new) - _LEAD_CHARS)
    return {
        "file": file,
        "line": line,
        "role": before["role"],
        "before": excerpt(old, start),
        "after": excerpt(new, start),
    }


def _common_prefix(one: str, other: str) -> int:
    length = min(len(one), len(other))
    return next((index for index in range(length) if one[index] != other[index]), length)
