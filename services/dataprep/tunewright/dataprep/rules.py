"""All rules of a block of rows in one call: cleaning, personal data, filters. Guards first, work only where one fires.

The outcome is what it would be if every rule looked at every text (`everywhere=True` does that, and a test compares).
Knows nothing of files, blocks' origin, counts and duplicates.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import compress

import numpy as np
import numpy.typing as npt

from tunewright.dataprep import guards, languages, measuring, quality, repeated_lines, repetition, scanning
from tunewright.dataprep.cleaning import ANSWERS, EDGED, RULES, clean_messages, cleaning_flags
from tunewright.dataprep.filters import Rejection, is_judged, reject_answer, reject_raw, reject_size
from tunewright.dataprep.json_texts import is_json
from tunewright.dataprep.pii.finding import KINDS
from tunewright.dataprep.pii.masking import WORDS, mask, mask_json, masked_calls
from tunewright.dataprep.pii.naming import masked_names
from tunewright.dataprep.scan_tables import Flags
from tunewright.dataprep.shapes import Message
from tunewright.dataprep.spec import DataprepSpec
from tunewright.dataprep.tool_use import TOOLS

RULE_WORDS = {
    **RULES,
    repeated_lines.RULE: repeated_lines.WORDS,
    **{f"pii_{kind}": f"{words} replaced by a placeholder" for kind, words in WORDS.items()},
}
"""Rule → what it does to a row, in words for people."""

_PLAIN_FIELDS = 2
"""Role and content; a message that calls a tool, or answers it, has further ones."""
_WORDED = guards.BOILERPLATE | guards.REFUSAL | guards.GARBLED | guards.MOJIBAKE


@dataclass(slots=True)
class Treatment:
    """What the rules made of a block; rows go by their number in it."""

    rows: list[list[Message]]
    """Clean and masked; the very list that came in where nothing changed. Rejected rows are among them."""
    changes: dict[int, dict[str, int]] = field(default_factory=dict)
    """Changed row → rule → the first message it changed."""
    rejections: dict[int, Rejection] = field(default_factory=dict)
    markup_left: list[int] = field(default_factory=list)
    """Rows whose markup stayed because it is their subject."""
    quality: npt.NDArray[np.float32] = field(default_factory=lambda: np.ones(0, np.float32))
    """Score of each row, 0 to 1; see `quality.py`."""
    masked: Counter[str] = field(default_factory=Counter)
    """Kind of personal data → places masked."""
    encoded: list[bytes] = field(default_factory=list)
    """The texts of all messages of all rows in UTF-8."""
    raw_sizes: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """Characters of all messages of all rows as they came in."""

    def encoded_of(self, numbers: Sequence[int]) -> list[bytes]:
        """Return the texts of some rows in UTF-8, one after the other."""
        counts = np.fromiter(map(len, self.rows), np.int64, len(self.rows))
        chosen = np.zeros(len(self.rows), np.bool_)
        chosen[numbers] = True
        return list(compress(self.encoded, np.repeat(chosen, counts).tolist()))


def _is_answer(message: Message) -> bool:
    return message["role"] in ANSWERS


class _Texts:
    """All texts of a block in one list, with their flags and the row that each belongs to."""

    def __init__(self, rows: Sequence[list[Message]], *, everywhere: bool) -> None:
        self.texts = [message["content"] or "" for row in rows for message in row]
        self.counts = np.fromiter(map(len, rows), np.int64, len(rows))
        self.starts = np.cumsum(self.counts) - self.counts
        self.owners = np.repeat(np.arange(len(rows)), self.counts)
        self.has_calls = any(len(message) != _PLAIN_FIELDS for row in rows for message in row)
        judged = is_judged if self.has_calls else _is_answer
        self.answers = np.array([judged(message) for row in rows for message in row], np.bool_)
        self.pairs = rows[0][-1]["role"] == "rejected"
        self._everywhere = everywhere
        self.encoded = scanning.encode(self.texts)
        self.flags = self._scan(self.encoded)

    def _scan(self, encoded: list[bytes]) -> Flags:
        if self._everywhere:
            return np.full(len(encoded), guards.EVERYTHING, np.uint32)
        return scanning.scan_encoded(encoded)

    def renew(self, rows: list[list[Message]], numbers: Sequence[int]) -> None:
        """Take the texts of changed rows again."""
        places = [int(self.starts[number]) + index for number in numbers for index in range(len(rows[number]))]
        fresh = [message["content"] or "" for number in numbers for message in rows[number]]
        encoded = scanning.encode(fresh)
        for place, text, data in zip(places, fresh, encoded, strict=True):
            self.texts[place], self.encoded[place] = text, data
        self.flags[places] = self._scan(encoded)

    def flags_of(self, number: int) -> list[int] | None:
        """Return the flags of a row's texts; None where every rule is to look at them."""
        first = int(self.starts[number])
        return None if self._everywhere else self.flags[first : first + int(self.counts[number])].tolist()

    def role(self, place: int, rows: Sequence[list[Message]]) -> str:
        """Return the role of one text."""
        owner = int(self.owners[place])
        return rows[owner][place - int(self.starts[owner])]["role"]

    def sizes(self) -> npt.NDArray[np.int64]:
        """Return each text's length in characters."""
        return np.fromiter(map(len, self.texts), np.int64, len(self.texts))

    def flagged(self, mask: int, *, answers: bool = False) -> list[int]:
        """Return the numbers of texts with one of the flags."""
        chosen = (self.flags & mask) != 0
        return [int(place) for place in np.flatnonzero(chosen & self.answers if answers else chosen)]


