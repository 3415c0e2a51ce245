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
    sampled_rows = min(sum(row.answered_in_words for row in rows), spec.sample_count)
    turnstile = _Turnstile(spec.concurrency, 3 * len(rows) + 2 * sampled_rows, report)
    read = await turnstile.all([partial(_read, base, tuned, row) for row in rows])
    fitting = [found for found in read if found.fits]
    too_long = [found.row.id for found in read if not found.fits]
    if too_long:
        report.event(
            "rows_left_out",
            f"{len(too_long)} of {len(rows)} rows are longer than an engine's context, or of one token: left out.",
            severity=Severity.WARNING,
            rows=len(too_long),
        )
    if not fitting:
        raise Refused("no held-out row fits into the engines' context", remedy="Raise deployment.max_model_len.")
    scores = await _of_both(base, tuned, turnstile, _score, fitting)
    sampled = [found for found in fitting if found.row.answered_in_words][: spec.sample_count]
    answers = await _of_both(base, tuned, turnstile, partial(_answer, max_tokens=spec.max_new_tokens), sampled)
    results = [_result(found, *pair) for found, pair in zip(fitting, scores, strict=True)]
    samples = [_sample(found.row, *pair) for found, pair in zip(sampled, answers, strict=True)]
    return Answers(results, samples, too_long)


async def _of_both(
    base: Endpoint,
    tuned: Endpoint,
    turnstile: "_Turnstile",
    question: Callable[[Endpoint, "_ReadRow"], Awaitable[T]],
    rows: list["_ReadRow"],
) -> list[tuple[T, T]]:
    """Return each row's answer of base and tuned.

    Where one engine serves both (a base and its adapter), all of base's come first: vLLM 0.32 on a CPU lets an adapter
    act on requests for the base that are under way at the same time.
    """

    def ask_all(endpoint: Endpoint) -> Awaitable[list[T]]:
        return turnstile.all([partial(question, endpoint, row) for row in rows])

    if base.target.endpoint == tuned.target.endpoint:
        first, second = await ask_all(base), await ask_all(tuned)
    else:
        first, second = await _together(ask_all(base), ask_all(tuned))
    return list(zip(first, second, strict=True))


async def _together(first: Awaitable[T], second: Awaitable[T]) -> tuple[T, T]:
    """Await both; where one fails, the other is cancelled before the error goes on."""
    tasks = [asyncio.ensure_future(first), asyncio.ensure_future(second)]
    try:
        await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
    return tasks[0].result(), tasks[1].result()


class _Turnstile:
    """Runs questions, a bounded number at once, and counts them; the first error stops all and is raised as itself."""

    def __init__(self, concurrency: int, total: int, report: Reporter) -> None:
        self._gate = asyncio.Semaphore(concurrency)
        self._total = total
        self._report = report
        self._done = 0

    async def all(self, questions: list[Callable[[], Awaitable[T]]]) -> list[T]:
        """Return the answers in the order of the questions."""
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
        self._report.progress(self._done, self._total, unit="questions")
        return answer


@dataclass(frozen=True, slots=True)
class _ReadRow:
    """A row as both engines read it."""

    row: Row
    tokens: Tokenized
    max_model_len: int
    """Of the smaller engine."""

    @property
    def fits(self) -> bool:
        return len(self.tokens.ids) + _MARGIN_TOKENS <= self.max_model_len and self.tokens.answer_tokens > 0


async def _read(base: Endpoint, tuned: Endpoint, row: Row) -> _ReadRow:
    read, read_by_tuned = await asyncio.gather(tokenize_row(base, row), tokenize_row(tuned, row))
    if (read.ids, read.spans) != (read_by_tuned.ids, read_by_tuned.spans):
        raise Refused(
            f"row {row.id[:12]}: {base.target.served_model_name} and {tuned.target.served_model_name} read it as "
            "different tokens, so their losses cannot be compared",
            remedy="Both must be served with the same tokenizer and chat template.",
        )
    shortest = min(read.max_model_len, read_by_tuned.max_model_len)
    return _ReadRow(row, read.cut(shortest - _MARGIN_TOKENS) if row.text else read, shortest)


async def _score(endpoint: Endpoint, read: _ReadRow) -> Score:
    tokens = await endpoint.score(read.tokens.ids)
    # Place p of the row is entry p - 1: the first token is not scored.
    answer = [tokens[place - 1] for start, end in read.tokens.spans for place in range(start, end)]
    return Score(-sum(token.logprob for token in answer), sum(token.rank == 1 for token in answer))


async def _answer(endpoint: Endpoint, read: _ReadRow, *, max_tokens: int) -> str:
    last_start, _ = read.tokens.spans[-1]  # tokens of the prompt before the last answer
    room = min(max_tokens, read.max_model_len - last_start)
    return await endpoint.answer(read.row.turns(read.row.answers[-1]), room, read.row.tools)


def _result(read: _ReadRow, base: Score, tuned: Score) -> RowResult:
    return RowResult(read.row, read.tokens.answer_tokens, read.tokens.left_out, base, tuned)


def _sample(row: Row, base: str, tuned: str) -> Sample:
    _, reference = row.asked_and_answered()
    return Sample(row, reference, base, tuned, overlap(base, reference), overlap(tuned, reference))
