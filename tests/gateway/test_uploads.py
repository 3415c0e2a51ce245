"""Uploads in parts: put together in the order named, checked, thrown away when they are given up."""

import hashlib
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import httpx
import openai
import pytest
import sqlalchemy as sa

from tests.gateway.processes import BOOTSTRAP_KEY, Gateway
from tests.seaweed import S3Settings
from tunewright.artifacts.layout import part_key
from tunewright.chassis.errors import InvalidSpec
from tunewright.gateway.database import PARTS, UPLOADS, Database
from tunewright.gateway.http import uploads
from tunewright.gateway.http.errors import StorageFull
from tunewright.gateway.http.files import check_storage
from tunewright.gateway.http.state import State
from tunewright.gateway.keys import KeyRecord, Limits
from tunewright.gateway.upload_records import UploadRecords

ANNOUNCED = {"filename": "rows.jsonl", "bytes": 6, "mime_type": "text/jsonl", "purpose": "fine-tune"}


def part(client: httpx.Client, upload: str, data: bytes) -> httpx.Response:
    return client.post(f"/v1/uploads/{upload}/parts", files={"data": ("blob", data)})


def test_a_file_in_parts_is_whole_to_the_byte_by_openais_own_splitter(gateway: Gateway) -> None:
    data = os.urandom(50_000)
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=BOOTSTRAP_KEY, max_retries=0) as sdk:
        upload = sdk.uploads.upload_file_chunked(
            file=data,
            filename="parts.jsonl",
            bytes=len(data),
            mime_type="text/jsonl",
            purpose="fine-tune",
            part_size=16_384,
            md5=hashlib.md5(data, usedforsecurity=False).hexdigest(),
        )
        assert (upload.status, upload.bytes) == ("completed", len(data))
        assert upload.file is not None
        assert upload.file.filename == "parts.jsonl"
        assert sdk.files.content(upload.file.id).read() == data


def test_parts_stand_in_the_order_that_is_named_not_in_that_of_their_coming(gateway: Gateway) -> None:
    with gateway.client() as client:
        upload = client.post("/v1/uploads", json=ANNOUNCED).json()
        assert (upload["object"], upload["status"], upload["file"]) == ("upload", "pending", None)
        assert upload["expires_at"] == upload["created_at"] + 3600
        last, first = (part(client, upload["id"], data).json() for data in (b"def", b"abc"))
        assert (first["object"], first["upload_id"]) == ("upload.part", upload["id"])
        body = {"part_ids": [first["id"], last["id"]]}
        done = client.post(f"/v1/uploads/{upload['id']}/complete", json=body).json()
        assert client.get(f"/v1/files/{done['file']['id']}/content").content == b"abcdef"
        again = client.post(f"/v1/uploads/{upload['id']}/complete", json=body)
        assert again.status_code == httpx.codes.CONFLICT


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"bytes": 0}, "bytes"),
        ({"bytes": "6"}, "bytes"),
        ({"bytes": 10**12}, "bytes"),
        ({"filename": ""}, "filename"),
        ({"purpose": "wishes"}, "purpose"),
        ({"expires_after": {"anchor": "created_at", "seconds": 1}}, "expires_after.seconds"),
        ({"expires_after": {"anchor": "never", "seconds": 3600}}, "expires_after.anchor"),
        ({"wish": 1}, "wish"),
    ],
)
def test_a_wrong_announcement_is_refused_by_the_name_of_the_field(
    gateway: Gateway, change: dict[str, object], param: str
) -> None:
    with gateway.client() as client:
        answer = client.post("/v1/uploads", json={**ANNOUNCED, **change})
    assert answer.status_code == (413 if change == {"bytes": 10**12} else 400), answer.text
    assert answer.json()["error"]["param"] == param


def test_what_does_not_fit_together_is_refused_and_the_upload_goes_on(gateway: Gateway) -> None:
    with gateway.client() as client:
        upload = client.post("/v1/uploads", json=ANNOUNCED).json()["id"]
        first = part(client, upload, b"abc").json()["id"]
        wrong = {"md5": "0" * 32}
        for body, says in (
            ({"part_ids": [first]}, "3 bytes together"),
            ({"part_ids": ["part_none"]}, "no part 'part_none'"),
            ({"part_ids": []}, "part_ids"),
            ({"part_ids": [first, first], **wrong}, "MD5"),
        ):
            answer = client.post(f"/v1/uploads/{upload}/complete", json=body)
            assert answer.status_code == httpx.codes.BAD_REQUEST, answer.text
            assert says in answer.json()["error"]["message"]
        assert client.post(f"/v1/uploads/{upload}/complete", json={"part_ids": [first, first]}).status_code == 200


