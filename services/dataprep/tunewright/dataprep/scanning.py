"""One compiled pass over the texts of a block: says which of them may need which care, so that most need none.

A flag promises nothing but this: where it is not set, the rules that it stands for would change or find nothing. What
to do where one is set is not known here.
"""

# ruff: noqa: E501 - tables and patterns, and Chinese characters, which count twice
# ruff: noqa: PLR2004 - the numbers are bytes of UTF-8 and of ASCII, each explained where it is not plain

import unicodedata
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tunewright.dataprep.compiling import compiled

Bytes = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.uint32]

LINE_ENDING = 1
CONTROL = 2
INVISIBLE = 4
MARKUP = 8
COMPOSABLE = 16
"""Has characters that may have another Unicode form (NFC)."""
MOJIBAKE = 32
SPACE = 64
"""Spaces before a line break, or spaces or blank lines around the text."""
AT_SIGN = 128
"""Something like an e-mail address or a login in a URL."""
DIGITS = 256
"""Nine digits with nothing but spaces, dots, dashes and parentheses between them, or eight after a plus, or seven after
a word or a colon: phones, cards, identity numbers."""
IBAN = 512
"""Two capitals, two digits, and eleven more of either."""
TOKEN = 1024
"""Sixteen characters in one piece, letters and digits mixed, or the head of a key file."""
REFUSAL = 2048
BOILERPLATE = 4096
GARBLED = 8192
"""Has U+FFFD or a string known from broken conversions."""
NON_ASCII = 16384
EVERYTHING = 32767

CLEANING = LINE_ENDING | CONTROL | INVISIBLE | MARKUP | COMPOSABLE | MOJIBAKE | SPACE
PII = AT_SIGN | DIGITS | IBAN | TOKEN

_TRIGGERS = {
    REFUSAL: (
        "as an ai", "as a ai", "ai ", "ai.", "ai,", "ai-", "a.i", "language model", "large language", "artificial int",
        "chatbot", "sorry", "apologi", "apology", "unfortunately", "i cannot", "i can't", "i can’t", "i can not", "i won't",
        "i won’t", "i'm unable", "i’m unable", "i am unable", "i'm not able", "i’m not able", "i am not able",
        "my programming", "programmed to", "programmed not", "computer program", "digital assistant", "virtual assistant",
        "machine learning model", "have real-time", "have access to", "i'm not capable", "i’m not capable",
        "i am not capable",
        "人工智能", "语言模型", "語言模型", "智能助手", "大模型", "聊天机器人", "ai助", "ai语", "ai語", "ai模", "ai系", "ai机",
        "ai機", "ai程", "ai，", "抱歉", "对不起", "對不起", "遗憾", "遺憾", "不好意思",
    ),
    BOILERPLATE: (
        "cookie", "all rights", "rights reserved", "copyright", "(c)", "privacy", "terms of", "terms and", "javascript",
        "share this", "share on", "share:", "tweet", "follow us", "follow me", "subscribe", "sign up", "newsletter",
        "click here", "read more", "read also", "related articles", "related posts", "advertisement", "sponsored",
        "lorem ipsum", "skip to", "back to top", "leave a comment", "leave a reply", "log in", "login", "powered by",
        "originally published", "please enable", "loading", "home >", "print this", "filed under", "posted in", "tags:",
        "版权", "版權", "转载", "轉載", "关注", "關注", "扫码", "扫描", "掃描", "公众号", "点击", "點擊", "責任編輯",
        "责任编辑", "责编", "编辑：", "相关阅读", "相关文章", "延伸阅读", "推荐阅读", "上一篇", "下一篇", "备案",
        "icp", "分享到", "分享至", "免责声明", "来源：", "原标题", "返回顶部", "返回首页", "阅读全文", "展开全文", "阅读原文", "长按", "广告", "未经", "请勿", "声明", "登录", "订阅", "微信", "首页",
    ),
    GARBLED: ("锟斤", "烫烫", "屯屯", "ï¿½"),
}  # fmt: skip
"""Flag → strings (lower case) of which every text that deserves the flag has one, at the beginning of a word."""


def _place(first: int, second: int, third: int) -> int:
    """Return where three bytes (lower case) stand in the table of possible beginnings."""
    return (first << 8 ^ second << 4 ^ third) & 0xFFFF


