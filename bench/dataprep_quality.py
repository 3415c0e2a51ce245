"""Precision and recall of every cleaning rule, filter, kind of personal data and duplicate finder, on real texts.

Texts come from packages (chatterbot-corpus, jionlp, botocore's documentation). Defects are planted in them by a seeded generator that records the truth. Beside our
finders of personal data stands a set of plain regular expressions, one a kind, as they are usually written.

The phrases planted were written by those who wrote the rules: recall on them says that nothing broke, not how much is
found in other data. `dataprep_truth.py` measures that.

Run from the root: ``python -m bench.dataprep_quality --data FOLDER [--out FILE]``; FOLDER is a ``pip install --target`` folder.
Prints one JSON line; a table goes to standard error.
"""

# ruff: noqa: PLR2004, S311, ARG005 - planted defects need plain, seeded chance; the stage is our own command

# ruff: noqa: E501 - tables and patterns, and Chinese characters, which count twice

import argparse
import gzip
import json
import platform
import random
import re
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import botocore  # type: ignore[import-untyped]
import yaml

from tunewright.dataprep import languages, rules
from tunewright.dataprep.pii.masking import PLACEHOLDERS
from tunewright.dataprep.shapes import Message
from tunewright.dataprep.spec import DataprepSpec

_NEAR = 0.85
"""Jaccard similarity from which a planted twin has to be found; the stage's threshold is 0.8 over the whole row."""
_LANGUAGES = {
    "bengali": "bn", "chinese": "zh", "dutch": "nl", "english": "en", "french": "fr", "german": "de", "hebrew": "he",
    "hindi": "hi", "indonesian": "id", "italian": "it", "japanese": "ja", "korean": "ko", "marathi": "mr", "oriya": "or",
    "persian": "fa", "portuguese": "pt", "russian": "ru", "spanish": "es", "tamil": "ta", "telugu": "te", "thai": "th",
    "traditionalchinese": "zh", "turkish": "tr", "ukrainian": "uk", "urdu": "ur",
}  # fmt: skip
"""Folders of chatterbot-corpus; Swedish is left out: a third of its texts are English."""
_FILTERS_OFF = {"filters": dict.fromkeys(("repetition", "refusals", "garbled", "boilerplate"), False)}
_PLAIN = {
    "emails": r"[\w.+-]+@[\w-]+\.[\w.-]+",
    "phones": r"\+?\d[\d ().-]{7,16}\d",
    "cards": r"\b(?:\d[ -]?){13,16}\b",
    "ibans": r"\b[A-Z]{2}\d{2}[A-Z0-9 ]{11,30}\b",
    "national_ids": r"\b\d{17}[\dXx]\b|\b\d{3}-\d{2}-\d{4}\b",
    "secrets": r"\b(?:sk|ghp|AKIA|xoxb|hf)[-_]?[A-Za-z0-9_-]{12,}",
}


