"""Checksums and number plans: tells a card, an account, an identity number, a phone from digits that look like one.

Knows nothing of texts.
"""

# ruff: noqa: PLR2004 - the numbers are those of the plans and standards that the docstrings name

# ruff: noqa: E501 - tables and patterns, and Chinese characters, which count twice

import re

_IBAN_LENGTHS = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BI": 27, "BR": 29, "BY": 28,
    "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DJ": 27, "DK": 18, "DO": 28, "EE": 20, "EG": 29, "ES": 24, "FI": 18,
    "FK": 18, "FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28, "HN": 28, "HR": 21, "HU": 28,
    "IE": 22, "IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20, "LB": 28, "LC": 32, "LI": 21, "LT": 20,
    "LU": 20, "LV": 21, "LY": 25, "MC": 27, "MD": 24, "ME": 22, "MK": 19, "MN": 20, "MR": 27, "MT": 31, "MU": 30, "NI": 28,
    "NL": 18, "NO": 15, "OM": 23, "PK": 24, "PL": 28, "PS": 29, "PT": 25, "QA": 29, "RO": 24, "RS": 22, "RU": 33, "SA": 24,
    "SC": 31, "SD": 18, "SE": 24, "SI": 19, "SK": 24, "SM": 27, "SO": 23, "ST": 25, "SV": 28, "TL": 23, "TN": 24, "TR": 26,
    "UA": 29, "VA": 22, "VG": 24, "XK": 20, "YE": 30,
}  # fmt: skip
"""Country → characters of an IBAN (SWIFT's IBAN registry)."""

# Prefix → lengths, by ISO/IEC 7812 ranges: Visa, Mastercard, American Express, Discover, Diners, JCB, UnionPay, Maestro.
_CARDS = (
    (re.compile(r"4"), (13, 16, 19)),
    (re.compile(r"5[1-5]|2(?:22[1-9]|2[3-9]|[3-6]|7[01]|720)"), (16,)),
    (re.compile(r"3[47]"), (15,)),
    (re.compile(r"6011|64[4-9]|65"), (16, 19)),
    (re.compile(r"3(?:0[0-5]|[68])"), (14,)),
    (re.compile(r"35(?:2[89]|[3-8])"), (16,)),
    (re.compile(r"62"), (16, 17, 18, 19)),
    (re.compile(r"50(?:18|20|38)|6304|6759|676[1-3]"), (16,)),
)
_PROVINCES = frozenset(
    map(
        str,
        [
            *range(11, 16),
            *range(21, 24),
            *range(31, 38),
            *range(41, 47),
            *range(50, 55),
            *range(61, 66),
            71,
            81,
            82,
            83,
        ],
    )
)
_ID_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_CALLING = re.compile(
    r"1|7|2(?:0|7|[1-69]\d|8[0-9])|3(?:[0-469]|[578]\d)|4(?:[013-9]|2\d)|5(?:[1-8]|[09]\d)|6(?:[0-6]|[789]\d)"
    r"|8(?:[1246]|[058]\d)|9(?:[0-58]|[679]\d)"
)
_CHINESE_MOBILE = re.compile(r"1(?:3\d|4[5-9]|5[0-35-9]|6[2567]|7[0-8]|8\d|9[0-35-9])\d{8}")
_FICTIONAL = re.compile(r"(?:1?\d{3})55501\d\d")


def is_card(digits: str) -> bool:
    """Return True for a payment card's number: a known prefix, its length, and Luhn's checksum (ISO/IEC 7812-1)."""
    if len(set(digits)) < 3 or not any(p.match(digits) and len(digits) in sizes for p, sizes in _CARDS):
        return False
    doubled = (2 * int(digit) for digit in digits[-2::-2])
    return (sum(map(int, digits[-1::-2])) + sum(n - 9 if n > 9 else n for n in doubled)) % 10 == 0


def iban_length(text: str) -> int:
    """Return how many characters at the beginning are an IBAN, 0 for none: country's length, ISO 7064 mod 97-10."""
    length = _IBAN_LENGTHS.get(text[:2], 0)
    if not length or len(text) < length:
        return 0
    turned = text[4:length] + text[:4]
    return length if int("".join(str(int(character, 36)) for character in turned)) % 97 == 1 else 0


def is_chinese_id(number: str) -> bool:
    """Return True for an 18-character identity number: province, date, ISO 7064 mod 11-2 (GB 11643-1999)."""
    if number[:2] not in _PROVINCES or not "1900" <= number[6:10] <= "2099" or not _is_date(number[10:14]):
        return False
    total = sum(weight * int(digit) for weight, digit in zip(_ID_WEIGHTS, number, strict=False))
    return "10X98765432"[total % 11] == number[17].upper()


def is_social_security(number: str) -> bool:
    """Return True for a number of the United States' plan (AAA-GG-SSSS) that can have been given to somebody."""
    area, group, serial = number.split("-")
    return area not in {"000", "666"} and area < "900" and group != "00" and serial != "0000"


def is_international(number: str) -> bool:
    """Return True for `+` and 8 to 15 digits (E.164) that begin with a calling code in use; fiction's 555-01 is none."""
    digits = re.sub(r"\D", "", number)
    return 8 <= len(digits) <= 15 and _CALLING.match(digits) is not None and not _FICTIONAL.fullmatch(digits)


def is_chinese_mobile(digits: str) -> bool:
    """Return True for eleven digits of a range that is given out to mobile phones in China."""
    return _CHINESE_MOBILE.fullmatch(digits) is not None and len(set(digits)) > 2


def is_north_american(digits: str) -> bool:
    """Return True for ten digits of the North American plan; fiction's 555-01 is none."""
    plan = digits[0] in "23456789" and digits[3] in "23456789" and digits[1:3] != "11" and digits[4:6] != "11"
    return plan and not _FICTIONAL.fullmatch(digits)


def _is_date(month_day: str) -> bool:
    month, day = int(month_day[:2]), int(month_day[2:])
    return 1 <= month <= 12 and 1 <= day <= (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)[month - 1]
