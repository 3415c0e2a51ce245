"""What semantic duplicates reach with a model of static embeddings: recall and wrong pairs at each threshold.

The truth is AWS's: nearly each of its services has operations of one name (`TagResource`, `DeleteUser` …), each described
in words of its own by its own writers (package botocore). Two first sentences for one name say the same in other words;
sentences for two names do not. Sentences that name a product, or a word that fewer than 40 services use, are left out:
they say more than the name. `opposites` are pairs of names that do the opposite to one thing (Tag and Untag, Create and
Delete …): nearly the same words, another meaning. Other pairs of names about one thing (Get, Describe) are left out,
since nobody can say from the names whether they mean the same.

Cosines are those of one text; `semantic.threshold` asks the same of question and answer. Shingles are measured on the
same pairs. Run from the root: ``python -m bench.semantic_recall --model FOLDER [--out FILE]``; FOLDER holds tokenizer.json and one
safetensors file. Prints one JSON line.
"""

# ruff: noqa: E501 - a command

import argparse
import gzip
import itertools
import json
import platform
import random
import re
from collections import Counter, defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import botocore  # type: ignore[import-untyped]
import numpy as np

from tunewright.dataprep.semantic.model import EmbeddingModel

_TAGS = re.compile(r"<[^>]+>")
_WORD = re.compile(r"[a-z]+")
_SENTENCE = re.compile(r"(?<=[.!])\s")
_NAMES = re.compile(r"(?<!^)\b[A-Z][A-Za-z]|[A-Z]{2,}|\d|<|\(")
_VERB = re.compile(
    r"^(?:Untag|Tag|List|Create|Delete|Update|Get|Put|Describe|Start|Stop|Add|Remove|Associate|Disassociate|Register|Deregister"
    r"|Enable|Disable|Batch)"
)
_OPPOSITES = [
    {"Tag", "Untag"}, {"Add", "Remove"}, {"Create", "Delete"}, {"Put", "Delete"}, {"Start", "Stop"}, {"Tag", "Remove"},
    {"Associate", "Disassociate"}, {"Register", "Deregister"}, {"Enable", "Disable"}, {"Add", "Untag"},
]  # fmt: skip
_LEAST_SERVICES = 40
_LEAST_WORDS = 4
_WRONG_AT_ITS_SOURCE = {"TagResource": "Removes the tags of a given resource"}
"""Name → a sentence under it that says the opposite: an error of that documentation."""
_THRESHOLDS = (0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.98)
_NEAR = 0.8
_SHINGLE = 5
_SHOWN = 12


def sentences() -> dict[str, list[str]]:
    """Return name of an operation → its descriptions' first sentences, each once."""
    said: dict[str, dict[str, str]] = defaultdict(dict)
    for path in sorted(Path(botocore.__file__).parent.glob("data/*/*/service-2.json.gz")):
        for name, operation in json.loads(gzip.decompress(path.read_bytes()))["operations"].items():
            text = " ".join(_TAGS.sub(" ", operation.get("documentation", "")).split())
            if first := _SENTENCE.split(text)[0].strip(" ."):
                said[name][path.parts[-3]] = first
    users: dict[str, set[str]] = defaultdict(set)
    for of_services in said.values():
        for service, text in of_services.items():
            for word in _WORD.findall(text.lower()):
                users[word].add(service)
    found = {}
    for name, of_services in sorted(said.items()):
        wrong = _WRONG_AT_ITS_SOURCE.get(name)
        plain = {text.lower(): text for text in of_services.values() if _is_plain(text, users) and text != wrong}
        if len(plain) > 1:
            found[name] = sorted(plain.values())
    return found


def _is_plain(text: str, users: dict[str, set[str]]) -> bool:
    words = _WORD.findall(text.lower())
    rare = sum(len(users[word]) < _LEAST_SERVICES for word in words)
    return len(words) >= _LEAST_WORDS and rare == 0 and not _NAMES.search(text)