def _literals() -> tuple[Bytes, Numbers, Flags, Numbers, npt.NDArray[np.bool_]]:
    """Return the trigger strings end to end by first byte, their ends and flags, each byte's first, all beginnings."""
    pairs = sorted((text.encode(), flag) for flag, texts in _TRIGGERS.items() for text in texts)
    data = np.frombuffer(b"".join(text for text, _ in pairs), np.uint8)
    ends = np.cumsum([0, *(len(text) for text, _ in pairs)])
    flags = np.array([flag for _, flag in pairs], np.uint32)
    heads = [text[0] for text, _ in pairs]
    first = np.searchsorted(np.array(heads), np.arange(257)).astype(np.int64)
    begins = np.zeros(0x10000, np.bool_)
    for text, _ in pairs:
        begins[_place(*text[:3])] = True
    return data, ends.astype(np.int64), flags, first, begins


def _common_characters() -> npt.NDArray[np.bool_]:
    """Return for U+4E00 to U+9FFF whether a character is usual: GB 2312 level 1, Big5 level 1 or JIS level 1."""
    common = np.zeros(0x5200, np.bool_)
    spans = (("gb2312", 0xB0, 0xD8), ("big5", 0xA4, 0xC7), ("euc_jp", 0xB0, 0xD0))
    for codec, low, high in spans:
        pairs = b"".join(bytes((one, two)) for one in range(low, high) for two in range(0x40, 0xFF))
        for start in range(0, len(pairs), 2):
            text = pairs[start : start + 2].decode(codec, "ignore")
            if len(text) == 1 and "\u4e00" <= text <= "\u9fff":
                common[ord(text) - 0x4E00] = True
    return common


def _composable_characters() -> npt.NDArray[np.bool_]:
    """Return for U+0000 to U+FFFF whether NFC may change a character, or what stands before it.

    These are Unicode's NFC_Quick_Check values No and Maybe, and the combining marks (UAX #15, section 9).
    """
    composable = np.zeros(0x10000, np.bool_)
    composable[0x1161:0x1176] = composable[0x11A8:0x11C3] = True  # Hangul vowels and final consonants
    for point in range(0x80, 0x10000):
        character = chr(point)
        parts = unicodedata.decomposition(character).split()
        if len(parts) == 2 and parts[0][0] != "<":
            composable[int(parts[1], 16)] = True
        if unicodedata.combining(character) or unicodedata.normalize("NFC", character) != character:
            composable[point] = True
    return composable


# Classes of bytes: letters cost one look into this table.
_LETTER, _DIGIT, _JOINED, _BLANK, _BREAK, _TAG, _ENTITY, _AT, _CONTROL, _CR, _LEAD2, _LEAD3, _LEAD4, _OTHER = range(14)


def _byte_classes() -> Bytes:
    classes = np.full(256, _OTHER, np.uint8)
    classes[:32] = _CONTROL
    classes[127] = _CONTROL
    for code in (*range(65, 91), *range(97, 123), *range(0x80, 0xC0)):
        classes[code] = _LETTER
    classes[48:58] = _DIGIT
    for group, name in (("_-+/=.~", _JOINED), (" \t", _BLANK), ("\n", _BREAK), ("<", _TAG), ("&", _ENTITY), ("@", _AT)):
        classes[[ord(one) for one in group]] = name
    classes[[0x0B, 0x0C, 0x0D]] = _CR
    classes[0xC0:0xE0], classes[0xE0:0xF0], classes[0xF0:] = _LEAD2, _LEAD3, _LEAD4
    return classes


def _lowered() -> Numbers:
    lower = np.arange(256, dtype=np.int64)
    lower[65:91] += 32
    return lower


_CLASS = _byte_classes()
_LOWER = _lowered()
_LITERAL, _LITERAL_END, _LITERAL_FLAG, _LITERAL_FIRST, _BEGINS = _literals()
_COMMON = _common_characters()
_COMPOSABLE = _composable_characters()
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


def rare_characters() -> str:
    """Return all unusual Chinese characters."""
    return "".join(chr(0x4E00 + int(place)) for place in np.flatnonzero(~_COMMON))


def is_common(character: str) -> bool:
    """Return True for a usual Chinese character or Japanese kanji."""
    place = ord(character) - 0x4E00
    return 0 <= place < len(_COMMON) and bool(_COMMON[place])


