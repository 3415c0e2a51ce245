"""What cannot be read is refused in one clear sentence, and what can is read whatever its dress."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from tests.dataprep.preparation import pair, prepare, prepare_inputs, to_jsonl
from tunewright.chassis.errors import InvalidData
from tunewright.dataprep import reading
from tunewright.dataprep.readers import json_lines

GOOD = to_jsonl([pair(f"question {number}", f"answer {number}") for number in range(10)])

FILES: dict[str, tuple[bytes, str, str]] = {
    "empty": (b"", "raw.jsonl is empty (0 bytes)", "Upload the file again"),
    "blank lines": (b"\n \r\n\n", "raw.jsonl holds only blank lines", "Upload the file again"),
    "csv": (
        b"instruction,output\nhello,world\n",
        "raw.jsonl: none of its first 2 rows is an object. raw.jsonl:1: invalid JSON at",
        "CSV is read from files whose names end with .csv",
    ),
    "numbers": (b"1\n2\n", "raw.jsonl:1: a JSON object is expected, found a number", "Objects are expected"),
    "gzip": (b"\x1f\x8b\x08\x00 bytes", "raw.jsonl: the archive is broken or cut off", "Compress it again"),
    "zip": (b"PK\x03\x04 bytes", "raw.jsonl is a ZIP archive", "Unpack or convert it"),
    "parquet": (b"PAR1 bytes", "raw.jsonl is a broken Parquet file", "Write it again"),
    "png": (b"\x89PNG\r\n", "raw.jsonl is a PNG image", "Unpack or convert it"),
    "gbk in doubt": (
        GOOD + to_jsonl([pair("你好吗", "很好")]).decode().encode("gb18030"),
        f"raw.jsonl is not UTF-8 from the byte at offset {len(GOOD) + 17} on, and it may be GB18030 or",
        "iconv -f GB18030 -t UTF-8 raw.jsonl",
    ),
    "latin-1 in doubt": (
        GOOD + b"  \t" + to_jsonl([pair("café", "crème brûlée")]).decode().encode("cp1252"),
        f"raw.jsonl is not UTF-8 from the byte at offset {len(GOOD) + 23} on, and it may be CP1252",
        "iconv -f CP1252 -t UTF-8 raw.jsonl",
    ),
    "unknown fields": (
        to_jsonl([{"titel": "a", "ouput": "b"}]),
        "raw.jsonl: its rows have the fields titel, ouput; expected are instruction and output",
        "Say beside the file which field is which, such as `fields: {instruction: question, output: answer}`.",
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_cannot_be_read_is_refused_with_its_name_its_fault_and_a_remedy(case: str, tmp_path: Path) -> None:
    content, message, remedy = FILES[case]
    with pytest.raises(InvalidData) as refusal:
        prepare(tmp_path, content)
    assert message in refusal.value.message
    assert remedy in refusal.value.remedy
    assert list((tmp_path / "output").iterdir()) == []


def test_an_empty_folder_and_a_missing_path_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path, message in (
        ("empty", "input upload_000: empty is a folder without files"),
        ("nowhere", "nowhere does not exist"),
    ):
        with pytest.raises(InvalidData, match=message):
            prepare_inputs(tmp_path, {"upload_000": tmp_path / path})


def test_byte_order_mark_crlf_and_blank_lines_change_nothing_but_line_numbers(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    (tmp_path / "dressed").mkdir()
    plain = prepare(tmp_path / "plain", GOOD)
    dressed = prepare(tmp_path / "dressed", b"\xef\xbb\xbf\r\n" + GOOD.replace(b"\n", b"\r\n\r\n"))
    assert plain.answers() == dressed.answers()
    assert plain.manifest.metrics["fingerprint"] == dressed.manifest.metrics["fingerprint"]
    assert [row["source"]["line"] for row in dressed.rows] == list(range(2, 22, 2))


def test_odd_rows_are_survived_each_counted_or_kept(tmp_path: Path) -> None:
    deep = '{"instruction": ' + "[" * 3000 + "]" * 3000 + ', "output": "x"}'
    rows: list[Any] = [
        *(pair(f"question {number}", "fine") for number in range(20)),
        '{"instruction": "first", "instruction": "second", "output": "which of the two?"}',
        '{"instruction": "nul", "output": "a\\u0000b"}',
        '{"instruction": "raw nul", "output": "a\x00b"}',
        '{"instruction": "lone surrogate", "output": "\\ud800"}',
        deep,
        pair("long", "x" * 50_000),
    ]
    result = prepare(tmp_path, rows, max_invalid_fraction=0.5)
    assert result.manifest.metrics["dropped"] == {"duplicate_key": 1, "invalid_json": 3, "too_long": 1}
    assert result.answers()[-2:] == ["fine", "ab"]


def test_a_line_of_60_megabytes_is_read_and_dropped_for_its_length(tmp_path: Path) -> None:
    with_giant = GOOD + json.dumps(pair("giant", "word " * 12_000_000)).encode() + b"\n" + to_jsonl([pair("last", "z")])
    result = prepare(tmp_path, with_giant)
    assert result.manifest.metrics["dropped"] == {"too_long": 1}
    assert result.answers()[-1] == "z"


def test_a_line_beyond_the_limit_is_passed_over_without_being_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_lines, "MAX_LINE_BYTES", 1 << 20)
    (tmp_path / "raw.jsonl").write_bytes(GOOD + b'{"instruction": "' + b"x" * (40 << 20) + b'"}\n' + GOOD)
    (source,) = reading.find_sources({"upload_000": tmp_path})
    tracemalloc.start()
    lines = list(reading.read_lines(source))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [line.problem.reason for line in lines if line.problem] == ["line_too_long"]
    assert len(lines) == 21
    assert lines[-1].number == 21
    assert peak < 40 << 20


def test_two_files_of_one_name_are_told_apart_by_their_input(tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "raw.jsonl").write_bytes(to_jsonl([pair(f"q{number}{k}", "a") for k in range(5)]))
    result = prepare_inputs(tmp_path, {"upload_001": tmp_path / "1", "upload_000": tmp_path / "0"})
    assert [file["name"] for file in result.document["files"]] == ["upload_000/raw.jsonl", "upload_001/raw.jsonl"]
    assert {row["source"]["file"] for row in result.rows} == {"upload_000/raw.jsonl", "upload_001/raw.jsonl"}
