"""Rows to token ids and to the mask of tokens that the loss will count, by the base's own tokenizer and template.

The same rule as the trainer's, which a contract test holds equal: where the template marks answers
(`{% generation %}`), the marks are taken; where it does not, an answer is what the template adds between the prompt of
that turn and the turn's end. Reads the tokenizer's files only; never loads a model library.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2.exceptions import TemplateError
from tokenizers import Encoding, Tokenizer

from tunewright.artifacts import label_masks
from tunewright.artifacts.conversations import DROPS, DROPS_REMEDY, asks_for_date, is_learnt
from tunewright.chassis.errors import InvalidData, Refused, TunewrightError
from tunewright.dataprep.chat_template import ChatTemplate, load_template, read_json, special_tokens
from tunewright.dataprep.tool_use import TOOLS

_READ = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")
TEXT = "text"
"""Role of a document for continued pre-training: every token of it counts."""
CHOSEN, REJECTED = "chosen", "rejected"
"""Roles of the two answers that end a preference pair."""
# Ends of an assistant's turn in the chat templates of the field; the trainer knows the same ones.
TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "<|eot|>", "<|end_of_turn|>", "</s>")

Messages = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Labelled:
    """A row as the model will see it, uncut."""

    text: str
    """The rendered conversation."""
    ids: list[int]
    mask: list[bool]
    """True where the loss counts the token."""
    offsets: list[tuple[int, int]]
    """Where each token lies in `text`."""


class BaseTokenizer:
    """Tokenizer, template and turn ends of one base.

    Raises:
        InvalidData: the folder holds no tokenizer.json, or a damaged one.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise InvalidData(
                "the base has no tokenizer.json, so its tokens cannot be counted before training",
                remedy="Save the tokenizer in its fast form (tokenizer.json) and import the base again.",
            )
        self.files = {name: (folder / name).read_bytes() for name in _READ if (folder / name).is_file()}
        """Name → bytes of all that was read of the folder."""
        data = self.files[path.name]
        self.sha256 = hashlib.sha256(data).hexdigest()
        self.source = data.decode("utf-8")
        try:
            self.tokenizer = Tokenizer.from_str(self.source)
        except Exception as error:  # the library raises nothing narrower
            raise InvalidData(f"the base's tokenizer.json does not load: {error}") from error
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.template = load_template(folder)
        config = read_json(folder / "tokenizer_config.json")
        self.end_token = special_tokens(config).get("eos_token", "")
        self.end_id = self.tokenizer.token_to_id(self.end_token) if self.end_token else None
        self.end_ids = self._end_ids(read_json(folder / "generation_config.json"))

    @property
    def template_sha256(self) -> str:
        """SHA-256 of the chat template's text; empty if there is none."""
        return hashlib.sha256(self.template.source.encode()).hexdigest() if self.template else ""

    @property
    def asks_for_date(self) -> bool:
        """Whether the template writes the day's date into every row."""
        return bool(self.template and asks_for_date(self.template.source))

    @property
    def rule(self) -> str:
        """How the learned tokens are found: `marked` by the template, or `by_turns`."""
        return "marked" if self.template and self.template.marked else "by_turns"

    def label(self, messages: Messages) -> Labelled:
        """Return the row's tokens and which of them are learned.

        Raises:
            InvalidData: the template refuses the conversation, or marks nothing of the answer.
            Refused: the base has no template, or its template cannot teach the model to stop.
        """
        if messages[0]["role"] == TEXT:
            return self._document(str(messages[0]["content"]))
        template = self._template()
        try:
            labelled = self._marked(template, messages) if template.marked else self._by_turns(template, messages)
        except TemplateError as error:
            raise InvalidData(
                f"the base's chat template refuses the conversation: {error}",
                remedy="Change the rows (a system message, the order of turns), or take another base.",
            ) from error
        if dropped := template.dropped_of(messages):
            raise InvalidData(DROPS.format(" and ".join(dropped)), remedy=DROPS_REMEDY)
        self._check(labelled)
        return labelled

    def words(self, ids: Sequence[int]) -> list[str]:
        """Return the tokens' own names."""
        return [self.tokenizer.id_to_token(token) or "" for token in ids]

    def _template(self) -> ChatTemplate:
        if self.template is None:
            raise InvalidData(
                "the base has no chat template, so nobody can say what a conversation looks like to it",
                remedy="Take an instruction-tuned base, or put a chat_template.jinja into the model's folder.",
            )
        return self.template

    def _document(self, text: str) -> Labelled:
        encoded = self.tokenizer.encode(text)
        ids, offsets = list(encoded.ids), list(encoded.offsets)
        if self.end_id is not None and ids[-1:] != [self.end_id]:
            ids.append(self.end_id)
            offsets.append((len(text), len(text)))
        return Labelled(text, ids, [True] * len(ids), offsets)

    def _marked(self, template: ChatTemplate, messages: Messages) -> Labelled:
        text, spans = template.render_marked(messages)
        encoded = self.tokenizer.encode(text, add_special_tokens=False)
        mask = [False] * len(encoded.ids)
        for start, end in spans:
            first, last = encoded.char_to_token(start), encoded.char_to_token(end - 1)
            if first is None:  # transformers stops here too
                break
            for at in range(first, (last if last is not None else len(mask) - 1) + 1):
                mask[at] = True
        self._leave_blanks(encoded.ids, mask)
        for index, message in enumerate(messages):
            if message.get("weight") == 0:
                start, end = _answer_span(template, messages, text, index)
                label_masks.unmark(mask, [start <= left < right <= end for left, right in encoded.offsets])
        return _labelled(text, encoded, mask)

    def _leave_blanks(self, ids: Sequence[int], mask: list[bool]) -> None:
        """Unmark the white space after the token that ends a turn: some templates mark the line break there too."""
        for first, last in label_masks.runs(mask):
            at = last
            while at > first and ids[at] not in self.end_ids and not self.tokenizer.decode([ids[at]]).strip():
                at -= 1
            if ids[at] in self.end_ids:
                mask[at + 1 : last + 1] = [False] * (last - at)

    def _by_turns(self, template: ChatTemplate, messages: Messages) -> Labelled:
        text = template.render(messages)
        encoded = self.tokenizer.encode(text, add_special_tokens=False)
        mask = [False] * len(encoded.ids)
        for index, message in enumerate(messages):
            if is_learnt(message):
                start, end = _answer_span(template, messages, text, index)
                inside = [at for at, (left, right) in enumerate(encoded.offsets) if start <= left < right <= end]
                ends = [at for at in inside if encoded.ids[at] in self.end_ids]
                for at in inside:
                    mask[at] = not ends or at <= ends[-1]
        return _labelled(text, encoded, mask)

    def _check(self, labelled: Labelled) -> None:
        if not any(labelled.mask):
            raise InvalidData(
                "the chat template marks no token of the answer, so there is nothing to learn",
                remedy="Put {% generation %} … {% endgeneration %} around the answer in the base's chat template.",
            )
        for _, last in label_masks.runs(labelled.mask):
            if labelled.ids[last] not in self.end_ids:
                token = self.tokenizer.id_to_token(labelled.ids[last])
                raise Refused(
                    f"the answer ends in {token!r}, which ends no turn: the model would never learn to stop",
                    remedy="Put the end-of-turn token inside the template's {% generation %}, or name it as eos_token.",
                )

    def _end_ids(self, generation: Mapping[str, Any]) -> set[int]:
        listed = generation.get("eos_token_id")
        served = listed if isinstance(listed, list) else [listed]
        special = {
            token.content: number
            for number, token in self.tokenizer.get_added_tokens_decoder().items()
            if token.special
        }
        known = [special.get(text) for text in TURN_ENDS]
        return {token for token in (self.end_id, *served, *known) if token is not None}


