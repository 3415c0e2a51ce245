"""Turns rows of a known shape into messages; errors name the fields as the file has them. Knows no files."""

import itertools
from typing import Any

from tunewright.dataprep.pairs import pair_of
from tunewright.dataprep.problems import RowError, kind_of
from tunewright.dataprep.shapes import ABSENT, NAME_CHARS, NAMES_SHOWN, Message, Recognition, Shape, nearest, reach
from tunewright.dataprep.tool_use import TOOLS, definitions
from tunewright.dataprep.turns import answer_text, as_written, conversation, sharegpt

_PAIR = 2
_PAIRS = {Shape.INSTRUCTION: ("instruction", "output", "input"), Shape.PROMPT_COMPLETION: ("prompt", "completion")}
"""Shape → question and answer, and what may be empty."""
_IMAGES = ("image", "images")


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
            if value is not ABSENT:
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
        names = [str(name)[:NAME_CHARS] for name in itertools.islice((n for n in row if n not in ours), NAMES_SHOWN)]
        near = nearest(wanted, names)
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
