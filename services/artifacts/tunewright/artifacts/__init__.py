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
from tunewright.artifacts.manifest import FileEntry, Manifest, canonical_json, file_sha256, seal
from tunewright.artifacts.refs import ArtifactRef, Kind
from tunewright.artifacts.store import ObjectInfo, Progress, Store

__all__ = [
    "ArtifactError",
    "ArtifactRef",
    "FileEntry",
    "IntegrityError",
    "InvalidRef",
    "Kind",
    "Manifest",
    "ObjectExists",
    "ObjectInfo",
    "ObjectNotFound",
    "Progress",
    "Store",
    "StoreUnavailable",
    "UnsafePath",
    "canonical_json",
    "file_sha256",
    "seal",
]
