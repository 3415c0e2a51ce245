"""Recipes: what a user wants, checked key by key against the protos. Every mistake is named with its full path.

The sections' keys are the fields of the rooms' spec messages, read from the descriptors, so a new field needs no line
here. Which values are allowed is each room's own knowledge: the gateway asks it (`validate_only`) before a run starts.
"""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import yaml
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from tunewright.artifacts import ArtifactRef, InvalidRef, Kind
from tunewright.chassis.errors import InvalidSpec, Violation
from tunewright.chassis.spec import unknown_name
from tunewright.v1 import dataprep_pb2, evaluation_pb2, inference_pb2, merging_pb2, training_pb2

NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,46}[a-z0-9])?")
FILE_PREFIX = "file-"
SECTIONS: dict[str, type[Message]] = {
    "dataprep": dataprep_pb2.DataprepSpec,
    "training": training_pb2.TrainingSpec,
    "merging": merging_pb2.MergeSpec,
    "evaluation": evaluation_pb2.EvaluationSpec,
    "deployment": inference_pb2.DeploymentSpec,
}
_KEYS = ["name", "base_model", "base_revision", "data", *SECTIONS]
_WHOLE = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}
_FRACTIONAL = {FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT}
# YAML 1.1 reads 2e-4 as text, because its numbers need a dot; people write learning rates like that.
_NUMBER = re.compile(r"[-+]?\d+(\.\d*)?([eE][-+]?\d+)?")

SpecT = TypeVar("SpecT", bound=Message)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A recipe whose keys and types are right."""

    name: str
    """Public name of the tuned model."""
    base_model: str
    """Hub id, folder below the import root, or `models/<sha256>`."""
    base_revision: str
    uploads: tuple[ArtifactRef, ...]
    sections: Mapping[str, Message] = field(default_factory=dict)

    @property
    def base_name(self) -> str:
        """Name under which the untouched base answers."""
        return f"{self.name}-base"

    @property
    def base_ref(self) -> ArtifactRef | None:
        """The base's artifact if the recipe names one, None if it must be imported."""
        return ArtifactRef.parse(self.base_model) if self.base_model.startswith(f"{Kind.MODEL.value}/") else None

    def candidate_name(self, model: ArtifactRef) -> str:
        """Name of the deployment of one version of the tuned model."""
        return f"{self.name}-{model.id[:12]}"

    def section(self, name: str, cls: type[SpecT]) -> SpecT:
        """Return one room's spec as a message; unset fields are that room's defaults."""
        message = self.sections[name]
        if not isinstance(message, cls):
            raise TypeError(f"section {name!r} is a {type(message).__name__}, not a {cls.__name__}")
        return message

    def to_document(self) -> dict[str, Any]:
        """Return the recipe as JSON values; `parse` is the inverse."""
        document: dict[str, Any] = {"name": self.name, "base_model": self.base_model}
        if self.base_revision:
            document["base_revision"] = self.base_revision
        document["data"] = [{"file": f"{FILE_PREFIX}{ref.id}"} for ref in self.uploads]
        for name, message in self.sections.items():
            document[name] = _values(message)
        return document


def _values(message: Message) -> dict[str, Any]:
    """Return the fields that are set. Not MessageToDict: that writes whole numbers of 64 bits as text."""
    return {
        descriptor.name: list(value) if descriptor.is_repeated else value for descriptor, value in message.ListFields()
    }


def parse(document: object) -> Recipe:
    """Return the recipe in a mapping, or in a YAML text.

    Raises:
        InvalidSpec: everything that is wrong with it, each with its path.
    """
    values = _mapping(document)
    found = _Violations()
    for key in values:
        if key not in _KEYS:
            found.add(str(key), unknown_name(str(key), _KEYS))
    recipe = Recipe(
        name=_name(values.get("name"), found),
        base_model=_base_model(values.get("base_model"), found),
        base_revision=_text(values.get("base_revision"), "base_revision", found),
        uploads=_uploads(values.get("data"), found),
        sections={name: _section(name, cls, values.get(name), found) for name, cls in SECTIONS.items()},
    )
    found.raise_if_any()
    return recipe


def spec_message(path: str, cls: type[SpecT], values: Mapping[str, Any]) -> SpecT:
    """Return the message of one section given alone.

    Raises:
        InvalidSpec: everything that is wrong with it, each below `path`.
    """
    found = _Violations()
    message = cls()
    _fill(message, values, path, found)
    found.raise_if_any()
    return message


class _Violations:
    def __init__(self) -> None:
        self._found: list[Violation] = []

    def add(self, path: str, description: str) -> None:
        self._found.append(Violation(path, description))

    def raise_if_any(self) -> None:
        if self._found:
            text = "; ".join(f"{v.field}: {v.description}" for v in self._found)
            raise InvalidSpec(f"not valid: {text}", violations=self._found)


def _mapping(document: object) -> Mapping[str, Any]:
    if isinstance(document, str):
        try:
            document = yaml.safe_load(document)
        except yaml.YAMLError as error:
            raise InvalidSpec(
                f"the recipe is not YAML: {error}", violations=[Violation("recipe", str(error))]
            ) from error
    if not isinstance(document, dict):
        raise InvalidSpec(
            f"the recipe must be a mapping of keys to values, found {_kind(document)}",
            violations=[Violation("recipe", f"a mapping is expected, found {_kind(document)}")],
        )
    return document


