"""Rows with tools in the forms that datasets have them in."""

import json
from typing import Any

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
TIME = {"type": "function", "function": {"name": "get_time", "description": None, "parameters": None}}
ARGUMENTS = '{ "city":"Par\\u0069s",  "note": "<b>é</b>&amp;\\u200b", "big": 12345678901234567890.10 }'
"""A string whose spaces, escapes, markup and digits must not change."""


def call(name: str, arguments: Any, identifier: str = "call_1") -> dict[str, Any]:  # noqa: ANN401 - as in datasets
    """Return a call in OpenAI's form; arguments that are no string become one."""
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return {"id": identifier, "type": "function", "function": {"name": name, "arguments": text}}


def turn(role: str, content: str | None, **further: Any) -> dict[str, Any]:  # noqa: ANN401 - as in datasets
    """Return one message."""
    return {"role": role, "content": content, **further}


def openai(question: str = "Weather in Paris?", answer: str = "It is 20 degrees in Paris.") -> dict[str, Any]:
    """Return a row as OpenAI's fine-tuning has it."""
    return {
        "messages": [
            turn("user", question),
            turn("assistant", None, tool_calls=[call("get_weather", ARGUMENTS)]),
            turn("tool", '{"degrees": 20}', tool_call_id="call_1"),
            turn("assistant", answer),
        ],
        "tools": [WEATHER, TIME],
        "parallel_tool_calls": False,
    }


def sharegpt(question: str = "Weather in Oslo?") -> dict[str, Any]:
    """Return a row as ShareGPT's sets with tools have it."""
    arguments = {"name": "get_weather", "arguments": {"city": "Oslo"}}
    return {
        "conversations": [
            {"from": "human", "value": question},
            {"from": "function_call", "value": json.dumps(arguments)},
            {"from": "observation", "value": '{"degrees": 3}'},
            {"from": "gpt", "value": "Cold: 3 degrees."},
        ],
        "tools": json.dumps([WEATHER["function"]]),
    }
