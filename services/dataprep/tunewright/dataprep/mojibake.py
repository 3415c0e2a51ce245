r"""Repairs text that was decoded with the wrong encoding, Chinese and Japanese included, where nothing was lost.

Three faults are known, each behind its own pattern, each repaired only if the result decodes without a rest:

- UTF-8 read as Windows-1252, Latin-1, Mac Roman, code page 437 or 1251: `donâ€™t`, `CafÃ©`, `ä½\xa0å¥½`. The work is
  ftfy's (its `fix_encoding`).
- UTF-8 read as GBK or Shift-JIS: `浣犲ソ` for 你好. The result must consist of usual characters.
- GBK read as Latin-1: `ÄãºÃ` for 你好. The result must consist of characters of GB 2312's first level.

Where bytes were lost (`锟斤拷`, U+FFFD) nothing can be repaired. Knows nothing of rows and code.
"""

# ruff: noqa: PLR2004 - the numbers are those of the plans and standards that the docstrings name

import re

import ftfy

from tunewright.dataprep.scan_tables import is_common, rare_characters

_CP1252_TAILS = "".join(bytes([code]).decode("cp1252", "ignore") for code in range(0x80, 0xA0))
_LATIN = re.compile(
    f"[\xc2-\xf4][\x80-\xbf{_CP1252_TAILS}]|\u0432[\u0402\u201a-\u2122]|\u221a[^\x00-\x7f]|\u251c[^\x00-\x7f]"
    "|\u0102[\x80-\xff]"
)
_LATIN_RUN = re.compile(f"[\x80-\xff{_CP1252_TAILS}]{{4,}}")
_RARE = re.compile("{0}[^\n]{{0,2}}?{0}[^\n]{{0,2}}?{0}".format(f"[{rare_characters()}]"))
"""Three unusual Chinese characters close together, as in no ordinary text."""
_WIDE_RUN = re.compile("[^\x00-\x7f\u3000-\u3002\uff0c\uff01\uff1f\uff1a\uff1b\u201c\u201d\u2018\u2019\ufffd]{2,}")
_READ_AS = ("gb18030", "cp932")
_LOST_CHARS, _LOST_SHARE = 12, 0.8
_PUNCTUATION = "，。！？：；、“”‘’（）《》…—·　"
_SUBJECT = re.compile(
    r"mojibake|乱码|亂碼|编码|編碼|utf-?8|latin-?1|cp-?1252|windows-1252|iso-?8859|gbk|unicode|encod", re.IGNORECASE
)


def is_about_encodings(text: str) -> bool:
    """Return True if a text speaks of encodings: then broken characters may be its subject, and stay."""
    return _SUBJECT.search(text) is not None


def repair(text: str) -> str:
    """Return the text with wrongly decoded pieces decoded rightly; most texts come back as they are."""
    if text.isascii():
        return text
    text = _LATIN_RUN.sub(_from_pairs, text)
    if _LATIN.search(text):
        text = ftfy.fix_encoding(text)
    whole = "\ufffd" not in text  # a lost byte shifts all that follow
    return _WIDE_RUN.sub(_from_wide, text) if whole and _RARE.search(text) else text


def _from_pairs(match: re.Match[str]) -> str:
    """Return GBK that was read as Latin-1 as Chinese, if all of it then is usual Chinese."""
    try:
        found = match[0].encode("latin-1").decode("gb2312")
    except UnicodeError:
        return match[0]
    if _is_utf8(match[0]):
        return match[0]
    characters = sum(map(is_common, found))
    usual = characters + sum(character in _PUNCTUATION for character in found)
    return found if characters >= 2 and usual == len(found) else match[0]


def _is_utf8(run: str) -> bool:
    """Return True for UTF-8 that was read as Latin-1: ftfy's case, and Cyrillic would pass for Chinese."""
    try:
        run.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return False
    return True


def _from_wide(match: re.Match[str]) -> str:
    """Return UTF-8 that was read as GBK or Shift-JIS as what it was, if the outcome is more usual than the input."""
    run = match[0]
    for codec in _READ_AS:
        try:
            found = run.encode(codec).decode("utf-8")
        except UnicodeError:
            continue
        if len(found) < len(run) and all(map(_is_usual, found)):
            return found
    return run


def is_lost(text: str) -> bool:
    """Return True if a text holds UTF-8 that was read as GBK and lost bytes on the way: nobody can repair that.

    Lost is a run of twelve characters or more, unusual ones among them, of whose bytes four in five are UTF-8 of usual
    characters.
    """
    return _RARE.search(text) is not None and any(map(_is_lost_run, _WIDE_RUN.finditer(text)))


def _is_lost_run(match: re.Match[str]) -> bool:
    run = match[0]
    if len(run) < _LOST_CHARS or not _RARE.search(run):
        return False
    data = run.encode("gb18030", "ignore")
    found = data.decode("utf-8", "ignore")
    usual = sum(len(character.encode()) for character in found if _is_usual(character))
    return usual >= _LOST_SHARE * len(data)


def _is_usual(character: str) -> bool:
    kana = "\u3040" <= character <= "\u30ff"
    letter = character.isascii() or "\xa1" <= character <= "\u024f"
    return kana or letter or character in _PUNCTUATION or is_common(character)
