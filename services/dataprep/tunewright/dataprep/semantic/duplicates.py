"""The rows that say the same in other words: embeds them, finds pairs, keeps the best of each. Reads rows by number.

Vectors lie in a scratch file without a name, 2 × width × 4 bytes a row (2 kB at a width of 256), and are mapped.
"""

import hashlib
import tempfile
from pathlib import Path

import numpy as np
import orjson
from numpy.typing import NDArray

from tunewright.chassis.settings import read_settings
from tunewright.dataprep.cleaning import ANSWERS
from tunewright.dataprep.clusters import Groups, Pairs, group
from tunewright.dataprep.deciding import FindSemantic
from tunewright.dataprep.kinds import messages_of
from tunewright.dataprep.pool import Check
from tunewright.dataprep.rows import Rows
from tunewright.dataprep.semantic.folder import find_model
from tunewright.dataprep.semantic.model import EmbeddingModel
from tunewright.dataprep.semantic.neighbours import find_pairs
from tunewright.dataprep.settings import DataprepSettings
from tunewright.dataprep.spec import Semantic
from tunewright.dataprep.tool_use import TOOLS, said

_PIECE = 4096
"""Rows embedded at once."""


def finder(spec: Semantic) -> FindSemantic | None:
    """Return what finds semantic duplicates; None where they are not looked for.

    Raises:
        InvalidSpec: there is no such model here, or another than the one that was asked for.
    """
    if not spec.model:
        return None
    root = read_settings(DataprepSettings).embedding_root
    model = EmbeddingModel.load(find_model(root, spec.model, spec.digest))

    def find(rows: Rows, alive: NDArray[np.bool_], scratch: Path, check: Check) -> Groups:
        return find_semantic(rows, alive, model, spec.threshold, scratch, check)

    return find


def find_semantic(
    rows: Rows, alive: NDArray[np.bool_], model: EmbeddingModel, threshold: float, scratch: Path, check: Check
) -> Groups:
    """Return the semantic duplicates among the living rows.

    Raises:
        InvalidSpec: there are too many rows.
        InvalidData: too many pairs are alike.
    """
    numbers = np.flatnonzero(alive)
    worth = np.asarray(rows.facts.worth)
    if not len(numbers):
        return group(Pairs(numbers, numbers, np.zeros(0, np.float32)), worth, {"pairs": 0})
    with tempfile.TemporaryFile(dir=scratch) as file:
        shape = (2, len(numbers), model.width)
        vectors = np.memmap(file, np.float32, "w+", shape=shape)
        systems = np.zeros(len(numbers), np.uint64)
        for start in range(0, len(numbers), _PIECE):
            check()
            piece = numbers[start : start + _PIECE]
            texts = [_texts(line) for line in rows.lines(piece)]
            for side in range(2):
                vectors[side, start : start + len(piece)] = model.encode([text[side] for text in texts])
            systems[start : start + len(piece)] = [_hash(text[2]) for text in texts]
        pairs = find_pairs(np.asarray(vectors[0]), np.asarray(vectors[1]), systems, worth[numbers], threshold, check)
    own = Pairs(numbers[pairs.worse], numbers[pairs.better], pairs.similarity)
    return group(own, worth, {"pairs": len(own.worse)})


def _texts(line: bytes) -> tuple[str, str, str]:
    """Return what a row asks, what it answers, and its system messages."""
    sides: tuple[list[str], list[str], list[str]] = ([], [], [])
    for turn in messages_of(orjson.loads(line)):
        role = turn["role"]
        sides[2 if role in {"system", TOOLS} else 1 if role in ANSWERS else 0].append(said(turn))
    return "\n".join(sides[0]), "\n".join(sides[1]), "\n".join(sides[2])


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
