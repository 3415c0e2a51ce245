"""One compiled pass over the texts of a block: says which of them may need which care, so that most need none.

A flag promises nothing but this: where it is not set, the rules that it stands for would change or find nothing. What
to do where one is set is not known here.
"""

# ruff: noqa: PLR2004 - the numbers are bytes of UTF-8 and of ASCII, each explained where it is not plain

from collections.abc import Sequence

import numpy as np

from tunewright.dataprep.compiling import compiled, nth
from tunewright.dataprep.guards import (
    AT_SIGN,
    BOILERPLATE,
    COMPOSABLE,
    CONTROL,
    DIGITS,
    GARBLED,
    IBAN,
    INVISIBLE,
    LINE_ENDING,
    MARKUP,
    MOJIBAKE,
    NON_ASCII,
    SPACE,
    TOKEN,
)
from tunewright.dataprep.scan_tables import (
    AT,
    BLANK,
    CONTROL_BYTE,
    CR,
    DIGIT,
    ENTITY,
    JOINED,
    LEAD2,
    LEAD3,
    LEAD4,
    LETTER,
    TAG,
    Bytes,
    Flags,
    Numbers,
    scan_tables,
)

TABLES = "cb176366"
"""`scan_tables.digest()`. What is compiled below keeps the tables that it was made with until this file changes, so it
must change with them."""
_T = scan_tables()
_CLASS, _LOWER, _COMMON, _COMPOSABLE = _T.classes, _T.lower, _T.common, _T.composable
_LITERAL, _LITERAL_END, _LITERAL_FLAG = _T.literals, _T.literal_ends, _T.literal_flags
_BUCKET_FIRST, _BUCKETS = _T.bucket_firsts, _T.buckets
_RARE_BYTES = 11
"""From one unusual Chinese character to the next of three close together: itself, and two of four bytes at most."""
_MOST_BETWEEN = 17
"""Bytes between two digits of one number: eleven spaces in what is named a phone, and more than parentheses take."""


def encode(texts: Sequence[str]) -> list[bytes]:
    """Return the texts in UTF-8."""
    try:
        return [text.encode() for text in texts]
    except UnicodeEncodeError:
        return [text.encode("utf-8", "surrogatepass") for text in texts]


def as_buffer(pieces: Sequence[bytes]) -> tuple[Bytes, Numbers]:
    """Return the texts, given in UTF-8, end to end, and the end of each in bytes."""
    ends = np.cumsum(np.fromiter(map(len, pieces), np.int64, len(pieces)))
    return np.frombuffer(b"".join(pieces), np.uint8), ends


def scan(texts: Sequence[str]) -> Flags:
    """Return each text's flags."""
    return scan_encoded(encode(texts))


def scan_encoded(pieces: Sequence[bytes]) -> Flags:
    """Return the flags of each text, given in UTF-8."""
    data, ends = as_buffer(pieces)
    flags = np.zeros(len(ends), np.uint32)
    _scan(data, ends, flags)
    return flags


def scan_one(text: str) -> int:
    """Return the flags of one text: what cleaning asks for again and again."""
    data = np.frombuffer(encode([text])[0], np.uint8)
    return int(_scan_text(data, 0, len(data)))


def warm() -> None:
    """Compile the pass, or load it from the cache."""
    scan(["warm"])
    scan_one("warm")


@compiled
def _scan(data: Bytes, ends: Numbers, flags: Flags) -> None:
    start = 0
    for number in range(ends.size):
        end = ends[number]
        flags[number] = _scan_text(data, start, end)
        start = end


