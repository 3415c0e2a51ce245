"""/v1/snippets: ready programs for one model, with this gateway's own address in them."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool

from tunewright.gateway.http.auth import AnyKey
from tunewright.gateway.http.state import state_of
from tunewright.gateway.snippets import snippets

router = APIRouter(tags=["models"])


@router.get("/v1/snippets")
async def get_snippets(request: Request, model: Annotated[str, Query(max_length=256)], key: AnyKey) -> dict[str, Any]:
    """Return programs that ask a model in curl, Python and Node."""
    await run_in_threadpool(state_of(request).models.get, key.project, model)
    url = f"{str(request.base_url).rstrip('/')}/v1"
    return {"object": "snippets", "model": model, "base_url": url, "snippets": snippets(url, model)}
