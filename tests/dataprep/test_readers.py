"""Containers, packings and encodings give the same rows wherever they are cut; what is broken is told, not guessed."""

import bz2
import codecs
import csv
import gzip
import io
import lzma
import pickle
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from tunewright.chassis.errors import InvalidData
from tunewright.dataprep.readers import (
    Line,
    Reading,
    Source,
    blocks,
    examine,
    excerpt_of,
    find_sources,
    read_block,
    read_lines,
)
from tunewright.dataprep.tally import UNREADABLE

ROWS = [
    {
        "instruction": f'问题 {number}: 你知道 "天空" 为什么是蓝色的吗？\\ [x] {{y}}',
        "output": f"第一行\n{number}, 答案是光的散射。",
    }
    for number in range(200)
]
CUTS = (64, 1000, 1 << 20)
BITS = [b'{"a": 1}\n', b"abc\n\n", "é你\n".encode(), b"\n", b'"x', b" ", b"[1]\r\n", b"<p>\n", b",\n"]
BYTES = (
    st.binary(max_size=400)
    | st.lists(st.sampled_from([*BITS, b"\xff", b"\x00"]), max_size=60).map(b"".join)
    | st.lists(st.sampled_from(BITS), min_size=12, max_size=60).map(b"".join)
)
FUZZ = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows)


def table(rows: list[dict[str, Any]], delimiter: str = ",") -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerow(rows[0])
    writer.writerows(row.values() for row in rows)
    return text.getvalue().encode()


def in_encoding(name: str) -> bytes:
    return jsonl(ROWS).decode().encode(name)


def zst(data: bytes) -> bytes:
    return bytes(pa.compress(data, "zstd", asbytes=True))


FILES: dict[str, Callable[[], bytes]] = {
    "a.jsonl": lambda: jsonl(ROWS),
    "crlf.jsonl": lambda: jsonl(ROWS).replace(b"\n", b"\r\n\r\n"),
    "cr.jsonl": lambda: jsonl(ROWS).replace(b"\n", b"\r"),
    "bom.jsonl": lambda: codecs.BOM_UTF8 + jsonl(ROWS),
    "a.jsonl.gz": lambda: gzip.compress(jsonl(ROWS[:90])) + gzip.compress(jsonl(ROWS[90:])),
    "a.jsonl.zst": lambda: zst(jsonl(ROWS[:90])) + zst(jsonl(ROWS[90:])),
    "a.jsonl.bz2": lambda: bz2.compress(jsonl(ROWS)),
    "a.jsonl.xz": lambda: lzma.compress(jsonl(ROWS)),
    "array.json": lambda: orjson.dumps(ROWS),
    "pretty.json": lambda: orjson.dumps(ROWS, option=orjson.OPT_INDENT_2),
    "one_after_another.json": lambda: b"\n".join(orjson.dumps(row, option=orjson.OPT_INDENT_2) for row in ROWS),
    "array.json.gz": lambda: gzip.compress(orjson.dumps(ROWS)),
    "a.csv": lambda: table(ROWS),
    "a.tsv": lambda: table(ROWS, "\t"),
    "semicolons.csv": lambda: table(ROWS, ";"),
    "a.csv.gz": lambda: gzip.compress(table(ROWS)),
    "gbk.jsonl": lambda: in_encoding("gb18030"),
    "gbk.csv": lambda: table(ROWS).decode().encode("gb18030"),
    "gbk.json": lambda: orjson.dumps(ROWS).decode().encode("gb18030"),
    "utf16.jsonl": lambda: in_encoding("utf-16"),
    "utf16be.jsonl": lambda: in_encoding("utf-16-be"),
    "utf32.jsonl": lambda: in_encoding("utf-32"),
}


def put(folder: Path, name: str, data: bytes, reading: Reading | None = None) -> Source:
    (folder / name).write_bytes(data)
    ((source,), _) = find_sources({"upload_000": folder / name}, reading or Reading())
    return source


def rows_of(source: Source, size: int = 1 << 20) -> list[Line]:
    return list(read_lines(source, examine(source), size))


@pytest.mark.parametrize("name", FILES)
def test_all_containers_packings_and_encodings_give_the_same_rows_wherever_they_are_cut(
    name: str, tmp_path: Path
) -> None:
    source = put(tmp_path, name, FILES[name]())
    found = [rows_of(source, size) for size in CUTS]
    assert [line.value for line in found[0]] == ROWS
    assert found[0] == found[1] == found[2]


def test_parquet_gives_the_same_rows_by_row_group_and_in_pieces(tmp_path: Path) -> None:
    source = put(tmp_path, "a.parquet", b"")
    nested = [{**row, "messages": [{"role": "user", "content": "问"}]} for row in ROWS]
    parquet.write_table(pa.Table.from_pylist(nested), source.path, row_group_size=70)
    found = [rows_of(source, size) for size in (64, 1000, 1 << 20)]
    assert [line.value for line in found[0]] == nested
    assert [line.number for line in found[0]] == list(range(1, 201))
    assert found[0] == found[1] == found[2]
    source.path.write_bytes(source.path.read_bytes()[:-40])
    with pytest.raises(InvalidData, match=r"a\.parquet is a broken Parquet file"):
        rows_of(source)


