"""Texts that are JSON documents (results of tools, structured answers): no rule may leave them as something else.

Knows no rules and no rows.
"""

import json
import re
from collections.abc import Callable

_LITERAL = re.compile(r'"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*', re.DOTALL)
_ENDS = {"{": "}", "[": "]"}


def is_json(text: str) -> bool:
    """Return True if the text is a JSON object or list."""
    own = text.strip()
    if own[:1] not in _ENDS or own[-1:] != _ENDS[own[:1]]:
        return False
    try:
        json.loads(own)
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
