"""Finds a key that stands twice in one object of JSON text, which parsers take without a word: the last value wins.

Good rows cost a count: a key's colon stands behind a quote or a space, so where the text has no more of these than the
parsed value has keys, none stands twice. Of all lines of a block they are counted at once, compiled (0.2 µs a line of
1 kB; line by line 2.9). Else Python's parser, which tells every pair, is asked (5 µs); only a row with a fault is gone
through.
"""

import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from tunewright.dataprep.compiling import compiled, nth
from tunewright.dataprep.readers.sources import Line, Problem

_TOKEN = re.compile(rb'("[^"\\]*+(?:\\.[^"\\]*+)*+")([ \t\r\n]*+:)?|[{}\[\],]', re.DOTALL)
_NESTING = frozenset({dict, list})
_BEFORE_COLON = frozenset({b'"', b" ", b"\t", b"\r", b"\n"})
_KEY_CHARS = 40
_QUOTE, _BLANK, _TAB, _BREAK, _CR, _COLON = b'" \t\n\r:'


def key_colons(lines: Sequence[bytes]) -> list[int]:
    """Return how many colons of each line may be a key's: those behind a quote or white space."""
    ends = np.cumsum(np.fromiter(map(len, lines), np.int64, len(lines)))
    found = np.zeros(len(lines), np.int64)
    _count_colons(np.frombuffer(b"".join(lines), np.uint8), ends, found)
    return found.tolist()


@compiled
def _count_colons(data: NDArray[np.uint8], ends: NDArray[np.int64], found: NDArray[np.int64]) -> None:
    """Count without a branch, so that many bytes are looked at in one step."""
    start = 0
    for number in range(len(ends)):
        count = 0
        for at in range(start + 1, ends[number]):
            before = data[nth(at - 1)]
            behind = (before == _QUOTE) | (before == _BLANK) | (before == _TAB) | (before == _BREAK) | (before == _CR)
            count += (data[nth(at)] == _COLON) & behind
        found[number] = count
        start = ends[number]


def keys_of(value: Any) -> int:  # noqa: ANN401 - any JSON value
    """Return the keys of all objects in a value."""
    if type(value) is dict:
        keys = len(value)
        for one in value.values():
            if type(one) in _NESTING:
                keys += _keys(one)
        return keys
    return _keys(value) if type(value) is list else 0


def checked(line: Line) -> Line:
    """Return the line itself, or as a problem if a key stands twice in one of its objects."""
    found = repeated_key(line.raw, line.value)
    if found is None:
        return line
    place, name = found
    return Line(line.number, None, Problem("duplicate_key", place, repeated_key_words(name)), line.raw)


def repeated_key(raw: bytes, value: Any) -> tuple[str, str] | None:  # noqa: ANN401 - any JSON value
    """Return the place (`messages[1].content`) and name of the first key that stands twice in one object, or None.

    Args:
        raw: JSON text in UTF-8.
        value: what a parser made of it.
    """
    keys = keys_of(value)
    if raw.count(b":") == keys:
        return None
    before = raw.split(b":")
    before.pop()
    if [piece[-1:] in _BEFORE_COLON for piece in before].count(True) == keys or not _stands_twice(raw):
        return None
    return _search(raw)


def repeated_key_words(name: str) -> str:
    """Return what is wrong with a key that stands twice, and what to do about it."""
    return (
        f"the key {name[:_KEY_CHARS]!r} stands twice in one object, and only one of its values could be taken: "
        "remove or rename one of them"
    )


def _stands_twice(raw: bytes) -> bool:
    try:
        json.loads(raw, object_pairs_hook=_refuse_twice, parse_int=str)  # ints of any length
    except (_TwiceError, RecursionError):
        return True
    return False


def _refuse_twice(pairs: list[tuple[str, Any]]) -> None:
    if len(pairs) > 1 and len({name for name, _ in pairs}) < len(pairs):
        raise _TwiceError


class _TwiceError(Exception):
    pass


def _keys(value: Any) -> int:  # noqa: ANN401 - any JSON value
    """Return the keys of all objects in a value; without recursion, since nothing bounds its depth."""
    count, waiting = 0, [value]
    for one in waiting:
        if type(one) is dict:
            count += len(one)
            waiting += [inner for inner in one.values() if type(inner) in _NESTING]
        elif type(one) is list:
            waiting += [inner for inner in one if type(inner) in _NESTING]
    return count


def _search(raw: bytes) -> tuple[str, str] | None:
    """Go through the text; an object is the set of its keys, and the newest of them; a list is its index."""
    objects: list[set[str] | None] = []
    places: list[str | int] = []
    for match in _TOKEN.finditer(raw):
        sign = match[0][:1]
        if sign == b'"':
            if match[2] and objects and (names := objects[-1]) is not None:
                name = orjson.loads(match[1])
                places[-1] = name
                if name in names:
                    return _path(places), name
                names.add(name)
        elif sign in b"{[":
            objects.append(set() if sign == b"{" else None)
            places.append("" if sign == b"{" else 0)
        elif sign in b"}]":
            objects.pop()
            places.pop()
        elif objects and objects[-1] is None:
            places[-1] = int(places[-1]) + 1
    return None


def _path(places: list[str | int]) -> str:
    path = "".join(f"[{place}]" if isinstance(place, int) else f".{place[:_KEY_CHARS]}" for place in places)
    return path.removeprefix(".")
