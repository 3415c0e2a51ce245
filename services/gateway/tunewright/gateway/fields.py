"""Fills a room's proto message from YAML values, and reads it back. Every mistake is named with its full path.

Messages in messages, lists and maps are followed however deep, by the descriptors alone. Knows no recipe and no room.
"""

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from tunewright.chassis.errors import InvalidSpec, Violation
from tunewright.chassis.spec import unknown_name

_WHOLE = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}
_FRACTIONAL = {FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT}
# YAML 1.1 reads 2e-4 as text, because its numbers need a dot; people write learning rates like that.
_NUMBER = re.compile(r"[-+]?\d+(\.\d*)?([eE][-+]?\d+)?")


# Protobuf's C and Python descriptors share no base class, and its type stubs name only some of their attributes.
Descriptor = Any
Field = Any


class Violations:
    """Everything that was found to be wrong, so that it can be told at once."""

    def __init__(self) -> None:
        self._found: list[Violation] = []

    def add(self, path: str, description: str) -> None:
        """Take one mistake, with the path of the key where it stands."""
        self._found.append(Violation(path, description))

    def raise_if_any(self) -> None:
        """Refuse what was read.

        Raises:
            InvalidSpec: with all mistakes.
        """
        if self._found:
            text = "; ".join(f"{v.field}: {v.description}" for v in self._found)
            raise InvalidSpec(f"not valid: {text}", violations=self._found)


class Filler:
    """Sets fields of messages.

    Args:
        found: takes what is wrong.
        sections: name → descriptor of all sections, to say where a misplaced key belongs.
    """

    def __init__(self, found: Violations, sections: Mapping[str, Descriptor]) -> None:
        self._found = found
        self._sections = sections

    def fill(self, message: Message, values: object, path: str) -> None:
        """Set the fields that the mapping `values` names; null leaves a field to the room's default."""
        if not isinstance(values, dict):
            self._found.add(path, f"a mapping of keys to values is expected, found {show(values)}")
            return
        fields = message.DESCRIPTOR.fields_by_name
        for key, value in values.items():
            where = f"{path}.{key}"
            if key not in fields:
                self._found.add(where, self.unknown(str(key), path, list(fields)))
            elif value is not None:
                try:
                    self._set(message, fields[key], value, where)
                except _Wrong as wrong:
                    self._found.add(where, str(wrong))

    def unknown(self, key: str, path: str, known: list[str]) -> str:
        """Say that a key is not known: with the section where it belongs, or with the nearest known one."""
        section = path.partition(".")[0]
        found = [home for name, inside in self._sections.items() for home in _homes(key, name, inside) if home != path]
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        for home in found:
            if not near or home.partition(".")[0] == section:
                return f"unknown name; it belongs to {home!r}"
        return unknown_name(key, known) if known else "unknown name; this section has no keys"

    def _set(self, message: Message, descriptor: Field, value: object, path: str) -> None:
        target = getattr(message, descriptor.name)
        if _is_map(descriptor):
            self._set_map(target, descriptor, value, path)
        elif descriptor.is_repeated and _is_message(descriptor):
            for position, item in enumerate(_checked(value, list, "a list")):
                self.fill(target.add(), item, f"{path}[{position}]")
        elif descriptor.is_repeated:
            target.extend([_converted(descriptor, item) for item in _checked(value, list, "a list")])
        elif _is_message(descriptor):
            target.SetInParent()
            self.fill(target, value, path)
        else:
            setattr(message, descriptor.name, _converted(descriptor, value))

    def _set_map(self, target: Any, descriptor: Field, value: object, path: str) -> None:  # noqa: ANN401 - a map of protobuf's, whose type has no name
        names, inner = (descriptor.message_type.fields_by_name[name] for name in ("key", "value"))
        for key, item in _checked(value, dict, "a mapping").items():
            where = f"{path}.{key}"
            try:
                name = _converted(names, key)
                if _is_message(inner):
                    self.fill(target[name], item, where)
                else:
                    target[name] = _converted(inner, item)
            except _Wrong as wrong:
                self._found.add(where, str(wrong))


def values_of(message: Message) -> dict[str, Any]:
    """Return the fields that are set; `Filler.fill` is the inverse.

    Not MessageToDict: that writes whole numbers of 64 bits as text.
    """
    return {descriptor.name: _value(descriptor, value) for descriptor, value in message.ListFields()}


def _homes(key: str, path: str, descriptor: Descriptor) -> Iterator[str]:
    """Yield the paths of the messages, from `path` down, that have a field of this name."""
    if key in descriptor.fields_by_name:
        yield path
    for field in descriptor.fields:
        if _is_message(field) and not field.is_repeated:
            yield from _homes(key, f"{path}.{field.name}", field.message_type)


def show(value: object) -> str:
    """Return a value as people may recognise it, with what it is."""
    return "nothing" if value is None else f"{value!r:.80} ({kind(value)})"


def kind(value: object) -> str:
    """Return what YAML made of a value, in words."""
    names = {
        str: "text",
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        list: "a list",
        dict: "a mapping",
    }
    return "nothing" if value is None else names.get(type(value), type(value).__name__)


class _Wrong(Exception):
    def __init__(self, expected: str, value: object) -> None:
        super().__init__(f"{expected} is expected, found {show(value)}")


def _is_message(descriptor: Field) -> bool:
    return bool(descriptor.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE)


def _is_map(descriptor: Field) -> bool:
    return _is_message(descriptor) and bool(descriptor.message_type.GetOptions().map_entry)


def _value(descriptor: Field, value: Any) -> object:  # noqa: ANN401 - whatever the field holds
    if _is_map(descriptor):
        inner = descriptor.message_type.fields_by_name["value"]
        return {key: values_of(item) if _is_message(inner) else item for key, item in sorted(value.items())}
    one = values_of if _is_message(descriptor) else (lambda item: item)
    return [one(item) for item in value] if descriptor.is_repeated else one(value)


def _checked(value: object, cls: type[Any], expected: str) -> Any:  # noqa: ANN401 - an instance of `cls`
    if not isinstance(value, cls):
        raise _Wrong(expected, value)
    return value


def _converted(descriptor: Field, value: object) -> object:
    type_ = descriptor.cpp_type
    if type_ in _WHOLE:
        return _whole(value, *_WHOLE[type_])
    if type_ in _FRACTIONAL:
        return _fractional(value)
    if type_ == FieldDescriptor.CPPTYPE_BOOL:
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
