"""Shapes of rows: recognises which one a file has, and turns a row of it into chat messages.

Knows nothing of files' bytes, cleaning or filters.
"""

import difflib
import itertools
import shlex
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypedDict

from tunewright.chassis.errors import InvalidData, Violation
from tunewright.dataprep.reading import Line, Problem, Source, as_violation, read_lines

_LINES_LOOKED_AT = 1000
_OBJECTS_LOOKED_AT = 100
_NAMES_SHOWN = 8
_NAME_CHARS = 40


class Message(TypedDict):
    """One turn of a conversation."""

    role: str
    content: str


class Shape(StrEnum):
    """What the rows of a file look like."""

    INSTRUCTION = "instruction"
    PROMPT_COMPLETION = "prompt_completion"
    MESSAGES = "messages"


_REQUIRED = {
    Shape.INSTRUCTION: ("instruction", "output"),
    Shape.PROMPT_COMPLETION: ("prompt", "completion"),
    Shape.MESSAGES: ("messages",),
}
_CANDIDATES = {
    "auto": (Shape.MESSAGES, Shape.INSTRUCTION, Shape.PROMPT_COMPLETION),
    "instruction": (Shape.INSTRUCTION, Shape.PROMPT_COMPLETION),
    "messages": (Shape.MESSAGES,),
}
_EXPECTED = "instruction and output (input may be added), prompt and completion, or messages"
_ROLES = ("system", "user", "assistant")


class RowError(Exception):
    """A row that does not have its file's shape."""

    def __init__(self, reason: str, field: str, description: str) -> None:
        super().__init__(description)
        self.problem = Problem(reason, field, description)


@dataclass(frozen=True, slots=True)
class Recognition:
    """What was seen at a file's beginning."""

    shape: Shape
    fields: tuple[str, ...]
    """Names of the fields seen, the most frequent first."""
    matching: int
    """Rows of this shape among those looked at."""
    looked_at: int


def recognise(source: Source, wanted: str) -> Recognition:
    """Return the shape of a file by its first 100 rows; `wanted` is a spec's `format`.

    Raises:
        InvalidData: the file holds no JSON object a line, or no row of a known shape, or not the one wanted.
    """
    lines = list(_first(read_lines(source)))
    rows = [line.value for line in lines if isinstance(line.value, dict)]
    if not rows:
        _refuse_syntax(source, lines)
    fields = [name for name, _ in Counter(name for row in rows for name in row).most_common(_NAMES_SHOWN)]
    counts = {shape: sum(_has(row, shape) for row in rows) for shape in _CANDIDATES[wanted]}
    shape = max(counts, key=counts.__getitem__)
    if not counts[shape]:
        _refuse_fields(source, lines, wanted, fields)
    return Recognition(shape, tuple(name[:_NAME_CHARS] for name in fields), counts[shape], len(rows))


def to_messages(row: Any, shape: Shape, system_prompt: str) -> list[Message]:  # noqa: ANN401 - any JSON value
    """Return the row as messages: an optional system turn, then user and assistant in turns, the assistant last.

    Raises:
        RowError: the row is not of this shape.
    """
    if not isinstance(row, dict):
        raise RowError("not_an_object", "", f"a JSON object is expected, found {_kind(row)}")
    if shape is Shape.MESSAGES:
        return _conversation(row)
    question_name, answer_name = _REQUIRED[shape]
    question = _text(row, question_name, required=True)
    answer = _text(row, answer_name, required=True)
    if shape is Shape.INSTRUCTION and (context := _text(row, "input", required=False)).strip():
        question = f"{question}\n\n{context}" if question.strip() else context
    pair: list[Message] = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return [{"role": "system", "content": system_prompt}, *pair] if system_prompt else pair


def _text(row: dict[str, Any], name: str, *, required: bool) -> str:
    value = row.get(name)
    if isinstance(value, str):
        return value
    if name not in row:
        if not required:
            return ""
        raise RowError("missing_field", name, f"is missing; {_named(row, name)}")
    if value is None and not required:
        return ""
    raise RowError("wrong_type", name, f"a string is expected, found {_kind(value)}")


def _conversation(row: dict[str, Any]) -> list[Message]:
    if "messages" not in row:
        raise RowError("missing_field", "messages", f"is missing; {_named(row, 'messages')}")
    turns = row["messages"]
    if not isinstance(turns, list):
        raise RowError("wrong_type", "messages", f"a list of messages is expected, found {_kind(turns)}")
    messages = [_turn(turn, f"messages[{index}]") for index, turn in enumerate(turns)]
    _check_order(messages)
    return messages


