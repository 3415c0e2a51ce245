"""Two datasets: a row with another answer is one changed row; those of a stack are fetched by whatever names them."""

import json
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.cli.gateway_server import Script, gateway_server
from tests.cli.shell import tunewright
from tunewright.cli.client import Gateway
from tunewright.cli.comparing import Change, Difference, compare, pieces, text_of
from tunewright.cli.datasets import open_dataset
from tunewright.cli.difference_view import document, marked

IDENTIFIER = "a" * 64
"""Of the dataset that the gateway's one run made."""


def row(identifier: str, question: str, answer: str, line: int) -> dict[str, Any]:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"id": identifier, "messages": turns, "source": {"file": "raw.jsonl", "line": line}}


def text(identifier: str, content: str, line: int) -> dict[str, Any]:
    return {"id": identifier, "text": content, "source": {"file": "a.txt", "line": line}}


def write(folder: Path, train: list[dict[str, Any]], held_out: list[dict[str, Any]], seed: int = 0) -> None:
    folder.mkdir()
    for name, rows in (("train", train), ("validation", held_out)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    (folder / "report.json").write_text(json.dumps({"spec": {"seed": seed, "split": {"by": "question"}}}))


def no_gateway() -> Gateway:
    raise AssertionError("no gateway is asked for folders")


def compared(folder: Path, old: list[dict[str, Any]], new: list[dict[str, Any]]) -> Difference:
    write(folder / "old", old, [])
    write(folder / "new", new, [])
    one, other = (open_dataset(str(folder / name), folder / "-", no_gateway) for name in ("old", "new"))
    return compare(one, other)


def test_another_answer_to_the_same_question_is_one_changed_row(tmp_path: Path) -> None:
    old = [row("1", "Capital of Peru?", "Quito", 1), row("2", "Capital of Chile?", "Santiago", 2)]
    new = [row("3", "Capital of  Peru?", "Lima", 7), row("2", "Capital of Chile?", "Santiago", 8)]
    found = compared(tmp_path, old, new)
    assert (found.added, found.removed, found.changed, found.moved) == ([], [], [Change("1", "3")], [])


def test_of_several_rows_with_one_question_those_of_one_line_belong_together(tmp_path: Path) -> None:
    old = [row("1", "Go on.", "one", 1), row("2", "Go on.", "two", 2)]
    new = [row("3", "Go on.", "TWO!", 2), row("4", "Go on.", "ONE!", 1), row("5", "Go on.", "three", 3)]
    found = compared(tmp_path, old, new)
    assert sorted(found.changed) == [Change("1", "4"), Change("2", "3")]
    assert found.added == ["5"]


def test_documents_of_one_line_are_one_changed_row_only_if_they_are_alike(tmp_path: Path) -> None:
    old = [text("1", "Foxes sleep in dens by day.", 1), text("2", "Owls hunt at night.", 2)]
    new = [text("3", "Foxes sleep in warm dens by day.", 1), text("4", "Whales sing, and far away others hear it.", 2)]
    found = compared(tmp_path, old, new)
    assert (found.changed, found.added, found.removed) == ([Change("1", "3")], ["4"], ["2"])


def test_a_row_of_the_same_id_that_is_written_otherwise_is_changed(tmp_path: Path) -> None:
    found = compared(tmp_path, [row("1", "Capital?", "Lima.", 1)], [row("1", "Capital?", "lima", 1)])
    assert found.changed == [Change("1", "1")]


def test_the_difference_is_shown_word_by_word() -> None:
    found = pieces("The capital of Peru is Quito.", "The capital of Peru is Lima.")
    assert marked(found, plain=True) == "The capital of Peru is [-Quito-]{+Lima+}."
    assert marked(pieces("首都是上海。", "首都是北京。"), plain=True) == "首都是[-上海-]{+北京+}。"


@given(st.text("ab 中\n1.", max_size=40), st.text("ab 中\n1.", max_size=40))
def test_no_character_of_either_text_is_lost(before: str, after: str) -> None:
    found = pieces(before, after)
    assert "".join(piece.before for piece in found) == before
    assert "".join(piece.after for piece in found) == after


def test_datasets_of_a_stack_are_fetched_by_id_by_its_first_digits_and_by_run(tmp_path: Path) -> None:
    write(tmp_path / "there", [row("1", "Capital of Peru?", "Quito", 1)], [row("2", "Two?", "2", 2)])
    write(tmp_path / "here", [row("3", "Capital of Peru?", "Lima", 1), row("2", "Two?", "2", 2)], [], seed=1)
    files = {f"datasets/{IDENTIFIER}/files/{path.name}": path.read_bytes() for path in (tmp_path / "there").iterdir()}
    with gateway_server(Script(files=files)) as url:
        told = tunewright("data", "diff", "run-1", str(tmp_path / "here"), "--json", url=url)
        shown = tunewright("data", "diff", f"datasets/{IDENTIFIER[:12]}", IDENTIFIER, url=url)
        unknown = tunewright("data", "diff", "bbbbbb", IDENTIFIER, url=url)
    assert told.returncode == 1, told.stderr
    found = json.loads(told.stdout)
    assert found["counts"] == {"added": 0, "removed": 0, "changed": 1, "moved": 1, "settings": 1}
    assert found["changed"][0]["before"]["text"] == "user: Capital of Peru?\nassistant: Quito"
    assert found["moved"] == [{"id": "2", "before": "validation.jsonl", "after": "train.jsonl"}]
    assert found["settings"] == {"seed": {"before": 0, "after": 1}}
    assert (shown.returncode, shown.stderr) == (0, "")
    assert unknown.returncode == 1
    assert "no dataset of the stack's runs begins with bbbbbb" in unknown.stderr


def test_every_row_of_each_sort_stands_in_the_document(tmp_path: Path) -> None:
    write(tmp_path / "old", [row(str(n), f"Old {n}?", "x", n) for n in range(30)], [])
    write(tmp_path / "new", [row(f"n{n}", f"New {n} then?", "y", n + 50) for n in range(40)], [])
    one, other = (open_dataset(str(tmp_path / name), tmp_path / "-", no_gateway) for name in ("old", "new"))
    told = document(compare(one, other), one, other)
    assert (len(told["removed"]), len(told["added"]), told["changed"]) == (30, 40, [])


def test_calls_and_definitions_of_tools_are_part_of_a_rows_text() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    assert text_of({"messages": turns, "tools": [{"name": "f"}]}) == (
        'tools: [{"name": "f"}]\nuser: q\nassistant: f({"a": 1})'
    )
