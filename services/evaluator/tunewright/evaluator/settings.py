"""What the evaluator reads from the environment: how engines may be asked. Knows nothing of which ones."""

from pathlib import Path

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from tunewright.chassis.settings import ServiceSettings


class EvaluatorSettings(ServiceSettings):
    """Settings of the service."""

    engine_key: SecretStr = SecretStr("")
    """Bearer key of the engines; the same as the inference service's."""


class EngineAccess(BaseSettings):
    """The part that the stage's own process needs: it inherits the environment, so the key is in no job's record."""

    model_config = SettingsConfigDict(env_prefix="TUNEWRIGHT_", frozen=True, extra="ignore", env_ignore_empty=True)

    engine_key: SecretStr = SecretStr("")
    tls_ca: Path | None = None
    """PEM authority that signed the engines' certificates; the system's own if none."""
