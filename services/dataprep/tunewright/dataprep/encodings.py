"""Recognises which encoding bytes are in, and how sure that is. Knows no rows; it sees lines of text as bytes.

Byte order marks and UTF-8 are facts. Everything else is weighed: each candidate's reading of the same bytes is scored
by how likely its characters are in the languages written with it (`writing_systems.py`), and the confidence is that
reading's share of all candidates' likelihood (Bayes), so little text or strange text gives little confidence.
Encodings that read the bytes as the same text are one answer.
"""

import codecs
import math
import re
from collections import Counter
from dataclasses import dataclass

from tunewright.dataprep.writing_systems import WritingSystem, writing_systems

UTF8_BOM = b"\xef\xbb\xbf"
MIN_CONFIDENCE = 0.9
"""Below this an encoding is not taken without being named by a person."""
_BOMS = {
    UTF8_BOM: "UTF-8",
    b"\xff\xfe\x00\x00": "UTF-32LE",
    b"\x00\x00\xfe\xff": "UTF-32BE",
    b"\xff\xfe": "UTF-16LE",
    b"\xfe\xff": "UTF-16BE",
}
_KINDS = {
    b"BZh": "a bzip2 archive",
    b"PK\x03\x04": "a ZIP archive (or an Office document)",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a RAR archive",
    b"ARROW1": "an Arrow file",
    b"%PDF": "a PDF document",
    b"\xd0\xcf\x11\xe0": "an old Office document",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF8": "a GIF image",
    b"\x89HDF": "an HDF5 file",
    b"\x80\x04\x95": "a Python pickle",
    b"Obj\x01": "an Avro file",
    b"\x7fELF": "a program",
    b"SQLite format 3\x00": "an SQLite database",
}
_CANDIDATES = [  # encoding, writing system, how usual it is
    ("GB18030", "Chinese", 1.0),
    ("Big5", "traditional Chinese", 0.5),
    ("GB18030", "traditional Chinese", 0.02),
    ("Shift-JIS", "Japanese", 0.5),
    ("EUC-JP", "Japanese", 0.2),
    ("EUC-KR", "Korean", 0.4),
    ("CP1252", "Western European", 1.0),
    ("ISO-8859-15", "Western European", 0.1),
    ("MacRoman", "Western European", 0.05),
    ("CP850", "Western European", 0.05),
    ("CP1250", "Central European", 0.3),
    ("ISO-8859-2", "Central European", 0.2),
    ("CP852", "Central European", 0.03),
    ("CP1254", "Turkish", 0.2),
    ("CP1257", "Baltic", 0.1),
    ("CP1251", "Cyrillic", 0.5),
    ("KOI8-R", "Cyrillic", 0.1),
    ("KOI8-U", "Cyrillic", 0.03),
    ("ISO-8859-5", "Cyrillic", 0.03),
    ("CP866", "Cyrillic", 0.05),
    ("CP1253", "Greek", 0.2),
    ("CP1255", "Hebrew", 0.1),
    ("CP1256", "Arabic", 0.1),
    ("CP874", "Thai", 0.1),
]
_CODECS = {"Big5": "big5hkscs", "Shift-JIS": "cp932", "EUC-KR": "cp949", "EUC-JP": "euc_jp", "MacRoman": "mac_roman"}
_BEYOND_ASCII = re.compile(rb"[\x80-\xff]")
_FOREIGN = re.compile(r"[^\x00-\x7f]")
_MIN_SHARE_OF_NULS = 0.1
_BROKEN, _AFTER_ANOTHER, _SIGN_IN_WORD, _BESIDE_ASCII = 1e-7, 0.05, 1e-3, 0.02
_NO_KANA = 1e-2
_KANA = re.compile("[ぁ-んァ-ヶｦ-ﾟ]")
_ESCAPE_SEQUENCES = (b"\x1b$B", b"\x1b$@")
_MIXED = 0.5


@dataclass(frozen=True, slots=True)
class Detection:
    """What bytes seem to be."""

    encoding: str
    """Its usual name, such as `GB18030`; empty if none fits."""
    confidence: float
    """0 to 1."""
    language: str = ""
    """What it was taken for, such as `Chinese`; empty where that played no part."""
    runner_up: str = ""
    """The next best, if another reading is possible."""
    bom_bytes: int = 0


def codec_of(encoding: str) -> str:
    """Return Python's name of an encoding that `detect` or a person named; `utf-8` for UTF-8.

    Raises:
        LookupError: there is none of this name, or it is none for text.
    """
    info = codecs.lookup(_CODECS.get(encoding, encoding))
    if not info._is_text_encoding:  # noqa: SLF001 - as str.decode checks it
        raise LookupError(f"{encoding} is no encoding of text")
    return info.name


