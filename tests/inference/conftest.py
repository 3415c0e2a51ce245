"""One inference service a session, on a real store, with real engines. Tests of one file run in order and share it."""

import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.inference.service_process import ServiceProcess
from tests.seaweed import S3Settings
from tunewright.artifacts import ArtifactRef, Kind, Manifest, S3Store, seal
from tunewright.artifacts.transfer import commit

_ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the models and the adapter of `model_folders`."""
    target = tmp_path_factory.mktemp("folders")
    command = [sys.executable, "-m", "tests.inference.model_folders", str(target)]
    subprocess.run(command, check=True, cwd=_ROOT, capture_output=True)
    return target


@pytest.fixture(scope="session")
def bucket() -> str:
    return f"inference-{uuid.uuid4().hex}"


@pytest.fixture(scope="session")
def store(s3_store_settings: S3Settings, bucket: str) -> S3Store:
    return s3_store_settings.store(bucket)


@pytest.fixture(scope="session")
def refs(store: S3Store, folders: Path) -> dict[str, ArtifactRef]:
    """Name → artifact in the store; the adapter's parent is the golden model."""
    found = {name: _commit(store, folders / name, Kind.MODEL, {}) for name in ("golden", "foreign", "damaged")}
    found["adapter"] = _commit(store, folders / "adapter", Kind.ADAPTER, {"base": found["golden"]})
    return found


@pytest.fixture(scope="session")
def service(
    s3_store_settings: S3Settings, bucket: str, store: S3Store, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServiceProcess]:
    """A running service; whatever a test does to it, nothing of it is left in the end."""
    assert store  # makes the bucket
    found = ServiceProcess(tmp_path_factory.mktemp("inference"), s3_store_settings.environment(bucket))
    found.start()
    yield found
    found.kill()


def _commit(store: S3Store, folder: Path, kind: Kind, parents: dict[str, ArtifactRef]) -> ArtifactRef:
    manifest = seal(Manifest(kind=kind, created_by="test"), folder, parents)
    return commit(store, manifest, folder)