def warm() -> None:
    """Compile the pass, or load it from the cache."""
    scan(["warm"])


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
        byte = data[index]
        kind = _CLASS[byte]
        if kind <= _JOINED:
            if kind == _DIGIT:
                if digits == 0 or not _goes_on(data, last_digit, index):
                    digits, first_digit = 0, index
                digits, last_digit = digits + 1, index
                if digits >= 7 and (digits >= 9 or _is_announced(data, start, first_digit, digits)):
                    flags |= DIGITS
                if index >= start + 2 and _is_upper(data[index - 1]) and _is_upper(data[index - 2]):
                    flags |= _account(data, start, index - 2, end)
            index += 1
            if kind == _JOINED and index < end and _CLASS[data[index]] == _LETTER:
                flags |= _trigger(data, index, end)
            continue
        if index - piece >= 16:
            flags |= _mixed(data, piece, index)
        width = 1
        if kind == _BLANK:
            if index + 1 < end and data[index + 1] == 10:
                flags |= SPACE
        elif kind == _CONTROL:
            flags |= CONTROL
        elif kind == _CR:
            flags |= LINE_ENDING
        elif kind == _TAG:
            flags |= _tag(data, index, end)
        elif kind == _ENTITY:
            flags |= _entity(data, index, end)
        elif kind == _AT:
            flags |= _at_sign(data, start, index, end)
        elif kind == _LEAD2:
            flags |= _two_bytes(data, index, end)
            width = 2
        elif kind == _LEAD3:
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
        elif kind == _LEAD4:
            flags |= NON_ASCII | _four_bytes(data, index)
            width = 4
        index += width
        piece = index
        if index < end and (_CLASS[data[index]] == _LETTER or data[index] == 40):
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
        byte = data[place]
        if byte not in (32, 40, 41, 45, 46, 0xEF, 0xBC, 0x88, 0x89):  # the last four are the wide parentheses
            return False
    return True


@compiled
def _is_announced(data: Bytes, start: int, first_digit: int, digits: int) -> bool:
    """Return True if fewer than nine digits may be a phone number: after a plus eight, after `Tel.:` or `is` seven."""
    place = first_digit - 1
    if place >= start and data[place] == 43:
        return digits >= 8
    while place >= start and data[place] <= 32:
        place -= 1
    return place >= start and (data[place] in (58, 83, 115) or data[place] >= 0x80)


@compiled
def _account(data: Bytes, start: int, index: int, end: int) -> int:
    """Return IBAN for two capitals, two digits, and eleven capitals or digits, each after one space or dash at most."""
    if index > start and _is_alphanumeric(data[index - 1]):
        return 0
    if index + 3 >= end or _CLASS[data[index + 3]] != _DIGIT:
        return 0
    place, count = index + 4, 0
    while place < end and count < 11:
        if data[place] == 32 or data[place] == 45:
            place += 1
        if place >= end or not (_is_upper(data[place]) or _CLASS[data[place]] == _DIGIT):
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
    place = _LOWER[data[index]] << 8 ^ _LOWER[data[index + 1]] << 4 ^ _LOWER[data[index + 2]]
    return _triggered(data, index, end) if _BEGINS[place & 0xFFFF] else 0


@compiled
def _triggered(data: Bytes, index: int, end: int) -> int:
    first = _LOWER[data[index]]
    flags = 0
    for literal in range(_LITERAL_FIRST[first], _LITERAL_FIRST[first + 1]):
        low, high = _LITERAL_END[literal], _LITERAL_END[literal + 1]
        size = high - low
        if index + size > end:
            continue
        offset = 1
        while offset < size and _LOWER[data[index + offset]] == _LITERAL[low + offset]:
            offset += 1
        if offset == size:
            flags |= _LITERAL_FLAG[literal]
    return flags


@compiled
def _mixed(data: Bytes, low: int, high: int) -> int:
    """Return TOKEN if a long piece has a letter and a digit, or begins like a key file."""
    letter, digit, dashes = False, False, 0
    for index in range(low, high):
        byte = data[index]
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
    following = data[index + 1]
    return MARKUP if following == 47 or (_is_alphanumeric(following) and following > 57) else 0


@compiled
def _entity(data: Bytes, index: int, end: int) -> int:
    """Return MARKUP if a semicolon ends what may be an entity (31 characters at most)."""
    if index + 1 < end and (data[index + 1] == 35 or _is_alphanumeric(data[index + 1])):
        for place in range(index + 2, min(end, index + 34)):
            if data[place] == 59:
                return MARKUP
    return 0


@compiled
def _at_sign(data: Bytes, start: int, index: int, end: int) -> int:
    if start < index < end - 1 and _CLASS[data[index - 1]] != _BLANK and _is_alphanumeric(data[index + 1]):
        return AT_SIGN
    return 0


