"""Who may come in: `Authorization: Bearer <key>` on everything under /v1, with the scope that the route wants.

Knows keys, not users. A request that comes in is counted, and held against the key's limits.
"""

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPBearer

from tunewright.chassis.errors import Unauthenticated
from tunewright.gateway.http.errors import Forbidden, TooManyRequests
from tunewright.gateway.http.state import state_of
from tunewright.gateway.keys import KeyRecord, Scope

BEARER = HTTPBearer(auto_error=False, description="An API key made by `python -m tunewright.gateway keys create`.")


async def require_key(request: Request) -> KeyRecord:
    """Return the record of the request's key.

    Raises:
        Unauthenticated: no key, or a wrong one.
        TooManyRequests: the key's limit is used up.
    """
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key:
        raise Unauthenticated("You didn't provide an API key: send it as `Authorization: Bearer YOUR_KEY`.")
    state = state_of(request)
    record = state.keys.check(key.strip())
    request.scope["tunewright.key"] = record.id
    exceeded = state.meter.admit(record)
    request.scope["tunewright.rate"] = state.meter.headers(record)
    if exceeded is not None:
        text = f"This key's limit of {exceeded.limit} {exceeded.what} per minute is reached."
        raise TooManyRequests(text, retry_after=exceeded.seconds)
    state.usage.count(record, requests=1)
    return record


def _with_scope(*scopes: Scope) -> Callable[[Request], Awaitable[KeyRecord]]:
    async def check(request: Request) -> KeyRecord:
        """Return the caller's key. Raises Forbidden if it has none of the scopes."""
        record = await require_key(request)
        if not record.may(*scopes):
            wanted = " or ".join(scopes)
            raise Forbidden(
                f"You have insufficient permissions for this operation. Missing scope: {wanted}.",
                remedy=f"Use a key made with `--scope {scopes[0]}`.",
            )
        return record

    return check


AnyKey = Annotated[KeyRecord, Depends(_with_scope(Scope.TRAIN, Scope.INFER))]
TrainKey = Annotated[KeyRecord, Depends(_with_scope(Scope.TRAIN))]
InferKey = Annotated[KeyRecord, Depends(_with_scope(Scope.INFER))]
AdminKey = Annotated[KeyRecord, Depends(_with_scope(Scope.ADMIN))]
