"""The two stores behind one fixture, and folders of files to put into them."""

import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.seaweed import S3Settings
from tunewright.artifacts import Kind, Manifest, MemoryStore, Store, seal


@pytest.fixture(params=["memory", "s3"])
def store(request: pytest.FixtureRequest) -> Store:
    """An empty store: each test of the seam runs on both."""
    if request.param == "memory":
        return MemoryStore()
    settings: S3Settings = request.getfixturevalue("s3_store_settings")
    return settings.store(f"test-{uuid.uuid4().hex}")


Make = Callable[..., tuple[Manifest, Path]]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Make a folder with files and the sealed manifest of the artifact in it."""

    def made(files: dict[str, bytes], kind: Kind = Kind.DATASET, **fields: object) -> tuple[Manifest, Path]:
        parents = fields.pop("parents", {})
        folder = tmp_path / f"made-{uuid.uuid4().hex}"
        for name, data in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        draft = Manifest.model_validate({"kind": kind, "created_by": "dataprep", **fields})
        return seal(draft, folder, parents), folder  # type: ignore[arg-type] # a mapping by the caller's word

    return made
