"""Of rows that say the same exactly one is kept, the best; rows that differ in meaning stay apart."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.dataprep.preparation import pair, prepare
from tunewright.dataprep.dedup import find_exact, worth
from tunewright.dataprep.normalising import normalise

SAME = [
    ("How do I reset?", "how do i  reset"),
    ("How do I reset?", "HOW DO I RESET!!!"),
    ("One.\nTwo.", "one two"),
    ("It’s “fine”", 'it\'s "fine"'),
    ("你好，世界。", "你好 世界"),
    ("你好，世界", "你好,世界！"),
    ("ＡＢＣ１２３", "abc123"),
    ("Straße", "STRASSE"),
    ("```py\nx = 1  \n```", "```py\nx = 1\n```"),
]
DIFFERENT = [
    ("What is C?", "What is C++?"),
    ("What is C#?", "What is C?"),
    ("3.14", "314"),
    ("What is 5!", "What is 5"),
    ("a < b", "a > b"),
    ("x = a + b", "x = a - b"),
    (".NET", "NET"),
    ("```py\nFoo()\n```", "```py\nfoo()\n```"),
    ("if a:\n  b()\n  c()", "if a:\n  b()\nc()"),
    ("你好", "您好"),
    ("résumé", "resume"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_case_spacing_and_final_punctuation_make_no_difference(one: str, other: str) -> None:
    assert normalise(one) == normalise(other)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_what_may_change_the_meaning_makes_a_difference(one: str, other: str) -> None:
    assert normalise(one) != normalise(other)


@pytest.mark.parametrize("order", [1, -1])
def test_the_best_of_equal_rows_is_kept_wherever_it_stands(order: int, tmp_path: Path) -> None:
    rows = [pair("HOW?", "WELL"), pair("How?", "Well."), pair("How?", "Well.<br>"), pair("how", "well")][::order]
    result = prepare(tmp_path, [*rows, pair("else", "other")])
    assert result.manifest.metrics["dropped"] == {"duplicate": 3}
    assert result.answers() == ["Well.", "other"]
    (first, *_) = result.document["drop_examples"]["duplicate"]
    place = f"raw.jsonl:{2 if order == 1 else 3}"
    assert first["detail"] == f"same as {place}, which is kept"
    assert first["kept"] == "user: How?\nassistant: Well."


def test_the_same_answer_to_another_question_and_another_answer_to_the_same_question_stay(tmp_path: Path) -> None:
    result = prepare(tmp_path, [pair("q", "a"), pair("q", "b"), pair("r", "a")])
    assert len(result.rows) == 3
    assert result.document["rows_sharing_a_question"] == 2


def test_duplicates_stay_where_that_is_asked_for(tmp_path: Path) -> None:
    rows = [pair("q", "a")] * 5 + [pair("r", "b")]
    assert len(prepare(tmp_path, rows, duplicates={"exact": False, "near": False}).rows) == 6


ROWS: st.SearchStrategy[list[tuple[int, int]]] = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5)))


@settings(max_examples=300)
@given(ROWS)
def test_one_of_each_identity_is_kept_and_it_is_the_first_of_the_best(rows: list[tuple[int, int]]) -> None:
    keys = np.array([[name, 7] for name, _ in rows], np.uint64).reshape(-1, 2)
    kept = find_exact(keys, np.array([worth for _, worth in rows], np.uint64)).tolist()
    for number, winner in enumerate(kept):
        same = [index for index, (name, _) in enumerate(rows) if name == rows[number][0]]
        assert winner == max(same, key=lambda index: (rows[index][1], -index))


def test_keys_that_differ_in_their_second_half_only_are_two() -> None:
    assert find_exact(np.array([[1, 2], [1, 3], [1, 2]], np.uint64), np.zeros(3, np.uint64)).tolist() == [0, 1, 0]


def test_worth_prefers_fewer_changes_then_richer_form_then_a_fixed_digest() -> None:
    low, high = [0] * 32, [255] * 32
    changes, distinct = np.array([0, 0, 0, 1, 255], np.uint8), np.array([9, 7, 7, 9, 0], np.uint16)
    values = worth(changes, distinct, np.array([high, low, high, low, high], np.uint8)).tolist()
    assert values == sorted(values, reverse=True)
    assert len(set(values)) == len(values)
