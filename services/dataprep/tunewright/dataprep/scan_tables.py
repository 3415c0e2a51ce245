"""What the guards' pass (`scanning.py`) looks for: strings, bytes and characters, as tables.

Knows no text.
"""

# ruff: noqa: E501 - tables and patterns, and Chinese characters, which count twice
# ruff: noqa: PLR2004 - the numbers are bytes of UTF-8 and of ASCII, each explained where it is not plain

import hashlib
import unicodedata
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tunewright.dataprep.guards import BOILERPLATE, GARBLED, REFUSAL

Bytes = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.uint32]

TRIGGERS = {
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
    """Return where three bytes stand in the table of beginnings: five bits of each, so that case does not count."""
    return (first & 31) << 10 | (second & 31) << 5 | third & 31


def _literals() -> tuple[Bytes, Numbers, Flags, Numbers, npt.NDArray[np.uint16]]:
    """Return the trigger strings end to end, their ends and flags, each bucket's first, and the buckets by beginning.

    A bucket holds the strings of one place; bucket 0 is of those that none begins at.
    """
    pairs = [(text.encode(), flag) for flag, texts in TRIGGERS.items() for text in texts]
    pairs.sort(key=lambda pair: (_place(*pair[0][:3]), pair))
    places = [_place(*text[:3]) for text, _ in pairs]
    different = sorted(set(places))
    buckets = np.zeros(1 << 15, np.uint16)
    buckets[different] = np.arange(1, len(different) + 1)
    data = np.frombuffer(b"".join(text for text, _ in pairs), np.uint8)
    ends = np.cumsum([0, *(len(text) for text, _ in pairs)]).astype(np.int64)
    flags = np.array([flag for _, flag in pairs], np.uint32)
    first = np.array([0, *(places.index(place) for place in different), len(places)], np.int64)
    return data, ends, flags, first, buckets


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


LETTER, DIGIT, JOINED, BLANK, BREAK, TAG, ENTITY, AT, CONTROL_BYTE, CR, LEAD2, LEAD3, LEAD4, OTHER = range(14)
"""Classes of bytes."""


def _byte_classes() -> Bytes:
    classes = np.full(256, OTHER, np.uint8)
    classes[:32] = CONTROL_BYTE
    classes[127] = CONTROL_BYTE
    for code in (*range(65, 91), *range(97, 123), *range(0x80, 0xC0)):
        classes[code] = LETTER
    classes[48:58] = DIGIT
    for group, name in (("_-+/=.~", JOINED), (" \t", BLANK), ("\n", BREAK), ("<", TAG), ("&", ENTITY), ("@", AT)):
        classes[[ord(one) for one in group]] = name
    classes[[0x0B, 0x0C, 0x0D]] = CR
    classes[0xC0:0xE0], classes[0xE0:0xF0], classes[0xF0:] = LEAD2, LEAD3, LEAD4
    return classes


def _lowered() -> Numbers:
    lower = np.arange(256, dtype=np.int64)
    lower[65:91] += 32
    return lower


class ScanTables(NamedTuple):
    """All tables of the pass."""

    classes: Bytes
    """Byte → its class."""
    lower: Numbers
    """Byte → the small letter of a capital, else itself."""
    literals: Bytes
    """The trigger strings end to end."""
    literal_ends: Numbers
    literal_flags: Flags
    bucket_firsts: Numbers
    """Bucket → its first string; bucket 0 has none."""
    buckets: npt.NDArray[np.uint16]
    """`place_of` a string's first three bytes → its bucket."""
    common: npt.NDArray[np.bool_]
    """For U+4E00 to U+9FFF whether a character is usual."""
    composable: npt.NDArray[np.bool_]
    """For U+0000 to U+FFFF whether NFC may change a character, or what stands before it."""


@cache
def scan_tables() -> ScanTables:
    """Return the tables, made once a process."""
    return ScanTables(_byte_classes(), _lowered(), *_literals(), _common_characters(), _composable_characters())


def rare_characters() -> str:
    """Return all unusual Chinese characters."""
    return "".join(chr(0x4E00 + int(place)) for place in np.flatnonzero(~scan_tables().common))


def is_common(character: str) -> bool:
    """Return True for a usual Chinese character or Japanese kanji."""
    place = ord(character) - 0x4E00
    return 0 <= place < len(scan_tables().common) and bool(scan_tables().common[place])


def digest() -> str:
    """Return what tells one version of the strings and classes from another."""
    found = hashlib.sha256(repr(TRIGGERS).encode() + _byte_classes().tobytes())
    return found.hexdigest()[:8]
