"""Finds personal data and secrets in one text. Each kind: a pattern for its form, then a check.

Left alone, because they are nobody's: addresses of reserved domains (RFC 2606) and of git remotes, file names such as
`icon@2x.png`, numbers inside versions, hashes, URLs, decimals and ISBNs, phone numbers kept for fiction, placeholders such
as `sk-xxxx`. Knows nothing of rows, nor of what is done with what it finds.
"""

# ruff: noqa: PLR2004 - the numbers are those of the plans and standards that the docstrings name

# ruff: noqa: E501 - tables and patterns, and Chinese characters, which count twice

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

from tunewright.dataprep import guards
from tunewright.dataprep.pii import checks


class Found(NamedTuple):
    """A place in a text."""

    start: int
    end: int
    kind: str


class Number(NamedTuple):
    """Seven digits or more that stand close together."""

    start: int
    end: int
    digits: int


Numbers = list[Number]

KINDS = ("secrets", "emails", "ibans", "cards", "national_ids", "phones")
"""All kinds, in the order in which they claim a place."""

_FREE = r"(?<![A-Za-z0-9_.+/=#@%&-])"
"""No digit begins inside a word, a decimal, a URL, a hash."""
_END = r"(?![A-Za-z0-9_@%])(?![.,:/=-][0-9A-Za-z])"

_EMAIL = re.compile(
    r"(?<![A-Za-z0-9._%+/=@-])[A-Za-z0-9](?:[A-Za-z0-9._%+-]{0,62}[A-Za-z0-9_])?"
    r"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,5}[A-Za-z]{2,24}(?![A-Za-z0-9@(]|[-.][A-Za-z0-9])"
)
_NOBODY = re.compile(
    r"@(?:.*\.)?(?:example|test|invalid|localhost|local|internal)(?:\.[a-z]+)?$|@(?:.*\.)?(?:your|my)?(?:domain|company|host|server)\.\w+$"
    r"|\.(?:png|jpe?g|gif|svg|webp|js|css|ts|py|json|html?|md|txt|xml|ya?ml|so|exe|zip|gz)$"
    r"|^(?:git|hg)@|@(?:.*\.)?(?!(?:126|139|163|189|188)\.)\d+\.[a-z]+$|@users\.noreply\.github\.com$",
    re.IGNORECASE,
)
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}[0-9]{2}(?:[ -]?[A-Z0-9]){11,34}")
_CARD = re.compile(rf"{_FREE}[2-6][0-9]{{3}}(?:[ -]?[0-9]){{9,15}}{_END}")
_CHINESE_ID = re.compile(r"(?<![A-Za-z0-9_./=-])[1-8][0-9]{16}[0-9Xx](?![A-Za-z0-9_])")
_SOCIAL_SECURITY = re.compile(rf"{_FREE}[0-9]{{3}}-[0-9]{{2}}-[0-9]{{4}}{_END}")
_INTERNATIONAL = re.compile(
    r"(?<![A-Za-z0-9_.+/=#-])(?:\+|00(?=[1-9]))[1-9][0-9]{0,2}(?:[ .-]?\([0-9]{1,4}\))?(?:[ .-]{0,2}[0-9]{1,5}){2,6}"
    + _END
)
_CHINESE_MOBILE = re.compile(rf"{_FREE}(?:\(?(?:86)\)?[ -]?)?(1[3-9][0-9][ -]?[0-9]{{4}}[ -]?[0-9]{{4}}){_END}")
_CHINESE_LANDLINE = re.compile(
    rf"{_FREE}(?:[(（]0(?:10|2[0-9]|[3-9][0-9]{{2}})[)）] ?|0(?:10|2[0-9]|[3-9][0-9]{{2}})-)[2-8][0-9]{{6,7}}"
    rf"(?:(?:-|转)[0-9]{{1,5}})?{_END}"
)
_NORTH_AMERICAN = re.compile(
    rf"(?<![A-Za-z0-9_.+/=#@%&$-])(?:1[ .-])?(?:\([0-9]{{3}}\) ?[0-9]{{3}}[ .-]|([0-9]{{3}}([ .-])[0-9]{{3}}\2))[0-9]{{4}}{_END}"
)
_TRUNK = re.compile(rf"{_FREE}(?<![0-9] )\(?0[1-9][0-9]{{1,3}}\)?[ -][0-9]{{3,4}}[ -][0-9]{{3,4}}{_END}(?! [0-9])")
_NAMED = re.compile(
    r"(?:(?<![A-Za-z])(?:tel|phone|telephone|mobile|cell|whatsapp|fax)|电话|手机|手機|電話|联系方式|热线)(?: number| no)?\.?"
    r"(?: is|[:：是为])\s*([0-9][0-9 ()-]{5,16}[0-9])(?![0-9A-Za-z_.])",
    re.IGNORECASE,
)

