"""Rows with tools: read from every usual form, checked, written in one; arguments stay the JSON that they were."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.dataprep.preparation import prepare
from tests.dataprep.tool_rows import ARGUMENTS, TIME, WEATHER, call, openai, sharegpt, turn
from tunewright.artifacts.conversations import for_template, used_of
from tunewright.dataprep import rules
from tunewright.dataprep.guards import EVERYTHING
from tunewright.dataprep.json_texts import is_json, keys_of, replace_values
from tunewright.dataprep.kinds import RowKind, body_of, messages_of
from tunewright.dataprep.parts import Parts
from tunewright.dataprep.pii.masking import mask, mask_json
from tunewright.dataprep.problems import RowError
from tunewright.dataprep.shapes import Recognition, Shape, uses_tools
from tunewright.dataprep.shaping import Shaper
from tunewright.dataprep.spec import DataprepSpec, Pii

NO_NEAR = {"near": False}
WHOLE = {"validation_fraction": 0}
MASKED = Pii(emails="mask", phones="mask")
CALL = turn("assistant", None, tool_calls=[call("get_weather", {"city": "Rome"})])
RESULT = turn("tool", "20", tool_call_id="call_1")
END = turn("assistant", "Warm.")


def test_a_row_of_openais_form_is_written_as_it_was_its_arguments_to_the_last_character(tmp_path: Path) -> None:
    result = prepare(tmp_path, [openai()], split=WHOLE)
    (row,) = result.rows
    assert row["tools"] == [WEATHER, TIME]
    assert [message["role"] for message in row["messages"]] == ["user", "assistant", "tool", "assistant"]
    assert row["messages"][1] == {"role": "assistant", "content": "", "tool_calls": [call("get_weather", ARGUMENTS)]}
    assert row["messages"][2] == {"role": "tool", "content": '{"degrees": 20}', "tool_call_id": "call_1"}
    assert result.manifest.metrics["dropped"] == {}
    (told,) = result.report.messages("format_recognised")
    assert told.endswith("messages, tools, parallel_tool_calls; 1 of the first 1 use tools")
    assert result.document["files"][0]["with_tools"] == {"rows": 1, "of_first": 1}
    assert "1 of the first 1 rows use tools" in (result.output / "report.html").read_text(encoding="utf-8")


def test_sharegpts_calls_and_observations_become_the_same_form_under_ids(tmp_path: Path) -> None:
    (row,) = prepare(tmp_path, [sharegpt()], split=WHOLE).rows
    assert row["tools"] == [WEATHER]
    identifier = row["messages"][1]["tool_calls"][0]["id"]
    assert len(identifier) == 9
    assert identifier.isalnum()
    assert row["messages"][1]["tool_calls"] == [call("get_weather", {"city": "Oslo"}, identifier)]
    assert row["messages"][2] == {"role": "tool", "content": '{"degrees": 3}', "tool_call_id": identifier}


def test_old_function_calls_and_arguments_that_are_objects_are_read(tmp_path: Path) -> None:
    old = {
        "messages": [
            turn("user", "Weather in Rome?"),
            turn("assistant", None, function_call={"name": "get_weather", "arguments": {"city": "Rome"}}),
            turn("function", "20", name="get_weather"),
            END,
        ],
        "functions": [WEATHER["function"]],
    }
    (row,) = prepare(tmp_path, [old], split=WHOLE).rows
    assert row["tools"] == [WEATHER]
    (called,) = row["messages"][1]["tool_calls"]
    assert called["function"] == {"name": "get_weather", "arguments": '{"city": "Rome"}'}
    assert row["messages"][2]["tool_call_id"] == called["id"]


def test_calls_that_are_written_into_answers_become_calls(tmp_path: Path) -> None:
    written = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Bern"}}\n</tool_call>'
    result = '<tool_response>\n{"degrees": 7}\n</tool_response>'
    turns = [
        {"from": "human", "value": "Bern and Riga?"},
        {"from": "gpt", "value": f"I look.\n{written}\n{written.replace('Bern', 'Riga')}"},
        {"from": "tool", "value": f"{result}\n{result.replace('7', '3')}"},
        {"from": "gpt", "value": "7 and 3 degrees."},
    ]
    told = [{"from": "human", "value": "How is a call written?"}, {"from": "gpt", "value": written}]
    prepared = prepare(tmp_path, [{"conversations": turns, "tools": [WEATHER]}, {"conversations": told}], split=WHOLE)
    row, plain = prepared.rows
    called = row["messages"][1]
    assert called["content"] == "I look."
    assert [json.loads(one["function"]["arguments"])["city"] for one in called["tool_calls"]] == ["Bern", "Riga"]
    assert [message["content"] for message in row["messages"][2:]] == [
        '{"degrees": 7}',
        '{"degrees": 3}',
        "7 and 3 degrees.",
    ]
    assert plain["messages"][1]["content"] == written


def test_two_calls_of_one_turn_are_answered_in_any_order(tmp_path: Path) -> None:
    calls = [call("get_weather", {"city": "Rome"}, "a"), call("get_time", {}, "b")]
    results = [turn("tool", "noon", tool_call_id="b"), turn("tool", "20", tool_call_id="a")]
    row = {"messages": [turn("user", "Rome?"), turn("assistant", "", tool_calls=calls), *results, END]}
    (written,) = prepare(tmp_path, [row], split=WHOLE).rows
    assert [message.get("tool_call_id") for message in written["messages"]] == [None, None, "b", "a", None]


def test_ids_that_are_whole_numbers_become_strings_and_link_as_numbers_did(tmp_path: Path) -> None:
    calls = [{**call("get_weather", {}), "id": 7}, {**call("get_time", {}), "id": 0}]
    results = [turn("tool", "noon", tool_call_id=0), turn("tool", "20", tool_call_id=7)]
    row = {"messages": [turn("user", "Rome?"), turn("assistant", "", tool_calls=calls), *results, END]}
    (written,) = prepare(tmp_path, [row], split=WHOLE).rows
    assert [one["id"] for one in written["messages"][1]["tool_calls"]] == ["7", "0"]
    assert [message.get("tool_call_id") for message in written["messages"]] == [None, None, "0", "7", None]


WRITTEN = '<tool_call>{"name": "get_weather", "arguments": {"city": "Bern"}}</tool_call>'
RESPONSE = '<tool_response>{"degrees": 7}</tool_response>'


@pytest.mark.parametrize(
    ("index", "changed", "place"),
    [
        (2, {"value": 3 * RESPONSE}, "conversations[2].from: a result of a tool that no call before it asks for"),
        (3, {"from": "human"}, "conversations[3].from: tool or assistant is expected here, found user"),
        (3, {"value": 7}, "conversations[3].value: a string or a list of text parts is expected, found a number"),
        (2, {"value": RESPONSE}, "conversations[3]: the call 'call00002' of get_weather has no result"),
        (1, {"value": WRITTEN.replace("weather", "wether")}, "conversations[1].value: 'get_wether' is not among"),
        (1, {"value": WRITTEN.replace("}}", ', "city": 1}}')}, "conversations[1].value: the key 'city' stands twice"),
    ],
)
def test_a_fault_beside_written_calls_is_named_by_the_turn_as_the_row_has_it(
    index: int, changed: dict[str, Any], place: str
) -> None:
    turns: list[dict[str, Any]] = [
        {"from": "human", "value": "Bern and Riga?"},
        {"from": "gpt", "value": 2 * WRITTEN},
        {"from": "tool", "value": 2 * RESPONSE},
        {"from": "gpt", "value": "7 and 7 degrees."},
    ]
    turns[index] |= changed
    with pytest.raises(RowError) as error:
        Shaper(Recognition(Shape.SHAREGPT, (), 1, 1))({"conversations": turns, "tools": [WEATHER]})
    assert f"{error.value.problem.field}: {error.value.problem.description}".startswith(place)


def test_a_conversation_may_end_in_a_call(tmp_path: Path) -> None:
    row = {"messages": [turn("user", "Rome?"), CALL], "tools": [WEATHER]}
    result = prepare(tmp_path, [row], split=WHOLE)
    assert len(result.rows) == 1
    assert result.manifest.metrics["dropped"] == {}


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "undeclared": (
        {"messages": [turn("user", "a"), turn("assistant", None, tool_calls=[call("get_wether", {})]), RESULT, END]},
        "messages[1].tool_calls[0].function.name: 'get_wether' is not among the row's tools (get_weather): is 'get_w",
    ),
    "unknown id": (
        {"messages": [turn("user", "a"), CALL, turn("tool", "20", tool_call_id="call_9"), END]},
        "messages[2].tool_call_id: 'call_9' is no call of the turn before that waits for its result; open are call_1",
    ),
    "answered twice": (
        {"messages": [turn("user", "a"), CALL, RESULT, RESULT, END]},
        "messages[3].tool_call_id: 'call_1' is no call of the turn before that waits for its result; none is open",
    ),
    "no result": (
        {"messages": [turn("user", "a"), CALL, END]},
        "messages[2].role: tool is expected here, found assistant: a message of role tool answers each call",
    ),
    "one result missing": (
        {
            "messages": [
                turn("user", "a"),
                turn("assistant", "", tool_calls=[call("get_weather", {}), call("get_weather", {}, "call_2")]),
                RESULT,
                END,
            ]
        },
        "messages[3]: the call 'call_2' of get_weather has no result: a message of role tool with its tool_call_id",
    ),
    "id again": (
        {"messages": [turn("user", "a"), turn("assistant", "", tool_calls=[*CALL["tool_calls"] * 2]), RESULT, END]},
        "messages[1].tool_calls[1].id: 'call_1' is an earlier call's id: give each call of a turn an id of its own",
    ),
    "arguments are no JSON": (
        {"messages": [turn("user", "a"), turn("assistant", None, tool_calls=[call("get_weather", "{'city': 1}")])]},
        "messages[1].tool_calls[0].function.arguments: is not JSON at character 2 (Expecting property name enclosed in",
    ),
    "arguments say NaN": (
        {"messages": [turn("user", "a"), turn("assistant", None, tool_calls=[call("get_weather", '{"a": NaN}')])]},
        "messages[1].tool_calls[0].function.arguments: is not JSON (NaN is no JSON): write it as json.dumps does",
    ),
    "arguments end in half a character": (
        {
            "messages": [
                turn("user", "a"),
                turn("assistant", None, tool_calls=[call("get_weather", '{"a": "\\ud83d"}')]),
            ]
        },
        "messages[1].tool_calls[0].function.arguments: is not JSON (half of a surrogate pair)",
    ),
    "definitions are endless": (
        {
            "messages": [turn("user", "a"), END],
            "tools": '[{"name": "f", "parameters": ' + '{"a":' * 3000 + "1" + "}" * 3000 + "}]",
        },
        "tools: is not JSON (nested too deeply)",
    ),
    "arguments are no object": (
        {"messages": [turn("user", "a"), turn("assistant", None, tool_calls=[call("get_weather", "[1]")])]},
        "messages[1].tool_calls[0].function.arguments: a JSON object of arguments is expected, found a list",
    ),
    "the user calls": (
        {"messages": [turn("user", "a", tool_calls=[call("get_weather", {})]), END]},
        "messages[0].tool_calls: only the assistant calls tools, this turn is of user",
    ),
    "a definition without name": (
        {"messages": [turn("user", "a"), END], "tools": [{"function": {}}]},
        "tools[0].function.name",
    ),
    "parameters": (
        {"messages": [turn("user", "a"), END], "tools": [{"name": "f", "parameters": "none"}]},
        "tools[0].parameters: a JSON schema (an object) is expected, found a string",
    ),
    "defined twice": (
        {"messages": [turn("user", "a"), END], "tools": [WEATHER, WEATHER]},
        "tools: defines 'get_weather' twice",
    ),
    "parallel": (
        {"messages": [turn("user", "a"), END], "parallel_tool_calls": "no"},
        "parallel_tool_calls: true or false is expected, found a string",
    ),
    "weight": ({"messages": [turn("user", "a"), turn("assistant", "b", weight=0.5)]}, "messages[1].weight: 0 or 1"),
    "id of a call": (
        {"messages": [turn("user", "a"), turn("assistant", "", tool_calls=[{**CALL["tool_calls"][0], "id": 1.5}])]},
        "messages[1].tool_calls[0].id: a string or a whole number is expected as id, found a number",
    ),
    "id of a result": (
        {"messages": [turn("user", "a"), CALL, turn("tool", "20", tool_call_id=["call_1"]), END]},
        "messages[2].tool_call_id: a string or a whole number is expected as id, found a list",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_together_is_named_by_file_line_and_field(case: str, tmp_path: Path) -> None:
    row, place = WRONG[case]
    good = [openai(f"Weather in {city}?", f"Fine in {city}.") for city in ("Paris", "Rome", "Oslo", "Bern", "Riga")]
    result = prepare(tmp_path, [*good, {"tools": [WEATHER], **row}], split=WHOLE, duplicates=NO_NEAR)
    (told,) = result.document["unreadable"]
    assert (told["file"], told["line"]) == ("raw.jsonl", 6)
    assert f"{told['field']}: {told['what']}".startswith(place)
    assert len(result.rows) == 5


def test_cleaning_changes_texts_around_calls_and_no_json(tmp_path: Path) -> None:
    row = openai(answer="<p>It is <b>20</b>&nbsp;degrees.</p>\r\n")
    row["messages"][2]["content"] = '{"page": "&quot;hot&quot;"}'
    result = prepare(tmp_path, [row], split=WHOLE)
    (written,) = result.rows
    assert written["messages"][3]["content"] == "It is 20 degrees."
    assert written["messages"][2]["content"] == '{"page": "&quot;hot&quot;"}'
    assert written["messages"][1]["tool_calls"][0]["function"]["arguments"] == ARGUMENTS
    assert written["tools"] == [WEATHER, TIME]


def test_personal_data_in_arguments_results_and_definitions_is_masked_and_stays_json(tmp_path: Path) -> None:
    arguments = '{"to": "bob.smith\\u0040corp.com", "card": 4539578763621486, "n": 7}'
    tool = {"name": "get_weather", "description": "Ask bob.smith@corp.com", "parameters": {"type": "object"}}
    row = {
        "messages": [
            turn("user", "Write to Bob."),
            turn("assistant", None, tool_calls=[call("get_weather", arguments)]),
            turn("tool", '{"sent": ["bob.smith@corp.com", 4539578763621486]}', tool_call_id="call_1"),
            END,
        ],
        "tools": [tool],
    }
    result = prepare(tmp_path, [row], split=WHOLE)
    (written,) = result.rows
    masked = written["messages"][1]["tool_calls"][0]["function"]["arguments"]
    assert masked == '{"to": "[EMAIL]", "card": "[CARD]", "n": 7}'
    assert json.loads(written["messages"][2]["content"]) == {"sent": ["[EMAIL]", "[CARD]"]}
    assert written["tools"][0]["function"]["description"] == "Ask [EMAIL]"
    assert result.document["masked"] == {"cards": 2, "emails": 3}
    assert "bob.smith" not in (result.output / "report.html").read_text(encoding="utf-8")


def test_names_of_functions_and_ids_are_masked_alike_wherever_they_stand(tmp_path: Path) -> None:
    names = ["mail:bob.smith@corp.com", "mail:eve.jones@corp.com", "mail:EMAIL_2"]
    calls = [call(names[1], {}, "+49 30 901820"), call(names[0], {}, "call00001")]
    results = [
        turn("tool", "b", tool_call_id="call00001", name=names[0]),
        turn("tool", "a", tool_call_id="+49 30 901820", name=names[1]),
    ]
    row = {
        "messages": [turn("user", "Write to both."), turn("assistant", "", tool_calls=calls), *results, END],
        "tools": [{"type": "function", "function": {"name": name}} for name in names],
    }
    result = prepare(tmp_path, [row], split=WHOLE)
    (written,) = result.rows
    defined = [one["function"]["name"] for one in written["tools"]]
    assert defined == ["mail:EMAIL", "mail:EMAIL_3", "mail:EMAIL_2"]
    called = written["messages"][1]["tool_calls"]
    assert [one["function"]["name"] for one in called] == ["mail:EMAIL_3", "mail:EMAIL"]
    assert [one["id"] for one in called] == ["call00002", "call00001"]
    answered = [(one["tool_call_id"], one["name"]) for one in written["messages"][2:4]]
    assert answered == [("call00001", "mail:EMAIL"), ("call00002", "mail:EMAIL_3")]
    assert result.document["masked"] == {"emails": 6, "phones": 2}
    dropped = prepare(tmp_path, [row, openai()], split=WHOLE, pii={"emails": "drop", "phones": "keep"})
    assert dropped.manifest.metrics["dropped"] == {"pii_emails": 1}
    (kept,) = prepare(tmp_path, [row], split=WHOLE, pii={"emails": "keep", "phones": "drop"}).rows
    assert kept["messages"][1]["tool_calls"][0]["id"] == "call00002", "no row goes for an id"
    assert kept["messages"][1]["tool_calls"][0]["function"]["name"] == names[1]


@pytest.mark.parametrize("escaped", [False, True])
def test_keys_that_would_be_the_same_once_masked_are_numbered_and_lose_no_value(
    escaped: bool,  # noqa: FBT001 - two cases
) -> None:
    value = {"bob.smith@corp.com": 1, "[EMAIL]": 2, "eve.jones@corp.com": {"of": "eve.jones@corp.com"}}
    text = json.dumps(value).replace("@", "\\u0040" if escaped else "@")
    masked = mask_json(text, MASKED)
    assert json.loads(masked.text) == {"[EMAIL]_2": 1, "[EMAIL]": 2, "[EMAIL]_3": {"of": "[EMAIL]_3"}}
    assert masked.kinds == {"emails": 3}
    if not escaped:
        assert mask(text, MASKED, EVERYTHING) == masked


def test_a_row_goes_for_personal_data_in_arguments_where_the_setting_says_so(tmp_path: Path) -> None:
    row = {
        "messages": [turn("user", "q"), turn("assistant", None, tool_calls=[call("f", {"to": "bob.smith@corp.com"})])]
    }
    result = prepare(tmp_path, [row, openai()], split=WHOLE, pii={"emails": "drop"})
    assert result.manifest.metrics["dropped"] == {"pii_emails": 1}


def test_equal_rows_are_duplicates_whatever_their_ids_and_others_are_not_for_equal_tools(tmp_path: Path) -> None:
    again = json.loads(json.dumps(openai()).replace("call_1", "call_x"))
    other = openai("What is the time in Lima now?", "Ten past four.")
    other["messages"][1]["tool_calls"] = [call("get_time", {"zone": "Lima"})]
    elsewhere = openai()
    elsewhere["messages"][1]["tool_calls"] = [call("get_weather", {"city": "Paris, Texas"})]
    long = [{"name": f"tool_{n}", "description": "What it does, in many words. " * 9} for n in range(20)]
    rows = [{**row, "tools": [*row["tools"], *long]} for row in (openai(), again, other, elsewhere)]
    result = prepare(tmp_path, rows, split=WHOLE)
    assert result.manifest.metrics["dropped"] == {"duplicate": 1}


def test_an_answer_of_weight_0_is_kept_and_not_judged(tmp_path: Path) -> None:
    refusal = "As an AI language model, I cannot help with that."
    turns = [
        turn("user", "Hi"),
        turn("assistant", refusal, weight=0),
        turn("user", "Please!"),
        turn("assistant", "Well: 4.", weight=1),
    ]
    result = prepare(tmp_path, [{"messages": turns}], split=WHOLE)
    (row,) = result.rows
    assert row["messages"][1] == {"role": "assistant", "content": refusal, "weight": 0}
    assert row["messages"][3] == {"role": "assistant", "content": "Well: 4."}


def test_a_pairs_prompt_may_use_tools_and_its_answers_are_texts(tmp_path: Path) -> None:
    asked = openai()
    pair = {
        "input": {"messages": asked["messages"][:-1], "tools": asked["tools"], "parallel_tool_calls": True},
        "preferred_output": [turn("assistant", "20 degrees.")],
        "non_preferred_output": [turn("assistant", "No idea.")],
    }
    called = {**pair, "preferred_output": [{**CALL, "tool_calls": [call("get_time", {}, "call_2")]}]}
    good = [json.loads(json.dumps(pair).replace("20 degrees", f"{n} degrees")) for n in range(21, 26)]
    result = prepare(tmp_path, [pair, *good, called], split=WHOLE, duplicates=NO_NEAR)
    rows = result.rows
    assert (rows[0]["tools"], rows[0]["chosen"], rows[0]["rejected"]) == ([WEATHER, TIME], "20 degrees.", "No idea.")
    assert [message["role"] for message in rows[0]["messages"]] == ["user", "assistant", "tool"]
    (told,) = result.document["unreadable"]
    assert told["what"].startswith("only texts can be preferred")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), JSON, max_size=5), st.booleans(), st.sampled_from([None, 2]))
def test_masking_leaves_json_json_and_without_findings_the_very_text(
    value: dict[str, Any],
    escaped: bool,  # noqa: FBT001 - drawn
    indent: int | None,
) -> None:
    text = json.dumps(value, ensure_ascii=escaped, indent=indent)
    assert is_json(text)
    assert replace_values(text, lambda own: own) == text
    masked = mask_json(text, MASKED)
    assert is_json(masked.text)
    assert len(keys_of(masked.text)) == len(keys_of(text))
    assert masked.kinds or masked.text == text


@given(st.lists(st.text(alphabet='\\"nt{}[]:, é@', max_size=8), max_size=4), st.booleans())
def test_an_address_anywhere_in_json_is_found_and_the_rest_stays(
    around: list[str],
    escaped: bool,  # noqa: FBT001 - drawn
) -> None:
    value = {"a": around, "b": ["\nbob.smith@corp.com\t"]}
    masked = mask_json(json.dumps(value, ensure_ascii=escaped), MASKED)
    assert json.loads(masked.text)["b"] == ["\n[EMAIL]\t"]


KEYS = st.sampled_from(
    ["messages", "conversations", "tools", "functions", "role", "from", "content", "value", "tool_calls", "id", "type",
     "function_call", "function", "name", "arguments", "parameters", "tool_call_id", "weight", "parallel_tool_calls",
     "chosen", "rejected", "prompt", "input", "system"]
)  # fmt: skip
WORDS = st.sampled_from(
    ["user", "assistant", "tool", "system", "function", "human", "gpt", "function_call", "observation", "get_weather",
     "call_1", "{}", "[]", '{"a": 1}', "{'a': 1}", "[[", "", " "]
)  # fmt: skip
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 2) | WORDS | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=6),
    max_leaves=40,
)


@st.composite
def damaged(draw: st.DrawFn) -> dict[str, Any]:
    """Return a row with tools of which up to three values are something else."""
    row: dict[str, Any] = json.loads(json.dumps(draw(st.sampled_from([openai(), sharegpt()]))))
    for _ in range(draw(st.integers(0, 3))):
        at: Any = row
        while True:
            key = draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
            if isinstance(at[key], dict | list) and at[key] and draw(st.booleans()):
                at = at[key]
                continue
            at[key] = draw(ANYTHING)
            break
    return row


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([Shape.MESSAGES, Shape.SHAREGPT]), damaged() | st.dictionaries(KEYS, ANYTHING, max_size=5))
def test_any_json_is_a_row_that_every_later_step_takes_or_is_refused_with_its_field(
    shape: Shape, row: dict[str, Any]
) -> None:
    assert uses_tools(row, {}) in {True, False}
    try:
        messages = Shaper(Recognition(shape, (), 1, 1))(row)
    except RowError:
        return
    written = json.loads(b"{%b}" % body_of(messages, RowKind.CONVERSATION))
    assert messages_of(written) == messages
    treated = rules.apply([messages], DataprepSpec())
    again = json.loads(b"{%b}" % body_of(treated.rows[0], RowKind.CONVERSATION))
    calls = [call for message in again["messages"] for call in message.get("tool_calls", ())]
    assert all(isinstance(json.loads(call["function"]["arguments"]), dict) for call in calls)
    Parts.of_messages(treated.rows)
    used_of(for_template(written["messages"]), written.get("tools"))
