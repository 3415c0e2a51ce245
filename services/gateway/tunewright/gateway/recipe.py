"""Recipes: what a user wants, checked key by key against the protos. Every mistake is named with its full path.

The sections' keys are the fields of the rooms' spec messages, read from the descriptors, so a new field needs no line
here. Which values are allowed is each room's own knowledge: the gateway asks it (`validate_only`) before a run starts.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import yaml
from google.protobuf.message import Message

from tunewright.artifacts import ArtifactRef, InvalidRef, Kind
from tunewright.chassis.errors import InvalidSpec, Violation
from tunewright.chassis.spec import unknown_name
from tunewright.gateway.fields import Filler, Violations, kind, show, values_of
from tunewright.gateway.training_stages import STAGE_NAME, TrainingStage, goes_on, over
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
_KEYS = ["name", "base_model", "base_revision", "base_name", "data", "stages", *SECTIONS]
_OF_A_STAGE = ("dataprep", "training")
_STAGE_KEYS = ["name", "data", *_OF_A_STAGE]
_DESCRIPTORS: dict[str, Any] = {name: cls.DESCRIPTOR for name, cls in SECTIONS.items()}
_SOURCE_KEYS = ["file", "path", *dataprep_pb2.DataSource.DESCRIPTOR.fields_by_name]
SpecT = TypeVar("SpecT", bound=Message)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A recipe whose keys and types are right."""

    name: str
    """Public name of the tuned model."""
    base_model: str
    """Hub id, folder below the import root, or `models/<sha256>`."""
    base_revision: str
    served_base: str = ""
    """Name under which the untouched base answers; empty: the recipe's own with `-base`."""
    stages: tuple[TrainingStage, ...]
    """In order; one without a name if the recipe names none."""
    sections: Mapping[str, Message] = field(default_factory=dict)
    """By name; `dataprep` and `training` are those of the last stage."""

    @property
    def uploads(self) -> tuple[ArtifactRef, ...]:
        """The files of all stages."""
        return tuple(ref for _, ref in self.upload_places())

    def upload_places(self) -> list[tuple[str, ArtifactRef]]:
        """Return each file with the path of its key."""
        return [
            (f"{stage.data_key}[{position}].file", ref)
            for stage in self.stages
            for position, ref in enumerate(stage.uploads)
        ]

    def prefix(self, stage: TrainingStage) -> str:
        """Return what stands before the paths of a stage's keys; nothing in a recipe without `stages`."""
        return f"stages[{self.stages.index(stage)}]." if stage.name else ""

    def at(self, name: str) -> "Recipe":
        """Return the recipe of one stage alone; the whole one if the name is empty."""
        if not name:
            return self
        (stage,) = (found for found in self.stages if found.name == name)
        own = {"dataprep": stage.dataprep, "training": stage.training}
        return replace(self, stages=(stage,), sections={**self.sections, **own})

    def goes_on(self, number: int) -> bool:
        """Return True if stage `number` trains the adapter of the one before further."""
        return number > 0 and goes_on(self.stages[number - 1], self.stages[number])

    @property
    def base_name(self) -> str:
        """Name under which the untouched base answers."""
        return self.served_base or f"{self.name}-base"

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
        if self.served_base:
            document["base_name"] = self.served_base
        sections = {name: values_of(message) for name, message in self.sections.items()}
        stages = [_stage_document(stage) for stage in self.stages]
        if not self.stages[0].name:
            return document | sections | stages[0]
        named = [{"name": stage.name} | values for stage, values in zip(self.stages, stages, strict=True)]
        return document | {"stages": named} | {key: sections[key] for key in sections if key not in _OF_A_STAGE}


def spec_message(path: str, cls: type[SpecT], values: Mapping[str, Any]) -> SpecT:
    """Return the message of one section given alone.

    Raises:
        InvalidSpec: everything that is wrong with it, each below `path`.
    """
    found = Violations()
    message = cls()
    Filler(found, _DESCRIPTORS).fill(message, values, path)
    found.raise_if_any()
    return message


def parse(document: object) -> Recipe:
    """Return the recipe in a mapping, or in a YAML text.

    Raises:
        InvalidSpec: everything that is wrong with it, each with its path.
    """
    values = _mapping(document)
    found = Violations()
    for key in values:
        if key not in _KEYS:
            found.add(str(key), unknown_name(str(key), _KEYS))
    sections = {name: _section(name, name, values.get(name), found) for name in SECTIONS}
    stages = _stages(values, sections, found)
    if stages:
        sections |= {"dataprep": stages[-1].dataprep, "training": stages[-1].training}
    recipe = Recipe(
        name=_name(values.get("name"), found),
        base_model=_base_model(values.get("base_model"), found),
        base_revision=_text(values.get("base_revision"), "base_revision", found),
        served_base=_served_base(values.get("base_name"), found),
        stages=stages,
        sections=sections,
    )
    found.raise_if_any()
    return recipe


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
            f"the recipe must be a mapping of keys to values, found {kind(document)}",
            violations=[Violation("recipe", f"a mapping is expected, found {kind(document)}")],
        )
    return document


def _name(value: object, found: Violations) -> str:
    if not isinstance(value, str) or not NAME.fullmatch(value):
        found.add(
            "name",
            f"1 to 48 lower-case letters, digits, dots, dashes or underscores are expected, found {show(value)}",
        )
        return ""
    if value.endswith("-base"):
        found.add("name", "names ending in '-base' are kept for the untouched base of another recipe")
    return value


