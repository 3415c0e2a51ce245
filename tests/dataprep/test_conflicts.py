"""Rows that ask the same and answer differently are named, and no others."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tunewright.dataprep import conflicts
from tunewright.dataprep.features import features
from tunewright.dataprep.parts import Parts
from tunewright.dataprep.spec import Duplicates


def labels(rows: list[list[tuple[str, str]]]) -> list[int]:
    found = features(Parts.of(rows), Duplicates(near=False), seed=0)
    return list(conflicts.find(found.prompt, found.answer, np.ones(len(rows), np.bool_)))


def test_one_question_with_two_answers_is_a_conflict_and_with_one_answer_twice_is_none() -> None:
    paris, rome = ("assistant", "Paris."), ("assistant", "Rome")
    rows = [
        [("user", "Capital?"), paris],
        [("user", "capital"), rome],
        [("user", "Else?"), paris],
        [("user", "else"), paris],
    ]
    assert labels(rows) == [0, 0, -1, -1]


def test_earlier_turns_and_the_system_message_belong_to_the_question() -> None:
    turns = [("user", "a"), ("assistant", "b"), ("user", "c")]
    assert labels([[*turns, ("assistant", "d")], [*turns, ("assistant", "e")]]) == [0, 0]
    assert labels([[("system", "s"), *turns, ("assistant", "d")], [*turns, ("assistant", "e")]]) == [-1, -1]


def test_documents_without_answers_never_conflict() -> None:
    assert labels([[("text", "one")], [("text", "two")]]) == [-1, -1]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 3), st.booleans(), st.integers(0, 3))))
def test_conflicts_are_those_of_plain_python(rows: list[tuple[int, int, bool, int]]) -> None:
    prompt, answer = (np.array([row[at] for row in rows], np.uint64) for at in (0, 1))
    alive = np.array([row[2] for row in rows], np.bool_)
    found = conflicts.find(prompt, answer, alive)
    for number, row in enumerate(rows):
        peers = [at for at, other in enumerate(rows) if other[2] and other[0] == row[0]]
        conflicting = row[2] and row[0] > 0 and len({rows[at][1] for at in peers}) > 1
        assert found[number] == (peers[0] if conflicting else -1)
    worth = np.array([row[3] for row in rows], np.uint64)
    kept = conflicts.best_of_each(found, worth)
    for number, label in enumerate(found):
        same = [at for at in range(len(rows)) if found[at] == label]
        assert kept[number] == (number if label < 0 else max(same, key=lambda at: (rows[at][3], -at)))