def test_a_cancelled_upload_takes_no_part_and_a_strangers_is_none(gateway: Gateway) -> None:
    with gateway.client() as client, gateway.client(gateway.key("upload-stranger", project="strangers")) as stranger:
        upload = client.post("/v1/uploads", json=ANNOUNCED).json()["id"]
        time.sleep(1.1)  # the file of keys is looked at once a second
        assert part(stranger, upload, b"abc").status_code == httpx.codes.NOT_FOUND
        assert stranger.post(f"/v1/uploads/{upload}/cancel").status_code == httpx.codes.NOT_FOUND
        complete = stranger.post(f"/v1/uploads/{upload}/complete", json={"part_ids": ["part_none"]})
        assert complete.status_code == httpx.codes.NOT_FOUND
        cancelled = client.post(f"/v1/uploads/{upload}/cancel").json()
        assert cancelled["status"] == "cancelled"
        assert part(client, upload, b"abc").status_code == httpx.codes.CONFLICT
        assert client.post(f"/v1/uploads/{upload}/cancel").status_code == httpx.codes.CONFLICT
        assert client.post("/v1/uploads/upload_none/cancel").status_code == httpx.codes.NOT_FOUND


def test_parts_beyond_what_was_announced_are_refused(gateway: Gateway) -> None:
    with gateway.client() as client:
        upload = client.post("/v1/uploads", json=ANNOUNCED).json()["id"]
        assert part(client, upload, b"abcd").status_code == httpx.codes.OK
        more = part(client, upload, b"efg")
        assert more.status_code == httpx.codes.BAD_REQUEST
        assert (more.json()["error"]["param"], "announced" in more.json()["error"]["message"]) == ("data", True)
        assert part(client, upload, b"ef").status_code == httpx.codes.OK


KEY = KeyRecord(id="k", name="k", created_at=0, salt="", sha256="", limits=Limits(storage_bytes=10))


def _announce(records: UploadRecords) -> str:
    return records.create(
        KEY, filename="rows.jsonl", bytes=6, purpose="fine-tune", mime_type="text/jsonl", file_expires_after=None
    )


def test_what_uploads_under_way_announced_counts_as_stored(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/db.sqlite")
    records = UploadRecords(database)
    files = SimpleNamespace(stored_bytes=lambda _: 0)
    state = cast("State", SimpleNamespace(parts=records, files=files))
    check_storage(state, KEY, 6)
    upload = _announce(records)
    with pytest.raises(StorageFull, match="uploads under way"):
        check_storage(state, KEY, 6)
    records.end(KEY.project, upload, "cancelled")
    check_storage(state, KEY, 6)


def test_the_parts_of_an_upload_that_expired_unseen_are_freed_with_their_records(
    tmp_path: Path, s3_store_settings: S3Settings
) -> None:
    database, store = Database(f"sqlite:///{tmp_path}/db.sqlite"), s3_store_settings.store("expired-uploads")
    records = UploadRecords(database)
    state = cast("State", SimpleNamespace(parts=records, store=store))
    upload = _announce(records)
    (tmp_path / "part").write_bytes(b"abc")
    made = uploads._keep_part(state, KEY.project, upload, tmp_path / "part")
    with database.write() as connection:
        connection.execute(UPLOADS.update().values(expires_at=0))
    assert records.get(KEY.project, upload).status == "expired", "marked by whoever looked at it first"
    assert [info.key for info in store.list(part_key(upload))] == [part_key(upload, made["id"])]
    assert records.overdue() == [upload]
    uploads._forget_parts(state, upload)
    assert list(store.list(part_key(upload))) == []
    assert records.overdue() == []
    with database.read() as connection:
        assert connection.execute(sa.select(PARTS)).all() == []


def test_a_part_that_does_not_fit_leaves_no_object(tmp_path: Path, s3_store_settings: S3Settings) -> None:
    database, store = Database(f"sqlite:///{tmp_path}/db.sqlite"), s3_store_settings.store("refused-parts")
    records = UploadRecords(database)
    upload = _announce(records)
    (tmp_path / "part").write_bytes(b"abcd")
    late = SimpleNamespace(check_room=lambda *_: None, add_part=records.add_part)  # both were looked at before one came
    state = cast("State", SimpleNamespace(parts=late, store=store))
    uploads._keep_part(state, KEY.project, upload, tmp_path / "part")
    with pytest.raises(InvalidSpec, match="announced"):
        uploads._keep_part(state, KEY.project, upload, tmp_path / "part")
    assert len(list(store.list(part_key(upload)))) == 1
