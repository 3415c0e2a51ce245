"""A recipe file: read with line numbers, its data files found. What its fields mean is the gateway's to judge.

Raises CliError with file and line for whatever is wrong with the file itself.
"""

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tunewright.cli.data_files import MAX_FILES, DataFiles, find_data_files
from tunewright.cli.errors import CliError
from tunewright.cli.objects import SCHEME, ObjectFiles, find_objects

_ENTRY = re.compile(r"(stages\[\d+\]\.)?data\[(\d+)\]")


@dataclass(frozen=True)
class Recipe:
    """A recipe as it stands in its file."""

    path: Path
    values: dict[str, Any]
    lines: dict[str, int]
    """Field such as `training.learning_rate` or `data.0.path` → line, counted from 1."""

    def parts(self) -> list[tuple[str, dict[str, Any]]]:
        """Return what has `data` of its own: the recipe, or its stages; each with what stands before its fields' names.

        Raises:
            CliError: `stages` is malformed.
        """
        if "stages" not in self.values:
            return [("", self.values)]
        stages = self.values["stages"]
        if not isinstance(stages, list) or not stages or not all(isinstance(stage, dict) for stage in stages):
            raise self.wrong("stages", "a list of stages is expected, each with `name`, `data` and `training`")
        own = [(f"stages.{number}.", stage) for number, stage in enumerate(stages) if "data" in stage]
        return own if len(own) == len(stages) else [("", self.values), *own]

    def alone(self) -> list[tuple[str, "Recipe"]]:
        """Return each stage by name as a recipe of its own; the recipe itself, without a name, if it has no stages.

        Raises:
            CliError: `stages`, or a section of one, is malformed.
        """
        self.parts()
        if "stages" not in self.values:
            return [("", self)]
        return [
            (str(stage.get("name", number)), self._alone(f"stages.{number}.", stage))
            for number, stage in enumerate(self.values["stages"])
        ]

    def _alone(self, prefix: str, stage: dict[str, Any]) -> "Recipe":
        values = {key: value for key, value in self.values.items() if key != "stages"}
        for name in ("dataprep", "training"):
            sections = [(name, self.values.get(name) or {}), (f"{prefix}{name}", stage.get(name) or {})]
            for field, section in sections:
                if not isinstance(section, dict):
                    raise self.wrong(field, "a mapping of settings is expected")
            values[name] = sections[0][1] | sections[1][1]
        if "data" in stage:
            values["data"] = stage["data"]
        own = {field.removeprefix(prefix): line for field, line in self.lines.items() if field.startswith(prefix)}
        return Recipe(self.path, values, {**self.lines, **own})

    def uploads(self, store: Mapping[str, str] | None = None) -> list[tuple[str, DataFiles | ObjectFiles]]:
        """Return the data files to send: their field, such as `data.0` or `stages.1.data.0`, and what lies there.

        Args:
            store: variables that tell of the object store, for `s3://` where the environment does not.

        Raises:
            CliError: `data` is malformed, or a file is missing, empty, or no file; or a folder holds no data.
        """
        return [found for prefix, part in self.parts() for found in self._uploads_of(prefix, part, store or {})]

    def _uploads_of(
        self, prefix: str, part: Mapping[str, Any], store: Mapping[str, str]
    ) -> list[tuple[str, DataFiles | ObjectFiles]]:
        data = part.get("data")
        if not isinstance(data, list) or not data:
            raise self.wrong(f"{prefix}data", "at least one file is expected, as a list: `data: [{path: raw.jsonl}]`")
        found: list[tuple[str, DataFiles | ObjectFiles]] = []
        for index, item in enumerate(data):
            field = f"{prefix}data.{index}"
            if not isinstance(item, dict):
                raise self.wrong(field, "a mapping is expected: `path: FILE` or FOLDER, or `file: file-…` of an upload")
            if "path" in item:
                found.append((field, self._data_files(field, item["path"], store)))
        count = len(data) - len(found) + sum(files.count for _, files in found)
        if count > MAX_FILES:
            raise self.wrong(f"{prefix}data", f"{count:,} files; a run takes {MAX_FILES:,}")
        return found

    def with_files(self, ids: Mapping[str, Sequence[str]]) -> "Sent":
        """Return the recipe with each path replaced by the ids of its files, an entry each.

        Files of a folder are one source, named as the folder, if the entry gives no name.
        """
        values = dict(self.values)
        if "stages" in values:
            values["stages"] = [dict(stage) for stage in values["stages"]]
        origins: dict[str, list[int]] = {}
        for prefix, part in self.parts():
            data: list[Any] = []
            written = prefix.replace("stages.", "stages[").replace(".", "].") if prefix else ""
            origins[written] = []
            for index, item in enumerate(part["data"]):
                entries = _entries(item, ids.get(f"{prefix}data.{index}"))
                data += entries
                origins[written] += [index] * len(entries)
            place = values["stages"][int(prefix.split(".")[1])] if prefix else values
            place["data"] = data
        return Sent(values, origins)

    def wrong(self, field: str, why: str) -> CliError:
        """Return the error that says what is wrong with a field, and on which line it stands."""
        return CliError(f"{self.place(field)}: {why}", remedy="Correct the recipe and run it again.")

    def place(self, field: str) -> str:
        """Return file, line and name of a field, or of the nearest thing around it that has a line."""
        name = field.replace("[", ".").replace("]", "")
        while name and name not in self.lines:
            name = name.rpartition(".")[0]
        line = self.lines.get(name)
        return f"{self.path}{f':{line}' if line else ''}: {field}"

    def _data_files(self, field: str, named: object, store: Mapping[str, str]) -> DataFiles | ObjectFiles:
        if not isinstance(named, str):
            raise self.wrong(f"{field}.path", "the path of a file or a folder is expected")
        if "://" in named and not named.startswith(SCHEME):
            why = f"files and folders of this machine and {SCHEME}bucket/prefix/ are read, not {named}: download it"
            raise self.wrong(f"{field}.path", why)
        try:
            if named.startswith(SCHEME):
                return find_objects(named, store)
            return find_data_files((self.path.parent / Path(named).expanduser()).absolute())
        except CliError as error:
            raise CliError(
                f"{self.place(f'{field}.path')}: {error.message}",
                remedy=error.remedy or "Correct the recipe and run it again.",
            ) from error


