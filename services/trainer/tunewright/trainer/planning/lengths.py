"""Tokens of a dataset's rows: exactly, from the audit.json that data preparation writes; else assumed.

Knows no machine and no model.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewright.chassis.errors import InvalidData
from tunewright.trainer.spec import TrainingSpec

_ASSUMED_ROWS = 1000


@dataclass(frozen=True, slots=True)
class Lengths:
    """Lengths of the rows of a dataset."""

    train: tuple[tuple[int, int], ...]
    """Tokens of a row, and how many rows have so many; ascending."""
    validation: tuple[tuple[int, int], ...]
    origin: str
    """In words: where this is known from."""
    known: bool
    """False: every row is taken to fill max_length, and the number of rows is made up."""

    @classmethod
    def of_audit(cls, path: Path) -> "Lengths":
        """Return the lengths in an audit.json.

        Raises:
            InvalidData: it is none, or holds no rows.
        """
        try:
            document = json.loads(path.read_bytes())
            sides = {side: _pairs(found) for side, found in document["lengths"].items()}
            train = sides["train"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidData(
                f"{path} is no audit of a prepared dataset: {error!r}",
                remedy="Prepare the data with a base (`tunewright data inspect FILE --base FOLDER`).",
            ) from error
        if not train:
            raise InvalidData(f"{path}: no training row has a length", remedy="Look at the dataset's report.")
        return cls(train, sides.get("validation", ()), "the dataset's own rows, counted by the base's tokenizer", True)

    @classmethod
    def assumed(cls, max_length: int) -> "Lengths":
        """Return lengths for a dataset that nobody has looked at."""
        words = f"assumed: {_ASSUMED_ROWS:,} rows that all fill max_length ({max_length:,} tokens)"
        return cls(((max_length, _ASSUMED_ROWS),), ((max_length, 1),), words, False)

    def cut(self, spec: TrainingSpec) -> "Lengths":
        """Return the lengths as training has them: cut, split or packed; with the prompt's vectors before each."""
        extra = spec.num_virtual_tokens if spec.method == "prompt_tuning" else 0
        sides = []
        for rows in (self.train, self.validation):
            counts: dict[int, int] = {}
            for length, count in _pieces(rows, spec):
                counts[length + extra] = counts.get(length + extra, 0) + count
            sides.append(tuple(sorted(counts.items())))
        return Lengths(sides[0], sides[1], self.origin, self.known)


def rows_of(side: Sequence[tuple[int, int]]) -> int:
    """Return how many rows there are."""
    return sum(count for _, count in side)


def tokens_of(side: Sequence[tuple[int, int]]) -> int:
    """Return the tokens of all rows."""
    return sum(length * count for length, count in side)


def longest_of(side: Sequence[tuple[int, int]]) -> int:
    """Return the tokens of the longest row; 0 without rows."""
    return side[-1][0] if side else 0


def mean_longest(side: Sequence[tuple[int, int]], drawn: int) -> float:
    """Return the mean tokens of the longest of `drawn` rows that are drawn at random: what a batch is padded to."""
    total, below, mean = rows_of(side), 0, 0.0
    for length, count in side:
        before, below = below, below + count
        mean += length * ((below / total) ** drawn - (before / total) ** drawn)
    return mean


def steps_of(spec: TrainingSpec, rows: int) -> int:
    """Return the optimizer steps of a run, as the trainer counts them."""
    batches = math.ceil(rows / spec.per_device_train_batch_size)
    an_epoch = math.ceil(batches / spec.gradient_accumulation_steps)
    return spec.max_steps or math.ceil(spec.num_train_epochs * an_epoch)


def _pieces(rows: Sequence[tuple[int, int]], spec: TrainingSpec) -> list[tuple[int, int]]:
    longest = spec.max_length
    if spec.objective == "cpt":
        whole = [(longest, count * (length // longest)) for length, count in rows]
        rest = [(length % longest, count) for length, count in rows]
        rows = [pair for pair in (*whole, *rest) if pair[0] and pair[1]]
    return [(min(length, longest), count) for length, count in rows]


def _pairs(found: Any) -> tuple[tuple[int, int], ...]:  # noqa: ANN401 - any JSON value
    return tuple(sorted((int(length), int(count)) for length, count in found if count > 0))
