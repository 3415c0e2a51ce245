"""Prints the logs of a local stack's services. Knows nothing of what they say."""

import sys
import time
from pathlib import Path

from tunewright.cli.errors import CliError
from tunewright.cli.stack.folder import StackFolder
from tunewright.cli.stack.processes import last_lines

POLL_SECONDS = 0.2


def show(folder: StackFolder, service: str, *, lines: int, follow: bool) -> None:
    """Print the newest lines of a log, and go on with `follow` until Ctrl-C.

    Raises:
        CliError: there is no such log.
    """
    path = folder.log(service)
    known = sorted(found.stem for found in path.parent.glob("*.log"))
    if service not in known:
        raise CliError(f"there is no log of {service!r}", remedy=f"There are: {', '.join(known) or 'none yet'}.")
    for line in last_lines(path, lines):
        sys.stdout.write(line + "\n")
    if follow:
        _follow(path)


def _follow(path: Path) -> None:
    with path.open(encoding="utf-8", errors="replace") as file:
        file.seek(0, 2)
        while True:
            if text := file.read():
                sys.stdout.write(text)
                sys.stdout.flush()
            else:
                time.sleep(POLL_SECONDS)
