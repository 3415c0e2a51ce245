"""What the inference service reads from the environment beyond every service's settings."""

import re
import secrets
from typing import Self

from pydantic import Field, SecretStr, field_validator, model_validator

from tunewright.chassis.settings import ServiceSettings

_LOOPBACK = {"127.0.0.1", "localhost", "::1"}


class InferenceSettings(ServiceSettings):
    """Where engines listen, who may ask them, and when one counts as dead."""

    engine_host: str = "127.0.0.1"
    """Name under which others reach the engines; part of every deployment's endpoint."""
    engine_bind: str = ""
    """Address that engines listen on; if empty, loopback where ENGINE_HOST is loopback, else all addresses."""
    engine_ports: str = "0"
    """Ports for engines, such as `8101-8116`; 0 lets the system pick."""
    engine_key: SecretStr = Field(default_factory=lambda: SecretStr(secrets.token_urlsafe(32)))
    """Bearer key of the engines. Random if none is given: then nobody but this service can ask them."""
    engine_start_timeout_seconds: float = Field(default=900, gt=0)
    """From the start of an engine's process to the answer to its golden prompt."""
    engine_health_interval_seconds: float = Field(default=2, gt=0)
    """Between two looks at a ready engine; the end of its process is noticed at once."""
    engine_probe_interval_seconds: float = Field(default=30, gt=0)
    """Longest time in which a ready engine makes no token before the golden prompt is asked again."""
    engine_hang_seconds: float = Field(default=120, gt=0)
    """An engine that makes no token for so long while a prompt waits is hung, and killed."""
    engine_max_restarts: int = Field(default=5, ge=0)
    """Restarts within the window; one death more is a failure of the deployment."""
    engine_restart_window_seconds: float = Field(default=900, gt=0)
    engine_backoff_seconds: float = Field(default=1, gt=0)
    """Wait before the first restart in a window; doubles with each further one, up to a minute."""
    engine_parallel_starts: int = Field(default=0, ge=0, le=16)
    """Engines that may start at once; 0 stands for 2 on a CPU and 1 on a GPU, where vLLM measures free memory."""
    engine_idle_seconds: float = Field(default=30, ge=0)
    """An engine that serves adapters ends when it had none for so long."""
    engine_memory_bytes: int = Field(default=0, ge=0)
    """Memory that all engines together may take, of the machine's on a CPU; 0: what is free. Not used on a GPU, where
    the deployments' gpu_memory_utilization together must not be above 1."""
    adapter_unload_seconds: float = Field(default=5, ge=0)
    """An adapter that was undeployed answers for so long those who have not heard of it yet."""

    @field_validator("engine_ports")
    @classmethod
    def _ports_are_a_range(cls, text: str) -> str:
        if text != "0" and not _port_range(text):
            raise ValueError("expected 0, one port, or a range such as 8101-8116")
        return text

    @model_validator(mode="after")
    def _key_is_not_short(self) -> Self:
        if len(self.engine_key.get_secret_value()) < 16:  # noqa: PLR2004 - 128 bits as hexadecimal would be 32
            raise ValueError("engine_key needs 16 characters or more")
        return self

    @property
    def ports(self) -> range | None:
        """Ports for engines, None if the system picks."""
        return None if self.engine_ports == "0" else _port_range(self.engine_ports)

    @property
    def bind_address(self) -> str:
        """Address that engines listen on."""
        return self.engine_bind or ("127.0.0.1" if self.engine_host in _LOOPBACK else "0.0.0.0")  # noqa: S104 - guarded by the key


def _port_range(text: str) -> range | None:
    match = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", text)
    if match is None:
        return None
    first, last = int(match[1]), int(match[2] or match[1])
    return range(first, last + 1) if 0 < first <= last < 1 << 16 else None
