"""Shapes of rows: recognises which one a file has; `shaping.py` turns its rows into messages.

Knows nothing of files' bytes, cleaning or filters. Documents are one message of role `text`; preference pairs end with
one of role `chosen` and one of role `rejected`, so that every later step runs over one list of messages.
"""

import difflib
import itertools
import shlex
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Never, NotRequired, TypedDict

from tunewright.chassis.errors import InvalidData, Violation
from tunewright.dataprep.problems import kind_of
from tunewright.dataprep.readers import (
    DOCUMENTS,
    Layout,
    Line,
    Problem,
    Reading,
    Source,
    as_violation,
    examine,
    read_lines,
)
from tunewright.dataprep.turns import has_tools

_LINES_LOOKED_AT = 1000
_OBJECTS_LOOKED_AT = 100
_HEAD_BLOCK_BYTES = 256 << 10
NAMES_SHOWN = 8
NAME_CHARS = 40


class Message(TypedDict):
    """One turn of a conversation."""

    role: str
    content: str
    tool_calls: NotRequired[list[Any]]
    tool_call_id: NotRequired[str]
    name: NotRequired[str]
    weight: NotRequired[int]
    """0 keeps an answer from being learnt; there is no other."""


class Shape(StrEnum):
    """What the rows of a file look like."""

    INSTRUCTION = "instruction"
    PROMPT_COMPLETION = "prompt_completion"
    MESSAGES = "messages"
    SHAREGPT = "sharegpt"
    TEXT = "text"
    PREFERENCE = "preference"


_REQUIRED: dict[Shape, tuple[str, ...]] = {
    Shape.INSTRUCTION: ("instruction", "output"),
    Shape.PROMPT_COMPLETION: ("prompt", "completion"),
    Shape.MESSAGES: ("messages",),
    Shape.SHAREGPT: ("conversations",),
    Shape.TEXT: ("text",),
    Shape.PREFERENCE: ("chosen", "rejected"),
}
_OPTIONAL: dict[Shape, tuple[str, ...]] = {
    Shape.INSTRUCTION: ("input", "system"),
    Shape.PROMPT_COMPLETION: ("system",),
    Shape.MESSAGES: ("tools", "system"),
    Shape.SHAREGPT: ("tools", "system"),
    Shape.TEXT: (),
    Shape.PREFERENCE: ("prompt", "tools", "system"),
}
_PREFERENCE_NAMES = {"chosen": "preferred_output", "rejected": "non_preferred_output", "prompt": "input"}
_QUESTIONS = ("question", "instruction", "input", "conversations")
"""What the prompt of pairs is called elsewhere."""
_OTHER_NAMES: dict[Shape, tuple[tuple[tuple[str, str], ...], ...]] = {
    Shape.INSTRUCTION: (
        (("output", "response"),),
        (("output", "answer"),),
        (("output", "completion"),),
    ),
    Shape.PROMPT_COMPLETION: (
        (("completion", "response"),),
        (("prompt", "question"), ("completion", "answer")),
        (("prompt", "question"), ("completion", "response")),
        (("prompt", "query"), ("completion", "response")),
        (("prompt", "query"), ("completion", "answer")),
        (("prompt", "problem"), ("completion", "solution")),
        (("prompt", "input"), ("completion", "output")),
    ),
}
"""Shape → what its two fields are called in well-known sets (Dolly, GSM8K, OpenOrca, MetaMathQA, MATH …)."""
_OTHER_OPTIONAL = {"input": ("context",), "system": ("system_prompt",)}
_EXPECTED = (
    "instruction and output (input may be added), prompt and completion, messages, conversations (ShareGPT), "
    "text, or chosen and rejected"
)


@dataclass(frozen=True, slots=True)
class Recognition:
    """What was seen at a file's beginning."""

    shape: Shape
    fields: tuple[str, ...]
    """Names of the fields seen, the most frequent first."""
    matching: int
    """Rows of this shape among those looked at."""
    looked_at: int
    mapping: tuple[tuple[str, str], ...] = field(default=())
    """(our name, the file's name), where they differ."""
    is_document: bool = False
    """True if the file itself is one document, of which its rows are pieces."""
    with_tools: int = 0
    """Rows among those looked at that define tools, call one or hold a result."""

    def words(self) -> str:
        """Return it for people: shape, fields, and which field stands for which."""
        named = ", ".join(f"{theirs} = {ours}" for ours, theirs in self.mapping)
        tools = f"; {self.with_tools} of the first {self.looked_at} use tools" if self.with_tools else ""
        return f"{self.shape} rows with the fields {', '.join(self.fields)}" + (f" ({named})" if named else "") + tools


