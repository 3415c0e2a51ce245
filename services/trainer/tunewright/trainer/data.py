"""Rows of a dataset artifact, as dataprep writes it. Knows no tokenizer and no model.

sft    {"messages": [… the last of the assistant …]}
cpt    {"text": …}
dpo    {"messages": [… the prompt …], "chosen": answer, "rejected": answer}

Definitions of tools stand in "tools" beside "messages"; calls and results in the messages, in OpenAI's form.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tunewright.artifacts.conversations import is_learnt
from tunewright.chassis.errors import InvalidData, Violation
from tunewright.trainer.spec import Objective

TRAIN_FILE = "train.jsonl"
VALIDATION_FILE = "validation.jsonl"
_TEXT_PROMPT_CHARS = 200
_ROLES = ("system", "user", "assistant", "tool")
_FURTHER = ("tool_calls", "tool_call_id", "name", "weight")
"""What a message may have beside role and content."""


class Held(NamedTuple):
    """What a dataset's rows are, and who reads them."""

    objective: Objective
    words: str


OBJECTIVES = {
    "conversation": Held("sft", "conversations"),
    "text": Held("cpt", "documents"),
    "preference": Held("dpo", "pairs of answers"),
}
"""`row_kind` of a dataset's manifest → its rows."""


@dataclass(frozen=True, slots=True)
class Row:
    """One conversation, text or pair of answers."""

    id: str
    messages: list[dict[str, Any]]
    """Each with `role` (system, user, assistant, tool) and `content`; with a pair of answers it ends in the chosen
    one."""
    place: str
    """File and line, for messages to people: `train.jsonl:17`."""
    text: str = ""
    """Raw text, for cpt; there are no messages then."""
    rejected: str = ""
    """For dpo: the answer that shall become less likely."""
    tools: tuple[dict[str, Any], ...] = ()
    """Definitions of the tools that the assistant may call."""

    def prompt(self) -> list[dict[str, Any]]:
        """Return the messages before the last answer; of a raw text, its beginning as a question."""
        if not self.messages:
            return [{"role": "user", "content": self.text[:_TEXT_PROMPT_CHARS]}]
        last = max(index for index, message in enumerate(self.messages) if is_learnt(message))
        return self.messages[:last]

    def instead(self) -> "Row":
        """Return the conversation with the rejected answer in place of the chosen one."""
        messages = [*self.messages[:-1], {"role": "assistant", "content": self.rejected}]
        return Row(self.id, messages, self.place, tools=self.tools)


def load_dataset(directory: Path, objective: Objective = "sft") -> tuple[list[Row], list[Row]]:
    """Return the training rows and the held-out rows, in the files' order.

    Raises:
        InvalidData: not a dataset artifact, no training rows, or a malformed row or one for another
            objective (file and line named).
    """
    if not (directory / TRAIN_FILE).is_file():
        raise InvalidData(
            f"the dataset holds no {TRAIN_FILE}: only what data preparation made can be trained on",
            remedy="Prepare the raw files first and give the dataset that comes out.",
        )
    train = _rows(directory / TRAIN_FILE, objective)
    if not train:
        raise InvalidData(f"{TRAIN_FILE} holds no rows", remedy="Look at the dataset's report: why was all dropped?")
    validation = _rows(directory / VALIDATION_FILE, objective) if (directory / VALIDATION_FILE).is_file() else []
    return train, validation


def _rows(path: Path, objective: Objective) -> list[Row]:
    with path.open("rb") as file:
        return [
            _row(line, f"{path.name}:{number}", objective)
            for number, line in enumerate(file, start=1)
            if line.strip()
        ]  # fmt: skip


def _row(line: bytes, place: str, objective: Objective) -> Row:
    try:
        document = json.loads(line)
    except ValueError as error:
        raise _wrong(place, f"not JSON: {error}") from error
    if not isinstance(document, dict):
        raise _wrong(place, "an object is expected")
    _check_objective(document, place, objective)
    identifier = str(document.get("id", place))
    if objective == "cpt":
        return Row(identifier, [], place, text=_text(document, "text", place))
    messages = _messages(document, place)
    if objective == "dpo":
        chosen = {"role": "assistant", "content": _answer(document, "chosen", place)}
        rejected = _answer(document, "rejected", place)
        return Row(identifier, [*messages, chosen], place, rejected=rejected, tools=_tools(document, place))
    if not any(is_learnt(message) for message in messages):
        raise _wrong(place, "no message of the assistant, hence nothing to learn")
    return Row(identifier, messages, place, tools=_tools(document, place))


def _check_objective(document: dict[str, Any], place: str, objective: Objective) -> None:
    """Name the mismatch of rows and objective here: a library would only say `KeyError: input_ids`."""
    holds: Objective = "dpo" if "chosen" in document else "cpt" if "messages" not in document else "sft"
    if holds == objective or (holds == "cpt" and "text" not in document):
        return
    raise InvalidData(
        f"{place}: this row is one for {holds} ({', '.join(sorted(document.keys() - {'id', 'source'}))}), "
        f"the objective is {objective}, which reads {_FIELDS[objective]}",
        remedy=f"Set training.objective to {holds}, or prepare the data in another format.",
        violations=[Violation(place, f"a row for {holds}, not for {objective}")],
    )


_FIELDS = {"sft": "`messages`", "cpt": "`text`", "dpo": "`messages`, `chosen` and `rejected`"}


def _messages(document: dict[str, Any], place: str) -> list[dict[str, Any]]:
    messages = document.get("messages")
    if not isinstance(messages, list) or not messages or not all(_is_message(message) for message in messages):
        raise _wrong(place, f"`messages` must be a list of {{role: {' | '.join(_ROLES)}, content: text}}")
    return [
        {"role": one["role"], "content": one["content"], **{name: one[name] for name in _FURTHER if name in one}}
        for one in messages
    ]


def _tools(document: dict[str, Any], place: str) -> tuple[dict[str, Any], ...]:
    tools = document.get("tools", [])
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise _wrong(place, "`tools` must be a list of definitions")
    return tuple(tools)


def _answer(document: dict[str, Any], field: str, place: str) -> str:
    """Return one answer of a pair: a text, or a list with one message."""
    value = document.get(field)
    if isinstance(value, list) and len(value) == 1 and _is_message(value[0]):
        return str(value[0]["content"])
    return _text(document, field, place)


def _text(document: dict[str, Any], field: str, place: str) -> str:
    value = document.get(field)
    if not isinstance(value, str) or not value.strip():
        raise _wrong(place, f"`{field}` must be a text that is not empty")
    return value


def _is_message(value: Any) -> bool:  # noqa: ANN401 - any JSON value
    if not isinstance(value, dict) or value.get("role") not in _ROLES or not isinstance(value.get("content"), str):
        return False
    calls = value.get("tool_calls", [])
    return isinstance(calls, list) and all(_is_call(call) for call in calls)


def _is_call(value: Any) -> bool:  # noqa: ANN401 - any JSON value
    function = value.get("function") if isinstance(value, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        return False
    try:
        return isinstance(json.loads(function["arguments"]), dict)
    except (KeyError, TypeError, ValueError):
        return False


def _wrong(place: str, why: str) -> InvalidData:
    return InvalidData(f"{place}: {why}", violations=[Violation(place, why)])
