"""Data below a prefix of a real S3 store goes the way of local folders; keys are seen nowhere."""

import re
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.artifacts.wire import wire
from tests.cli.gateway_server import Script, gateway_server
from tests.cli.shell import tunewright
from tests.seaweed import S3Settings
from tunewright.artifacts import IntegrityError, S3Store
from tunewright.artifacts.foreign_objects import copy
from tunewright.artifacts.s3_client import S3Client
from tunewright.cli.errors import CliError
from tunewright.cli.objects import MAX_UPLOAD_BYTES, ObjectFiles, find_objects, stack_store
from tunewright.cli.stack.folder import ServiceStatus, StackFolder, StackStatus
from tunewright.gateway.settings import GatewaySettings

OBJECTS = {
    "corpus/b/2.jsonl": b'{"text": "two"}\n',
    "corpus/1.txt": b"one",
    "corpus/b/1.csv.gz": b"packed",
    "corpus/paper.pdf": b"%PDF",
    "corpus/empty.md": b"",
    "corpus/.hidden/4.txt": b"four",
    "corpus-of-others/5.txt": b"five",
    "corpus.txt": b"six",
}


@pytest.fixture
def bucket(s3_store_settings: S3Settings) -> str:
    """A bucket that holds the objects."""
    name = f"test-{uuid.uuid4().hex}"
    store = s3_store_settings.store(name)
    for key, data in OBJECTS.items():
        store.put_bytes(key, data)
    return name


Find = Callable[[str], ObjectFiles]


@pytest.fixture
def find(s3_store_settings: S3Settings, monkeypatch: pytest.MonkeyPatch) -> Find:
    """Find objects, as where no variable tells of a store."""
    for name in ("ENDPOINT", "BUCKET", "ACCESS_KEY", "SECRET_KEY"):
        monkeypatch.delenv(f"TUNEWRIGHT_STORE_{name}", raising=False)
    store = s3_store_settings.environment("of-the-stack")
    return lambda address: find_objects(address, store)


def test_a_prefix_is_what_a_folder_is(find: Find, bucket: str) -> None:
    for address in (f"s3://{bucket}/corpus/", f"s3://{bucket}/corpus"):
        found = find(address)
        assert found.objects == [("corpus/1.txt", 3), ("corpus/b/1.csv.gz", 6), ("corpus/b/2.jsonl", 16)]
        assert found.skipped == ["empty.md (empty)", "paper.pdf (no data by its name)"]
        assert found.words().startswith(f"{address}: 3 files, 0.0 MB; left out: empty.md (empty)")
    assert [path.read_bytes() for path in found.local()] == [b"one", b"packed", b'{"text": "two"}\n']
    assert find(f"s3://{bucket}/corpus.txt").objects == [("corpus.txt", 3)]
    assert not find(f"s3://{bucket}/corpus.txt").is_folder


def test_only_one_object_is_on_the_disk_at_a_time(find: Find, bucket: str) -> None:
    seen: list[Path] = []
    for path in find(f"s3://{bucket}/corpus/").local():
        assert not any(earlier.exists() for earlier in seen)
        seen.append(path)
    assert [path.name for path in seen] == ["1.txt", "1.csv.gz", "2.jsonl"]
    assert not any(path.exists() for path in seen)