def _verb(name: str) -> str:
    found = _VERB.match(name)
    return found[0] if found else ""


def _subject(name: str) -> str:
    """Return what an operation is about: tags, whatever has them; a thing and a list of such things are one."""
    return "Tag" if "tag" in name.lower() else _VERB.sub("", name).rstrip("s")


def jaccard(one: str, other: str) -> float:
    """Return the similarity of two texts by shingles of five words, as near-duplicates are judged."""
    sets = []
    for text in (one, other):
        words = _WORD.findall(text.lower())
        sets.append({tuple(words[at : at + _SHINGLE]) for at in range(max(1, len(words) - _SHINGLE + 1))})
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def measure(model: EmbeddingModel, rng: random.Random) -> dict[str, Any]:
    """Return recall on pairs of one name, and how many pairs of other names are found, by threshold."""
    groups = sentences()
    texts = [(name, text) for name, own in groups.items() for text in own]
    names = np.array([name for name, _ in texts])
    vectors = model.encode([text for _, text in texts])
    cosines = vectors @ vectors.T
    first, second = np.triu_indices(len(texts), 1)
    same = names[first] == names[second]
    verbs, subjects = ([part(name) for name in names.tolist()] for part in (_verb, _subject))
    alike = np.array([subjects[a] == subjects[b] for a, b in zip(first, second, strict=True)])
    opposed = [{verbs[a], verbs[b]} in _OPPOSITES for a, b in zip(first, second, strict=True)]
    copies = np.array([texts[a][1].lower() == texts[b][1].lower() for a, b in zip(first, second, strict=True)])
    opposite, other = ~same & alike & np.array(opposed) & ~copies, ~same & ~alike & ~copies
    values = cosines[first, second]
    weights = Counter(names[first[same]])
    own_weight = np.array([1 / weights[name] for name in names[first[same]]])
    near = np.array([jaccard(texts[a][1], texts[b][1]) for a, b in zip(first[same], second[same], strict=True)])
    shown = rng.sample(range(int(same.sum())), _SHOWN)
    pairs = list(zip(first[same], second[same], strict=True))
    return {
        "names": len(groups),
        "sentences": len(texts),
        "pairs_that_say_the_same": int(same.sum()),
        "pairs_of_opposites": int(opposite.sum()),
        "other_pairs": int(other.sum()),
        "recall_by_shingles_at_0.8": round(float((near >= _NEAR).mean()), 4),
        "by_threshold": {
            str(limit): {
                "recall": round(float((values[same] >= limit).mean()), 4),
                "recall_each_name_alike": round(float(((values[same] >= limit) * own_weight).sum() / len(weights)), 4),
                "opposites_found": round(float((values[opposite] >= limit).mean()), 4),
                "others_found": round(float((values[other] >= limit).mean()), 6),
                "wrong_among_found": _share(
                    int((values[opposite | other] >= limit).sum()),
                    int((values[same | opposite | other] >= limit).sum()),
                ),
            }
            for limit in _THRESHOLDS
        },
        "examples": [
            [round(float(cosines[pair]), 3), names[pair[0]], texts[pair[0]][1], texts[pair[1]][1]]
            for pair in (pairs[number] for number in shown)
        ],
        "opposite_examples": [
            [round(float(values[at]), 3), texts[first[at]][1], texts[second[at]][1]]
            for at in itertools.islice(np.flatnonzero(opposite)[np.argsort(-values[opposite], kind="stable")], 5)
        ],
    }


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--name", default="WordLlama, 256 dimensions (package wordllama 0.4.0.post1)")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    result = {
        "benchmark": "semantic_recall",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "command": "python -m bench.semantic_recall --model FOLDER",
        "model": options.name,
        **measure(EmbeddingModel.load(options.model), random.Random(20261124)),  # noqa: S311 - a sample
    }
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
