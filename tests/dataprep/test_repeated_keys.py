"""A key that stands twice in one object is an error of its row, with its place; good rows are never taken for such."""

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.dataprep.preparation import Prepared, prepare
from tests.dataprep.tool_rows import call, turn
from tunewright.chassis.errors import InvalidData
from tunewright.dataprep.problems import RowError
from tunewright.dataprep.readers.repeated_keys import key_colons, repeated_key
from tunewright.dataprep.turns import conversation

GOOD = b'{"prompt": "What: \\": is %d?", "completion": "A colon : %d"}\n'
TEXTS = st.text(st.sampled_from('ab\\":{}[], \n\té好'), max_size=6)
VALUES = st.recursive(
    st.none() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
SEPARATORS = st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", "\t\n :\r ")])
DEEP = b'{"a":' * 1000 + b"1" + b"}" * 999


def prepared(folder: Path, data: bytes, name: str = "raw.jsonl", **settings: object) -> Prepared:
    return prepare(folder, data, name=name, duplicates={"near": False}, **settings)


@settings(deadline=None)  # other work may share the processors
@given(value=VALUES, separators=SEPARATORS, ascii_only=st.booleans(), indent=st.none() | st.integers(0, 2))
def test_a_value_whose_keys_differ_has_no_repeated_key(
    value: Any,  # noqa: ANN401 - any JSON value
    separators: tuple[str, str],
    ascii_only: bool,  # noqa: FBT001 - given by hypothesis
    indent: int | None,
) -> None:
    text = json.dumps(value, separators=separators, ensure_ascii=ascii_only, indent=indent)
    assert repeated_key(text.encode(), value) is None


@settings(deadline=None)  # other work may share the processors
@given(pairs=st.lists(st.tuples(TEXTS, VALUES), min_size=1, max_size=5), separators=SEPARATORS, wrapped=st.booleans())
def test_a_key_is_found_where_an_object_has_it_twice_and_only_there(
    pairs: list[tuple[str, Any]],
    separators: tuple[str, str],
    wrapped: bool,  # noqa: FBT001 - given by hypothesis
) -> None:
    comma, colon = separators
    members = [json.dumps(name) + colon + json.dumps(value, separators=separators) for name, value in pairs]
    text = "{" + comma.join(members) + "}"
    text = f'[0{comma}{{"x"{colon}{text}}}]' if wrapped else text
    names = [name for name, _ in pairs]
    first = next((name for place, name in enumerate(names) if name in names[:place]), None)
    found = repeated_key(text.encode(), json.loads(text))
    assert (found and found[1]) == first
    assert found is None or found[0] == (f"[1].x.{first}" if wrapped else f".{first}".removeprefix("."))


def test_escapes_and_depth_hide_no_key() -> None:
    assert repeated_key(b'{"a":1,"\\u0061":2}', {"a": 2}) == ("a", "a")
    assert repeated_key(b'{"a\\\\":1,"a":1,"a" :2}', {"a\\": 1, "a": 2}) == ("a", "a")
    deep: Any = 1
    for _ in range(1000):
        deep = {"a": deep}
    assert repeated_key(DEEP + b"}", deep) is None
    place, name = repeated_key(DEEP + b',"a":2}', {"a": 2}) or ("", "")
    assert (place, name) == ("a", "a")


@pytest.mark.parametrize("name", ["raw.jsonl", "raw.json", "raw.jsonl.gz", "raw.utf16.jsonl"])
def test_such_a_row_is_left_out_and_named_by_file_line_key_and_remedy(name: str, tmp_path: Path) -> None:
    rows = [GOOD % (number, number) for number in range(20)]
    rows.append(b'{"prompt": "What?", "completion": "First.", "completion": "Second."}\n')
    data = b"[" + b",".join(rows) + b"]" if name.endswith(".json") else b"".join(rows)
    data = gzip.compress(data) if name.endswith(".gz") else data
    data = data.decode().encode("utf-16") if "utf16" in name else data
    result = prepared(tmp_path, data, name)
    assert result.manifest.metrics["dropped"] == {"duplicate_key": 1}
    assert len(result.rows) == 20
    (shown,) = result.document["unreadable"]
    assert (shown["file"], shown["line"], shown["field"]) == (name, 21, "completion")
    assert shown["what"] == (
        "the key 'completion' stands twice in one object, and only one of its values could be taken: remove or rename "
        "one of them"
    )
    assert shown["remedy"] == "Remove one of them, or give it a name of its own."
    with pytest.raises(InvalidData, match=f"{name}:21:completion: the key 'completion' stands twice"):
        prepared(tmp_path, data, name, max_invalid_fraction=0.0)


def test_a_nested_key_is_named_by_its_path(tmp_path: Path) -> None:
    messages = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b%s"%s}]}\n'
    rows = [messages % (number, "") for number in range(20)] + [messages % ("", ', "content": "c"')]
    (shown,) = prepared(tmp_path, "".join(rows).encode()).document["unreadable"]
    assert (shown["line"], shown["field"]) == (21, "messages[1].content")


def test_arguments_that_are_a_string_may_not_have_a_key_twice_either() -> None:
    called = turn("assistant", None, tool_calls=[call("get_weather", '{"city": "Rome", "city": "Oslo"}')])
    with pytest.raises(RowError, match="the key 'city' stands twice") as error:
        conversation([turn("user", "Weather?"), called], "messages")
    assert error.value.problem.field == "messages[1].tool_calls[0].function.arguments"


@given(st.lists(st.binary(max_size=40) | TEXTS.map(str.encode), max_size=4))
def test_colons_that_may_be_a_keys_are_counted_line_by_line(lines: list[bytes]) -> None:
    assert key_colons(lines) == [len(re.findall(rb'(?<=["\x20\t\n\r]):', line)) for line in lines]
