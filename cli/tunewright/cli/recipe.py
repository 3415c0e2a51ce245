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

_ENTRY = re.compile(r"data\[(\d+)\]")


@dataclass(frozen=True)
class Recipe:
    """A recipe as it stands in its file."""

    path: Path
    values: dict[str, Any]
    lines: dict[str, int]
    """Field such as `training.learning_rate` or `data.0.path` → line, counted from 1."""

    def uploads(self, store: Mapping[str, str] | None = None) -> list[tuple[int, DataFiles | ObjectFiles]]:
        """Return the data files to send: their place in `data`, and what lies there.

        Args:
            store: variables that tell of the object store, for `s3://` where the environment does not.

        Raises:
            CliError: `data` is malformed, or a file is missing, empty, or no file; or a folder holds no data.
        """
        data = self.values.get("data")
        if not isinstance(data, list) or not data:
            raise self.wrong("data", "at least one file is expected, as a list: `data: [{path: raw.jsonl}]`")
        found: list[tuple[int, DataFiles | ObjectFiles]] = []
        for index, item in enumerate(data):
            field = f"data.{index}"
            if not isinstance(item, dict):
                raise self.wrong(field, "a mapping is expected: `path: FILE` or FOLDER, or `file: file-…` of an upload")
            if "path" in item:
                found.append((index, self._data_files(field, item["path"], store or {})))
        count = len(data) - len(found) + sum(files.count for _, files in found)
        if count > MAX_FILES:
            raise self.wrong("data", f"{count:,} files; a run takes {MAX_FILES:,}")
        return found

    def with_files(self, ids: Mapping[int, Sequence[str]]) -> "Sent":
        """Return the recipe with each path replaced by the ids of its files, an entry each.

        Files of a folder are one source, named as the folder, if the entry gives no name.
        """
        data: list[Any] = []
        origins: list[int] = []
        for index, item in enumerate(self.values["data"]):
            entries = [item]
            if index in ids:
                said = {key: value for key, value in item.items() if key != "path"}
                if len(ids[index]) > 1:
                    said = {"name": str(item["path"]).rstrip("/")} | said
                entries = [said | {"file": identifier} for identifier in ids[index]]
            data += entries
            origins += [index] * len(entries)
        return Sent({**self.values, "data": data}, origins)

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
    origins: list[int]
    """Of each entry of `data`: its place in the recipe's own."""

    def field_of_recipe(self, field: str) -> str:
        """Return the field of the recipe that a field of what was sent stands for."""
        match = _ENTRY.match(field)
        if match is None or int(match[1]) >= len(self.origins):
            return field
        return f"data[{self.origins[int(match[1])]}]{field[match.end() :]}"


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
