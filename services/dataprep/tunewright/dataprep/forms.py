"""The normal forms of many texts at once, compiled; equal to `normalising.normalise`, text by text.

Texts whose form hangs on more than single characters (combining marks, rare scripts) are given to `normalise` itself.
Knows nothing of what forms are used for.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tunewright.dataprep.characters import (
    BEFORE_FINAL,
    BREAK,
    CJK,
    FINAL,
    LIMIT,
    SPACE,
    UNSAFE,
    tables,
)
from tunewright.dataprep.compiling import compiled
from tunewright.dataprep.normalising import normalise
from tunewright.dataprep.parts import ROLES, Parts
from tunewright.dataprep.utf8 import ASCII, character, write

PROSE, CODE, DONE, HARD = 0, 1, 2, 3
"""How a text becomes its form: folded, kept but for line ends, copied, by Python."""

_UNIT, _RECORD = 0x1F, 0x1E
_NEWLINE, _RETURN, _TAB, _BLANK, _TICK, _TILDE, _SEMICOLON, _OPEN, _CLOSE = b"\n\r\t `~;{}"
_ZERO, _NINE, _BANG = b"09!"
_ROLE_NAMES = np.frombuffer(b"".join(name.encode().ljust(16, b"\0") for name in ROLES), np.uint8).reshape(-1, 16)
_ROLE_LENGTHS = np.array([len(name) for name in ROLES])


@dataclass(frozen=True, slots=True)
class Forms:
    """Normal forms of rows' parts. A row lies in `data` as role, 0x1f, form, 0x1e, role, 0x1f and so on."""

    data: NDArray[np.uint8]
    starts: NDArray[np.int64]
    """m; where each form begins in `data`."""
    ends: NDArray[np.int64]
    """m; where each form ends in `data`."""
    row_starts: NDArray[np.int64]
    """n; where each row begins in `data`; it ends where the form of its last part does."""
    parts: Parts
    """The texts that these are the forms of."""

    def row_ends(self) -> NDArray[np.int64]:
        """Return where each row ends in `data`; from its start to there lies what its identity is made of."""
        found = self.row_starts.copy()
        lasts = self.parts.rows - 1
        filled = np.diff(self.parts.rows, prepend=0) > 0
        found[filled] = self.ends[lasts[filled]]
        return found

    def part(self, number: int) -> memoryview:
        """Return one form."""
        return self.data[self.starts[number] : self.ends[number]].data


def normal_forms(parts: Parts) -> Forms:
    """Return the normal forms of all parts."""
    characters = tables()
    kinds = np.empty(len(parts.ends), np.uint8)
    _recognise(parts.data, parts.ends, characters.kinds, characters.folded, kinds)
    source = _with_hard_ones_done(parts, kinds)
    data = np.empty(2 * len(source.data) + 24 * len(kinds) + 8, np.uint8)
    starts, ends = np.empty(len(kinds), np.int64), np.empty(len(kinds), np.int64)
    row_starts = np.empty(len(parts.rows), np.int64)
    used = _fold_all(
        source.data, source.ends, source.rows, source.roles, kinds,
        characters.kinds, characters.folded, characters.expansions, data, starts, ends, row_starts,
    )  # fmt: skip
    return Forms(data[:used], starts, ends, row_starts, parts)


def _with_hard_ones_done(parts: Parts, kinds: NDArray[np.uint8]) -> Parts:
    hard = np.flatnonzero(kinds == HARD)
    if not len(hard):
        return parts
    pieces, copied, lengths = [], 0, np.diff(parts.ends, prepend=0)
    for number in hard.tolist():
        form = normalise(parts.text(number)).encode("utf-8", "surrogatepass")
        pieces += [parts.data[copied : parts.ends[number] - lengths[number]], np.frombuffer(form, np.uint8)]
        copied, lengths[number], kinds[number] = parts.ends[number], len(form), DONE
    pieces.append(parts.data[copied:])
    return replace(parts, data=np.concatenate(pieces), ends=np.cumsum(lengths))


@compiled
def _recognise(
    data: NDArray[np.uint8],
    ends: NDArray[np.int64],
    classes: NDArray[np.uint8],
    folded: NDArray[np.int32],
    kinds: NDArray[np.uint8],
) -> None:
    start = 0
    for number in range(len(ends)):
        end = ends[number]
        if _is_code(data, start, end, classes):
            kinds[number] = CODE
        else:
            kinds[number] = HARD if _is_hard(data, start, end, folded) else PROSE
        start = end


@compiled
def _is_hard(data: NDArray[np.uint8], start: int, end: int, folded: NDArray[np.int32]) -> bool:
    at = start
    while at < end:
        if data[at] < ASCII:
            at += 1
            continue
        point, size = character(data, at)
        if point >= LIMIT or folded[point] == UNSAFE:
            return True
        at += size
    return False


