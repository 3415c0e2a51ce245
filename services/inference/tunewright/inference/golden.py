"""Golden prompts: proof that what the engine serves is what was trained. Knows nothing of processes.

For each prompt of golden.json, which the trainer wrote:

1. `/tokenize` must give the trainer's token ids. One other id means another tokenizer or chat template: refused. Only
   where the template writes the day's date, one stretch of DATE_TOKENS may differ: training has a date of its own.
2. The trainer's answer is replayed: the engine scores prompt + answer and tells, for each token of the answer, whether
   it is its own first choice. That is greedy decoding with the trainer's tokens before each step, so that one early
   difference does not spoil the rest. The share of agreement is reported.
3. The first token must agree: it is the engine's first choice, or the engine's first choice lies within
   FIRST_TOKEN_MARGIN of the best in the trainer's own logits. QLoRA trains on an NF4 base and serves a bf16 one, so
   near ties may turn. More than a quarter of the prompts off: refused.

Without golden.json a plain chat prompt has to be answered. A prompt that fills the engine's room has to be answered,
one that is longer has to be refused.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tunewright.chassis.errors import Refused
from tunewright.inference.client import EngineClient, EngineError

GOLDEN = "golden.json"
FIRST_TOKEN_MARGIN = 1.0
"""Nats by which the engine's first token may lie below the trainer's best."""
MIN_FIRST_TOKEN_SHARE = 0.75
DATE_TOKENS = 24
"""Tokens that a date takes, at most: `Wednesday, September 23, 2026` in single digits and pieces of words."""
LONG_PROMPT_TOKENS = 2048
"""More would take minutes on a CPU."""
_BAD_REQUEST = 400
_PLAIN_PROMPT = [{"role": "user", "content": "Say hello."}]


class GoldenPrompt(BaseModel):
    """One prompt of the record."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    messages: list[dict[str, Any]] = Field(min_length=1)
    tools: list[dict[str, Any]] = Field(default_factory=list)
    """Definitions of the tools that may be called."""
    dated: bool = False
    """Whether the chat template writes a date into the prompt."""
    prompt_token_ids: list[int] = Field(min_length=1)
    continuation_token_ids: list[int] = Field(min_length=1)
    top_logits: list[tuple[int, float]] = Field(default_factory=list)
    """(token id, logit) of the first step."""


@dataclass(frozen=True, slots=True)
class Proof:
    """What the engine showed."""

    prompts: int = 0
    """Golden prompts compared; 0 if the artifact brings none."""
    too_long: int = 0
    """Golden prompts that the engine's max_model_len has no room for."""
    first_token_share: float = 1.0
    """Share of prompts whose first token agrees within the margin, 0 to 1."""
    token_share: float = 1.0
    """Share of the answers' tokens that are the engine's first choice, 0 to 1."""

    def __str__(self) -> str:
        if not self.prompts:
            return "answers a chat prompt; the artifact brings no golden.json" + self._left_out()
        return (
            f"golden: prompt tokens equal in {self.prompts} of {self.prompts}, first token agrees in "
            f"{self.first_token_share:.0%}, greedy tokens in {self.token_share:.0%}" + self._left_out()
        )

    def _left_out(self) -> str:
        return f"; {self.too_long} longer than max_model_len left out" if self.too_long else ""


def read_golden(folder: Path) -> list[GoldenPrompt]:
    """Return the golden prompts of an artifact, none if it brings none.

    Raises:
        Refused: golden.json is malformed.
    """
    path = folder / GOLDEN
    if not path.is_file():
        return []
    try:
        return [GoldenPrompt.model_validate(entry) for entry in json.loads(path.read_text("utf-8"))["prompts"]]
    except (ValidationError, ValueError, KeyError, TypeError) as error:
        raise Refused(f"{GOLDEN} is malformed: {error}") from error


def answer_once(client: EngineClient, model: str, prompts: list[GoldenPrompt], timeout: float) -> None:
    """Let the engine answer one chat prompt with one token; the first golden one that fits, else a plain one.

    Raises:
        Refused: the engine has no chat template.
        EngineError, httpx.TransportError: it does not answer.
    """
    try:
        made = client.chat(model, _PLAIN_PROMPT if not prompts else prompts[0].messages, timeout)
    except EngineError as error:
        if "chat template" in error.message:
            raise Refused(
                f"the model has no chat template: {error.message}",
                remedy="Deploy a model whose tokenizer brings a chat template (chat_template.jinja).",
            ) from error
        raise
    if made < 1:
        raise EngineError(200, "the golden prompt was answered with no token")


def fitting(prompts: list[GoldenPrompt], max_model_len: int) -> list[GoldenPrompt]:
    """Return the prompts that an engine has room for; 0 stands for a length that is not known."""
    return [prompt for prompt in prompts if not max_model_len or len(prompt.prompt_token_ids) < max_model_len]


