"""The store on any S3 server: MinIO, SeaweedFS, a cloud's own. Knows nothing of artifacts.

Whole objects and create-only puts here; files travel through `upload.py` and `download.py`.
"""

from collections.abc import Iterator
from pathlib import Path

from tunewright.artifacts.download import download
from tunewright.artifacts.s3_client import S3Client
from tunewright.artifacts.store import ObjectInfo, Progress
from tunewright.artifacts.upload import upload


class S3Store:
    """Implements `store.Store`.

    A store that is down is reported within about 2 s, one that accepts connections and then hangs within about 45 s.

    Raises:
        ValueError: the endpoint is no plain http:// or https:// URL, or the bucket's name is none that S3 allows.
    """

    def __init__(
        self,
        endpoint_url: str,
        bucket: str,
        access_key: str,
        secret_key: str,
        region: str | None = None,
        ca_file: Path | None = None,
    ) -> None:
        self._client = S3Client(endpoint_url, bucket, access_key, secret_key, region, ca_file)

    def __repr__(self) -> str:
        return f"S3Store({self._client.endpoint_url!r}, {self._client.bucket!r})"

    def ensure_bucket(self) -> None:
        """Make the bucket if it is not there."""
        self._client.ensure_bucket()

    def put_bytes(self, key: str, data: bytes, *, create_only: bool = False) -> None:
        """See Store."""
        self._client.put(key, data, create_only=create_only)

    def get_bytes(self, key: str) -> bytes:
        """See Store."""
        return self._client.get(key)

    def stat(self, key: str) -> ObjectInfo | None:
        """See Store."""
        return self._client.stat(key)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See Store; sorted here, as SeaweedFS walks folders and so puts `a/b` before `a-b`."""
        return iter(sorted(self._client.list(prefix), key=lambda info: info.key))

    def delete(self, key: str) -> None:
        """See Store."""
        self._client.delete(key)

    def put_file(self, path: Path, key: str, *, sha256: str, progress: Progress | None = None) -> None:
        """See Store."""
        upload(self._client, path, key, sha256=sha256, progress=progress)

    def get_file(self, key: str, path: Path, *, size_bytes: int, sha256: str, progress: Progress | None = None) -> None:
        """See Store."""
        download(self._client, key, path, size_bytes=size_bytes, sha256=sha256, progress=progress)
