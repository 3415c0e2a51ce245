"""What is said of each upload: how it is read, what it is used for."""

from pathlib import Path
from typing import Any

import pytest

from tests.dataprep.preparation import Prepared, pair, prepare, prepare_inputs, to_jsonl
from tunewright.chassis.errors import InvalidData, InvalidSpec

OTHERS: list[Any] = [{"data": {"question": f"q{number}", "answer": f"a{number}"}, "lang": "en"} for number in range(20)]


def prepare_files(folder: Path, *said: dict[str, Any], **settings: object) -> Prepared:
    """Run the stage on a file of pairs, and one with nested fields of other names."""
    inputs = {}
    pairs: list[Any] = [pair(f"question {number}", f"answer {number}") for number in range(20)]
    rows: tuple[list[Any], ...] = (pairs, OTHERS)
    for number, content in enumerate(rows):
        upload = folder / f"upload_{number:03}"
        upload.mkdir()
        (upload / f"{number}.jsonl").write_bytes(to_jsonl(content))
        inputs[upload.name] = upload
    return prepare_inputs(folder, inputs, sources=list(said), **settings)


MAPPED = {"instruction": "data.question", "output": "data.answer"}


def test_fields_of_other_names_are_read_as_the_recipe_says(tmp_path: Path) -> None:
    result = prepare_files(tmp_path, {}, {"fields": MAPPED})
    assert [message["content"] for message in result.rows[-1]["messages"]] == ["q19", "a19"]
    assert result.report.messages("format_recognised")[1] == (
        "1.jsonl: JSON Lines; instruction rows with the fields data, lang "
        "(data.question = instruction, data.answer = output)"
    )


def test_a_wrong_field_name_is_told_with_the_real_ones(tmp_path: Path) -> None:
    with pytest.raises(InvalidData) as refusal:
        prepare_files(tmp_path, {}, {"fields": MAPPED | {"input": "lnag"}})
    assert refusal.value.message == (
        "1.jsonl: `fields` says that input is called 'lnag'; its rows have the fields data, lang; did you mean 'lang'?"
    )


def test_a_field_that_the_shape_does_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match=r"1\.jsonl: `fields` names prompt, which instruction rows do not have"):
        prepare_files(tmp_path, {}, {"fields": MAPPED | {"prompt": "lang"}})


def test_an_unknown_name_or_shape_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match=r"sources\.1\.fields\.question"):
        prepare_files(tmp_path, {}, {"fields": {"question": "data.question"}})
    with pytest.raises(InvalidSpec, match=r"sources\.0\.format"):
        prepare(tmp_path, [pair("a", "b")], sources=[{"format": "table"}])


def test_no_row_of_a_test_set_enters_the_dataset(tmp_path: Path) -> None:
    result = prepare_files(tmp_path, {}, {"use": "test", "fields": MAPPED})
    assert {row["source"]["file"] for row in result.rows} == {"0.jsonl"}
    assert result.manifest.metrics["rows_in"] == 20
    assert result.report.messages("test_sets") == ["Kept out of the dataset, as test sets: 1.jsonl"]


def test_a_test_set_that_is_not_as_was_said_refuses_the_run(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match=r"1\.jsonl: its rows have the fields data, lang"):
        prepare_files(tmp_path, {}, {"use": "test", "format": "messages"})


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ([{"use": "test"}, {"use": "test"}], "every file is a test set"),
        ([{}, {"use": "test", "weight": 2}], "a test set is not mixed in"),
        ([{}], "1 entries for 2 uploads"),
        ([{"name": "a", "weight": 2}, {"name": "a", "weight": 1}], "source a has the weights 2 and 1"),
    ],
)
def test_what_contradicts_itself_is_refused(said: list[dict[str, Any]], message: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match=message):
        prepare_files(tmp_path, *said)


def test_encoding_and_delimiter_are_as_the_recipe_says(tmp_path: Path) -> None:
    table = "instruction/output\n" + "".join(f"frage {number}/größe, weiß {number}\n" for number in range(20))
    reading = {"encoding": "CP850", "delimiter": "/"}
    result = prepare(tmp_path, table.encode("cp850"), name="raw.csv", reading=reading)
    assert result.answers()[7] == "größe, weiß 7"
    with pytest.raises(InvalidSpec, match=r"reading\.encoding: .*'latin-99' is no encoding"):
        prepare(tmp_path, table.encode(), name="raw.csv", reading={"encoding": "latin-99"})


def test_a_validation_file_is_what_is_held_out_and_nothing_else(tmp_path: Path) -> None:
    result = prepare_files(tmp_path, {}, {"use": "validation", "fields": MAPPED}, split={"validation_fraction": 0.4})
    assert {row["source"]["file"] for row in result.train} == {"0.jsonl"}
    assert {row["source"]["file"] for row in result.validation} == {"1.jsonl"}
    assert (len(result.train), len(result.validation)) == (20, 20)


def test_something_must_be_trained_on(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match="no file is trained on"):
        prepare_files(tmp_path, {"use": "validation"}, {"use": "test"})
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(InvalidSpec, match="a validation set is not mixed in"):
        prepare_files(other, {}, {"use": "validation", "weight": 1})
