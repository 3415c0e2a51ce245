"""How two datasets' differences are shown: counts, some rows of each sort, changed ones word by word; or as JSON.

Compares nothing.
"""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape

from tunewright.cli.comparing import Change, Difference, Piece, pieces, text_of
from tunewright.cli.datasets import Dataset

_SHOWN = 5
_CHANGES_SHOWN = 10
_LINE_CHARS = 100
_AROUND_CHARS = 60
"""Of what both texts have, so much is shown before and after what they have not."""
_PIECE_CHARS = 400


def show(found: Difference, old: Dataset, new: Dataset, console: Console) -> None:
    """Print it for people."""
    console.print(
        f"[bold]{len(found.added):,} rows added, {len(found.removed):,} removed, {len(found.changed):,} changed, "
        f"{len(found.moved):,} moved to the other side, {len(found.settings):,} settings[/]"
    )
    for sign, style, keys, dataset in (("+", "green", found.added, new), ("-", "red", found.removed, old)):
        for key in keys[:_SHOWN]:
            line = " → ".join(text_of(dataset.read(key)).splitlines())[:_LINE_CHARS]
            console.print(f"  [{style}]{sign}[/] {escape(line)}")
        _more(console, len(keys) - _SHOWN, "added" if sign == "+" else "removed")
    for change in found.changed[:_CHANGES_SHOWN]:
        _show_change(change, old, new, console)
    _more(console, len(found.changed) - _CHANGES_SHOWN, "changed")
    for name, (before, after) in found.settings.items():
        console.print(f"  {escape(f'{name}: {before} → {after}')}")


def _more(console: Console, count: int, what: str) -> None:
    if count > 0:
        console.print(f"  … and {count:,} more {what}")


def _show_change(change: Change, old: Dataset, new: Dataset, console: Console) -> None:
    before, after = old.read(change.before), new.read(change.after)
    places = list(dict.fromkeys(_place(row) for row in (before, after)))
    console.print(f"  [yellow]~[/] [bold]{escape(' → '.join(places))}[/]")
    words = marked(pieces(text_of(before), text_of(after)), plain=not console.is_terminal)
    for line in words.split("\n"):
        console.print(f"      {line}")


def marked(found: Sequence[Piece], *, plain: bool) -> str:
    """Return one text of both: [-before-]{+after+} for a pipe, as `git diff --word-diff` writes it, else in colours."""
    written = []
    for number, (before, after) in enumerate(found):
        if before == after:
            written.append(escape(_shortened(before, first=number == 0, last=number == len(found) - 1)))
            continue
        if before:
            cut = escape(_cut(before))
            written.append(escape(f"[-{_cut(before)}-]") if plain else f"[red strike]{cut}[/]")
        if after:
            cut = escape(_cut(after))
            written.append(f"{{+{cut}+}}" if plain else f"[green]{cut}[/]")
    return "".join(written)


def _shortened(text: str, *, first: bool, last: bool) -> str:
    """Return what both texts have, its middle left out where it is long; of an end only what lies next to a change."""
    head = 0 if first else _AROUND_CHARS
    tail = 0 if last else _AROUND_CHARS
    if len(text) <= head + tail + 1:
        return text
    return f"{text[:head]}…{text[len(text) - tail :]}"


def _cut(text: str) -> str:
    return text if len(text) <= _PIECE_CHARS else f"{text[:_PIECE_CHARS]}…"


def _place(row: dict[str, Any]) -> str:
    source = row.get("source", {})
    return f"{source.get('file')}:{source.get('line')}"


def document(found: Difference, old: Dataset, new: Dataset) -> dict[str, Any]:
    """Return it for programs: every row of each sort; changed ones with their texts before and after."""
    return {
        "before": old.name,
        "after": new.name,
        "counts": {name: len(getattr(found, name)) for name in ("added", "removed", "changed", "moved", "settings")},
        "added": [_row(new, key) for key in found.added],
        "removed": [_row(old, key) for key in found.removed],
        "changed": [
            {"before": _row(old, change.before, text=True), "after": _row(new, change.after, text=True)}
            for change in found.changed
        ],
        "moved": [{"id": key, "before": old.rows[key].side, "after": new.rows[key].side} for key in found.moved],
        "settings": {name: {"before": before, "after": after} for name, (before, after) in found.settings.items()},
    }


def _row(dataset: Dataset, key: str, *, text: bool = False) -> dict[str, Any]:
    row = dataset.read(key)
    told = {"id": key, "side": dataset.rows[key].side, "source": row.get("source")}
    return told | ({"text": text_of(row)} if text else {})
