"""What a dataset is made of: conversations, documents, or pairs of answers; and how a row of each is written.

    conversation  {"id", "messages": [… the last of the assistant …], "source"}          objective sft
    text          {"id", "text", "source"}                                             objective cpt
    preference    {"id", "messages": [… the prompt …], "chosen", "rejected", "source"}   objective dpo

Where a conversation or a pair has tools, their definitions stand in "tools", before "messages". Inside, every row is a
list of messages: a document is one of role `text`; a pair ends with one of role `chosen` and one of role `rejected`;
definitions of tools come first, in one of role `tools`. Knows nothing of what rows hold otherwise.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

import orjson

from tunewright.chassis.errors import InvalidData, Violation
from tunewright.dataprep.readers import Source
from tunewright.dataprep.shapes import Message, Recognition, Shape
from tunewright.dataprep.tool_use import TOOLS, compact

_TURNS = 2
"""The messages at a pair's end that are its answers."""


class RowKind(StrEnum):
    """What every row of a dataset is."""

    CONVERSATION = "conversation"
    TEXT = "text"
    PREFERENCE = "preference"


_KINDS = {Shape.TEXT: RowKind.TEXT, Shape.PREFERENCE: RowKind.PREFERENCE}
_WORDS = {RowKind.CONVERSATION: "conversations", RowKind.TEXT: "documents", RowKind.PREFERENCE: "pairs of answers"}


def kind_of_files(sources: Sequence[Source], recognitions: Sequence[Recognition]) -> RowKind:
    """Return what the rows of all files are.

    Raises:
        InvalidData: files hold rows of different kinds; all are named.
    """
    files: dict[RowKind, list[str]] = {}
    for source, seen in zip(sources, recognitions, strict=True):
        files.setdefault(_KINDS.get(seen.shape, RowKind.CONVERSATION), []).append(source.name)
    if len(files) == 1:
        return next(iter(files))
    held = "; ".join(f"{_WORDS[kind]} in {', '.join(names)}" for kind, names in files.items())
    raise InvalidData(
        f"the files hold rows of different kinds: {held}. A dataset is made of one kind",
        remedy="Prepare each kind in a run of its own, or say beside a file, by `format`, what its rows are.",
        violations=[Violation(name, _WORDS[kind]) for kind, names in files.items() for name in names],
    )


def body_of(messages: Sequence[Message], kind: RowKind) -> bytes:
    """Return what stands between a row's id and its source, as JSON."""
    if kind is RowKind.TEXT:
        return b'"text":' + orjson.dumps(messages[0]["content"])
    if kind is RowKind.PREFERENCE:
        chosen, rejected = (orjson.dumps(message["content"]) for message in messages[-_TURNS:])
        return b'%b,"chosen":%b,"rejected":%b' % (_turns_of(messages[:-_TURNS]), chosen, rejected)
    return _turns_of(messages)


def _turns_of(messages: Sequence[Message]) -> bytes:
    if messages[0]["role"] == TOOLS:
        return b'"tools":%b,"messages":%b' % (messages[0]["content"].encode(), orjson.dumps(messages[1:]))
    return b'"messages":' + orjson.dumps(messages)


def messages_of(row: Mapping[str, Any]) -> list[Message]:
    """Return a row of a dataset as the list of messages that it is inside; `body_of` is the inverse."""
    if "text" in row:
        return [{"role": "text", "content": row["text"]}]
    messages: list[Message] = row["messages"]
    if tools := row.get("tools"):
        messages = [{"role": TOOLS, "content": compact(tools)}, *messages]
    if "chosen" not in row:
        return messages
    pair: list[Message] = [
        {"role": "chosen", "content": row["chosen"]},
        {"role": "rejected", "content": row["rejected"]},
    ]
    return [*messages, *pair]
