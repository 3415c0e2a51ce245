"""The stage as a whole: same input, same bytes; little memory, honest progress; a stop is heard; nothing is lost."""

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from demo.data import write_raw
from tests.dataprep.preparation import FILES, Recorder, digests, lines_of, pair, prepare, prepare_inputs, to_jsonl
from tunewright.artifacts import Kind
from tunewright.chassis.errors import Interrupted
from tunewright.dataprep.spec import DataprepSpec, Filters
from tunewright.dataprep.stage import run

MANY = [pair(f"question {n % 3000} {'問' * (n % 5)}", f"<p>answer {n}</p>\n  x") for n in range(4000)]

# VmHWM and not ru_maxrss: the latter counts what the parent had at the fork.
_MEASURED_RUN = """
import re, sys
from pathlib import Path
from tests.dataprep.preparation import prepare_inputs
prepare_inputs(Path(sys.argv[1]), {"upload_000": Path(sys.argv[2])})
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024)
"""


def run_alone(folder: Path, upload: Path, hash_seed: str) -> Path:
    folder.mkdir()
    (folder / "spec.yaml").write_text("seed: 5\nfilters: {min_answer_chars: 2}\n")
    output = folder / "out"
    command = [sys.executable, "-m", "tunewright.dataprep", "run", str(folder / "spec.yaml")]
    command += ["--input", f"upload_000={upload}", "--output", str(output)]
    subprocess.run(
        command, check=True, env={**os.environ, "PYTHONHASHSEED": hash_seed}, capture_output=True, timeout=120
    )
    return output


def test_any_process_writes_the_same_bytes_whatever_its_hash_seed(tmp_path: Path) -> None:
    upload = tmp_path / "upload"
    upload.mkdir()
    (upload / "raw.jsonl").write_bytes(to_jsonl([*MANY, "{broken", {"instruction": 1, "output": 2}]))
    outputs = [run_alone(tmp_path / f"run{seed}", upload, seed) for seed in ("0", "1", "4242")]
    first, *others = [digests(output) for output in outputs]
    assert others == [first, first]
    manifests = [json.loads((output / "manifest.json").read_bytes()) for output in outputs]
    assert len({manifest["id"] for manifest in manifests}) == 1
    assert manifests[0]["spec"] == DataprepSpec(seed=5, filters=Filters(min_answer_chars=2)).canonical()
    assert {entry["path"] for entry in manifests[0]["files"]} == set(FILES)


def test_the_manifest_says_what_it_is(tmp_path: Path) -> None:
    manifest = prepare(tmp_path, MANY[:50], seed=9).manifest
    assert (manifest.kind, manifest.created_by, manifest.seed) == (Kind.DATASET, "dataprep", 9)
    assert manifest.metrics["rows_in"] == 50
    assert sorted(path.name for path in (tmp_path / "output").iterdir()) == sorted(FILES)


def test_rows_have_the_form_that_the_trainer_reads(tmp_path: Path) -> None:
    result = prepare(tmp_path, [pair("Q?", "A.")])
    row = result.rows[0]
    assert row == {
        "id": hashlib.sha256(b"user\x1fq\x1eassistant\x1fa").hexdigest(),
        "messages": [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "A."}],
        "source": {"file": "raw.jsonl", "line": 1},
    }


def test_progress_grows_and_ends_at_the_number_of_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunewright.dataprep.pace._SECONDS", 0.0)
    monkeypatch.setattr("tunewright.dataprep.stage.BLOCK_BYTES", 8192)
    report = prepare(tmp_path, MANY).report
    done = [step for step, _ in report.steps]
    assert done == sorted(done)
    assert len(done) > 20
    assert report.steps[-1] == (4000, 4000)
    assert all(abs(total - 4000) < 400 for _, total in report.steps)
    assert all(figures["rows_per_second"] > 0 and figures["eta_seconds"] >= 0 for figures in report.figures)


