"""`tunewright data`: look at raw files, or compare two prepared datasets, without any stack.

Reads options and prints; `inspecting.py` does the work, `inspection_view.py` shows it.
"""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from tunewright.cli.console import make_console
from tunewright.cli.errors import CliError
from tunewright.cli.inspecting import inspect_paths
from tunewright.cli.inspection_view import show

app = typer.Typer(name="data", help="Look at raw files and datasets; needs no stack.", no_args_is_help=True)
_SHOWN = 5
_SIDES = ("train.jsonl", "validation.jsonl")


@app.command()
def inspect(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Raw files, or folders of them.")],
    output: Annotated[
        Path | None, typer.Option(help="New folder for dataset and report; else PATH-inspected beside the first.")
    ] = None,
    spec: Annotated[Path | None, typer.Option(help="YAML with the fields of a recipe's dataprep section.")] = None,
    base: Annotated[
        Path | None,
        typer.Option("--base", "--tokenizer", help="Folder of a base or its tokenizer: tokens and mask too."),
    ] = None,
    max_length: Annotated[int | None, typer.Option(min=8, help="Tokens a row may have in training; else 1024.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,  # noqa: FBT002 - typer's form of a flag
) -> None:
    """Prepare files as a run would, print what is in them and what would come of it, and leave the report."""
    found = inspect_paths(paths, output, spec, base, max_length)
    if as_json:
        sys.stdout.write(json.dumps(found.document(), ensure_ascii=False, indent=2) + "\n")
    else:
        show(found, make_console(), base.resolve().name if base else "")
    if found.refusal:
        raise CliError(found.refusal["why"], remedy=found.refusal["remedy"])


@app.command()
def diff(
    one: Annotated[Path, typer.Argument(help="Folder of a prepared dataset.")],
    other: Annotated[Path, typer.Argument(help="Folder of another.")],
) -> None:
    """Say which rows and settings differ; exit code 1 if any do."""
    console = make_console()
    old, new = _rows(one), _rows(other)
    gone, come = old.keys() - new.keys(), new.keys() - old.keys()
    moved = sum(old[key][0] != new[key][0] for key in old.keys() & new.keys())
    settings = _changed_settings(one, other)
    console.print(f"{len(come):,} rows added, {len(gone):,} removed, {moved:,} changed sides, {len(settings)} settings")
    for sign, keys, rows in (("+", come, new), ("-", gone, old)):
        for key in sorted(keys)[:_SHOWN]:
            console.print(f"  {sign} {escape(rows[key][1])}")
    for line in settings:
        console.print(f"  {escape(line)}")
    if come or gone or moved or settings:
        raise typer.Exit(1)


def _rows(folder: Path) -> dict[str, tuple[str, str]]:
    """Return id → side and one line of text of every row."""
    found = {}
    if not (folder / _SIDES[0]).is_file():
        raise CliError(f"{folder} holds no {_SIDES[0]}", remedy="Name the folder of a prepared dataset.")
    for side in _SIDES:
        if (folder / side).is_file():
            with (folder / side).open(encoding="utf-8") as file:
                for number, line in enumerate(file, 1):
                    try:
                        row = json.loads(line)
                        found[row["id"]] = (side, " ".join(_text(row).split())[:100])
                    except (ValueError, KeyError, TypeError) as error:
                        problem = f"{folder / side}:{number} is no row of a prepared dataset"
                        raise CliError(problem, remedy="Name the folder of a prepared dataset.") from error
    return found


def _text(row: dict[str, Any]) -> str:
    """Return all texts of a row, whatever its kind."""
    said = [message["content"] for message in row.get("messages", [])]
    return " → ".join([*said, *(row[name] for name in ("text", "chosen", "rejected") if name in row)])


def _changed_settings(one: Path, other: Path) -> list[str]:
    """Return one line for each setting of the preparation that differs."""
    old, new = (_flat(_settings(folder / "report.json")) for folder in (one, other))
    return [f"{key}: {old.get(key)} → {new.get(key)}" for key in sorted(old | new) if old.get(key) != new.get(key)]


def _settings(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())["spec"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CliError(f"{path} is no report of data preparation", remedy="Prepare the data again.") from error
    return found


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found
