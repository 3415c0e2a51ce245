"""Asks both models about every row, several rows at once: what they make of the written answer, and their own answers.

Both get the same token ids; engines that read a row differently are refused. Knows nothing of statistics and pages.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from tunewright.chassis.errors import Refused
from tunewright.chassis.stage import Reporter, Severity
from tunewright.evaluator.client import Endpoint
from tunewright.evaluator.heldout import Row
from tunewright.evaluator.overlap import Overlap, overlap
from tunewright.evaluator.spans import Tokenized, tokenize_row
from tunewright.evaluator.spec import EvaluationSpec

T = TypeVar("T")

_MARGIN_TOKENS = 1  # scoring generates one token


@dataclass(frozen=True, slots=True)
class Score:
    """What one model makes of one row's written answers."""

    loss_sum: float
    """Negative log-likelihood of the answer tokens, nats."""
    correct: int
    """Answer tokens that were the model's first choice."""


@dataclass(frozen=True, slots=True)
class RowResult:
    """One row, scored by both models."""

    row: Row
    answer_tokens: int
    left_out_turns: int
    base: Score
    tuned: Score


@dataclass(frozen=True, slots=True)
class Sample:
    """One row, answered freely by both models."""

    row: Row
    reference: str
    base_answer: str
    tuned_answer: str
    base: Overlap
    tuned: Overlap


@dataclass(frozen=True, slots=True)
class Answers:
    """Everything the models said."""

    results: list[RowResult]
    samples: list[Sample]
    too_long: list[str]
    """Ids of rows that do not fit into an engine's context, and were left out for both."""


async def ask(base: Endpoint, tuned: Endpoint, rows: list[Row], spec: EvaluationSpec, report: Reporter) -> Answers:
    """Ask both endpoints.

    Raises:
        Refused: the engines read a row differently, or no row fits.
        Unavailable: an endpoint stayed away beyond its patience.
        Interrupted: a stop was requested.
    """
    sampled = rows[: spec.sample_count]
    turnstile = _Turnstile(spec.concurrency, len(rows) + len(sampled), report)
    scored = await turnstile.all([partial(_score, base, tuned, row) for row in rows])
    results = [result for result in scored if isinstance(result, RowResult)]
    too_long = [result for result in scored if isinstance(result, str)]
    if too_long:
        report.event(
            "rows_left_out",
            f"{len(too_long)} of {len(rows)} rows are longer than an engine's context and were left out.",
            severity=Severity.WARNING,
            rows=len(too_long),
        )
    if not results:
        raise Refused("no held-out row fits into the engines' context", remedy="Raise deployment.max_model_len.")
    fitting = {result.row.id for result in results}
    chosen = [row for row in sampled if row.id in fitting]
    samples = await turnstile.all([partial(_sample, base, tuned, row, spec) for row in chosen])
    return Answers(results, samples, too_long)


class _Turnstile:
    """Runs questions, a bounded number at once, and counts them; the first error stops all and is raised as itself."""

    def __init__(self, concurrency: int, total: int, report: Reporter) -> None:
        self._gate = asyncio.Semaphore(concurrency)
        self._total = total
        self._report = report
        self._done = 0

    async def all(self, questions: list[Callable[[], Awaitable[T]]]) -> list[T]:
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._one(question)) for question in questions]
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from errors
        return [task.result() for task in tasks]

    async def _one(self, question: Callable[[], Awaitable[T]]) -> T:
        async with self._gate:
            self._report.raise_if_stopped()
            answer = await question()
        self._done += 1
        self._report.progress(self._done, self._total, unit="rows")
        return answer


async def _score(base: Endpoint, tuned: Endpoint, row: Row) -> RowResult | str:
    """Return the row's scores, or its id if it is too long for one of the engines."""
    read, read_by_tuned = await asyncio.gather(tokenize_row(base, row), tokenize_row(tuned, row))
    if (read.ids, read.spans) != (read_by_tuned.ids, read_by_tuned.spans):
        raise Refused(
            f"row {row.id[:12]}: {base.target.served_model_name} and {tuned.target.served_model_name} read it as "
            "different tokens, so their losses cannot be compared",
            remedy="Both must be served with the same tokenizer and chat template.",
        )
    if len(read.ids) + _MARGIN_TOKENS > min(read.max_model_len, read_by_tuned.max_model_len):
        return row.id
    scores = await asyncio.gather(*(_score_one(endpoint, read) for endpoint in (base, tuned)))
    return RowResult(row, read.answer_tokens, read.left_out, scores[0], scores[1])


async def _score_one(endpoint: Endpoint, read: Tokenized) -> Score:
    tokens = await endpoint.score(read.ids)
    # Place p of the row is entry p - 1: the first token is not scored.
    answer = [tokens[place - 1] for start, end in read.spans for place in range(start, end)]
    return Score(-sum(token.logprob for token in answer), sum(token.rank == 1 for token in answer))


async def _sample(base: Endpoint, tuned: Endpoint, row: Row, spec: EvaluationSpec) -> Sample:
    last = row.answers[-1]
    prompt, reference = row.turns(last), row.messages[last].content
    room = [await endpoint.tokenize(prompt, generate=True) for endpoint in (base, tuned)]
    free = min(spec.max_new_tokens, *(tokens.max_model_len - len(tokens.ids) for tokens in room))
    base_answer, tuned_answer = await asyncio.gather(base.answer(prompt, free), tuned.answer(prompt, free))
    return Sample(
        row, reference, base_answer, tuned_answer, overlap(base_answer, reference), overlap(tuned_answer, reference)
    )
