"""The normal forms of many texts at once, compiled; equal to `normalising.normalise`, text by text. And their tokens.

Texts whose form hangs on more than single characters (combining marks, rare scripts) are given to `normalise` itself.
Knows nothing of what forms and tokens are used for.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from tunewright.dataprep.characters import tables
from tunewright.dataprep.folding import PART, POINTS, STATES, TOKENS, USED, fold_rows, packed
from tunewright.dataprep.normalising import normalise
from tunewright.dataprep.parts import Parts

_NEWLINE = 10
_GROWTH, _ROLE_ROOM = 2, 24
"""A form takes at most twice the bytes of its text; role and separators take at most so many."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens of rows, as 64-bit hashes, without those of system messages.

    A token is a word, one character of a script that puts no spaces between words (Chinese, Japanese, Thai …), or one
    symbol. A rejected answer's tokens are other ones than a chosen answer's.
    """

    hashes: NDArray[np.uint64]
    ends: NDArray[np.int64]
    """n; where each row's tokens end."""
    answers: NDArray[np.bool_]
    """For each token, True if it is an answer's."""


@dataclass(frozen=True, slots=True)
class Forms:
    """Normal forms of rows' parts. A row lies in `data` as role, 0x1f, form, 0x1e, role, 0x1f and so on."""

    data: NDArray[np.uint8]
    starts: NDArray[np.int64]
    """m; where each form begins in `data`."""
    ends: NDArray[np.int64]
    """m; where each form ends in `data`."""
    row_starts: NDArray[np.int64]
    """n; where each row begins in `data`; it ends where the form of its last part does."""
    parts: Parts
    """The texts that these are the forms of."""
    tokens: Tokens
    distinct: NDArray[np.int64]
    """n; different characters of the texts as they stand."""
    sizes: NDArray[np.int64]
    """m; characters of each text as it stands."""

    def row_ends(self) -> NDArray[np.int64]:
        """Return where each row ends in `data`; from its start to there lies what its identity is made of."""
        found = self.row_starts.copy()
        lasts = self.parts.rows - 1
        filled = np.diff(self.parts.rows, prepend=0) > 0
        found[filled] = self.ends[lasts[filled]]
        return found

    def part(self, number: int) -> memoryview:
        """Return one form."""
        return self.data[self.starts[number] : self.ends[number]].data


def normal_forms(parts: Parts) -> Forms:
    """Return the normal forms of all parts, and what is found on the way."""
    characters, count, rows = tables(), len(parts.ends), len(parts)
    room = _GROWTH * len(parts.data) + _ROLE_ROOM * count + 8
    data, hashes, answers = np.empty(room, np.uint8), np.empty(room, np.uint64), np.empty(room, np.bool_)
    starts, ends, sizes = (np.empty(count, np.int64) for _ in range(3))
    row_starts, token_ends = np.empty(rows, np.int64), np.empty(rows, np.int64)
    seen, distinct = np.zeros(POINTS, np.int32), np.zeros(rows, np.int64)
    state, given, breaks = np.zeros(STATES, np.int64), np.empty(0, np.uint8), _with_breaks(parts)
    while True:
        fold_rows(
            parts.data, parts.ends, breaks, parts.rows, parts.roles, characters.kinds, _folds(),
            characters.expansions, given, state, data, starts, ends, row_starts, hashes, answers, token_ends, seen,
            distinct, sizes,
        )  # fmt: skip
        if state[PART] == count:
            break
        form = normalise(parts.text(int(state[PART]))).encode("utf-8", "surrogatepass")
        given = np.frombuffer(form, np.uint8)
    found = Tokens(hashes[: state[TOKENS]], token_ends, answers[: state[TOKENS]])
    return Forms(data[: state[USED]], starts, ends, row_starts, parts, found, distinct, sizes)


@cache
def _folds() -> NDArray[np.int32]:
    characters = tables()
    return packed(characters.kinds, characters.folded)


def _with_breaks(parts: Parts) -> NDArray[np.bool_]:
    """Return for each text whether it has a line break."""
    places = np.flatnonzero(parts.data == _NEWLINE)
    before = np.searchsorted(places, parts.ends)
    return np.diff(before, prepend=0) > 0
