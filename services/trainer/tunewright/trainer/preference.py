"""Pairs of answers to token ids, for DPO: one prompt, the chosen and the rejected answer, each with its end.

Both conversations pass the same audit as those of supervised training. Knows no model and no device.
"""

from collections.abc import Sequence
from itertools import takewhile

from tunewright.chassis.errors import InvalidData
from tunewright.chassis.stage import Reporter
from tunewright.trainer.data import Row
from tunewright.trainer.encoding import IGNORED, Encoded, Encoder, Example, encode_rows, wrong


class PreferenceEncoder:
    """Encodes rows that hold two answers, by the encoder of conversations."""

    def __init__(self, encoder: Encoder, max_length: int) -> None:
        self._encoder = encoder
        self._max_length = max_length

    def encode(self, rows: Sequence[Row], name: str, report: Reporter) -> Encoded:
        """Return the examples of `rows`, audited; what was left out or cut is told as an event.

        Raises:
            InvalidData: a row that the template refuses, or whose answers are the same.
            Refused: the template does not teach the model to stop.
        """
        return encode_rows(self._add, rows, name, self._max_length, report)

    def _add(self, found: Encoded, row: Row, *, decode: bool) -> None:
        chosen, rejected = self._tokens(row, decode=decode), self._tokens(row.instead(), decode=decode)
        if chosen == rejected:
            raise wrong(row, "`chosen` and `rejected` are the same to the model, so neither can be preferred")
        prompt = self._shared_prompt(row, chosen, rejected)
        if prompt >= self._max_length:
            found.prompt_too_long.append(row.place)
            return
        if max(len(chosen), len(rejected)) > self._max_length:
            found.answer_cut.append(row.place)
        kept = chosen[: self._max_length]
        labels = [IGNORED] * prompt + kept[prompt:]
        found.examples.append(Example(row, kept, labels, tuple(rejected[: self._max_length])))

    def _tokens(self, row: Row, *, decode: bool) -> list[int]:
        """Return the tokens up to the answer's end: what templates put after it is not learned."""
        ids, mask = self._encoder.audited(row, decode=decode)
        return ids[: max(at for at, counts in enumerate(mask) if counts) + 1]

    def _shared_prompt(self, row: Row, chosen: list[int], rejected: list[int]) -> int:
        """Return how many tokens the prompt has, which must be what both answers begin with.

        Raises:
            InvalidData: the template renders the prompt otherwise once an answer follows.
        """
        prompt = self._encoder.prompt_ids(row)
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False)))
        if shared < len(prompt) or chosen[: len(prompt)] != prompt:
            why = "the chat template renders the prompt otherwise once an answer follows"
            raise InvalidData(f"{row.place}: {why}", remedy="Take a base whose template renders turns one by one.")
        return len(prompt)
