"""Names of artifacts: `datasets/<sha256>` and its relatives. Knows nothing of stores or files."""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from tunewright.artifacts.errors import InvalidRef

_SHA256 = re.compile(r"[0-9a-f]{64}")


class Kind(StrEnum):
    """What an artifact is; the value is the first part of its key in the store."""

    UPLOAD = "uploads"
    DATASET = "datasets"
    ADAPTER = "adapters"
    MODEL = "models"
    REPORT = "reports"
    CHECKPOINT = "checkpoints"


@dataclass(frozen=True, slots=True)
class ArtifactRef:
    """Name of one immutable artifact.

    Raises:
        InvalidRef: the id is not 64 lower-case hexadecimal digits.
    """

    kind: Kind
    id: str
    """SHA-256 of the artifact's identity, see `manifest.Manifest.identity`."""

    def __post_init__(self) -> None:
        if not _SHA256.fullmatch(self.id):
            raise InvalidRef(f"{self.id!r} is no artifact id: 64 lower-case hexadecimal digits are expected")

    def __str__(self) -> str:
        return f"{self.kind.value}/{self.id}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the reference that `str` wrote, such as `datasets/9f86d0…`.

        Raises:
            InvalidRef: unknown kind or malformed id.
        """
        kind, _, identifier = text.partition("/")
        try:
            return cls(Kind(kind), identifier)
        except ValueError as error:
            kinds = ", ".join(member.value for member in Kind)
            raise InvalidRef(f"{text!r} names no artifact: expected <kind>/<sha256> with a kind of {kinds}") from error

    @property
    def short(self) -> str:
        """Kind and the first 12 digits, for people; not unique by contract."""
        return f"{self.kind.value}/{self.id[:12]}"
