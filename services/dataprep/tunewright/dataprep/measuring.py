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

from tunewright.dataprep.compiling import compiled, nth
from tunewright.dataprep.scan_tables import Bytes, Numbers
from tunewright.dataprep.scanning import as_buffer, encode

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
to an earlier one; DISTINCT: different units, of texts below a hundred units; ENDS_WELL: 1 if the last visible character ends a sentence, a list or code.
"""
DUPLICATE_6: Final = 17
IN_A_ROW: Final = 22
_NEWLINE = np.uint8(10)
_FOLDED = np.array(
    [ord(chr(byte).lower()) if chr(byte).isalnum() and byte < 128 else 0 for byte in range(256)], np.uint8
)
"""Byte → an ASCII letter, small, or a digit; 0 for all others."""
_MIX = np.uint64(0x9E3779B97F4A7C15)
_SEED = np.uint64(0xCBF29CE484222325)
_PRIME = np.uint64(0x100000001B3)
_LEAST_UNITS = 20
"""N-grams of shorter texts are not counted."""
_MOST_UNITS = 100
"""Different units of longer texts are not counted: they tell loops in short ones."""
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
        np.empty(longest, np.uint64), np.zeros(room, np.uint64), np.zeros(room, np.int64),
    )  # fmt: skip
    return out


def warm() -> None:
    """Compile the pass, or load it from the cache."""
    measure(["warm"])


@compiled
def _measure(
    data: Bytes, ends: Numbers, out: Measures, units: npt.NDArray[np.uint64], grams: npt.NDArray[np.uint64],
    sizes: Numbers, lines: npt.NDArray[np.uint64], keys: npt.NDArray[np.uint64], counts: Numbers,
) -> None:  # fmt: skip
    start = 0
    for number in range(ends.size):
        end = ends[number]
        row = out[number]
        count, line_count = _units(data, start, end, row, units, sizes, lines)
        start = end
        room = 16
        while room < 2 * max(count, line_count):
            room *= 2
        if count < _MOST_UNITS:
            row[DISTINCT] = _distinct(units[1:], count, keys, room)
        if line_count > 1:
            row[DUPLICATE_LINES] = line_count - _distinct(lines, line_count, keys, room)
        if count >= _LEAST_UNITS:
            _grams(row, units, grams, sizes, count, keys, counts, room)


@compiled
def _grams(
    row: Measures, units: npt.NDArray[np.uint64], grams: npt.NDArray[np.uint64], sizes: Numbers, count: int,
    keys: npt.NDArray[np.uint64], counts: Numbers, room: int,
) -> None:  # fmt: skip
    """Write the shares of repeated n-grams; a word of Chinese is taken as two characters.

    Where five words are repeated, so are all runs of two words inside of them: without such a stretch nothing further
    is counted.
    """
    step = 2 if 2 * row[WIDE_UNITS] >= count else 1
    total = 0
    for place in range(count):
        total += sizes[nth(place)]
        units[nth(place + 1)] += units[nth(place)] * _PRIME  # units[k]: hash of the first k units
    _gram_hashes(units, grams, count, 2 * step)
    taken, stretch = _top(grams, sizes, count - 2 * step + 1, 2 * step, keys, counts, room)
    row[TOP_2] = taken / total
    if row[TOP_2] > _LEAST_TOP:
        for size in (3, 4):
            _gram_hashes(units, grams, count, size * step)
            taken, _ = _top(grams, sizes, count - size * step + 1, size * step, keys, counts, room)
            row[TOP_2 + size - 2] = taken / total
    if stretch <= 3 * step:
        return
    for size in range(5, 11):
        width = size * step
        _gram_hashes(units, grams, count, width)
        shared = _repeated(grams, sizes, count - width + 1, width, keys, room) / total
        row[DUPLICATE_5 if size == 5 else DUPLICATE_6 + size - 6] = shared
        if shared <= _LEAST_SHARE:
            return
        if size == 5:
            row[IN_A_ROW] = _in_a_row(grams, sizes, count - width + 1, width, keys, counts, room) / total


@compiled
def _gram_hashes(units: npt.NDArray[np.uint64], grams: npt.NDArray[np.uint64], count: int, width: int) -> None:
    """Write the hash of each run of `width` units, out of those of the first k."""
    power = np.uint64(1)
    for _ in range(width):
        power *= _PRIME
    for place in range(count - width + 1):
        grams[nth(place)] = units[nth(place + width)] - units[nth(place)] * power


@compiled
def _slot(key: np.uint64, keys: npt.NDArray[np.uint64], room: int) -> np.uint64:
    """Return the slot of a key in the table: its own, or the first free one, which holds 0."""
    mixed = (key ^ (key >> np.uint64(32))) * _MIX
    last = np.uint64(room - 1)
    slot = (mixed >> np.uint64(20)) & last
    while keys[slot] != 0 and keys[slot] != key:
        slot = (slot + np.uint64(1)) & last
    return slot


@compiled
def _key(hashed: np.uint64) -> np.uint64:
    """Return what stands for a hash in the table, where 0 is a free slot."""
    return max(hashed, np.uint64(1))


@compiled
def _distinct(hashes: npt.NDArray[np.uint64], count: int, keys: npt.NDArray[np.uint64], room: int) -> int:
    distinct = 0
    keys[:room] = 0
    for place in range(count):
        key = _key(hashes[nth(place)])
        slot = _slot(key, keys, room)
        distinct += keys[slot] == 0
        keys[slot] = key
    return distinct


@compiled
def _top(
    grams: npt.NDArray[np.uint64], sizes: Numbers, count: int, width: int, keys: npt.NDArray[np.uint64],
    counts: Numbers, room: int,
) -> tuple[int, int]:  # fmt: skip
    """Return the characters that the n-gram with most of them takes, all its occurrences together.

    And the longest stretch of n-grams, one beginning a unit after the other, all of which occurred before.
    """
    best = stretch = longest = 0
    keys[:room] = 0
    for place in range(count):
        key = _key(grams[nth(place)])
        slot = _slot(key, keys, room)
        if keys[slot] == 0:
            keys[slot], counts[slot] = key, 1
            stretch = 0
            continue
        counts[slot] += 1
        stretch += 1
        longest = max(longest, stretch)
        chars = 0
        for offset in range(width):
            chars += sizes[nth(place + offset)]
        best = max(best, counts[slot] * chars)
    return best, longest


@compiled
def _repeated(
    grams: npt.NDArray[np.uint64], sizes: Numbers, count: int, width: int, keys: npt.NDArray[np.uint64], room: int
) -> int:
    """Return the characters that stand in n-grams which occurred before, each character once."""
    chars, covered = 0, 0
    keys[:room] = 0
    for place in range(count):
        key = _key(grams[nth(place)])
        slot = _slot(key, keys, room)
        if keys[slot] == 0:
            keys[slot] = key
            continue
        for unit in range(max(covered, place), place + width):
            chars += sizes[nth(unit)]
        covered = place + width
    return chars


@compiled
def _in_a_row(
    grams: npt.NDArray[np.uint64], sizes: Numbers, count: int, width: int, keys: npt.NDArray[np.uint64],
    places: Numbers, room: int,
) -> int:  # fmt: skip
    """Return the characters of passages that stand at least three times one right after the other.

    Where each n-gram stood last at the same distance for so long that two distances are covered, that is such a passage.
    """
    chars, covered, distance, run = 0, 0, 0, 0
    keys[:room] = 0
    for place in range(count):
        key = _key(grams[nth(place)])
        slot = _slot(key, keys, room)
        now = place - places[slot] if keys[slot] == key else 0
        keys[slot], places[slot] = key, place
        run = run + 1 if now == distance else 1
        distance = now
        if distance and run + width - 1 >= 2 * distance:
            for unit in range(max(covered, place - run + 1 - distance), place + width):
                chars += sizes[nth(unit)]
            covered = place + width
    return chars


@compiled
def _units(  # noqa: C901, PLR0912, PLR0915 - one pass, one branch a kind of character
    data: Bytes, start: int, end: int, row: Measures, units: npt.NDArray[np.uint64], sizes: Numbers,
    lines: npt.NDArray[np.uint64],
) -> tuple[int, int]:  # fmt: skip
    """Write the hashes of units (from place 1 on) and lines, and count characters; return how many there are of each."""
    count, wide_count, line_count, line_units, index = 0, 0, 0, 0, start
    line, word, chars, digits = _SEED, _SEED, 0, 0
    word_chars, all_letters, capitals, visible, symbols, replacements = 0, 0, 0, 0, 0, 0
    fenced, line_start, last = False, True, 0
    while index <= end:
        byte = data[nth(index)] if index < end else _NEWLINE
        if line_start:
            line_start = False
            if _is_fence(data, index, end):
                fenced, last = not fenced, 125
                index = _line_end(data, index, end)
                byte = _NEWLINE
            elif fenced:
                index = _line_end(data, index, end)
                byte = _NEWLINE
        first = index
        while _FOLDED[byte]:
            word = (word ^ np.uint64(_FOLDED[byte])) * _PRIME
            digits += int(byte < 65)
            capitals += int(65 <= byte <= 90)
            index += 1
            byte = data[nth(index)] if index < end else _NEWLINE
        if index > first:
            chars += index - first
            last = 97
        width, wide = 1, False
        if byte >= 0xC0:
            width = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            wide, letter = _kind(data, index, width)
            if letter and not wide:
                for offset in range(width):
                    word = (word ^ np.uint64(data[nth(index + offset)])) * _PRIME
                chars += 1
                last = 65
                index += width
                continue
            last = 65 if wide else int(data[nth(index + width - 1)])
            if not wide:
                replacements += byte == 0xEF and data[nth(index + 1)] == 0xBF and last == 0xBD
                symbols += byte == 0xE2 and data[nth(index + 1)] == 0x80 and last == 0xA6
                visible += 1
        elif byte > 32:
            last = int(byte)
            symbols += byte == 35 or (
                byte == 46 and index >= start + 2 and data[nth(index - 1)] == 46 and data[nth(index - 2)] == 46
            )
            visible += 1
        if chars:
            if chars > digits:
                count += 1
                units[nth(count)], sizes[nth(count - 1)] = word, chars
                word_chars += chars
                all_letters += chars - digits
                line_units += 1
            visible += chars
            line = (line ^ word) * _MIX + np.uint64(1)
            word, chars, digits = _SEED, 0, 0
        if wide:
            code = np.uint64(byte) << np.uint64(16) | np.uint64(data[nth(index + 1)]) << np.uint64(8)
            count += 1
            units[nth(count)], sizes[nth(count - 1)] = (code | np.uint64(data[nth(index + 2)])) * _MIX, 1
            line = (line ^ units[nth(count)]) * _MIX + np.uint64(1)
            line_units += 1
            wide_count += 1
        elif byte == _NEWLINE:
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
