"""Where words go: one console for output, one for errors. On a terminal rich draws; into a pipe plain lines go.

Knows nothing of what is said.
"""

from rich.console import Console
from rich.markup import escape

from tunewright.cli.errors import CliError

PIPE_WIDTH = 1000
"""Columns assumed when nobody looks: wide enough that no line is ever broken for a pipe."""


MINUTE = 60
"""Seconds; and minutes of an hour."""
KIBI = 1024


def make_console(*, stderr: bool = False) -> Console:
    """Return a console that wraps to the terminal, or never wraps when the output is no terminal."""
    console = Console(stderr=stderr, highlight=False)
    if not console.is_terminal:
        console = Console(stderr=stderr, highlight=False, width=PIPE_WIDTH, no_color=True)
    return console


def show_error(error: CliError) -> None:
    """Print the error and its remedy to standard error."""
    console = make_console(stderr=True)
    console.print(f"[bold red]error:[/] {escape(error.message)}")
    for line in error.lines:
        console.print(f"  [dim]│[/] {escape(line)}")
    if error.remedy:
        console.print(f"  [cyan]→[/] {escape(error.remedy)}")


def duration(seconds: float) -> str:
    """Return seconds in words, such as 4.2 s, 3 min 05 s or 2 h 10 min."""
    if seconds < MINUTE:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), MINUTE)
    if minutes < MINUTE:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // MINUTE} h {minutes % MINUTE:02d} min"


def size(count: float) -> str:
    """Return bytes in words, by powers of 1024."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < KIBI:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= KIBI
    return f"{count:.1f} TiB"
