"""/v1/models and /v1/deployments: what is served, under which names, and by which engines."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse
from google.protobuf.json_format import MessageToDict
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from tunewright.artifacts import ArtifactRef, InvalidRef
from tunewright.chassis.errors import Conflict, InvalidSpec, Violation
from tunewright.chassis.records import ref_from_proto, ref_to_proto
from tunewright.gateway.clients import Room
from tunewright.gateway.http.auth import require_key
from tunewright.gateway.http.state import State, state_of
from tunewright.gateway.keys import KeyRecord
from tunewright.gateway.recipe import NAME, spec_message
from tunewright.gateway.routing import ModelNotFound, Served
from tunewright.v1 import inference_pb2

router = APIRouter(tags=["models"])
Key = Annotated[KeyRecord, Depends(require_key)]


class CreateDeployment(BaseModel):
    """What starts a deployment."""

    model_config = ConfigDict(extra="forbid")

    name: str
    """The name applications use as `model`."""
    model: str
    """Reference of the model: models/<sha256>."""
    adapter: str | None = None
    """Reference of an adapter on top: adapters/<sha256>."""
    spec: dict[str, Any] = Field(default_factory=dict)
    """The recipe's `deployment` section."""


@router.get("/v1/models")
async def list_models(request: Request, _key: Key) -> dict[str, Any]:
    """List the names that may be used as `model`."""
    table = await run_in_threadpool(state_of(request).routes.table)
    behind = {served.deployment.name for served in table.values() if served.alias is not None}
    shown = [served for name, served in sorted(table.items()) if served.alias is not None or name not in behind]
    return {"object": "list", "data": [_model(served) for served in shown]}


@router.get("/v1/models/{model:path}")
async def retrieve_model(request: Request, model: str, _key: Key) -> dict[str, Any]:
    """Return one model."""
    table = await run_in_threadpool(state_of(request).routes.table)
    if model not in table:
        raise ModelNotFound(f"The model {model!r} does not exist.", violations=[Violation("model", "unknown")])
    return _model(table[model])


@router.get("/v1/deployments")
async def list_deployments(request: Request, _key: Key) -> dict[str, Any]:
    """List all deployments, stopped and failed ones as well."""
    found = await run_in_threadpool(state_of(request).rooms.deployments)
    return {"object": "list", "data": [_deployment(item) for item in found], "has_more": False}


@router.post("/v1/deployments", status_code=202)
async def create_deployment(request: Request, body: CreateDeployment, _key: Key) -> JSONResponse:
    """Start a deployment, or attach to the one that runs. It answers once its state is ready."""
    state = state_of(request)
    deployment = await run_in_threadpool(_deploy, state, body)
    state.routes.forget()
    return JSONResponse(_deployment(deployment), 202)


@router.get("/v1/deployments/{name}")
async def retrieve_deployment(request: Request, name: str, _key: Key) -> dict[str, Any]:
    """Return one deployment; an alias stands for the deployment behind it."""
    state = state_of(request)
    return _deployment(await run_in_threadpool(state.rooms.deployment, await _behind(state, name)))


@router.delete("/v1/deployments/{name}")
async def delete_deployment(request: Request, name: str, _key: Key) -> dict[str, Any]:
    """Stop a deployment; with an alias, the alias goes too."""
    state = state_of(request)
    target = await _behind(state, name)
    await run_in_threadpool(state.aliases.remove, name)
    deployment = await run_in_threadpool(state.rooms.undeploy, target)
    state.routes.forget()
    return {**_deployment(deployment), "deleted": True}


async def _behind(state: State, name: str) -> str:
    alias = (await run_in_threadpool(state.aliases.all)).get(name)
    return name if alias is None else alias.deployment


def _deploy(state: State, body: CreateDeployment) -> inference_pb2.Deployment:
    if not NAME.fullmatch(body.name):
        raise InvalidSpec(f"name: {body.name!r} is no name", violations=[Violation("name", "lower case is expected")])
    if body.name in state.aliases.all():
        raise Conflict(f"{body.name!r} is the public name of a promoted model", remedy="Choose another name.")
    request = inference_pb2.DeployRequest(
        name=body.name,
        model=ref_to_proto(_ref("model", body.model)),
        adapter=ref_to_proto(_ref("adapter", body.adapter)) if body.adapter else None,
        spec=spec_message("spec", inference_pb2.DeploymentSpec, body.spec),
    )
    return state.rooms.call(Room.INFERENCE, state.rooms.inference.Deploy, request).deployment


def _ref(field: str, text: str) -> ArtifactRef:
    try:
        return ArtifactRef.parse(text)
    except InvalidRef as error:
        raise InvalidSpec(f"{field}: {error}", violations=[Violation(field, str(error))]) from error


def _model(served: Served) -> dict[str, Any]:
    created = served.alias.created_at if served.alias else served.deployment.create_time.ToNanoseconds() / 1e9
    return {
        "id": served.name,
        "object": "model",
        "created": int(created),
        "owned_by": "tunewright",
        "tunewright": {"state": served.state, "deployment": served.deployment.name, "artifact": served.artifact},
    }


def _deployment(item: inference_pb2.Deployment) -> dict[str, Any]:
    fields = MessageToDict(item, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    # The engine's address is for services: applications come through this door.
    fields.pop("endpoint", None)
    state = inference_pb2.DeploymentState.Name(item.state).removeprefix("DEPLOYMENT_STATE_").lower()
    adapter = str(ref_from_proto(item.adapter)) if item.HasField("adapter") else None
    return {
        **fields,
        "id": item.name,
        "object": "deployment",
        "state": state,
        "model": str(ref_from_proto(item.model)),
        "adapter": adapter,
    }
