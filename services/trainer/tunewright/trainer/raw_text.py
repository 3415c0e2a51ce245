"""Raw text to token ids, for continued pre-training: every token counts, and the text's end is learned.

A text longer than `max_length` becomes several examples, none of it is lost. Knows no model and no device.
"""

from collections.abc import Sequence
from typing import Any

from tunewright.chassis.stage import Reporter
from tunewright.trainer.data import Row
from tunewright.trainer.encoding import IGNORED, Encoded, Example, wrong

_SHORTEST = 2  # tokens: the first has no predecessor, so it never counts


class TextEncoder:
    """Encodes rows of raw text."""

    def __init__(self, tokenizer: Any, max_length: int) -> None:  # noqa: ANN401 - transformers ships no types
        self._tokenizer = tokenizer
        self._max_length = max_length

    def encode(self, rows: Sequence[Row], name: str, report: Reporter) -> Encoded:
        """Return the examples of `rows`; how many rows were split is told as an event.

        Raises:
            InvalidData: a text without tokens.
        """
        found, split = Encoded(), 0
        for number, row in enumerate(rows):
            if number % 1000 == 0:
                report.raise_if_stopped()
            pieces = self._pieces(row)
            split += len(pieces) > 1
            found.examples += [Example(row, piece, [IGNORED, *piece[1:]]) for piece in pieces]
        if split:
            text = f"{split} texts of {name} are longer than {self._max_length} tokens and were split"
            report.event("text_split", text, dataset=name, rows=split)
        return found

    def _pieces(self, row: Row) -> list[list[int]]:
        ids = list(self._tokenizer(row.text)["input_ids"])
        if not ids:
            raise wrong(row, "the tokenizer finds no token in the text")
        if ids[-1] != self._tokenizer.eos_token_id:
            ids.append(self._tokenizer.eos_token_id)
        pieces = [ids[at : at + self._max_length] for at in range(0, len(ids), self._max_length)]
        return [piece for piece in pieces if len(piece) >= _SHORTEST]
