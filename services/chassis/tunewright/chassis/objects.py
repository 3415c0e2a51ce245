"""Objects of the store for a program beside the services: `python -m tunewright.chassis.objects list|get s3://BUCKET/…`.

`list` writes a JSON line for each object below the prefix: key, size_bytes. `get` reads lines with key, size_bytes and
path, copies each object there, and answers each with its line. Address and keys are the TUNEWRIGHT_STORE_ variables of
the services; the bucket is the address's own. Knows nothing of what is in objects.
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

from tunewright.artifacts import ArtifactError, IntegrityError, ObjectNotFound
from tunewright.artifacts.foreign_objects import copy, listed
from tunewright.artifacts.s3_client import S3Client
from tunewright.chassis.errors import InvalidData, InvalidSpec, TunewrightError, foreign
from tunewright.chassis.settings import ServiceSettings, read_settings

MOST_OBJECTS = 100_000
"""Of one listing: beyond, somebody named a whole bucket."""


def list_objects(client: S3Client, address: str, prefix: str, answers: TextIO) -> None:
    """Write a line for each object below the prefix.

    Raises:
        InvalidData: there are more than anybody means.
        StoreUnavailable: the store does not answer or refuses.
    """
    for number, found in enumerate(listed(client, prefix)):
        if number == MOST_OBJECTS:
            raise InvalidData(f"{address} holds more than {MOST_OBJECTS:,} objects", remedy="Name a longer prefix.")
        answers.write(json.dumps({"key": found.key, "size_bytes": found.size_bytes}) + "\n")


def get_objects(client: S3Client, bucket: str, questions: Iterable[str], answers: TextIO) -> None:
    """Copy each object that is asked for.

    Raises:
        InvalidData: one is gone or has changed since it was listed.
        StoreUnavailable: the store does not answer or refuses.
    """
    for question in questions:
        asked = json.loads(question)
        try:
            copy(client, asked["key"], Path(asked["path"]), asked["size_bytes"])
        except (ObjectNotFound, IntegrityError) as error:
            problem = f"s3://{bucket}/{asked['key']} has changed since it was listed"
            raise InvalidData(problem, remedy="Run it again when nobody writes there.") from error
        answers.write(question)
        answers.flush()


def main(arguments: list[str]) -> None:
    """Do what the command line says; ends the process with 1, one clear line and a remedy on an error."""
    what, address = arguments
    bucket, _, prefix = address.removeprefix("s3://").partition("/")
    try:
        client = _client(read_settings(ServiceSettings), bucket)
        if what == "list":
            list_objects(client, address, prefix, sys.stdout)
        else:
            get_objects(client, bucket, sys.stdin, sys.stdout)
    except (TunewrightError, ArtifactError, OSError) as error:
        told = foreign(error)
        sys.exit(f"objects: {told.message}\nobjects: {told.remedy}")


def _client(settings: ServiceSettings, bucket: str) -> S3Client:
    if not settings.store_access_key:
        raise InvalidSpec(
            f"no keys are known for s3://{bucket}",
            remedy="Set TUNEWRIGHT_STORE_ENDPOINT, TUNEWRIGHT_STORE_ACCESS_KEY and TUNEWRIGHT_STORE_SECRET_KEY.",
        )
    secret = settings.store_secret_key.get_secret_value()
    access, region = settings.store_access_key, settings.store_region
    try:
        return S3Client(settings.store_endpoint, bucket, access, secret, region, settings.store_ca)
    except ValueError as error:
        raise InvalidSpec(
            f"s3://{bucket}: {error}", remedy="Correct the bucket, or TUNEWRIGHT_STORE_ENDPOINT."
        ) from error


if __name__ == "__main__":
    main(sys.argv[1:])
