"""How a stage joins the Ray cluster that the operator named, and what it says where it cannot.

Ray moves objects between its processes by pickle: whoever can reach the cluster can run code in it and, through
results, in this process. So a cluster is used only where the operator named one, and it is the operator who closes it.
Imports Ray only when joining: services that know no cluster need not have it.
"""

import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from tunewright.chassis.errors import InvalidSpec, Unavailable, Violation

_PROBE_SECONDS = 5.0


def refuse_without_cluster(address: str) -> None:
    """Raise if `launcher: ray` cannot work here, before anything is downloaded.

    Args:
        address: of the service's settings; empty if it was told of none.

    Raises:
        InvalidSpec: no cluster is named, or the package is not installed.
    """
    if find_spec("ray") is None:
        raise _no_cluster("the package ray is not installed", "Install requirements/ray.txt here and on all nodes")
    if not address:
        raise _no_cluster("this service was told of no cluster", "Set TUNEWRIGHT_RAY_ADDRESS")


def join(address: str) -> None:
    """Join the cluster; `leave` ends what still runs there for this process.

    Args:
        address: host:port of a cluster that this machine is a node of, or ray://host:port.

    Raises:
        Unavailable: nobody answers there, or only to another token or certificate.
    """
    _probe(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray  # noqa: PLC0415 - Ray is there only where it is wanted
    from ray import exceptions  # noqa: PLC0415

    try:
        with _own_signals():
            ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    except (ConnectionError, exceptions.RayError, ValueError, RuntimeError) as error:
        raise _unreachable(address, error) from error


def leave() -> None:
    """Leave the cluster."""
    import ray  # noqa: PLC0415

    with _own_signals():
        ray.shutdown()


@contextmanager
def _own_signals() -> Iterator[None]:
    """Put this process's signal handlers back: Ray sets its own, which would end the stage without a word."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _probe(address: str) -> None:
    """Fail at once where nobody listens; Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PROBE_SECONDS).close()
    except (OSError, ValueError) as error:
        raise _unreachable(address, error) from error


def _unreachable(address: str, error: Exception) -> Unavailable:
    first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return Unavailable(
        f"the Ray cluster at {address} cannot be joined: {first_line}",
        remedy="Check that it runs, that TUNEWRIGHT_RAY_ADDRESS is right (host:port needs a Ray node on this machine, "
        "ray://host:port does not), and that this service has its token (RAY_AUTH_TOKEN_PATH) and certificates "
        "(RAY_TLS_*). `launcher: local` needs no cluster.",
    )


def _no_cluster(why: str, remedy: str) -> InvalidSpec:
    text = f"`ray` needs a Ray cluster; {why}"
    remedy = f"{remedy}, or use `launcher: local`: the result is the same."
    return InvalidSpec(f"launcher: {text}", remedy=remedy, violations=[Violation("launcher", text)])
