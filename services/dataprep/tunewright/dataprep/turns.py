"""Turns of conversations: checks them, and brings ShareGPT's into OpenAI's form. Knows no files and no shapes."""

import re
from typing import TYPE_CHECKING, Any

from tunewright.dataprep.readers import Problem

if TYPE_CHECKING:
    from tunewright.dataprep.shapes import Message

_ROLES = ("system", "user", "assistant")
_TOOL_ROLES = ("tool", "function")
_SPEAKERS = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "system": "system",
    "function_call": "function_call",
    "observation": "tool",
    "tool": "tool",
}
_PLAIN_KEYS = frozenset({"role", "content"})
_NAME_CHARS = 40
_EMBEDDED_IMAGE = re.compile(r"data:image/([\w.+-]+);base64,([A-Za-z0-9+/=\s]{64,})")
TOOLS_REMEDY = "leave the row out, or write the call and its result as text"
_DESCRIBE = "only text can be trained on: leave the row out, or put a description in the image's place"
_FOLLOWS = {
    "start": ("user",),
    "user": ("assistant",),
    "assistant": ("user",),
    "call": ("tool",),
    "tool": ("tool", "assistant"),
}


class RowError(Exception):
    """A row that does not have its file's shape."""

    def __init__(self, reason: str, field: str, description: str) -> None:
        super().__init__(description)
        self.problem = Problem(reason, field, description)


def conversation(turns: Any, name: str, *, tools: bool) -> "list[Message]":  # noqa: ANN401 - any JSON value
    """Return turns as messages: an optional system turn, then user and assistant in turns, the assistant last.

    Args:
        turns: the value of the row's field.
        name: the field.
        tools: tool calls and their results may stand in place of an answer.

    Raises:
        RowError: they are no such conversation; the turn and its field are named.
    """
    if not isinstance(turns, list):
        raise RowError("wrong_type", name, f"a list of messages is expected, found {kind_of(turns)}")
    messages = [
        turn if _is_plain(turn) else _turn(turn, f"{name}[{index}]", tools=tools) for index, turn in enumerate(turns)
    ]
    _check_order(messages, name)
    return messages


def sharegpt(turns: Any, name: str) -> Any:  # noqa: ANN401 - any JSON value
    """Return turns with `from` and `value` as turns with `role` and `content`; others as they are.

    Raises:
        RowError: a speaker is not known.
    """
    if not isinstance(turns, list):
        raise RowError("wrong_type", name, f"a list of turns is expected, found {kind_of(turns)}")
    return [_renamed(turn, f"{name}[{index}]") for index, turn in enumerate(turns)]


def _renamed(turn: Any, place: str) -> Any:  # noqa: ANN401 - any JSON value
    if not isinstance(turn, dict) or "from" not in turn:
        return turn
    speaker = turn["from"]
    role = _SPEAKERS.get(speaker.lower()) if isinstance(speaker, str) else None
    if role is None:
        found = repr(speaker[:_NAME_CHARS]) if isinstance(speaker, str) else kind_of(speaker)
        raise RowError("unsupported_role", f"{place}.from", f"one of {', '.join(_SPEAKERS)} is expected, found {found}")
    if "value" not in turn:
        raise RowError("missing_field", f"{place}.value", "is missing")
    if role == "function_call":
        call = {"type": "function", "function": {"name": "", "arguments": turn["value"]}}
        return {"role": "assistant", "content": "", "tool_calls": [call]}
    return {"role": role, "content": turn["value"]}


def _is_plain(turn: Any) -> bool:  # noqa: ANN401 - any JSON value
    """Return True for exactly a known role and a text without images: the case that must be fast."""
    return (
        type(turn) is dict
        and turn.keys() == _PLAIN_KEYS
        and turn["role"] in _ROLES
        and type(turn["content"]) is str
        and "data:image/" not in turn["content"]
    )


