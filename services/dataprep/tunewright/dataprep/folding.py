"""Compiled: one pass over a block's texts that folds them to their normal forms and finds the tokens of the forms.

The form is `normalising.normalise`'s, text by text. A text whose form hangs on more than single characters (combining
marks, rare scripts) stops the pass: whoever runs it hands that form in and goes on. What is counted on the way: the
characters of each text, and the different ones of each row. Knows nothing of what any of it is used for.
"""

import numpy as np
from numpy.typing import NDArray

from tunewright.dataprep.characters import (
    ALONE,
    BEFORE_FINAL,
    BREAK,
    CJK,
    FINAL,
    LIMIT,
    SPACE,
    UNSAFE,
    WORD,
)
from tunewright.dataprep.compiling import compiled, nth
from tunewright.dataprep.hashing import mix
from tunewright.dataprep.parts import ASSISTANT, CHOSEN, REJECTED, ROLES, SYSTEM
from tunewright.dataprep.utf8 import ASCII, character, write

ROW, PART, USED, TOKENS, OPENED = range(5)
"""Places in `state`: row and part to go on with, bytes and tokens written, 1 if the form of that part is handed in."""
STATES = 5
POINTS = 0x110000

_PRIME = np.uint64(0x9E3779B97F4A7C15)
_UNIT, _RECORD = 0x1F, 0x1E
_NEWLINE, _RETURN, _TAB, _BLANK, _TICK, _TILDE, _SEMICOLON, _OPEN, _CLOSE = b"\n\r\t `~;{}"
_ZERO, _NINE, _BANG = b"09!"
_HARD = -1
_WIDE = 3
"""Bytes of an ideograph or kana."""
_ROLE_NAMES = np.frombuffer(b"".join(name.encode().ljust(16, b"\0") for name in ROLES), np.uint8).reshape(-1, 16)
_ROLE_LENGTHS = np.array([len(name) for name in ROLES])
_ANSWERS = np.zeros(16, np.bool_)
_ANSWERS[[ASSISTANT, CHOSEN, REJECTED]] = True
_KIND_BITS = 7


def _plain() -> NDArray[np.uint8]:
    """Return for each byte what an ASCII letter, digit or underscore is folded to; 0 for all others."""
    plain = np.zeros(256, np.uint8)
    for byte in b"abcdefghijklmnopqrstuvwxyz0123456789_ABCDEFGHIJKLMNOPQRSTUVWXYZ":
        plain[byte] = ord(chr(byte).lower())
    return plain


_PLAIN = _plain()
_PLAIN_KIND = WORD | BEFORE_FINAL
_IDEOGRAPH = WORD | BEFORE_FINAL | CJK | ALONE


