"""The stack's own authority: mutual TLS between real sockets, keys for their owner alone."""

import socket
import ssl
import stat
import threading
from pathlib import Path

import pytest

from tunewright.cli.stack import certificates
from tunewright.cli.stack.certificates import ensure_certificates


def context(folder: Path, purpose: ssl.Purpose, name: str | None) -> ssl.SSLContext:
    made = ssl.create_default_context(purpose, cafile=folder / "ca.pem")
    made.verify_mode = ssl.CERT_REQUIRED
    if name:
        made.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
    return made


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext, host: str) -> bytes:
    """Return what the server says after a handshake on loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            try:
                with server.wrap_socket(connection, server_side=True) as secured:
                    secured.sendall(b"hello")
            except OSError:
                connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            with (
                socket.create_connection(listener.getsockname()) as plain,
                client.wrap_socket(plain, server_hostname=host) as secured,
            ):
                return secured.recv(5)
        finally:
            thread.join()


def test_two_services_trust_each_other_by_address_and_by_name(tmp_path: Path) -> None:
    ensure_certificates(tmp_path, ["trainer", "gateway"])
    server = context(tmp_path, ssl.Purpose.CLIENT_AUTH, "trainer")
    client = context(tmp_path, ssl.Purpose.SERVER_AUTH, "gateway")
    for host in ("127.0.0.1", "localhost", "trainer"):
        assert shake_hands(server, client, host) == b"hello"
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(server, client, "merger")


def test_a_stranger_is_refused_on_either_side(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ensure_certificates(ours, ["trainer", "gateway"])
    ensure_certificates(theirs, ["trainer", "gateway"])
    server = context(ours, ssl.Purpose.CLIENT_AUTH, "trainer")
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(server, context(theirs, ssl.Purpose.SERVER_AUTH, "gateway"), "localhost")
    stranger = context(ours, ssl.Purpose.SERVER_AUTH, None)
    stranger.load_cert_chain(theirs / "gateway.pem", theirs / "gateway.key")
    for client in (stranger, context(ours, ssl.Purpose.SERVER_AUTH, None)):
        # In TLS 1.3 the client learns of the refusal only when it reads.
        with pytest.raises(OSError, match=r"(?i)unknown ca|certificate required|reset"):
            assert shake_hands(server, client, "localhost") == b"hello"


def test_keys_are_for_their_owner_alone(tmp_path: Path) -> None:
    ensure_certificates(tmp_path / "tls", ["trainer"])
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "tls").iterdir()}
    assert modes == {"ca.pem": 0o600, "trainer.pem": 0o600, "trainer.key": 0o600}
    assert stat.S_IMODE((tmp_path / "tls").stat().st_mode) == 0o700


def test_certificates_stay_until_they_would_soon_expire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ensure_certificates(tmp_path, ["trainer"])
    first = (tmp_path / "trainer.pem").read_bytes()
    ensure_certificates(tmp_path, ["trainer"])
    assert (tmp_path / "trainer.pem").read_bytes() == first
    monkeypatch.setattr(certificates, "RENEW_BEFORE", certificates.VALIDITY * 2)
    ensure_certificates(tmp_path, ["trainer"])
    assert (tmp_path / "trainer.pem").read_bytes() != first