def chat(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield (language code, text of one conversation) of chatterbot-corpus."""
    for name, code in _LANGUAGES.items():
        for path in sorted((folder / "chatterbot_corpus" / "data" / name).glob("*.y*ml")):
            document = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
            for turns in document.get("conversations") or ():
                yield code, " ".join(map(str, turns))


def prose(folder: Path, rng: random.Random) -> list[str]:
    """Return real English and Chinese texts of 100 to 2,000 characters, half and half, without markup."""
    english = []
    for path in sorted(Path(botocore.__file__).parent.glob("data/*/*/service-2.json.gz")):
        operations = json.loads(gzip.decompress(path.read_bytes()))["operations"].values()
        texts = (
            re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", one.get("documentation", ""))).strip() for one in operations
        )
        english += [text for text in texts if 100 <= len(text) <= 2000 and "&" not in text]
    with zipfile.ZipFile(folder / "jionlp" / "dictionary" / "chinese_word_dictionary.zip") as archive:
        lines = archive.read(archive.namelist()[0]).decode("utf-8", "ignore").splitlines()
    glosses = [gloss for line in lines if len(gloss := line.split("\t")[-1]) > 20]
    rng.shuffle(glosses)
    chinese = ["\n".join(glosses[start : start + 6])[:2000] for start in range(0, len(glosses) - 6, 6)]
    count = min(1500, len(english), len(chinese))
    mixed = [*rng.sample(sorted(set(english)), count), *rng.sample(sorted(set(chinese)), count)]
    done = rules.apply([row(text) for text in mixed], DataprepSpec.from_mapping(_FILTERS_OFF))
    return [done.rows[number][1]["content"] for number in range(len(mixed)) if number not in done.rejections]


def row(answer: str, question: str = "What does it say?") -> list[Message]:
    """Return one question with its answer."""
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def luhn(digits: str) -> str:
    """Return the digits with Luhn's check digit."""
    doubled = [int(d) * (2 - i % 2) for i, d in enumerate(reversed(digits))]
    return digits + str(-sum(n - 9 if n > 9 else n for n in doubled) % 10)


def iban(rng: random.Random) -> str:
    """Return a German or a Dutch IBAN with its checksum."""
    country, body = rng.choice((("DE", _digits(rng, 18)), ("NL", "INGB" + _digits(rng, 10))))
    number = int("".join(str(int(c, 36)) for c in f"{body}{country}00"))
    whole = f"{country}{98 - number % 97:02}{body}"
    return whole if rng.random() < 0.5 else " ".join(whole[i : i + 4] for i in range(0, len(whole), 4))


def chinese_id(rng: random.Random) -> str:
    """Return a Chinese identity number with its check character."""
    body = f"{rng.choice(('110105', '310115', '440304', '510104'))}{rng.randint(1950, 2005)}{rng.randint(1, 12):02}"
    body += f"{rng.randint(1, 28):02}{_digits(rng, 3)}"
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    return body + "10X98765432"[sum(int(d) * w for d, w in zip(body, weights, strict=True)) % 11]


def _digits(rng: random.Random, count: int) -> str:
    return "".join(rng.choice("0123456789") for _ in range(count))


def _token(
    rng: random.Random, count: int, letters: str = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
) -> str:
    return "".join(rng.choice(letters) for _ in range(count))


def _grouped(rng: random.Random, digits: str) -> str:
    separator = rng.choice(("", " ", "-"))
    return separator.join(digits[i : i + 4] for i in range(0, 16, 4))


PERSONAL: dict[str, tuple[Callable[[random.Random], str], ...]] = {
    "emails": (
        lambda r: (
            f"{_token(r, 6).lower()}.{_token(r, 4).lower()}@{r.choice(('gmail.com', 'qq.com', '163.com', 'web.de', 'mail.shop.co.uk'))}"
        ),
        lambda r: f"{_token(r, 5)}+{_token(r, 3)}@{_token(r, 6).lower()}.io",
    ),
    "phones": (
        lambda r: f"1{r.choice(('38', '50', '86', '99'))}{_digits(r, 8)}",
        lambda r: (
            f"+86 1{r.choice(('39', '58', '77'))}{_digits(r, 1)} {_digits(r, 4)} {_digits(r, 3)}{r.randint(0, 9)}"[:17]
        ),
        lambda r: f"+44 20 7{_digits(r, 3)} {_digits(r, 4)}",
        lambda r: f"+49 (0)30 {_digits(r, 7)}",
        lambda r: f"({r.randint(220, 989)}) {r.randint(320, 499)}-{_digits(r, 4)}",
        lambda r: f"{r.randint(220, 989)}-{r.randint(320, 499)}-{_digits(r, 4)}",
        lambda r: f"0{r.choice(('10', '21', '755'))}-{r.randint(2, 8)}{_digits(r, 7)}",
        lambda r: f"+1 {r.randint(220, 989)} {r.randint(320, 499)} {_digits(r, 4)}",
        lambda r: f"0{r.randint(31, 89)} {_digits(r, 4)} {_digits(r, 4)}",
    ),
    "cards": (
        lambda r: _grouped(r, luhn("4" + _digits(r, 14))),
        lambda r: _grouped(r, luhn(f"5{r.randint(1, 5)}" + _digits(r, 13))),
        lambda r: luhn(f"3{r.choice('47')}" + _digits(r, 12)),
        lambda r: _grouped(r, luhn("62" + _digits(r, 13))),
    ),
    "ibans": (iban,),
    "national_ids": (chinese_id, lambda r: f"{r.randint(100, 665)}-{r.randint(10, 99)}-{r.randint(1000, 9999)}"),
    "secrets": (
        lambda r: "AKIA" + _token(r, 16, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"),
        lambda r: "ghp_" + _token(r, 36),
        lambda r: "sk-" + _token(r, 48),
        lambda r: f"xoxb-{_digits(r, 12)}-{_token(r, 24)}",
        lambda r: "AIza" + _token(r, 35),
        lambda r: "hf_" + _token(r, 34),
        lambda r: f"-----BEGIN RSA PRIVATE KEY-----\n{_token(r, 64)}\n{_token(r, 64)}\n-----END RSA PRIVATE KEY-----",
        lambda r: f"eyJ{_token(r, 20)}.eyJ{_token(r, 60)}.{_token(r, 43)}",
        lambda r: "LTAI" + _token(r, 20),
    ),
}
IMPERSONAL: tuple[Callable[[random.Random], str], ...] = (
    lambda r: f"{r.randint(0, 30)}.{r.randint(0, 30)}.{r.randint(0, 99999)}-beta.{r.randint(1, 9)}",
    lambda r: _token(r, 40, "0123456789abcdef"),
    lambda r: _token(r, 32, "0123456789abcdef"),
    lambda r: "-".join(_token(r, n, "0123456789abcdef") for n in (8, 4, 4, 4, 12)),
    lambda r: f"ISBN 978-{r.randint(0, 9)}-{_digits(r, 2)}-{_digits(r, 6)}-{r.randint(0, 9)}",
    lambda r: f"ISBN 978{_digits(r, 10)}",
    lambda r: str(r.randint(1_500_000_000, 1_799_999_999)),
    lambda r: str(r.randint(1_500_000_000_000, 1_799_999_999_999)),
    lambda r: (
        f"20{r.randint(10, 26)}-{r.randint(1, 12):02}-{r.randint(1, 28):02} {r.randint(10, 23)}:{r.randint(10, 59)}:{r.randint(10, 59)}.{_digits(r, 6)}"
    ),
    lambda r: f"{_token(r, 5).lower()}@example.{r.choice(('com', 'org', 'net'))}",
    lambda r: f"git@github.com:{_token(r, 6).lower()}/{_token(r, 6).lower()}.git",
    lambda r: f"icon@{r.randint(2, 3)}x.png",
    lambda r: f"https://shop.io/items/1{r.choice(('38', '50'))}{_digits(r, 8)}?page={r.randint(1, 99)}",
    lambda r: f"{r.random() * 10:.15f}",
    lambda r: (
        f"{r.randint(1, 254)}.{r.randint(1, 254)}.{r.randint(1, 254)}.{r.randint(1, 254)}:{r.randint(1000, 9999)}"
    ),
    lambda r: f"arn:aws:iam::{_digits(r, 12)}:role/{_token(r, 8)}",
    lambda r: f"{r.randint(1, 999)},{_digits(r, 3)},{_digits(r, 3)},{_digits(r, 3)}",
    lambda r: f"sha256:{_token(r, 64, '0123456789abcdef')}",
    lambda r: f"order no. {_digits(r, 9)}",
    lambda r: f"doi:10.{_digits(r, 4)}/{_digits(r, 7)}.{_digits(r, 7)}",
)


def personal(texts: list[str], rng: random.Random, count: int) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """Return the scores of ours and of the plain patterns by kind, and samples of wrong alarms."""
    ours: dict[str, Counter[str]] = defaultdict(Counter)
    plain: dict[str, Counter[str]] = defaultdict(Counter)
    wrong: list[str] = []
    planted: list[tuple[str, str, str]] = []
    for kind, makers in PERSONAL.items():
        planted += [(kind, makers[i % len(makers)](rng), _break_in(rng.choice(texts), rng)) for i in range(count)]
    planted += [("", IMPERSONAL[i % len(IMPERSONAL)](rng), _break_in(rng.choice(texts), rng)) for i in range(6 * count)]
    block = [row(text.replace("\x00", value)) for _, value, text in planted]
    spec = DataprepSpec.from_mapping(_FILTERS_OFF)
    done = rules.apply(block, spec)
    for (kind, value, text), messages in zip(planted, done.rows, strict=True):
        masked = messages[1]["content"]
        base = rules.apply([row(text.replace("\x00", ""))], spec).rows[0][1]["content"]
        for name, holder in PLACEHOLDERS.items():
            found = masked.count(holder) - base.count(holder)
            hit = name == kind and value not in masked
            ours[name]["tp"] += hit
            ours[name]["fn"] += name == kind and not hit
            ours[name]["fp"] += max(0, found - hit)
            if found > hit:
                wrong.append(f"{name}: {value}")
            matches = [match[0] for match in re.finditer(_PLAIN[name], text.replace("\x00", value))]
            right = any(value in match or match in value for match in matches) if name == kind else False
            plain[name]["tp"] += right
            plain[name]["fn"] += name == kind and not right
            plain[name]["fp"] += len(matches) - right if name != kind else max(0, len(matches) - 1)
    return _scores(ours), _scores(plain), wrong[:40]


def _break_in(text: str, rng: random.Random) -> str:
    """Return the text with a mark between two words or sentences of it."""
    places = [match.end() for match in re.finditer(r"[ 。，；\n]", text)] or [len(text)]
    place = rng.choice(places)
    return f"{text[:place]} \x00 {text[place:]}" if text.isascii() else f"{text[:place]}：\x00，{text[place:]}"


def _scores(counts: dict[str, Counter[str]]) -> dict[str, Any]:
    return {name: score(c["tp"], c["fp"], c["fn"]) for name, c in counts.items()}


def score(tp: int, fp: int, fn: int) -> dict[str, float]:
    """Return precision and recall with their counts."""
    return {
        "precision": round(tp / (tp + fp), 4) if tp + fp else 1.0,
        "recall": round(tp / (tp + fn), 4) if tp + fn else 1.0,
        "planted": tp + fn,
        "wrong": fp,
    }


DEFECTS: dict[str, Callable[[str, random.Random], str]] = {
    "line_endings": lambda t, r: t.replace("\n", r.choice(("\r\n", "\r", "\u2028"))),
    "control_characters": lambda t, r: _insert(t, r.choice(("\x00", "\x07", "\x1b", "\x7f")), r),
    "invisible_characters": lambda t, r: _insert(t, r.choice(("\u200b", "\ufeff", "\xad", "\u2060")), r),
    "mojibake": lambda t, r: (
        t.replace("'", "’").encode().decode("latin-1" if r.random() < 0.5 else "cp1252", "replace")
        if t.isascii()
        else t.encode().decode("latin-1")
    ),
    "html": lambda t, r: f"<p>{t.replace(chr(10), '<br>')}</p>",
    "trailing_space": lambda t, r: t.replace("\n", "  \n") + " ",
    "outer_space": lambda t, r: f"\n\n  {t}\n \n",
    "boilerplate_lines": lambda t, r: f"{t}\n\n{r.choice(_FURNITURE)}",
}
_FURNITURE: tuple[str, ...] = (
    "Subscribe to our newsletter for weekly updates", "© 2023 Acme Media. All rights reserved.", "Share this on Facebook",
    "Follow us on Instagram", "We use cookies to improve your experience.", "Read more", "Privacy Policy | Terms of Use",
    "Powered by WordPress", "Leave a comment", "版权所有，未经授权不得转载", "点击关注微信公众号", "责任编辑：李明", "来源：新华网",
    "相关阅读：十大景点", "扫描二维码关注我们的公众号", "Advertisement", "Filed under: Travel, Food", "京ICP备12345678号",
)  # fmt: skip


def _insert(text: str, piece: str, rng: random.Random) -> str:
    place = rng.randrange(1, len(text) - 1)
    return text[:place] + piece + text[place:]


def cleaning(texts: list[str], rng: random.Random, count: int) -> dict[str, Any]:
    """Return by rule how many damaged texts came back exactly.

    No precision: the texts went through the rules before, so none of them is touched again. What the rules must leave
    alone stands in tests/dataprep/test_cleaning.py.
    """
    out: dict[str, Any] = {}
    for name, damage in DEFECTS.items():
        pairs = [(text, damage(text, rng)) for text in rng.sample(texts, min(count, len(texts)))]
        expected = [text.replace("'", "’") if name == "mojibake" and text.isascii() else text for text, _ in pairs]
        kept = [(good, bad) for good, (_, bad) in zip(expected, pairs, strict=True) if good != bad]
        back = rules.apply([row(bad) for _, bad in kept], DataprepSpec()).rows
        tp = sum(messages[1]["content"] == good for (good, _), messages in zip(kept, back, strict=True))
        out[name] = share(tp, len(kept))
    return out


def share(found: int, planted: int) -> dict[str, float]:
    """Return recall with its counts."""
    return {"recall": round(found / planted, 4) if planted else 1.0, "planted": planted}


_REFUSALS = (
    "As an AI language model, I cannot {}.", "I'm sorry, but I can't assist with that request.",
    "As an artificial intelligence, I don't have the ability to {}.", "I'm sorry, but as an AI developed by Acme I am unable to {}.",
    "I cannot provide that information.", "I apologize, but I'm not able to help with that.",
    "Unfortunately, I am unable to create that kind of content.", "I'm an AI assistant, so I can't {}.",
    "作为一个人工智能语言模型，我无法{}。", "作为AI助手，我不能{}。", "很抱歉，我无法提供这方面的信息。", "对不起，我不能协助您完成这个请求。",
    "我是一个语言模型，没有能力{}。", "抱歉，我无法回答这个问题。",
)  # fmt: skip
_NO_REFUSALS = (
    "I'm sorry, but your order has been delayed by two days.", "I am an AI assistant and I am happy to help.",
    "You cannot delete a bucket that is not empty.", "As an AI researcher, she cannot ignore the data.",
    "抱歉，订单已经发出，请等待。", "人工智能不能代替人的判断。", "Sorry, we are closed on Mondays.",
    "The assistant cannot be started without a key.", "作为一个工程师，你不能忽视测试。", "Unable to connect means that the host is down.",
)  # fmt: skip


def filters(texts: list[str], rng: random.Random, count: int, chats: list[tuple[str, str]]) -> dict[str, Any]:
    """Return the scores of the filters on planted bad answers, real good ones and hard cases."""
    good = [
        *rng.sample(texts, min(1500, len(texts))),
        *_NO_REFUSALS,
        *(text for _, text in chats[:1500] if len(text) > 30),
    ]
    bad = {
        "refusal": [
            rng.choice(_REFUSALS).format(rng.choice(("do that", "open files", "回答", "see pictures")))
            for _ in range(count)
        ],
        "repetition": [_loop(rng.choice(texts), rng) for _ in range(count)],
        "boilerplate": ["\n".join(rng.sample(_FURNITURE, rng.randint(1, 4))) for _ in range(count)],
        "garbled": [_lose(rng.choice(texts), rng) for _ in range(count)],
    }
    alarms = Counter(
        one.reason for one in rules.apply([row(text) for text in good], DataprepSpec()).rejections.values()
    )
    out = {}
    for reason, answers in bad.items():
        found = rules.apply([row(text) for text in answers], DataprepSpec()).rejections
        tp = sum(one.reason == reason for one in found.values())
        out[reason] = {**score(tp, alarms[reason], count - tp), "good_rows": len(good)}
    return out


def _loop(text: str, rng: random.Random) -> str:
    piece = text[: rng.randint(8, 60)]
    kind = rng.randrange(3)
    if kind == 0:
        return piece + text[60:120] * 1 + " " + (piece + " ") * rng.randint(8, 20)
    if kind == 1:
        return f"{text[:80]}\n" + f"{piece}\n".replace("\n", " ").strip().join(["\n"] * rng.randint(9, 20))
    word = rng.choice(("ha", "哈哈", "very good", "是的", "no"))
    return f"{word} " * rng.randint(30, 80)


def _lose(text: str, rng: random.Random) -> str:
    if text.isascii():
        return _insert(text, "\ufffd\ufffd", rng)
    if rng.random() < 0.5:
        return text.encode().decode("gb18030", "replace")
    return "锟斤拷" * rng.randint(2, 8) + text[:40]


def language(chats: list[tuple[str, str]]) -> dict[str, Any]:
    """Return accuracy by language over real conversations, and of the filter `languages: [en, zh]`."""
    seen: Counter[str] = Counter()
    cases = []
    for code, text in chats:
        if len(text) >= 20 and seen[code] < 300:
            seen[code] += 1
            cases.append((code, text))
    names = languages.identify([text for _, text in cases])
    right: Counter[str] = Counter()
    told: Counter[str] = Counter()
    for (code, _), name in zip(cases, names, strict=True):
        told[code] += bool(name)
        right[code] += name == code
    foreign = [
        (code not in {"en", "zh"}, bool(name) and name not in {"en", "zh"})
        for (code, _), name in zip(cases, names, strict=True)
    ]
    tp = sum(is_foreign and dropped for is_foreign, dropped in foreign)
    fp = sum(dropped and not is_foreign for is_foreign, dropped in foreign)
    fn = sum(is_foreign and not dropped for is_foreign, dropped in foreign)
    return {
        "texts": len(cases),
        "told": round(sum(told.values()) / len(cases), 4),
        "accuracy_where_told": round(sum(right.values()) / sum(told.values()), 4),
        "by_language": {code: round(right[code] / told[code], 3) for code in sorted(told) if told[code]},
        "filter_en_zh": score(tp, fp, fn),
    }


def duplicates(texts: list[str], rng: random.Random) -> dict[str, Any]:
    """Run the whole stage over planted twins; return the scores by kind of twin."""
    base = list(dict.fromkeys(texts))[:1200]
    lines: list[dict[str, str]] = [{"instruction": f"Explain part {i}.", "output": text} for i, text in enumerate(base)]
    kinds: dict[int, str] = {}
    for kind, change in (
        ("exact", str),
        ("form", lambda t: t.upper() if t.isascii() else t + "。"),
        ("near", lambda t: _edit(t, rng)),
    ):
        for i in rng.sample(range(len(base)), 150):
            twin = change(base[i])
            if kind != "near" or _jaccard(base[i], twin) >= _NEAR:
                kinds[len(lines)] = kind
                lines.append({"instruction": f"Explain part {i}.", "output": twin})
    with tempfile.TemporaryDirectory() as folder:
        (upload := Path(folder, "upload")).mkdir()
        (upload / "rows.jsonl").write_text(
            "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8"
        )
        (spec := Path(folder, "spec.yaml")).write_text("seed: 0\n")
        command = [
            sys.executable,
            "-m",
            "tunewright.dataprep",
            "run",
            str(spec),
            "--input",
            f"upload_000={upload}",
            "--output",
            f"{folder}/out",
        ]
        subprocess.run(command, check=True, capture_output=True)
        kept = set()
        for side in ("train", "validation"):
            for line in Path(folder, "out", f"{side}.jsonl").read_text(encoding="utf-8").splitlines():
                kept.add(json.loads(line)["messages"][0]["content"] + str(json.loads(line)["source"]["line"]))
    numbers = {int(match[1]) for name in kept if (match := re.search(r"\.(\d+)$", name))}
    twins: dict[str, Counter[str]] = defaultdict(Counter)
    touched = set()
    for number, kind in kinds.items():
        original = int(lines[number]["instruction"][13:-1])
        touched.add(original)
        twins[kind]["tp" if not {number + 1, original + 1} <= numbers else "fn"] += 1
    lost = sum(i + 1 not in numbers for i in range(len(base)) if i not in touched)
    return {
        **{kind: share(c["tp"], c["tp"] + c["fn"]) for kind, c in twins.items()},
        "rows_without_a_twin_lost": lost,
        "rows": len(lines),
    }


def _jaccard(one: str, other: str) -> float:
    """Return the Jaccard similarity of the texts' sequences of five words, or of five characters of Chinese."""
    sets = []
    for text in (one, other):
        parts = text.split() if text.isascii() else list(text)
        sets.append({tuple(parts[i : i + 5]) for i in range(max(1, len(parts) - 4))})
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def _edit(text: str, rng: random.Random) -> str:
    """Return the text with about one word or character in thirty changed."""
    parts = text.split(" ") if text.isascii() else list(text)
    for _ in range(max(1, len(parts) // 60)):
        parts[rng.randrange(len(parts))] = rng.choice(parts)
    return (" " if text.isascii() else "").join(parts)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--count", type=int, default=450)
    options = parser.parse_args()
    rng = random.Random(20261124)
    texts = prose(options.data, rng)
    chats = list(chat(options.data))
    rng.shuffle(chats)
    ours, plain, wrong = personal(texts, rng, options.count)
    result: dict[str, Any] = {
        "benchmark": "dataprep_quality",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "command": "make bench-dataprep",
        "real_texts": len(texts),
        "cleaning": cleaning(texts, rng, options.count),
        "filters": filters(texts, rng, options.count, chats),
        "language": language(chats),
        "personal_data": ours,
        "personal_data_plain_regex": plain,
        "wrong_alarms_sample": wrong,
        "duplicates_whole_stage": duplicates(texts, rng),
    }
    line = json.dumps(result, ensure_ascii=False)
    if options.out:
        options.out.write_text(json.dumps(result, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    for group in ("cleaning", "filters", "personal_data", "personal_data_plain_regex"):
        for name, one in result[group].items():
            figures = ", ".join(f"{key} {value:g}" for key, value in one.items())
            print(f"{group:26} {name:22} {figures}", file=sys.stderr)
    print(line)


if __name__ == "__main__":
    main()