def test_line_numbers_are_those_of_an_editor(tmp_path: Path) -> None:
    source = put(tmp_path, "raw.jsonl", b"\n" + b'{"a": 1}\n\r\n' * 3 + b'{"a": \n')
    assert [(line.number, line.problem is None) for line in rows_of(source, 10)] == [
        (2, True),
        (4, True),
        (6, True),
        (8, False),
    ]
    source = put(tmp_path, "raw.csv", b'a,b\n1,"two\nlines"\n\n3,4,5\n6,7\n')
    lines = rows_of(source, 4)
    assert [line.number for line in lines] == [2, 5, 6]
    assert lines[1].problem is not None
    assert lines[1].problem.description.startswith("the header has 2 columns, this row 3")


def test_blocks_may_be_sent_to_other_processes_and_say_how_far_they_are(tmp_path: Path) -> None:
    source = put(tmp_path, "a.jsonl.gz", FILES["a.jsonl.gz"]())
    parts = list(blocks(source, examine(source), 1000))
    assert [block.number for block in parts] == list(range(len(parts)))
    assert parts[-1].end == source.size_bytes
    again = [line.value for block in parts for line in read_block(pickle.loads(pickle.dumps(block)))]  # noqa: S301 - made here
    assert again == ROWS


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl.gz", gzip.compress(jsonl(ROWS))[:-30], "the archive is broken or cut off"),
        ("a.jsonl.zst", zst(jsonl(ROWS))[:-30], "the archive is broken or cut off"),
        ("a.json", orjson.dumps(ROWS)[:-30], "cannot be read from row 200"),
        ("a.json", orjson.dumps(ROWS) + b"[1]", "something follows after the end of its array"),
        ("a.csv", b'a,b\n1,"2\n3,4\n', "a quote opened in the row of line 2 is never closed"),
        ("a.csv", b"a,a\n1,2\n", "its header names 'a' twice"),
        ("a.bin", b"hello, world", "a file of no known kind"),
        ("a.jsonl", bytes(range(256)) * 64, "is a binary file"),
        ("a.jsonl", b"PK\x03\x04" + b"x" * 99, "is a ZIP archive"),
        ("a.jsonl", "café\n".encode("cp1252"), "is not UTF-8 from the byte at offset 3 on"),
        ("a.jsonl", "café\n".encode() * 9 + "naïve\n".encode("cp1252") * 20, "parts of it are UTF-8, parts are not"),
    ],
)
def test_what_leaves_rows_in_doubt_is_refused_with_its_place(
    name: str, data: bytes, message: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidData) as refusal:
        rows_of(put(tmp_path, name, data))
    assert message in refusal.value.message
    assert refusal.value.remedy


def test_a_few_bytes_of_another_encoding_cost_their_rows_and_are_named_by_offset(tmp_path: Path) -> None:
    good = jsonl(ROWS)
    source = put(tmp_path, "raw.jsonl", good + b'{"output": "caf\xe9"}\n' + good)
    lines = rows_of(source, 5000)
    bad = [line for line in lines if line.problem]
    assert len(lines) == 401
    assert [(line.number, line.problem.reason) for line in bad if line.problem] == [(201, "invalid_encoding")]
    assert bad[0].problem is not None
    assert f"byte 0xe9 at offset {len(good) + 15:,}" in bad[0].problem.description
    assert excerpt_of(bad[0], 40).startswith('{"output": "caf')


def test_an_encoding_named_by_a_person_is_taken(tmp_path: Path) -> None:
    source = put(tmp_path, "raw.jsonl", '{"a": "é"}\n'.encode("cp1252"), Reading(encoding="cp1252"))
    assert rows_of(source)[0].value == {"a": "é"}
    with pytest.raises(InvalidData, match="'utf-eight' is no encoding"):
        rows_of(put(tmp_path, "raw.jsonl", b"{}", Reading(encoding="utf-eight")))


def test_a_broken_value_in_an_array_costs_its_row_only(tmp_path: Path) -> None:
    data = b'[{"a": 1}, {"a": tru}, {"a": [' + b"[" * 3000 + b"]" * 3000 + b']}, {"a": "z"}]'
    lines = rows_of(put(tmp_path, "a.json", data), 16)
    assert [(line.number, line.problem and line.problem.reason) for line in lines] == [
        (1, None),
        (2, "invalid_json"),
        (3, "invalid_json"),
        (4, None),
    ]


