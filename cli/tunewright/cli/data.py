"""`tunewright data`: look at raw files, or compare two prepared datasets.

Reads options and prints. `inspecting.py` and `comparing.py` do the work, `inspection_view.py` and `difference_view.py`
show it.
"""

import json
import sys
import tempfile
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Annotated

import typer

from tunewright.cli import difference_view
from tunewright.cli.client import Gateway
from tunewright.cli.comparing import compare
from tunewright.cli.console import make_console
from tunewright.cli.datasets import open_dataset
from tunewright.cli.endpoint import find_endpoint
from tunewright.cli.errors import CliError
from tunewright.cli.inspecting import inspect_paths
from tunewright.cli.inspection_view import show
from tunewright.cli.options import ApiKey, Directory, Url

app = typer.Typer(name="data", help="Look at raw files, compare datasets.", no_args_is_help=True)


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
    one: Annotated[
        str, typer.Argument(metavar="A", help="Folder of a dataset, datasets/ID of a stack, or a run's id.")
    ],
    other: Annotated[str, typer.Argument(metavar="B", help="Another.")],
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,  # noqa: FBT002 - typer's form of a flag
    url: Url = None,
    api_key: ApiKey = None,
    directory: Directory = None,
) -> None:
    """Say which rows and settings differ; exit code 1 if any do."""
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))

        @cache
        def connect() -> Gateway:
            return stack.enter_context(Gateway(find_endpoint(url, api_key, directory)))

        old, new = (open_dataset(name, scratch / side, connect) for name, side in ((one, "a"), (other, "b")))
        found = compare(old, new)
        if as_json:
            told = difference_view.document(found, old, new)
            sys.stdout.write(json.dumps(told, ensure_ascii=False, indent=2) + "\n")
        else:
            difference_view.show(found, old, new, make_console())
    if found:
        raise typer.Exit(1)
