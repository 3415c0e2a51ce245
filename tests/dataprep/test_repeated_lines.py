"""Blocks of lines that many documents of one upload share at their edges go; what a document says stays."""

import json
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.dataprep.preparation import prepare, prepare_inputs
from tunewright.dataprep.repeated_lines import LEAST_DOCUMENTS, find_repeated, without_blocks

MENU = "Home\n→\nProducts\nPress S to search\n\nContact"
FOOTER = "This site keeps a note of your visit.\nAbout the society\nPartner network"
STONES = ["amber", "basalt", "cobalt", "diorite", "emerald", "flint", "granite", "jasper", "marble", "opal"]


def article(number: int) -> str:
    one, other = STONES[number % 10], STONES[(7 * number + 3) % 10]
    told = f"The {one} of year {number} met the {other} {number * 7} times, said {one}{number}."
    return f"{one} and {other} {number}\n{told} {told.upper()} {told[::-1]}"


def page(number: int) -> str:
    return f"{MENU}\n{article(number)}\n{FOOTER}"


PAGES = [page(number) for number in range(40)]


def test_menus_and_footers_go_and_articles_stay() -> None:
    repeated = find_repeated(PAGES)
    assert [without_blocks(text, repeated) for text in PAGES] == [article(number) for number in range(40)]


def test_few_documents_and_copies_of_one_have_no_furniture() -> None:
    assert find_repeated(PAGES[: LEAST_DOCUMENTS - 1]) == frozenset()
    assert find_repeated([PAGES[0]] * 100) == frozenset()


def test_fields_code_headings_and_lists_of_steps_are_content() -> None:
    lines = ["Type: String", "Required: No", "# Overview", "import os", "    return x", "1. Open the lid", "a = b", "}"]
    ends = "\n".join(lines)
    repeated = find_repeated([f"{article(number)}\n{ends}" for number in range(40)])
    assert not repeated
    heads = ["import os", "from pathlib import Path", "use std::io", "类型：字符串", "默认值： 空", "第一条 总则"]
    head = "\n".join(heads)
    assert not find_repeated([f"{head}\n{article(number)}" for number in range(40)])


def test_a_chinese_sentence_is_no_menu_line() -> None:
    sentence = "本指南说明如何安装和配置数据库服务以及如何备份数据"
    documents = [f"{sentence if number < 12 else number}\n首页\n{article(number)}" for number in range(40)]
    assert find_repeated(documents) == {"首页"}


def test_a_title_that_stands_in_the_menu_too_stays() -> None:
    pages = [f"Menu\nSearch\nThe Book\n{article(number)}" for number in range(20)]
    repeated = find_repeated(pages)
    assert without_blocks(f"Menu\nSearch\nThe Book\nThe Book\n{article(99)}", repeated) == f"The Book\n{article(99)}"


def test_a_document_of_which_most_would_go_stays_whole() -> None:
    repeated = find_repeated(PAGES)
    assert without_blocks(f"{MENU}\nShort.\n{FOOTER}", repeated) == f"{MENU}\nShort.\n{FOOTER}"


@given(st.lists(st.sampled_from([*MENU.split("\n"), *FOOTER.split("\n"), article(1), "x"]), max_size=12))
def test_what_goes_is_whole_lines_at_the_edges_and_once_is_enough(lines: list[str]) -> None:
    repeated = find_repeated(PAGES)
    text = "\n".join(lines)
    kept = without_blocks(text, repeated)
    assert kept in text
    assert "x" not in lines or "x" in kept.split("\n")
    assert article(1) not in lines or article(1) in kept
    assert len(kept) >= len(text) / 2


def test_a_run_tells_it_by_its_rule_with_before_and_after_and_can_leave_it(tmp_path: Path) -> None:
    rows = [{"text": text} for text in PAGES]
    result = prepare(tmp_path, rows, split={"validation_fraction": 0})
    assert sorted(row["text"] for row in result.rows) == sorted(article(number) for number in range(40))
    assert result.document["changed"] == {"repeated_lines": 40}
    assert result.document["changed_rows"] == 40
    example = result.document["change_examples"]["repeated_lines"][0]
    assert (example["before"], example["after"]) == (PAGES[0], article(0))
    off = prepare(tmp_path, rows, split={"validation_fraction": 0}, cleaning={"repeated_lines": False})
    assert sorted(row["text"] for row in off.rows) == sorted(PAGES)


def test_each_upload_has_its_own_furniture_and_a_folder_of_files_is_one(tmp_path: Path) -> None:
    site, other = tmp_path / "site", tmp_path / "other"
    site.mkdir()
    other.mkdir()
    for number in range(30):
        (site / f"{number:02}.txt").write_text(page(number), encoding="utf-8")
    (other / "one.jsonl").write_text(json.dumps({"text": page(31)}) + "\n", encoding="utf-8")
    inputs = {"upload_000": site, "upload_001": other}
    result = prepare_inputs(tmp_path, inputs, split={"validation_fraction": 0})
    texts = {row["source"]["file"]: row["text"] for row in result.rows}
    assert texts["07.txt"] == article(7)
    assert texts["one.jsonl"] == page(31)


CHAPTER = "Notes\nSources\nFurther reading"


def test_a_file_cut_into_pieces_is_one_document_with_one_beginning_and_one_end(tmp_path: Path) -> None:
    """Chapters of long files end in the same lines, and so do pieces; only those before the footer are at an end."""
    site = tmp_path / "site"
    site.mkdir()
    for number in range(20):
        chapters = [f"{article(100 * number + at)}\n\n{CHAPTER}" for at in range(10)]
        (site / f"{number}.txt").write_text("\n\n".join([MENU, *chapters, FOOTER]), encoding="utf-8")
    settings: dict[str, Any] = {"reading": {"piece_chars": 600}, "duplicates": {"near": False}}
    result = prepare_inputs(tmp_path, {"upload_000": site}, split={"validation_fraction": 0}, **settings)
    assert result.document["changed"] == {"repeated_lines": 40}, "of each file the first piece and the last"
    kept = "\n".join(row["text"] for row in result.rows)
    assert kept.count("Further reading") == 20 * 9
    assert "Press S" not in kept
    assert "Partner network" not in kept


def test_one_long_file_has_no_furniture(tmp_path: Path) -> None:
    text = "\n\n".join(f"{CHAPTER}\n{article(number)}" for number in range(60))
    settings: dict[str, Any] = {"reading": {"piece_chars": 300}, "duplicates": {"near": False}}
    result = prepare(tmp_path, text.encode(), name="book.txt", **settings)
    assert "repeated_lines" not in result.document["changed"]


def test_conversations_are_not_looked_at(tmp_path: Path) -> None:
    rows = [{"instruction": f"Page {number}?", "output": page(number)} for number in range(40)]
    result = prepare(tmp_path, rows, split={"validation_fraction": 0}, cleaning={"boilerplate_lines": False})
    assert "repeated_lines" not in result.document["changed"]
