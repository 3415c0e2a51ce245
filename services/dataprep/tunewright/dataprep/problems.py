"""What is wrong with a row that does not have its file's shape. Knows no shapes."""

from typing import Any

from tunewright.dataprep.readers import Problem


class RowError(Exception):
    """A row that does not have its file's shape."""

    def __init__(self, reason: str, field: str, description: str) -> None:
        super().__init__(description)
        self.problem = Problem(reason, field, description)


def kind_of(value: Any) -> str:  # noqa: ANN401 - any value of JSON or Parquet
    """Return what a value is, in words."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return "null" if value is None else names.get(type(value), f"a value of type {type(value).__name__}")
