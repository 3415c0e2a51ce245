"""Ports for the engines of this service. Knows nothing of what listens on them.

vLLM binds its port seconds after its start and listens on it only once the model is loaded. Until then nothing in the
system says that the port is spoken for, so the pool remembers what it gave out. Against other processes a trial bind is
all there is; an engine that loses that race dies with `address already in use` and is started again on another port.
"""

import errno
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tunewright.chassis.errors import OutOfResources


class PortPool:
    """Gives out ports of one address. Thread-safe.

    Args:
        bind: address that engines listen on.
        ports: which to give out; None lets the system pick.
    """

    def __init__(self, bind: str, ports: range | None) -> None:
        self._bind = bind
        self._ports = ports
        self._given: set[int] = set()
        self._lock = threading.Lock()

    @contextmanager
    def hold(self) -> Iterator[int]:
        """Yield a port that nothing listens on; it is given to nobody else inside the block.

        Raises:
            OutOfResources: all of them are taken.
        """
        with self._lock:
            port = self._free_port()
            self._given.add(port)
        try:
            yield port
        finally:
            with self._lock:
                self._given.discard(port)

    def _free_port(self) -> int:
        for candidate in self._ports or [0] * 10:
            found = _try_bind(self._bind, candidate)
            if found is not None and found not in self._given:
                return found
        wanted = f"{self._ports[0]}-{self._ports[-1]}" if self._ports else "(picked by the system)"
        raise OutOfResources(
            f"no free port for an engine: {wanted} on {self._bind} are all taken",
            remedy="Widen TUNEWRIGHT_ENGINE_PORTS, or end what listens there.",
        )


def _try_bind(bind: str, port: int) -> int | None:
    with socket.socket(socket.AF_INET6 if ":" in bind else socket.AF_INET, socket.SOCK_STREAM) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of the engine before may linger
        try:
            trial.bind((bind, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return None
            raise
        return int(trial.getsockname()[1])
