"""Tool use in rows: definitions, calls and results in OpenAI's form, whatever form the file has them in.

Inside, the definitions of a row are its first message, of role `tools`, whose content is their JSON. Calls without an
id get one, results without one answer the calls in their order. Arguments that are a string stay as they are to the
last character. Knows no files and no shapes.
"""

import difflib
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tunewright.dataprep.json_texts import loads
from tunewright.dataprep.problems import RowError, kind_of
from tunewright.dataprep.readers.repeated_keys import repeated_key, repeated_key_words

if TYPE_CHECKING:
    from tunewright.dataprep.shapes import Message

TOOLS = "tools"
"""Role of the message that holds a row's definitions."""
_NAME_CHARS = 40
_NAMES_SHOWN = 8
_FIELDS = ("name", "description", "parameters")
_WRITTEN = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)
_RESPONSE = re.compile(r"<tool_response>\s*(.*?)\s*</tool_response>", re.DOTALL)
FRESH_ID = "call{:05}"
"""Nine letters and digits, the only form of ids that Mistral's templates take."""


def definitions(value: Any, place: str) -> "Message | None":  # noqa: ANN401 - any JSON value
    """Return the message that holds a row's definitions, None if there are none.

    Each is kept as the serving engine hands it to the template: name, description, parameters (null where missing), and
    `strict` where it is said; nothing else.

    Args:
        value: a list of definitions, as a list or as a string of JSON; each with or without `type` and `function`.
        place: the field.

    Raises:
        RowError: it is no such list; the definition and its field are named.
    """
    if isinstance(value, str) and value.strip():
        value = parsed(value, place)
    if value is None or value in ("", []):
        return None
    if not isinstance(value, list):
        raise RowError("wrong_type", place, f"a list of definitions is expected, found {kind_of(value)}")
    found = [_definition(one, f"{place}[{index}]") for index, one in enumerate(value)]
    twice = [name for name, count in _counts(names_of(found)).items() if count > 1]
    if twice:
        raise RowError("invalid_tools", place, f"defines {twice[0]!r} twice: give each function a name of its own")
    return {"role": TOOLS, "content": _dumped(found, place, separators=(",", ":"))}


def calls_of(value: Any, place: str) -> list[dict[str, Any]]:  # noqa: ANN401 - any JSON value
    """Return the calls of one turn in OpenAI's form; ids that are missing stay empty.

    Raises:
        RowError: a call has no name, or arguments that are no JSON object.
    """
    if not isinstance(value, list):
        raise RowError("wrong_type", place, f"a list of calls is expected, found {kind_of(value)}")
    return [_call(call, f"{place}[{index}]") for index, call in enumerate(value)]


def written_calls(turns: list[Any], name: str) -> tuple[list[Any], Sequence[int]]:
    """Return turns in which calls that are written into an answer, as Hermes has them, are calls; and each one's place.

    `<tool_call>{…}</tool_call>` in an answer that a result follows, or that ends a row with results; those lose their
    `<tool_response>` signs, and one turn that holds several becomes as many. Turns that do not fit stay as they are,
    and so do rows without results: there the text itself may be what is to be learnt. A place is the number of the turn
    as the row has it.

    Raises:
        RowError: a key stands twice in a written call.
    """
    if not any(_is_result(turn) for turn in turns):
        return turns, range(len(turns))
    found: list[Any] = []
    places: list[int] = []
    for place, (turn, following) in enumerate(itertools.zip_longest(turns, turns[1:])):
        content = turn.get("content", "") if isinstance(turn, dict) else ""
        role = turn.get("role") if content and isinstance(content, str) else None
        if role == "assistant" and (following is None or _is_result(following)):
            found.append(_with_written_calls(turn, content, f"{name}[{place}].content"))
        elif role == "tool" and (answers := _RESPONSE.findall(content)):
            found += [{**turn, "content": answer} for answer in answers]
        else:
            found.append(turn)
        places += [place] * (len(found) - len(places))
    return found, places


def _is_result(turn: Any) -> bool:  # noqa: ANN401 - any JSON value
    return isinstance(turn, dict) and turn.get("role") == "tool"


