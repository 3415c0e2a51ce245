"""The report as one self-contained HTML page: no script, no font, no image from elsewhere; every text escaped.

Draws what `report.py` counted. Knows nothing of how it was counted.
"""

import difflib
import re
from collections.abc import Mapping
from typing import Any

import orjson
from jinja2 import Environment, PackageLoader, StrictUndefined

from tunewright.dataprep import plots

_ALONE = "\\u3040-\\u30ff\\u3400-\\u9fff\\uac00-\\ud7af"
_WORD = re.compile(rf"\r\n|\n|[^\S\r\n]+|\r|[{_ALONE}]|[^\W{_ALONE}]+|[^\w\s]")
"""Words, or single characters where Chinese, Japanese or Korean has no spaces; spaces; other signs."""
_STEP_WORDS = {
    "read": "Rows read",
    "readable": "Readable",
    "fit": "Fit to train on",
    "unique": "The dataset",
}
_CHART_WORDS = {
    "conversation": {"question": "Questions", "answer": "Answers"},
    "preference": {"question": "Prompts", "answer": "Chosen answers"},
    "text": {"answer": "Documents"},
}
_OTHER_CHART = "Whole rows in the model's tokens"
_VISIBLE = {"\t": "→\t", "\r": "⟨CR⟩"}
_LANGUAGES = {
    "en": "English", "zh": "Chinese", "ja": "Japanese", "ko": "Korean", "de": "German", "fr": "French",
    "es": "Spanish", "it": "Italian", "pt": "Portuguese", "ru": "Russian", "nl": "Dutch", "pl": "Polish",
    "tr": "Turkish", "ar": "Arabic", "hi": "Hindi", "vi": "Vietnamese", "id": "Indonesian", "uk": "Ukrainian",
    "unsure": "cannot be said",
}  # fmt: skip
_SETTING_CHARS = 500


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
    environment.globals.update(difference=difference)
    dropped = _by_count(document["dropped"])
    return environment.get_template("report.html.j2").render(
        r=document,
        stack=plots.stack([("kept", document["rows_out"]), *dropped], document["rows_in"]),
        funnel=_funnel(document["funnel"]),
        charts=[
            {
                "name": name,
                "words": _CHART_WORDS[document["row_kind"]].get(name, _OTHER_CHART),
                **plots.histogram(lengths),
            }
            for name, lengths in document["lengths"].items()
        ],
        languages=_languages(document["languages"]),
        dropped=dropped,
        changed=[item for item in _by_count(document["changed"]) if not item[0].startswith("pii_")],
        pii=_personal(document),
        settings=_flat(document["spec"]),
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
    rows = [step["rows"] for step in steps]
    return [
        {"words": _STEP_WORDS[step["step"]], "rows": step["rows"], "lost": before - after}
        for step, before, after in zip(steps, [rows[0], *rows], rows, strict=False)
    ]


def _languages(languages: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {"name": _LANGUAGES.get(code, code), "code": code, "share": count / languages["looked_at"], "count": count}
        for code, count in languages["counts"].items()
    ]


def _personal(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return by kind of personal data what was found, and what was done with it."""
    found = []
    for kind, words in document["words"]["pii"].items():
        name = f"pii_{kind}"
        masked, dropped = document["masked"].get(kind, 0), document["dropped"].get(name, 0)
        if masked or dropped:
            found.append(
                {
                    "words": words,
                    "kind": kind,
                    "handling": document["spec"]["pii"][kind],
                    "places": masked,
                    "rows": document["changed"].get(name, 0),
                    "dropped": dropped,
                    "examples": document["change_examples"].get(name, []),
                }
            )
    return found


def _flat(value: Any, path: str = "") -> list[tuple[str, str]]:  # noqa: ANN401 - any JSON value
    """Return settings as lines of dotted name and value."""
    if isinstance(value, Mapping) and value:
        return [line for name, part in value.items() for line in _flat(part, f"{path}.{name}" if path else str(name))]
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        return [line for number, part in enumerate(value) for line in _flat(part, f"{path}.{number}")]
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    return [(path, text[:_SETTING_CHARS] + "…" * (len(text) > _SETTING_CHARS))]


def _by_count(counts: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: -item[1])


def _count(value: int) -> str:
    return f"{value:,}"


def _percent(share: float) -> str:
    return f"{share:.0%}" if share in {0, 1} else f"{share:.1%}" if share >= 0.0005 else "< 0.1%"  # noqa: PLR2004


def _size(size_bytes: int) -> str:
    value = float(size_bytes)
    for unit in ("B", "kB", "MB"):
        if value < 1000:  # noqa: PLR2004 - SI units
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def _words(name: str) -> str:
    return name.replace("_", " ")
