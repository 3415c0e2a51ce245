"""What the evaluator reads from the environment: how engines may be asked. Knows nothing of which ones."""

from pydantic import SecretStr

from tunewright.chassis.settings import ServiceSettings


class EvaluatorSettings(ServiceSettings):
    """Settings of the service and of its stage, which inherits the environment, so that no job record has the key."""

    engine_key: SecretStr = SecretStr("")
    """Bearer key of the engines; the same as the inference service's."""