def _with_written_calls(turn: dict[str, Any], content: str, place: str) -> dict[str, Any]:
    written = _WRITTEN.findall(content)
    if not written or turn.get("tool_calls") or _WRITTEN.sub("", content[content.index("<tool_call>") :]).strip():
        return turn
    try:
        calls = [loads(call) for call in written]
    except (ValueError, RecursionError):
        return turn
    for text, call in zip(written, calls, strict=True):
        if twice := repeated_key(text.encode(), call):
            raise RowError("duplicate_key", place, repeated_key_words(twice[1]))
    return {**turn, "content": content[: content.index("<tool_call>")].strip(), "tool_calls": calls}


def link(messages: "Sequence[Message]", name: str, defined: "Message | None") -> "list[Message]":
    """Return the messages with every call and every result under an id of its own.

    Args:
        messages: of one row, the roles already in order.
        name: the row's field that they stand in.
        defined: what `definitions` returned for the row.

    Raises:
        RowError: a call of a function that the row does not define, a result that answers no call, or a call without
            a result.
    """
    known = names_of(json.loads(defined["content"])) if defined else None
    linked: list[Message] = []
    open_calls: dict[str, str] = {}
    used: set[str] = {call["id"] for message in messages for call in message.get("tool_calls", ()) if call["id"]}
    fresh = (own for number in itertools.count(1) if (own := FRESH_ID.format(number)) not in used)
    for index, message in enumerate(messages):
        place = f"{name}[{index}]"
        if message["role"] == "tool":
            linked.append(_answering(message, open_calls, place))
            continue
        if open_calls:
            _refuse_open(open_calls, place)
        if calls := message.get("tool_calls"):
            calls = [{**call, "id": call["id"] or next(fresh)} for call in calls]
            for at, call in enumerate(calls):
                _check_call(call, open_calls, known, f"{place}.tool_calls[{at}]")
                open_calls[call["id"]] = call["function"]["name"]
            message = {**message, "tool_calls": calls}  # noqa: PLW2901 - the same message, its calls under ids
        linked.append(message)
    if open_calls and linked[-1]["role"] == "tool":
        _refuse_open(open_calls, f"{name}[{len(linked)}]")
    return linked


def parsed(text: str, place: str) -> Any:  # noqa: ANN401 - any JSON value
    """Return what a string of JSON says.

    Raises:
        RowError: it is no JSON, and the place in it is named; or a key stands twice in one of its objects.
    """
    try:
        value = loads(text)
    except (ValueError, RecursionError) as error:
        at = f" at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else ""
        why = error.msg if isinstance(error, json.JSONDecodeError) else _why_not_json(error)
        remedy = "write it as json.dumps does, or leave the row out"
        raise RowError("invalid_json", place, f"is not JSON{at} ({why}): {remedy}") from None
    if twice := repeated_key(text.encode(), value):
        raise RowError("duplicate_key", place, repeated_key_words(twice[1]))
    return value


def _why_not_json(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return "half of a surrogate pair" if isinstance(error, UnicodeEncodeError) else str(error)


def compact(value: Any) -> str:  # noqa: ANN401 - any JSON value
    """Return a value as JSON in one line, keys in their order."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def names_of(defined: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the names of the functions that definitions define."""
    return [one["function"]["name"] for one in defined]


def split_tools(messages: Sequence[Mapping[str, Any]]) -> tuple[Sequence[Mapping[str, Any]], list[Any] | None]:
    """Return a row's messages and the definitions of its tools, None if it has none."""
    if not messages or messages[0]["role"] != TOOLS:
        return messages, None
    return messages[1:], json.loads(messages[0]["content"])


def said(message: Mapping[str, Any]) -> str:
    """Return what a message says, its calls included: by what rows are compared and shown. Ids say nothing."""
    calls = message.get("tool_calls")
    if not calls:
        return message["content"] or ""
    lines = [f"{call['function']['name']}({_evened(call['function']['arguments'])})" for call in calls]
    return "\n".join([*([message["content"]] if message["content"] else []), *lines])


def _evened(arguments: str) -> str:
    return json.dumps(json.loads(arguments), ensure_ascii=False, sort_keys=True)


def _dumped(value: Any, place: str, **how: Any) -> str:  # noqa: ANN401 - any JSON value
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, **how)
        text.encode()
    except (ValueError, RecursionError) as error:
        why = f"can't be kept as JSON ({_why_not_json(error)}): write it flatter, or leave the row out"
        raise RowError("invalid_json", place, why) from None
    return text