@compiled
def _is_code(data: NDArray[np.uint8], start: int, end: int, classes: NDArray[np.uint8]) -> bool:
    """Return what `normalising.is_code` does: a line break, and a fence, an indented line or one that ends as code."""
    line, breaks, code_end = start, False, False
    while line <= end:
        if _line_begins_as_code(data, line, end, classes):
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
def _line_begins_as_code(data: NDArray[np.uint8], line: int, end: int, classes: NDArray[np.uint8]) -> bool:
    at = line
    while at < end and data[at] == _BLANK:
        at += 1
    indented = at - line > 1 or (at == line and at < end and data[at] == _TAB)
    if indented and data[at if at > line else min(at, end - 1)] == _TAB and at == line:
        at += 1
    if indented and at < end:
        point, _ = character(data, at)
        if point >= LIMIT or not classes[point] & SPACE:
            return True
    while at < end and (data[at] == _BLANK or data[at] == _TAB):
        at += 1
    fence = data[at] if at + 2 < end else 0
    return fence in (_TICK, _TILDE) and data[at + 1] == fence and data[at + 2] == fence


@compiled
def _fold_all(
    data: NDArray[np.uint8],
    text_ends: NDArray[np.int64],
    rows: NDArray[np.int64],
    roles: NDArray[np.uint8],
    kinds: NDArray[np.uint8],
    classes: NDArray[np.uint8],
    folded: NDArray[np.int32],
    expansions: NDArray[np.int32],
    out: NDArray[np.uint8],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    row_starts: NDArray[np.int64],
) -> int:
    used = text = part = 0
    for row in range(len(rows)):
        row_starts[row] = used
        first = part
        while part < rows[row]:
            if part > first:
                out[used] = _RECORD
                used += 1
            used = _write_role(out, used, roles[part])
            starts[part] = used
            used = _fold_one(data, text, text_ends[part], kinds[part], classes, folded, expansions, out, used)
            ends[part] = used
            text = text_ends[part]
            part += 1
    return used


@compiled
def _write_role(out: NDArray[np.uint8], used: int, role: int) -> int:
    length: int = _ROLE_LENGTHS[role]
    for at in range(length):
        out[used + at] = _ROLE_NAMES[role, at]
    out[used + length] = _UNIT
    return used + length + 1


@compiled
def _fold_one(
    data: NDArray[np.uint8],
    start: int,
    end: int,
    kind: int,
    classes: NDArray[np.uint8],
    folded: NDArray[np.int32],
    expansions: NDArray[np.int32],
    out: NDArray[np.uint8],
    used: int,
) -> int:
    if kind == PROSE:
        folded_end = _fold_prose(data, start, end, classes, folded, expansions, out, used)
        return _drop_final_punctuation(out, used, folded_end, classes)
    if kind == CODE:
        return _copy_lines(data, start, end, classes, out, used)
    for at in range(start, end):
        out[used + at - start] = data[at]
    return used + end - start


@compiled
def _fold_prose(  # noqa: C901 - one pass over the characters
    data: NDArray[np.uint8],
    start: int,
    end: int,
    classes: NDArray[np.uint8],
    folded: NDArray[np.int32],
    expansions: NDArray[np.int32],
    out: NDArray[np.uint8],
    begin: int,
) -> int:
    """Fold single characters, and keep one space where there were some, none beside CJK."""
    used, at = begin, start
    space_due = after_cjk = last_cjk = False
    point: np.int64
    new: np.int64
    count: int | np.int64
    where: int | np.int64
    while at < end:
        byte = data[at]
        if byte < ASCII:
            point, size = np.int64(byte), 1
        else:
            point, size = character(data, at)
        at += size
        new = np.int64(folded[point])
        if after_cjk and size == 1 and (classes[point] & FINAL):
            new = np.int64(_BLANK)
        after_cjk = (classes[point] & CJK) != 0
        count, where = 1, 0
        if new < 0:
            where = -2 - new
            count = np.int64(expansions[where])
        for index in range(count):
            if count > 1:
                new = np.int64(expansions[where + 1 + index])
            if classes[new] & SPACE:
                space_due = True
                continue
            is_cjk = (classes[new] & CJK) != 0
            if space_due:
                if used > begin and not last_cjk and not is_cjk:
                    out[used] = _BLANK
                    used += 1
                space_due = False
            last_cjk = is_cjk
            if new < ASCII:
                out[used] = new
                used += 1
            else:
                used = write(out, used, new)
    return used


@compiled
def _drop_final_punctuation(out: NDArray[np.uint8], begin: int, end: int, classes: NDArray[np.uint8]) -> int:
    """Drop runs of final punctuation between a word and a space or the end, in place; single spaces only are there."""
    used, at, before = begin, begin, np.int64(0)
    size: int
    while at < end:
        byte = out[at]
        if byte >= ASCII:
            before, size = character(out, at)
            for index in range(size):
                out[used + index] = out[at + index]
            used += size
            at += size
            continue
        point = np.int64(byte)
        if classes[point] & FINAL and classes[before] & BEFORE_FINAL and at > begin:
            after_number = point == _BANG and _ZERO <= before <= _NINE
            stop = at
            while stop < end and out[stop] < ASCII and classes[out[stop]] & FINAL:
                stop += 1
            if not after_number and (stop == end or out[stop] == _BLANK):
                at = stop
                continue
        before = point
        out[used] = byte
        used += 1
        at += 1
    return used


@compiled
def _copy_lines(
    data: NDArray[np.uint8], start: int, end: int, classes: NDArray[np.uint8], out: NDArray[np.uint8], begin: int
) -> int:
    """Copy what stands before the spaces at each line's end; line ends become one newline, the last is left out."""
    used, at, kept = begin, start, begin
    while at < end:
        point, size = character(data, at)
        kind = classes[point] if point < LIMIT else 0
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
