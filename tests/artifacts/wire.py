"""A TCP relay between a client and a server that counts what passes, and can cut or freeze it. Knows no protocol."""

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit


class Wire:
    """Counts bytes each way."""

    def __init__(self, target_url: str, context: ssl.SSLContext | None = None) -> None:
        url = urlsplit(target_url)
        self._target = (url.hostname or "", url.port or 80)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._context = context
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self.sent_bytes = 0
        self.received_bytes = 0
        self._cut_after: int | None = None
        self._last = time.monotonic()
        self.was_cut = False
        self.frozen = threading.Event()
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def reset(self) -> None:
        """Begin to count anew."""
        self.sent_bytes = self.received_bytes = 0

    def cut(self, *, after_bytes: int) -> None:
        """Close one connection once so many bytes came from the server."""
        self._cut_after = after_bytes

    def wait_until_quiet(self) -> None:
        """Wait until nothing has passed for half a second: a killed client's last bytes may still be on their way."""
        while time.monotonic() - self._last < 0.5:
            time.sleep(0.1)

    def close(self) -> None:
        """Close the listener and all connections."""
        with self._lock:
            for sock in [self._listener, *self._sockets]:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
                sock.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with contextlib.suppress(OSError):  # a client that breaks off its handshake ends only itself
                self._join(client)

    def _join(self, client: socket.socket) -> None:
        if self._context:
            client = self._context.wrap_socket(client, server_side=True)
        server = socket.create_connection(self._target)
        with self._lock:
            self._sockets += [client, server]
        threading.Thread(target=self._pump, args=(client, server, True), daemon=True).start()
        threading.Thread(target=self._pump, args=(server, client, False), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, upwards: bool) -> None:  # noqa: FBT001 - private
        with contextlib.suppress(OSError):
            while (data := source.recv(1 << 16)) and not self.frozen.is_set():
                if not self._pass(len(data), upwards):
                    break
                sink.sendall(data)
        if self.frozen.is_set():
            return
        for sock in (source, sink):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _pass(self, size: int, upwards: bool) -> bool:  # noqa: FBT001 - private
        with self._lock:
            if upwards:
                self.sent_bytes += size
            else:
                self.received_bytes += size
            self._last = time.monotonic()
            if upwards or self._cut_after is None or self.received_bytes <= self._cut_after:
                return True
            self._cut_after, self.was_cut = None, True
            return False


@contextlib.contextmanager
def wire(target_url: str) -> Iterator[Wire]:
    """Run a relay to `target_url`."""
    relay = Wire(target_url)
    try:
        yield relay
    finally:
        relay.close()


@contextlib.contextmanager
def tls_relay(target_url: str, certificate: Path, key: Path) -> Iterator[str]:
    """Run a relay that speaks TLS to the client and plain TCP to `target_url`; yield its https URL."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    relay = Wire(target_url, context)
    try:
        yield relay.url.replace("http:", "https:")
    finally:
        relay.close()
