"""Conversations to token ids and labels, by the model's own chat template, audited before any training.

The loss counts the assistant's answers and the token that ends them, nothing else. Knows no model and no device.
Where the template marks answers (`{% generation %}`), the marks are taken. Where it does not, an answer is what the
template adds between the prompt of that turn and the turn's end, found by rendering the conversation turn by turn.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

from jinja2.exceptions import TemplateError

from tunewright.artifacts import label_masks
from tunewright.artifacts.conversations import (
    DROPS,
    DROPS_REMEDY,
    Messages,
    asks_for_date,
    for_template,
    is_learnt,
    left_out_by,
    strftime_now,
    used_of,
)
from tunewright.chassis.errors import InvalidData, Refused, Violation
from tunewright.chassis.stage import Reporter, Severity
from tunewright.trainer.data import Row

IGNORED = -100
_MARKERS = re.compile(r"\{%-?\s*generation\s*-?%\}")
_NAMED = 20  # places listed in an event; the count says how many there are
_DECODED = 64  # rows whose answer is decoded and compared word for word


@dataclass(frozen=True, slots=True)
class Example:
    """One row as the model sees it. `labels` is IGNORED wherever the loss does not count."""

    row: Row
    input_ids: list[int]
    labels: list[int]
    rejected_ids: tuple[int, ...] = ()
    """For dpo: the same prompt with the rejected answer; `input_ids` holds the chosen one."""

    @property
    def prompt_tokens(self) -> int:
        """Tokens before the first one that counts."""
        return next(at for at, label in enumerate(self.labels) if label != IGNORED)


@dataclass(slots=True)
class Encoded:
    """Examples of one file, and what did not become one or was cut."""

    examples: list[Example] = field(default_factory=list)
    prompt_too_long: list[str] = field(default_factory=list)
    """Places of rows whose prompt fills max_length: nothing of the answer is left."""
    answer_cut: list[str] = field(default_factory=list)
    """Places of rows whose end does not fit into max_length."""

    @property
    def answer_tokens(self) -> int:
        """Tokens that count in the loss."""
        return sum(label != IGNORED for example in self.examples for label in example.labels)


class Add(Protocol):
    """Adds one row to what is encoded; the first rows are decoded and compared."""

    def __call__(self, found: Encoded, row: Row, *, decode: bool) -> None:
        """Add the row, or its place to those left out or cut."""


class Encoder:
    """Encodes rows; `end_ids` are the tokens that may end a turn."""

    def __init__(self, tokenizer: Any, end_ids: set[int], max_length: int) -> None:  # noqa: ANN401
        self._tokenizer = tokenizer
        self._end_ids = end_ids
        self._max_length = max_length
        self._marked = bool(_MARKERS.search(tokenizer.chat_template))
        self.asks_for_date = asks_for_date(tokenizer.chat_template)

    def encode(self, rows: Sequence[Row], name: str, report: Reporter) -> Encoded:
        """Return the examples of `rows`, audited; what was left out or cut is told as an event.

        Raises:
            InvalidData: a row that the template refuses, or whose answer leaves no token to learn.
            Refused: the template does not teach the model to stop.
        """
        return encode_rows(self._add, rows, name, self._max_length, report)

    def prompt_ids(self, row: Row) -> list[int]:
        """Return the tokens that ask for the row's last answer."""
        encoded = self._applied(row.prompt(), row.tools, add_generation_prompt=True, return_dict=True)
        return list(encoded["input_ids"])

    def audited(self, row: Row, *, decode: bool) -> tuple[list[int], list[bool]]:
        """Return the row's tokens, uncut, and which of them count.

        Raises:
            InvalidData: the template refuses the row, or no token of its answer counts.
            Refused: the template does not teach the model to stop.
        """
        try:
            ids, mask = self._marked_row(row) if self._marked else self._unmarked_row(row)
        except TemplateError as error:
            raise wrong(row, f"the base's chat template refuses the conversation: {error}") from error
        if dropped := sorted(used_of(row.messages, row.tools) & self._left_out):
            raise wrong(row, DROPS.format(" and ".join(dropped)), DROPS_REMEDY)
        self._audit(row, ids, mask, decode=decode)
        return ids, mask

    def _add(self, found: Encoded, row: Row, *, decode: bool) -> None:
        ids, mask = self.audited(row, decode=decode)
        kept_ids, kept_mask = ids[: self._max_length], mask[: self._max_length]
        # The first token has no predecessor, so it never counts.
        if not any(kept_mask[1:]):
            found.prompt_too_long.append(row.place)
            return
        if sum(kept_mask) < sum(mask):
            found.answer_cut.append(row.place)
        labels = [token if counts else IGNORED for token, counts in zip(kept_ids, kept_mask, strict=True)]
        found.examples.append(Example(row, kept_ids, labels))

    def _marked_row(self, row: Row) -> tuple[list[int], list[bool]]:
        encoded = self._applied(row.messages, row.tools, return_dict=True, return_assistant_tokens_mask=True)
        mask = [bool(value) for value in encoded["assistant_masks"]]
        unlearnt = [index for index, message in enumerate(row.messages) if message.get("weight") == 0]
        if unlearnt:
            text = self._render(row, row.messages)
            offsets = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
            for start, end in (self._answer_span(row, text, index) for index in unlearnt):
                label_masks.unmark(mask, [start <= left < right <= end for left, right in offsets])
        ids = list(encoded["input_ids"])
        self._leave_blanks(ids, mask)
        return ids, mask

    def _leave_blanks(self, ids: list[int], mask: list[bool]) -> None:
        """Unmark the white space after the token that ends a turn: some templates mark the line break there too."""
        for first, last in label_masks.runs(mask):
            at = last
            while at > first and ids[at] not in self._end_ids and not self._tokenizer.decode([ids[at]]).strip():
                at -= 1
            if ids[at] in self._end_ids:
                mask[at + 1 : last + 1] = [False] * (last - at)

    def _unmarked_row(self, row: Row) -> tuple[list[int], list[bool]]:
        text = self._render(row, row.messages)
        encoded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids, offsets = list(encoded["input_ids"]), encoded["offset_mapping"]
        mask = [False] * len(ids)
        for index, message in enumerate(row.messages):
            if is_learnt(message):
                start, end = self._answer_span(row, text, index)
                inside = [at for at, (left, right) in enumerate(offsets) if start <= left < right <= end]
                for at in self._up_to_end_token(ids, inside):
                    mask[at] = True
        return ids, mask

    def _answer_span(self, row: Row, text: str, index: int) -> tuple[int, int]:
        """Return where in `text` the template put message `index`, from the prompt's end to the turn's end."""
        prompt = self._render(row, row.messages[:index], add_generation_prompt=True)
        turn = self._render(row, row.messages[: index + 1])
        if not (text.startswith(turn) and turn.startswith(prompt)):
            raise Refused(
                f"{row.place}: the base's chat template renders message {index} differently once more follow, so the "
                "answer's tokens cannot be found",
                remedy="Put {% generation %} … {% endgeneration %} around the answer in the base's chat template.",
            )
        return len(prompt), len(turn)

    def _up_to_end_token(self, ids: list[int], inside: list[int]) -> list[int]:
        """Return the positions up to the last end token: line breaks that templates put after it are not learned."""
        ends = [at for at in inside if ids[at] in self._end_ids]
        return [at for at in inside if at <= ends[-1]] if ends else inside

    def _audit(self, row: Row, ids: list[int], mask: list[bool], *, decode: bool) -> None:
        if not any(mask):
            raise wrong(row, "the chat template marks no token of the answer, so there is nothing to learn")
        unended = [last for _, last in label_masks.runs(mask) if ids[last] not in self._end_ids]
        if unended:
            token = self._tokenizer.convert_ids_to_tokens(ids[unended[0]])
            raise Refused(
                f"{row.place}: the answer ends in {token!r}, which ends no turn: the model would never learn to stop",
                remedy="Put the end-of-turn token inside the template's {% generation %}, or name it as eos_token.",
            )
        if decode:
            self._compare_text(row, ids, mask)

    def _compare_text(self, row: Row, ids: list[int], mask: list[bool]) -> None:
        """Check that the tokens that count spell the answers, whitespace aside."""
        learned = self._tokenizer.decode([token for token, counts in zip(ids, mask, strict=True) if counts])
        for message in row.messages:
            said = [message["content"], *(call["function"]["name"] for call in message.get("tool_calls", ()))]
            for text in said if is_learnt(message) else ():
                if _squeezed(text) not in _squeezed(learned):
                    raise wrong(row, f"the tokens that count spell {learned!r:.80}, the answer is {text!r:.80}")

    def _render(self, row: Row, messages: list[dict[str, Any]], *, add_generation_prompt: bool = False) -> str:
        applied = self._applied(messages, row.tools, tokenize=False, add_generation_prompt=add_generation_prompt)
        return str(applied)

    def _applied(self, messages: Messages, tools: Sequence[Any], **how: Any) -> Any:  # noqa: ANN401 - transformers' own
        """Return what the template makes of a row's messages: as the engine does, arguments are objects to it.

        It is told one date on every day, so that a run that is taken up after midnight trains on the same tokens.
        """
        try:
            return self._tokenizer.apply_chat_template(
                for_template(messages), tools=list(tools) or None, strftime_now=strftime_now, **how
            )
        except TypeError as error:  # a template that knows no tools may add texts to what is none
            raise TemplateError(f"it fails on this row: {error}") from error

    @cached_property
    def _left_out(self) -> set[str]:
        """The parts of tool use that the template drops without a word."""

        def render(messages: Messages, tools: Sequence[Any] | None) -> str:
            return str(self._applied(messages, tools or (), tokenize=False))

        return left_out_by(render, TemplateError)