_FORMS = (
    r"(?:A3T[A-Z0-9]|AKIA|AGPA|AIDA|AROA|ASIA)[A-Z0-9]{16}|LTAI[A-Za-z0-9]{12,20}|AKID[A-Za-z0-9]{32}"
    r"|AIza[A-Za-z0-9_-]{35}|ya29\.[A-Za-z0-9_-]{20,200}"
    r"|gh[pousr]_[A-Za-z0-9]{36,100}|github_pat_[A-Za-z0-9_]{40,100}|glpat-[A-Za-z0-9_-]{20,60}"
    r"|xox[abprs]-[A-Za-z0-9-]{10,100}|xapp-[0-9]-[A-Za-z0-9-]{20,120}"
    r"|sk-(?:ant-|proj-|or-|svcacct-)?[A-Za-z0-9_-]{20,200}|hf_[A-Za-z0-9]{30,60}|npm_[A-Za-z0-9]{36}|pypi-[A-Za-z0-9_-]{50,250}"
    r"|(?:sk|rk|pk)_(?:live|test)_[A-Za-z0-9]{16,120}|whsec_[A-Za-z0-9]{24,60}"
    r"|SG\.[A-Za-z0-9_-]{16,30}\.[A-Za-z0-9_-]{30,60}|dop_v1_[a-f0-9]{64}|key-[a-f0-9]{32}"
    r"|eyJ[A-Za-z0-9_-]{10,500}\.eyJ[A-Za-z0-9_-]{10,2000}\.[A-Za-z0-9_-]{10,700}|[0-9]{8,10}:AA[A-Za-z0-9_-]{33}"
)
_SECRET = re.compile(
    rf"(?<![A-Za-z0-9_])(?P<token>{_FORMS})(?![A-Za-z0-9])"
    r"|(?P<key>-----BEGIN (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----(?:[^-]{40,8000}|[\s\S]{40,8000}?)"
    r"-----END (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----)"
    r"|(?i:api[_-]?key|secret[_-]?(?:access[_-]?)?key|access[_-]?token|auth[_-]?token|client[_-]?secret|access[_-]?key|token|secret)"
    r"[\"']?\s{0,3}(?:[:=]|=>|:=)\s{0,3}[\"']?(?P<named>[A-Za-z0-9_+/=.-]{16,200})(?![A-Za-z0-9])"
    r"|://[A-Za-z0-9._%+-]{1,60}:(?P<login>[^\s:/@\"'<>{}$\[]{4,100})@[A-Za-z0-9]"
)
_PLACEHOLDER = re.compile(
    r"example|your|xxx|placeholder|changeme|\.\.\.|dummy|sample|test[_-]?key|password|passwd|pass$|abcdef|12345678|secret$|000000",
    re.IGNORECASE,
)
_LEAST_ENTROPY = 3.0
_NAMED_ENTROPY = 3.3


