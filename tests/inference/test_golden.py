"""Golden prompts whose template writes the day's date: the date may differ from the trainer's, nothing else."""

from typing import Any, cast

import pytest

from tunewright.chassis.errors import Refused
from tunewright.inference.client import EngineClient
from tunewright.inference.golden import DATE_TOKENS, GoldenPrompt, prove

SYSTEM, QUESTION, ANSWER = [1, 2, 3], [7, 8, 9, 10], [21, 22]


class Engine:
    """An engine that gives these tokens for any prompt, and scores the trainer's answer as its own."""

    def __init__(self, tokens: list[int]) -> None:
        self.tokens = tokens

    def tokenize(self, *_: object) -> list[int]:
        return self.tokens

    def prompt_logprobs(self, _model: str, ids: list[int], _timeout: float) -> list[dict[int, dict[str, Any]]]:
        return [{token: {"rank": 1}} for token in ids]


def proof(engine: list[int], trainer: list[int], *, dated: bool) -> int:
    prompt = GoldenPrompt(
        messages=[{"role": "user", "content": "?"}],
        dated=dated,
        prompt_token_ids=trainer,
        continuation_token_ids=ANSWER,
    )
    return prove(cast("EngineClient", Engine(engine)), "model", [prompt], 0, 1.0).prompts


@pytest.mark.parametrize("today", [[50, 51], [60], [61, 51, 62, 63], []])
def test_another_date_is_no_other_template_and_without_a_date_it_is(today: list[int]) -> None:
    engine, trainer = [*SYSTEM, *today, *QUESTION], [*SYSTEM, 60, 51, 62, *QUESTION]
    assert proof(engine, trainer, dated=True) == 1
    with pytest.raises(Refused, match="the engine's tokens differ from the trainer's"):
        proof(engine, trainer, dated=False)


def test_what_is_longer_than_a_date_or_stands_in_two_places_is_another_template() -> None:
    trainer = [*SYSTEM, 60, *QUESTION]
    long = [*SYSTEM, *range(100, 101 + DATE_TOKENS), *QUESTION]
    twice = [99, *SYSTEM, *([60] * DATE_TOKENS), *QUESTION[:-1], 98]
    for engine in (long, twice):
        with pytest.raises(Refused, match="tokens differ"):
            proof(engine, trainer, dated=True)