def _squeezed(text: str) -> str:
    return "".join(text.split())


def encode_rows(add: Add, rows: Sequence[Row], name: str, max_length: int, report: Reporter) -> Encoded:
    """Return what `add` makes of the rows of file `name`; those that were left out or cut are told as events."""
    found = Encoded()
    for number, row in enumerate(rows):
        if number % 1000 == 0:
            report.raise_if_stopped()
        add(found, row, decode=number < _DECODED)
    left_out, cut = found.prompt_too_long, found.answer_cut
    _tell(report, name, "prompt_too_long", left_out, f"left out, prompt fills {max_length} tokens")
    _tell(report, name, "answer_cut", cut, f"cut at {max_length} tokens, their end is not learned")
    return found


def _tell(report: Reporter, name: str, type_: str, places: list[str], what: str) -> None:
    if places:
        listed = ", ".join(places[:3]) + (", …" if len(places) > 3 else "")  # noqa: PLR2004 - three are enough to look at
        report.event(
            type_,
            f"{len(places)} rows of {name} {what}: {listed}",
            severity=Severity.WARNING,
            dataset=name,
            rows=len(places),
            places=places[:_NAMED],
        )


def wrong(row: Row, why: str, remedy: str = "") -> InvalidData:
    """Return the error that names the row."""
    return InvalidData(f"{row.place}: {why}", remedy=remedy, violations=[Violation(row.place, why)])