def file_kind(head: bytes) -> str:
    """Return what a file is that begins with these bytes and cannot be read, in words; empty if it may be data."""
    return next((kind for magic, kind in _KINDS.items() if head.startswith(magic)), "")


def by_mark(head: bytes) -> Detection | None:
    """Return the encoding that a byte order mark, or NUL bytes in step, give away."""
    for mark, encoding in _BOMS.items():
        if head.startswith(mark):
            return Detection(encoding, 1.0, bom_bytes=len(mark))
    head = head[: len(head) // 4 * 4]
    nuls = [head[place::4].count(0) * 4 / max(1, len(head)) for place in range(4)]
    if sum(nuls) / 4 < _MIN_SHARE_OF_NULS:
        return None
    filled = [share < _MIXED for share in nuls]
    patterns = {
        (True, False, False, False): "UTF-32LE",
        (False, False, False, True): "UTF-32BE",
        (True, False, True, False): "UTF-16LE",
        (False, True, False, True): "UTF-16BE",
    }
    name = patterns.get((filled[0], filled[1], filled[2], filled[3]))
    return Detection(name, 0.99) if name else None


def detect(sample: bytes) -> Detection:
    """Return the likeliest encoding of whole lines that are no UTF-8 (or too few to tell)."""
    if any(sequence in sample for sequence in _ESCAPE_SEQUENCES):
        return Detection("ISO-2022-JP", 0.99, "Japanese")
    if not _BEYOND_ASCII.search(sample):
        return Detection("UTF-8", 1.0)
    scores: dict[str, list[tuple[float, str, str]]] = {}
    for encoding, language, usual in _CANDIDATES:
        text = sample.decode(codec_of(encoding), "replace")
        score = math.log(usual) + _likelihood(text, writing_systems()[language])
        scores.setdefault(text, []).append((score, encoding, language))
    ranked = sorted((max(readings), text) for text, readings in scores.items())[::-1]
    (best, encoding, language), text = ranked[0]
    share = 1 / sum(math.exp(max(-700.0, score - best)) for (score, _, _), _ in ranked)
    seen = sum(map(_evidence, Counter(_FOREIGN.findall(text)).values()))
    confidence = min(share, _usual_share(text, writing_systems()[language]), seen / (seen + 1))
    return Detection(encoding, round(confidence, 3), language, ranked[1][0][1])


def _usual_share(text: str, system: WritingSystem) -> float:
    """Return which share of the characters beyond ASCII is usual in the writing system."""
    counts = Counter(_FOREIGN.findall(text))
    return sum(count for character, count in counts.items() if character in system.letters) / counts.total()


def _likelihood(text: str, system: WritingSystem) -> float:
    """Return the logarithm of the probability of the characters beyond ASCII."""
    if not system.alphabetic:
        counts = Counter(_FOREIGN.findall(text))
        total = sum(_evidence(count, sign) * math.log(_probability(sign, system)) for sign, count in counts.items())
        return total + (math.log(_NO_KANA) if system.name == "Japanese" and not _KANA.search(text) else 0.0)
    places = (match.start() for match in _FOREIGN.finditer(text))
    contexts = Counter((text[max(0, place - 1) : place], text[place], text[place + 1 : place + 2]) for place in places)
    return sum(
        _evidence(count, sign) * math.log(_probability(sign, system) * _fit(sign, before, after, system))
        for (before, sign, after), count in contexts.items()
    )


def _evidence(count: int, sign: str = "") -> float:
    """Return how much a character says that occurs so often: a thousand rows with one word say little more than ten.

    Bytes that cannot be read at all (U+FFFD) each count.
    """
    return count if sign == "\ufffd" else math.log2(1 + count)


def _probability(character: str, system: WritingSystem) -> float:
    if character in system.letters:
        return system.letters[character]
    return system.other if character.isalpha() else min(system.other, _BROKEN) if character == "\ufffd" else _BROKEN


def _fit(character: str, before: str, after: str, system: WritingSystem) -> float:
    """Return how well a character of an alphabet goes with its neighbours, 1 for well."""
    ascii_beside = _is_ascii_letter(before) or _is_ascii_letter(after)
    if not character.isalpha():
        return _SIGN_IN_WORD if _is_ascii_letter(before) and _is_ascii_letter(after) and character != "’" else 1.0
    if system.mixed:
        return _AFTER_ANOTHER if before.isalpha() and not before.isascii() else 1.0
    return _BESIDE_ASCII if ascii_beside else 1.0


def _is_ascii_letter(character: str) -> bool:
    return character.isascii() and character.isalpha()
