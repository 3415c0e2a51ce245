"""Texts that are JSON documents (results of tools, structured answers): no rule may leave them as something else.

Knows no rules and no rows.
"""

import json
import re
from collections.abc import Callable
from typing import Any

_KEY = re.compile(r'"(?:[^"\\]|\\.)*"(\s*:)?', re.DOTALL)
_LITERAL = re.compile(r'"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*', re.DOTALL)
_ENDS = {"{": "}", "[": "]"}


def loads(text: str) -> Any:  # noqa: ANN401 - any JSON value
    """Return what a JSON text says; strict, where Python's own parser takes more than JSON.

    Raises:
        ValueError: it is no JSON, or says what no UTF-8 file can: NaN, Infinity, half a character.
        RecursionError: it is nested too deeply.
    """
    value = json.loads(text, parse_constant=_refuse_constant)
    json.dumps(value, ensure_ascii=False).encode()
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def is_json(text: str) -> bool:
    """Return True if the text is a JSON object or list."""
    own = text.strip()
    if own[:1] not in _ENDS or own[-1:] != _ENDS[own[:1]]:
        return False
    try:
        loads(own)
    except (ValueError, RecursionError):
        return False
    return True


def replace_values(text: str, change: Callable[[str], str]) -> str:
    """Return a JSON document with its strings and numbers changed; all else stays to the last character.

    A number that is changed becomes a string.

    Args:
        text: a JSON document.
        change: given a string's text, or a number as it is written, returns what stands in its place.
    """

    def changed(match: re.Match[str]) -> str:
        literal = match[0]
        own = json.loads(literal) if literal[0] == '"' else literal
        new = change(own)
        return literal if new == own else json.dumps(new, ensure_ascii=literal.isascii())

    return _LITERAL.sub(changed, text)


def keys_of(text: str) -> list[str]:
    """Return the keys of all objects in a JSON document, each once, in their order."""
    return list(dict.fromkeys(json.loads(match[0][: -len(match[1])]) for match in _KEY.finditer(text) if match[1]))
