"""The texts of a block of rows as one buffer of UTF-8, for loops that are compiled. Knows nothing of their meaning.

A row has parts (messages, answers of a preference pair, a document), each with a role.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from typing import Self

import numpy as np
from numpy.typing import NDArray

from tunewright.dataprep.shapes import Message
from tunewright.dataprep.tool_use import TOOLS, said

ROLES = ("system", "user", "assistant", "tool", "text", "chosen", "rejected", "function", "developer")
SYSTEM, USER, ASSISTANT, TOOL, TEXT, CHOSEN, REJECTED, FUNCTION, DEVELOPER = range(len(ROLES))
_NUMBERS = {**{name: number for number, name in enumerate(ROLES)}, TOOLS: SYSTEM}
"""Definitions of tools count as what the system says: the same in thousands of rows."""
_PLAIN_FIELDS = 2


@dataclass(frozen=True, slots=True)
class Parts:
    """Texts of n rows with m parts in all."""

    data: NDArray[np.uint8]
    """UTF-8 of all texts, one after the other."""
    ends: NDArray[np.int64]
    """m; where each text ends in `data`, bytes."""
    roles: NDArray[np.uint8]
    """m; number of each part's role in `ROLES`."""
    rows: NDArray[np.int64]
    """n; number of the part after each row's last."""

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def of(cls, rows: Sequence[Sequence[tuple[str, str]]]) -> Self:
        """Return rows given as pairs of role and text.

        Raises:
            KeyError: a role is none of `ROLES`.
        """
        flat = list(chain.from_iterable(rows))
        return cls._of([_encode(text) for _, text in flat], map(itemgetter(0), flat), map(len, rows))

    @classmethod
    def of_messages(cls, rows: Sequence[Sequence[Message]], encoded: Sequence[bytes] | None = None) -> Self:
        """Return rows given as messages; the calls of a message count as text of it.

        Args:
            rows: the messages of each row.
            encoded: their contents in UTF-8, one after the other, where they are known.

        Raises:
            KeyError: a role is none of `ROLES`.
        """
        flat = list(chain.from_iterable(rows))
        pieces = [_encode(message["content"]) for message in flat] if encoded is None else list(encoded)
        for number, message in enumerate(flat):
            if len(message) != _PLAIN_FIELDS:
                pieces[number] = _encode(said(message))
        return cls._of(pieces, map(itemgetter("role"), flat), map(len, rows))

    def text(self, number: int) -> str:
        """Return the text of one part."""
        start = int(self.ends[number - 1]) if number else 0
        return self.data[start : self.ends[number]].tobytes().decode("utf-8", "surrogatepass")

    @classmethod
    def _of(cls, encoded: list[bytes], roles: Iterable[str], lengths: Iterable[int]) -> Self:
        return cls(
            data=np.frombuffer(b"".join(encoded), np.uint8),
            ends=np.cumsum(np.fromiter(map(len, encoded), np.int64, len(encoded))),
            roles=np.frombuffer(bytes(map(_NUMBERS.__getitem__, roles)), np.uint8),
            rows=np.cumsum(np.fromiter(lengths, np.int64)),
        )


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
