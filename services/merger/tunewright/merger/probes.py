"""Probes: held-out conversations as token ids, and the proof that adapter and base read them alike (E10, law 8).

Knows nothing of weights.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from tunewright.artifacts.conversations import for_template, strftime_now
from tunewright.chassis.errors import InvalidData, Refused

VALIDATION = "validation.jsonl"


class Conversation(NamedTuple):
    """Messages, and definitions of the tools that they may call."""

    messages: list[dict[str, Any]]
    tools: list[Any] = []  # noqa: RUF012 - never changed


class Probe(NamedTuple):
    """A held-out conversation as token ids."""

    ids: list[int]
    answer_start: int
    """Where its last answer begins; 0 where that cannot be said, so that all of it counts."""


def load_tokenizer(folder: Path, what: str) -> PreTrainedTokenizerBase:
    """Return the tokenizer in a folder; code that comes with it is never run.

    Raises:
        Refused: there is none, or it cannot be loaded.
    """
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Refused(f"the {what} has no tokenizer that loads: {error}") from error
    if not tokenizer.chat_template:
        raise Refused(f"the {what}'s tokenizer has no chat template")
    return tokenizer


def read_conversations(dataset: Path, count: int) -> list[Conversation]:
    """Return the conversations of the first `count` held-out rows in order of their id, which is a hash.

    Raises:
        InvalidData: no held-out rows, or a row that is none.
    """
    rows = []
    with (dataset / VALIDATION).open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = json.loads(line)
                rows.append((str(row["id"]), _conversation(row)))
            except (ValueError, KeyError, TypeError) as error:
                raise InvalidData(f"{VALIDATION}:{number} is no dataset row: {error!r}") from error
    if not rows:
        raise InvalidData(f"{VALIDATION} holds no rows to probe with", remedy="Raise dataprep.validation_fraction.")
    return [conversation for _, conversation in sorted(rows, key=lambda row: row[0])[:count]]


def _conversation(row: dict[str, Any]) -> Conversation:
    """Return a row as a conversation: a document is one question, a pair of answers its prompt and the chosen one."""
    if "text" in row:
        return Conversation([{"role": "user", "content": row["text"]}])
    answer = [{"role": "assistant", "content": row["chosen"]}] if "chosen" in row else []
    return Conversation([*row["messages"], *answer], row.get("tools", []))


def render(tokenizer: PreTrainedTokenizerBase, conversation: Conversation, *, generate: bool = False) -> list[int]:
    """Return the token ids of a conversation by the tokenizer's own chat template, on TEMPLATE_DATE as in training.

    Args:
        tokenizer: with a chat template.
        conversation: in a dataset's form.
        generate: end with the marker after which the model answers.
    """
    ids: Any = tokenizer.apply_chat_template(
        for_template(conversation.messages),
        tools=conversation.tools or None,
        strftime_now=strftime_now,
        tokenize=True,
        add_generation_prompt=generate,
        return_dict=False,
    )
    return [int(token) for token in ids]


def make_probes(
    adapter: PreTrainedTokenizerBase, base: PreTrainedTokenizerBase, conversations: list[Conversation], max_length: int
) -> list[Probe]:
    """Return each conversation as a probe, cut to `max_length` tokens.

    Raises:
        Refused: adapter and base know different tokens, or write a conversation differently.
    """
    _check_vocabularies(adapter.get_vocab(), base.get_vocab())
    probes = []
    for number, conversation in enumerate(conversations, start=1):
        ids = render(adapter, conversation)
        if ids != render(base, conversation):
            raise Refused(
                f"foreign tokenizer: held-out row {number} becomes other token ids by the adapter's tokenizer and chat "
                "template than by the base's",
                remedy="Take the adapter as the trainer made it; its tokenizer must be the base's.",
            )
        probes.append(Probe(ids[:max_length], _answer_start(adapter, conversation, ids)))
    return probes


def _answer_start(tokenizer: PreTrainedTokenizerBase, conversation: Conversation, ids: list[int]) -> int:
    if conversation.messages[-1]["role"] != "assistant":
        return 0
    prompt = render(tokenizer, Conversation(conversation.messages[:-1], conversation.tools), generate=True)
    return len(prompt) if ids[: len(prompt)] == prompt else 0


def _check_vocabularies(adapter: dict[str, int], base: dict[str, int]) -> None:
    differing = sorted(token for token in adapter.keys() | base.keys() if adapter.get(token) != base.get(token))
    if differing:
        raise Refused(
            f"foreign tokenizer: adapter and base differ in {len(differing)} tokens, such as {differing[:5]}",
            remedy="Merge the adapter into the base that it was trained on.",
        )