@compiled
def _scan_text(data: Bytes, start: int, end: int) -> int:  # noqa: C901, PLR0912, PLR0915 - one branch a class of bytes
    flags = _ends_in_space(data, start, end)
    if end > start:
        flags |= _trigger(data, start, end)
    piece, digits, first_digit, last_digit = start, 0, start, start
    last_rare = earlier_rare = start - _RARE_BYTES - 1
    index = start
    while index < end:
        byte = data[nth(index)]
        kind = _CLASS[byte]
        if kind == LETTER:
            index += 1
            while index < end and _CLASS[data[nth(index)]] == LETTER:
                index += 1
            if index + 1 < end and data[nth(index)] == 32 and _CLASS[data[nth(index + 1)]] == LETTER:
                if index - piece >= 16:
                    flags |= _mixed(data, piece, index)
                index += 1
                piece = index
                flags |= _trigger(data, index, end)
            continue
        if kind <= JOINED:
            if kind == DIGIT:
                if digits == 0 or not _goes_on(data, last_digit, index):
                    digits, first_digit = 0, index
                digits, last_digit = digits + 1, index
                if digits >= 7 and (digits >= 9 or _is_announced(data, start, first_digit, digits)):
                    flags |= DIGITS
                if index >= start + 2 and _is_upper(data[nth(index - 1)]) and _is_upper(data[nth(index - 2)]):
                    flags |= _account(data, start, index - 2, end)
            index += 1
            if kind == JOINED and index < end and _CLASS[data[nth(index)]] == LETTER:
                flags |= _trigger(data, index, end)
            continue
        if index - piece >= 16:
            flags |= _mixed(data, piece, index)
        width = 1
        if kind == BLANK:
            if index + 1 < end and data[nth(index + 1)] == 10:
                flags |= SPACE
        elif kind == CONTROL_BYTE:
            flags |= CONTROL
        elif kind == CR:
            flags |= LINE_ENDING
        elif kind == TAG:
            flags |= _tag(data, index, end)
        elif kind == ENTITY:
            flags |= _entity(data, index, end)
        elif kind == AT:
            flags |= _at_sign(data, start, index, end)
        elif kind == LEAD2:
            flags |= _two_bytes(data, index, end)
            width = 2
        elif kind == LEAD3:
            flags |= _trigger(data, index, end)
            width = 3
            if 0xE4 <= byte <= 0xE9:
                flags |= NON_ASCII
                if _is_unusual(data, index):
                    if index - last_rare <= _RARE_BYTES and last_rare - earlier_rare <= _RARE_BYTES:
                        flags |= MOJIBAKE
                    earlier_rare, last_rare = last_rare, index
            else:
                flags |= _three_bytes(data, index, end)
        elif kind == LEAD4:
            flags |= NON_ASCII | _four_bytes(data, index)
            width = 4
        index += width
        piece = index
        if index < end and (_CLASS[data[nth(index)]] == LETTER or data[nth(index)] == 40):
            flags |= _trigger(data, index, end)
    if end - piece >= 16:
        flags |= _mixed(data, piece, end)
    return flags


@compiled
def _goes_on(data: Bytes, last_digit: int, index: int) -> bool:
    """Return True if nothing stands between two digits but what may stand inside of a number."""
    if index - last_digit > _MOST_BETWEEN:
        return False
    for place in range(last_digit + 1, index):
        byte = data[nth(place)]
        if byte not in (32, 40, 41, 45, 46, 0xEF, 0xBC, 0x88, 0x89):  # the last four are the wide parentheses
            return False
    return True


@compiled
def _is_announced(data: Bytes, start: int, first_digit: int, digits: int) -> bool:
    """Return True if fewer than nine digits may be a phone number: after a plus eight, after `Tel.:` or `is` seven."""
    place = first_digit - 1
    if place >= start and data[nth(place)] == 43:
        return digits >= 8
    while place >= start and data[nth(place)] <= 32:
        place -= 1
    return place >= start and (data[nth(place)] in (58, 83, 115) or data[nth(place)] >= 0x80)


@compiled
def _account(data: Bytes, start: int, index: int, end: int) -> int:
    """Return IBAN for two capitals, two digits, and eleven capitals or digits, each after one space or dash at most."""
    if index > start and _is_alphanumeric(data[nth(index - 1)]):
        return 0
    if index + 3 >= end or _CLASS[data[nth(index + 3)]] != DIGIT:
        return 0
    place, count = index + 4, 0
    while place < end and count < 11:
        if data[nth(place)] == 32 or data[nth(place)] == 45:
            place += 1
        if place >= end or not (_is_upper(data[nth(place)]) or _CLASS[data[nth(place)]] == DIGIT):
            return 0
        place, count = place + 1, count + 1
    return IBAN if count == 11 else 0


