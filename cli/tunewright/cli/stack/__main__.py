"""The supervisor's process, started detached by `tunewright up`.

python -m tunewright.cli.stack FOLDER GATEWAY_PORT IMPORT_ROOT
"""

import signal
import sys
import time
from pathlib import Path

from tunewright.cli.stack.folder import StackFolder
from tunewright.cli.stack.services import tunewright_stack
from tunewright.cli.stack.supervisor import Supervisor

LOCK_TRIES = 20
"""Of 0.1 s each: whoever only looks whether a supervisor lives holds the lock for a moment."""


def main(path: str, gateway_port: int, import_root: str) -> int:
    """Supervise the stack in `path` until SIGTERM; at once 0 if another supervisor does."""
    folder = StackFolder(Path(path))
    for _ in range(LOCK_TRIES):
        with folder.supervisor_lock() as free:
            if free:
                return _supervise(folder, gateway_port, import_root)
        time.sleep(0.1)
    return 0


def _supervise(folder: StackFolder, gateway_port: int, import_root: str) -> int:
    status = folder.status()
    status.gateway_port, status.import_root, status.error = gateway_port, import_root, ""
    services = tunewright_stack(folder, gateway_port=gateway_port, import_root=import_root)
    supervisor = Supervisor(folder, services, status)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: supervisor.stop_requested.set())
    return 0 if supervisor.run() else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