_NUMBER = re.compile(r"[0-9](?:[ .()（）-]{0,17}[0-9]){6,}")
"""All that cards, identity numbers and phones are made of, but for what stands directly before and after."""
_BEFORE, _AFTER = 1, 10
"""Characters of a match before and after the digits: `(` or `+`; an extension's sign and digits, and what must follow."""
_CALLED = ("tel", "phone", "mobile", "cell", "whatsapp", "fax", "电话", "手机", "手機", "電話", "联系方式", "热线")
_FOLD_TO_ASCII = ("ı", "ſ")
"""Taken for `i` and `s` where case does not count."""
_ANNOUNCES = frozenset("sSſ:：是为")
"""One of these ends what stands before a number that is named a phone, white space aside."""
_MOST_SPACE = 64
"""White space beyond this is not looked through: what stands before it may be anything."""
_NO_DIGITS = dict.fromkeys(range(ord("0"), ord("9") + 1))


def find(text: str, flags: int = guards.EVERYTHING) -> list[Found]:
    """Return all places, in order, none over another; `flags` are those of `scanning.scan`, or all."""
    found: list[Found] = []
    numbers = [_number(match) for match in _NUMBER.finditer(text)] if flags & guards.DIGITS else []
    for kind, flag, finder in _FINDERS:
        if flags & flag:
            for start, end in finder(text, numbers):
                if not any(start < one.end and one.start < end for one in found):
                    found.append(Found(start, end, kind))
    return sorted(found)


def _number(match: re.Match[str]) -> Number:
    start, end = match.span()
    return Number(start, end, end - start - len(match[0].translate(_NO_DIGITS)))


def _in_numbers(pattern: re.Pattern[str], text: str, numbers: Numbers, least: int) -> list[re.Match[str]]:
    """Return what `pattern.finditer` yields, looking only where digits are; no match reaches over two of the places.

    All digits that the pattern needs, `least` of them, stand in one place.
    """
    return [
        match
        for start, end, digits in numbers
        if digits >= least
        for match in pattern.finditer(text, start - _BEFORE if start else 0, end + _AFTER)
        if match.start() < end
    ]


def _emails(text: str, _: Numbers) -> Iterator[tuple[int, int]]:
    for match in _EMAIL.finditer(text):
        if not _NOBODY.search(match[0]) and ".." not in match[0]:
            yield match.span()


def _ibans(text: str, _: Numbers) -> Iterator[tuple[int, int]]:
    position = 0
    while match := _IBAN.search(text, position):
        position = match.start() + 2
        length = checks.iban_length(re.sub("[ -]", "", match[0]))
        if not length:
            continue
        end = match.start()
        while length:
            length -= text[end] not in " -"
            end += 1
        if end == len(text) or not (text[end].isascii() and text[end].isalnum()):
            yield match.start(), end
            position = end


def _cards(text: str, numbers: Numbers) -> Iterator[tuple[int, int]]:
    for match in _in_numbers(_CARD, text, numbers, 13):
        if checks.is_card(re.sub("[ -]", "", match[0])) and _is_grouped(match[0]):
            yield match.span()


def _is_grouped(number: str) -> bool:
    """Return True if a card's digits stand in one piece or in groups of at least three, by one separator."""
    separators = set(re.sub("[0-9]", "", number))
    return len(separators) <= 1 and all(len(group) >= 3 for group in re.split("[ -]", number))


def _national_ids(text: str, numbers: Numbers) -> Iterator[tuple[int, int]]:
    for match in _in_numbers(_CHINESE_ID, text, numbers, 17):
        if checks.is_chinese_id(match[0]):
            yield match.span()
    for match in _in_numbers(_SOCIAL_SECURITY, text, numbers, 9):
        if checks.is_social_security(match[0]):
            yield match.span()


def _phones(text: str, numbers: Numbers) -> Iterator[tuple[int, int]]:
    abroad = [number for number in numbers if _may_be_international(text, number)]
    most = max([number.digits for number in numbers], default=0)
    for pattern, least, check in _PHONES:
        if most < least:
            continue
        for match in _in_numbers(pattern, text, abroad if pattern is _INTERNATIONAL else numbers, least):
            if check(match[0]):
                yield match.span()
    if not any(_is_announced(text, number.start) for number in numbers):
        return
    lower = text.lower()
    if not any(word in lower for word in _CALLED) and not any(letter in text for letter in _FOLD_TO_ASCII):
        return
    for match in _NAMED.finditer(text):
        if 7 <= sum(character.isdigit() for character in match[1]) <= 15:
            yield match.span(1)