def test_folders_are_read_with_all_below_them_and_what_is_no_data_is_named(tmp_path: Path) -> None:
    for name in ("b/two.jsonl", "a.csv", "README.rst", ".hidden.jsonl", "b/c/three.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"{}")
    sources, skipped = find_sources({"upload_000": tmp_path})
    assert [source.name for source in sources] == ["a.csv", "b/c/three.txt", "b/two.jsonl"]
    assert skipped == [".hidden.jsonl", "README.rst"]


def test_documents_are_cut_at_blank_lines_into_pieces_that_lose_nothing(tmp_path: Path) -> None:
    text = "".join(f"段落 {number}. A sentence.\n\n" for number in range(40_000))
    source = put(tmp_path, "book.txt", text.encode(), Reading(piece_chars=2000))
    found = [rows_of(source, size) for size in (64, 300_000, 1 << 24)]
    assert found[0] == found[1] == found[2]
    texts = [line.value["text"] for line in found[0]]
    assert max(map(len, texts)) <= 2000
    assert "\n\n".join(texts) == text.strip("\n")
    lines = text.split("\n")
    assert all(lines[line.number - 1] == line.value["text"].split("\n")[0] for line in found[0])


def test_a_page_gives_its_text_without_furniture(tmp_path: Path) -> None:
    page = b"<!doctype html><body><nav>Menu</nav><main><h1>Sky</h1><p>It is <b>blue</b>.</p></main></body>"
    (line,) = rows_of(put(tmp_path, "page.html", page))
    assert "Menu" not in line.value["text"]
    assert "It is" in line.value["text"]


def test_memory_is_bounded_while_a_file_streams(tmp_path: Path) -> None:
    data = jsonl(ROWS) * 400
    for name, packed in (("a.jsonl.gz", gzip.compress(data, 1)), ("a.json", b"[" + data.replace(b"\n", b",") + b"0]")):
        source = put(tmp_path, name, packed)
        layout = examine(source)
        tracemalloc.start()
        count = sum(1 for _ in read_lines(source, layout, 256 << 10))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert count >= 80_000
        assert peak < 12 << 20


@settings(FUZZ, max_examples=100)
@given(data=BYTES, name=st.sampled_from(["a.txt", "a.jsonl", "a.json", "a.csv", "a.html"]))
def test_any_bytes_are_read_or_refused_and_all_of_them_are_accounted_for(
    data: bytes, name: str, tmp_path: Path
) -> None:
    source = put(tmp_path, name, data, Reading(piece_chars=7))
    found = _read_or_refuse(source)
    if found is None:
        return
    layout = examine(source)
    text = data[layout.bom_bytes :]
    text = text.replace(b"\r", b"\n") if layout.carriage_returns else text
    if layout.container == "jsonl" and not layout.codec:
        assert [line.raw.strip() for line in found] == [line.strip() for line in text.split(b"\n") if line.strip()]
    elif layout.container == "text" and not layout.codec:
        broken = [line for line in found if line.problem]
        held = b"".join(line.value["text"].encode() for line in found if not line.problem)
        assert broken or b"".join(held.split()) == b"".join(text.split())
        assert all(line.raw and line.raw in text for line in broken)


@settings(FUZZ, max_examples=15)
@given(data=BYTES, count=st.integers(1, 300))
def test_memory_is_bounded_by_the_input_whatever_its_bytes(data: bytes, count: int, tmp_path: Path) -> None:
    source = put(tmp_path, "a.jsonl", data * count)
    tracemalloc.start()
    try:
        _read_or_refuse(source, (4096, 1 << 20))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < (4 << 20) + 100 * len(data) * count


@FUZZ
@given(
    lines=st.lists(
        st.sampled_from(
            ['{"a": "é"}', "", " \r", '{"a": 1', "[]", '"x', '{"a":"\x00"}', "7,", "]", '你,"好"', "a,b", "\\"]
        ),
        max_size=12,
    ),
    name=st.sampled_from(["a.jsonl", "a.json", "a.csv", "a.tsv", "a.txt", "a.html", "a.jsonl.gz"]),
    codec=st.sampled_from(["utf-8", "utf-8-sig", "gb18030", "utf-16"]),
)
def test_near_misses_are_read_or_refused_and_every_line_is_accounted_for(
    lines: list[str], name: str, codec: str, tmp_path: Path
) -> None:
    data = "\n".join(lines).encode(codec)
    source = put(tmp_path, name, gzip.compress(data) if name.endswith("gz") else data)
    found = _read_or_refuse(source)
    if found is not None and name == "a.jsonl" and examine(source).container == "jsonl":
        assert len(found) == sum(bool(line.strip()) for line in lines)


def _read_or_refuse(source: Source, sizes: tuple[int, ...] = (1, 7, 1 << 20)) -> list[Line] | None:
    """Read at several cuts: all give the same rows, or all refuse; any other exception fails the test.

    Each row has a value or a known problem, and a number inside the file, in order.
    """
    outcomes: list[list[Line] | None] = []
    for size in sizes:
        try:
            outcomes.append(rows_of(source, size))
        except InvalidData as refusal:
            assert refusal.message.startswith(source.name)  # noqa: PT017 - some bytes are refused, some are not
            outcomes.append(None)
    assert all(outcome == outcomes[0] for outcome in outcomes)
    for line in outcomes[0] or ():
        assert line.problem is None or (line.value is None and line.problem.reason in UNREADABLE)
    numbers = [line.number for line in outcomes[0] or ()]
    assert numbers == sorted(numbers)
    assert not numbers or 1 <= numbers[0] <= numbers[-1] <= 2 * source.size_bytes + 1
    return outcomes[0]
