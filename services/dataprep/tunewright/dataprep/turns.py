"""Turns of conversations: checks them, and brings ShareGPT's into OpenAI's form. Knows no files and no shapes."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from tunewright.dataprep.problems import RowError, kind_of
from tunewright.dataprep.tool_use import calls_of, identifier, link, parsed, written_calls

if TYPE_CHECKING:
    from tunewright.dataprep.shapes import Message

_ROLES = ("system", "user", "assistant", "tool")
_OTHER_NAMES = {"developer": "system", "function": "tool"}
"""Role → what it is called in datasets."""
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
    "function-call": "function_call",
    "tool_call": "function_call",
    "observation": "tool",
    "tool": "tool",
    "function_response": "tool",
    "function-response": "tool",
    "tool_response": "tool",
}
_PLAIN_ROLES = ("system", "user", "assistant")  # no set: a role may be a list
_PLAIN_KEYS = frozenset({"role", "content"})
_NAME_CHARS = 40
_EMBEDDED_IMAGE = re.compile(r"data:image/([\w.+-]+);base64,([A-Za-z0-9+/=\s]{64,})")
_DESCRIBE = "only text can be trained on: leave the row out, or put a description in the image's place"
_FOLLOWS = {
    "start": ("user",),
    "user": ("assistant",),
    "assistant": ("user",),
    "call": ("tool",),
    "tool": ("tool", "assistant"),
}
_TURNS = "user and assistant alternate"
_ORDER = {
    "start": _TURNS,
    "user": _TURNS,
    "assistant": f"{_TURNS}, and a result follows the call that asks for it",
    "call": "a message of role tool answers each call, by its tool_call_id",
    "tool": "the assistant answers what its tools gave",
}
"""State → the rule behind what may follow it."""


def conversation(turns: Any, name: str, tools: "Message | None" = None) -> "list[Message]":  # noqa: ANN401 - any JSON
    """Return turns as messages: an optional system turn, then user and assistant in turns, the assistant last.

    Calls of tools and their results may stand before an answer, or a call in its place.

    Args:
        turns: the value of the row's field.
        name: the field.
        tools: the message that holds the row's definitions of tools; it is put before all others.

    Raises:
        RowError: they are no such conversation; the turn and its field are named.
    """
    if not isinstance(turns, list):
        raise RowError("wrong_type", name, f"a list of messages is expected, found {kind_of(turns)}")
    plain = [_is_plain(turn) for turn in turns]
    messages: list[Message] = [
        turn if is_plain else _turn(turn, f"{name}[{index}]")
        for index, (turn, is_plain) in enumerate(zip(turns, plain, strict=True))
    ]
    _check_order(messages, name)
    if not all(plain):
        messages = link(messages, name, tools)
        _check_weights(messages, name)
    return [tools, *messages] if tools else messages


class Turns(NamedTuple):
    """ShareGPT's turns in OpenAI's form."""

    turns: list[Any]
    places: Sequence[int]
    """Of each, the number of the row's own turn that it stands for: results of several calls may stand in one turn."""


def sharegpt(turns: Any, name: str) -> Turns:  # noqa: ANN401 - any JSON value
    """Return turns with `from` and `value` as turns with `role` and `content`; others as they are.

    Raises:
        RowError: a speaker is not known, or a key stands twice in a call that is written into a turn.
    """
    if not isinstance(turns, list):
        raise RowError("wrong_type", name, f"a list of turns is expected, found {kind_of(turns)}")
    try:
        return Turns(*written_calls([_renamed(turn, f"{name}[{index}]") for index, turn in enumerate(turns)], name))
    except RowError as error:
        raise as_written(error, name, turns, range(len(turns))) from None


def as_written(error: RowError, name: str, turns: Sequence[Any], places: Sequence[int]) -> RowError:
    """Return an error of turns in OpenAI's form with the place that it has in the row.

    Args:
        error: its field counts turns, and names their parts, as OpenAI's form has them.
        name: the row's field.
        turns: as the row has them.
        places: `Turns.places`.
    """
    problem = error.problem
    match = re.match(rf"{re.escape(name)}\[(\d+)\](.*)", problem.field, re.DOTALL)
    if match is None:
        return error
    at, part = int(match[1]), match[2]
    own = places[at] if at < len(places) else len(turns)
    if own < len(turns) and isinstance(turns[own], dict) and "from" in turns[own]:
        part = ".from" if part == ".role" else part.replace(".content", ".value", 1)
        part = ".value" if part.startswith((".tool_calls", ".tool_call_id")) and "value" in turns[own] else part
    return RowError(problem.reason, f"{name}[{own}]{part}", problem.description)


