"""Shapes of rows: recognises which one a file has, and turns its rows into messages.

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
from tunewright.dataprep.pairs import pair_of
from tunewright.dataprep.problems import RowError, kind_of
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
from tunewright.dataprep.tool_use import TOOLS, definitions
from tunewright.dataprep.turns import answer_text, as_written, conversation, has_tools, sharegpt

_LINES_LOOKED_AT = 1000
_OBJECTS_LOOKED_AT = 100
_HEAD_BLOCK_BYTES = 256 << 10
_NAMES_SHOWN = 8
_NAME_CHARS = 40


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
_PAIR = 2
_PAIRS = {Shape.INSTRUCTION: ("instruction", "output", "input"), Shape.PROMPT_COMPLETION: ("prompt", "completion")}
"""Shape → question and answer, and what may be empty."""
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
_IMAGES = ("image", "images")
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
    shown = tuple(name[:_NAME_CHARS] for name in names[:_NAMES_SHOWN])
    mapping = tuple((ours, theirs) for ours, theirs in mappings[shape].items() if ours != theirs)
    with_tools = sum(uses_tools(row, mappings[shape]) for row in rows)
    return Recognition(shape, shown, counts[shape], len(rows), mapping, layout.container in DOCUMENTS, with_tools)


class Shaper:
    """Turns the rows of one file into messages. May be sent to another process.

    Args:
        recognition: what the file is.
        system_prompt: put before rows that have no system turn, as in instruction rows; none if empty.
    """

    def __init__(self, recognition: Recognition, system_prompt: str = "") -> None:
        self._shape = recognition.shape
        self._names = dict(recognition.mapping)
        self._system = system_prompt

    def __call__(self, row: Any) -> list[Message]:  # noqa: ANN401 - any JSON value
        """Return the row as messages.

        Raises:
            RowError: the row is not of this shape.
        """
        if not isinstance(row, dict):
            raise RowError("not_an_object", "", f"a JSON object is expected, found {kind_of(row)}")
        if self._names:
            row = self._renamed(row)
        for name in _IMAGES:
            if row.get(name):
                text = (
                    f"only text can be trained on, found {kind_of(row[name])} in {name!r}: leave out rows with images"
                )
                raise RowError("unsupported_content", name, text)
        shape = self._shape
        if shape is Shape.INSTRUCTION:
            return self._pair(row, "instruction", "output")
        if shape is Shape.PROMPT_COMPLETION:
            return self._pair(row, "prompt", "completion")
        if shape is Shape.TEXT:
            return [{"role": "text", "content": self._text(row, "text", required=True)}]
        try:
            if shape is Shape.PREFERENCE:
                return self._preference(row)
            return self._conversation(row, "messages" if shape is Shape.MESSAGES else "conversations")
        except RowError as error:
            raise self._in_their_words(error) from None

    def plain(self, row: Any) -> list[Message] | None:  # noqa: ANN401 - any JSON value
        """Return a row of its shape's simplest form as messages, in a fifth of the time; None of all others."""
        if type(row) is not dict or self._names or self._system:
            return None
        if self._shape is Shape.MESSAGES:
            return _plain_turns(row)
        names = _PAIRS.get(self._shape)
        return None if names is None else _plain_pair(row, *names)

    def _pair(self, row: dict[str, Any], question_name: str, answer_name: str) -> list[Message]:
        question, answer = row.get(question_name), row.get(answer_name)
        if type(question) is not str or type(answer) is not str:
            question = self._text(row, question_name, required=True)
            answer = self._text(row, answer_name, required=True)
        if "data:image/" in question or "data:image/" in answer:
            question = answer_text(question, self._name(question_name))
            answer = answer_text(answer, self._name(answer_name))
        if question_name == "instruction" and (context := row.get("input")):
            context = context if type(context) is str else self._text(row, "input", required=False)
            if context.strip():
                question = f"{question}\n\n{context}" if question.strip() else context
        try:
            system = self._system_of(row)
        except RowError as error:
            raise self._in_their_words(error) from None
        pair: list[Message] = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        return [{"role": "system", "content": system}, *pair] if system else pair

    def _conversation(self, row: dict[str, Any], name: str) -> list[Message]:
        if name not in row:
            raise RowError("missing_field", name, f"is missing; {self._named(row, name)}")
        if name == "conversations":
            turns, places = sharegpt(row[name], name)
            try:
                messages = conversation(turns, name, _tools_of(row))
            except RowError as error:
                raise as_written(error, name, row[name], places) from None
        else:
            messages = conversation(row[name], name, _tools_of(row))
        return self._under_system(row, messages) if "system" in row else messages

    def _preference(self, row: dict[str, Any]) -> list[Message]:
        for name in ("chosen", "rejected"):
            if name not in row:
                raise RowError("missing_field", name, f"is missing; {self._named(row, name)}")
        prompt, chosen, rejected = pair_of(row.get("prompt"), row["chosen"], row["rejected"])
        asked = row.get("prompt")
        tools = _tools_of(asked if isinstance(asked, dict) and "tools" in asked else row)
        if not prompt:
            raise RowError("missing_field", "prompt", f"is missing; {self._named(row, 'prompt')}")
        messages = conversation([*prompt, chosen], "chosen", tools)
        worse = _text_answer(conversation([*prompt, rejected], "rejected", tools)[-1], "rejected")
        best = _text_answer(messages.pop(), "chosen")
        pair: list[Message] = [{"role": "chosen", "content": best}, {"role": "rejected", "content": worse}]
        return [*self._under_system(row, messages), *pair]

    def _under_system(self, row: dict[str, Any], messages: list[Message]) -> list[Message]:
        """Return the messages under the row's own system text where they have none."""
        first = messages[0]["role"] == TOOLS
        system = self._system_of(row)
        if not system or messages[first]["role"] == "system":
            return messages
        return [*messages[:first], {"role": "system", "content": system}, *messages[first:]]

    def _system_of(self, row: dict[str, Any]) -> str:
        system = row.get("system")
        if system is not None and type(system) is not str:
            text = f"a string is expected as system prompt, found {kind_of(system)}: write it as text, or leave it out"
            raise RowError("wrong_type", "system", text)
        return answer_text(system, "system") if system else self._system

    def _renamed(self, row: dict[str, Any]) -> dict[str, Any]:
        found = dict(row)
        for ours, theirs in self._names.items():
            value = reach(row, theirs)
            if value is not _ABSENT:
                found[ours] = value
            elif ours != theirs:
                found.pop(ours, None)
        return found

    def _text(self, row: dict[str, Any], name: str, *, required: bool) -> str:
        if name not in row:
            if not required:
                return ""
            raise RowError("missing_field", self._name(name), f"is missing; {self._named(row, self._name(name))}")
        value = row[name]
        if value is None and not required:
            return ""
        if not isinstance(value, str):
            raise RowError("wrong_type", self._name(name), f"a string is expected, found {kind_of(value)}")
        return answer_text(value, self._name(name))

    def _name(self, ours: str) -> str:
        return self._names.get(ours, ours)

    def _in_their_words(self, error: RowError) -> RowError:
        """Return the error with the field's name as the file has it."""
        problem = error.problem
        for ours, theirs in self._names.items():
            if problem.field == ours or problem.field.startswith((f"{ours}[", f"{ours}.")):
                return RowError(problem.reason, theirs + problem.field[len(ours) :], problem.description)
        return error

    def _named(self, row: dict[str, Any], wanted: str) -> str:
        ours = {name for name in self._names if self._names[name] != name}
        names = [str(name)[:_NAME_CHARS] for name in itertools.islice((n for n in row if n not in ours), _NAMES_SHOWN)]
        near = _near(wanted, names)
        return f"the row has {', '.join(names) or 'no fields'}" + (f" ({near})" if near else "")


