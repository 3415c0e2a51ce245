"""Rows become messages; rows that cannot are named with file, line and field."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.dataprep.preparation import pair, prepare
from tunewright.chassis.errors import InvalidData
from tunewright.dataprep.shapes import Recognition, Shape
from tunewright.dataprep.shaping import Shaper


def chat(*turns: tuple[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


GOOD_PAIRS = [pair(f"question {number}", "fine") for number in range(20)]
GOOD_CHATS = [chat(("user", f"question {number}"), ("assistant", "fine")) for number in range(20)]

BAD: dict[str, tuple[list[dict[str, Any]], Any, str, str]] = {
    "missing": (
        GOOD_PAIRS,
        {"instruction": "a", "ouput": "b"},
        "missing_field",
        "raw.jsonl:21:output: is missing; the row has instruction, ouput (is 'ouput' meant as 'output'?)",
    ),
    "number": (
        GOOD_PAIRS,
        {"instruction": "a", "output": 7},
        "wrong_type",
        "raw.jsonl:21:output: a string is expected, found a number",
    ),
    "null": (
        GOOD_PAIRS,
        {"instruction": None, "output": "b"},
        "wrong_type",
        "raw.jsonl:21:instruction: a string is expected, found null",
    ),
    "list": (GOOD_PAIRS, "[1]", "not_an_object", "raw.jsonl:21: a JSON object is expected, found a list"),
    "syntax": (
        GOOD_PAIRS,
        '{"instruction": "a" "output": "b"}',
        "invalid_json",
        "raw.jsonl:21: invalid JSON at column 21",
    ),
    "role": (
        GOOD_CHATS,
        chat(("user", "a"), ("robot", "b")),
        "unsupported_role",
        "raw.jsonl:21:messages[1].role: one of system, user, assistant, tool is expected, found 'robot'",
    ),
    "order": (
        GOOD_CHATS,
        chat(("user", "a"), ("user", "b"), ("assistant", "c")),
        "wrong_order",
        "raw.jsonl:21:messages[1].role: assistant is expected here, found user: user and assistant alternate",
    ),
    "late system": (
        GOOD_CHATS,
        chat(("user", "a"), ("assistant", "b"), ("system", "c")),
        "wrong_order",
        "raw.jsonl:21:messages[2].role: user is expected here, found system",
    ),
    "no answer": (GOOD_CHATS, chat(("user", "a")), "no_answer", "raw.jsonl:21:messages: the last message is not"),
    "no turns": (GOOD_CHATS, {"messages": []}, "no_answer", "raw.jsonl:21:messages: the last message is not"),
    "image": (
        GOOD_CHATS,
        chat(("user", [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]), ("assistant", "b")),
        "unsupported_content",
        "raw.jsonl:21:messages[0].content[0]: only text parts can be trained on, found 'image_url'",
    ),
    "tools": (
        GOOD_CHATS,
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": None, "tool_calls": [{}]}]},
        "invalid_tools",
        "raw.jsonl:21:messages[1].tool_calls[0].name: the name of the function that is called is expected",
    ),
    "result of a tool": (
        GOOD_CHATS,
        chat(("user", "a"), ("function", "b")),
        "wrong_order",
        "raw.jsonl:21:messages[1].role: assistant is expected here, found tool: user and assistant alternate",
    ),
    "definitions of tools": (
        GOOD_CHATS,
        chat(("user", "a"), ("assistant", "b")) | {"tools": [{"type": "function"}]},
        "invalid_tools",
        "raw.jsonl:21:tools[0].name: a function's name is expected",
    ),
    "weight": (
        GOOD_CHATS,
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0}]},
        "no_answer",
        "raw.jsonl:21:messages: every answer has weight 0, so there is nothing to learn",
    ),
    "system of a chat": (
        GOOD_CHATS,
        chat(("user", "a"), ("assistant", "b")) | {"system": ["Be kind."]},
        "wrong_type",
        "raw.jsonl:21:system: a string is expected as system prompt, found a list: write it as text, or leave it out",
    ),
    "system beside a system turn": (
        GOOD_CHATS,
        chat(("system", "s"), ("user", "a"), ("assistant", "b")) | {"system": {"text": "Be kind."}},
        "wrong_type",
        "raw.jsonl:21:system: a string is expected as system prompt, found an object",
    ),
    "system of a pair": (
        GOOD_PAIRS,
        pair("q", "a") | {"system": 7},
        "wrong_type",
        "raw.jsonl:21:system: a string is expected as system prompt, found a number",
    ),
    "no messages": (
        GOOD_CHATS,
        {"dialog": []},
        "missing_field",
        "raw.jsonl:21:messages: is missing; the row has dialog",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_row_is_left_out_counted_and_named_or_refuses_the_run(case: str, tmp_path: Path) -> None:
    good, bad, reason, place = BAD[case]
    result = prepare(tmp_path, [*good, bad])
    assert result.manifest.metrics["dropped"] == {reason: 1}
    assert len(result.rows) == 20
    (example,) = result.document["drop_examples"][reason]
    assert (example["file"], example["line"]) == ("raw.jsonl", 21)
    assert result.report.messages("rows_unreadable") == ["raw.jsonl: 1 of 21 rows cannot be read and are left out"]
    with pytest.raises(InvalidData) as refusal:
        prepare(tmp_path, [*good, bad], max_invalid_fraction=0.0)
    assert "1 of 21 rows (4.8%) cannot be read; max_invalid_fraction allows 0.0%" in refusal.value.message
    assert place in refusal.value.message
    assert refusal.value.remedy == "Correct the rows named, or raise max_invalid_fraction to drop them."
    violation = refusal.value.violations[0]
    assert f"{violation.field}: {violation.description}".startswith(place)


def test_instruction_input_output_becomes_a_question_with_its_input_and_an_answer(tmp_path: Path) -> None:
    result = prepare(tmp_path, [pair("Translate.", "Bonjour", "Hello"), pair("Sing", "La")], system_prompt="Be kind.")
    assert result.rows[0]["messages"] == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Translate.\n\nHello"},
        {"role": "assistant", "content": "Bonjour"},
    ]
    assert result.rows[1]["messages"][1]["content"] == "Sing"


def test_auto_recognises_each_file_and_says_what_it_saw(tmp_path: Path) -> None:
    completions = prepare(tmp_path, [{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": "d"}])
    assert completions.report.messages("format_recognised") == [
        "raw.jsonl: JSON Lines; prompt_completion rows with the fields prompt, completion"
    ]
    chats = prepare(tmp_path, [chat(("system", "s"), ("user", "a"), ("assistant", "b"))] * 2)
    assert chats.report.messages("format_recognised") == [
        "raw.jsonl: JSON Lines; messages rows with the fields messages"
    ]
    assert chats.rows[0]["messages"][0] == {"role": "system", "content": "s"}


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"question": "2 + 2?", "answer": "4"}, "question = prompt, answer = completion"),
        ({"instruction": "Add.", "context": "2 and 2", "response": "4"}, "response = output, context = input"),
        ({"system_prompt": "s", "question": "q", "response": "r"}, "question = prompt, response = completion"),
        ({"query": "2 + 2?", "response": "4"}, "query = prompt, response = completion"),
        ({"prompt": "2 + 2?", "response": "4"}, "response = completion"),
    ],
)
def test_field_names_of_well_known_sets_are_known_and_told(row: dict[str, str], told: str, tmp_path: Path) -> None:
    result = prepare(tmp_path, [row])
    (seen,) = result.report.messages("format_recognised")
    assert told in seen
    assert result.rows[0]["messages"][-1]["content"] == row.get("answer", row.get("response"))
    if "context" in row:
        assert result.rows[0]["messages"][0]["content"] == "Add.\n\n2 and 2"
    if "system_prompt" in row:
        assert result.rows[0]["messages"][0] == {"role": "system", "content": "s"}


def test_exact_names_go_before_usual_ones_and_values_that_are_no_texts_are_not_taken(tmp_path: Path) -> None:
    text = prepare(tmp_path, [{"text": "A document.", "question": "q", "answer": "a"}])
    assert text.rows[0]["text"] == "A document."
    with pytest.raises(InvalidData, match="its rows have the fields question, answer"):
        prepare(tmp_path, [{"question": "q", "answer": {"text": ["a"]}}])


def test_text_parts_of_a_message_are_joined(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    result = prepare(tmp_path, [chat(("user", parts), ("assistant", "b"))])
    assert result.rows[0]["messages"][0]["content"] == "one\ntwo"


def test_a_format_asked_for_by_name_refuses_another(tmp_path: Path) -> None:
    with pytest.raises(
        InvalidData, match=r"have the fields instruction, input, output; expected are messages"
    ) as refusal:
        prepare(tmp_path, GOOD_PAIRS, format="messages")
    assert refusal.value.remedy is not None
    assert refusal.value.remedy.endswith("or set format: auto.")


def test_a_run_that_leaves_no_row_is_refused_with_the_reasons(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match=r"raw\.jsonl: no row is left of 3 \(empty_answer 2, empty_question 1\)"):
        prepare(tmp_path, [pair("a", ""), pair("b", " \n"), pair(" ", "c")])


def test_of_many_unreadable_rows_the_first_twenty_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidData) as refusal:
        prepare(tmp_path, [*GOOD_PAIRS, *(["{"] * 100)])
    assert [violation.field for violation in refusal.value.violations] == [f"raw.jsonl:{n}" for n in range(21, 41)]


def test_sharegpt_conversations_become_messages(tmp_path: Path) -> None:
    turns = [{"from": "system", "value": "s"}, {"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    result = prepare(tmp_path, [{"conversations": turns}, {"conversations": turns[1:]}])
    assert result.rows[0]["messages"] == [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
    ]
    assert [message["role"] for message in result.rows[1]["messages"]] == ["user", "assistant"]


TEXTS = st.sampled_from(["", "Hi", " ", "data:image/png;base64,AAAA", None, 7])
TURNS = st.lists(
    st.dictionaries(st.sampled_from(["role", "content", "name"]), st.sampled_from(["user", "assistant", "Hi", 7])),
    max_size=3,
)
NAMES = ["instruction", "input", "output", "prompt", "completion", "system", "id", "image"]
PLAIN = [
    (Shape.MESSAGES, chat(("user", "Hi"), ("assistant", "Hello"))),
    (Shape.INSTRUCTION, {"instruction": "Hi", "output": "Hello"}),
    (Shape.INSTRUCTION, {"instruction": "Hi", "input": "", "output": "Hello"}),
    (Shape.PROMPT_COMPLETION, {"prompt": "Hi", "completion": "Hello"}),
]


@pytest.mark.parametrize(("shape", "row"), PLAIN)
def test_rows_of_the_simplest_form_take_the_short_way(shape: Shape, row: dict[str, Any]) -> None:
    shaper = Shaper(Recognition(shape, (), 1, 1))
    assert shaper.plain(row) == shaper(row)
    assert Shaper(Recognition(shape, (), 1, 1), "Be brief.").plain(row) is None
    assert shaper.plain({**row, "id": 1}) is None, "it may have fields that count for something"


@given(
    shape=st.sampled_from([shape for shape, _ in PLAIN]),
    row=st.dictionaries(st.sampled_from(NAMES), TEXTS) | st.fixed_dictionaries({"messages": TURNS}),
)
def test_the_short_way_leads_where_the_long_one_does(shape: Shape, row: dict[str, Any]) -> None:
    shaper = Shaper(Recognition(shape, (), 1, 1))
    if (plain := shaper.plain(row)) is not None:
        assert plain == shaper(row)
