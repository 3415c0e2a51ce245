"""How a look at raw files is shown: what was recognised, what cannot be read, lengths, what is dropped and changed.

Gets the report of data preparation as it stands in report.json; computes nothing but widths.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tunewright.cli.console import size
from tunewright.cli.inspecting import Inspected, unreadable_rows

_FILES = 8
_BARS = 8
_PIPE_COLUMNS = 100
_WIDEST_BAR = 48
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def show(found: Inspected, console: Console, base: str) -> None:
    """Print it; `base` is what the tokenizer's folder is called, empty if none was given."""
    report = found.report
    for file in report["files"][:_FILES]:
        _show_file(console, file)
    if report["file_count"] > _FILES:
        console.print(f"… and {report['file_count'] - _FILES:,} more files, in the report")
    for told in found.refused:
        console.print(f"\n[bold red]left out:[/] {escape(told['why'])}\n  [cyan]→[/] {escape(told['remedy'])}")
    _show_unreadable(console, report)
    console.print(
        f"\n[bold]{report['rows_out']:,} of {report['rows_in']:,} rows[/] would be kept: "
        f"{report['train_rows']:,} to train on, {report['validation_rows']:,} held out"
    )
    _show_reasons(console, report)
    for name, lengths in report["lengths"].items():
        _show_lengths(console, _LENGTHS.get(name, name), lengths)
    if found.audit is not None:
        _show_audit(console, found.audit, base)
    for warning in found.warnings:
        console.print(f"\n[yellow]note:[/] {escape(warning)}")
    console.print(f"\nReport with examples: {escape(str(found.folder / 'report.html'))}", soft_wrap=True)


_LENGTHS = {"question": "Questions", "answer": "Answers", "tokens": "Whole rows"}


def _show_file(console: Console, file: Mapping[str, Any]) -> None:
    layout = file["layout"] if file["encoding"] in file["layout"] else f"{file['layout']}, {file['encoding']}"
    if file["layout"] == "Parquet":
        layout = file["layout"]
    console.print(f"[bold]{escape(file['name'])}[/]  {size(file['size_bytes'])}, {escape(layout)}")
    stand = {theirs: ours for ours, theirs in file["mapping"].items()}
    fields = ", ".join(f"{name} (as {stand[name]})" if name in stand else name for name in file["fields"])
    tools = file["with_tools"]
    used = f"; {tools['rows']} of the first {tools['of_first']} use tools" if tools["rows"] else ""
    console.print(f"  shape {file['shape']}: {escape(fields)}{used}")
    unreadable = f", [red]{file['unreadable']:,} unreadable[/]" if file["unreadable"] else ""
    console.print(f"  {file['rows']:,} rows{unreadable}, {file['kept']:,} would be kept")


def _show_unreadable(console: Console, report: Mapping[str, Any]) -> None:
    places = report["unreadable"]
    if not places:
        return
    count = unreadable_rows(report)
    shown = f"; the first {len(places)}:" if count > len(places) else ":"
    console.print(f"\n[bold red]{count:,} rows cannot be read[/]{shown}")
    for place in places:
        field = f"{place['field']}: " if place["field"] else ""
        console.print(f"  [bold]{escape(place['file'])}:{place['line']}[/]  {escape(field + place['what'])}")
    for reason, remedy in {place["reason"]: place["remedy"] for place in places}.items():
        console.print(f"  [cyan]→[/] {reason}: {escape(remedy)}")


def _show_reasons(console: Console, report: Mapping[str, Any]) -> None:
    words = report["words"]
    table = Table(box=box.SIMPLE_HEAD if console.is_terminal else None, show_edge=False, pad_edge=False)
    table.add_column("rows", justify="right", no_wrap=True)
    table.add_column("what", no_wrap=True)
    table.add_column("why")
    for what, counts, meaning in (
        ("dropped", report["dropped"], words["reasons"]),
        ("changed", report["changed"], words["rules"]),
    ):
        for name, rows in sorted(counts.items(), key=lambda item: -item[1]):
            table.add_row(f"{rows:,}", f"{what}: {name}", escape(meaning.get(name, "")))
    if table.row_count:
        console.print(table)


def _show_lengths(console: Console, name: str, lengths: Mapping[str, Any]) -> None:
    unit = lengths["unit"]
    console.print(
        f"\n[bold]{name}[/], {unit}: median {lengths['median']:,}, 90 % up to {lengths['p90']:,}, "
        f"{lengths['min']:,} to {lengths['max']:,}"
    )
    for line in histogram(lengths, min(console.width, _PIPE_COLUMNS)):
        console.print(line)


def histogram(lengths: Mapping[str, Any], columns: int) -> Iterator[str]:
    """Yield a line for each of at most eight bars: range, bar, rows; `columns` wide at most."""
    bars = _merged(lengths["edges"], lengths["counts"])
    labels = [f"{low:,}" if high - low == 1 else f"{low:,} – {high - 1:,}" for low, high, _ in bars]
    most = max(count for *_, count in bars)
    width = max(map(len, labels))
    space = max(8, min(_WIDEST_BAR, columns - width - len(f"{most:,}") - 6))
    for label, (_, _, count) in zip(labels, bars, strict=True):
        eighths = math.ceil(8 * space * count / most)
        bar = _EIGHTHS[8] * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
        yield f"  {label:>{width}}  {bar} {count:,}".rstrip()


def _merged(edges: Sequence[int], counts: Sequence[int]) -> list[tuple[int, int, int]]:
    """Return (from, up to below, rows) of at most eight bars."""
    used = [number for number, count in enumerate(counts) if count]
    first, last = used[0], used[-1] + 1
    step = math.ceil((last - first) / _BARS)
    cuts = [*range(first, last, step), last]
    return [(edges[one], edges[other], sum(counts[one:other])) for one, other in itertools.pairwise(cuts)]


def _show_audit(console: Console, audit: Mapping[str, Any], name: str) -> None:
    figures, cut = audit["tokens"]["train"], audit["truncated"]["train"]
    console.print(
        f"\nTokens of a row by {escape(name)}: median {figures['median']:,}, 99 % up to {figures['p99']:,}, "
        f"longest {figures['max']:,}; {cut['rows']:,} rows ({cut['share']:.1%}) are cut at {audit['max_length']:,}"
    )
    for sample in audit["samples"][:1]:
        console.print(f"What is learned of {escape(sample['place'])} (marked):")
        tokens = (
            f"[black on green]{escape(t['text'])}[/]" if t["learned"] else escape(t["text"]) for t in sample["tokens"]
        )
        console.print("".join(tokens) if console.is_terminal else _plain(sample["tokens"]))


def _plain(tokens: Sequence[dict[str, Any]]) -> str:
    """Return learned tokens in double brackets, for a pipe."""
    return escape("".join(f"⟦{token['text']}⟧" if token["learned"] else token["text"] for token in tokens))
