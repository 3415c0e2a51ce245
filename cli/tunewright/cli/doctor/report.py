"""Runs all checks and shows them: as a table, as plain lines, or as JSON. Knows nothing of how facts are found."""

import json
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tunewright.cli.doctor import checks
from tunewright.cli.doctor.checks import Row, Verdict
from tunewright.cli.doctor.gpu import driver_facts, torch_facts
from tunewright.cli.stack.folder import StackFolder

_SIGNS = {
    Verdict.OK: "[green]✔[/]",
    Verdict.NOTE: "[cyan]ℹ[/]",
    Verdict.WARNING: "[yellow]▲[/]",
    Verdict.FAILURE: "[bold red]✘[/]",
}
_WORDS = {Verdict.OK: "ok", Verdict.NOTE: "note", Verdict.WARNING: "warning", Verdict.FAILURE: "FAILURE"}


@dataclass(frozen=True)
class Report:
    """All rows by section."""

    sections: dict[str, list[Row]]

    @property
    def rows(self) -> list[Row]:
        """Return all rows in order."""
        return [row for rows in self.sections.values() for row in rows]

    @property
    def fit(self) -> bool:
        """Return True unless a check failed."""
        return all(row.verdict is not Verdict.FAILURE for row in self.rows)

    def to_json(self) -> str:
        """Return the report for programs."""
        sections = {name: [row.to_json() for row in rows] for name, rows in self.sections.items()}
        return json.dumps({"fit": self.fit, **sections}, indent=2, ensure_ascii=False)


def examine(folder: Path, stack: StackFolder | None, url: str | None) -> Report:
    """Run all checks; `folder` is where data would lie. Takes some seconds, as torch is imported elsewhere."""
    driver, torch = driver_facts(), torch_facts()
    device = "gpu" if driver.gpus else "cpu"
    return Report(
        {
            "machine": [*checks.machine_rows(folder), *checks.gpu_rows(driver, torch)],
            "packages": list(checks.package_rows(checks.supported_versions(device), torch)),
            "services": list(checks.service_rows(stack, url)),
        }
    )


def show(report: Report, console: Console) -> None:
    """Print the report: a table a section on a terminal, one line a check elsewhere."""
    if console.is_terminal:
        for name, rows in report.sections.items():
            console.print(_packages(rows) if name == "packages" else _table(name, rows))
            console.print()
    else:
        for row in report.rows:
            words = [_WORDS[row.verdict], row.check, row.found, row.supported and f"supported {row.supported}"]
            console.print("  ".join(word for word in (*words, row.remedy) if word), markup=False)
    _conclude(report, console)


def _table(name: str, rows: list[Row]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("", width=1)
    table.add_column(name, style="bold", no_wrap=True)
    table.add_column("found")
    for row in rows:
        remedy = f"\n[dim]{escape(row.remedy)}[/]" if row.remedy else ""
        table.add_row(_SIGNS[row.verdict], row.check, escape(row.found) + remedy)
    return table


def _packages(rows: list[Row]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("", width=1)
    table.add_column("packages", style="bold", no_wrap=True)
    for column in ("installed", "supported", ""):
        table.add_column(column)
    for row in rows:
        table.add_row(_SIGNS[row.verdict], row.check, escape(row.found), row.supported, escape(row.remedy), style=None)
    return table


def _conclude(report: Report, console: Console) -> None:
    failed = [row.check for row in report.rows if row.verdict is Verdict.FAILURE]
    warned = [row.check for row in report.rows if row.verdict is Verdict.WARNING]
    if failed:
        console.print(f"[bold red]Not fit:[/] {escape(', '.join(failed))}.")
    elif warned:
        console.print(f"[yellow]Fit, with warnings:[/] {escape(', '.join(warned))}.")
    else:
        console.print("[green]Fit.[/]")
