"""A real S3 store that is down, hangs, breaks off, is killed, refuses; a real disk that is full; a killed client."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.artifacts.conftest import Make
from tests.artifacts.wire import Wire, tls_relay, wire
from tests.seaweed import S3Settings, SeaweedFS, seaweedfs
from tunewright.artifacts import (
    S3Store,
    StoreUnavailable,
    commit,
    exists,
    fetch,
    file_sha256,
    s3_client,
)
from tunewright.artifacts.download import RANGE_BYTES
from tunewright.artifacts.upload import PART_BYTES

MIB = 1 << 20
SIZE = 72 * MIB + 12345
CALLS: dict[str, Callable[[S3Store], object]] = {
    "get": lambda store: store.get_bytes("key"),
    "put": lambda store: store.put_bytes("key", b""),
    "create": lambda store: store.put_bytes("key", b"", create_only=True),
    "stat": lambda store: store.stat("key"),
    "list": lambda store: list(store.list("key")),
    "delete": lambda store: store.delete("key"),
    "bucket": lambda store: store.ensure_bucket(),
    "file": lambda store: store.put_file(Path(__file__), "key", sha256=file_sha256(Path(__file__))),
}


@pytest.fixture
def bucket() -> str:
    return f"test-{uuid.uuid4().hex}"


@pytest.fixture
def line(s3_store_settings: S3Settings) -> Iterator[Wire]:
    """A wire to the store."""
    with wire(s3_store_settings.endpoint_url) as relay:
        yield relay


@pytest.fixture
def far(line: Wire, s3_store_settings: S3Settings, bucket: str) -> S3Store:
    """A store at the other end of the wire."""
    return S3Settings(line.url, s3_store_settings.access_key, s3_store_settings.secret_key).store(bucket)


@pytest.fixture
def big(tmp_path: Path) -> Path:
    """A file of many parts."""
    path = tmp_path / "big"
    path.write_bytes(os.urandom(SIZE))
    return path


@pytest.mark.parametrize("call", CALLS)
def test_a_store_that_is_down_is_reported_within_seconds_with_its_address(call: str) -> None:
    store = S3Store("http://127.0.0.1:9", "bucket", "access-1", "secret-2")
    begun = time.monotonic()
    with pytest.raises(StoreUnavailable, match=r"http://127\.0\.0\.1:9 cannot be reached") as caught:
        CALLS[call](store)
    assert time.monotonic() - begun < 5
    assert "secret-2" not in repr(caught.value) + repr(store)


def test_a_store_that_hangs_is_reported(
    monkeypatch: pytest.MonkeyPatch, line: Wire, s3_store_settings: S3Settings, bucket: str
) -> None:
    monkeypatch.setattr(s3_client, "READ_TIMEOUT_SECONDS", 0.5)
    store = S3Store(line.url, bucket, s3_store_settings.access_key, s3_store_settings.secret_key)
    store.ensure_bucket()
    line.frozen.set()
    begun = time.monotonic()
    with pytest.raises(StoreUnavailable, match="does not answer within"):
        store.put_bytes("key", b"")
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize(("access_key", "secret_key"), [("nobody", "some-secret"), ("tunewright-test", "wrong-secret")])
def test_wrong_credentials_are_reported_without_the_secret(
    s3_store_settings: S3Settings, access_key: str, secret_key: str
) -> None:
    store = S3Store(s3_store_settings.endpoint_url, "bucket", access_key, secret_key)
    with pytest.raises(StoreUnavailable, match=s3_store_settings.endpoint_url) as caught:
        store.put_bytes("key", b"")
    assert secret_key not in str(caught.value)


def test_a_missing_bucket_is_named(s3_store_settings: S3Settings) -> None:
    store = S3Store(
        s3_store_settings.endpoint_url, "no-such", s3_store_settings.access_key, s3_store_settings.secret_key
    )
    with pytest.raises(StoreUnavailable, match="no-such"):
        store.get_bytes("key")
    with pytest.raises(StoreUnavailable, match="no-such"):
        store.put_bytes("key", b"")


def test_a_server_that_is_no_store_is_reported(tmp_path: Path) -> None:
    serve = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(tmp_path)]
    with subprocess.Popen(serve, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout
        port = server.stdout.readline().split("port ")[1].split()[0]
        try:
            with pytest.raises(StoreUnavailable, match="HTTP status 501"):
                S3Store(f"http://127.0.0.1:{port}", "bucket", "a", "b").put_bytes("key", b"")
        finally:
            server.kill()


@pytest.mark.parametrize("url", ["127.0.0.1:9000", "ftp://host", "http://", "http://a:b@host", "http://host/path"])
def test_an_endpoint_that_is_no_plain_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="http://host:port"):
        S3Store(url, "bucket", "a", "b")


@pytest.mark.parametrize("after_bytes", [SIZE // 2, 100_000], ids=["in the middle", "before the first piece"])
def test_a_connection_that_breaks_on_its_way_is_survived(far: S3Store, line: Wire, big: Path, after_bytes: int) -> None:
    sha256 = file_sha256(big)
    far.put_file(big, "big", sha256=sha256)
    line.reset()
    line.cut(after_bytes=after_bytes)
    moved: list[int] = []
    far.get_file("big", big.with_name("copy"), size_bytes=SIZE, sha256=sha256, progress=moved.append)
    assert line.was_cut
    assert file_sha256(big.with_name("copy")) == sha256
    assert sum(moved) == SIZE, "the range goes on at the byte where it broke"


def client(line: Wire, settings: S3Settings, bucket: str, call: str) -> subprocess.Popen[bytes]:
    """Run one call on the store in a process of its own."""
    arguments = (line.url, bucket, settings.access_key, settings.secret_key)
    code = f"from pathlib import Path; from tunewright.artifacts import S3Store; S3Store{arguments!r}.{call}"
    return subprocess.Popen([sys.executable, "-c", code])


def kill_once(process: subprocess.Popen[bytes], reached: Callable[[], bool]) -> None:
    """Wait until something is reached, then kill -9."""
    deadline = time.monotonic() + 60
    while not reached():
        assert process.poll() is None, "ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def test_an_upload_that_was_killed_goes_on_with_the_parts_that_are_missing(
    far: S3Store, line: Wire, s3_store_settings: S3Settings, bucket: str, big: Path
) -> None:
    sha256 = file_sha256(big)
    process = client(line, s3_store_settings, bucket, f"put_file(Path({str(big)!r}), 'big', sha256={sha256!r})")
    kill_once(process, lambda: line.sent_bytes > 36 * MIB)
    assert far.stat("big") is None
    note = far.get_bytes("unfinished/big")
    assert sha256.encode() in note
    upload_id = note.split(b'"upload_id": "')[1].split(b'"')[0].decode()
    line.wait_until_quiet()
    there = sum(min(PART_BYTES, SIZE - (n - 1) * PART_BYTES) for n in far._client.list_parts("big", upload_id))
    assert there >= 2 * PART_BYTES
    line.reset()
    moved: list[int] = []
    far.put_file(big, "big", sha256=sha256, progress=moved.append)
    assert sum(moved) == SIZE - there
    assert SIZE - there <= line.sent_bytes < SIZE - there + MIB, "as counted on the wire"
    far.get_file("big", big.with_name("copy"), size_bytes=SIZE, sha256=sha256)
    assert [info.key for info in far.list("")] == ["big"]


def test_a_download_that_was_killed_goes_on_with_the_ranges_that_are_missing(
    far: S3Store, line: Wire, s3_store_settings: S3Settings, bucket: str, big: Path, tmp_path: Path
) -> None:
    sha256, target = file_sha256(big), tmp_path / "target" / "copy"
    far.put_file(big, "big", sha256=sha256)
    target.parent.mkdir()
    line.reset()
    call = f"get_file('big', Path({str(target)!r}), size_bytes={SIZE}, sha256={sha256!r})"
    kill_once(client(line, s3_store_settings, bucket, call), lambda: any_range(target))
    assert not target.exists(), "nothing half-written is ever taken for whole"
    (record,) = target.parent.glob(".*.ranges")
    there = sum(min(RANGE_BYTES, SIZE - int(n) * RANGE_BYTES) for n in record.read_text().split())
    assert there >= RANGE_BYTES
    line.reset()
    far.get_file("big", target, size_bytes=SIZE, sha256=sha256)
    assert SIZE - there <= line.received_bytes < SIZE - there + MIB, "as counted on the wire"
    assert file_sha256(target) == sha256
    assert [path.name for path in target.parent.iterdir()] == ["copy"]


def test_a_download_whose_first_half_was_damaged_meanwhile_starts_again(
    far: S3Store, line: Wire, s3_store_settings: S3Settings, bucket: str, big: Path, tmp_path: Path
) -> None:
    sha256, target = file_sha256(big), tmp_path / "target" / "copy"
    far.put_file(big, "big", sha256=sha256)
    target.parent.mkdir()
    line.reset()
    call = f"get_file('big', Path({str(target)!r}), size_bytes={SIZE}, sha256={sha256!r})"
    kill_once(client(line, s3_store_settings, bucket, call), lambda: any_range(target))
    (part,) = target.parent.glob(".*.part")
    index = int(next(target.parent.glob(".*.ranges")).read_text().split()[0])
    with part.open("r+b") as file:
        file.seek(index * RANGE_BYTES)
        file.write(b"not what was downloaded")
    far.get_file("big", target, size_bytes=SIZE, sha256=sha256)
    assert file_sha256(target) == sha256


def any_range(target: Path) -> bool:
    return any(path.stat().st_size for path in target.parent.glob(".*.ranges"))


def test_an_unfinished_upload_of_other_content_is_not_continued(
    far: S3Store, line: Wire, s3_store_settings: S3Settings, bucket: str, big: Path
) -> None:
    old = file_sha256(big)
    process = client(line, s3_store_settings, bucket, f"put_file(Path({str(big)!r}), 'big', sha256={old!r})")
    kill_once(process, lambda: line.sent_bytes > 36 * MIB)
    with big.open("r+b") as file:  # the first parts stay the same
        file.seek(SIZE - 10)
        file.write(b"other tail")
    new = file_sha256(big)
    far.put_file(big, "big", sha256=new)
    info = far.stat("big")
    assert info
    assert info.sha256 == new
    far.get_file("big", big.with_name("copy"), size_bytes=SIZE, sha256=new)


def test_two_writers_of_one_file_both_succeed(far: S3Store, big: Path) -> None:
    sha256 = file_sha256(big)
    failures: list[BaseException] = []

    def put() -> None:
        try:
            far.put_file(big, "big", sha256=sha256)
        except Exception as error:  # noqa: BLE001 - asserted below
            failures.append(error)

    threads = [threading.Thread(target=put) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    far.get_file("big", big.with_name("copy"), size_bytes=SIZE, sha256=sha256)


@pytest.fixture
def own_server() -> Iterator[SeaweedFS]:
    """A server that a test may kill."""
    with seaweedfs() as server:
        yield server


def test_a_store_that_is_killed_in_the_middle_of_a_commit_and_restarted_gets_the_rest(
    own_server: SeaweedFS, make: Make, tmp_path: Path
) -> None:
    store = own_server.settings.store("bucket")
    manifest, folder = make({"model.bin": os.urandom(SIZE), "config.json": b"{}"})
    first: list[int] = []

    def progress(count: int) -> None:
        first.append(count)
        if sum(first) > SIZE // 3:
            own_server.kill()

    with pytest.raises(StoreUnavailable, match=own_server.settings.endpoint_url):
        commit(store, manifest, folder, progress)
    own_server.start()
    assert not exists(store, manifest.ref)
    second: list[int] = []
    ref = commit(store, manifest, folder, second.append)
    assert sum(second) < SIZE - SIZE // 4
    assert fetch(store, ref, tmp_path / "out") == manifest
    assert (tmp_path / "out" / "model.bin").read_bytes() == (folder / "model.bin").read_bytes()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tunewright-test", str(disk)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a small disk needs the right to mount: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_an_artifact_that_does_not_fit_the_disk_is_not_begun(
    far: S3Store, line: Wire, make: Make, small_disk: Path
) -> None:
    manifest, folder = make({"a": os.urandom(5 * MIB), "b": os.urandom(5 * MIB)})
    ref = commit(far, manifest, folder)
    line.reset()
    with pytest.raises(OSError, match=f"{10 * MIB} bytes are needed and {8 * MIB} are free"):
        fetch(far, ref, small_disk / "out")
    assert line.received_bytes < MIB
    assert list((small_disk / "out").iterdir()) == []


def test_a_disk_that_fills_up_on_the_way_is_reported_and_given_back(
    s3_store: S3Store, small_disk: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(os.urandom(9 * MIB))
    sha256 = file_sha256(tmp_path / "file")
    s3_store.put_file(tmp_path / "file", "file", sha256=sha256)
    with pytest.raises(OSError, match=f"no room for a file of {9 * MIB} bytes") as caught:
        s3_store.get_file("file", small_disk / "copy", size_bytes=9 * MIB, sha256=sha256)
    assert caught.value.filename == str(small_disk / "copy")
    assert list(small_disk.iterdir()) == []
    assert shutil.disk_usage(small_disk).used == 0


def test_a_store_behind_tls_is_trusted_by_its_own_authority_only(
    s3_store_settings: S3Settings, bucket: str, tmp_path: Path
) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2", "-nodes"]
    request = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", *subject]
    subprocess.run([*request, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    known = s3_store_settings
    with tls_relay(known.endpoint_url, certificate, key) as url:
        trusting = S3Store(url, bucket, known.access_key, known.secret_key, ca_file=certificate)
        trusting.ensure_bucket()
        trusting.put_bytes("key", b"over TLS", create_only=True)
        assert trusting.get_bytes("key") == b"over TLS"
        with pytest.raises(StoreUnavailable, match="TLS handshake"):
            S3Store(url, bucket, known.access_key, known.secret_key).get_bytes("key")