@compiled
def _is_upper(byte: int) -> bool:
    return 65 <= byte <= 90


@compiled
def _is_alphanumeric(byte: int) -> bool:
    return 48 <= byte <= 57 or 65 <= byte <= 90 or 97 <= byte <= 122


@compiled
def _trigger(data: Bytes, index: int, end: int) -> int:
    """Return the flags of all trigger strings that begin here."""
    if index + 3 > end:
        return 0
    one, two, three = data[nth(index)], data[nth(index + 1)], data[nth(index + 2)]
    bucket = _BUCKETS[nth((np.int64(one) & 31) << 10 | (np.int64(two) & 31) << 5 | (np.int64(three) & 31))]
    return _triggered(data, index, end, np.int64(bucket)) if bucket else 0


@compiled
def _triggered(data: Bytes, index: int, end: int, bucket: np.int64) -> int:
    flags = 0
    for literal in range(_BUCKET_FIRST[bucket], _BUCKET_FIRST[bucket + 1]):
        low, high = _LITERAL_END[nth(literal)], _LITERAL_END[nth(literal + 1)]
        size = high - low
        if index + size > end:
            continue
        offset = 0
        while offset < size and _LOWER[data[nth(index + offset)]] == _LITERAL[nth(low + offset)]:
            offset += 1
        if offset == size:
            flags |= _LITERAL_FLAG[literal]
    return flags


@compiled
def _mixed(data: Bytes, low: int, high: int) -> int:
    """Return TOKEN if a long piece has a letter and a digit, or begins like a key file."""
    letter, digit, dashes = False, False, 0
    for index in range(low, high):
        byte = data[nth(index)]
        if 48 <= byte <= 57:
            digit = True
        elif _is_alphanumeric(byte):
            letter = True
        elif byte == 45:
            dashes += 1
    return TOKEN if (letter and digit) or dashes >= 5 else 0


@compiled
def _tag(data: Bytes, index: int, end: int) -> int:
    if index + 1 >= end:
        return 0
    following = data[nth(index + 1)]
    return MARKUP if following == 47 or (_is_alphanumeric(following) and following > 57) else 0


@compiled
def _entity(data: Bytes, index: int, end: int) -> int:
    """Return MARKUP if a semicolon ends what may be an entity (31 characters at most)."""
    if index + 1 < end and (data[nth(index + 1)] == 35 or _is_alphanumeric(data[nth(index + 1)])):
        for place in range(index + 2, min(end, index + 34)):
            if data[nth(place)] == 59:
                return MARKUP
    return 0


@compiled
def _at_sign(data: Bytes, start: int, index: int, end: int) -> int:
    if start < index < end - 1 and _CLASS[data[nth(index - 1)]] != BLANK and _is_alphanumeric(data[nth(index + 1)]):
        return AT_SIGN
    return 0


@compiled
def _two_bytes(data: Bytes, index: int, end: int) -> int:
    """Return the flags of a character of U+0080 to U+07FF."""
    lead, trail = data[nth(index)], data[nth(index + 1)]
    flags = NON_ASCII
    if lead == 0xC2:
        if trail < 0xA0:
            flags |= CONTROL
        elif trail == 0xAD:
            flags |= INVISIBLE
        elif trail == 0xA9:
            flags |= BOILERPLATE
        elif trail == 0xA0 and index + 2 < end and data[nth(index + 2)] == 10:
            flags |= SPACE
    if _COMPOSABLE[(np.int64(lead) & 31) << 6 | (np.int64(trail) & 63)]:
        flags |= COMPOSABLE
    if index + 2 < end and _starts_mojibake(data, index, end):
        flags |= MOJIBAKE
    return flags