def _turn(turn: Any, place: str, *, tools: bool) -> "Message":  # noqa: ANN401 - any JSON value
    if not isinstance(turn, dict):
        raise RowError("wrong_type", place, f"an object with role and content is expected, found {kind_of(turn)}")
    role = _role(turn.get("role"), place, tools=tools)
    calls = _calls(turn, place, tools=tools)
    if turn.get("weight") == 0:
        text = "weight 0 would keep this turn from being learnt, and here every answer is: split the conversation"
        raise RowError("unsupported_content", f"{place}.weight", text)
    content = turn.get("content")
    message: Message = {
        "role": role,
        "content": "" if calls and content is None else text_of(content, f"{place}.content"),
    }
    if calls:
        message["tool_calls"] = calls
    if role == "tool":
        for name in ("tool_call_id", "name"):
            if isinstance(turn.get(name), str):
                message[name] = turn[name]
    return message


def _role(role: Any, place: str, *, tools: bool) -> str:  # noqa: ANN401 - any JSON value
    if role in _TOOL_ROLES and not tools:
        text = f"results of tools cannot be trained on: {TOOLS_REMEDY}"
        raise RowError("unsupported_content", f"{place}.role", text)
    known = (*_ROLES, "tool") if tools else _ROLES
    if role == "developer":
        role = "system"
    if role not in known:
        found = f"found {role[:_NAME_CHARS]!r}" if isinstance(role, str) else f"found {kind_of(role)}"
        raise RowError("unsupported_role", f"{place}.role", f"one of {', '.join(known)} is expected, {found}")
    return str(role)


def _calls(turn: dict[str, Any], place: str, *, tools: bool) -> list[Any]:
    calls = turn.get("tool_calls") or ([turn["function_call"]] if turn.get("function_call") else [])
    if calls and not tools:
        text = f"tool calls cannot be trained on: {TOOLS_REMEDY}"
        raise RowError("unsupported_content", f"{place}.tool_calls", text)
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise RowError("wrong_type", f"{place}.tool_calls", "a list of objects is expected")
    return calls


def text_of(content: Any, place: str) -> str:  # noqa: ANN401 - any JSON value
    """Return the text of a message, its parts joined.

    Raises:
        RowError: it holds an image, sound, or anything else that is no text.
    """
    if isinstance(content, str):
        return answer_text(content, place)
    if not isinstance(content, list):
        raise RowError("wrong_type", place, f"a string or a list of text parts is expected, found {kind_of(content)}")
    texts = []
    for index, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in {"text", "input_text", "output_text"} or not isinstance(part.get("text"), str):
            raise RowError("unsupported_content", f"{place}[{index}]", _refused_part(part, kind))
        texts.append(answer_text(part["text"], f"{place}[{index}].text"))
    return "\n".join(texts)


def _refused_part(part: Any, kind: Any) -> str:  # noqa: ANN401 - any JSON value
    what = f"{kind[:_NAME_CHARS]!r}" if isinstance(kind, str) else kind_of(part)
    text = f"only text parts can be trained on, found {what}"
    image = part.get("image_url") if isinstance(part, dict) else None
    address = image.get("url") if isinstance(image, dict) else image
    if not isinstance(address, str):
        return text
    if address.startswith("data:"):
        return f"{text} (an image of {len(address):,} characters of base64): {_DESCRIBE}"
    return f"{text} (an image at {address[:_NAME_CHARS]}): {_DESCRIBE}"


def answer_text(text: str, place: str) -> str:
    """Return the text itself if no image is embedded in it.

    Raises:
        RowError: a base64 image stands in it.
    """
    if "data:image/" in text and (match := _EMBEDDED_IMAGE.search(text)):
        what = f"holds a {match[1].upper()} image of {len(match[2]):,} characters of base64"
        raise RowError("unsupported_content", place, f"{what}; {_DESCRIBE}")
    return text


def _check_order(messages: "list[Message]", name: str) -> None:
    state = "start"
    for index, message in enumerate(messages):
        role = message["role"]
        if role == "system" and index == 0:
            continue
        if role not in _FOLLOWS[state]:
            expected = " or ".join(_FOLLOWS[state])
            text = f"{expected} is expected here, found {role}: user and assistant alternate"
            raise RowError("wrong_order", f"{name}[{index}].role", text)
        state = "call" if role == "assistant" and message.get("tool_calls") else role
    if state not in {"assistant", "call"}:
        raise RowError("no_answer", name, "the last message is not the assistant's, so there is nothing to learn")


def kind_of(value: Any) -> str:  # noqa: ANN401 - any value of JSON or Parquet
    """Return what a value is, in words."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return "null" if value is None else names.get(type(value), f"a value of type {type(value).__name__}")
