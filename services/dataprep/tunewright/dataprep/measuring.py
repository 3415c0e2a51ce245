"""One compiled pass over answers: what they are made of, and how often they repeat themselves. Numbers, no verdicts.

Units are what n-grams are made of: a word of any alphabet, or one Chinese character, Japanese kana or Korean syllable.
Words of digits alone are no units (tables and sequences of numbers repeat by nature), and fenced code is left out
whole. Knows nothing of thresholds (`repetition.py`, `quality.py`).
"""

# ruff: noqa: E501 - tables and patterns, and Chinese characters, which count twice

# ruff: noqa: PLR2004 - the numbers are bytes of UTF-8 and of ASCII, each explained where it is not plain

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from tunewright.dataprep.compiling import compiled
from tunewright.dataprep.scanning import Bytes, Numbers, as_buffer, encode

Measures = npt.NDArray[np.float32]

(
    UNITS, WIDE_UNITS, WORD_CHARS, LETTERS, CAPITALS, VISIBLE, SYMBOLS, REPLACEMENTS, LINES, DUPLICATE_LINE_CHARS,
    DUPLICATE_LINES, DISTINCT, TOP_2, TOP_3, TOP_4, DUPLICATE_5, ENDS_WELL,
) = range(17)  # fmt: skip
COLUMNS: Final = 23
"""17 measures; from column 17 on, shares of characters in repeated n-grams of 6 to 10 words (TOP and DUPLICATE: 0 to 1);
then IN_A_ROW: share of characters in passages that stand three times or more one right after the other.

WIDE_UNITS: units that are one character; WORD_CHARS: characters of the others; LETTERS, CAPITALS, VISIBLE (no space),
SYMBOLS (`#`, `…`, `...`) and REPLACEMENTS (U+FFFD): characters; LINES: lines with units; DUPLICATE_LINES: of those, equal
to an earlier one; DISTINCT: different units; ENDS_WELL: 1 if the last visible character ends a sentence, a list or code.
"""
DUPLICATE_6: Final = 17
IN_A_ROW: Final = 22
_MIX = np.uint64(0x9E3779B97F4A7C15)
_SEED = np.uint64(0xCBF29CE484222325)
_PRIME = np.uint64(0x100000001B3)
_LEAST_UNITS = 20
"""N-grams of shorter texts are not counted."""
_LEAST_SHARE = 0.07
"""Where 5-grams repeat less than this, longer ones cannot repeat more: they are not counted."""
_LEAST_TOP = 0.05
"""Where no two words take more than this, no three or four take more than twice of it: they are not counted."""


def measure(texts: Sequence[str]) -> Measures:
    """Return the measures of each text, a row each, `COLUMNS` wide."""
    return measure_encoded(encode(texts))


def measure_encoded(pieces: Sequence[bytes]) -> Measures:
    """Return the measures of each text, given in UTF-8."""
    data, ends = as_buffer(pieces)
    out = np.zeros((len(ends), COLUMNS), np.float32)
    longest = int(np.diff(ends, prepend=0).max(initial=0)) + 1
    room = 1 << max(4, int(2 * longest - 1).bit_length())
    _measure(
        data, ends, out, np.zeros(longest + 1, np.uint64), np.empty(longest, np.uint64), np.empty(longest, np.int64),
        np.empty(longest, np.uint64), np.zeros(room, np.uint64), np.zeros(room, np.int64), np.zeros(room, np.int64),
    )  # fmt: skip
    return out


def warm() -> None:
    """Compile the pass, or load it from the cache."""
    measure(["warm"])


@compiled
def _measure(
    data: Bytes, ends: Numbers, out: Measures, units: npt.NDArray[np.uint64], grams: npt.NDArray[np.uint64],
    sizes: Numbers, lines: npt.NDArray[np.uint64], keys: npt.NDArray[np.uint64], stamps: Numbers, counts: Numbers,
) -> None:  # fmt: skip
    stamp, start = 0, 0
    for number in range(ends.size):
        end = ends[number]
        row = out[number]
        count, line_count = _units(data, start, end, row, units, sizes, lines)
        start = end
        room = 16
        while room < 2 * max(count, line_count):
            room *= 2
        stamp += 1
        row[DISTINCT] = _distinct(units[1:], count, keys, stamps, stamp, room)
        if line_count:
            stamp += 1
            row[DUPLICATE_LINES] = line_count - _distinct(lines, line_count, keys, stamps, stamp, room)
        if count >= _LEAST_UNITS:
            stamp = _grams(row, units, grams, sizes, count, keys, stamps, counts, stamp, room)


