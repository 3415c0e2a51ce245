"""Raw files are looked at and datasets compared without any stack; the real stage runs in a process of its own."""

import json
from pathlib import Path

from tests.cli.shell import tunewright
from tunewright.cli.inspecting import ALLOWED_UNREADABLE
from tunewright.cli.inspection_view import histogram
from tunewright.dataprep.spec import DataprepSpec

_NOTHING = "0 rows added, 0 removed, 0 changed, 0 moved to the other side, 0 settings"
TINY = Path(__file__).parents[1] / "fixtures" / "tiny_model"


def raw(folder: Path, rows: int) -> Path:
    lines = [{"instruction": f"What is number {n}?", "output": f"<p>It is {n}, {'x' * n}</p>"} for n in range(rows)]
    lines += [lines[0], {"instruction": "nothing?", "output": ""}]
    path = folder / "raw.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_a_raw_file_is_looked_at_and_a_second_look_differs_by_the_rows_added(tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text("seed: 1\n")
    first = tunewright("data", "inspect", str(raw(tmp_path, 30)), "--output", str(tmp_path / "one"))
    assert first.returncode == 0, first.stderr
    assert "30 of 32 rows would be kept" in first.stdout
    assert "dropped: empty_answer" in first.stdout
    assert (tmp_path / "one" / "report.html").is_file()
    words = ("data", "inspect", str(raw(tmp_path, 33)), "--output", str(tmp_path / "two"), "--spec", str(spec))
    second = tunewright(*words, "--base", str(TINY), "--max-length", "64")
    assert second.returncode == 0, second.stderr
    assert "Tokens of a row by tiny_model" in second.stdout
    assert "⟦<|im_end|>⟧" in second.stdout
    audit = json.loads((tmp_path / "two" / "audit.json").read_bytes())
    assert sum(rows for side in audit["lengths"].values() for _, rows in side) == 33
    assert audit["checked"]["rows"] == audit["checked"]["rows_that_learn_to_end"] == 33
    compared = tunewright("data", "diff", str(tmp_path / "one"), str(tmp_path / "two"))
    assert compared.returncode == 1
    assert compared.stdout.startswith("3 rows added, 0 removed, 0 changed, ")
    assert "seed: 0 → 1" in compared.stdout
    same = tunewright("data", "diff", str(tmp_path / "one"), str(tmp_path / "one"))
    assert (same.returncode, same.stdout) == (0, f"{_NOTHING}\n")