@compiled
def _starts_mojibake(data: Bytes, index: int, end: int) -> bool:
    """Return True for what the first byte of a UTF-8 sequence looks like in another encoding, and for Latin-1 pairs.

    After Latin letters stands what further bytes look like, or three more characters of Latin-1; after Ă Latin-1; after
    в typographic signs or Ђ. So Portuguese and Russian words, and `·` before Chinese, are none.
    """
    lead, trail, following = data[nth(index)], data[nth(index + 1)], data[nth(index + 2)]
    if lead in (0xC2, 0xC3):
        if lead == 0xC3 and following in (0xC2, 0xC5, 0xC6, 0xCB, 0xE2):
            return True
        return (
            index + 8 <= end
            and _is_latin(following)
            and _is_latin(data[nth(index + 4)])
            and _is_latin(data[nth(index + 6)])
        )
    if lead == 0xC4 and trail == 0x82:
        return _is_latin(following)
    sign = following == 0xE2 or (following == 0xD0 and data[nth(index + 3)] == 0x82)
    return bool(lead == 0xD0 and trail == 0xB2 and sign)


@compiled
def _is_latin(byte: int) -> bool:
    """Return True for the first byte of U+0080 to U+00FF."""
    return byte in (0xC2, 0xC3)


@compiled
def _three_bytes(data: Bytes, index: int, end: int) -> int:
    """Return the flags of a character of U+0800 to U+FFFF."""
    lead, second, third = data[nth(index)], data[nth(index + 1)], data[nth(index + 2)]
    flags = NON_ASCII
    if _COMPOSABLE[(np.int64(lead) & 15) << 12 | (np.int64(second) & 63) << 6 | (np.int64(third) & 63)]:
        flags |= COMPOSABLE
    if lead == 0xE3 and second == 0x80 and third == 0x80 and index + 3 < end and data[nth(index + 3)] == 10:
        flags |= SPACE
    elif lead == 0xE2 and second == 0x80 and third in (0xA8, 0xA9):
        flags |= LINE_ENDING
    elif lead == 0xE2 and ((second == 0x80 and 0x8B <= third <= 0x8D) or (second == 0x81 and third == 0xA0)):
        flags |= INVISIBLE
    elif lead == 0xE2 and index + 3 < end and data[nth(index + 3)] >= 0x80 and _is_root_or_frame(second, third):
        flags |= MOJIBAKE
    elif lead == 0xEF and second == 0xBB and third == 0xBF:
        flags |= INVISIBLE
    elif lead == 0xEF and second == 0xBF and third == 0xBD:
        flags |= GARBLED
    return flags


@compiled
def _four_bytes(data: Bytes, index: int) -> int:
    """Return the flags of a character from U+10000 on: emoji and most ideographs have no other form."""
    block = (np.int64(data[nth(index)]) & 7) << 6 | (np.int64(data[nth(index + 1)]) & 63)  # 4096 characters each
    return 0 if block == 0x1F or 0x20 <= block < 0x2F else COMPOSABLE


@compiled
def _is_root_or_frame(second: int, third: int) -> bool:
    return (second == 0x88 and third == 0x9A) or (second == 0x94 and third == 0x9C)


@compiled
def _is_unusual(data: Bytes, index: int) -> bool:
    """Return True for an unusual Chinese character."""
    place = ((data[nth(index)] & 15) << 12 | (data[nth(index + 1)] & 63) << 6 | (data[nth(index + 2)] & 63)) - 0x4E00
    return bool(place >= 0 and not _COMMON[place])


@compiled
def _ends_in_space(data: Bytes, start: int, end: int) -> int:  # noqa: PLR0911 - the plain cases leave early
    """Return SPACE if the first or the last character may be white space."""
    if end == start:
        return 0
    if data[nth(start)] <= 32 or data[nth(end - 1)] <= 32:
        return SPACE
    first, last = data[nth(start)], data[nth(end - 1)]
    if first in (0xC2, 0xE1, 0xE2) or (first == 0xE3 and data[nth(start + 1)] == 0x80 and data[nth(start + 2)] == 0x80):
        return SPACE
    if last < 0x80 or end - start < 2:
        return 0
    if data[nth(end - 2)] == 0xC2:
        return SPACE
    if end - start < 3:
        return 0
    lead, second = data[nth(end - 3)], data[nth(end - 2)]
    wide = (lead == 0xE3 and second == 0x80 and last == 0x80) or (lead == 0xE1 and second == 0x9A)
    thin = lead == 0xE2 and ((second == 0x80 and (last <= 0x8A or last in (0xA8, 0xA9, 0xAF))) or second == 0x81)
    return SPACE if wide or thin else 0
