"""What should be served under a name: the record in the store that outlives this service. Knows no engine."""

import re
import time
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tunewright.artifacts import ArtifactRef, Store
from tunewright.artifacts.layout import deployment_key
from tunewright.chassis.errors import Internal, InvalidSpec, Violation
from tunewright.inference.spec import DeploymentSpec

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}")


class Wanted(BaseModel):
    """The wanted state of one deployment."""

    model_config = ConfigDict(frozen=True)

    name: str
    model: str
    """Reference of the model artifact, `models/<sha256>`."""
    adapter: str | None = None
    spec: dict[str, Any]
    """Canonical DeploymentSpec."""
    replaces: str = ""
    """Deployment that may be stopped where memory does not hold both."""
    create_time: float = Field(default_factory=time.time)
    """Unix time, seconds."""

    @property
    def model_ref(self) -> ArtifactRef:
        """The model artifact."""
        return ArtifactRef.parse(self.model)

    @property
    def adapter_ref(self) -> ArtifactRef | None:
        """The adapter artifact, if one is served on top."""
        return ArtifactRef.parse(self.adapter) if self.adapter else None

    @property
    def served_model_name(self) -> str:
        """What requests carry as `model`. Never the same for two adapters: vLLM's prefix cache goes by the name."""
        return f"{self.name}@{self.adapter_ref.id[:12]}" if self.adapter_ref else self.name

    @property
    def deployment_spec(self) -> DeploymentSpec:
        """The validated spec."""
        return DeploymentSpec.from_mapping(self.spec)

    def same_as(self, other: "Wanted") -> bool:
        """Return True if both ask for the same thing, whenever they were made."""
        aside = {"create_time": 0, "replaces": ""}
        return self.model_copy(update=aside) == other.model_copy(update=aside)

    def save(self, store: Store) -> None:
        """Write this over what was wanted before."""
        store.put_bytes(deployment_key(self.name), self.model_dump_json(indent=1).encode())


def checked_name(name: str) -> str:
    """Return `name` if a deployment can be called so.

    Raises:
        InvalidSpec: it cannot.
    """
    if _NAME.fullmatch(name):
        return name
    rule = "1 to 128 letters, digits and . _ : @ - with a letter or digit first"
    raise InvalidSpec(f"{name!r} is no name for a deployment: {rule}", violations=[Violation("name", rule)])


def delete(store: Store, name: str) -> None:
    """Forget what was wanted under a name."""
    store.delete(deployment_key(name))


def load_all(store: Store) -> list[Wanted]:
    """Return everything that should be served, oldest first.

    Raises:
        Internal: a record is malformed; it is named.
    """
    found = []
    for info in store.list(deployment_key()):
        try:
            found.append(Wanted.model_validate_json(store.get_bytes(info.key)))
        except ValidationError as error:
            raise Internal(
                f"the record {info.key} in the store is malformed: {error}",
                remedy="Delete the object and deploy again.",
            ) from error
    return sorted(found, key=lambda wanted: wanted.create_time)