def test_files_of_no_known_shape_are_named_with_their_remedy_and_the_others_looked_at(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    (folder / "deep").mkdir(parents=True)
    raw(folder, 9)
    (folder / "odd.jsonl").write_text('{"a": 1}\n{"a": 2}\n')
    (folder / "deep" / "odd.csv").write_text("b,c\n1,2\n")
    (folder / "bad.jsonl").write_text("{\n" * 9)
    lone = tmp_path / "lone.jsonl"
    lone.write_text('{"z": 1}\n')
    spec = tmp_path / "spec.yaml"
    spec.write_text("sources: [{name: lone}, {name: set}]\n")
    words = ("data", "inspect", str(lone), str(folder), "--output", str(tmp_path / "out"), "--spec", str(spec))
    found = tunewright(*words)
    assert found.returncode == 1
    assert "9 of 11 rows would be kept" in found.stdout
    assert "left out: set/odd.jsonl: its rows have the fields a; expected are" in found.stdout
    assert "left out: set/deep/odd.csv: its rows have the fields b, c" in found.stdout
    assert "left out: set/bad.jsonl cannot be read" in found.stdout
    assert "left out: lone.jsonl: its rows have the fields z" in found.stdout
    assert "fields: {instruction: question, output: answer}" in found.stdout
    assert "a run would refuse this: lone.jsonl, set/bad.jsonl," in found.stderr
    assert sorted(path.name for path in (tmp_path / "out").glob("report.*")) == ["report.html", "report.json"]


def test_what_cannot_be_looked_at_is_told_by_the_stage(tmp_path: Path) -> None:
    missing = tunewright("data", "inspect", str(tmp_path / "nothing.jsonl"))
    assert missing.returncode == 1
    assert "cannot be read: No such file" in missing.stderr
    (tmp_path / "empty.jsonl").touch()
    empty = tunewright("data", "inspect", str(tmp_path / "empty.jsonl"))
    assert empty.returncode == 1
    assert "is empty" in empty.stderr
    (tmp_path / "odd.jsonl").write_text('{"a": 1}\n{"a": 2}\n')
    odd = tunewright("data", "inspect", str(tmp_path / "odd.jsonl"))
    assert odd.returncode == 1
    assert "data preparation failed" in odd.stderr
    assert "odd.jsonl:1: has the fields a" in odd.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.jsonl", "odd.jsonl"]


def test_a_folder_and_a_file_are_shown_with_every_place_that_cannot_be_read(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        raw(tmp_path / name, 12)
    with (tmp_path / "one" / "raw.jsonl").open("a") as file:
        file.write('{"instruction": "broken\n' + '{"instruction": "number", "output": 7}\n' * 24)
    paths = str(tmp_path / "one"), str(tmp_path / "two" / "raw.jsonl")
    shown = tunewright("data", "inspect", *paths)
    assert shown.returncode == 1
    assert "25 rows cannot be read; the first 20:" in shown.stdout
    assert "one/raw.jsonl:15  invalid JSON at column" in shown.stdout
    assert "one/raw.jsonl:16  output: a string is expected, found a number" in shown.stdout
    assert "→ wrong_type: Write text there." in shown.stdout
    assert shown.stdout.count("one/raw.jsonl:") == 20
    assert "one/raw.jsonl  1.9 KiB, JSON Lines, UTF-8" in shown.stdout
    assert "Answers, characters: median" in shown.stdout
    assert "█ " in shown.stdout
    assert "a run would refuse this: 47.2% of the rows cannot be read, and 20.0% may be unreadable" in shown.stderr
    assert (tmp_path / "one-inspected" / "report.html").is_file()
    assert not (tmp_path / "one-inspected.checkpoints").exists()


def test_what_is_seen_is_told_to_programs_too(tmp_path: Path) -> None:
    (tmp_path / "names.csv").write_bytes("问题,答案\r\n你好吗？,我很好。\r\n天气？,晴天。\r\n".encode("gb18030"))
    (tmp_path / "spec.yaml").write_text("sources: [{fields: {instruction: 问题, output: 答案}}]\n", encoding="utf-8")
    (tmp_path / "names-inspected").mkdir()  # of an earlier look
    spec = str(tmp_path / "spec.yaml")
    told = tunewright("data", "inspect", str(tmp_path / "names.csv"), "--spec", spec, "--json")
    assert told.returncode == 0, told.stderr
    found = json.loads(told.stdout)
    (file,) = found["report"]["files"]
    assert (file["name"], file["rows"], file["unreadable"]) == ("names.csv", 2, 0)
    assert file["mapping"] == {"instruction": "问题", "output": "答案"}
    assert found["refusal"] is None
    assert found["report"]["spec"]["max_invalid_fraction"] == ALLOWED_UNREADABLE, "prepared as a run would"
    assert found["output"] == str(tmp_path / "names-inspected-2")


def test_a_histogram_has_at_most_eight_bars_and_loses_no_row() -> None:
    lengths = {"edges": [0, *range(1, 40)], "counts": [0, 3, *[1] * 36, 0]}
    lines = list(histogram(lengths, 40))
    assert len(lines) == 8
    assert sum(int(line.split()[-1]) for line in lines) == 39
    assert all(len(line) <= 40 for line in lines)
    assert lines[0].startswith("    1 – 5  ")


def test_what_a_run_allows_to_be_unreadable_is_what_the_stage_allows() -> None:
    assert DataprepSpec().max_invalid_fraction == ALLOWED_UNREADABLE


def test_a_folder_that_is_no_prepared_dataset_is_told_with_file_and_line(tmp_path: Path) -> None:
    rows = [{"id": "a", "messages": [{"role": "user", "content": "Hi"}], "chosen": "Hello!", "rejected": "What."}]
    lines = [json.dumps(row) for row in rows]
    for name, content in (("good", lines), ("broken", [*lines, '{"id": 7']), ("raw", ['{"text": "no id"}'])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.jsonl").write_text("\n".join(content) + "\n", encoding="utf-8")
    good = str(tmp_path / "good")
    for name, problem in (
        ("broken", "train.jsonl:2 is no row of a prepared dataset"),
        ("raw", "train.jsonl:1 is no row of a prepared dataset"),
        ("none", "none is no folder"),
        ("good", "report.json is no report of data preparation"),
    ):
        told = tunewright("data", "diff", good, str(tmp_path / name))
        assert told.returncode == 1
        assert problem in " ".join(told.stderr.split())
        assert "Traceback" not in told.stderr