def has_tools(turn: Any) -> bool:  # noqa: ANN401 - any JSON value
    """Return True if a raw turn calls a tool or holds what one gave, in whatever form."""
    if not isinstance(turn, dict):
        return False
    role = turn.get("role") or _SPEAKERS.get(str(turn.get("from")).lower())
    return bool(turn.get("tool_calls") or turn.get("function_call")) or str(role) in {
        "tool",
        "function",
        "function_call",
    }


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
        value = turn["value"]
        calls = parsed(value, f"{place}.value") if isinstance(value, str) else value
        return {"role": "assistant", "content": "", "tool_calls": calls if isinstance(calls, list) else [calls]}
    return {"role": role, "content": turn["value"]}


def _is_plain(turn: Any) -> bool:  # noqa: ANN401 - any JSON value
    """Return True for exactly a known role and a text without images: the case that must be fast."""
    return (
        type(turn) is dict
        and turn.keys() == _PLAIN_KEYS
        and turn["role"] in _PLAIN_ROLES
        and type(turn["content"]) is str
        and "data:image/" not in turn["content"]
    )


def _turn(turn: Any, place: str) -> "Message":  # noqa: ANN401 - any JSON value
    if not isinstance(turn, dict):
        raise RowError("wrong_type", place, f"an object with role and content is expected, found {kind_of(turn)}")
    role = _role(turn.get("role"), place)
    calls = _calls(turn, place, role)
    content = turn.get("content")
    message: Message = {
        "role": role,
        "content": "" if calls and content is None else text_of(content, f"{place}.content"),
    }
    if calls:
        message["tool_calls"] = calls
    if role == "assistant" and _weight(turn, place) == 0:
        message["weight"] = 0
    if role == "tool":
        if own_id := identifier(turn.get("tool_call_id"), f"{place}.tool_call_id"):
            message["tool_call_id"] = own_id
        if isinstance(turn.get("name"), str) and turn["name"]:
            message["name"] = turn["name"]
    return message


def _role(role: Any, place: str) -> str:  # noqa: ANN401 - any JSON value
    role = _OTHER_NAMES.get(role, role) if isinstance(role, str) else role
    if role not in _ROLES:
        found = f"found {role[:_NAME_CHARS]!r}" if isinstance(role, str) else f"found {kind_of(role)}"
        raise RowError("unsupported_role", f"{place}.role", f"one of {', '.join(_ROLES)} is expected, {found}")
    return str(role)


def _calls(turn: dict[str, Any], place: str, role: str) -> list[dict[str, Any]]:
    field = "tool_calls" if turn.get("tool_calls") else "function_call"
    value = turn.get(field)
    if not value:
        return []
    if role != "assistant":
        raise RowError("invalid_tools", f"{place}.{field}", f"only the assistant calls tools, this turn is of {role}")
    return calls_of([value] if field == "function_call" else value, f"{place}.{field}")


def _weight(turn: dict[str, Any], place: str) -> float:
    """Return what OpenAI's format says of a turn: 0 keeps it from being learnt."""
    weight = turn.get("weight")
    if weight is None:
        return 1
    if isinstance(weight, bool) or weight not in (0, 1):
        raise RowError("wrong_type", f"{place}.weight", f"0 or 1 is expected, found {str(weight)[:_NAME_CHARS]}")
    return float(weight)


def _check_weights(messages: "list[Message]", name: str) -> None:
    answers = [message for message in messages if message["role"] == "assistant"]
    if all(message.get("weight") == 0 for message in answers):
        raise RowError("no_answer", name, "every answer has weight 0, so there is nothing to learn")


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
            text = f"{' or '.join(_FOLLOWS[state])} is expected here, found {role}: {_ORDER[state]}"
            raise RowError("wrong_order", f"{name}[{index}].role", text)
        state = "call" if role == "assistant" and message.get("tool_calls") else role
    if state not in {"assistant", "call"}:
        raise RowError("no_answer", name, "the last message is not the assistant's, so there is nothing to learn")
