"""Ports for engines: what is taken is not given out, and what is given out is not given twice."""

import socket

import pytest

from tunewright.chassis.errors import OutOfResources
from tunewright.inference.ports import PortPool

HOST = "127.0.0.1"


def test_a_taken_port_is_passed_over_and_a_given_one_is_not_given_twice() -> None:
    with _listener() as taken, _listener() as other:
        first = taken.getsockname()[1]
        pool = PortPool(HOST, range(first, first + 30))
        with pool.hold() as one, pool.hold() as two:
            assert len({first, one, two}) == 3
            assert other.getsockname()[1] not in {one, two}


def test_a_port_is_given_again_once_it_was_given_back() -> None:
    with _listener() as listener:
        port = listener.getsockname()[1]
    pool = PortPool(HOST, range(port, port + 1))
    with pool.hold() as first:
        pass
    with pool.hold() as second:
        assert (first, second) == (port, port)


def test_when_all_ports_are_taken_the_setting_to_widen_is_named() -> None:
    with _listener() as listener:
        port = listener.getsockname()[1]
        with pytest.raises(OutOfResources, match=str(port)) as caught, PortPool(HOST, range(port, port + 1)).hold():
            pass
    assert "TUNEWRIGHT_ENGINE_PORTS" in caught.value.remedy


def test_the_system_picks_a_port_that_can_be_bound() -> None:
    with PortPool(HOST, None).hold() as port, socket.socket() as probe:
        probe.bind((HOST, port))
        assert probe.getsockname() == (HOST, port)


def _listener() -> socket.socket:
    found = socket.socket()
    found.bind((HOST, 0))
    found.listen()
    return found