@compiled
def _grams(
    row: Measures, units: npt.NDArray[np.uint64], grams: npt.NDArray[np.uint64], sizes: Numbers, count: int,
    keys: npt.NDArray[np.uint64], stamps: Numbers, counts: Numbers, stamp: int, room: int,
) -> int:  # fmt: skip
    """Write the shares of repeated n-grams; a word of Chinese is taken as two characters."""
    step = 2 if 2 * row[WIDE_UNITS] >= count else 1
    total = 0
    for place in range(count):
        total += sizes[place]
        units[place + 1] = units[place] * _PRIME + units[place + 1]  # units[k]: hash of the first k units
    for size in range(2, 11):
        if size in (3, 4) and row[TOP_2] <= _LEAST_TOP:
            continue
        width = size * step
        power = np.uint64(1)
        for _ in range(width):
            power *= _PRIME
        for place in range(count - width + 1):
            grams[place] = units[place + width] - units[place] * power
        stamp += 1
        if size <= 4:
            row[TOP_2 + size - 2] = (
                _top(grams, sizes, count - width + 1, width, keys, stamps, counts, stamp, room) / total
            )
        else:
            shared = _repeated(grams, sizes, count - width + 1, width, keys, stamps, stamp, room) / total
            row[DUPLICATE_5 if size == 5 else DUPLICATE_6 + size - 6] = shared
            if shared <= _LEAST_SHARE:
                break
            if size == 5:
                stamp += 1
                row[IN_A_ROW] = (
                    _in_a_row(grams, sizes, count - width + 1, width, keys, stamps, counts, stamp, room) / total
                )
    return stamp


@compiled
def _slot(key: np.uint64, keys: npt.NDArray[np.uint64], stamps: Numbers, stamp: int, room: int) -> int:
    """Return the slot of a key in the table: its own, or the first free one."""
    mixed = (key ^ (key >> np.uint64(32))) * _MIX
    slot = np.int64(mixed >> np.uint64(20)) & (room - 1)
    while stamps[slot] == stamp and keys[slot] != key:
        slot = (slot + 1) & (room - 1)
    return int(slot)


@compiled
def _distinct(
    hashes: npt.NDArray[np.uint64], count: int, keys: npt.NDArray[np.uint64], stamps: Numbers, stamp: int, room: int
) -> int:
    distinct = 0
    for place in range(count):
        slot = _slot(hashes[place], keys, stamps, stamp, room)
        if stamps[slot] != stamp:
            stamps[slot], keys[slot] = stamp, hashes[place]
            distinct += 1
    return distinct


@compiled
def _top(
    grams: npt.NDArray[np.uint64], sizes: Numbers, count: int, width: int, keys: npt.NDArray[np.uint64], stamps: Numbers,
    counts: Numbers, stamp: int, room: int,
) -> int:  # fmt: skip
    """Return the characters that the n-gram with most of them takes, all its occurrences together."""
    best = 0
    for place in range(count):
        slot = _slot(grams[place], keys, stamps, stamp, room)
        if stamps[slot] != stamp:
            stamps[slot], keys[slot], counts[slot] = stamp, grams[place], 1
            continue
        counts[slot] += 1
        chars = 0
        for offset in range(width):
            chars += sizes[place + offset]
        best = max(best, counts[slot] * chars)
    return best


@compiled
def _repeated(
    grams: npt.NDArray[np.uint64], sizes: Numbers, count: int, width: int, keys: npt.NDArray[np.uint64], stamps: Numbers,
    stamp: int, room: int,
) -> int:  # fmt: skip
    """Return the characters that stand in n-grams which occurred before, each character once."""
    chars, covered = 0, 0
    for place in range(count):
        slot = _slot(grams[place], keys, stamps, stamp, room)
        if stamps[slot] != stamp:
            stamps[slot], keys[slot] = stamp, grams[place]
            continue
        for unit in range(max(covered, place), place + width):
            chars += sizes[unit]
        covered = place + width
    return chars


@compiled
def _in_a_row(
    grams: npt.NDArray[np.uint64], sizes: Numbers, count: int, width: int, keys: npt.NDArray[np.uint64], stamps: Numbers,
    places: Numbers, stamp: int, room: int,
) -> int:  # fmt: skip
    """Return the characters of passages that stand at least three times one right after the other.

    Where each n-gram stood last at the same distance for so long that two distances are covered, that is such a passage.
    """
    chars, covered, distance, run = 0, 0, 0, 0
    for place in range(count):
        slot = _slot(grams[place], keys, stamps, stamp, room)
        now = place - places[slot] if stamps[slot] == stamp else 0
        stamps[slot], keys[slot], places[slot] = stamp, grams[place], place
        run = run + 1 if now == distance else 1
        distance = now
        if distance and run + width - 1 >= 2 * distance:
            for unit in range(max(covered, place - run + 1 - distance), place + width):
                chars += sizes[unit]
            covered = place + width
    return chars


