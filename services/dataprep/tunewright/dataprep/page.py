"""The report as one self-contained HTML page: no script, no font, no image from elsewhere; every text escaped.

Draws what `report.py` counted. Knows nothing of how it was counted.
"""

import difflib
import itertools
import re
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

_WIDTH, _HEIGHT, _BASE, _TOP = 560, 190, 158, 22
_WORD = re.compile(r"\r\n|\n|[^\S\r\n]+|\r|\w+|[^\w\s]")
_STEP_WORDS = {
    "read": "Rows read",
    "readable": "Readable",
    "fit": "Right length",
    "unique": "Unique: the dataset",
}
_VISIBLE = {"\t": "→\t", "\r": "⟨CR⟩"}


def render(document: dict[str, Any]) -> str:
    """Return the page of a report document."""
    environment = Environment(
        loader=PackageLoader("tunewright.dataprep"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(count=_count, percent=_percent, size=_size, words=_words, seen=visible)
    return environment.get_template("report.html.j2").render(
        r=document,
        funnel=_funnel(document["funnel"]),
        charts=[_chart(name, document["lengths"][name]) for name in ("question", "answer")],
        dropped=_by_count(document["dropped"]),
        changed=_by_count(document["changed"]),
        diffs={
            rule: [{**example, "parts": difference(example["before"], example["after"])} for example in examples]
            for rule, examples in document["change_examples"].items()
        },
    )


def difference(before: str, after: str) -> dict[str, list[tuple[bool, str]]]:
    """Return both texts as pieces, each with True where it is not in the other text.

    Where one text was cut (it ends with an ellipsis), what the other has beyond that point is left out too: it was not
    added or removed, it is only not shown on the other side.
    """
    old, new = _WORD.findall(before.removesuffix("…")), _WORD.findall(after.removesuffix("…"))
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    pieces: dict[str, list[tuple[bool, str]]] = {"before": [], "after": []}
    for operation, old_start, old_end, new_start, new_end in matcher.get_opcodes():
        changed = operation != "equal"
        for side, tokens in (("before", old[old_start:old_end]), ("after", new[new_start:new_end])):
            if tokens:
                pieces[side].append((changed, "".join(tokens)))
    for text, other in ((before, "after"), (after, "before")):
        if text.endswith("…"):
            while pieces[other] and pieces[other][-1][0]:
                pieces[other].pop()
            pieces[other].append((False, "…"))
    return pieces


def visible(text: str, *, spaces: bool = False) -> str:
    """Return the text with characters that cannot be seen shown by a sign; with `spaces`, spaces and breaks too."""
    shown = "".join(
        _VISIBLE.get(char) or (char if char.isprintable() or char == "\n" else _escape(char)) for char in text
    )
    return shown.replace(" ", "·").replace("\n", "↵\n") if spaces and not shown.strip() else shown


def _escape(char: str) -> str:
    return f"⟨U+{ord(char):04X}⟩"


def _funnel(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    total = steps[0]["rows"]
    rows = [step["rows"] for step in steps]
    return [
        {
            "words": _STEP_WORDS[step["step"]],
            "rows": step["rows"],
            "share": step["rows"] / total,
            "lost": before - after,
        }
        for step, before, after in zip(steps, [rows[0], *rows], rows, strict=False)
    ]


def _by_count(counts: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: -item[1])


def _chart(name: str, lengths: dict[str, Any]) -> dict[str, Any]:
    """Return the geometry of a histogram in the units of its view box."""
    counts, edges = lengths["counts"], lengths["edges"]
    peak, step = max(counts), _WIDTH / len(counts)
    bars = [
        {
            "x": round(index * step + 0.75, 2),
            "width": round(max(step - 1.5, 0.5), 2),
            "height": round((_BASE - _TOP) * count / peak, 2),
            "y": round(_BASE - (_BASE - _TOP) * count / peak, 2),
            "title": f"{edges[index]:,} to {edges[index + 1] - 1:,} characters: {count:,} rows",
        }
        for index, count in enumerate(counts)
    ]
    every = max(1, len(edges) // 8)
    ticks = [{"x": round(index * step, 2), "text": _short(edges[index])} for index in range(0, len(counts), every)]
    median = _position(lengths["median"], edges) * step
    return {
        "name": name,
        "lengths": lengths,
        "bars": bars,
        "ticks": ticks,
        "peak": peak,
        "median": round(median, 2),
        "width": _WIDTH,
        "height": _HEIGHT,
        "base": _BASE,
        "top": _TOP,
    }


def _position(value: int, edges: list[int]) -> float:
    """Return where a value lies among the edges, in bars."""
    for index, (low, high) in enumerate(itertools.pairwise(edges)):
        if value < high:
            return index + (value - low) / (high - low)
    return len(edges) - 1


def _short(value: int) -> str:
    return f"{value / 1000:g}k" if value >= 1000 else str(value)  # noqa: PLR2004 - a kilo


def _count(value: int) -> str:
    return f"{value:,}"


def _percent(share: float) -> str:
    return f"{share:.0%}" if share in {0, 1} else f"{share:.1%}"


def _size(size_bytes: int) -> str:
    value = float(size_bytes)
    for unit in ("B", "kB", "MB"):
        if value < 1000:  # noqa: PLR2004 - SI units
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def _words(name: str) -> str:
    return name.replace("_", " ")
