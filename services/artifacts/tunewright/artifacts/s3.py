"""The store on any S3 server: MinIO, SeaweedFS, a cloud's own. Knows nothing of artifacts.

Whole objects and create-only puts here; files travel through `upload.py` and `download.py`.
"""

from collections.abc import Iterator
from pathlib import Path

from tunewright.artifacts.local import check_sha256, check_size, holds, part_path
from tunewright.artifacts.manifest import bytes_sha256, file_sha256
from tunewright.artifacts.s3_client import S3Client
from tunewright.artifacts.store import ObjectInfo, Progress


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
        if self.stat(key) == ObjectInfo(key, path.stat().st_size, sha256):
            return
        data = path.read_bytes()
        check_sha256(path, bytes_sha256(data), sha256)
        self._client.put(key, data, sha256=sha256)
        if progress:
            progress(len(data))

    def get_file(self, key: str, path: Path, *, size_bytes: int, sha256: str, progress: Progress | None = None) -> None:
        """See Store."""
        if holds(path, size_bytes, sha256):
            return
        partial = part_path(path, sha256)
        with partial.open("wb") as file:
            for piece in self._client.read(key):
                file.write(piece)
                if progress:
                    progress(len(piece))
        check_size(key, partial.stat().st_size, size_bytes)
        check_sha256(key, file_sha256(partial), sha256)
        partial.replace(path)
