"""Runs the command line as a person's shell does, outside any stack and without the caller's TUNEWRIGHT_ variables."""

import os
import subprocess
import sys

from tests.cli.gateway_server import KEY


def tunewright(
    *words: str, url: str = "", key: str = KEY, stdin: str = "", timeout: float = 60, **variables: str
) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TUNEWRIGHT_")}
    if url:
        environment |= {"TUNEWRIGHT_URL": url, "TUNEWRIGHT_API_KEY": key}
    return subprocess.run(
        [sys.executable, "-m", "tunewright.cli", *words],
        capture_output=True,
        text=True,
        env=environment | variables,
        input=stdin,
        timeout=timeout,
        cwd="/",
        check=False,
    )