def _base_model(value: object, found: Violations) -> str:
    if not isinstance(value, str) or not value.strip():
        found.add("base_model", f"a hub id, a folder or models/<sha256> is expected, found {show(value)}")
        return ""
    if value.startswith(f"{Kind.MODEL.value}/"):
        try:
            ArtifactRef.parse(value)
        except InvalidRef as error:
            found.add("base_model", str(error))
    return value.strip()


def _served_base(value: object, found: Violations) -> str:
    """Return the name of the base's deployment: those that end in `-base` are no tuned model's."""
    if value is None:
        return ""
    if not isinstance(value, str) or not NAME.fullmatch(value) or not value.endswith("-base"):
        found.add("base_name", f"a name that ends in '-base' is expected, found {show(value)}")
        return ""
    return value


def _text(value: object, path: str, found: Violations) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        found.add(path, f"text is expected, found {show(value)}")
        return ""
    return value


def _stages(values: Mapping[str, Any], sections: Mapping[str, Message], found: Violations) -> tuple[TrainingStage, ...]:
    """Return the recipe's trainings: those of `stages`, or the one of the recipe itself."""
    if "stages" not in values:
        return (_stage("", values.get("data"), "", sections["dataprep"], sections["training"], found),)
    named = values["stages"]
    if not isinstance(named, list) or not named:
        found.add("stages", f"a list of stages, each with `name` and `training`, is expected, found {show(named)}")
        return ()
    if "data" in values and all(isinstance(item, dict) and "data" in item for item in named):
        found.add("data", "each stage has data of its own, so these would be left out; leave the key out")
    stages: list[TrainingStage] = []
    for position, item in enumerate(named):
        path = f"stages[{position}]"
        if not isinstance(item, dict):
            found.add(path, f"a mapping with {', '.join(_STAGE_KEYS)} is expected, found {show(item)}")
            continue
        for key in item:
            if key not in _STAGE_KEYS:
                found.add(f"{path}.{key}", unknown_name(str(key), _STAGE_KEYS))
        name = item.get("name")
        if not isinstance(name, str) or not STAGE_NAME.fullmatch(name):
            found.add(f"{path}.name", f"1 to 24 lower-case letters, digits or dashes are expected, found {show(name)}")
            name = ""
        elif any(stage.name == name for stage in stages):
            found.add(f"{path}.name", f"another stage is called {name!r}; give each its own name")
        # What the recipe says for all stages, a stage says anew where it differs.
        own = [over(sections[key], _section(f"{path}.{key}", key, item.get(key), found)) for key in _OF_A_STAGE]
        data, prefix = (item["data"], f"{path}.") if "data" in item else (values.get("data"), "")
        stages.append(_stage(name, data, prefix, own[0], own[1], found))
    return tuple(stages)


def _stage(
    name: str, data: object, prefix: str, dataprep: Message, training: Message, found: Violations
) -> TrainingStage:
    if not isinstance(training, training_pb2.TrainingSpec):
        raise TypeError(f"the training section is a {type(training).__name__}")
    key = f"{prefix}data"
    uploads = _uploads(data, key, dataprep, found)
    return TrainingStage(name=name, uploads=uploads, dataprep=dataprep, training=training, data_key=key)


def _stage_document(stage: TrainingStage) -> dict[str, Any]:
    dataprep = values_of(stage.dataprep)
    sources = dataprep.pop("sources", None) or [{}] * len(stage.uploads)
    files = [{"file": f"{FILE_PREFIX}{ref.id}"} for ref in stage.uploads]
    data = [file | source for file, source in zip(files, sources, strict=True)]
    return {"data": data, "dataprep": dataprep, "training": values_of(stage.training)}


def _uploads(value: object, path: str, dataprep: Message, found: Violations) -> tuple[ArtifactRef, ...]:
    """Return the files of `data`; what else is said of each goes into dataprep's `sources`, in the same order."""
    if not isinstance(value, list) or not value:
        found.add(path, f"a list with at least one `- file: file-<id>` is expected, found {show(value)}")
        return ()
    refs = [_upload(item, f"{path}[{position}]", found) for position, item in enumerate(value)]
    sources = [_source(item, f"{path}[{position}]", found) for position, item in enumerate(value)]
    if isinstance(dataprep, dataprep_pb2.DataprepSpec) and any(source.ListFields() for source in sources):
        dataprep.sources.extend(sources)
    return tuple(ref for ref in refs if ref is not None)


def _source(item: object, path: str, found: Violations) -> dataprep_pb2.DataSource:
    source = dataprep_pb2.DataSource()
    if isinstance(item, dict):
        said = {key: value for key, value in item.items() if key in source.DESCRIPTOR.fields_by_name}
        Filler(found, _DESCRIPTORS).fill(source, said, path)
    return source


def _upload(item: object, path: str, found: Violations) -> ArtifactRef | None:
    if not isinstance(item, dict):
        found.add(path, f"`file: file-<id>` is expected, found {show(item)}")
        return None
    for key in item:
        if key == "path":
            found.add(
                f"{path}.path",
                "the gateway sees no local files: upload it by POST /v1/files and write `file: file-<id>`",
            )
        elif key not in _SOURCE_KEYS:
            found.add(f"{path}.{key}", unknown_name(str(key), _SOURCE_KEYS))
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
    raise InvalidSpec(f"file-<64 hexadecimal digits> is expected, found {show(identifier)}")


def _section(path: str, name: str, value: object, found: Violations) -> Message:
    message = SECTIONS[name]()
    if name == "dataprep" and isinstance(value, dict) and "sources" in value:
        found.add(f"{path}.sources", "unknown name; what is said of a file stands beside it, under 'data'")
        value = {key: item for key, item in value.items() if key != "sources"}
    if value is not None:
        Filler(found, _DESCRIPTORS).fill(message, value, path)
    return message