def test_what_cannot_be_read_is_told_with_a_remedy(
    find: Find, bucket: str, s3_store_settings: S3Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for address, words in (
        (f"s3://{bucket}/nothing/", "holds no data file"),
        ("s3://no-such-bucket-here/x/", "has no bucket 'no-such-bucket-here'"),
        ("s3:///corpus", "names no bucket"),
    ):
        with pytest.raises(CliError, match=re.escape(words)) as caught:
            find(address)
        assert s3_store_settings.secret_key not in f"{caught.value.message} {caught.value.remedy}"
    monkeypatch.setenv("TUNEWRIGHT_MAX_UPLOAD_BYTES", "10")
    with pytest.raises(CliError, match=r"corpus/b/2\.jsonl holds 16 B; the gateway takes 10 B a file"):
        find(f"s3://{bucket}/corpus/")
    with pytest.raises(CliError, match="no keys are known for s3://") as caught:
        find_objects(f"s3://{bucket}/corpus/", {})
    assert "TUNEWRIGHT_STORE_ACCESS_KEY" in caught.value.remedy
    wrong = s3_store_settings.environment(bucket) | {"TUNEWRIGHT_STORE_SECRET_KEY": "not-the-right-one"}
    with pytest.raises(CliError, match="refuses") as caught:
        find_objects(f"s3://{bucket}/corpus/", wrong)
    assert "not-the-right-one" not in f"{caught.value.message} {caught.value.remedy} {caught.value.lines}"


def test_an_object_that_changed_since_it_was_listed_is_told(
    find: Find, bucket: str, s3_store_settings: S3Settings
) -> None:
    found = find(f"s3://{bucket}/corpus/")
    s3_store_settings.store(bucket).put_bytes("corpus/b/1.csv.gz", b"longer than it was")
    paths = found.local()
    assert next(paths).name == "1.txt"
    with pytest.raises(CliError, match=re.escape("corpus/b/1.csv.gz has changed since it was listed")):
        next(paths)


def test_a_run_uploads_what_lies_below_a_prefix(s3_store_settings: S3Settings, bucket: str, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"name: bot\nbase_model: tiny\ndata:\n  - path: s3://{bucket}/corpus/\n    weight: 2\n")
    script = Script()
    variables: dict[str, Any] = {**s3_store_settings.environment("another")}
    with gateway_server(script) as url:
        done = tunewright("run", str(recipe), "--detach", url=url, **variables)
    assert (done.returncode, done.stderr) == (0, "")
    assert script.uploads == [b"one", b"packed", b'{"text": "two"}\n']
    (sent,) = script.recipes
    assert sent["data"] == [{"name": f"s3://{bucket}/corpus", "weight": 2, "file": f"file-{'f' * 64}"}] * 3
    assert s3_store_settings.secret_key not in done.stdout


def test_a_copy_goes_on_where_the_connection_broke(
    s3_store_settings: S3Settings, s3_store: S3Store, tmp_path: Path
) -> None:
    data = bytes(range(256)) * (4 << 12)
    s3_store.put_bytes("big", data)
    bucket = re.search(r"test-\w+", repr(s3_store))
    assert bucket is not None
    with wire(s3_store_settings.endpoint_url) as line:
        keys = s3_store_settings.access_key, s3_store_settings.secret_key
        client = S3Client(line.url, bucket[0], *keys, None, None)
        line.cut(after_bytes=len(data) // 2)
        copy(client, "big", tmp_path / "big", len(data))
        assert line.was_cut
        assert line.received_bytes < 1.3 * len(data), "what had come was not fetched again"
        assert (tmp_path / "big").read_bytes() == data
        with pytest.raises(IntegrityError, match=f"holds {len(data)} bytes, 5 are expected"):
            copy(client, "big", tmp_path / "other", 5)


def test_a_local_stacks_own_store_is_known(tmp_path: Path) -> None:
    folder = StackFolder(tmp_path / "stack")
    assert stack_store(None) == stack_store(folder) == {}
    config = folder.create()
    assert stack_store(folder) == {}
    folder.write_status(StackStatus(services={"store": ServiceStatus(addresses={"s3": "127.0.0.1:8333"})}))
    assert stack_store(folder) == {
        "TUNEWRIGHT_STORE_ENDPOINT": "http://127.0.0.1:8333",
        "TUNEWRIGHT_STORE_ACCESS_KEY": config.store_access_key,
        "TUNEWRIGHT_STORE_SECRET_KEY": config.store_secret_key,
    }


def test_an_object_may_be_as_large_as_the_gateway_takes_a_file() -> None:
    assert GatewaySettings.model_fields["max_upload_bytes"].default == MAX_UPLOAD_BYTES
