"""Options that several commands have: which run, gateway, key, local stack. Knows no command."""

from pathlib import Path
from typing import Annotated

import typer

from tunewright.cli.stack.folder import DEFAULT

Url = Annotated[str | None, typer.Option("--url", envvar="TUNEWRIGHT_URL", help="Gateway; else the local stack's.")]
ApiKey = Annotated[
    str | None,
    typer.Option("--api-key", envvar="TUNEWRIGHT_API_KEY", help="Key; else the local stack's.", show_envvar=True),
]
Directory = Annotated[
    Path | None,
    typer.Option("--dir", envvar="TUNEWRIGHT_STACK_DIR", help=f"Stack's folder; else the nearest {DEFAULT}."),
]
RunId = Annotated[str, typer.Argument(metavar="RUN", help="A run's id.")]
