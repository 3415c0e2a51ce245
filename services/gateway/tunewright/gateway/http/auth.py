"""Who may come in: `Authorization: Bearer <key>` on everything under /v1. Knows keys, not users."""

from fastapi import Request
from fastapi.security import HTTPBearer

from tunewright.chassis.errors import Unauthenticated
from tunewright.gateway.http.state import state_of
from tunewright.gateway.keys import KeyRecord

BEARER = HTTPBearer(auto_error=False, description="An API key made by `python -m tunewright.gateway keys create`.")


async def require_key(request: Request) -> KeyRecord:
    """Return the record of the request's key.

    Raises:
        Unauthenticated: no key, or a wrong one.
    """
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key:
        raise Unauthenticated("You didn't provide an API key: send it as `Authorization: Bearer YOUR_KEY`.")
    record = state_of(request).keys.check(key.strip())
    request.scope["tunewright.key"] = record.id
    return record
