"""Settings of the gateway: the environment, read once. Knows nothing of recipes."""

from pathlib import Path

from pydantic import Field, SecretStr, field_validator

from tunewright.chassis.settings import ServiceSettings

MIN_KEY_CHARS = 16


class GatewaySettings(ServiceSettings):
    """What the gateway reads on top of every service's settings. `listen` is not used: it speaks HTTP, not gRPC."""

    http_listen: str = "127.0.0.1:8080"
    """host:port of the HTTP server; port 0 lets the system pick."""
    grpc_listen: str = ""
    """host:port of the gRPC server for public names (RolloutService); empty: none. Plain, as HTTP is."""
    database_url: str = "sqlite:///var/gateway.sqlite"
    """Runs, their events, aliases, and the durable workflows: sqlite:///FILE or postgresql://…"""
    executor_id: str = "gateway-0"
    """Name under which interrupted runs are taken up again; keep it over restarts. A second process of one name is
    refused."""
    api_keys_file: Path = Path("var/api-keys.json")
    """Hashed API keys, written by `python -m tunewright.gateway keys create`; read again when it changes."""
    bootstrap_api_key: SecretStr = SecretStr("")
    """One key that is valid without the file, 16 characters or more."""
    dataprep_address: str = "127.0.0.1:50051"
    """host:port of the room's gRPC server; likewise below."""
    trainer_address: str = "127.0.0.1:50052"
    merger_address: str = "127.0.0.1:50053"
    evaluator_address: str = "127.0.0.1:50054"
    inference_address: str = "127.0.0.1:50055"
    inference_engine_key: SecretStr = SecretStr("")
    """Bearer key of the vLLM engines."""
    engine_read_timeout_seconds: float = Field(default=600, gt=0)
    """Longest silence of an engine within one answer."""
    max_upload_bytes: int = Field(default=2 << 30, ge=1)
    """Largest file that POST /v1/files takes."""
    max_body_bytes: int = Field(default=16 << 20, ge=1024)
    """Largest body of any other request."""
    max_unfinished_runs: int = Field(default=100, ge=1)
    """Runs that may be queued or running at once; more are refused with 429."""
    max_open_completions: int = Field(default=2048, ge=1)
    """Chat and completion requests under way at once; more are refused with 429."""
    recovery_wait_seconds: float = Field(default=90, ge=0)
    """How long a chat or completion waits for an engine that died and is being started again; then it is refused."""
    deploy_timeout_seconds: float = Field(default=3600, gt=0)
    """Longest wait for a deployment to answer its golden prompt."""

    @field_validator("bootstrap_api_key")
    @classmethod
    def _not_guessable(cls, key: SecretStr) -> SecretStr:
        if 0 < len(key.get_secret_value()) < MIN_KEY_CHARS:
            raise ValueError(f"a key of {MIN_KEY_CHARS} characters or more is expected")
        return key
