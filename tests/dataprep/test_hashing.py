"""Hashes are sorted into sets whatever they are."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tunewright.dataprep.hashing import sort_set

NUMBERS = st.one_of(st.integers(0, 2**64 - 1), st.integers(0, 9), st.integers(2**64 - 5, 2**64 - 1))


@settings(deadline=None)
@given(st.lists(NUMBERS, max_size=80), st.lists(NUMBERS, max_size=3))
def test_a_set_is_sorted_in_place_each_number_once(numbers: list[int], before: list[int]) -> None:
    values = np.array([*before, *numbers, 7], np.uint64)
    end = sort_set(values, len(before), len(values) - 1, np.empty(len(values), np.uint64))
    assert values[len(before) : end].tolist() == sorted(set(numbers))
    assert (values[: len(before)].tolist(), values[-1]) == (before, 7)
