"""`tunewright data`: look at a raw file, or compare two prepared datasets, without any stack.

Data preparation runs as a process of its own (`python -m tunewright.dataprep`), as the stack's services do. Reads what
it wrote; knows nothing of how rows are judged.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tunewright.cli.console import make_console
from tunewright.cli.errors import CliError

app = typer.Typer(name="data", help="Look at raw files and datasets; needs no stack.", no_args_is_help=True)
_SHOWN = 5
_SIDES = ("train.jsonl", "validation.jsonl")


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="A raw file.")],
    output: Annotated[Path | None, typer.Option(help="New folder for dataset and report; else FILE-inspected.")] = None,
    spec: Annotated[Path | None, typer.Option(help="YAML with the fields of a recipe's dataprep section.")] = None,
    base: Annotated[Path | None, typer.Option(help="Folder of a base model: tokens and label mask too.")] = None,
    max_length: Annotated[int | None, typer.Option(min=8, help="Tokens a row may have in training; else 1024.")] = None,
) -> None:
    """Prepare FILE as a run would, print what came of it, and leave the report."""
    if not file.is_file():
        raise CliError(f"{file} is no file", remedy="Name an existing raw file.")
    folder = output or file.with_name(f"{file.stem}-inspected")
    _prepare(file, folder, spec, base, max_length)
    console = make_console()
    _show_report(console, json.loads((folder / "report.json").read_bytes()))
    if base is not None:
        _show_audit(console, folder / "audit.json", base.resolve().name)
    console.print(f"\n  Report: {escape(str(folder / 'report.html'))}")


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


def _prepare(file: Path, folder: Path, spec: Path | None, base: Path | None, max_length: int | None) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        upload = Path(scratch) / "upload"
        upload.mkdir()
        (upload / file.name).symlink_to(file.resolve())
        if spec is not None and not spec.is_file():
            raise CliError(f"{spec} is no file", remedy="Name a YAML file with the fields of a dataprep section.")
        values = spec.read_text(encoding="utf-8").rstrip() if spec else ""
        settings = Path(scratch) / "spec.yaml"
        if max_length is not None:
            if "\naudit:" in f"\n{values}":
                raise CliError("--max-length and the spec's audit say two things", remedy="Leave one of them out.")
            values += f"\naudit: {{max_length: {max_length}}}"
        settings.write_text(f"{values}\n", encoding="utf-8")
        command = ["run", str(settings), "--input", f"upload_000={upload}", "--output", str(folder)]
        command += ["--input", f"base={base.resolve()}"] if base is not None else []
        _child(["tunewright.dataprep", *command], "data preparation")


def _child(module: Sequence[str], what: str) -> None:
    """Run a module of the stack's services to its end.

    Raises:
        CliError: it failed; its last lines are quoted.
    """
    done = subprocess.run([sys.executable, "-m", *module], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise CliError(f"{what} failed", lines=lines[-_SHOWN:])


def _show_report(console: Console, report: dict[str, Any]) -> None:
    console.print(
        f"[bold]{report['rows_out']:,} of {report['rows_in']:,} rows[/] are kept: "
        f"{report['train_rows']:,} to train on, {report['validation_rows']:,} held out"
    )
    table = Table(box=box.SIMPLE_HEAD if console.is_terminal else None, show_edge=False, pad_edge=False)
    for column in ("rows", "what", "why"):
        table.add_column(column)
    words = report["words"]
    for what, counts, meaning in (
        ("dropped", report["dropped"], words["reasons"]),
        ("changed", report["changed"], words["rules"]),
    ):
        for name, rows in sorted(counts.items(), key=lambda item: -item[1]):
            table.add_row(f"{rows:,}", f"{what}: {name}", meaning.get(name, ""))
    if table.row_count:
        console.print(table)


def _show_audit(console: Console, path: Path, name: str) -> None:
    if not path.is_file():
        raise CliError(f"{name} has no tokenizer that can be read", remedy="Name a base's folder with tokenizer.json.")
    audit = json.loads(path.read_bytes())
    figures, cut = audit["tokens"]["train"], audit["truncated"]["train"]
    console.print(
        f"\nTokens of a row by {escape(name)}: median {figures['median']:,}, 99 % up to {figures['p99']:,}, "
        f"longest {figures['max']:,}; {cut['rows']:,} rows ({cut['share']:.1%}) are cut at {audit['max_length']:,}"
    )
    if audit["refusal"]:
        raise CliError(audit["refusal"]["why"], remedy=audit["refusal"]["remedy"])
    for sample in audit["samples"][:1]:
        console.print(f"What is learned of {escape(sample['place'])} (marked):")
        tokens = (
            f"[black on green]{escape(t['text'])}[/]" if t["learned"] else escape(t["text"]) for t in sample["tokens"]
        )
        console.print("".join(tokens) if console.is_terminal else _plain(sample["tokens"]))


def _plain(tokens: Sequence[dict[str, Any]]) -> str:
    """Return learned tokens in double brackets, for a pipe."""
    return escape("".join(f"⟦{token['text']}⟧" if token["learned"] else token["text"] for token in tokens))


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