def recognise(source: Source, wanted: str, layout: Layout | None = None) -> Recognition:
    """Return the shape of a file by its first 100 rows; `wanted` is a shape, or `auto`.

    Raises:
        InvalidData: the file holds no object a row, or no row of a known shape, or not the one wanted.
    """
    layout = layout or examine(source)
    lines = list(_first(read_lines(source, layout, _HEAD_BLOCK_BYTES)))
    rows = [line.value for line in lines if isinstance(line.value, dict)]
    if not rows:
        _refuse_syntax(source, lines)
    names = [str(name) for name, _ in Counter(name for row in rows for name in row).most_common()]
    _check_fields(source, rows, names)
    candidates = list(_REQUIRED) if wanted == "auto" else [Shape(wanted)]
    if wanted == "instruction":
        candidates.append(Shape.PROMPT_COMPLETION)
    mappings = {shape: _mapping(shape, source.reading, rows) for shape in candidates}
    counts = {shape: sum(_has(row, shape, mappings[shape]) for row in rows) for shape in candidates}
    shape = max(counts, key=lambda shape: (counts[shape], shape is Shape.PREFERENCE, not _is_renamed(mappings[shape])))
    if not counts[shape]:
        _refuse_fields(source, lines, candidates, names, auto=wanted == "auto")
    _check_named(source, shape)
    shown = tuple(name[:NAME_CHARS] for name in names[:NAMES_SHOWN])
    mapping = tuple((ours, theirs) for ours, theirs in mappings[shape].items() if ours != theirs)
    with_tools = sum(uses_tools(row, mappings[shape]) for row in rows)
    return Recognition(shape, shown, counts[shape], len(rows), mapping, layout.container in DOCUMENTS, with_tools)


ABSENT = object()


def reach(row: Any, path: str) -> Any:  # noqa: ANN401 - any JSON value
    """Return the value at a name, or at a path such as `data.question` if there is no such name; ABSENT if neither."""
    if path in row:
        return row[path]
    value = row
    for name in path.split("."):
        if not isinstance(value, dict) or name not in value:
            return ABSENT
        value = value[name]
    return value


def _mapping(shape: Shape, reading: Reading, rows: list[dict[str, Any]]) -> dict[str, str]:
    """Return our name → the file's, for the fields of a shape: as the recipe says, else as usual files have it."""
    said = dict(reading.fields)
    known = (*_REQUIRED[shape], *_OPTIONAL[shape])
    names = {ours: said.get(ours, ours) for ours in known}
    if shape is Shape.PREFERENCE and not any("chosen" in row for row in rows):
        names |= {ours: theirs for ours, theirs in _PREFERENCE_NAMES.items() if ours not in said}
    elif shape is Shape.PREFERENCE and "prompt" not in said and not any("prompt" in row for row in rows):
        names["prompt"] = next((name for name in _QUESTIONS if any(name in row for row in rows)), "prompt")
    if shape in _OTHER_NAMES and not said:
        names |= _usual_names(shape, rows)
    other = {Shape.MESSAGES: ("messages", "conversations"), Shape.SHAREGPT: ("conversations", "messages")}.get(shape)
    if other and other[0] not in said and not any(other[0] in row for row in rows):
        names[other[0]] = other[1]
    return {
        ours: theirs for ours, theirs in names.items() if ours in said or ours != theirs or ours in _REQUIRED[shape]
    }


def _is_renamed(mapping: dict[str, str]) -> bool:
    return any(ours != theirs for ours, theirs in mapping.items())


def _usual_names(shape: Shape, rows: list[dict[str, Any]]) -> dict[str, str]:
    """Return our name → the file's, where no row has ours and most have texts under names that are as usual."""
    first, second = _REQUIRED[shape]
    if any(first in row and second in row for row in rows):
        return {}
    for pairs in _OTHER_NAMES[shape]:
        theirs = {first: first, second: second, **dict(pairs)}
        fitting = sum(all(isinstance(row.get(name), str) for name in theirs.values()) for row in rows)
        if 2 * fitting > len(rows):
            optional = {
                ours: next((n for n in names if any(n in row for row in rows)), ours)
                for ours, names in _OTHER_OPTIONAL.items()
                if ours in _OPTIONAL[shape] and not any(ours in row for row in rows)
            }
            return {**dict(pairs), **{ours: name for ours, name in optional.items() if ours != name}}
    return {}


