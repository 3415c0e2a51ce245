"""The manifest of an artifact: everything that made it, and every byte it holds. Knows nothing of stores.

A stage returns a draft (no files, no parents); `seal` turns the draft and the stage's output folder into the manifest
that is committed. The id is the SHA-256 of the identity: kind, spec, parents and content files. Logs (files under
`logs/`) and metrics do not take part, so that a run that was killed and resumed ends in the same id.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from tunewright.artifacts.errors import IntegrityError
from tunewright.artifacts.layout import checked_path, is_log
from tunewright.artifacts.refs import ArtifactRef, Kind

SCHEMA_VERSION = 1
_CHUNK_BYTES = 1 << 20


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class FileEntry(_Frozen):
    """One content file of an artifact."""

    path: str
    """Relative to the artifact's folder, with forward slashes."""
    size_bytes: int
    sha256: str


class Manifest(_Frozen):
    """What an artifact is, what made it, what it holds."""

    schema_version: int = SCHEMA_VERSION
    kind: Kind
    created_by: str
    """Service that made it: dataprep, trainer, merger, evaluator, gateway."""
    spec: dict[str, Any] = Field(default_factory=dict)
    """Canonical spec of the stage."""
    parents: dict[str, str] = Field(default_factory=dict)
    """Input name → reference (`datasets/<sha256>`) of every artifact that went in."""
    base_model: str | None = None
    """Where the base came from, as the user named it (hub id, folder, or reference)."""
    base_revision: str | None = None
    """Commit of the base on its hub."""
    tokenizer_sha256: str | None = None
    chat_template_sha256: str | None = None
    quantization: dict[str, Any] | None = None
    """Settings of the quantised base that was trained on; none for full precision."""
    seed: int | None = None
    metrics: dict[str, Any] = Field(default_factory=dict)
    """Measured figures by name; not part of the identity."""
    packages: dict[str, str] = Field(default_factory=dict)
    """Name → version of the packages that had a hand in it; not part of the identity."""
    files: tuple[FileEntry, ...] = ()

    def identity(self) -> bytes:
        """Return the canonical JSON whose SHA-256 is the artifact's id."""
        return canonical_json(
            {
                "kind": self.kind.value,
                "spec": self.spec,
                "parents": self.parents,
                "files": [entry.model_dump() for entry in self.files if not is_log(entry.path)],
            }
        )

    @property
    def ref(self) -> ArtifactRef:
        """Name of the sealed artifact."""
        return ArtifactRef(self.kind, bytes_sha256(self.identity()))

    def to_json(self) -> bytes:
        """Return the bytes that are committed: indented JSON with sorted keys and the id on top."""
        document = {"id": self.ref.id, **self.model_dump(mode="json")}
        return json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Return the manifest in `data`.

        Raises:
            IntegrityError: not a manifest, or its id is not the hash of its identity.
        """
        try:
            document = json.loads(data)
            promised = document.pop("id")
            manifest = cls.model_validate(document)
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
            raise IntegrityError(f"not a manifest: {error}") from error
        if manifest.ref.id != promised:
            raise IntegrityError(f"manifest says id {promised}, its contents hash to {manifest.ref.id}")
        return manifest


def seal(draft: Manifest, directory: Path, parents: Mapping[str, ArtifactRef]) -> Manifest:
    """Return `draft` with its parents and with every regular file below `directory`, hashed and in order of path.

    Raises:
        UnsafePath: a file's name cannot be stored.
    """
    files = tuple(_entry(directory, path) for path in sorted(directory.rglob("*")) if path.is_file())
    named = {name: str(ref) for name, ref in sorted(parents.items())}
    ordered = tuple(sorted(files, key=lambda entry: entry.path))
    return draft.model_copy(update={"files": ordered, "parents": named})


def canonical_json(document: Any) -> bytes:  # noqa: ANN401 - any JSON value
    """Return JSON bytes that are equal for equal values: sorted keys, no spaces, UTF-8, no NaN."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def bytes_sha256(data: bytes) -> str:
    """Return the lower-case SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def file_sha256(path: Path) -> str:
    """Return the lower-case SHA-256 of a file, read in chunks of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _entry(directory: Path, path: Path) -> FileEntry:
    relative = checked_path(path.relative_to(directory).as_posix())
    return FileEntry(path=relative, size_bytes=path.stat().st_size, sha256=file_sha256(path))
