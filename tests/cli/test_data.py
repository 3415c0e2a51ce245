"""Raw files are looked at and datasets compared without any stack; the real stage runs in a process of its own."""

import json
from pathlib import Path

from tests.cli.shell import tunewright

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
    assert "30 of 32 rows are kept" in first.stdout
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
    assert compared.stdout.startswith("3 rows added, 0 removed")
    assert "seed: 0 → 1" in compared.stdout
    same = tunewright("data", "diff", str(tmp_path / "one"), str(tmp_path / "one"))
    assert (same.returncode, same.stdout) == (0, "0 rows added, 0 removed, 0 changed sides, 0 settings\n")


def test_what_cannot_be_looked_at_is_told_by_the_stage(tmp_path: Path) -> None:
    missing = tunewright("data", "inspect", str(tmp_path / "nothing.jsonl"))
    assert missing.returncode == 1
    assert "is no file" in missing.stderr
    (tmp_path / "empty.jsonl").touch()
    empty = tunewright("data", "inspect", str(tmp_path / "empty.jsonl"))
    assert empty.returncode == 1
    assert "data preparation failed" in empty.stderr


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
        ("none", "holds no train.jsonl"),
        ("good", "report.json is no report of data preparation"),
    ):
        told = tunewright("data", "diff", good, str(tmp_path / name))
        assert told.returncode == 1
        assert problem in " ".join(told.stderr.split())
        assert "Traceback" not in told.stderr
