"""A stage without any server: `python -m tunewright.<service> run SPEC.yaml --input NAME=FOLDER … --output DIR`.

The same function that the service runs, for debugging, scripts and benchmarks. Knows nothing of stores and jobs.
"""

import argparse
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tunewright.artifacts import FileEntry, IntegrityError, Manifest, UnsafePath, file_sha256, seal
from tunewright.artifacts.layout import MANIFEST, checked_path
from tunewright.artifacts.transfer import chosen
from tunewright.chassis import logs
from tunewright.chassis.child import run as run_stage
from tunewright.chassis.child import write_atomically
from tunewright.chassis.errors import Conflict, InvalidSpec, Refused, foreign
from tunewright.chassis.reporter import StageReporter
from tunewright.chassis.stage import Stage


def add_arguments(parser: argparse.ArgumentParser, stages: Mapping[str, Stage]) -> None:
    """Describe the command line of `run`."""
    parser.add_argument("spec", type=Path, metavar="SPEC.yaml", help="fields of the spec; an empty file takes defaults")
    parser.add_argument("--input", action="append", default=[], metavar="NAME=PATH", help="folder of an input artifact")
    parser.add_argument(
        "--runtime", action="append", default=[], metavar="KEY=VALUE", help="YAML value, such as an endpoint"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="new folder for the artifact")
    parser.add_argument("--events", choices=["text", "json"], default="text", help="how events are told, on stderr")
    parser.add_argument("--stage", choices=list(stages), default=next(iter(stages)))


def run(arguments: argparse.Namespace, stages: Mapping[str, Stage]) -> None:
    """Run the stage and leave the artifact, with its manifest, in the output folder.

    Raises:
        TunewrightError: what the stage raised; a bad command line; an output folder that is in use.
    """
    logs.configure(arguments.stage, "INFO", "text")
    stage = stages[arguments.stage]
    output: Path = arguments.output
    if output.exists() and any(output.iterdir()):
        raise Conflict(f"output folder {output} is not empty", remedy="Name a new folder.")
    spec = stage.spec.from_mapping(_yaml_mapping(arguments.spec))
    inputs = dict(_pair(text) for text in arguments.input)
    runtime = {key: yaml.safe_load(value) for key, value in (_pair(text) for text in arguments.runtime)}
    folders = {name: Path(path) for name, path in inputs.items()}
    for name, folder in folders.items():
        if not folder.is_dir():
            raise InvalidSpec(f"--input {name}: {folder} is no folder", remedy="Name the folder that holds the files.")
    manifests = _manifests(folders, stage)
    if manifests:
        runtime.setdefault("manifests", {name: found.model_dump(mode="json") for name, found in manifests.items()})
    output.mkdir(parents=True, exist_ok=True)
    tell = _print_json if arguments.events == "json" else _print
    reporter = StageReporter(tell, output.with_name(output.name + ".checkpoints"), None, runtime)
    reporter.stop_on_signals()
    try:
        draft = run_stage(stage.function, spec, folders, output, reporter)
    except Exception as error:
        raise foreign(error) from error
    manifest = seal(draft, output, {name: found.ref for name, found in manifests.items()})
    write_atomically(output / "manifest.json", manifest.to_json())
    reporter.event("sealed", f"{manifest.ref} in {output}")


def _manifests(folders: Mapping[str, Path], stage: Stage) -> dict[str, Manifest]:
    """Return the manifests of inputs that a stage made; a plain folder has none, nor has one of another tool.

    Raises:
        Refused: a manifest of ours is damaged, or a file that the stage reads is not what it promises.
    """
    found = {}
    for name, folder in folders.items():
        try:
            data = (folder / MANIFEST).read_bytes()
        except FileNotFoundError:
            continue
        if not _is_ours(data):
            continue
        try:
            manifest = Manifest.from_json(data)
            for entry in chosen(manifest.files, stage.files.get(name)):
                _check_file(folder / checked_path(entry.path), entry)
        except (IntegrityError, UnsafePath) as error:
            raise Refused(
                f"--input {name}: {folder} is not the artifact that its {MANIFEST} names: {error}",
                remedy=f"Fetch or make it again; to use its files as a plain folder, remove {MANIFEST}.",
            ) from error
        found[name] = manifest
    return found


_MARKS = re.compile(rb'"(?:schema_version|created_by|size_bytes|base_model)"')
"""Keys of our manifests: two of them make a file one of ours, even where it is cut or no longer JSON."""


def _is_ours(data: bytes) -> bool:
    return len(set(_MARKS.findall(data))) > 1


def _check_file(path: Path, entry: FileEntry) -> None:
    """Compare a file with its entry.

    Raises:
        IntegrityError: it is missing or differs.
    """
    if not path.is_file():
        raise IntegrityError(f"{entry.path} is missing")
    if (found := file_sha256(path)) != entry.sha256:
        raise IntegrityError(f"{entry.path} has SHA-256 {found}, {entry.sha256} is promised")


def _print(event: dict[str, Any]) -> None:
    print(f"{event['severity']}: {event['message']}", file=sys.stderr, flush=True)  # noqa: T201 - its terminal


def _print_json(event: dict[str, Any]) -> None:
    print(json.dumps(event), file=sys.stderr, flush=True)  # noqa: T201 - for the program that reads it


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise InvalidSpec(f"{text!r}: NAME=VALUE is expected", remedy="See --help.")
    return name, value


def _yaml_mapping(path: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise InvalidSpec(f"cannot read {path}: {error.strerror}", remedy="Name an existing spec file.") from error
    except yaml.YAMLError as error:
        raise InvalidSpec(f"{path} is not YAML: {error}", remedy="Correct the line named.") from error
    if not isinstance(document, dict):
        raise InvalidSpec(f"{path} holds no mapping of fields", remedy="Write `field: value` lines.")
    return document