def _has(row: dict[str, Any], shape: Shape, mapping: dict[str, str]) -> bool:
    values = [reach(row, mapping.get(name, name)) for name in _REQUIRED[shape]]
    if any(value is ABSENT for value in values):
        return False
    if shape in {Shape.MESSAGES, Shape.SHAREGPT}:
        first = values[0][0] if isinstance(values[0], list) and values[0] else {}
        is_sharegpt = isinstance(first, dict) and "from" in first and "role" not in first
        return is_sharegpt == (shape is Shape.SHAREGPT) or (not first and shape.value == mapping.get(shape.value))
    return True


def uses_tools(row: dict[str, Any], mapping: dict[str, str]) -> bool:
    """Return True if a raw row defines tools, calls one, or holds what one gave."""
    found = [row.get("tools"), row.get("functions")]
    for ours in ("messages", "conversations", "prompt"):
        value = reach(row, mapping.get(ours, ours))
        turns = value.get("messages") if isinstance(value, dict) else value
        if isinstance(turns, list):
            found += [has_tools(turn) for turn in turns]
    return any(found)


def _first(lines: Iterable[Line]) -> Iterable[Line]:
    objects = 0
    for line in itertools.islice(lines, _LINES_LOOKED_AT):
        yield line
        objects += isinstance(line.value, dict)
        if objects == _OBJECTS_LOOKED_AT:
            return


def _refuse_syntax(source: Source, lines: list[Line]) -> Never:
    if not lines:
        raise InvalidData(
            f"{source.name} holds only blank lines or nothing", remedy="Upload the file again, with its rows."
        )
    first = lines[0]
    problem = first.problem or Problem("not_an_object", "", f"a JSON object is expected, found {kind_of(first.value)}")
    place = as_violation(source, first.number, problem)
    convert = f" CSV is read from files whose names end with .csv: mv {shlex.quote(source.name)} rows.csv."
    looks_like_csv = b"," in first.raw and not first.raw.lstrip().startswith((b"{", b"["))
    raise InvalidData(
        f"{source.name}: none of its first {len(lines):,} rows is an object. {place.field}: {place.description}",
        remedy=f"Objects are expected, with the fields {_EXPECTED}." + (convert if looks_like_csv else ""),
        violations=[place],
    )


def _check_fields(source: Source, rows: list[dict[str, Any]], names: list[str]) -> None:
    """Refuse a field mapping that names what no row has: the file's real fields are told.

    Raises:
        InvalidData: a field is in none of the first rows.
    """
    seen = ", ".join(name[:NAME_CHARS] for name in names[:NAMES_SHOWN]) or "none"
    for ours, theirs in source.reading.fields:
        if all(reach(row, theirs) is ABSENT for row in rows):
            near = difflib.get_close_matches(theirs, names, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InvalidData(
                f"{source.name}: `fields` says that {ours} is called {theirs!r}; its rows have the fields {seen}{hint}",
                remedy="Correct `fields` beside the file, under `data` in the recipe.",
                violations=[Violation(f"{source.name}:1", f"no field {theirs!r}; there are {seen}")],
            )


def _check_named(source: Source, shape: Shape) -> None:
    known = (*_REQUIRED[shape], *_OPTIONAL[shape])
    if foreign := [ours for ours, _ in source.reading.fields if ours not in known]:
        raise InvalidData(
            f"{source.name}: `fields` names {', '.join(foreign)}, which {shape} rows do not have; they have "
            f"{', '.join(known)}",
            remedy="Correct `fields` beside the file, or name the shape by `format`, under `data` in the recipe.",
        )


def _refuse_fields(
    source: Source, lines: list[Line], candidates: list[Shape], names: list[str], *, auto: bool
) -> Never:
    first = next(line for line in lines if isinstance(line.value, dict))
    seen = ", ".join(name[:NAME_CHARS] for name in names[:NAMES_SHOWN]) or "none"
    expected = _EXPECTED if auto else " or ".join(" and ".join(_REQUIRED[shape]) for shape in candidates)
    near = [nearest(name, names) for shape in candidates for name in _REQUIRED[shape]]
    hint = "; ".join(dict.fromkeys(text for text in near if text))
    raise InvalidData(
        f"{source.name}: its rows have the fields {seen}; expected are {expected}" + (f" ({hint})" if hint else ""),
        remedy="Say beside the file which field is which, such as `fields: {instruction: question, output: answer}`"
        + ("." if auto else ", or set format: auto."),
        violations=[Violation(f"{source.name}:{first.number}", f"has the fields {seen}")],
    )


def nearest(wanted: str, names: list[str]) -> str:
    """Return a question whether one of the names was meant as `wanted`; empty if none is like it."""
    found = difflib.get_close_matches(wanted, [name[:NAME_CHARS] for name in names], n=1, cutoff=0.7)
    return f"is {found[0]!r} meant as {wanted!r}?" if found and found[0] != wanted else ""
