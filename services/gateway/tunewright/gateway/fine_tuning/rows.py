"""Rows of training files as OpenAI has them, checked line by line. What is wrong is named by line and field.

supervised   {"messages": [{role, content, weight?}, …]} that end with the assistant, or {"prompt", "completion"}
dpo          {"input": {"messages": […]}, "preferred_output": [message], "non_preferred_output": [message]}
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewright.chassis.errors import InvalidData, Violation

_ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_SHOWN = 10
"""Faults that are told of one file."""
_LINE_BYTES = 16 << 20


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a file holds."""

    rows: int
    format: str
    """Name of the format in a recipe: messages, prompt_completion or preference."""


class _Fault(Exception):
    def __init__(self, field: str, description: str) -> None:
        super().__init__(f"{field}: {description}" if field else description)


def check(path: Path, kind: str, param: str) -> Found:
    """Return what a file of a method holds.

    Args:
        path: the file.
        kind: supervised or dpo.
        param: field of the request that names the file.

    Raises:
        InvalidData: with the first faults, each with its line and field.
    """
    faults: list[str] = []
    formats: dict[str, int] = {}
    for number, line in _lines(path):
        try:
            form = _dpo(line) if kind == "dpo" else _supervised(line)
            formats[form] = formats.get(form, 0) + 1
        except _Fault as fault:
            faults.append(f"line {number}: {fault}")
            if len(faults) == _SHOWN:
                break
    if not faults and not formats:
        faults.append("it has no rows")
    if not faults and len(formats) > 1:
        faults.append(f"rows of one kind are expected, found {' and '.join(sorted(formats))}")
    if faults:
        name = param.replace("_", " ")
        found = [Violation(param, fault) for fault in faults]
        raise InvalidData(f"The {name} is not valid: {'; '.join(faults)}", violations=found)
    ((form, rows),) = formats.items()
    return Found(rows=rows, format=form)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as file:
        number = 0
        while line := file.readline(_LINE_BYTES):
            number += 1
            line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if line.strip():
                yield number, line


def _object(line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line.decode(), parse_constant=_no_number)
    except UnicodeDecodeError as error:
        raise _Fault("", f"byte {error.start} is no UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise _Fault("", f"not JSON ({str(error)[:120]})") from error
    if not isinstance(row, dict):
        raise _Fault("", f"an object is expected, found {_kind(row)}")
    return row


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number in JSON")


def _supervised(line: bytes) -> str:
    row = _object(line)
    if "messages" not in row and {"prompt", "completion"} <= row.keys():
        for name in ("prompt", "completion"):
            if not isinstance(row[name], str) or not row[name].strip():
                raise _Fault(name, f"text is expected, found {_kind(row[name])}")
        return "prompt_completion"
    if "input" in row and "messages" not in row:
        raise _Fault("messages", "missing; a row with `input` is one for the method dpo")
    messages = _messages(row, "messages", "messages")
    if messages[-1]["role"] != "assistant":
        last = f"messages[{len(messages) - 1}].role"
        raise _Fault(last, f"the last message must be the assistant's, found {messages[-1]['role']!r}")
    if all(message.get("weight") == 0 for message in messages if message["role"] == "assistant"):
        raise _Fault("messages", "every assistant message has weight 0, so there is nothing to learn")
    return "messages"


def _dpo(line: bytes) -> str:
    row = _object(line)
    asked = row.get("input")
    if not isinstance(asked, dict):
        raise _Fault("input", f"an object with `messages` is expected, found {_kind(asked)}")
    _messages(asked, "messages", "input.messages")
    for name in ("preferred_output", "non_preferred_output"):
        (answer, *more) = _messages(row, name, name)
        if more or answer["role"] != "assistant":
            raise _Fault(name, "one message of the assistant is expected")
    if row["preferred_output"] == row["non_preferred_output"]:
        raise _Fault("non_preferred_output", "it is the preferred output, so there is nothing to prefer")
    return "preference"


def _messages(row: dict[str, Any], name: str, path: str) -> list[dict[str, Any]]:
    messages = row.get(name)
    if not isinstance(messages, list) or not messages:
        raise _Fault(path, f"a list of messages is expected, found {_kind(messages)}")
    for place, message in enumerate(messages):
        _message(message, f"{path}[{place}]")
    return messages


def _message(message: object, path: str) -> None:
    if not isinstance(message, dict):
        raise _Fault(path, f"an object is expected, found {_kind(message)}")
    role = message.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise _Fault(f"{path}.role", f"one of {', '.join(_ROLES)} is expected, found {_shown(role)}")
    _content(message, role, path)
    if (weight := message.get("weight")) is not None:
        if role != "assistant":
            raise _Fault(f"{path}.weight", f"only the assistant's messages have a weight, this is {role}'s")
        if isinstance(weight, bool) or weight not in (0, 1):
            raise _Fault(f"{path}.weight", f"0 or 1 is expected, found {_shown(weight)}")


def _content(message: dict[str, Any], role: str, path: str) -> None:
    content = message.get("content")
    if content is None and role == "assistant" and (message.get("tool_calls") or message.get("function_call")):
        return
    if isinstance(content, list):
        for place, part in enumerate(content):
            kind = part.get("type") if isinstance(part, dict) else None
            if kind != "text" or not isinstance(part.get("text"), str):
                raise _Fault(f"{path}.content[{place}]", f"a part of text is expected, found {_shown(kind or part)}")
    elif not isinstance(content, str):
        raise _Fault(f"{path}.content", f"text is expected, found {_kind(content)}")
    elif role == "assistant" and not content.strip() and not message.get("tool_calls"):
        raise _Fault(f"{path}.content", "an answer is expected, found nothing but space")


def _shown(value: object) -> str:
    return "nothing" if value is None else f"{value!r:.60}"


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}
    if value in ("", [], {}):
        return "an empty one"
    return "nothing" if value is None else names.get(type(value), type(value).__name__)
