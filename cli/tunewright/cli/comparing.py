"""What differs between two datasets: rows added, removed, changed, moved to the other side; settings.

A row that is gone and one that is new are one changed row if they ask the same, or if they came of the same line of the
same file and their texts are alike. Knows nothing of how it is shown.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any, NamedTuple

from tunewright.cli.datasets import Dataset

_WORD = re.compile(r"\s+|[^\W\d_\u2e80-\u9fff\uac00-\ud7af]+|\d+|.", re.DOTALL)
"""A word, a number, spaces, or one character; of Chinese, Japanese and Korean each character."""
_LEAST_ALIKE = 0.3
"""Share of words, 0 to 1, that two rows of one line must have in common; else the file's lines have moved."""
_MOST_WORDS = 4000
"""Of two texts of more words, all between what they begin and end with counts as replaced: comparing is quadratic."""


class Piece(NamedTuple):
    """A part of a text before and after; equal where nothing changed."""

    before: str
    after: str


class Change(NamedTuple):
    """One changed row: ids before and after."""

    before: str
    after: str


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What differs."""

    added: list[str]
    """Ids in the new dataset alone, in order of id."""
    removed: list[str]
    changed: list[Change]
    """In the order of the old dataset."""
    moved: list[str]
    """Ids on the other side of the split."""
    settings: dict[str, tuple[Any, Any]]
    """Setting → before and after."""

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed or self.moved or self.settings)


def compare(old: Dataset, new: Dataset) -> Difference:
    """Return what differs between two datasets."""
    both = old.rows.keys() & new.rows.keys()
    gone, come = sorted(old.rows.keys() - both), sorted(new.rows.keys() - both)
    pairs = list(_paired(old, new, gone, come))
    paired_before, paired_after = {pair.before for pair in pairs}, {pair.after for pair in pairs}
    pairs += [Change(key, key) for key in sorted(both) if old.rows[key].content != new.rows[key].content]
    before, after = _flat(old.settings()), _flat(new.settings())
    return Difference(
        added=[key for key in come if key not in paired_after],
        removed=[key for key in gone if key not in paired_before],
        changed=sorted(pairs, key=lambda pair: old.rows[pair.before]),
        moved=sorted(key for key in both if old.rows[key].side != new.rows[key].side),
        settings={
            key: (before.get(key), after.get(key))
            for key in sorted(before | after)
            if before.get(key) != after.get(key)
        },
    )


def _paired(old: Dataset, new: Dataset, gone: list[str], come: list[str]) -> Iterator[Change]:
    """Yield pairs: first by question, of several with one question those of one line first; then by line."""
    before = {key: _keys(old.read(key)) for key in gone}
    after = {key: _keys(new.read(key)) for key in come}
    for use in ((0, 1), (0,), (1,)):
        waiting: dict[Any, list[str]] = defaultdict(list)
        for key, keys in after.items():
            waiting[tuple(keys[at] for at in use)].append(key)
        for key, keys in list(before.items()):
            wanted = tuple(keys[at] for at in use)
            found = waiting.get(wanted)
            if not found or (0 in use and not keys[0]):
                continue
            if use == (1,) and not _alike(text_of(old.read(key)), text_of(new.read(found[0]))):
                continue
            other = found.pop(0)
            del before[key], after[other]
            yield Change(key, other)


def _keys(row: dict[str, Any]) -> tuple[str, tuple[str, int]]:
    """Return the first question, spaces evened out (documents have none), and the line that a row came of."""
    asked = next((turn["content"] for turn in row.get("messages", ()) if turn["role"] == "user"), "")
    source = row.get("source", {})
    return " ".join(asked.split()), (str(source.get("file")), int(source.get("line", 0)))


def _alike(one: str, other: str) -> bool:
    words, others = set(_WORD.findall(one)), set(_WORD.findall(other))
    return len(words & others) >= _LEAST_ALIKE * len(words | others)


def text_of(row: dict[str, Any]) -> str:
    """Return all texts of a row, whatever its kind, each message after its role."""
    said = [f"{message['role']}: {_said(message)}" for message in row.get("messages", [])]
    if row.get("tools"):
        said.insert(0, f"tools: {json.dumps(row['tools'], ensure_ascii=False)}")
    answers = [f"{name}: {row[name]}" for name in ("chosen", "rejected") if name in row]
    return "\n".join([*said, *([row["text"]] if "text" in row else []), *answers])


def _said(message: dict[str, Any]) -> str:
    calls = [f"{call['function']['name']}({call['function']['arguments']})" for call in message.get("tool_calls", ())]
    return "\n".join([*([message["content"]] if message["content"] or not calls else []), *calls])


def pieces(before: str, after: str) -> list[Piece]:
    """Return two texts word by word: what both have, and what stands in one in place of the other's."""
    one, other = _WORD.findall(before), _WORD.findall(after)
    first = _common(zip(one, other, strict=False))
    last = _common(zip(reversed(one[first:]), reversed(other[first:]), strict=False))
    inner, outer = one[first : len(one) - last], other[first : len(other) - last]
    found = [Piece("".join(one[:first]), "".join(one[:first]))]
    if len(inner) + len(outer) > _MOST_WORDS:
        found.append(Piece("".join(inner), "".join(outer)))
    else:
        codes = SequenceMatcher(None, inner, outer, autojunk=False).get_opcodes()
        found += [Piece("".join(inner[a:b]), "".join(outer[c:d])) for _, a, b, c, d in codes]
    end = "".join(one[len(one) - last :])
    return [piece for piece in (*found, Piece(end, end)) if piece.before or piece.after]


def _common(pairs: Iterable[tuple[str, str]]) -> int:
    count = 0
    for one, other in pairs:
        if one != other:
            break
        count += 1
    return count


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found
