"""Which tokens of a conversation are the assistant's: found by asking the engine itself, so no template is read here.

A turn's answer starts where the prompt before it, ended by the generation marker, ends; it ends with the turn. Both
must be true prefixes of the whole conversation. The line break that ChatML templates write after the end of a turn is
left out: the model stops at the end token, and training does not teach what comes after it. Knows nothing of losses.
"""

from dataclasses import dataclass

from tunewright.chassis.errors import Refused
from tunewright.evaluator.client import Endpoint, Tokens
from tunewright.evaluator.heldout import Row

_BLANK = str.maketrans({"Ġ": " ", "Ċ": "\n", "▁": " ", "č": "\r", "ĉ": "\t"})
"""How byte-level and SentencePiece vocabularies spell white space."""


@dataclass(frozen=True, slots=True)
class Tokenized:
    """A row as one engine reads it."""

    ids: list[int]
    spans: list[tuple[int, int]]
    """[start, end) of each answer; the turn's end token is inside."""
    left_out: int
    """Earlier answers that the template writes otherwise once more turns follow, and which are not scored therefore."""
    max_model_len: int

    def cut(self, limit: int) -> "Tokenized":
        """Return the beginning of a document, `limit` tokens at most."""
        ids = self.ids[:limit]
        return Tokenized(ids, [(1, len(ids))], 0, self.max_model_len)

    @property
    def answer_tokens(self) -> int:
        """Tokens that are scored."""
        return sum(end - start for start, end in self.spans)


async def tokenize_row(endpoint: Endpoint, row: Row) -> Tokenized:
    """Return the row's tokens and where its answers lie; of a document, all tokens but the first count.

    Raises:
        Refused: the template breaks the prefix property at the last answer, so no token can be called the answer's.
    """
    if row.text:
        read = await endpoint.tokenize_text(row.text)
        return Tokenized(read.ids, [(1, len(read.ids))], 0, read.max_model_len)
    last = row.answers[-1]
    whole = await endpoint.tokenize(row.turns(last + 1), row.tools, generate=False, strings=True)
    spans: list[tuple[int, int]] = []
    for place in row.answers:
        ended = whole
        if place != last:
            ended = await endpoint.tokenize(row.turns(place + 1), row.tools, generate=False, strings=True)
        prompt = await endpoint.tokenize(row.turns(place), row.tools, generate=True)
        span = _span(whole, prompt, ended, row.messages[place].content)
        if span is None and place == last:
            raise Refused(
                f"row {row.id[:12]}: {endpoint.target.served_model_name}'s chat template writes the prompt before the "
                "answer otherwise than within the conversation, so the answer's tokens cannot be told apart",
                remedy="Use a chat template whose generation prompt is the beginning of the assistant's turn.",
            )
        if span is not None:
            spans.append(span)
    return Tokenized(whole.ids, spans, len(row.answers) - len(spans), whole.max_model_len)


def _span(whole: Tokens, prompt: Tokens, ended: Tokens, content: str) -> tuple[int, int] | None:
    start, end = len(prompt.ids), len(ended.ids)
    if whole.ids[:start] != prompt.ids or whole.ids[:end] != ended.ids:
        return None
    if content == content.rstrip():
        while end > start and _is_blank(ended.strings[end - 1]):
            end -= 1
    return (start, end) if end > start else None


def _is_blank(token: str) -> bool:
    return not token.translate(_BLANK).strip()
