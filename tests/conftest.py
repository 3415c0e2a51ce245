"""What all rooms' tests share: one real object store a session, a fresh bucket a test."""

import uuid
from collections.abc import Iterator

import pytest

from tests.seaweed import S3Settings, seaweedfs
from tunewright.artifacts import S3Store


@pytest.fixture(scope="session")
def s3_store_settings() -> Iterator[S3Settings]:
    """Address and keys of a running SeaweedFS; `settings.environment(bucket)` tells a service of it."""
    with seaweedfs() as server:
        yield server.settings


@pytest.fixture
def s3_store(s3_store_settings: S3Settings) -> S3Store:
    """A store on a bucket of this test's own."""
    return s3_store_settings.store(f"test-{uuid.uuid4().hex}")
