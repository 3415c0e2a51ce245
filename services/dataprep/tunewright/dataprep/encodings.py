"""Recognises bytes that are no UTF-8 text, and says where, what they look like, and how to convert them.

Knows nothing of JSON or rows.
"""

import re
import shlex
from typing import Never

from tunewright.chassis.errors import InvalidData, Violation

UTF8_BOM = b"\xef\xbb\xbf"
_BOMS = {
    b"\xff\xfe\x00\x00": "UTF-32LE",
    b"\x00\x00\xfe\xff": "UTF-32BE",
    b"\xff\xfe": "UTF-16LE",
    b"\xfe\xff": "UTF-16BE",
}
_KINDS = {
    b"\x1f\x8b": "a gzip archive",
    b"\x28\xb5\x2f\xfd": "a Zstandard archive",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ\x00": "an xz archive",
    b"PK\x03\x04": "a ZIP archive (or an Office document)",
    b"PAR1": "a Parquet file",
    b"ARROW1": "an Arrow file",
    b"%PDF": "a PDF document",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"SQLite format 3\x00": "an SQLite database",
}
_NON_ASCII_RUN = re.compile(rb"[\x80-\xff]+")
_MIN_SHARE_OF_NULS = 0.3


def file_kind(head: bytes) -> str:
    """Return what a file is that begins with these bytes, in words; empty if it may be text."""
    return next((kind for magic, kind in _KINDS.items() if head.startswith(magic)), "")


def refuse_wide_encoding(name: str, head: bytes) -> None:
    """Refuse UTF-16 and UTF-32, which a byte order mark or NUL bytes at every other place give away.

    Raises:
        InvalidData: it is one of them.
    """
    encoding = next((encoding for bom, encoding in _BOMS.items() if head.startswith(bom)), "")
    if not encoding and head.count(0) > _MIN_SHARE_OF_NULS * len(head):
        encoding = "UTF-16BE" if head[0] == 0 else "UTF-16LE"
    if encoding:
        _refuse(name, 1, 0, head[0], encoding)


def refuse_encoding(name: str, line: int, start: int, raw: bytes) -> None:
    """Refuse a line that is not UTF-8; `start` is the offset of its first byte in the file.

    Raises:
        InvalidData: with the offset of the first wrong byte.
    """
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        _refuse(name, line, start + error.start, raw[error.start], _likely(raw))


def _likely(raw: bytes) -> str:
    """Return the likeliest encoding: double-byte text has its high bytes in pairs, single-byte text does not."""
    runs = _NON_ASCII_RUN.findall(raw)
    if all(len(run) % 2 == 0 for run in runs):
        try:
            raw.decode("gb18030")
        except UnicodeDecodeError:
            return "CP1252"
        return "GB18030"
    return "CP1252"


def _refuse(name: str, line: int, offset: int, byte: int, encoding: str) -> Never:
    message = f"{name} is not UTF-8: byte 0x{byte:02x} at offset {offset:,} (line {line:,}); it looks like {encoding}"
    remedy = f"Convert it: iconv -f {encoding} -t UTF-8 {shlex.quote(name)} > utf8.jsonl"
    place = Violation(f"{name}:{line}", f"byte 0x{byte:02x} at offset {offset} is not UTF-8")
    raise InvalidData(message, remedy=remedy, violations=[place])
