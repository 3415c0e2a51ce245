"""The whole stage with test sets beside the data: what becomes of the rows, and what the report says of it."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.dataprep.preparation import Prepared, Recorder, lines_of, pair, prepare_inputs, to_jsonl
from tunewright.chassis.errors import InvalidData
from tunewright.chassis.stage import Severity
from tunewright.dataprep import stage
from tunewright.dataprep.spec import DataprepSpec

QUESTION = "A baker sells twelve loaves each morning and twice as many in the afternoon. How many loaves does he sell?"
CHINESE = "一个面包师每天早上卖出十二个面包，下午卖出的数量是早上的两倍，请问他一共卖出多少个面包？"
DATA = [pair(f"What is {number}?", f"It is {number}, of course.") for number in range(40)]
LEAKED = [pair(f"Please solve: {QUESTION}", "36"), pair(CHINESE, "三十六个"), pair("Repeat it", f"Well. {QUESTION}")]
TEST = [pair(QUESTION, "36 loaves"), pair(CHINESE, "36 个"), pair("Name a river in France that is long.", "Loire")]


def run(folder: Path, data: list[Any] | bytes, *tests: list[Any] | bytes, **settings: object) -> Prepared:
    inputs = {}
    for number, content in enumerate([data, *tests]):
        upload = folder / f"upload_{number:03}"
        upload.mkdir(exist_ok=True)
        name = "data.jsonl" if number == 0 else f"test{number}.jsonl"
        (upload / name).write_bytes(content if isinstance(content, bytes) else to_jsonl(content))
        inputs[upload.name] = upload
    sources = [{}, *({"use": "test", "name": f"set {number}"} for number in range(1, len(tests) + 1))]
    return prepare_inputs(folder, inputs, sources=sources, **settings)


def test_rows_that_hold_test_rows_are_dropped_named_and_counted(tmp_path: Path) -> None:
    result = run(tmp_path, [*DATA, *LEAKED], TEST)
    document = result.document
    assert result.manifest.metrics["dropped"] == {"contaminated": 3}
    assert document["rows_in"] == document["rows_out"] + 3 == 43
    assert document["contamination"]["tests"] == [
        {"name": "set 1", "rows": 3, "rows_found": 2, "training_rows": 3, "boilerplate_ngrams": 0}
    ]
    first, second, third = document["contamination"]["examples"]
    assert (first["file"], first["line"], first["test"], first["test_file"], first["test_line"]) == (
        "data.jsonl", 41, "set 1", "test1.jsonl", 1
    )  # fmt: skip
    assert first["text"] == QUESTION.rstrip("?")
    assert first["share"] == 1
    assert second["whole_question"]
    assert not third["whole_question"]
    (shown, *_) = document["drop_examples"]["contaminated"]
    assert shown["detail"] == "holds 100% of a message of the test set set 1 (test1.jsonl:1)"
    assert ">Test sets</h2>" in result.page
    assert "twice as many in the afternoon" in result.page


def test_no_row_of_a_test_set_enters_the_dataset(tmp_path: Path) -> None:
    result = run(tmp_path, DATA, TEST)
    assert {row["source"]["file"] for row in result.rows} == {"data.jsonl"}
    assert len(result.rows) == len(DATA)
    assert result.document["contamination"]["rows"] == 0


def test_flagged_rows_stay_and_say_which_test_row_they_hold(tmp_path: Path) -> None:
    result = run(tmp_path, [*DATA, *LEAKED], TEST, contamination={"action": "flag"})
    flagged = [row for row in result.rows if "contaminated" in row]
    assert [row["source"]["line"] for row in flagged] == [41, 42, 43]
    assert flagged[0]["contaminated"] == {"test": "set 1", "file": "test1.jsonl", "line": 1}
    assert result.manifest.metrics["dropped"] == {}
    assert result.document["contamination"]["rows"] == 3


def test_off_compares_nothing_and_still_trains_on_no_test_row(tmp_path: Path) -> None:
    result = run(tmp_path, [*DATA, *LEAKED], TEST, contamination={"action": "off"})
    assert len(result.rows) == 43
    assert result.document["contamination"]["tests"] == []
    assert ">Test sets</h2>" not in result.page


def test_a_benchmark_in_its_own_shape_is_compared_by_all_its_texts(tmp_path: Path) -> None:
    rows = [{"stem": QUESTION, "options": [{"label": "A", "says": "36"}], "key": 0}, {"stem": CHINESE, "options": []}]
    result = run(tmp_path, [*DATA, *LEAKED], rows)
    assert result.manifest.metrics["dropped"] == {"contaminated": 3}
    (told,) = result.report.messages("test_set")
    assert told.startswith("test1.jsonl: test set set 1, ")
    assert told.endswith("its rows are no conversations: all their texts are compared")


def test_test_rows_are_cleaned_as_training_rows_are(tmp_path: Path) -> None:
    held = "Write to jane.doe@gmail.com or call her, and ask whether the meeting of the board next week is on Monday"
    markup = [pair(f"<p>{held.replace('the board', '<b>the board</b>')}</p>", "<p>Done it.</p>")]
    assert run(tmp_path, [*DATA, pair(held, "Ok")], markup).manifest.metrics["dropped"] == {"contaminated": 1}


def test_two_sets_are_told_apart_and_a_row_may_count_for_both(tmp_path: Path) -> None:
    result = run(tmp_path, [*DATA, pair(QUESTION, CHINESE)], TEST[:1], TEST[1:])
    assert [(one["name"], one["training_rows"]) for one in result.document["contamination"]["tests"]] == [
        ("set 1", 1),
        ("set 2", 1),
    ]
    assert result.manifest.metrics["dropped"] == {"contaminated": 1}


def test_unreadable_test_rows_are_told_and_a_set_without_text_is_refused(tmp_path: Path) -> None:
    result = run(tmp_path, [*DATA, *LEAKED], to_jsonl([*TEST, "{broken", {"id": 5}]))
    assert result.manifest.metrics["dropped"] == {"contaminated": 3}
    (warning,) = [event for event in result.report.events if event[0] == "test_rows_unreadable"]
    assert warning[1].startswith("test1.jsonl: 2 rows of this test set cannot be read")
    assert warning[2] is Severity.WARNING
    with pytest.raises(InvalidData, match=r"test set test1\.jsonl holds no row with text"):
        run(tmp_path, DATA, [{"id": 5}])


def test_how_many_processes_work_and_how_files_are_cut_makes_no_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [pair(f"What is {n}?", f"It is {n}, {QUESTION if n % 7 == 0 else CHINESE[:20]}") for n in range(3000)]
    files = []
    for name, workers, block_bytes in (("one", 1, 4 << 20), ("two", 3, 50_000)):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(stage, "SMALL_BYTES", 0)
        monkeypatch.setattr(stage, "BLOCK_BYTES", block_bytes)
        inputs = {}
        for number, content in enumerate((rows, TEST)):
            upload = tmp_path / name / f"upload_{number:03}"
            upload.mkdir()
            (upload / "rows.jsonl").write_bytes(to_jsonl(content))
            inputs[upload.name] = upload
        (output := tmp_path / name / "output").mkdir()
        spec = DataprepSpec.from_mapping({"sources": [{}, {"use": "test", "name": "t"}]})
        stage.run(spec, inputs, output, Recorder(runtime={"workers": workers}))
        files.append({path.name: path.read_bytes() for path in output.iterdir() if path.is_file()})
    assert files[0] == files[1]
    document = json.loads(files[0]["report.json"])
    assert document["dropped"]["contaminated"] == 429
    assert len(lines_of(output / "train.jsonl")) == document["train_rows"]
