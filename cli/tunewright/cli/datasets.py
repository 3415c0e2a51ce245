"""A prepared dataset, wherever it lies: a folder here, or an artifact of a stack, which is fetched.

Reads rows by their id; knows nothing of what is done with them.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tunewright.cli.client import Gateway
from tunewright.cli.errors import CliError

SIDES = ("train.jsonl", "validation.jsonl")
REPORT = "report.json"
_REMEDY = "Name the folder of a prepared dataset, `datasets/…` of a stack, or the id of a run that made one."
_DIGITS = re.compile(r"(?:datasets/)?([0-9a-f]{6,64})")
_WHOLE = 64
_PARTS = ("tools", "messages", "text", "chosen", "rejected")


class Place(NamedTuple):
    """Where a row stands, and what it says."""

    side: str
    offset: int
    """Bytes before its line."""
    content: int
    """A hash of its texts, the same within one process."""


@dataclass(frozen=True)
class Dataset:
    """A dataset whose rows were looked at once."""

    name: str
    folder: Path
    rows: dict[str, Place]
    """Id → place; of repeats the last."""

    def read(self, identifier: str) -> dict[str, Any]:
        """Return a row."""
        place = self.rows[identifier]
        with (self.folder / place.side).open("rb") as file:
            file.seek(place.offset)
            row: dict[str, Any] = json.loads(file.readline())
        return row

    def settings(self) -> dict[str, Any]:
        """Return the settings of its preparation.

        Raises:
            CliError: its report is not there, or none.
        """
        path = self.folder / REPORT
        try:
            found: dict[str, Any] = json.loads(path.read_bytes())["spec"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CliError(f"{path} is no report of data preparation", remedy="Prepare the data again.") from error
        return found


def open_dataset(name: str, scratch: Path, connect: Callable[[], Gateway]) -> Dataset:
    """Return the dataset that is meant: a folder, `datasets/<id>` (6 digits on), the digits alone, or a run's id.

    Args:
        name: what the user wrote.
        scratch: folder that is not there yet, for what is fetched.
        connect: returns the gateway; called only if no such folder is here.

    Raises:
        CliError: there is none, or its rows are none of a prepared dataset; file and line are named.
    """
    folder = Path(name)
    if not folder.is_dir():
        if folder.exists() or not (name.startswith("run-") or _DIGITS.fullmatch(name)):
            raise CliError(f"{name} is no folder", remedy=_REMEDY)
        folder = scratch
        _fetch(connect(), name, folder)
    if not (folder / SIDES[0]).is_file():
        raise CliError(f"{name} holds no {SIDES[0]}", remedy=_REMEDY)
    rows: dict[str, Place] = {}
    for side in SIDES:
        if (folder / side).is_file():
            _scan(name, folder / side, rows)
    return Dataset(name, folder, rows)


def _scan(name: str, path: Path, rows: dict[str, Place]) -> None:
    offset = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
                content = hash(json.dumps([row.get(part) for part in _PARTS]))
                rows[row["id"]] = Place(path.name, offset, content)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                problem = f"{Path(name) / path.name}:{number} is no row of a prepared dataset"
                raise CliError(problem, remedy=_REMEDY) from error
            offset += len(line)


def _fetch(gateway: Gateway, name: str, folder: Path) -> None:
    reference = _reference(gateway, name)
    files = gateway.get(f"/v1/artifacts/{reference}")["files"]
    folder.mkdir()
    for file in files:
        if file["path"] in {*SIDES, REPORT}:
            gateway.download(f"/v1/artifacts/{reference}/files/{file['path']}", folder / file["path"])


def _reference(gateway: Gateway, name: str) -> str:
    """Return `datasets/<64 digits>`: as it is written, by its first digits among the runs' datasets, or of a run."""
    digits = _DIGITS.fullmatch(name)
    if digits is None:
        return _of_run(gateway.run(name), name)
    if len(digits[1]) == _WHOLE:
        return f"datasets/{digits[1]}"
    made: set[str] = {result for run in _runs(gateway) for result in run["artifacts"].values()}
    found = sorted(reference for reference in made if reference.startswith(f"datasets/{digits[1]}"))
    if len(found) != 1:
        what = f"{len(found)} datasets of the stack's runs begin" if found else "no dataset of the stack's runs begins"
        raise CliError(f"{name}: {what} with {digits[1]}", remedy="Give all 64 digits, or the id of its run.")
    return found[0]


def _runs(gateway: Gateway) -> list[dict[str, Any]]:
    runs: list[dict[str, Any]] = []
    while True:
        page = gateway.get("/v1/runs", limit=100, **({"after": runs[-1]["id"]} if runs else {}))
        runs += page["data"]
        if not page.get("has_more") or not page["data"]:
            return runs


def _of_run(run: dict[str, Any], name: str) -> str:
    for result in run["artifacts"].values():
        if str(result).startswith("datasets/"):
            return str(result)
    raise CliError(f"run {name} made no dataset", remedy="Wait until its first stage is done.")
