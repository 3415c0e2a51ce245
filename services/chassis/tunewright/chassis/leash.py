"""Runs a command that must not outlive its master: `python -m tunewright.chassis.leash -- COMMAND …`.

The master holds the other end of this process's standard input. When that end closes, even by kill -9 of the master,
the command's whole process group is killed, grandchildren too (vLLM's engine core, data-loader workers). SIGTERM and
SIGINT go on to the command alone. The exit status is the command's; 128 + n if signal n ended it.

Knows nothing of what it runs.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
from types import FrameType

_PR_SET_PDEATHSIG = 1


def command(argv: list[str]) -> list[str]:
    """Return the command line that runs `argv` on a leash; start it with `stdin=subprocess.PIPE` and keep that pipe."""
    return [sys.executable, "-m", "tunewright.chassis.leash", "--", *argv]


def main(argv: list[str]) -> int:
    """Run `argv` (after `--`) until it ends or the master is gone."""
    child = subprocess.Popen(
        argv[argv.index("--") + 1 :],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=_die_with_parent,  # noqa: PLW1509 - no thread runs yet; the hook makes one system call
    )

    def forward(number: int, _frame: FrameType | None) -> None:
        child.send_signal(number)

    signal.signal(signal.SIGTERM, forward)
    signal.signal(signal.SIGINT, forward)
    threading.Thread(target=_kill_when_master_is_gone, args=(child.pid,), daemon=True).start()
    code = child.wait()
    _kill_group(child.pid)
    return code if code >= 0 else 128 - code


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _kill_when_master_is_gone(group: int) -> None:
    while os.read(0, 4096):
        pass
    _kill_group(group)
    os._exit(128 + signal.SIGKILL)


def _kill_group(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
