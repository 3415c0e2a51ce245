"""Held-out questions: rows that training never saw, asked of base and tuned model by the official `openai` package.

Knows nothing of how the models came about.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
import openai
from openai.types.chat import ChatCompletionMessageParam

from tunewright.cli.client import Gateway
from tunewright.cli.endpoint import Endpoint
from tunewright.cli.errors import CliError

MAX_TOKENS = 96


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One question, the answer that was held out, and what the two models say, greedily decoded."""

    question: str
    expected: str
    base: str
    tuned: str


def held_out(gateway: Gateway, run: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """Return the first `count` rows of the run's validation set, in the order of their hashes: nobody picked them.

    Raises:
        CliError: the set cannot be read.
    """
    dataset = run["artifacts"]["prepare"]
    url = f"{gateway.endpoint.url}/v1/artifacts/{dataset}/files/validation.jsonl"
    headers = {"Authorization": f"Bearer {gateway.endpoint.api_key}"}
    try:
        response = httpx.get(
            url, headers=headers, timeout=60, trust_env=False, follow_redirects=True
        ).raise_for_status()
    except httpx.HTTPError as error:
        raise CliError(f"the held-out rows cannot be read: {error}", remedy="See `tunewright logs gateway`.") from error
    rows = [json.loads(line) for line in response.text.split("\n") if line]
    return sorted(rows, key=lambda row: str(row["id"]))[:count]


def ask_both(endpoint: Endpoint, run: dict[str, Any], rows: list[dict[str, Any]]) -> list[Answer]:
    """Return both models' answers to each row's conversation up to its last turn; all are asked at once.

    Raises:
        CliError: a model does not answer.
    """
    with (
        openai.OpenAI(base_url=f"{endpoint.url}/v1", api_key=endpoint.api_key, timeout=300) as client,
        ThreadPoolExecutor(2 * len(rows) or 1) as pool,
    ):
        base = pool.map(lambda row: _ask(client, run["base_model"], row["messages"][:-1]), rows)
        tuned = pool.map(lambda row: _ask(client, run["name"], row["messages"][:-1]), rows)
        return [
            Answer(
                question=row["messages"][-2]["content"], expected=row["messages"][-1]["content"], base=one, tuned=two
            )
            for row, one, two in zip(rows, base, tuned, strict=True)
        ]


def _ask(client: openai.OpenAI, model: str, messages: list[ChatCompletionMessageParam]) -> str:
    try:
        answer = client.chat.completions.create(
            model=model, messages=messages, temperature=0, max_tokens=MAX_TOKENS, seed=0
        )
    except openai.OpenAIError as error:
        message = f"{model} does not answer: {error}"
        raise CliError(message, remedy="`tunewright logs inference` says why.") from error
    return (answer.choices[0].message.content or "").strip()
