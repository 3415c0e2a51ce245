"""The rooms are called over mutual TLS when certificates are given, and every failure is one of our own errors."""

from pathlib import Path

import pytest

from tests.chassis.certificates import make_certificates
from tests.gateway.processes import Process, room
from tunewright.chassis.errors import InvalidSpec, NotFound, Unavailable
from tunewright.gateway.clients import Room, Rooms
from tunewright.gateway.settings import GatewaySettings
from tunewright.v1 import merging_pb2


def _rooms(address: str, **more: object) -> Rooms:
    return Rooms(GatewaySettings(merger_address=address, **more))  # type: ignore[arg-type] # by name


def test_a_room_behind_mutual_tls_answers_only_who_has_a_certificate(
    store_environment: dict[str, str], tmp_path: Path
) -> None:
    files = make_certificates(tmp_path / "tls")
    tls = {"tls_cert": files.cert, "tls_key": files.key, "tls_ca": files.ca}
    environment = {f"TUNEWRIGHT_{name.upper()}": str(path) for name, path in tls.items()}
    process = room("merger", store_environment | environment, tmp_path / "merger")
    try:
        process.start()
        with_certificate, without = _rooms(process.addresses["grpc"], **tls), _rooms(process.addresses["grpc"])
        assert with_certificate.condition(Room.MERGER) == "ok"
        assert "does not answer" in without.condition(Room.MERGER)
        with_certificate.close()
        without.close()
    finally:
        process.kill()


def test_a_rooms_own_errors_arrive_whole(rooms: dict[str, Process]) -> None:
    stubs = _rooms(rooms["merger"].addresses["grpc"])
    spec = merging_pb2.ImportSpec(source="nothing")
    with pytest.raises(InvalidSpec, match="no such model") as wrong:
        stubs.call(Room.MERGER, stubs.merging.SubmitImport, merging_pb2.SubmitImportRequest(spec=spec))
    assert [(v.field, v.description) for v in wrong.value.violations] == [("source", "no model 'nothing'")]
    down = merging_pb2.ImportSpec(source="hub/down")
    with pytest.raises(Unavailable, match=r"^the hub does not answer$"):
        stubs.call(Room.MERGER, stubs.merging.SubmitImport, merging_pb2.SubmitImportRequest(spec=down))
    with pytest.raises(NotFound):
        stubs.get_job(Room.MERGER, "none")
    with pytest.raises(NotFound):
        list(stubs.watch(Room.MERGER, "none", 0))
    stubs.close()


def test_a_room_that_is_not_there_is_named_with_its_address() -> None:
    stubs = _rooms("127.0.0.1:1")
    with pytest.raises(Unavailable, match=r"^merger at 127\.0\.0\.1:1 does not answer"):
        stubs.get_job(Room.MERGER, "any")
    stubs.close()