def packed(kinds: NDArray[np.uint8], folded: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return for each code point what it is folded to and that one's kind, in one number; negative as in `folded`."""
    alone = folded >= 0
    both = folded.copy()
    both[alone] = (folded[alone] << _KIND_BITS) | kinds[folded[alone]]
    return both


@compiled
def fold_rows(
    data: NDArray[np.uint8],
    text_ends: NDArray[np.int64],
    breaks: NDArray[np.bool_],
    rows: NDArray[np.int64],
    roles: NDArray[np.uint8],
    kinds: NDArray[np.uint8],
    folds: NDArray[np.int32],
    expansions: NDArray[np.int32],
    given: NDArray[np.uint8],
    state: NDArray[np.int64],
    out: NDArray[np.uint8],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    row_starts: NDArray[np.int64],
    hashes: NDArray[np.uint64],
    answers: NDArray[np.bool_],
    token_ends: NDArray[np.int64],
    seen: NDArray[np.int32],
    distinct: NDArray[np.int64],
    sizes: NDArray[np.int64],
) -> None:
    """Go on from `state` to the end, or to the next text that cannot be folded here: its form is wanted in `given`."""
    part, used, tokens = state[PART], state[USED], state[TOKENS]
    opened = state[OPENED] != 0
    for row in range(state[ROW], len(rows)):
        first = rows[row - 1] if row else 0
        if part == first and not opened:
            row_starts[row] = used
        while part < rows[row]:
            start, end = text_ends[part - 1] if part else 0, text_ends[part]
            before = tokens
            if opened:
                used, tokens = _copy_given(given, kinds, out, used, hashes, tokens)
                distinct[row] += _count_distinct(data, start, end, seen, row + 1)
                sizes[part] = _count_characters(data, start, end)
                opened = False
            else:
                if part > first:
                    out[used] = _RECORD
                    used += 1
                used = _write_role(out, used, roles[part])
                starts[part] = used
                if breaks[part] and _is_code(data, start, end, kinds):
                    stop = _copy_lines(data, start, end, kinds, out, used)
                    tokens = _tokenise(out, used, stop, kinds, hashes, tokens)
                    distinct[row] += _count_distinct(data, start, end, seen, row + 1)
                    sizes[part] = _count_characters(data, start, end)
                    used = stop
                else:
                    stop, tokens, new, size = _fold_prose(
                        data, start, end, kinds, folds, expansions, out, used, hashes, tokens, seen, row + 1
                    )
                    distinct[row] += new
                    if stop == _HARD:
                        state[ROW], state[PART], state[USED], state[TOKENS], state[OPENED] = row, part, used, before, 1
                        return
                    used, sizes[part] = stop, size
            ends[part] = used
            tokens = _of_role(roles[part], hashes, answers, before, tokens)
            part += 1
        token_ends[row] = tokens
    state[ROW], state[PART], state[USED], state[TOKENS], state[OPENED] = len(rows), part, used, tokens, 0


@compiled
def _write_role(out: NDArray[np.uint8], used: int, role: int) -> int:
    length: int = _ROLE_LENGTHS[role]
    for at in range(length):
        out[used + at] = _ROLE_NAMES[role, at]
    out[used + length] = _UNIT
    return used + length + 1


@compiled
def _of_role(role: int, hashes: NDArray[np.uint64], answers: NDArray[np.bool_], before: int, tokens: int) -> int:
    """Mark the tokens of answers, make those of a rejected one other ones, leave out those of a system message."""
    if role == SYSTEM:
        return before
    answers[before:tokens] = _ANSWERS[role]
    if role == REJECTED:
        for at in range(before, tokens):
            hashes[at] = mix(hashes[at] ^ _PRIME)
    return tokens


@compiled
def _copy_given(
    given: NDArray[np.uint8],
    kinds: NDArray[np.uint8],
    out: NDArray[np.uint8],
    used: int,
    hashes: NDArray[np.uint64],
    tokens: int,
) -> tuple[int, int]:
    for at in range(len(given)):
        out[used + at] = given[at]
    return used + len(given), _tokenise(out, used, used + len(given), kinds, hashes, tokens)


@compiled
def _fold_prose(  # noqa: C901, PLR0912, PLR0915 - one pass over the characters
    data: NDArray[np.uint8],
    start: int,
    end: int,
    kinds: NDArray[np.uint8],
    folds: NDArray[np.int32],
    expansions: NDArray[np.int32],
    out: NDArray[np.uint8],
    begin: int,
    hashes: NDArray[np.uint64],
    first_token: int,
    seen: NDArray[np.int32],
    stamp: int,
) -> tuple[int, int, int, int]:
    """Fold single characters; keep one space where there were some, none beside CJK; drop final punctuation of words.

    Return where the form and the tokens end, the characters that the row had not yet, and the text's characters. What
    ends a word's punctuation is known only behind it: then form and tokens are taken back to `run`, where it began.
    """
    at, used, tokens, new, further = start, begin, first_token, 0, 0
    word, last, kind, run, run_tokens = np.uint64(0), np.int64(0), np.int64(0), -1, 0
    space_due = after_cjk = False
    while at < end:
        byte = data[nth(at)]
        if _PLAIN[byte]:
            if space_due and used > begin and not kind & CJK:
                used, tokens = _write_blank(out, used, tokens, run, run_tokens)
                last = np.int64(_BLANK)
            at, used, word, fresh = _fold_word(data, at, end, out, used, word, seen, stamp)
            kind, run, space_due, after_cjk, new = np.int64(_PLAIN_KIND), -1, False, False, new + fresh
            if at == end or data[nth(at)] < ASCII:
                tokens, word, last = _end_word(hashes, tokens, word, last)
                if at < end and data[nth(at)] == _BLANK:
                    new += seen[_BLANK] != stamp
                    seen[_BLANK] = stamp
                    at, space_due = at + 1, True
            continue
        point, size = character(data, at)
        new += seen[nth(point)] != stamp
        seen[nth(point)] = stamp
        at += size
        further += size - 1
        if point == _BLANK:
            tokens, word, last = _end_word(hashes, tokens, word, last)
            space_due, after_cjk = True, False
        elif size == _WIDE and folds[nth(point)] == (point << _KIND_BITS | _IDEOGRAPH):
            tokens, word, last = _end_word(hashes, tokens, word, last)
            for place in range(_WIDE):
                out[nth(used + place)] = data[nth(at - _WIDE + place)]
            used += _WIDE
            hashes[nth(tokens)] = mix(np.uint64(point))
            tokens += 1
            last, kind, run, space_due, after_cjk = point, np.int64(_IDEOGRAPH), -1, False, True
        else:
            if point >= LIMIT or folds[nth(point)] == UNSAFE:
                return _HARD, tokens, new, 0
            fold, where = np.int64(folds[nth(point)]), np.int64(0)
            count = np.int64(1)
            if fold < 0:
                where = -2 - fold
                count = np.int64(expansions[where])
            if after_cjk and size == 1 and kinds[point] & FINAL:
                fold = np.int64(_BLANK << _KIND_BITS | SPACE)
            after_cjk = (kinds[point] & CJK) != 0
            for index in range(count):
                if count > 1:
                    fold = np.int64(expansions[where + 1 + index])
                    fold = fold << _KIND_BITS | kinds[fold]
                used, tokens, word, last, kind, run, run_tokens, space_due = _write_other(
                    fold, out, begin, used, hashes, tokens, word, last, kind, run, run_tokens, space_due
                )
    if run >= 0:
        used, tokens = run, run_tokens
    tokens, word, last = _end_word(hashes, tokens, word, last)
    return used, tokens, new, end - start - further


@compiled
def _fold_word(
    data: NDArray[np.uint8],
    at: int,
    end: int,
    out: NDArray[np.uint8],
    used: int,
    word: np.uint64,
    seen: NDArray[np.int32],
    stamp: int,
) -> tuple[int, int, np.uint64, int]:
    """Write a run of ASCII letters and digits; it goes on with `word`, the hash of what stands before it."""
    byte = data[nth(at)]
    low, new = _PLAIN[byte], 0
    while low:
        new += seen[byte] != stamp
        seen[byte] = stamp
        out[nth(used)] = low
        used += 1
        word = (word ^ np.uint64(low)) * _PRIME
        at += 1
        if at == end:
            break
        byte = data[nth(at)]
        low = _PLAIN[byte]
    return at, used, word, new


@compiled
def _end_word(
    hashes: NDArray[np.uint64], tokens: int, word: np.uint64, last: np.int64
) -> tuple[int, np.uint64, np.int64]:
    """Write a word's token if one was begun; there is no symbol before what follows then."""
    if word:
        hashes[nth(tokens)] = mix(word)
        return tokens + 1, np.uint64(0), np.int64(0)
    return tokens, word, last


@compiled
def _write_blank(out: NDArray[np.uint8], used: int, tokens: int, run: int, run_tokens: int) -> tuple[int, int]:
    """Write the space that is due, in the place of final punctuation if that stands there."""
    if run >= 0:
        used, tokens = run, run_tokens
    out[nth(used)] = _BLANK
    return used + 1, tokens


@compiled
def _write_other(
    fold: np.int64,
    out: NDArray[np.uint8],
    begin: int,
    used: int,
    hashes: NDArray[np.uint64],
    tokens: int,
    word: np.uint64,
    last: np.int64,
    kind: np.int64,
    run: int,
    run_tokens: int,
    space_due: bool,  # noqa: FBT001 - of compiled code
) -> tuple[int, int, np.uint64, np.int64, np.int64, int, int, bool]:
    """Write any one folded character; return what became of the state of `_fold_prose`."""
    point, own = fold >> _KIND_BITS, fold & ((1 << _KIND_BITS) - 1)
    if own & ALONE or not own & WORD:
        tokens, word, last = _end_word(hashes, tokens, word, last)
    if own & SPACE:
        return used, tokens, word, last, kind, run, run_tokens, True
    if space_due and used > begin and not (kind | own) & CJK:
        used, tokens = _write_blank(out, used, tokens, run, run_tokens)
        last, kind, run = np.int64(_BLANK), np.int64(SPACE), -1
    if point >= ASCII or not own & FINAL:
        run = -1
    elif run < 0 and kind & BEFORE_FINAL and not (point == _BANG and _ZERO <= out[used - 1] <= _NINE):
        run, run_tokens = used, tokens
    used = write(out, used, point)
    if own & WORD and not own & ALONE:
        word = (word ^ np.uint64(point)) * _PRIME
    else:
        if own & ALONE or point != last:
            hashes[nth(tokens)] = mix(np.uint64(point))
            tokens += 1
        last = point
    return used, tokens, word, last, own, run, run_tokens, False


@compiled
def _is_code(data: NDArray[np.uint8], start: int, end: int, kinds: NDArray[np.uint8]) -> bool:
    """Return what `normalising.is_code` does: a line break, and a fence, an indented line or one that ends as code."""
    line, breaks, code_end = start, False, False
    while line <= end:
        if _line_begins_as_code(data, line, end, kinds):
            code_end = True
        at = line
        while at < end and data[at] != _NEWLINE:
            at += 1
        if at > line and (data[at - 1] == _SEMICOLON or data[at - 1] == _OPEN or data[at - 1] == _CLOSE):
            code_end = True
        breaks = breaks or at < end
        if code_end and breaks:
            return True
        line = at + 1
    return False


@compiled
def _line_begins_as_code(data: NDArray[np.uint8], line: int, end: int, kinds: NDArray[np.uint8]) -> bool:
    at = line
    while at < end and data[at] == _BLANK:
        at += 1
    indented = at - line > 1 or (at == line and at < end and data[at] == _TAB)
    if indented and data[at if at > line else min(at, end - 1)] == _TAB and at == line:
        at += 1
    if indented and at < end:
        point, _ = character(data, at)
        if point >= LIMIT or not kinds[point] & SPACE:
            return True
    while at < end and (data[at] == _BLANK or data[at] == _TAB):
        at += 1
    fence = data[at] if at + 2 < end else 0
    return fence in (_TICK, _TILDE) and data[at + 1] == fence and data[at + 2] == fence


@compiled
def _copy_lines(
    data: NDArray[np.uint8], start: int, end: int, kinds: NDArray[np.uint8], out: NDArray[np.uint8], begin: int
) -> int:
    """Copy what stands before the spaces at each line's end; line ends become one newline, the last is left out."""
    used, at, kept = begin, start, begin
    while at < end:
        point, size = character(data, at)
        kind = kinds[point] if point < LIMIT else 0
        if kind & BREAK:
            if point == _RETURN and at + 1 < end and data[at + 1] == _NEWLINE:
                size = 2
            used = kept
            if at + size < end:
                out[used] = _NEWLINE
                used += 1
            kept = used
        else:
            for index in range(size):
                out[used + index] = data[at + index]
            used += size
            if not kind & SPACE:
                kept = used
        at += size
    return kept


@compiled
def _tokenise(
    data: NDArray[np.uint8],
    start: int,
    end: int,
    kinds: NDArray[np.uint8],
    hashes: NDArray[np.uint64],
    used: int,
) -> int:
    """Write the tokens of a form; `_fold_prose` finds the same on its way."""
    size: int
    word, in_word, at, last = np.uint64(0), False, start, np.int64(0)
    while at < end:
        point, size = character(data, at)
        kind = kinds[point] if point < LIMIT else np.uint8(WORD | ALONE)
        at += size
        if kind & WORD and not kind & ALONE:
            word = (word ^ np.uint64(point)) * _PRIME
            in_word = True
            continue
        if in_word:
            hashes[used] = mix(word)
            used += 1
            word, in_word, last = np.uint64(0), False, np.int64(0)
        if not kind & SPACE and (kind & ALONE or point != last):
            hashes[used] = mix(np.uint64(point))
            used += 1
        last = point
    if in_word:
        hashes[used] = mix(word)
        used += 1
    return used


@compiled
def _count_distinct(data: NDArray[np.uint8], start: int, end: int, seen: NDArray[np.int32], stamp: int) -> int:
    """Return the characters of a text that the row had not yet, and note them."""
    at, count = start, 0
    while at < end:
        point, size = character(data, at)
        if seen[point] != stamp:
            seen[point] = stamp
            count += 1
        at += size
    return count


@compiled
def _count_characters(data: NDArray[np.uint8], start: int, end: int) -> int:
    count = 0
    for at in range(start, end):
        count += (data[at] & 0xC0) != ASCII
    return count
