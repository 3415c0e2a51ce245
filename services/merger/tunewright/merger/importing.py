"""The import stage: a base model from a hub or a folder, checked and laid out as a model artifact.

Knows no transport and no store; never runs code that comes with a model, and does not import torch.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from tunewright.artifacts import Kind, Manifest
from tunewright.chassis.errors import InvalidSpec
from tunewright.chassis.stage import Reporter
from tunewright.merger import hub
from tunewright.merger.safety import chat_template, check_folder, model_files, text_sha256, tokenizer_sha256
from tunewright.merger.sources import FolderModel, check_local, fingerprint, resolve
from tunewright.merger.spec import ImportSpec


def run(spec: ImportSpec, inputs: Mapping[str, Path], output_dir: Path, report: Reporter) -> Manifest:  # noqa: ARG001 - an import has no inputs; every stage has this signature
    """Bring the model that `spec` names into `output_dir`.

    Raises:
        NotFound: no such model, revision or folder.
        Refused: not safe to load, gated, quantised, or without tokenizer or chat template.
        Unavailable: the hub does not answer.
    """
    folder, revision = _locate(spec, _import_root(report), report)
    report.raise_if_stopped()
    tensors = check_folder(folder, spec.source)
    _lay_out(folder, output_dir, report)
    return Manifest(
        kind=Kind.MODEL,
        created_by="merger",
        spec=spec.canonical(),
        base_model=spec.source,
        base_revision=revision,
        tokenizer_sha256=tokenizer_sha256(output_dir),
        chat_template_sha256=text_sha256(chat_template(output_dir, spec.source)),
        metrics={"tensors": len(tensors), "weight_bytes": sum(tensor.size_bytes for tensor in tensors)},
    )


def _import_root(report: Reporter) -> Path | None:
    root = report.runtime.get("import_root")
    return Path(root) if root else None


def _locate(spec: ImportSpec, import_root: Path | None, report: Reporter) -> tuple[Path, str]:
    source = resolve(spec.source, import_root)
    if isinstance(source, FolderModel):
        check_local(source.path, spec.source, import_root or source.path)
        found = fingerprint(source.path)
        if spec.revision and spec.revision != found:
            raise InvalidSpec(
                f"{spec.source} is no longer the folder that was asked for: {found}, not {spec.revision}",
                remedy="Leave revision empty for a folder and submit again.",
            )
        report.event("source", f"Importing the folder {spec.source} ({found}).", source="folder", revision=found)
        return source.path, found
    snapshot = hub.look_up(source.repo_id, spec.revision)
    report.event(
        "source",
        f"Fetching {source.repo_id} at commit {snapshot.commit}.",
        source="hub",
        revision=snapshot.commit,
        files=list(snapshot.files),
    )
    return hub.fetch(snapshot), snapshot.commit


def _lay_out(folder: Path, output_dir: Path, report: Reporter) -> None:
    files = model_files(folder)
    for step, path in enumerate(files, start=1):
        report.raise_if_stopped()
        _link_or_copy(path, output_dir / path.name)
        report.progress(step, len(files), unit="files", size_bytes=float(path.stat().st_size))


def _link_or_copy(source: Path, target: Path) -> None:
    """Hard-link where the file system allows it, so that 15 GB take no time; copy otherwise."""
    target.unlink(missing_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)
