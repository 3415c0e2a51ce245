"""Files: streamed in, kept as artifacts, given back byte for byte."""

import os
import re
import socket
import sqlite3

import httpx
import pytest

from tests.gateway.processes import BOOTSTRAP_KEY, Gateway, recipe
from tunewright.gateway.http.multipart import safe_name

PURPOSE = {"purpose": "fine-tune"}


def test_a_file_comes_back_byte_for_byte_with_its_name_and_size(gateway: Gateway) -> None:
    data = os.urandom(80_000) + b"\r\n--x\r\n" + "人".encode()
    with gateway.client() as client:
        made = client.post("/v1/files", data=PURPOSE, files={"file": ("Rows 1.jsonl", data)}).json()
        assert re.fullmatch(r"file-[0-9a-f]{64}", made["id"])
        assert (made["object"], made["bytes"], made["filename"]) == ("file", len(data), "Rows 1.jsonl")
        assert (made["purpose"], made["status"]) == ("fine-tune", "processed")
        assert client.get(f"/v1/files/{made['id']}").json() == made
        content = client.get(f"/v1/files/{made['id']}/content")
        assert content.content == data
        assert content.headers["content-type"] == "application/octet-stream"
        assert content.headers["content-disposition"].startswith("attachment;")


def test_the_same_bytes_under_the_same_name_are_the_same_file(gateway: Gateway) -> None:
    assert gateway.upload("same", "a.jsonl") == gateway.upload("same", "a.jsonl")
    assert gateway.upload("same", "a.jsonl") != gateway.upload("same", "b.jsonl")


def test_files_are_listed_in_pages_and_gone_after_a_delete(gateway: Gateway) -> None:
    ids = {gateway.upload(f"page {n}", f"page{n}.jsonl") for n in range(3)}
    listed = gateway.get("/v1/files", limit=2)
    assert listed["has_more"] is True
    rest = gateway.get("/v1/files", after=listed["last_id"])
    assert ids <= {item["id"] for item in listed["data"] + rest["data"]}
    gone = ids.pop()
    with gateway.client() as client:
        assert client.delete(f"/v1/files/{gone}").json() == {"id": gone, "object": "file", "deleted": True}
        assert client.get(f"/v1/files/{gone}").status_code == httpx.codes.NOT_FOUND
        assert client.delete(f"/v1/files/{gone}").status_code == httpx.codes.NOT_FOUND
    assert gone not in {item["id"] for item in gateway.get("/v1/files")["data"]}


def test_a_file_that_a_run_reads_cannot_be_deleted(gateway: Gateway) -> None:
    file_id = gateway.upload("kept\n", "kept.jsonl")
    run_id = gateway.submit(recipe("reading-bot", file_id, training={"max_steps": 300, "seed": 700}))
    with gateway.client() as client:
        refused = client.delete(f"/v1/files/{file_id}")
        assert refused.status_code == httpx.codes.CONFLICT
        assert run_id in refused.json()["error"]["message"]
        client.post(f"/v1/runs/{run_id}/cancel")
        gateway.wait(run_id, "cancelled")
        assert client.delete(f"/v1/files/{file_id}").status_code == httpx.codes.OK


@pytest.mark.parametrize("declared", [True, False])
def test_a_file_above_the_limit_is_413_before_and_while_it_is_read(gateway: Gateway, *, declared: bool) -> None:
    data = b"x" * 400_000
    body = b'--b\r\nContent-Disposition: form-data; name="file"; filename="big"\r\n\r\n' + data + b"\r\n--b--\r\n"
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    with gateway.client() as client:
        content = body if declared else (body[at : at + 8192] for at in range(0, len(body), 8192))
        answer = client.post("/v1/files", content=content, headers=headers)
    assert answer.status_code == httpx.codes.REQUEST_ENTITY_TOO_LARGE
    assert "100000 bytes" in answer.json()["error"]["message"]
    assert answer.json()["error"]["param"] == "file"


