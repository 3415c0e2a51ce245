"""`tunewright merge` and `tunewright export`: the merger's stages in a process of their own, on folders or artifacts.

Artifacts of a stack (`adapters/…`, `models/…`, `datasets/…`) are fetched through its gateway. Knows nothing of how
weights are merged.
"""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from tunewright.cli.client import Gateway
from tunewright.cli.errors import CliError

_KINDS = {"adapter": "adapters/", "base": "models/", "model": "models/", "dataset": "datasets/"}
_MANIFEST = "manifest.json"
_ID = re.compile(r"[0-9a-f]{64}")


def run_stage(
    stage: str,
    spec: Mapping[str, Any],
    inputs: Mapping[str, str],
    output: Path,
    connect: Callable[[], Gateway],
    console: Console,
) -> None:
    """Run a stage of the merger and show what it says; the artifact lies in `output`.

    Args:
        stage: merge or export.
        spec: fields of the stage's spec.
        inputs: input name → folder, or reference of an artifact.
        output: new folder.
        connect: returns the gateway; called only where an artifact is named.
        console: where it is shown.

    Raises:
        CliError: an input is not there, or the stage refuses; its words are quoted.
    """
    if output.exists() and any(output.iterdir()):
        raise CliError(f"{output} is not empty", remedy="Name a new folder by --output.")
    scratch = output.with_name(f"{output.name}.inputs")
    folders = {name: find_input(name, text, scratch, connect) for name, text in inputs.items()}
    scratch.mkdir(parents=True, exist_ok=True)
    settings = scratch / "spec.yaml"
    settings.write_text(yaml.safe_dump(dict(spec)), "utf-8")
    given = [word for name, folder in folders.items() for word in ("--input", f"{name}={folder.resolve()}")]
    command = ["tunewright.merger", "run", str(settings), "--stage", stage, *given, "--output", str(output)]
    with subprocess.Popen(
        [sys.executable, "-m", *command, "--events", "json"], stderr=subprocess.PIPE, text=True, errors="replace"
    ) as child:
        words = _follow(child.stderr or (), console)
    settings.unlink()
    if child.returncode:
        raise CliError(f"the {stage} failed", lines=[line.removeprefix("merger: ") for line in words[-24:]])
    for folder in folders.values():
        if folder.parent == scratch:  # fetched for this run; after a failure it stays, for the next attempt
            shutil.rmtree(folder)
    if not any(scratch.iterdir()):
        scratch.rmdir()


def find_input(name: str, text: str, scratch: Path, connect: Callable[[], Gateway]) -> Path:
    """Return the folder that is meant: one that is here, or that of an artifact, fetched.

    Raises:
        CliError: there is no such folder, it is an artifact of another kind, or what comes is not what its manifest
            promises.
    """
    folder = Path(text)
    if folder.is_dir():
        return folder
    if not text.startswith(_KINDS[name]):
        raise CliError(
            f"{text} is no folder, nor {_KINDS[name]}… of a stack", remedy=f"Name the {name}'s folder or its artifact."
        )
    gateway = connect()
    manifest = gateway.get(f"/v1/artifacts/{text}")
    target = scratch / _checked_id(manifest, text)
    for file in manifest["files"]:
        path = target / _checked_path(file["path"])
        if path.is_file() and _sha256(path) == file["sha256"]:
            continue  # fetched before a break
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.partial")
        gateway.download(f"/v1/artifacts/{text}/files/{file['path']}", partial)
        if (found := _sha256(partial)) != file["sha256"]:
            partial.unlink()
            raise CliError(
                f"{text}: {file['path']} came with SHA-256 {found}, its manifest promises {file['sha256']}",
                remedy="Try again; if it stays so, the stored artifact is damaged: run its stage again.",
            )
        partial.replace(path)
    document = {key: value for key, value in manifest.items() if key not in _VIEW}
    target.mkdir(parents=True, exist_ok=True)
    (target / _MANIFEST).write_text(json.dumps(document), "utf-8")
    return target


def _checked_id(manifest: Mapping[str, Any], text: str) -> str:
    """Return the artifact's id, which names its folder here; that it is the manifest's hash the stage looks at."""
    found, asked = str(manifest.get("id")), text.partition("/")[2]
    if not _ID.fullmatch(found) or (_ID.fullmatch(asked) and asked != found):
        raise CliError(f"the gateway gives {found!r} as the id of {text}", remedy="Look at --url: is it Tunewright's?")
    return found


def _checked_path(path: str) -> str:
    """Return a manifest's path if it stays in its folder and is not that of the manifest itself."""
    pure = PurePosixPath(path)
    if path != str(pure) or pure.is_absolute() or ".." in pure.parts or "\\" in path or path in {"", ".", _MANIFEST}:
        raise CliError(f"{path!r} is no path inside an artifact", remedy="Look at --url: is it Tunewright's?")
    return path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_VIEW = frozenset({"object", "ref"})
"""What the gateway adds to a manifest."""


def _follow(lines: Iterable[str], console: Console) -> list[str]:
    """Show events as they come; return the lines that are none."""
    words: list[str] = []
    columns = TextColumn("{task.description}"), BarColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task("reading")
        for line in lines:
            try:
                event = json.loads(line)
                data = event["data"]
            except (ValueError, KeyError, TypeError):
                words += [line.rstrip()] if line.strip() else []
                continue
            if event["type"] == "progress":
                progress.update(task, description=data["unit"], completed=data["step"], total=data["total"])
            else:
                console.print(event["message"], markup=False, highlight=False, soft_wrap=True)
    return words
