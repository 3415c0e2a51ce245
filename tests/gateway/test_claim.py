"""Two gateways never work under one name in one database."""

import threading
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.gateway.conftest import MakeGateway
from tunewright.chassis.errors import Conflict, Unavailable
from tunewright.gateway import claim as claims
from tunewright.gateway.claim import Claim, claim
from tunewright.gateway.database import with_driver


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return (
        f"sqlite:///{tmp_path}/gateway.sqlite" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    )


def take(url: str, name: str, lost: threading.Event | None = None) -> Claim:
    return claim(url, name, on_lost=(lost or threading.Event()).set, wait=0)


@pytest.fixture
def quick_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "_CHECK_SECONDS", 0.05)


def test_a_name_is_one_holders_until_it_is_given_back(url: str) -> None:
    first = take(url, "alone")
    with pytest.raises(Conflict, match=r"'alone' in this database: .*process \d+ on "):
        take(url, "alone")
    other = take(url, "beside")
    other.close()
    first.close()
    take(url, "alone").close()


def test_a_predecessor_is_given_time_to_end(url: str) -> None:
    first = take(url, "patient")
    threading.Timer(0.5, first.close).start()
    claim(url, "patient", on_lost=first.close, wait=10).close()
    assert first._closing.is_set()


@pytest.mark.usefixtures("quick_checks")
def test_a_claim_whose_connection_breaks_is_taken_again(postgres_url: str) -> None:
    lost = threading.Event()
    held = take(postgres_url, "broken", lost)
    assert _break_connections(postgres_url) == 1
    deadline = threading.Event()
    while not _holders(postgres_url):
        assert not deadline.wait(0.02)
    with pytest.raises(Conflict):
        take(postgres_url, "broken")
    assert not lost.is_set()
    held.close()


@pytest.mark.usefixtures("quick_checks")
def test_a_holder_whose_name_was_taken_meanwhile_is_told(postgres_url: str) -> None:
    lost = threading.Event()
    held = take(postgres_url, "stolen", lost)
    held._lock._forget()  # type: ignore[attr-defined]  # as after a break that lasted
    thief = take(postgres_url, "stolen")
    assert lost.wait(5)
    held.close()
    thief.close()


def test_a_database_that_does_not_answer_is_named() -> None:
    with pytest.raises(Unavailable, match="database does not answer"):
        take("postgresql://tunewright@127.0.0.1:1/postgres", "nowhere")


def test_a_second_gateway_of_one_name_does_not_come_up(make_gateway: MakeGateway, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/gateway.sqlite"
    make_gateway(database_url=url)
    with pytest.raises(RuntimeError, match="another gateway already works under the executor id 'gateway-0'"):
        make_gateway(database_url=url)


def _holders(url: str) -> int:
    return _ask(url, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")


def _break_connections(url: str) -> int:
    return _ask(url, "SELECT count(pg_terminate_backend(pid)) FROM pg_locks WHERE locktype = 'advisory'")


def _ask(url: str, query: str) -> int:
    engine = sa.create_engine(with_driver(url), poolclass=sa.NullPool)
    with engine.connect() as connection:
        return int(connection.execute(sa.text(query)).scalar_one())