@pytest.mark.parametrize(
    ("fields", "files", "param"),
    [
        ({"purpose": "wishes"}, {"file": ("a.jsonl", b"x")}, "purpose"),
        ({}, {"file": ("a.jsonl", b"x")}, "purpose"),
        (PURPOSE, {"other": ("a.jsonl", b"x")}, "file"),
        (PURPOSE, {"file": ("a.jsonl", b"")}, "file"),
        (PURPOSE, None, None),
    ],
)
def test_a_wrong_form_is_400_and_names_the_field(
    gateway: Gateway, fields: dict[str, str], files: dict[str, tuple[str, bytes]] | None, param: str | None
) -> None:
    with gateway.client() as client:
        answer = client.post("/v1/files", data=fields, files=files)
    assert answer.status_code == httpx.codes.BAD_REQUEST, answer.text
    assert answer.json()["error"]["param"] == param


@pytest.mark.parametrize("body", [b"nonsense", b"--b\r\nbroken", b"--b\r\n\r\n\r\n--b", b""])
def test_a_damaged_form_is_400(gateway: Gateway, body: bytes) -> None:
    with gateway.client() as client:
        answer = client.post("/v1/files", content=body, headers={"Content-Type": "multipart/form-data; boundary=b"})
    assert answer.status_code == httpx.codes.BAD_REQUEST


def test_an_upload_that_breaks_off_leaves_no_file_and_no_scratch(gateway: Gateway) -> None:
    before = {item["id"] for item in gateway.get("/v1/files")["data"]}
    host, port = gateway.addresses["http"].split(":")
    head = (
        f"POST /v1/files HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {BOOTSTRAP_KEY}\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 50000\r\n\r\n"
        '--b\r\nContent-Disposition: form-data; name="file"; filename="half"\r\n\r\nhalf of it'
    )
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode())
    gateway.upload("after", "after.jsonl")
    assert "half" not in {item["filename"] for item in gateway.get("/v1/files")["data"] if item["id"] not in before}
    assert list((gateway.folder / "work" / "uploads").iterdir()) == []


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\rows.jsonl", "rows.jsonl"),
        ("..", "upload"),
        (".hidden", "hidden"),
        ("a\x00b\n.txt", "a_b_.txt"),
        ("问题.jsonl", "问题.jsonl"),
        ("x" * 400 + ".jsonl", "x" * 194 + ".jsonl"),
    ],
)
def test_a_files_name_never_leaves_its_folder(given: str, plain: str) -> None:
    assert safe_name(given) == plain


def test_a_file_expires_when_it_was_told_to(gateway: Gateway) -> None:
    def send(anchor: str, seconds: str) -> httpx.Response:
        data = {**PURPOSE, "expires_after[anchor]": anchor, "expires_after[seconds]": seconds}
        return client.post("/v1/files", data=data, files={"file": ("short.jsonl", b"short-lived")})

    with gateway.client() as client:
        made = send("created_at", "3600").json()
        assert made["expires_at"] == pytest.approx(made["created_at"] + 3600, abs=1)
        for anchor, seconds, param in (
            ("created_at", "3599", "expires_after.seconds"),
            ("created_at", "soon", "expires_after.seconds"),
            ("last_active_at", "3600", "expires_after.anchor"),
        ):
            refused = send(anchor, seconds)
            assert refused.status_code == httpx.codes.BAD_REQUEST
            assert refused.json()["error"]["param"] == param
    with sqlite3.connect(gateway.folder / "gateway.sqlite") as database:
        database.execute("UPDATE gateway_files SET expires_at = 1 WHERE id = ?", [made["id"]])
    with gateway.client() as client:
        assert client.get(f"/v1/files/{made['id']}").status_code == httpx.codes.NOT_FOUND
        assert made["id"] not in {item["id"] for item in client.get("/v1/files").json()["data"]}


def test_files_are_listed_by_purpose_and_in_either_order(gateway: Gateway) -> None:
    with gateway.client() as client:
        for number in range(2):
            files = {"file": (f"eval{number}.jsonl", b"%d" % number)}
            assert client.post("/v1/files", data={"purpose": "evals"}, files=files).is_success
        down = [item["filename"] for item in client.get("/v1/files", params={"purpose": "evals"}).json()["data"]]
        up = client.get("/v1/files", params={"purpose": "evals", "order": "asc", "limit": 1}).json()
    assert sorted(down) == ["eval0.jsonl", "eval1.jsonl"]
    assert up["data"][0]["filename"] == down[-1]
    assert (up["first_id"], up["last_id"], up["has_more"]) == (up["data"][0]["id"], up["data"][0]["id"], True)
