"""Settings of a service: the environment, read once in `main`. Knows nothing of what a stage is asked to do (Spec)."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from tunewright.artifacts.s3 import S3Store
from tunewright.chassis.errors import InvalidSpec

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


class ServiceSettings(BaseSettings):
    """What every service reads. Environment names are `TUNEWRIGHT_` and the field's name in capitals."""

    model_config = SettingsConfigDict(
        env_prefix="TUNEWRIGHT_", frozen=True, extra="ignore", use_attribute_docstrings=True, env_ignore_empty=True
    )

    store_endpoint: str = "http://127.0.0.1:9000"
    """URL of the S3 server."""
    store_bucket: str = "tunewright"
    store_region: str | None = None
    store_access_key: str = ""
    store_secret_key: SecretStr = SecretStr("")
    store_ca: Path | None = None
    """PEM file with the authority of an https store; the system's own if none."""
    store_patience_seconds: float = Field(default=600, ge=0)
    """How long a running job waits for a store that is down before it fails."""
    listen: str = "127.0.0.1:50051"
    """host:port of the gRPC server; port 0 lets the system pick."""
    metrics_listen: str = "127.0.0.1:9464"
    """host:port of GET /metrics; port 0 lets the system pick."""
    health_listen: str = ""
    """host:port of a second, plaintext gRPC server with the health service only (Kubernetes' probes speak no TLS)."""
    tls_cert: Path | None = None
    """PEM certificate chain of this service, for its server side and its client side."""
    tls_key: Path | None = None
    tls_ca: Path | None = None
    """PEM authority that signs the certificates of all services; peers without one are refused."""
    work_dir: Path = Path("var/work")
    """Scratch space: downloads, stage folders, checkpoints on their way. Everything in it can be lost."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["json", "text"] = "json"
    max_concurrent_jobs: int = Field(default=1, ge=1, le=64)
    """Stages that run at once; further jobs wait in the queue."""
    stop_grace_seconds: float = Field(default=30, gt=0)
    """Between SIGTERM and SIGKILL of a stage, so that it can save a checkpoint."""
    ready_file: Path | None = None
    """Written with the real addresses as JSON once the service serves."""

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        given = [name for name in ("tls_cert", "tls_key", "tls_ca") if getattr(self, name) is not None]
        if given and len(given) < 3:  # noqa: PLR2004 - certificate, key, authority
            raise ValueError(f"TLS needs TLS_CERT, TLS_KEY and TLS_CA together; only {', '.join(given)} given")
        return self

    def open_store(self) -> S3Store:
        """Return the object store; nothing is asked of it yet.

        Raises:
            InvalidSpec: endpoint or bucket cannot be one.
        """
        try:
            return S3Store(
                self.store_endpoint,
                self.store_bucket,
                access_key=self.store_access_key,
                secret_key=self.store_secret_key.get_secret_value(),
                region=self.store_region,
                ca_file=self.store_ca,
            )
        except ValueError as error:
            raise _invalid(f"TUNEWRIGHT_STORE_ENDPOINT, TUNEWRIGHT_STORE_BUCKET: {error}") from error


SettingsT = TypeVar("SettingsT", bound=ServiceSettings)


def read_settings(cls: type[SettingsT]) -> SettingsT:
    """Return the settings in the environment, and in the files of the folder that TUNEWRIGHT_SECRETS_DIR names.

    Such a file is called like the variable in lower case (`tunewright_store_secret_key`); a variable comes first.

    Raises:
        InvalidSpec: a variable is malformed; every wrong one is named by its environment name, and no secret is told.
    """
    sources: dict[str, Any] = {"_secrets_dir": os.environ.get("TUNEWRIGHT_SECRETS_DIR") or None}
    try:
        return cls(**sources)
    except ValidationError as error:
        # Not chained: pydantic's own text quotes all values, secrets too.
        raise _invalid("; ".join(_told(cls, item) for item in error.errors(include_url=False))) from None


def _told(cls: type[ServiceSettings], wrong: "ErrorDetails") -> str:
    if not wrong["loc"]:
        return wrong["msg"]
    name = str(wrong["loc"][0])
    found = "" if cls.model_fields[name].annotation is SecretStr else f" (found {wrong['input']!r:.80})"
    return f"TUNEWRIGHT_{name.upper()}: {wrong['msg']}{found}"


def _invalid(text: str) -> InvalidSpec:
    return InvalidSpec(f"environment is not valid: {text}", remedy="Correct the variables named.")
