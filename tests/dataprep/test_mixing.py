"""Sources stand in the ratio asked for, to the row; too few rows are an error that names the source."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.dataprep.preparation import Prepared, pair, prepare_inputs, to_jsonl
from tunewright.chassis.errors import InvalidData
from tunewright.dataprep.mixing import copies, plan

WEIGHTS = st.dictionaries(st.sampled_from("abcdef"), st.floats(0.01, 100), min_size=1)


@given(weights=WEIGHTS, total=st.integers(1, 10_000))
def test_counts_add_up_to_the_total_and_lie_within_one_row_of_the_ratio(weights: dict[str, float], total: int) -> None:
    shares = plan(dict.fromkeys(weights, 10_000), weights, total_rows=total, max_repeats=1)
    assert sum(share.taken for share in shares) == total
    for share in shares:
        assert abs(share.taken - total * share.weight / sum(weights.values())) < 1


def test_without_a_total_the_scarcest_source_decides() -> None:
    weights, available = {"ours": 8.0, "general": 2.0}, {"ours": 1000, "general": 100}
    taken = {s.source: s.taken for s in plan(available, weights, total_rows=0, max_repeats=1)}
    assert taken == {"ours": 400, "general": 100}
    taken = {s.source: s.taken for s in plan(available, weights, total_rows=0, max_repeats=2)}
    assert taken == {"ours": 800, "general": 200}


def test_rows_are_repeated_evenly() -> None:
    (share,) = plan({"a": 3}, {"a": 1.0}, total_rows=8, max_repeats=3)
    assert copies([share], np.array([0, -1, 0, 0]), np.array([9, 0, 1, 5], np.uint64)).tolist() == [2, 0, 3, 3]


def test_a_source_with_too_few_rows_is_named() -> None:
    with pytest.raises(InvalidData, match="source a must give 5 of 10 rows; it has 2"):
        plan({"a": 2, "b": 100}, {"a": 1.0, "b": 1.0}, total_rows=10, max_repeats=2)
    with pytest.raises(InvalidData, match="source a has weight 1"):
        plan({"a": 0, "b": 1}, {"a": 1.0, "b": 1.0}, total_rows=0, max_repeats=1)


def mixed(folder: Path, ours: int, general: int, **mixing: int) -> Prepared:
    for name, count in (("ours", ours), ("general", general)):
        (folder / name).mkdir()
        rows = [pair(f"{name} question {number}", f"{name} answer {number}") for number in range(count)]
        (folder / name / f"{name}.jsonl").write_bytes(to_jsonl(rows))
    inputs = {"upload_000": folder / "ours", "upload_001": folder / "general"}
    sources = [{"name": "ours", "weight": 0.8}, {"name": "general", "weight": 0.2}]
    return prepare_inputs(folder, inputs, sources=sources, mixing=mixing, split={"validation_fraction": 0.0})


def test_two_sources_are_mixed_eight_to_two(tmp_path: Path) -> None:
    result = mixed(tmp_path, 300, 300)
    files = [row["source"]["file"] for row in result.train]
    assert (files.count("ours.jsonl"), files.count("general.jsonl")) == (300, 75)
    assert result.manifest.metrics["dropped"] == {"not_mixed": 225}
    assert [(s["source"], s["taken"]) for s in result.document["mixing"]] == [("ours", 300), ("general", 75)]


def test_a_small_source_is_repeated_where_that_is_allowed(tmp_path: Path) -> None:
    result = mixed(tmp_path, 300, 50, total_rows=370, max_repeats=2)
    files = [row["source"]["file"] for row in result.train]
    assert (files.count("ours.jsonl"), files.count("general.jsonl")) == (296, 74)
    assert result.manifest.metrics["rows_in"] == 350
    assert result.document["repeated_rows"] == 24
    assert result.document["dropped"] == {"not_mixed": 4}