def _turn(turn: Any, place: str) -> Message:  # noqa: ANN401 - any JSON value
    if not isinstance(turn, dict):
        raise RowError("wrong_type", place, f"an object with role and content is expected, found {_kind(turn)}")
    role = turn.get("role")
    if role not in _ROLES:
        found = f"found {role[:_NAME_CHARS]!r}" if isinstance(role, str) else f"found {_kind(role)}"
        raise RowError("unsupported_role", f"{place}.role", f"one of {', '.join(_ROLES)} is expected, {found}")
    if turn.get("tool_calls"):
        raise RowError("unsupported_content", f"{place}.tool_calls", "tool calls cannot be trained on")
    return {"role": role, "content": _content(turn.get("content"), f"{place}.content")}


def _content(content: Any, place: str) -> str:  # noqa: ANN401 - any JSON value
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise RowError("wrong_type", place, f"a string or a list of text parts is expected, found {_kind(content)}")
    texts = []
    for index, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text" or not isinstance(part.get("text"), str):
            what = f"{kind[:_NAME_CHARS]!r}" if isinstance(kind, str) else _kind(part)
            raise RowError(
                "unsupported_content", f"{place}[{index}]", f"only text parts can be trained on, found {what}"
            )
        texts.append(part["text"])
    return "\n".join(texts)


def _check_order(messages: list[Message]) -> None:
    roles = [message["role"] for message in messages]
    first = 1 if roles[:1] == ["system"] else 0
    for index, role in enumerate(roles[first:]):
        expected = "user" if index % 2 == 0 else "assistant"
        if role != expected:
            place = f"messages[{first + index}].role"
            raise RowError(
                "wrong_order", place, f"{expected} is expected here, found {role}: user and assistant alternate"
            )
    if roles[-1:] != ["assistant"]:
        raise RowError("no_answer", "messages", "the last message is not the assistant's, so there is nothing to learn")


def _first(lines: Iterable[Line]) -> Iterable[Line]:
    objects = 0
    for line in itertools.islice(lines, _LINES_LOOKED_AT):
        yield line
        objects += isinstance(line.value, dict)
        if objects == _OBJECTS_LOOKED_AT:
            return


def _has(row: dict[str, Any], shape: Shape) -> bool:
    return all(name in row for name in _REQUIRED[shape])


def _refuse_syntax(source: Source, lines: list[Line]) -> None:
    if not lines:
        raise InvalidData(f"{source.name} holds only blank lines", remedy="Upload the file again, with its rows.")
    first = lines[0]
    if first.raw.startswith(b"["):
        raise InvalidData(
            f"{source.name} is one JSON array, not JSON Lines (one object a line)",
            remedy=f"Convert it: jq -c '.[]' {shlex.quote(source.name)} > rows.jsonl",
        )
    if first.raw == b"{":
        raise InvalidData(
            f"{source.name} spreads its JSON over several lines; JSON Lines has one whole object a line",
            remedy=f"Convert it: jq -c . {shlex.quote(source.name)} > rows.jsonl",
        )
    problem = first.problem or Problem("not_an_object", "", f"a JSON object is expected, found {_kind(first.value)}")
    place = as_violation(source, first.number, problem)
    raise InvalidData(
        f"{source.name} is not JSON Lines: none of its first {len(lines):,} lines is a JSON object. "
        f"{place.field}: {place.description}",
        remedy=f"One JSON object a line is expected, with the fields {_EXPECTED}.",
        violations=[place],
    )


def _refuse_fields(source: Source, lines: list[Line], wanted: str, fields: list[str]) -> None:
    first = next(line for line in lines if isinstance(line.value, dict))
    seen = ", ".join(name[:_NAME_CHARS] for name in fields) or "none"
    expected = _EXPECTED if wanted == "auto" else " or ".join(" and ".join(_REQUIRED[s]) for s in _CANDIDATES[wanted])
    near = [_near(name, fields) for shape in _CANDIDATES[wanted] for name in _REQUIRED[shape]]
    hint = "; ".join(dict.fromkeys(text for text in near if text))
    raise InvalidData(
        f"{source.name}: its rows have the fields {seen}; expected are {expected}" + (f" ({hint})" if hint else ""),
        remedy="Rename the fields of the rows" + (", or set format: auto." if wanted != "auto" else "."),
        violations=[Violation(f"{source.name}:{first.number}", f"has the fields {seen}")],
    )


def _named(row: dict[str, Any], wanted: str) -> str:
    names = [name[:_NAME_CHARS] for name in itertools.islice(row, _NAMES_SHOWN)]
    near = _near(wanted, names)
    return f"the row has {', '.join(names) or 'no fields'}" + (f" ({near})" if near else "")


def _near(wanted: str, names: list[str]) -> str:
    found = difflib.get_close_matches(wanted, [name[:_NAME_CHARS] for name in names], n=1, cutoff=0.7)
    return f"is {found[0]!r} meant as {wanted!r}?" if found and found[0] != wanted else ""


def _kind(value: Any) -> str:  # noqa: ANN401 - any JSON value
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return names.get(type(value), "null")
