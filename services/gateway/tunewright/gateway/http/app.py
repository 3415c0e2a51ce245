"""The HTTP application: its routes, and what stands around them. Starts nothing by itself."""

from collections.abc import Callable
from functools import partial
from typing import Any

from fastapi import Depends, FastAPI

from tunewright.gateway.http import (
    aliases,
    artifacts,
    chat,
    errors,
    files,
    fine_tuning,
    health,
    models,
    runs,
    snippets,
    uploads,
    usage,
)
from tunewright.gateway.http.auth import BEARER
from tunewright.gateway.http.middleware import Envelope
from tunewright.gateway.http.state import State


def create_app(state: State) -> FastAPI:
    """Return the application over these parts. Its OpenAPI document is at /openapi.json."""
    app = FastAPI(
        title="Tunewright",
        version="0.1.0",
        description="Raw instruction files to a served, verified, fine-tuned model; OpenAI's dialect where it has one.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.gateway = state
    errors.install(app)
    app.include_router(health.router)
    for module in (files, uploads, fine_tuning, runs, models, aliases, artifacts, snippets, chat, usage):
        # BEARER puts the scheme into the OpenAPI document; each route's own `require_key` is what checks.
        app.include_router(module.router, dependencies=[Depends(BEARER)])
    app.openapi = partial(_document, app.openapi)  # type: ignore[method-assign] # FastAPI's own way to change it
    app.add_middleware(Envelope, max_body_bytes=state.settings.max_body_bytes)
    return app


def _document(made: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the OpenAPI document with OpenAI's error in place of FastAPI's: wrong requests get a 400, never a 422."""
    document = made()
    shapes = document.get("components", {}).get("schemas", {})
    if "Error" not in shapes:
        shapes["Error"] = errors.SCHEMA
        for name in ("HTTPValidationError", "ValidationError"):
            shapes.pop(name, None)
        for operations in document["paths"].values():
            for operation in operations.values():
                operation["responses"].pop("422", None)
                operation["responses"]["default"] = {
                    "description": "An error",
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
                }
    return document
