"""minio-py behind one narrow door: the S3 calls this room needs, and the ONE place that maps foreign errors.

minio-py 7.2.20 offers neither conditional puts nor single multipart calls in its public interface, so the underscored
methods it is built from are used, here and nowhere else; `requirements/` pins it. Knows nothing of artifacts.
"""

import http
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit

import certifi
import urllib3
from minio import Minio
from minio.datatypes import Part
from minio.error import InvalidResponseError, MinioException, S3Error, ServerError
from minio.helpers import check_bucket_name

from tunewright.artifacts.errors import BrokenOff, ObjectExists, ObjectNotFound, StoreUnavailable
from tunewright.artifacts.store import ObjectInfo

CONNECT_TIMEOUT_SECONDS = 3.0
READ_TIMEOUT_SECONDS = 20.0
_SHA256_HEADER = "x-amz-meta-sha256"
_READ_BYTES = 1 << 20
_REGION = "us-east-1"  # what MinIO, SeaweedFS and most others answer; saves a request whose right is often not granted

_Headers: TypeAlias = dict[str, str | list[str] | tuple[str]]


class UploadGone(Exception):
    """The multipart upload was finished or aborted by somebody else."""


class S3Client:
    """One bucket of one S3 server; safe for threads, not for forks."""

    def __init__(
        self, endpoint_url: str, bucket: str, access_key: str, secret_key: str, region: str | None, ca_file: Path | None
    ) -> None:
        url = urlsplit(endpoint_url)
        if url.scheme not in {"http", "https"} or not url.hostname or url.path.strip("/") or "@" in url.netloc:
            raise ValueError("the store's endpoint must look like http://host:port or https://host:port, nothing more")
        check_bucket_name(bucket)
        self.endpoint_url, self.bucket = f"{url.scheme}://{url.netloc}", bucket

        def client(retries: urllib3.Retry) -> Minio:
            """Return a client of the bucket's server that tries again as told."""
            pool = urllib3.PoolManager(
                maxsize=32,
                retries=retries,
                timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT_SECONDS, read=READ_TIMEOUT_SECONDS),
                cert_reqs="CERT_REQUIRED",
                ca_certs=str(ca_file) if ca_file else certifi.where(),
            )
            secure = url.scheme == "https"
            return Minio(url.netloc, access_key, secret_key, secure=secure, region=region or _REGION, http_client=pool)

        self._client = client(
            urllib3.Retry(total=3, connect=3, read=1, backoff_factor=0.2, status_forcelist=[500, 502, 503, 504])
        )
        # A create-only put must not be repeated unseen: the second would find what the first wrote and lose.
        self._client_once = client(urllib3.Retry(total=0))

    @contextmanager
    def mapped(self, key: str = "") -> Iterator[None]:
        """Turn every error of minio-py and urllib3 into one of this room's, naming the endpoint and no secret."""
        try:
            yield
        except S3Error as error:
            raise self._from_s3(error, key) from error
        except InvalidResponseError as error:
            raise self._unavailable(f"answers with HTTP status {error._code}, not as S3 does") from error  # noqa: SLF001
        except ServerError as error:
            raise self._unavailable(f"answers with HTTP status {error.status_code}") from error
        except urllib3.exceptions.HTTPError as error:
            raise self._unavailable(_connection_trouble(error)) from error
        except MinioException as error:
            raise self._unavailable(str(error)) from error

    def ensure_bucket(self) -> None:
        """Make the bucket if it is not there."""
        with self.mapped():
            if self._client.bucket_exists(self.bucket):
                return
            try:
                self._client.make_bucket(self.bucket)
            except S3Error as error:
                if error.code not in {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}:
                    raise

    def put(self, key: str, data: bytes, *, sha256: str | None = None, create_only: bool = False) -> None:
        """Write an object in one request. Raises ObjectExists if `create_only` and the key is taken."""
        headers: _Headers = {"Content-Type": "application/octet-stream"}
        if sha256:
            headers[_SHA256_HEADER] = sha256
        if create_only:
            headers["If-None-Match"] = "*"
        client = self._client_once if create_only else self._client
        with self.mapped(key):
            client._put_object(self.bucket, key, data, headers)  # noqa: SLF001

    def get(self, key: str) -> bytes:
        """Return a whole object. Raises ObjectNotFound."""
        return b"".join(self.read(key))

    def read(self, key: str, start: int = 0, length: int = 0) -> Iterator[bytes]:
        """Yield an object's bytes, or `length` of them from `start` on, in pieces of at most 1 MiB.

        Raises:
            BrokenOff: the connection broke on the way; bytes that came since the last piece are lost.
        """
        with self.mapped(key):
            response = self._client.get_object(self.bucket, key, offset=start, length=length)
            try:
                yield from response.stream(_READ_BYTES)
            except urllib3.exceptions.ProtocolError as error:
                raise BrokenOff(str(self._unavailable(_connection_trouble(error)))) from error
            finally:
                response.close()
                response.release_conn()

    def stat(self, key: str) -> ObjectInfo | None:
        """Return size and recorded checksum, None if there is no such object."""
        try:
            with self.mapped(key):
                found = self._client.stat_object(self.bucket, key)
        except ObjectNotFound:
            return None
        headers: Mapping[str, str] = found.metadata or {}
        return ObjectInfo(key, found.size or 0, headers.get(_SHA256_HEADER))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield all objects below `prefix`, as the server orders them."""
        with self.mapped(prefix):
            for found in self._client.list_objects(self.bucket, prefix=prefix, recursive=True):
                yield ObjectInfo(found.object_name or "", found.size or 0)

    def delete(self, key: str) -> None:
        """Remove an object; silent if there is none."""
        with self.mapped(key):
            self._client.remove_object(self.bucket, key)

    def begin_upload(self, key: str, sha256: str) -> str:
        """Begin a multipart upload and return its id; the checksum becomes the object's."""
        with self.mapped(key):
            headers: _Headers = {_SHA256_HEADER: sha256}
            return str(self._client._create_multipart_upload(self.bucket, key, headers))  # noqa: SLF001

    def put_part(self, key: str, upload_id: str, number: int, data: bytes) -> str:
        """Write part `number` (from 1 on) and return its ETag. Raises UploadGone."""
        with self.mapped(key), _gone():
            return str(self._client._upload_part(self.bucket, key, data, None, upload_id, number))  # noqa: SLF001

    def list_parts(self, key: str, upload_id: str) -> dict[int, str]:
        """Return number → ETag of the parts that the server holds. Raises UploadGone."""
        parts: dict[int, str] = {}
        marker: str | None = None
        with self.mapped(key), _gone():
            while True:
                page = self._client._list_parts(  # noqa: SLF001
                    self.bucket, key, upload_id, part_number_marker=marker
                )
                parts |= {part.part_number: part.etag for part in page.parts}
                if not page.is_truncated or not page.parts:
                    return parts
                marker = str(page.parts[-1].part_number)

    def complete_upload(self, key: str, upload_id: str, parts: Mapping[int, str]) -> None:
        """Turn the parts into the object. Raises UploadGone."""
        ordered = [Part(number, parts[number]) for number in sorted(parts)]
        with self.mapped(key), _gone():
            self._client._complete_multipart_upload(self.bucket, key, upload_id, ordered)  # noqa: SLF001

    def abort_upload(self, key: str, upload_id: str) -> None:
        """Forget the parts; silent if the upload is gone."""
        try:
            with self.mapped(key), _gone():
                self._client._abort_multipart_upload(self.bucket, key, upload_id)  # noqa: SLF001
        except UploadGone:
            pass

    def _from_s3(self, error: S3Error, key: str) -> Exception:
        status = error.response.status if error.response is not None else math.nan
        if error.code in {"NoSuchKey", "NoSuchObject"}:
            return ObjectNotFound(key)
        if error.code == "PreconditionFailed" or status == http.HTTPStatus.PRECONDITION_FAILED:
            return ObjectExists(key)
        if error.code == "NoSuchBucket":
            return self._unavailable(f"has no bucket {self.bucket!r}")
        return self._unavailable(f"refuses {key or self.bucket!r}: {error.code}: {error.message}")

    def _unavailable(self, what: str) -> StoreUnavailable:
        return StoreUnavailable(f"the object store at {self.endpoint_url} {what}")


@contextmanager
def _gone() -> Iterator[None]:
    try:
        yield
    except S3Error as error:
        if error.code == "NoSuchUpload":
            raise UploadGone from error
        raise


def _connection_trouble(error: urllib3.exceptions.HTTPError) -> str:
    reason = getattr(error, "reason", None) or error
    match reason:
        case urllib3.exceptions.NewConnectionError() | urllib3.exceptions.ConnectTimeoutError():
            return "cannot be reached"
        case urllib3.exceptions.ReadTimeoutError():
            return f"does not answer within {READ_TIMEOUT_SECONDS:.0f} s"
        case urllib3.exceptions.SSLError():
            return f"fails the TLS handshake: {reason}"
        case urllib3.exceptions.ResponseError():
            return f"keeps failing: {reason}"
        case _:
            return f"broke the connection: {type(reason).__name__}"