def try_long_prompts(client: EngineClient, model: str, max_model_len: int, timeout: float) -> None:
    """Ask a prompt as long as the engine takes, 2,048 tokens at most, and one that is too long.

    Raises:
        Refused: the too long one is not refused, or the long one is not answered.
        EngineError, httpx.TransportError: it does not answer.
    """
    if not max_model_len:
        return
    some = client.tokenize(model, _PLAIN_PROMPT, timeout)
    length = min(max_model_len - 1, LONG_PROMPT_TOKENS)
    if client.complete(model, _of_length(some, length), timeout) != 1:
        raise Refused(f"a prompt of {length} tokens is not answered")
    if max_model_len > LONG_PROMPT_TOKENS * 16:
        return  # megabytes of prompt would prove no more
    try:
        client.complete(model, _of_length(some, max_model_len + 1), timeout)
    except EngineError as error:
        if error.status == _BAD_REQUEST:
            return
        raise
    raise Refused(f"a prompt of {max_model_len + 1} tokens is answered by an engine that has room for {max_model_len}")


def _of_length(token_ids: list[int], length: int) -> list[int]:
    return (token_ids * (length // len(token_ids) + 1))[:length]


def prove(client: EngineClient, model: str, prompts: list[GoldenPrompt], max_model_len: int, timeout: float) -> Proof:
    """Compare the engine with the record.

    Args:
        client: the engine.
        model: name under which it serves.
        prompts: the record.
        max_model_len: tokens that the engine has room for, 0 if not known.
        timeout: seconds for each question.

    Raises:
        Refused: other token ids, or too few first tokens agree.
    """
    room = max_model_len - 2 if max_model_len else 1 << 62
    asked = [prompt for prompt in prompts if len(prompt.prompt_token_ids) <= room]
    first, same, total = 0, 0, 0
    for number, prompt in enumerate(asked, start=1):
        _check_tokens(client.tokenize(model, prompt.messages, timeout, prompt.tools), prompt, number)
        answer = prompt.continuation_token_ids[: room - len(prompt.prompt_token_ids) + 1]
        scored = client.prompt_logprobs(model, prompt.prompt_token_ids + answer, timeout)[
            len(prompt.prompt_token_ids) :
        ]
        choices = [_first_choice(at) for at in scored]
        first += _first_agrees(choices[0], prompt)
        same += sum(choice == token for choice, token in zip(choices, answer, strict=True))
        total += len(answer)
    left_out = len(prompts) - len(asked)
    if not asked:
        return Proof(too_long=left_out)
    proof = Proof(len(asked), left_out, first / len(asked), same / total)
    if proof.first_token_share < MIN_FIRST_TOKEN_SHARE:
        raise Refused(
            f"the engine does not answer as the trained model did ({proof}); at least {MIN_FIRST_TOKEN_SHARE:.0%} of "
            f"the first tokens must agree within {FIRST_TOKEN_MARGIN} nats",
            remedy="The weights are not those that golden.json was made with: merge the trainer's own adapter again.",
        )
    return proof


def _check_tokens(found: list[int], prompt: GoldenPrompt, number: int) -> None:
    expected = prompt.prompt_token_ids
    if found == expected:
        return
    at = _shared(found, expected)
    if prompt.dated and max(len(found), len(expected)) - at - _shared(found[:at:-1], expected[:at:-1]) <= DATE_TOKENS:
        return
    window = slice(max(0, at - 2), at + 4)
    raise Refused(
        f"golden prompt {number}: the engine's tokens differ from the trainer's from position {at} on: "
        f"engine {found[window]} of {len(found)}, trainer {expected[window]} of {len(expected)}",
        remedy="Tokenizer or chat template are not those of the training: deploy the artifact as it was made.",
    )


def _shared(one: list[int], other: list[int]) -> int:
    """Return how many tokens both begin with."""
    pairs = zip(one, other, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _first_choice(at: dict[int, dict[str, Any]] | None) -> int | None:
    return next((token for token, entry in (at or {}).items() if entry["rank"] == 1), None)


def _first_agrees(choice: int | None, prompt: GoldenPrompt) -> bool:
    if choice == prompt.continuation_token_ids[0]:
        return True
    logits = dict(prompt.top_logits)
    return choice in logits and logits[choice] >= max(logits.values()) - FIRST_TOKEN_MARGIN


def check_adapter_acts(
    client: EngineClient, name: str, zero_name: str, prompts: list[GoldenPrompt], timeout: float
) -> None:
    """Make sure that the adapter changes what the base says: engines were seen to load one and ignore it (vllm#34186).

    Args:
        client: the engine.
        name: the adapter.
        zero_name: the same adapter with all of its matrices zero.
        prompts: the record; a plain prompt if there is none.
        timeout: seconds for each question.

    Raises:
        Refused: all log-probabilities of all prompts are the same with and without it.
    """
    token_ids = [prompt.prompt_token_ids for prompt in prompts] or [client.tokenize(name, _PLAIN_PROMPT, timeout)]
    for ids in token_ids:
        with_adapter, without = (client.prompt_logprobs(model, ids, timeout) for model in (name, zero_name))
        if with_adapter != without:
            return
    raise Refused(
        "the adapter changes nothing: the engine's log-probabilities are the same with and without it",
        remedy="It is untrained, or the engine ignores its modules: merge it and deploy the merged model.",
    )