@compiled
def _units(  # noqa: C901, PLR0912, PLR0915 - one pass, one branch a kind of character
    data: Bytes, start: int, end: int, row: Measures, units: npt.NDArray[np.uint64], sizes: Numbers,
    lines: npt.NDArray[np.uint64],
) -> tuple[int, int]:  # fmt: skip
    """Write the hashes of units (from place 1 on) and lines, and count characters; return how many there are of each."""
    count, wide_count, line_count, line_units, index = 0, 0, 0, 0, start
    line, word, chars, letters = _SEED, _SEED, 0, 0
    word_chars, all_letters, capitals, visible, symbols, replacements = 0, 0, 0, 0, 0, 0
    fenced, line_start, last = False, True, 0
    while index <= end:
        byte = data[index] if index < end else 10
        if 97 <= byte <= 122 and not line_start:
            word = (word ^ np.uint64(byte)) * _PRIME
            chars, letters, last = chars + 1, letters + 1, 97
            index += 1
            continue
        if line_start:
            line_start = False
            if _is_fence(data, index, end):
                fenced, last = not fenced, 125
                index = _line_end(data, index, end)
                byte = 10
            elif fenced:
                index = _line_end(data, index, end)
                byte = 10
        width, wide, letter = 1, False, False
        if byte >= 0xC0:
            width = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            wide, letter = _kind(data, index, width)
            if not letter:
                last = data[index + width - 1]
                replacements += byte == 0xEF and data[index + 1] == 0xBF and last == 0xBD
                symbols += byte == 0xE2 and data[index + 1] == 0x80 and last == 0xA6
                visible += 1
            else:
                last = 65
        elif 65 <= byte <= 90 or 97 <= byte <= 122:
            letter, last = True, 65
            capitals += byte < 97
        elif byte > 32:
            last = byte
            symbols += byte == 35 or (
                byte == 46 and index >= start + 2 and data[index - 1] == 46 and data[index - 2] == 46
            )
            visible += not 48 <= byte <= 57
        if (letter and not wide) or 48 <= byte <= 57:
            for offset in range(width):
                folded = data[index + offset]
                word = (word ^ np.uint64(folded + 32 if 65 <= folded <= 90 else folded)) * _PRIME
            chars += 1
            letters += letter
            index += width
            continue
        if chars:
            if letters:
                count += 1
                units[count], sizes[count - 1] = word, chars
                word_chars += chars
                all_letters += letters
                line_units += 1
            visible += chars
            line = (line ^ word) * _MIX + np.uint64(1)
            word, chars, letters = _SEED, 0, 0
        if wide:
            code = np.uint64(data[index]) << np.uint64(16) | np.uint64(data[index + 1]) << np.uint64(8)
            count += 1
            units[count], sizes[count - 1] = (code | np.uint64(data[index + 2])) * _MIX, 1
            line = (line ^ units[count]) * _MIX + np.uint64(1)
            line_units += 1
            wide_count += 1
        elif byte == 10:
            if line_units:
                lines[line_count] = line
                line_count += 1
            line, line_units, line_start = _SEED, 0, True
        index += width
    row[UNITS], row[WIDE_UNITS], row[LINES], row[WORD_CHARS] = count, wide_count, line_count, word_chars
    row[LETTERS], row[CAPITALS], row[VISIBLE] = all_letters + wide_count, capitals, visible + wide_count
    row[SYMBOLS], row[REPLACEMENTS] = symbols, replacements
    row[ENDS_WELL] = not (48 <= last <= 57 or 65 <= last <= 90 or 97 <= last <= 122 or last in (44, 40, 45))
    return count, line_count


@compiled
def _kind(data: Bytes, index: int, width: int) -> tuple[bool, bool]:
    """Return whether a character beyond ASCII is a unit of its own, and whether it is a letter at all."""
    lead = data[index]
    if width == 3:
        wide = 0xE4 <= lead <= 0xED or (lead == 0xE3 and (data[index + 1] >= 0x81))
        narrow = lead <= 0xE1
        return wide, wide or narrow
    return False, width == 2 and lead >= 0xC3


@compiled
def _is_fence(data: Bytes, index: int, end: int) -> bool:
    while index < end and data[index] in (32, 9):
        index += 1
    if index + 3 > end:
        return False
    first = data[index]
    return first in (96, 126) and data[index + 1] == first and data[index + 2] == first


@compiled
def _line_end(data: Bytes, index: int, end: int) -> int:
    while index < end and data[index] != 10:
        index += 1
    return index