def _definition(value: Any, place: str) -> dict[str, Any]:  # noqa: ANN401 - any JSON value
    function, at = value, place
    if isinstance(value, dict) and "function" in value:
        if value.get("type", "function") != "function":
            text = f"only functions can be called, found type {str(value['type'])[:_NAME_CHARS]!r}: leave it out"
            raise RowError("invalid_tools", f"{place}.type", text)
        function, at = value["function"], f"{place}.function"
    if not isinstance(function, dict):
        raise RowError("wrong_type", at, f"an object with name and parameters is expected, found {kind_of(function)}")
    if not isinstance(function.get("name"), str) or not function["name"]:
        raise RowError("invalid_tools", f"{at}.name", "a function's name is expected")
    for name, kind in (("description", str), ("parameters", dict)):
        if not isinstance(function.get(name), kind | None):
            expected = "a string" if kind is str else "a JSON schema (an object)"
            raise RowError("wrong_type", f"{at}.{name}", f"{expected} is expected, found {kind_of(function[name])}")
    strict = {"strict": function["strict"]} if isinstance(function.get("strict"), bool) else {}
    return {"type": "function", "function": {**{name: function.get(name) for name in _FIELDS}, **strict}}


def _call(call: Any, place: str) -> dict[str, Any]:  # noqa: ANN401 - any JSON value
    if not isinstance(call, dict):
        raise RowError("wrong_type", place, f"an object with id, type and function is expected, found {kind_of(call)}")
    function, at = (call["function"], f"{place}.function") if "function" in call else (call, place)
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
        raise RowError("invalid_tools", f"{at}.name", "the name of the function that is called is expected")
    arguments = function.get("arguments")
    if isinstance(arguments, str) and arguments.strip():
        value = parsed(arguments, f"{at}.arguments")
    else:
        value = arguments or {}
        arguments = _dumped(value, f"{at}.arguments")
    if not isinstance(value, dict):
        text = f"a JSON object of arguments is expected, found {kind_of(value)}"
        raise RowError("wrong_type", f"{at}.arguments", text)
    named = {"name": function["name"], "arguments": arguments}
    return {"id": identifier(call.get("id"), f"{place}.id"), "type": "function", "function": named}


def identifier(value: Any, place: str) -> str:  # noqa: ANN401 - any JSON value
    """Return the id of a call as a string, a whole number as its digits; empty for null.

    Raises:
        RowError: it is neither.
    """
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise RowError("wrong_type", place, f"a string or a whole number is expected as id, found {kind_of(value)}")


def _check_call(call: Mapping[str, Any], earlier: Mapping[str, str], known: list[str] | None, place: str) -> None:
    name = call["function"]["name"]
    if call["id"] in earlier:
        text = f"{call['id'][:_NAME_CHARS]!r} is an earlier call's id: give each call of a turn an id of its own"
        raise RowError("invalid_tools", f"{place}.id", text)
    if known is not None and name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"is {near[0]!r} meant?" if near else "add its definition to `tools`, or correct the name"
        text = f"{name[:_NAME_CHARS]!r} is not among the row's tools ({', '.join(known[:_NAMES_SHOWN])}): {hint}"
        raise RowError("invalid_tools", f"{place}.function.name", text)


def _answering(message: "Message", open_calls: dict[str, str], place: str) -> "Message":
    """Return a result under the id of the call that it answers, which is no longer open then."""
    own_id = message.get("tool_call_id", "")
    if not own_id:
        wanted = message.get("name")
        fitting = [own for own, name in open_calls.items() if name == wanted] or list(open_calls)
        if not fitting:
            text = "a result of a tool that no call before it asks for: add the call, or leave the row out"
            raise RowError("wrong_order", f"{place}.role", text)
        own_id = fitting[0]
    if own_id not in open_calls:
        waiting = f"open are {', '.join(list(open_calls)[:_NAMES_SHOWN])}" if open_calls else "none is open"
        text = f"{own_id[:_NAME_CHARS]!r} is no call of the turn before that waits for its result; {waiting}"
        raise RowError("invalid_tools", f"{place}.tool_call_id", text)
    del open_calls[own_id]
    return {**message, "tool_call_id": own_id}


def _refuse_open(open_calls: Mapping[str, str], place: str) -> None:
    identifier, name = next(iter(open_calls.items()))
    text = f"the call {identifier[:_NAME_CHARS]!r} of {name[:_NAME_CHARS]} has no result: a message of role tool with "
    raise RowError("wrong_order", place, text + "its tool_call_id is expected before this")


def _counts(names: Iterable[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for name in names:
        found[name] = found.get(name, 0) + 1
    return found