def _name(value: object, found: _Violations) -> str:
    if not isinstance(value, str) or not NAME.fullmatch(value):
        found.add(
            "name",
            f"1 to 48 lower-case letters, digits, dots, dashes or underscores are expected, found {_show(value)}",
        )
        return ""
    if value.endswith("-base"):
        found.add("name", "names ending in '-base' are kept for the untouched base of another recipe")
    return value


def _base_model(value: object, found: _Violations) -> str:
    if not isinstance(value, str) or not value.strip():
        found.add("base_model", f"a hub id, a folder or models/<sha256> is expected, found {_show(value)}")
        return ""
    if value.startswith(f"{Kind.MODEL.value}/"):
        try:
            ArtifactRef.parse(value)
        except InvalidRef as error:
            found.add("base_model", str(error))
    return value.strip()


def _text(value: object, path: str, found: _Violations) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        found.add(path, f"text is expected, found {_show(value)}")
        return ""
    return value


def _uploads(value: object, found: _Violations) -> tuple[ArtifactRef, ...]:
    if not isinstance(value, list) or not value:
        found.add("data", f"a list with at least one `- file: file-<id>` is expected, found {_show(value)}")
        return ()
    refs = [_upload(item, f"data[{position}]", found) for position, item in enumerate(value)]
    return tuple(ref for ref in refs if ref is not None)


def _upload(item: object, path: str, found: _Violations) -> ArtifactRef | None:
    if not isinstance(item, dict):
        found.add(path, f"`file: file-<id>` is expected, found {_show(item)}")
        return None
    for key in item:
        if key == "path":
            found.add(
                f"{path}.path",
                "the gateway sees no local files: upload it by POST /v1/files and write `file: file-<id>`",
            )
        elif key != "file":
            found.add(f"{path}.{key}", unknown_name(str(key), ["file", "path"]))
    if "file" not in item:
        if "path" not in item:
            found.add(f"{path}.file", "missing: the id of an uploaded file is expected")
        return None
    try:
        return file_ref(item["file"])
    except InvalidSpec as error:
        found.add(f"{path}.file", error.message)
        return None


def file_ref(identifier: object) -> ArtifactRef:
    """Return the upload that a file id names.

    Raises:
        InvalidSpec: it is no file id.
    """
    if isinstance(identifier, str) and identifier.startswith(FILE_PREFIX):
        try:
            return ArtifactRef(Kind.UPLOAD, identifier.removeprefix(FILE_PREFIX))
        except InvalidRef:
            pass
    raise InvalidSpec(f"file-<64 hexadecimal digits> is expected, found {_show(identifier)}")


def _section(name: str, cls: type[Message], value: object, found: _Violations) -> Message:
    message = cls()
    if value is None:
        return message
    if not isinstance(value, dict):
        found.add(name, f"a mapping of keys to values is expected, found {_show(value)}")
        return message
    _fill(message, value, name, found)
    return message


def _fill(message: Message, values: Mapping[Any, Any], path: str, found: _Violations) -> None:
    fields = message.DESCRIPTOR.fields_by_name
    for key, value in values.items():
        where = f"{path}.{key}"
        if key not in fields:
            found.add(where, _unknown(str(key), path, list(fields)))
        elif value is not None:
            _set(message, cast("FieldDescriptor", fields[key]), value, where, found)


def _set(message: Message, descriptor: FieldDescriptor, value: object, path: str, found: _Violations) -> None:
    try:
        if descriptor.is_repeated:
            getattr(message, descriptor.name).extend([_converted(descriptor, item) for item in _items(value)])
        else:
            setattr(message, descriptor.name, _converted(descriptor, value))
    except _Wrong as wrong:
        found.add(path, str(wrong))


class _Wrong(Exception):
    def __init__(self, expected: str, value: object) -> None:
        super().__init__(f"{expected} is expected, found {_show(value)}")


def _items(value: object) -> list[object]:
    if not isinstance(value, list):
        raise _Wrong("a list", value)
    return value


def _converted(descriptor: FieldDescriptor, value: object) -> object:
    kind = descriptor.cpp_type
    if kind in _WHOLE:
        return _whole(value, *_WHOLE[kind])
    if kind in _FRACTIONAL:
        return _fractional(value)
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        if not isinstance(value, bool):
            raise _Wrong("true or false", value)
        return value
    if not isinstance(value, str):
        raise _Wrong("text", value)
    return value


def _whole(value: object, low: int, high: int) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise _Wrong("a whole number", value)
    if not low <= value <= high:
        raise _Wrong(f"a whole number from {low} to {high}", value)
    return value


def _fractional(value: object) -> float:
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = float(value)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise _Wrong("a number", value)
    return float(value)


def _unknown(key: str, section: str, known: list[str]) -> str:
    """Say that a key is not known: with the nearest one, or with the section where it belongs."""
    if not difflib.get_close_matches(key, known, n=1, cutoff=0.5):
        for other, cls in SECTIONS.items():
            if other != section and key in cls.DESCRIPTOR.fields_by_name:
                return f"unknown name; it belongs to {other!r}"
    return unknown_name(key, known)


def _show(value: object) -> str:
    return "nothing" if value is None else f"{value!r:.80} ({_kind(value)})"


def _kind(value: object) -> str:
    names = {
        str: "text",
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        list: "a list",
        dict: "a mapping",
    }
    return "nothing" if value is None else names.get(type(value), type(value).__name__)
