"""The one error of the command line: a sentence, what to do about it, and an exit code. Knows nothing of its causes."""

from collections.abc import Sequence


class CliError(Exception):
    """Shown as one red message with its remedy; the command then ends with `exit_code`."""

    def __init__(self, message: str, *, remedy: str = "", lines: Sequence[str] = (), exit_code: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.lines = tuple(lines)
        """Quoted below the message, such as the last lines of a log."""
        self.exit_code = exit_code
