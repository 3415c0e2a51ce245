"""Fuzzes a gateway on tiny rooms by its own OpenAPI document: `python -m tests.gateway.fuzzing PATH_OF_SCHEMATHESIS`.

Exit code 0 if no request got a 5xx but 503, which says that something behind the gateway is away on purpose.
"""

import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from tests.gateway.conftest import ROOMS
from tests.gateway.processes import BOOTSTRAP_KEY, Gateway, room
from tests.seaweed import seaweedfs

_EXAMPLES = "15"
"""Requests that are made up for each operation and phase."""
_LEFT_OUT = "/v1/runs/{run_id}/events"
"""A stream that ends with its run."""


def main(schemathesis: str) -> int:
    """Start everything, fuzz it, stop everything; return the exit code."""
    with ExitStack() as stack, tempfile.TemporaryDirectory() as text:
        folder, server = Path(text), stack.enter_context(seaweedfs())
        server.settings.store("fuzzing")
        environment = server.settings.environment("fuzzing")
        rooms = {name: room(name, environment, folder / name) for name in ROOMS}
        for process in rooms.values():
            stack.callback(process.kill)
            process.start()
        gateway = Gateway(rooms, environment, folder / "gateway", max_upload_bytes="100000", max_body_bytes="50000")
        stack.callback(gateway.kill)
        gateway.start()
        run = _command(schemathesis, gateway.url)
        done = subprocess.run(run, check=False)
        faults = [line for line in gateway.log().splitlines() if '"request failed"' in line]
        sys.stderr.write("".join(f"{line}\n" for line in faults))
        return done.returncode or bool(faults)


def _command(schemathesis: str, url: str) -> list[str]:
    return [
        *(schemathesis, "run", f"{url}/openapi.json", "--url", url),
        *("--header", f"Authorization: Bearer {BOOTSTRAP_KEY}", "--exclude-path", _LEFT_OUT),
        *("--checks", "not_a_server_error", "--phases", "examples,coverage,fuzzing", "--max-examples", _EXAMPLES),
        *("--seed", "1", "--request-timeout", "30", "--no-color"),
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
