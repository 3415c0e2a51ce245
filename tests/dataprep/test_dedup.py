"""Of rows that say the same exactly one is kept, the best; rows that differ in meaning stay apart."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.dataprep.preparation import pair, prepare
from tunewright.dataprep.dedup import Duplicates, quality
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
    assert len(prepare(tmp_path, [pair("q", "a")] * 5 + [pair("r", "b")], duplicates={"exact": False, "near": False}).rows) == 6


ROWS: st.SearchStrategy[list[tuple[str, int]]] = st.lists(st.tuples(st.sampled_from("abcde"), st.integers(0, 5)))


@settings(max_examples=300)
@given(ROWS)
def test_one_of_each_identity_is_kept_and_it_is_the_first_of_the_best(rows: list[tuple[str, int]]) -> None:
    duplicates = Duplicates()
    for name, worth in rows:
        duplicates.add(name.encode() * 32, worth)
    dropped = duplicates.kept_instead()
    kept = [number for number in range(len(rows)) if number not in dropped]
    assert sorted(rows[number][0] for number in kept) == sorted({name for name, _ in rows})
    for number in kept:
        same = [index for index, (name, _) in enumerate(rows) if name == rows[number][0]]
        assert number == max(same, key=lambda index: (rows[index][1], -index))
    assert all(rows[lost][0] == rows[winner][0] and winner not in dropped for lost, winner in dropped.items())


def test_quality_prefers_fewer_changes_then_richer_form_then_a_fixed_digest() -> None:
    low, high = b"\x00" * 32, b"\xff" * 32
    ordered: list[Any] = [
        quality(0, ["How?\nWell."], high),
        quality(0, ["how well"], low),
        quality(0, ["how well"], high),
        quality(1, ["How?\nWell."], low),
        quality(300, [""], high),
    ]
    assert ordered == sorted(ordered, reverse=True)
    assert all(0 <= value < 2**64 for value in ordered)
