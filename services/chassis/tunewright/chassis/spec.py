"""Specs: what a stage is asked to do. Frozen, keyword-only, validated; travels in the proto; hashed into the job id.

Knows nothing of any one stage.
"""

import difflib
import hashlib
from collections.abc import Mapping
from typing import Any, Self, get_args

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from pydantic import BaseModel, ConfigDict, ValidationError

from tunewright.artifacts import ArtifactRef, canonical_json
from tunewright.chassis.errors import InvalidSpec, Violation, pydantic_violations


class Spec(BaseModel):
    """Base of every stage's spec. Names are the field's own terms; a docstring with the unit stands under each."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """Return the spec of these values; fields that are not given take their defaults.

        Raises:
            InvalidSpec: unknown fields (with the nearest known name) or values out of range, all of them named.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            violations = [
                Violation(place.field, unknown_name(place.field.rpartition(".")[2], _known(cls, item["loc"])))
                if item["type"] == "extra_forbidden"
                else place
                for item, place in zip(error.errors(include_url=False), pydantic_violations(error), strict=True)
            ]
            raise _invalid(cls, violations) from error

    @classmethod
    def from_proto(cls, message: Message) -> Self:
        """Return the spec of a proto message whose field names are the same; unset fields take their defaults.

        Raises:
            InvalidSpec: values out of range.
        """
        return cls.from_mapping(MessageToDict(message, preserving_proto_field_name=True))

    def canonical(self) -> dict[str, Any]:
        """Return all fields, defaults included, as JSON values."""
        return self.model_dump(mode="json")


def job_id(service: str, spec: Spec, inputs: Mapping[str, ArtifactRef | list[ArtifactRef]]) -> str:
    """Return the SHA-256 that names the job: its service, canonical spec, and the references of its inputs."""
    named = {
        name: [str(ref) for ref in value] if isinstance(value, list) else str(value) for name, value in inputs.items()
    }
    document = {"service": service, "stage": type(spec).__name__, "spec": spec.canonical(), "inputs": named}
    return hashlib.sha256(canonical_json(document)).hexdigest()


def unknown_name(name: str, known: Mapping[str, object] | list[str]) -> str:
    """Return the sentence that says a name is not known, with the nearest known one."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"unknown name; did you mean {near[0]!r}?" if near else f"unknown name; known are {', '.join(sorted(known))}"


def _known(cls: type[Spec], path: tuple[int | str, ...]) -> list[str]:
    """Return the fields of the spec, inside `cls`, in which the last part of `path` was looked for."""
    for part in path[:-1]:
        if isinstance(part, str) and part in cls.model_fields:
            cls = nested(cls.model_fields[part].annotation) or cls
    return list(cls.model_fields)


def nested(annotation: object) -> type[Spec] | None:
    """Return the spec in a field's annotation: itself, or the items of a tuple or the values of a mapping of specs."""
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        return annotation
    return next((found for part in get_args(annotation) if (found := nested(part))), None)


def _invalid(cls: type[Spec], violations: list[Violation]) -> InvalidSpec:
    text = "; ".join(f"{v.field}: {v.description}" for v in violations)
    return InvalidSpec(f"{cls.__name__} is not valid: {text}", violations=violations)
