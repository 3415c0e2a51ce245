"""Rooms and a gateway as real processes, shared by the session; tests that kill start their own."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.gateway.processes import Gateway, Process, room
from tests.postgres import postgresql
from tests.seaweed import S3Settings

MakeGateway = Callable[..., Gateway]
ROOMS = ("dataprep", "trainer", "merger", "evaluator", "inference")


@pytest.fixture(scope="session")
def store_environment(s3_store_settings: S3Settings) -> dict[str, str]:
    s3_store_settings.store("gateway")
    return s3_store_settings.environment("gateway")


@pytest.fixture(scope="session")
def rooms(store_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Process]]:
    folder = tmp_path_factory.mktemp("rooms")
    started = {name: room(name, store_environment, folder / name) for name in ROOMS}
    try:
        for process in started.values():
            process.launch()
        for process in started.values():
            process.wait_until_ready()
        yield started
    finally:
        for process in started.values():
            process.kill()


@pytest.fixture(scope="session")
def gateway(
    rooms: dict[str, Process], store_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """One gateway on SQLite with small limits."""
    limits = {"max_upload_bytes": "100000", "max_body_bytes": "50000", "log_level": "DEBUG"}
    process = Gateway(rooms, store_environment, tmp_path_factory.mktemp("gateway"), **limits)
    try:
        process.start()
        yield process
    finally:
        process.kill()


@pytest.fixture
def make_gateway(rooms: dict[str, Process], store_environment: dict[str, str], tmp_path: Path) -> Iterator[MakeGateway]:
    """Start gateways of this test's own."""
    made: list[Gateway] = []

    def make(**settings: str) -> Gateway:
        made.append(Gateway(rooms, store_environment, tmp_path / f"gateway-{len(made)}", **settings))
        made[-1].start()
        return made[-1]

    yield make
    for process in made:
        process.kill()


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    with postgresql() as url:
        yield url