def test_a_stop_ends_it_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunewright.dataprep.pace._SECONDS", 0.0)
    (tmp_path / "raw.jsonl").write_bytes(to_jsonl(MANY))
    output = tmp_path / "output"
    output.mkdir()
    with pytest.raises(Interrupted):
        run(DataprepSpec(), {"upload_000": tmp_path / "raw.jsonl"}, output, Recorder(stop=True))
    assert list(output.iterdir()) == []


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_the_number_of_workers_makes_no_difference(
    workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunewright.dataprep.stage.BLOCK_BYTES", 32 << 10)
    rows = [*MANY, *(pair(f"Question {n}", f"answer {n} " + "same words again and again " * 3) for n in range(50)), "{"]
    expected = digests(prepare(tmp_path, rows).output)
    monkeypatch.setattr("tunewright.dataprep.stage.SMALL_BYTES", 0)
    output = tmp_path / "other"
    output.mkdir()
    run(DataprepSpec(), {"upload_000": tmp_path / "upload"}, output, Recorder(runtime={"workers": workers}))
    assert digests(output) == expected
    assert sorted(path.name for path in output.iterdir()) == sorted(FILES)


def test_memory_grows_by_less_than_300_bytes_a_row(tmp_path: Path) -> None:
    peaks = []
    for rows in (12_000, 32_000):
        folder = tmp_path / str(rows)
        (folder / "upload").mkdir(parents=True)
        content = to_jsonl(
            [pair(f"question {n}", " ".join(f"{n * 31 + k}x{k}" for k in range(100))) for n in range(rows)]
        )
        (folder / "upload" / "raw.jsonl").write_bytes(content)
        command = [sys.executable, "-c", _MEASURED_RUN, str(folder), str(folder / "upload")]
        peaks.append(int(subprocess.run(command, check=True, capture_output=True, timeout=120).stdout))
    assert (peaks[1] - peaks[0]) / 20_000 < 300


ANY_ROW = st.one_of(
    st.builds(pair, st.text(max_size=8), st.text(max_size=8)),
    st.dictionaries(st.sampled_from(["instruction", "output", "x"]), st.one_of(st.none(), st.integers(), st.text())),
    st.integers(),
    st.sampled_from(["{", '"', "nope", '{"instruction": "a", "output": "b"}']),
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(ANY_ROW, max_size=25))
def test_rows_in_are_rows_out_and_rows_dropped_by_reason(rows: list[Any], tmp_path: Path) -> None:
    result = prepare(tmp_path, [pair("anchor", "anchor"), *rows], max_invalid_fraction=1.0)
    metrics = result.manifest.metrics
    assert metrics["rows_in"] == 1 + len(rows)
    assert metrics["rows_in"] == metrics["rows_out"] + sum(metrics["dropped"].values())
    assert metrics["rows_out"] == len(result.rows) == metrics["train_rows"] + metrics["validation_rows"]
    assert max(Counter(row["id"] for row in result.rows).values()) == 1


def test_chinese_rows_pass_whole(tmp_path: Path) -> None:
    rows = [
        pair(f"第{n}个问题：怎么重置密码？", f"请打开“设置”，\n然后选择第{n}项。\n```sh\npasswd {n}\n```")
        for n in range(30)
    ]
    result = prepare(
        tmp_path, [*rows, pair("第3个问题:怎么重置密码", '请打开"设置",\n然后选择第3项\n```sh\npasswd 3\n```')]
    )
    assert result.answers()[:30] == [row["output"] for row in rows]
    assert result.document["changed"] == {}


def test_real_documentation_is_cleaned_of_its_html_and_of_its_duplicates(tmp_path: Path) -> None:
    counts = write_raw(tmp_path / "upload" / "raw.jsonl")
    result = prepare_inputs(tmp_path, {"upload_000": tmp_path / "upload"})
    metrics = result.manifest.metrics
    assert metrics["rows_in"] == counts.rows > 3000
    assert metrics["dropped"]["duplicate"] >= counts.repeated_rows - counts.empty_answers
    assert metrics["dropped"]["empty_answer"] == counts.empty_answers
    assert metrics["dropped"].keys() == {"duplicate", "near_duplicate", "empty_answer", "repetition"}
    tagged = [
        text for text in result.answers() if any(tag in text for tag in ("<p>", "</p>", "<li>", "&lt;", "<code>"))
    ]
    assert len(tagged) <= 3
    raw = lines_of(tmp_path / "upload" / "raw.jsonl")
    assert sum(any(tag in row["output"] for tag in ("<p>", "&lt;")) for row in raw) > 3000
    held = {row["messages"][0]["content"] for row in result.validation}
    assert not held & {row["messages"][0]["content"] for row in result.train}
    assert 0.07 < metrics["validation_rows"] / metrics["rows_out"] < 0.13
