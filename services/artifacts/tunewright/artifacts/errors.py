"""What can go wrong between a room and the object store.

ArtifactError
├── InvalidRef           a text that names no artifact
├── ObjectNotFound       no such object, hence no such artifact (no manifest, no artifact)
├── ObjectExists         a create-only put lost: somebody committed first
├── IntegrityError       bytes are not those that the manifest promises
├── UnsafePath           a path that leaves its folder
└── StoreUnavailable     the store does not answer, refuses or is full (worth a retry)

Knows nothing of gRPC: the chassis maps these classes in one place.
"""


class ArtifactError(Exception):
    """Base of all errors of this room."""


class InvalidRef(ArtifactError):
    """A text that should name an artifact and does not."""


class ObjectNotFound(ArtifactError):
    """The store holds no object under this key."""

    def __init__(self, key: str) -> None:
        super().__init__(f"the object store holds nothing under {key!r}")
        self.key = key


class ObjectExists(ArtifactError):
    """A create-only put found the key taken."""

    def __init__(self, key: str) -> None:
        super().__init__(f"the object store already holds {key!r}")
        self.key = key


class IntegrityError(ArtifactError):
    """Size or SHA-256 of a file differs from what its manifest promises."""


class UnsafePath(ArtifactError):
    """A relative path that is absolute, climbs out of its folder, or has odd characters."""


class StoreUnavailable(ArtifactError):
    """The store does not answer, refuses the credentials, or has no room left."""


class BrokenOff(StoreUnavailable):
    """The store answered, and the connection broke while an object came: worth another connection at once."""