def _plain_turns(row: dict[str, Any]) -> list[Message] | None:
    """Return one question and its answer, where the row holds nothing else."""
    turns = row.get("messages") if len(row) == 1 else None
    if type(turns) is list and len(turns) == _PAIR and _says(turns[0], "user") and _says(turns[1], "assistant"):
        return turns
    return None


def _plain_pair(row: dict[str, Any], asked: str, answered: str, empty: str = "") -> list[Message] | None:
    """Return one question and its answer, where the row holds nothing else but an empty text named `empty`."""
    question, answer = row.get(asked), row.get(answered)
    if type(question) is not str or type(answer) is not str or "data:image/" in question or "data:image/" in answer:
        return None
    if len(row) != _PAIR and (len(row) != _PAIR + 1 or row.get(empty) != ""):
        return None
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _says(turn: Any, role: str) -> bool:  # noqa: ANN401 - any JSON value
    """Return True for a turn of that role that holds a text without images and nothing else."""
    if type(turn) is not dict or len(turn) != _PAIR or turn.get("role") != role:
        return False
    content = turn.get("content")
    return type(content) is str and "data:image/" not in content


def _tools_of(row: dict[str, Any]) -> Message | None:
    """Return the message that holds a row's definitions of tools, None if it has none."""
    parallel = row.get("parallel_tool_calls")
    if parallel is not None and not isinstance(parallel, bool):
        text = f"true or false is expected, found {kind_of(parallel)}"
        raise RowError("wrong_type", "parallel_tool_calls", text)
    name = "tools" if row.get("tools") else "functions"
    return definitions(row[name], name) if row.get(name) else None


def _text_answer(message: Message, name: str) -> str:
    if message.get("tool_calls"):
        text = "only texts can be preferred: a call of a tool may stand in the prompt, not in its place"
        raise RowError("unsupported_content", name, text)
    return message["content"]


_ABSENT = object()


def reach(row: Any, path: str) -> Any:  # noqa: ANN401 - any JSON value
    """Return the value at a name, or at a path such as `data.question` if there is no such name; _ABSENT if neither."""
    if path in row:
        return row[path]
    value = row
    for name in path.split("."):
        if not isinstance(value, dict) or name not in value:
            return _ABSENT
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
    if any(value is _ABSENT for value in values):
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
    seen = ", ".join(name[:_NAME_CHARS] for name in names[:_NAMES_SHOWN]) or "none"
    for ours, theirs in source.reading.fields:
        if all(reach(row, theirs) is _ABSENT for row in rows):
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
    seen = ", ".join(name[:_NAME_CHARS] for name in names[:_NAMES_SHOWN]) or "none"
    expected = _EXPECTED if auto else " or ".join(" and ".join(_REQUIRED[shape]) for shape in candidates)
    near = [_near(name, names) for shape in candidates for name in _REQUIRED[shape]]
    hint = "; ".join(dict.fromkeys(text for text in near if text))
    raise InvalidData(
        f"{source.name}: its rows have the fields {seen}; expected are {expected}" + (f" ({hint})" if hint else ""),
        remedy="Say beside the file which field is which, such as `fields: {instruction: question, output: answer}`"
        + ("." if auto else ", or set format: auto."),
        violations=[Violation(f"{source.name}:{first.number}", f"has the fields {seen}")],
    )


def _near(wanted: str, names: list[str]) -> str:
    found = difflib.get_close_matches(wanted, [name[:_NAME_CHARS] for name in names], n=1, cutoff=0.7)
    return f"is {found[0]!r} meant as {wanted!r}?" if found and found[0] != wanted else ""
