"""The split is seeded, stable, of the size asked for, and no question lies on both of its sides."""

import random
from collections import Counter
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.dataprep.preparation import Prepared, pair, prepare
from tunewright.dataprep.normalising import normalise
from tunewright.dataprep.splitting import held_out, linked, place

PLACES = st.lists(st.integers(0, 30).map(lambda number: place(str(number).encode(), 0)), min_size=2, max_size=80)


def questions(result: Prepared) -> tuple[set[str], set[str]]:
    return (
        {row["messages"][0]["content"].casefold() for row in result.train},
        {row["messages"][0]["content"].casefold() for row in result.validation},
    )


def _places(places: list[int], fraction: float) -> frozenset[int]:
    """Return the places held out; every row of each is."""
    marks = held_out(places, fraction).tolist()
    out = frozenset(where for where, mark in zip(places, marks, strict=True) if mark)
    assert all(mark == (where in out) for where, mark in zip(places, marks, strict=True))
    return out


@settings(max_examples=500)
@given(places=PLACES, fraction=st.floats(0.01, 0.5), seed=st.integers())
def test_the_split_does_not_depend_on_the_order_and_leaves_no_side_empty(
    places: list[int], fraction: float, seed: int
) -> None:
    out = _places(places, fraction)
    shuffled = random.Random(seed).sample(places, len(places))  # noqa: S311 - a shuffle
    assert _places(shuffled, fraction) == out
    if len(set(places)) > 1:
        assert 0 < sum(where in out for where in places) < len(places)


@settings(max_examples=300)
@given(places=st.lists(st.integers(0, 2**64 - 1), min_size=10, max_size=300, unique=True))
def test_of_single_rows_between_half_and_twice_the_share_is_held_out(places: list[int]) -> None:
    assert max(1, len(places) // 20) <= held_out(places, 0.1).sum() <= max(1, -(-len(places) // 5))


def test_a_large_set_is_split_close_to_the_share_and_rows_added_later_move_none() -> None:
    places = [place(f"question {number}".encode(), 7) for number in range(20_000)]
    half, whole = _places(places[:10_000], 0.1), _places(places, 0.1)
    assert 0.095 < len(whole) / 20_000 < 0.105
    assert whole & set(places[:10_000]) == half


def test_a_question_with_more_rows_than_twice_the_share_is_trained_on() -> None:
    big = place(b"big", 0)
    for seed in range(50):
        places = [place(f"{seed} {number}".encode(), 0) for number in range(50)] + [big] * 50
        assert big not in _places(places, 0.1)


def test_rows_with_one_question_land_on_one_side(tmp_path: Path) -> None:
    rows = [
        pair(f"{'Question' if k % 2 else 'QUESTION'} {n}{'?' * k}", f"answer {k}") for n in range(60) for k in range(4)
    ]
    result = prepare(tmp_path, rows)
    assert len(result.rows) == 240
    train, validation = questions(result)
    assert not {text.rstrip("?") for text in train} & {text.rstrip("?") for text in validation}
    assert Counter(len(side) > 0 for side in (train, validation)) == {True: 2}


ASKED = st.tuples(st.sampled_from(["What is it", "why?", "你好。", "Tell"]), st.sampled_from(["", "!", " ", "\n"]))
TOLD = st.tuples(st.sampled_from("abcdef"), st.integers(0, 3))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(ASKED, TOLD, st.integers(0, 5)), min_size=8, max_size=40), fraction=st.floats(0.1, 0.5))
def test_no_question_and_no_near_duplicate_lies_on_both_sides_and_counts_add_up(
    rows: list[tuple[tuple[str, str], tuple[str, int], int]], fraction: float, tmp_path: Path
) -> None:
    told = {letter: " ".join(f"{letter}{number}" for number in range(60)) for letter in "abcdef"}
    raw = [
        pair(f"{asked} {topic}{end}".upper() if topic % 2 else f"{asked} {topic}{end}", f"{told[letter]} end{variant}")
        for (asked, end), (letter, variant), topic in rows
    ]
    result = prepare(tmp_path, raw, split={"validation_fraction": fraction})
    metrics = result.manifest.metrics
    assert metrics["rows_in"] == metrics["rows_out"] + sum(metrics["dropped"].values())
    if result.report.messages("split_by_row"):
        return
    train, held = ([row["messages"] for row in side] for side in (result.train, result.validation))
    assert not {normalise(turns[0]["content"]) for turns in train} & {normalise(turns[0]["content"]) for turns in held}
    assert all(_jaccard(one, other) < 0.8 for one in train for other in held)