@compiled
def _two_bytes(data: Bytes, index: int, end: int) -> int:
    """Return the flags of a character of U+0080 to U+07FF."""
    lead, trail = data[index], data[index + 1]
    flags = NON_ASCII
    if lead == 0xC2:
        if trail < 0xA0:
            flags |= CONTROL
        elif trail == 0xAD:
            flags |= INVISIBLE
        elif trail == 0xA9:
            flags |= BOILERPLATE
        elif trail == 0xA0 and index + 2 < end and data[index + 2] == 10:
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
    lead, trail, following = data[index], data[index + 1], data[index + 2]
    if lead in (0xC2, 0xC3):
        if lead == 0xC3 and following in (0xC2, 0xC5, 0xC6, 0xCB, 0xE2):
            return True
        return index + 8 <= end and _is_latin(following) and _is_latin(data[index + 4]) and _is_latin(data[index + 6])
    if lead == 0xC4 and trail == 0x82:
        return _is_latin(following)
    sign = following == 0xE2 or (following == 0xD0 and data[index + 3] == 0x82)
    return bool(lead == 0xD0 and trail == 0xB2 and sign)


@compiled
def _is_latin(byte: int) -> bool:
    """Return True for the first byte of U+0080 to U+00FF."""
    return byte in (0xC2, 0xC3)


@compiled
def _three_bytes(data: Bytes, index: int, end: int) -> int:
    """Return the flags of a character of U+0800 to U+FFFF."""
    lead, second, third = data[index], data[index + 1], data[index + 2]
    flags = NON_ASCII
    if _COMPOSABLE[(np.int64(lead) & 15) << 12 | (np.int64(second) & 63) << 6 | (np.int64(third) & 63)]:
        flags |= COMPOSABLE
    if lead == 0xE3 and second == 0x80 and third == 0x80 and index + 3 < end and data[index + 3] == 10:
        flags |= SPACE
    elif lead == 0xE2 and second == 0x80 and third in (0xA8, 0xA9):
        flags |= LINE_ENDING
    elif lead == 0xE2 and ((second == 0x80 and 0x8B <= third <= 0x8D) or (second == 0x81 and third == 0xA0)):
        flags |= INVISIBLE
    elif lead == 0xE2 and index + 3 < end and data[index + 3] >= 0x80 and _is_root_or_frame(second, third):
        flags |= MOJIBAKE
    elif lead == 0xEF and second == 0xBB and third == 0xBF:
        flags |= INVISIBLE
    elif lead == 0xEF and second == 0xBF and third == 0xBD:
        flags |= GARBLED
    return flags


@compiled
def _four_bytes(data: Bytes, index: int) -> int:
    """Return the flags of a character from U+10000 on: emoji and most ideographs have no other form."""
    block = (np.int64(data[index]) & 7) << 6 | (np.int64(data[index + 1]) & 63)  # 4096 characters each
    return 0 if block == 0x1F or 0x20 <= block < 0x2F else COMPOSABLE


@compiled
def _is_root_or_frame(second: int, third: int) -> bool:
    return (second == 0x88 and third == 0x9A) or (second == 0x94 and third == 0x9C)


@compiled
def _is_unusual(data: Bytes, index: int) -> bool:
    """Return True for an unusual Chinese character."""
    place = ((data[index] & 15) << 12 | (data[index + 1] & 63) << 6 | (data[index + 2] & 63)) - 0x4E00
    return bool(place >= 0 and not _COMMON[place])


@compiled
def _ends_in_space(data: Bytes, start: int, end: int) -> int:  # noqa: PLR0911 - the plain cases leave early
    """Return SPACE if the first or the last character may be white space."""
    if end == start:
        return 0
    if data[start] <= 32 or data[end - 1] <= 32:
        return SPACE
    first, last = data[start], data[end - 1]
    if first in (0xC2, 0xE1, 0xE2) or (first == 0xE3 and data[start + 1] == 0x80 and data[start + 2] == 0x80):
        return SPACE
    if last < 0x80 or end - start < 2:
        return 0
    if data[end - 2] == 0xC2:
        return SPACE
    if end - start < 3:
        return 0
    lead, second = data[end - 3], data[end - 2]
    wide = (lead == 0xE3 and second == 0x80 and last == 0x80) or (lead == 0xE1 and second == 0x9A)
    thin = lead == 0xE2 and ((second == 0x80 and (last <= 0x8A or last in (0xA8, 0xA9, 0xAF))) or second == 0x81)
    return SPACE if wide or thin else 0