def conversations_of(messages: Messages) -> list[Messages]:
    """Return the conversations that a row is to the trainer: itself, or one with each answer of a preference pair."""
    if messages[-1]["role"] != REJECTED:
        return [messages]
    *prompt, chosen, rejected = messages
    return [[*prompt, {**answer, "role": "assistant"}] for answer in (chosen, rejected)]


def refusal_of(error: TunewrightError) -> dict[str, str]:
    """Return why a base was refused, for a report."""
    return {"why": error.message, "remedy": error.remedy}


def _labelled(text: str, encoded: Encoding, mask: list[bool]) -> Labelled:
    return Labelled(text, list(encoded.ids), mask, list(encoded.offsets))


def _answer_span(template: ChatTemplate, messages: Messages, text: str, index: int) -> tuple[int, int]:
    """Return where in `text` the template put message `index`, from the prompt's end to the turn's end."""
    prompt = template.render(messages[:index], add_generation_prompt=True)
    turn = template.render(messages[: index + 1])
    if not (text.startswith(turn) and turn.startswith(prompt)):
        own = messages[0]["role"] == TOOLS  # no message to those who wrote the row
        raise Refused(
            f"the base's chat template renders message {index - own} differently once more follow, so the answer's "
            "tokens cannot be found",
            remedy="Put {% generation %} … {% endgeneration %} around the answer in the base's chat template.",
        )
    return len(prompt), len(turn)
