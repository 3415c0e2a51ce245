"""What passes between the rooms: references, manifests, and the store they lie in. Imports nothing of ours."""

from tunewright.artifacts.errors import (
    ArtifactError,
    IntegrityError,
    InvalidRef,
    ObjectExists,
    ObjectNotFound,
    StoreUnavailable,
    UnsafePath,
)
from tunewright.artifacts.manifest import FileEntry, Manifest, bytes_sha256, canonical_json, file_sha256, seal
from tunewright.artifacts.memory import MemoryStore
from tunewright.artifacts.refs import ArtifactRef, Kind
from tunewright.artifacts.s3 import S3Store
from tunewright.artifacts.store import ObjectInfo, Progress, Store
from tunewright.artifacts.transfer import commit, commit_folder, exists, fetch, fetch_folder, lineage, load_manifest

__all__ = [
    "ArtifactError",
    "ArtifactRef",
    "FileEntry",
    "IntegrityError",
    "InvalidRef",
    "Kind",
    "Manifest",
    "MemoryStore",
    "ObjectExists",
    "ObjectInfo",
    "ObjectNotFound",
    "Progress",
    "S3Store",
    "Store",
    "StoreUnavailable",
    "UnsafePath",
    "bytes_sha256",
    "canonical_json",
    "commit",
    "commit_folder",
    "exists",
    "fetch",
    "fetch_folder",
    "file_sha256",
    "lineage",
    "load_manifest",
    "seal",
]
