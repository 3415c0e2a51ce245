"""Which gateway is meant, and with which key: options, then environment, then the local stack found upward.

Knows nothing of what is asked of it.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

from tunewright.cli.errors import CliError
from tunewright.cli.stack.folder import StackFolder, find_stack


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A gateway and the key for it."""

    url: str
    """Root without a slash at its end, such as http://127.0.0.1:8080."""
    api_key: str = field(repr=False)
    origin: str
    """Where the address was found, for error messages."""


def local_stack(directory: Path | None = None) -> StackFolder | None:
    """Return the stack that is meant: the folder given, TUNEWRIGHT_STACK_DIR, or the nearest var/stack upward."""
    named = directory or os.environ.get("TUNEWRIGHT_STACK_DIR")
    if named:
        return StackFolder(Path(named))
    return find_stack(Path.cwd())


def find_endpoint(url: str | None, api_key: str | None, directory: Path | None = None) -> Endpoint:
    """Return the gateway that is meant.

    Raises:
        CliError: neither an address nor a local stack is known, or there is no key for the address.
    """
    stack = local_stack(directory)
    stack = stack if stack is not None and stack.exists else None
    if url:
        if not api_key:
            raise CliError(f"no API key for {url}", remedy="Give --api-key, or set TUNEWRIGHT_API_KEY.")
        return Endpoint(url=_root(url), api_key=api_key, origin="TUNEWRIGHT_URL or --url")
    if stack is None:
        remedy = "Start one with `tunewright up`, or set TUNEWRIGHT_URL and TUNEWRIGHT_API_KEY."
        raise CliError("no gateway is known: there is no local stack here, and no address was given", remedy=remedy)
    status = stack.status()
    if not status.gateway_port:
        raise CliError(f"the stack in {stack.path} was never up", remedy="Start it with `tunewright up`.")
    key = api_key or stack.config().api_key
    return Endpoint(url=status.url, api_key=key, origin=f"the local stack in {stack.path}")


def _root(url: str) -> str:
    """Return the gateway's root: people also give the OpenAI form of the address, which ends in /v1."""
    if "://" not in url:
        raise CliError(f"{url!r} is no address", remedy="Write it whole, such as http://127.0.0.1:8080.")
    return url.rstrip("/").removesuffix("/v1")