@dataclass(frozen=True)
class Sent:
    """A recipe as the gateway gets it."""

    values: dict[str, Any]
    origins: Mapping[str, list[int]]
    """What stands before `data` (nothing, or `stages[1].`) → of each of its entries the place in the recipe's own."""

    def field_of_recipe(self, field: str) -> str:
        """Return the field of the recipe that a field of what was sent stands for."""
        match = _ENTRY.match(field)
        if match is None:
            return field
        prefix, number = match[1] or "", int(match[2])
        # A stage without data of its own was sent the recipe's.
        prefix = prefix if prefix in self.origins else ""
        origins = self.origins.get(prefix, [])
        return f"{prefix}data[{origins[number]}]{field[match.end() :]}" if number < len(origins) else field


def _entries(item: dict[str, Any], ids: Sequence[str] | None) -> list[dict[str, Any]]:
    """Return an entry of `data` with the ids of its files in place of its path, one for each."""
    if ids is None:
        return [item]
    said = {key: value for key, value in item.items() if key != "path"}
    if len(ids) > 1:
        said = {"name": str(item["path"]).rstrip("/")} | said
    return [said | {"file": identifier} for identifier in ids]


def load_recipe(path: Path) -> Recipe:
    """Return the recipe in a file.

    Raises:
        CliError: the file cannot be read, is no YAML, repeats a key, or is no mapping; the line is named.
    """
    text = _read(path)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        raise _syntax(path, text, error) from error
    except yaml.YAMLError as error:
        raise CliError(f"{path}: no readable YAML: {error}", remedy="Save it as UTF-8 text.") from error
    if not isinstance(node, yaml.MappingNode):
        remedy = "A recipe has fields such as `name:`, `base_model:` and `data:`; see recipes/."
        raise CliError(f"{path}:1: a recipe is expected, a mapping of fields", remedy=remedy)
    lines: dict[str, int] = {}
    _note_lines(path, node, "", lines)
    return Recipe(path, values, lines)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        message = f"{path}: byte {error.start} is no UTF-8"
        raise CliError(message, remedy="Save the recipe as UTF-8 text.") from error
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror}"
        raise CliError(message, remedy="Name a recipe: recipes/ holds ready ones.") from error


def _syntax(path: Path, text: str, error: yaml.MarkedYAMLError) -> CliError:
    mark = error.problem_mark or error.context_mark
    if mark is None:
        return CliError(f"{path}: {error}")
    quoted = text.splitlines()[mark.line : mark.line + 1]
    pointer = " " * mark.column + "^"
    message = f"{path}:{mark.line + 1}:{mark.column + 1}: {error.problem or error.context}"
    remedy = "Check indentation (spaces, no tabs), colons and quotes on this line and the one above."
    return CliError(message, lines=[*quoted, pointer] if quoted else [], remedy=remedy)


def _note_lines(path: Path, node: yaml.Node, prefix: str, lines: dict[str, int]) -> None:
    """Write down where each field stands; PyYAML itself would silently keep the last of two equal keys."""
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            lines[f"{prefix}{index}"] = item.start_mark.line + 1
            _note_lines(path, item, f"{prefix}{index}.", lines)
    elif isinstance(node, yaml.MappingNode):
        seen: dict[Hashable, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.value in seen:
                message = f"{path}:{line}: {prefix}{key.value} is given twice, first on line {seen[key.value]}"
                raise CliError(message, remedy="Keep one of the two.")
            seen[key.value] = line
            lines[f"{prefix}{key.value}"] = line
            _note_lines(path, value, f"{prefix}{key.value}.", lines)
