"""Adapters that vLLM cannot serve on their base are merged into it first: which ones, and how the merger is asked.

Knows no version and no traffic.
"""

import json

from tunewright.artifacts import ArtifactError, ArtifactRef, Store
from tunewright.artifacts.layout import artifact_prefix, file_key
from tunewright.artifacts.transfer import load_manifest
from tunewright.chassis.errors import Refused, foreign
from tunewright.chassis.records import ref_to_proto
from tunewright.gateway.clients import Room, Rooms, result_of
from tunewright.gateway.stages import failure_of
from tunewright.v1 import job_pb2, merging_pb2

_CONFIG = "adapter_config.json"
_MAX_RANK = 512


def base_of(store: Store, adapter: ArtifactRef) -> ArtifactRef:
    """Return the model that an adapter was trained on.

    Raises:
        TunewrightError: the store has no such adapter, or does not answer.
        Refused: its manifest names no base.
    """
    try:
        parents = load_manifest(store, adapter).parents
    except ArtifactError as error:
        raise foreign(error) from error
    if "base" not in parents:
        raise Refused(f"the manifest of {adapter.short} names no base", remedy="Name the base beside the adapter.")
    return ArtifactRef.parse(parents["base"])


def why_merge(store: Store, adapter: ArtifactRef) -> str:
    """Return why vLLM cannot serve an adapter on its base; empty if it can.

    Raises:
        TunewrightError: the store does not answer, or the adapter has no readable configuration.
    """
    try:
        manifest = load_manifest(store, adapter)
        entry = next((entry for entry in manifest.files if entry.path == _CONFIG), None)
        if entry is None:
            raise Refused(f"{adapter.short} holds no {_CONFIG}")
        config = json.loads(store.get_bytes(file_key(artifact_prefix(adapter), entry.path, entry.sha256)))
    except ArtifactError as error:
        raise foreign(error) from error
    except ValueError as error:
        raise Refused(f"{_CONFIG} of {adapter.short} is no JSON: {error}") from error
    if config.get("use_dora"):
        return "it is a DoRA adapter (use_dora)"
    if config.get("modules_to_save"):
        return f"it brings whole modules (modules_to_save: {', '.join(config['modules_to_save'])})"
    ranks = [int(config.get("r") or 0), *(int(rank) for rank in (config.get("rank_pattern") or {}).values())]
    return f"its rank is {max(ranks)}, vLLM serves up to {_MAX_RANK}" if max(ranks) > _MAX_RANK else ""


def merge(rooms: Rooms, store: Store, adapter: ArtifactRef, base: ArtifactRef) -> ArtifactRef | None:
    """Ask the merger for the merged model, or attach to the merge that runs; None until it is done.

    Raises:
        Refused: the adapter's manifest names no dataset, which the merger's checks need.
        TunewrightError: the merge failed, or a room does not answer.
    """
    try:
        parents = load_manifest(store, adapter).parents
    except ArtifactError as error:
        raise foreign(error) from error
    if "dataset" not in parents:
        raise Refused(
            f"{adapter.short} cannot be merged: its manifest names no dataset to check the merge with",
            remedy="Merge it with the merger's own command, and deploy the merged model.",
        )
    request = merging_pb2.SubmitMergeRequest(
        spec=merging_pb2.MergeSpec(),
        adapter=ref_to_proto(adapter),
        base=ref_to_proto(base),
        dataset=ref_to_proto(ArtifactRef.parse(parents["dataset"])),
    )
    job = rooms.call(Room.MERGER, rooms.merging.SubmitMerge, request).job
    if job.state == job_pb2.JOB_STATE_SUCCEEDED:
        return result_of(job)
    if job.state in {job_pb2.JOB_STATE_FAILED, job_pb2.JOB_STATE_CANCELLED}:
        raise failure_of(job)
    return None
