"""A project's files: bytes as upload artifacts in the store, records in the database. Knows no HTTP.

The id is `file-` and the artifact's SHA-256, so the same bytes under the same name are the same file. A record is
written before its artifact and removed after it, so no file is ever there without one. Artifacts from before there
were records are the default project's.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewright.artifacts import ArtifactRef, FileEntry, Kind, Manifest, ObjectNotFound, Store, seal
from tunewright.artifacts.layout import MANIFEST, artifact_prefix
from tunewright.artifacts.transfer import commit, delete_folder, load_manifest
from tunewright.chassis.errors import InvalidSpec, NotFound, Violation
from tunewright.gateway.file_records import FileRecords
from tunewright.gateway.keys import DEFAULT_PROJECT, KeyRecord
from tunewright.gateway.recipe import FILE_PREFIX, file_ref

FINE_TUNE = "fine-tune"
RESULTS = "fine-tune-results"
PURPOSES = ("assistants", "batch", FINE_TUNE, "vision", "user_data", "evals")
"""What a file may be uploaded for. Only `fine-tune` means something here; others are kept and given back."""


@dataclass(frozen=True, kw_only=True)
class Filing:
    """The files of all projects."""

    store: Store
    records: FileRecords
    manifests: dict[str, Manifest]
    """Read before, by id: they never change, and a listing names those that still exist."""

    def add(self, key: KeyRecord, folder: Path, *, purpose: str, expires_after: int | None = None) -> dict[str, Any]:
        """Keep the one file in `folder` for the key's project and return its description.

        Args:
            key: whose file it is.
            folder: holds the file and nothing else.
            purpose: what it is for.
            expires_after: seconds until it goes away; None: never.
        """
        draft = Manifest(
            kind=Kind.UPLOAD, created_by="gateway", spec={"purpose": purpose}, metrics={"created_at": int(time.time())}
        )
        manifest = seal(draft, folder, {})
        file_id, entry = f"{FILE_PREFIX}{manifest.ref.id}", manifest.files[0]
        expires_at = None if expires_after is None else time.time() + expires_after
        self.records.add(
            key, file_id, filename=entry.path, size_bytes=entry.size_bytes, purpose=purpose, expires_at=expires_at
        )
        commit(self.store, manifest, folder)
        return self.describe(key.project, file_id)

    def describe(self, project: str, file_id: str) -> dict[str, Any]:
        """Return OpenAI's file object. Raises NotFound."""
        manifest = self.manifest(project, file_id)
        record = self.records.get(project, file_id)
        created = manifest.metrics.get("created_at", 0) if record is None else record.created_at
        expires = None if record is None else record.expires_at
        return _file_object(file_id, manifest, int(created), expires)

    def manifest(self, project: str, file_id: str) -> Manifest:
        """Return the manifest of a project's file. Raises NotFound."""
        try:
            ref = file_ref(file_id)
        except InvalidSpec as error:
            raise _no_such_file(file_id) from error
        if not self._is_of(project, file_id):
            raise _no_such_file(file_id)
        try:
            return load_manifest(self.store, ref)
        except ObjectNotFound as error:
            raise _no_such_file(file_id) from error

    def has(self, project: str, file_id: str) -> bool:
        """Return True if the project has the file."""
        try:
            self.manifest(project, file_id)
        except NotFound:
            return False
        return True

    def fetch(self, project: str, file_id: str, path: Path) -> None:
        """Write a project's file to `path`. Raises NotFound."""
        entry = self.manifest(project, file_id).files[0]
        key = f"{artifact_prefix(file_ref(file_id))}files/{entry.path}"
        self.store.get_file(key, path, size_bytes=entry.size_bytes, sha256=entry.sha256)

    def of_project(self, project: str) -> list[dict[str, Any]]:
        """Return the descriptions of all files of a project, in no order."""
        records = self.records.of_project(project)
        orphans = self.records.known() if project == DEFAULT_PROJECT else set()
        found = []
        for file_id in self._stored():
            if file_id in records:
                record = records[file_id]
                created, expires = int(record.created_at), record.expires_at
                found.append(_file_object(file_id, self._manifest(file_id), created, expires))
            elif project == DEFAULT_PROJECT and file_id not in orphans:
                manifest = self._manifest(file_id)
                found.append(_file_object(file_id, manifest, int(manifest.metrics.get("created_at", 0)), None))
        return found

    def remove(self, project: str, file_id: str) -> None:
        """Delete a project's file; the bytes stay while another project has them. Raises NotFound."""
        self.manifest(project, file_id)
        self._drop(project, file_id)

    def remove_expired(self) -> None:
        """Delete what has expired, of all projects."""
        for record in self.records.expired():
            self._drop(record.project, record.id)

    def _drop(self, project: str, file_id: str) -> None:
        if self.records.projects(file_id) <= {project}:
            ref = file_ref(file_id)
            delete_folder(self.store, artifact_prefix(ref))
            self.manifests.pop(ref.id, None)
        self.records.remove(project, file_id)

    def _is_of(self, project: str, file_id: str) -> bool:
        if self.records.get(project, file_id) is not None:
            return True
        return project == DEFAULT_PROJECT and not self.records.projects(file_id)

    def _stored(self) -> list[str]:
        keys = [info.key for info in self.store.list(f"{Kind.UPLOAD.value}/")]
        return [f"{FILE_PREFIX}{key.split('/')[1]}" for key in keys if key.endswith(f"/{MANIFEST}")]

    def _manifest(self, file_id: str) -> Manifest:
        ref = ArtifactRef(Kind.UPLOAD, file_id.removeprefix(FILE_PREFIX))
        if ref.id not in self.manifests:
            self.manifests[ref.id] = load_manifest(self.store, ref)
        return self.manifests[ref.id]


def _no_such_file(file_id: str) -> NotFound:
    return NotFound(f"No such File object: {file_id}", violations=[Violation("id", "unknown file")])


def _file_object(file_id: str, manifest: Manifest, created_at: int, expires_at: float | None) -> dict[str, Any]:
    entry: FileEntry = manifest.files[0]
    return {
        "id": file_id,
        "object": "file",
        "bytes": entry.size_bytes,
        "created_at": created_at,
        "filename": entry.path,
        "purpose": str(manifest.spec.get("purpose", FINE_TUNE)),
        "status": "processed",
        "status_details": None,
        "expires_at": None if expires_at is None else int(expires_at),
    }
