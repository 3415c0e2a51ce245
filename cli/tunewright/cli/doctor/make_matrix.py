"""Writes the doctor's matrix of supported versions from the locks of a checkout.

    python -m tunewright.cli.doctor.make_matrix

Run it after a lock changed; a test compares the two. Knows only the form `name==version` of a lock's lines.
"""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[4]
TARGET = ROOT / "cli/tunewright/cli/doctor/matrix.json"
DEVICES = ("cpu", "gpu")


def matrix(requirements: Path) -> dict[str, dict[str, str]]:
    """Return device → package → version for each lock there is in the folder."""
    locks = {device: requirements / f"{device}.txt" for device in DEVICES}
    return {device: _pins(lock.read_text(encoding="utf-8")) for device, lock in locks.items() if lock.is_file()}


def _pins(text: str) -> dict[str, str]:
    lines = (line.partition("#")[0].partition(";")[0].strip() for line in text.splitlines())
    pairs = (line.split("==") for line in lines if "==" in line)
    return {name.strip().lower(): version.strip() for name, version in pairs}


if __name__ == "__main__":
    TARGET.write_text(json.dumps(matrix(ROOT / "requirements"), indent=1, sort_keys=True) + "\n", encoding="utf-8")
    sys.stdout.write(f"{TARGET}\n")
