"""What text looks like in each encoding's languages: how likely a character is, by tiers. Knows no bytes.

The lists are the most frequent characters of running text; the wide tiers are the standards' own "frequent" levels
(GB 2312 level 1, Big5 level 1, JIS X 0208 level 1, KS X 1001 hangul).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

_HANS = (
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里用道行所然家种事成"
    "方多经么去法学如都同现当没动面起看定天分还进好小部其些主样理心她本前开但因只从想实"
)
_HANT = (
    "的一是不了在人有我他這個們中來上大為和國地到以說時要就出會可也你對生能而子那得於著下自之年過發後作裡用道行所然家種事成"
    "方多經麼去法學如都同現當沒動面起看定天分還進好小部其些主樣理心她本前開但因只從想實"
)
_KANA = (
    "のにはをたがでてとしれさいるあこなうそかよっらりおもくまえけきすどちだつわやほじろみんせめ"
    "アイウエオカキクケコサシスセソタチツテトナニネノハバパヒビピフブプホボポマミムメモヤュョラリルレロワンーッャ"
)
_HANGUL = (
    "이다는의에을가고하지를은로서한도기사어나자시리으아해있그수"
    "대일인스정제라들만게보여주전상부장원구무과와니면안내없세우조된했것요"
)
_CJK_PUNCTUATION = "，。、：；？！“”‘’（）《》「」『』【】…—·～　・％"
_WESTERN = "éèàêâîôûçëïùœæäöüßáíóúñ¿¡ãõåøÉÈÀÇÄÖÜÁÍÓÚÑÅØÊÂÎÔŒÆì"
_CENTRAL = "ąćęłńóśźżáčďéěíňřšťúůýžäöüßőűôľĺăâîșțşţđĄĆĘŁŃÓŚŹŻÁČÉĚÍŘŠÚŽÄÖÜŐŰĐ"
_TURKISH = "ıİğĞşŞçÇöÖüÜâ"
_BALTIC = "āčēģīķļņšūžąęėįųõäöüĀČĒĢĪĶĻŅŠŪŽĄĘĖĮŲÕÄÖÜ"
_CYRILLIC = "оеаинтсрвлкмдпуяыьгзбчйхжшюцщэфъёіїєґў"
_GREEK = "αοιετσνηυρπκμλςίόωήδγάέχθφβξώζύψϊ"
_HEBREW = "יולאהתרמבשנםעחדקפכןגטזסצךץףז"
_ARABIC = "البيلمونترهعدفسقأكةحجخشصىإزطغضثذظءآؤئ،؟"
_THAI = "กขคฆงจฉชซญฐณดตถทธนบปผฝพฟภมยรลวศษสหฬอฮะัาำิีึืุูเแโใไๆ็่้๊๋์ฯ"
_MARKS = "’“”–—…«»°€£§·•‘„©®™×½\xa0²´"

_FREQUENT, _COMMON, _PUNCTUATION, _OTHER = 0.45, 0.4, 0.14, 0.01


@dataclass(frozen=True, slots=True)
class WritingSystem:
    """One language or group of them, as a table of probabilities."""

    name: str
    letters: dict[str, float]
    """Character → its share among characters beyond ASCII."""
    other: float
    """Share of each letter or ideograph that is not in the table."""
    alphabetic: bool
    mixed: bool
    """Its letters stand among ASCII letters, so that a sign inside of a word tells of a wrong encoding."""


@cache
def writing_systems() -> dict[str, WritingSystem]:
    """Return name → writing system."""
    western = {
        "Western European": _WESTERN,
        "Central European": _CENTRAL,
        "Turkish": _TURKISH,
        "Baltic": _BALTIC,
    }
    alphabets = {
        "Cyrillic": _CYRILLIC,
        "Greek": _GREEK,
        "Hebrew": _HEBREW,
        "Arabic": _ARABIC,
        "Thai": _THAI,
    }
    systems = [
        _ideographic("Chinese", _HANS, _level("gb2312", 0xB0, 0xD7)),
        _ideographic("traditional Chinese", _HANT, _level("cp950", 0xA4, 0xC6)),
        _ideographic("Japanese", _KANA, _level("euc_jp", 0xA4, 0xA5) + _level("euc_jp", 0xB0, 0xCF)),
        _ideographic("Korean", _HANGUL, _level("euc_kr", 0xB0, 0xC8)),
        *(_alphabetic(name, letters, mixed=True) for name, letters in western.items()),
        *(_alphabetic(name, letters, mixed=False) for name, letters in alphabets.items()),
    ]
    return {system.name: system for system in systems}


def _ideographic(name: str, frequent: str, common: str) -> WritingSystem:
    tiers = [(common, _COMMON * len(set(common)) / 4000), (frequent, _FREQUENT), (_CJK_PUNCTUATION, _PUNCTUATION)]
    return WritingSystem(name, _table(tiers), _OTHER / 20_000, alphabetic=False, mixed=False)


def _alphabetic(name: str, frequent: str, *, mixed: bool) -> WritingSystem:
    tiers = [(frequent.upper(), 0.04), (_MARKS, 0.05), (frequent[: len(frequent) // 2], 0.6), (frequent, 0.3)]
    return WritingSystem(name, _table(tiers), _OTHER / 400, alphabetic=True, mixed=mixed)


def _table(tiers: Iterable[tuple[str, float]]) -> dict[str, float]:
    table: dict[str, float] = {}
    for characters, share in tiers:
        distinct = set(characters)
        for character in distinct:
            table[character] = table.get(character, 0.0) + share / len(distinct)
    return {character: share for character, share in table.items() if not character.isascii()}


def _level(codec: str, first: int, last: int) -> str:
    """Return the characters in these rows of a two-byte standard."""
    trails = (*range(0x40, 0x7F), *range(0xA1, 0xFF)) if codec == "cp950" else range(0xA1, 0xFF)
    return bytes(byte for lead in range(first, last + 1) for trail in trails for byte in (lead, trail)).decode(
        codec, "ignore"
    )