def _jaccard(one: list[dict[str, str]], other: list[dict[str, str]]) -> float:
    words = [normalise(" ".join(turn["content"] for turn in turns)).split() for turns in (one, other)]
    first, second = ({tuple(own[at : at + 5]) for at in range(max(1, len(own) - 4))} for own in words)
    return len(first & second) / len(first | second)


def test_the_split_is_the_same_whatever_the_order_of_rows_and_another_with_another_seed(tmp_path: Path) -> None:
    rows = [pair(f"question {number}", f"answer {number % 7}") for number in range(200)]
    folders = [tmp_path / name for name in ("one", "two", "three")]
    for folder in folders:
        folder.mkdir()
    one = prepare(folders[0], rows, seed=1)
    two = prepare(folders[1], random.Random(5).sample(rows, len(rows)), seed=1)  # noqa: S311 - a shuffle
    three = prepare(folders[2], rows, seed=2)
    assert questions(one) == questions(two)
    assert questions(one) != questions(three)
    assert one.manifest.metrics["fingerprint"] == two.manifest.metrics["fingerprint"]
    assert one.manifest.metrics["fingerprint"] != three.manifest.metrics["fingerprint"]


def test_ten_rows_of_one_question_are_divided_by_row_and_that_is_said(tmp_path: Path) -> None:
    result = prepare(tmp_path, [pair("Write a poem.", f"poem {number}") for number in range(10)])
    assert (len(result.train), len(result.validation)) == (9, 1)
    assert result.report.messages("split_by_row") == [
        "All rows have the same question: rows are divided instead, so the held-out loss says less"
    ]
    assert result.document["split"]["by"] == "row"


def test_nothing_is_held_out_where_the_fraction_is_zero(tmp_path: Path) -> None:
    result = prepare(tmp_path, [pair(f"q {number}", "a") for number in range(20)], split={"validation_fraction": 0.0})
    assert (len(result.train), (result.output / "validation.jsonl").read_bytes()) == (20, b"")


def test_rows_linked_by_question_or_cluster_have_one_place() -> None:
    places = np.array([5, 5, 9, 7, 3], np.uint64)
    assert linked(places, np.array([0, 1, 1, 3, 4])).tolist() == [5, 5, 5, 7, 3]
    assert linked(places, np.array([0, 1, 1, 1, 3])).tolist() == [5, 5, 5, 5, 3]


def test_each_stratum_gives_its_share_and_small_ones_are_trained_on() -> None:
    places = [place(str(number).encode(), 0) for number in range(4004)]
    strata = np.array([0] * 3000 + [1] * 1000 + [2] * 4, np.uint64)
    out = held_out(places, 0.1, strata)
    assert 270 < out[:3000].sum() < 330
    assert 80 < out[3000:4000].sum() < 120
    assert out[4000:].sum() <= 1


def test_a_field_may_say_what_stays_together(tmp_path: Path) -> None:
    rows = [{**pair(f"question {n}", f"answer {n}"), "talk": n % 40} for n in range(400)]
    result = prepare(tmp_path, rows, split={"by": "talk"})
    sides = [{row["source"]["line"] % 40 for row in side} for side in (result.train, result.validation)]
    assert not sides[0] & sides[1]
    assert all(sides)


def test_a_row_without_the_field_of_the_split_is_named_and_left_out(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{**pair(f"q {number}", "a"), "talk": number} for number in range(9)]
    result = prepare(tmp_path, [*rows, pair("q", "a")], split={"by": "talk"})
    assert len(result.rows) == 9
    assert result.document["dropped"] == {"missing_field": 1}
    assert "talk: is missing" in result.document["drop_examples"]["missing_field"][0]["detail"]
