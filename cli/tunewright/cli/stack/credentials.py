"""Everything secret of a stack in containers, made once: certificates, passwords, keys, as files in one folder.

    tls/          ca.pem, <service>.pem, <service>.key          minio/   the object store's pair under MinIO's names
    secrets/      one file a variable: `tunewright_store_secret_key`, … (TUNEWRIGHT_SECRETS_DIR)
    api_key       for the first application                     database_password

A second call keeps what is there and renews certificates that end within 30 days. Knows nothing of containers.
"""

import secrets
from collections.abc import Iterable
from pathlib import Path

from tunewright.cli.stack.certificates import ensure_certificates, write_private

_AUTHORITY = "/credentials/tls/ca.pem"
"""Where the containers find it, whatever the folder is called here."""


def bootstrap(folder: Path, services: Iterable[str]) -> Path:
    """Make what is missing below `folder`; return the file that holds the API key.

    Raises:
        OSError: the folder cannot be written.
    """
    services = list(services)
    ensure_certificates(folder / "tls", services)
    settings = folder / "secrets"
    settings.mkdir(mode=0o700, exist_ok=True)
    engine_key = _made_once(settings / "tunewright_engine_key")
    password = _made_once(folder / "database_password")
    api_key = _made_once(folder / "api_key", prefix="tw-")
    _made_once(settings / "tunewright_store_access_key", size_bytes=10)
    _made_once(settings / "tunewright_store_secret_key", size_bytes=20)
    url = f"postgresql://tunewright:{password}@database:5432/tunewright?sslmode=verify-full&sslrootcert={_AUTHORITY}"
    for name, value in {
        "tunewright_inference_engine_key": engine_key,
        "tunewright_bootstrap_api_key": api_key,
        "tunewright_database_url": url,
    }.items():
        write_private(settings / name, value.encode())
    if "object-store" in services:
        _name_as_minio_does(folder)
    return folder / "api_key"


def _made_once(path: Path, prefix: str = "", size_bytes: int = 32) -> str:
    """Return the secret in a file, made of random bytes if there is none; S3 keys may have 20 and 40 digits at most."""
    if not path.is_file():
        write_private(path, (prefix + secrets.token_hex(size_bytes)).encode())
    return path.read_text()


def _name_as_minio_does(folder: Path) -> None:
    target = folder / "minio"
    target.mkdir(mode=0o700, exist_ok=True)
    for ours, theirs in (("object-store.pem", "public.crt"), ("object-store.key", "private.key")):
        write_private(target / theirs, (folder / "tls" / ours).read_bytes())