def warm() -> None:
    """Compile all passes, or load them from the cache."""
    scanning.warm()
    measuring.warm()


def apply(rows: Sequence[list[Message]], spec: DataprepSpec, *, everywhere: bool = False) -> Treatment:
    """Return what the rules make of the rows; `everywhere` runs every rule on every text, whatever the guards say."""
    done = Treatment(list(rows))
    if not rows:
        return done
    texts = _Texts(rows, everywhere=everywhere)
    done.raw_sizes = texts.sizes()
    for number in np.flatnonzero(_by_row(texts, done.raw_sizes) > spec.filters.max_chars):
        if rejection := reject_raw(rows[number], spec):
            done.rejections[int(number)] = rejection
    _clean(texts, spec, done)
    _mask(texts, spec, done)
    _reject_sizes(texts, spec, done)
    _reject_words(texts, spec, done)
    _reject_form(texts, spec, done)
    if spec.filters.languages:
        _reject_languages(texts, spec, done)
    done.encoded = texts.encoded
    return done


def _by_row(texts: _Texts, values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.bincount(texts.owners, weights=values, minlength=len(texts.counts)).astype(np.int64)


def _clean(texts: _Texts, spec: DataprepSpec, done: Treatment) -> None:
    places = texts.flagged(cleaning_flags(spec.cleaning, is_answer=False))
    if spec.cleaning.boilerplate_lines:
        places += [place for place in texts.flagged(guards.BOILERPLATE) if texts.role(place, done.rows) in EDGED]
    for number in sorted({int(texts.owners[place]) for place in places} - done.rejections.keys()):
        cleaned = clean_messages(done.rows[number], spec.cleaning, texts.flags_of(number))
        if cleaned.markup_left:
            done.markup_left.append(number)
        if cleaned.rules:
            done.rows[number] = cleaned.messages
            done.changes[number] = cleaned.rules
    if done.changes:
        texts.renew(done.rows, list(done.changes))


def _mask(texts: _Texts, spec: DataprepSpec, done: Treatment) -> None:
    if all(getattr(spec.pii, kind) == "keep" for kind in KINDS):
        return
    changed = dict.fromkeys(_mask_names(texts, spec, done))
    if changed:
        texts.renew(done.rows, list(changed))
    changed |= dict.fromkeys(_mask_calls(spec, done) if texts.has_calls else ())
    escaped = {place for place, text in enumerate(texts.texts) if "\\" in text and is_json(text)}
    for place in sorted({*texts.flagged(guards.PII), *escaped}):
        number = int(texts.owners[place])
        if number in done.rejections:
            continue
        text = texts.texts[place]
        masked = mask_json(text, spec.pii) if place in escaped else mask(text, spec.pii, int(texts.flags[place]))
        if masked.drop:
            done.rejections[number] = Rejection(f"pii_{masked.drop}", WORDS[masked.drop])
        elif masked.kinds:
            index = place - int(texts.starts[number])
            messages = list(done.rows[number])
            messages[index] = {**messages[index], "content": masked.text}
            done.rows[number] = messages
            done.masked.update(masked.kinds)
            for kind in masked.kinds:
                done.changes.setdefault(number, {}).setdefault(f"pii_{kind}", index)
            changed[number] = None
    if changed:
        texts.renew(done.rows, list(changed))


def _mask_names(texts: _Texts, spec: DataprepSpec, done: Treatment) -> Iterator[int]:
    """Mask names of functions and ids of calls; yield the rows that were changed."""
    personal = (texts.flags & guards.PII) != 0
    for number, row in enumerate(done.rows):
        defined = row[0]["role"] == TOOLS and bool(personal[texts.starts[number]])
        if number in done.rejections or not (defined or (texts.has_calls and any(map(_has_names, row)))):
            continue
        messages, found, first = masked_names(row, spec.pii, defined=defined)
        if found.drop:
            done.rejections[number] = Rejection(f"pii_{found.drop}", WORDS[found.drop])
        elif found.kinds:
            done.rows[number] = messages
            done.masked.update(found.kinds)
            for kind in found.kinds:
                done.changes.setdefault(number, {}).setdefault(f"pii_{kind}", first)
            yield number


def _has_names(message: Message) -> bool:
    return len(message) != _PLAIN_FIELDS


def _mask_calls(spec: DataprepSpec, done: Treatment) -> Iterator[int]:
    """Mask the arguments of calls; yield the rows that were changed."""
    for number, row in enumerate(done.rows):
        for index, message in enumerate(row):
            if number in done.rejections or not message.get("tool_calls"):
                continue
            calls, found = masked_calls(message["tool_calls"], spec.pii)
            if found.drop:
                done.rejections[number] = Rejection(f"pii_{found.drop}", WORDS[found.drop])
            elif found.kinds:
                done.rows[number] = [*done.rows[number][:index], {**message, "tool_calls": calls}, *row[index + 1 :]]
                done.masked.update(found.kinds)
                for kind in found.kinds:
                    done.changes.setdefault(number, {}).setdefault(f"pii_{kind}", index)
                yield number


def _reject_sizes(texts: _Texts, spec: DataprepSpec, done: Treatment) -> None:
    sizes = texts.sizes()
    total, answers = _by_row(texts, sizes), _by_row(texts, sizes * texts.answers)
    empty = _by_row(texts, (sizes == 0).astype(np.int64))
    filters = spec.filters
    unfit = (empty > 0) | (answers < filters.min_answer_chars) | (total > filters.max_chars) | texts.pairs
    for number in np.flatnonzero(unfit):
        if rejection := reject_size(done.rows[number], filters):
            done.rejections.setdefault(int(number), rejection)


def _reject_words(texts: _Texts, spec: DataprepSpec, done: Treatment) -> None:
    for place in texts.flagged(_WORDED, answers=True):
        number = int(texts.owners[place])
        if number not in done.rejections:
            questions = [message["content"] for message in done.rows[number] if message["role"] == "user"]
            flags = int(texts.flags[place])
            if rejection := reject_answer(texts.texts[place], questions, spec.filters, flags):
                done.rejections[number] = rejection


def _reject_form(texts: _Texts, spec: DataprepSpec, done: Treatment) -> None:
    places = np.flatnonzero(texts.answers)
    measures = measuring.measure_encoded([texts.encoded[place] for place in places])
    scores = quality.score(measures)
    done.quality = np.ones(len(texts.counts), np.float32)
    np.minimum.at(done.quality, texts.owners[places], scores)
    if spec.filters.repetition:
        for index in np.flatnonzero(repetition.excess(measures) > 1):
            rejection = Rejection("repetition", repetition.words(measures[index]))
            done.rejections.setdefault(int(texts.owners[places[index]]), rejection)
    least = spec.filters.min_quality
    for number in np.flatnonzero(done.quality < least):
        rejection = Rejection("low_quality", f"{done.quality[number]:.2f}; min_quality is {least:.2f}")
        done.rejections.setdefault(int(number), rejection)


def _reject_languages(texts: _Texts, spec: DataprepSpec, done: Treatment) -> None:
    wanted = frozenset(spec.filters.languages)
    places = [place for place in np.flatnonzero(texts.answers) if int(texts.owners[place]) not in done.rejections]
    for place, name in zip(places, languages.identify([texts.texts[place] for place in places]), strict=True):
        if name and name not in wanted:
            done.rejections.setdefault(int(texts.owners[place]), Rejection("language", f"the answer is in {name}"))
