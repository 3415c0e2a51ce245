"""Uploads in parts: put together in the order named, checked, thrown away when they are given up."""

import hashlib
import os

import httpx
import openai
import pytest

from tests.gateway.processes import BOOTSTRAP_KEY, Gateway

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
        assert part(stranger, upload, b"abc").status_code in {401, 404}  # 401 until the ring has read the new key
        cancelled = client.post(f"/v1/uploads/{upload}/cancel").json()
        assert cancelled["status"] == "cancelled"
        assert part(client, upload, b"abc").status_code == httpx.codes.CONFLICT
        assert client.post(f"/v1/uploads/{upload}/cancel").status_code == httpx.codes.CONFLICT
        assert client.post("/v1/uploads/upload_none/cancel").status_code == httpx.codes.NOT_FOUND
