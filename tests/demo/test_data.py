"""The demo's raw data: real, messy, and the same for everyone."""

import json
from collections import defaultdict
from pathlib import Path

import pytest

from demo import data


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, data.RawCounts]:
    pytest.importorskip("botocore", reason="requirements/demo.txt is not installed")
    path = tmp_path_factory.mktemp("raw") / "nested" / "raw.jsonl"
    return path, data.write_raw(path)


def rows_of(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_file_holds_what_the_counts_say(raw: tuple[Path, data.RawCounts]) -> None:
    path, counts = raw
    rows = rows_of(path)
    assert counts.rows == len(rows) == 3493
    assert counts.empty_answers == sum(row["output"] == "" for row in rows) == 6
    assert counts.repeated_rows == len(rows) - len({tuple(row.values()) for row in rows}) == 453


def test_every_row_is_an_instruction_row_of_a_known_service(raw: tuple[Path, data.RawCounts]) -> None:
    path, counts = raw
    rows = rows_of(path)
    assert {tuple(row) for row in rows} == {("instruction", "input", "output")}
    assert len({row["input"] for row in rows}) == counts.services == len(data.SERVICES)


def test_nothing_was_cleaned(raw: tuple[Path, data.RawCounts]) -> None:
    answers = [row["output"] for row in rows_of(raw[0])]
    assert sum("<p>" in answer for answer in answers) == 3218
    assert sum("&lt;" in answer for answer in answers) > 10
    assert sum("\u00a0" in answer for answer in answers) == 8
    assert sum("\ufb01" in answer for answer in answers) == 2
    assert max(map(len, answers)) > 20_000


def test_some_questions_have_conflicting_answers(raw: tuple[Path, data.RawCounts]) -> None:
    answers = defaultdict(set)
    for row in rows_of(raw[0]):
        answers[row["instruction"], row["input"]].add(row["output"])
    assert sum(len(different) > 1 for different in answers.values()) > 50


def test_writing_twice_gives_the_same_bytes_and_no_leftover(raw: tuple[Path, data.RawCounts], tmp_path: Path) -> None:
    path, counts = raw
    again = tmp_path / "raw.jsonl"
    assert data.write_raw(again) == counts
    assert data.write_raw(again) == counts
    assert again.read_bytes() == path.read_bytes()
    assert [entry.name for entry in tmp_path.iterdir()] == ["raw.jsonl"]


def test_a_missing_package_names_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(data, "PACKAGE", "no_such_package_anywhere")
    with pytest.raises(data.RawDataError, match=r"requirements/demo\.txt"):
        data.write_raw(tmp_path / "raw.jsonl")


def test_a_service_that_the_package_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(data.RawDataError, match="nowhere"):
        list(data.service_rows(tmp_path / "nowhere"))
