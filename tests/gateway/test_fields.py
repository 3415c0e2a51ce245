"""Messages are filled from plain values whatever they are made of: seen on protobuf's own messages."""

from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message

from tunewright.chassis.errors import InvalidSpec
from tunewright.gateway.fields import Filler, Violations, values_of

_KINDS = descriptor_pb2.FieldDescriptorProto


def _message() -> Message:
    """Return a message with a map of texts, a map of messages, a list of messages and a list of numbers."""
    file = descriptor_pb2.FileDescriptorProto(name="filling.proto", package="filling", syntax="proto3")
    inner = file.message_type.add(name="Inner")
    inner.field.add(name="weight", number=1, type=_KINDS.TYPE_DOUBLE, label=_KINDS.LABEL_OPTIONAL)
    outer = file.message_type.add(name="Outer")
    for name, kind, type_name in (
        ("Texts", _KINDS.TYPE_STRING, None),
        ("Inners", _KINDS.TYPE_MESSAGE, ".filling.Inner"),
    ):
        entry = outer.nested_type.add(name=f"{name}Entry", options=descriptor_pb2.MessageOptions(map_entry=True))
        entry.field.add(name="key", number=1, type=_KINDS.TYPE_STRING, label=_KINDS.LABEL_OPTIONAL)
        entry.field.add(name="value", number=2, type=kind, type_name=type_name, label=_KINDS.LABEL_OPTIONAL)
    fields = (
        ("texts", ".filling.Outer.TextsEntry"),
        ("inners", ".filling.Outer.InnersEntry"),
        ("list", ".filling.Inner"),
    )
    for number, (name, type_name) in enumerate(fields, 1):
        outer.field.add(
            name=name, number=number, type=_KINDS.TYPE_MESSAGE, type_name=type_name, label=_KINDS.LABEL_REPEATED
        )
    outer.field.add(name="numbers", number=9, type=_KINDS.TYPE_UINT32, label=_KINDS.LABEL_REPEATED)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("filling.Outer"))()


def _filled(values: dict[str, Any]) -> Message:
    message, found = _message(), Violations()
    Filler(found, {}).fill(message, values, "top")
    found.raise_if_any()
    return message


def test_maps_and_lists_of_messages_are_read_and_written_back_as_they_were() -> None:
    values = {
        "texts": {"b": "2", "a": "1"},
        "inners": {"x": {"weight": 0.5}, "y": {}},
        "list": [{"weight": 1.0}, {}],
        "numbers": [1, 2],
    }
    assert values_of(_filled(values)) == values
    assert list(values_of(_filled(values))["texts"]) == ["a", "b"]


@pytest.mark.parametrize(
    ("values", "where"),
    [
        ({"texts": {"a": 1}}, "top.texts.a"),
        ({"texts": ["a"]}, "top.texts"),
        ({"texts": {1: "a"}}, "top.texts.1"),
        ({"inners": {"x": {"weight": "heavy"}}}, "top.inners.x.weight"),
        ({"inners": {"x": 3}}, "top.inners.x"),
        ({"list": [{}, {"wieght": 1}]}, "top.list[1].wieght"),
        ({"list": [{}, 3]}, "top.list[1]"),
        ({"list": {}}, "top.list"),
        ({"numbers": [1, -1]}, "top.numbers"),
    ],
)
def test_a_mistake_is_named_with_its_whole_path(values: dict[str, Any], where: str) -> None:
    with pytest.raises(InvalidSpec) as wrong:
        _filled(values)
    assert [violation.field for violation in wrong.value.violations] == [where]
