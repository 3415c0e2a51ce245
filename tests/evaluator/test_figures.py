"""Formulas: overlaps and intervals, by figures worked out by hand; held-out rows, and what is wrong with some."""

from pathlib import Path

import numpy as np
import pytest

from tests.evaluator.conftest import pair, write_rows
from tunewright.chassis.errors import InvalidData
from tunewright.evaluator.heldout import read_rows
from tunewright.evaluator.intervals import paired
from tunewright.evaluator.overlap import overlap, tokens


def test_overlap_of_a_worked_example() -> None:
    found = overlap("the cat sat on the mat", "the cat lay on a mat")
    # shared as bags: the cat on mat = 4 of 6 and 6; longest common subsequence: the cat on mat = 4
    assert (found.exact_match, found.token_f1, found.rouge_l) == pytest.approx((0, 8 / 12, 8 / 12))


def test_rouge_l_sees_order_and_f1_does_not() -> None:
    found = overlap("mat cat the", "the cat mat")
    assert found.token_f1 == 1
    assert found.rouge_l == pytest.approx(1 / 3)


def test_chinese_characters_count_one_by_one_and_words_whole() -> None:
    assert tokens("你好 World_42 안녕") == ["你", "好", "world", "42", "안", "녕"]
    assert overlap("你好", "你们").token_f1 == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("answer", "reference", "scores"),
    [("", "x", (0, 0, 0)), ("", "", (1, 1, 1)), (" a  b\n", "a b", (1, 1, 1)), ("?!", "?!", (1, 1, 1))],
)
def test_overlap_at_its_edges(answer: str, reference: str, scores: tuple[float, float, float]) -> None:
    found = overlap(answer, reference)
    assert (found.exact_match, found.token_f1, found.rouge_l) == scores


def test_a_paired_interval_is_narrow_where_rows_vary_and_the_difference_does_not() -> None:
    base = [float(value) for value in range(1, 101)]
    found = paired(base, [value - 0.5 for value in base], [1.0] * 100)
    assert found.base.value == pytest.approx(50.5)
    assert found.base.high - found.base.low > 8
    assert (found.difference.value, found.difference.low, found.difference.high) == pytest.approx((-0.5, -0.5, -0.5))
    assert found.shown


def test_an_interval_covers_as_often_as_it_says() -> None:
    """Of 200 samples of 60 draws from a normal distribution about 95 % of the intervals hold the true mean."""
    random = np.random.default_rng(1)
    held = 0
    for _ in range(200):
        sample = random.normal(3.0, 1.0, 60).tolist()
        interval = paired(sample, sample, [1.0] * 60).base
        held += interval.low <= 3.0 <= interval.high
    assert 180 <= held <= 199


def test_weights_make_a_mean_over_tokens_not_rows() -> None:
    found = paired([10.0, 2.0], [5.0, 2.0], [9.0, 1.0])
    assert (found.base.value, found.tuned.value) == pytest.approx((1.2, 0.7))


def test_equal_models_show_no_difference() -> None:
    assert not paired([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [1.0, 1.0, 1.0]).shown


def test_rows_come_in_order_of_their_hash_and_are_bounded(tmp_path: Path) -> None:
    write_rows(tmp_path, [pair(str(number), "a") for number in range(9)])
    ids = [row.id for row in read_rows(tmp_path, 0)]
    assert ids == sorted(ids)
    assert [row.id for row in read_rows(tmp_path, 3)] == ids[:3]


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "no rows"), ('{"id": "a"}\n', r"validation\.jsonl:1 "), ("not json\n", r"validation\.jsonl:1 ")],
)
def test_broken_rows_are_named_by_file_and_line(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "validation.jsonl").write_text(text, "utf-8")
    with pytest.raises(InvalidData, match=words):
        read_rows(tmp_path, 0)