def _may_be_international(text: str, number: Number) -> bool:
    return text[number.start - 1 : number.start] == "+" or "00" in text[number.start : number.end]


def _is_announced(text: str, start: int) -> bool:
    """Return True if what `_NAMED` needs before a number may stand before this one."""
    before = text[max(0, start - _MOST_SPACE) : start].rstrip()
    return before[-1] in _ANNOUNCES if before else start > _MOST_SPACE


def _is_mobile(number: str) -> bool:
    digits = re.sub(r"\D", "", number)
    return checks.is_chinese_mobile(digits[-11:])


def _is_north_american(number: str) -> bool:
    return checks.is_north_american(re.sub(r"\D", "", number)[-10:])


_SIGNS = (
    "A3T", "AKIA", "AGPA", "AIDA", "AROA", "ASIA", "LTAI", "AKID", "AIza", "ya29.", "ghp_", "gho_", "ghu_", "ghs_", "ghr_",
    "github_pat_", "glpat-", "xox", "xapp-", "sk-", "hf_", "npm_", "pypi-", "_live_", "_test_", "whsec_", "SG.", "dop_v1_",
    "eyJ", ":AA", "PRIVATE KEY", "://",
)  # fmt: skip
_NAMES = ("key", "token", "secret")
"""All that `_SECRET` finds has one of `_SIGNS`, or one of these in any case: looking for them takes a tenth of its time."""


def _may_hold_secret(text: str) -> bool:
    lower = text.lower()
    named = any(name in lower for name in _NAMES) or any(letter in text for letter in _FOLD_TO_ASCII)
    return named or any(sign in text for sign in _SIGNS)


def _secrets(text: str, _: Numbers) -> Iterator[tuple[int, int]]:
    if not _may_hold_secret(text):
        return
    for match in _SECRET.finditer(text):
        name = match.lastgroup or ""
        value = match[name]
        if name == "key":
            yield match.span(name)
        elif _PLACEHOLDER.search(value):
            continue
        by_form = name == "login" or (name == "token" and _is_mixed(value, _LEAST_ENTROPY))
        by_name = name == "named" and _is_mixed(value, _NAMED_ENTROPY) and not _WORDS.fullmatch(value)
        if by_form or by_name:
            yield match.span(name)


_WORDS = re.compile(r"[A-Za-z]++[0-9]{0,4}+(?:[_./=-]++(?:[A-Za-z]++[0-9]{0,4}+|[0-9]{1,8}+))*+[_./=-]*+")
"""Names of things, such as `AWS_SECRET_ACCESS_KEY` or `module.function2`: digits end a word, and a sign parts two.
Possessive, so that no value is tried in more than one way."""


def _is_mixed(value: str, least: float) -> bool:
    """Return True for letters and digits without order: bits a character (Shannon) of a random token, not of a name."""
    has_both = any(c.isdigit() for c in value) and any(c.isalpha() for c in value)
    counts = Counter(value).values()
    entropy = -sum(count / len(value) * math.log2(count / len(value)) for count in counts)
    return has_both and entropy >= least


_PHONES: tuple[tuple[re.Pattern[str], int, Callable[[str], bool]], ...] = (
    (_INTERNATIONAL, 0, checks.is_international),
    (_CHINESE_MOBILE, 11, _is_mobile),
    (_CHINESE_LANDLINE, 10, bool),
    (_NORTH_AMERICAN, 10, _is_north_american),
    (_TRUNK, 9, bool),
)
"""Pattern, the digits that it needs in one place, a check."""
_FINDERS = (
    ("secrets", guards.TOKEN | guards.AT_SIGN, _secrets),
    ("emails", guards.AT_SIGN, _emails),
    ("ibans", guards.IBAN, _ibans),
    ("cards", guards.DIGITS, _cards),
    ("national_ids", guards.DIGITS, _national_ids),
    ("phones", guards.DIGITS, _phones),
)
