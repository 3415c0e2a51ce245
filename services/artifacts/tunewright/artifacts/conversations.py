"""Conversations of dataset rows as chat templates take them; and which parts of tool use a template leaves out.

A dataset holds OpenAI's form: the arguments of a call are a string of JSON, `weight: 0` keeps an answer from being
learnt. Templates expect arguments as objects, as transformers documents and vLLM does. Knows no tokenizer.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import Any

Messages = Sequence[Mapping[str, Any]]
Render = Callable[[Messages, Sequence[Any] | None], str]
"""Renders messages, already as templates take them, with definitions of tools."""

TEMPLATE_DATE = date(2024, 7, 26)
"""What templates that ask for today's date are told wherever rows are counted or learned, so that a dataset is the same
to the token on any day. It is the date that Llama 3.1's and 3.2's own templates fall back to. Engines tell today's."""

DEFINITIONS, CALLS, RESULTS = "definitions of tools", "tool calls", "results of tools"

DROPS = "the base's chat template drops {} without a word, so the model would be trained without them"
DROPS_REMEDY = (
    "Take a base whose template knows tools, put such a template into the base's folder (chat_template.jinja), or "
    "leave tools out of the rows."
)

_NAME, _VALUE, _RESULT, _DEFINED = "probecall", "probevalue", "proberesult", "probedefinition"
_QUESTION = {"role": "user", "content": "?"}
_DEFINITION = {
    "type": "function",
    "function": {"name": _DEFINED, "description": "?", "parameters": {"type": "object", "properties": {}}},
}
# Nine letters and digits: Mistral's templates refuse other ids.
_CALL = {"id": "probe0001", "type": "function", "function": {"name": _NAME, "arguments": {"key": _VALUE}}}
_CALLED = {"role": "assistant", "content": "", "tool_calls": [_CALL]}
_ANSWERED = {"role": "tool", "content": _RESULT, "tool_call_id": "probe0001", "name": _NAME}


def for_template(messages: Messages) -> list[dict[str, Any]]:
    """Return a row's messages as chat templates take them: arguments as objects, no weights."""
    return [_for_template(message) for message in messages]


def asks_for_date(template: str) -> bool:
    """Return True if a chat template writes the day's date into what it renders."""
    return "strftime_now" in template


def strftime_now(pattern: str) -> str:
    """Return TEMPLATE_DATE as a template wants it written."""
    return TEMPLATE_DATE.strftime(pattern)


def is_learnt(message: Mapping[str, Any]) -> bool:
    """Return True for an answer that is to be learnt: the assistant's, unless its weight is 0."""
    return message["role"] == "assistant" and message.get("weight") != 0


def has_calls(messages: Messages) -> bool:
    """Return True if the assistant calls a tool."""
    return any(message.get("tool_calls") for message in messages)


def used_of(messages: Messages, tools: Sequence[Any] | None) -> set[str]:
    """Return which parts of tool use a conversation has."""
    has = {
        DEFINITIONS: bool(tools),
        CALLS: has_calls(messages),
        RESULTS: any(message["role"] == "tool" for message in messages),
    }
    return {part for part, used in has.items() if used}


def left_out_by(render: Render, refusals: type[Exception] | tuple[type[Exception], ...]) -> set[str]:
    """Return the parts of tool use that a template drops without a word; what it refuses aloud it does not drop.

    Args:
        render: the template.
        refusals: what it raises where it refuses a conversation.
    """
    conversation: Messages = [_QUESTION, _CALLED, _ANSWERED, {"role": "assistant", "content": "."}]
    probes: list[tuple[str, Messages, Sequence[Any] | None, tuple[str, ...]]] = [
        (DEFINITIONS, [_QUESTION], [_DEFINITION], (_DEFINED,)),
        (CALLS, conversation, [_DEFINITION], (_NAME, _VALUE)),
        (RESULTS, conversation, [_DEFINITION], (_RESULT,)),
    ]
    found = set()
    for part, messages, tools, signs in probes:
        try:
            text = render(messages, tools)
        except refusals:
            continue
        if not all(sign in text for sign in signs):
            found.add(part)
    return found


def _for_template(message: Mapping[str, Any]) -> dict[str, Any]:
    plain = {name: value for name, value in message.items() if name != "weight"}
    if calls := message.get("tool_calls"):
        plain["tool_calls"] = [_call(call) for call in calls]
    return plain


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"]
    arguments = function["arguments"]
    parsed = json.loads(arguments) if isinstance(arguments, str) else arguments
    return {**call, "function": {**function, "arguments": parsed}}
