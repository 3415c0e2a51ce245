"""A hub in Hugging Face's dialect: look a model up, check it, fetch it. The one place that maps the hub's errors.

The hub is `HF_ENDPOINT` (a mirror) or huggingface.co; the token is `HF_TOKEN`; the cache is `HF_HOME`. Only files that
`safety` lets in are fetched: never code, never pickles. Does not import torch.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from huggingface_hub import HfApi
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tunewright.chassis.errors import InvalidSpec, NotFound, Refused, TunewrightError, Unavailable
from tunewright.merger.headers import INDEX_NAME, SINGLE_NAME
from tunewright.merger.safety import CHAT_TEMPLATE, COMPANIONS, check_configs, check_names

DEFAULT_ENDPOINT = "https://huggingface.co"
_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class HubSnapshot:
    """One commit of a model on a hub, checked by its names and small configs."""

    repo_id: str
    commit: str
    """Full commit hash."""
    files: tuple[str, ...]
    """Top-level files that come in."""


def look_up(repo_id: str, revision: str) -> HubSnapshot:
    """Return the commit behind `revision` (empty: main), checked without fetching weights.

    Raises:
        NotFound: no such model or revision; names both and the hub that was asked.
        Refused: gated for this token, or not safe to load.
        Unavailable: the hub does not answer.
    """
    api = _api()
    with _hub_errors(repo_id, revision, api.endpoint):
        info = api.model_info(repo_id, revision=revision or None, timeout=_SECONDS)
        commit = info.sha or ""
        names = [sibling.rfilename for sibling in info.siblings or [] if "/" not in sibling.rfilename]
        check_names(names, repo_id)
        configs = {name: _fetch_json(api, repo_id, commit, name, names) for name in _SMALL}
        check_configs(configs["config.json"], configs["tokenizer_config.json"], repo_id)
        _check_template(names, configs["tokenizer_config.json"], repo_id)
        weights = _weights(api, repo_id, commit, names)
    return HubSnapshot(repo_id, commit, tuple(sorted({name for name in names if name in COMPANIONS} | weights)))


def fetch(snapshot: HubSnapshot) -> Path:
    """Return the folder in the hub's cache that holds the snapshot's files; a broken fetch goes on where it stopped.

    Raises:
        Unavailable: the hub stopped answering.
    """
    api = _api()
    with _hub_errors(snapshot.repo_id, snapshot.commit, api.endpoint):
        path = api.snapshot_download(
            snapshot.repo_id, revision=snapshot.commit, allow_patterns=list(snapshot.files), ignore_patterns=["*/*"]
        )
    return Path(str(path))


_SMALL = ("config.json", "tokenizer_config.json")


def _api() -> HfApi:
    return HfApi(endpoint=os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT, token=os.environ.get("HF_TOKEN") or None)


def _fetch_json(api: HfApi, repo_id: str, commit: str, name: str, names: list[str]) -> dict[str, Any]:
    if name not in names:
        return {}
    path = api.hf_hub_download(repo_id, name, revision=commit)
    document = json.loads(Path(str(path)).read_text("utf-8"))
    if not isinstance(document, dict):
        raise Refused(f"{repo_id}: {name} is not a JSON object")
    return document


def _weights(api: HfApi, repo_id: str, commit: str, names: list[str]) -> set[str]:
    if INDEX_NAME not in names:
        return {SINGLE_NAME}
    weight_map = _fetch_json(api, repo_id, commit, INDEX_NAME, names).get("weight_map", {})
    shards = {str(name) for name in weight_map.values()}
    if not shards or not shards <= set(names):
        raise Refused(f"{repo_id}: {INDEX_NAME} names files that are not there: {sorted(shards - set(names))[:4]}")
    return shards | {INDEX_NAME}


def _check_template(names: list[str], tokenizer_config: dict[str, Any], repo_id: str) -> None:
    if CHAT_TEMPLATE not in names and not tokenizer_config.get("chat_template"):
        raise Refused(
            f"{repo_id} has no chat template, so nobody knows how a conversation is written for it",
            remedy="Take the instruct or chat version of this model.",
        )


@contextmanager
def _hub_errors(repo_id: str, revision: str, endpoint: str) -> Iterator[None]:
    try:
        yield
    except TunewrightError:
        raise
    except (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, httpx.HTTPError, OSError, ValueError) as error:
        raise _mapped(error, repo_id, revision or "main", endpoint) from error


def _mapped(error: Exception, repo_id: str, revision: str, endpoint: str) -> TunewrightError:
    mapped: TunewrightError
    match error:
        case GatedRepoError():
            mapped = Refused(
                f"{repo_id} is gated on {endpoint}: its owner asks for consent first",
                remedy="Accept the model's terms on its page, then start the merger with HF_TOKEN of that account.",
            )
        case RepositoryNotFoundError():
            mapped = NotFound(
                f"{endpoint} has no model {repo_id!r} (or it is private)",
                remedy="Check the spelling; for a private model set HF_TOKEN; for a mirror set HF_ENDPOINT.",
            )
        case RevisionNotFoundError():
            mapped = NotFound(
                f"{repo_id!r} on {endpoint} has no revision {revision!r}", remedy="Name a branch, tag or commit."
            )
        case HFValidationError():
            mapped = InvalidSpec(f"{repo_id!r} is no hub id: {error}")
        case OSError() if error.errno is not None and not isinstance(error, ConnectionError | LocalEntryNotFoundError):
            raise error  # disk full and its kind are the chassis's to name
        case ValueError() if isinstance(error, json.JSONDecodeError):
            mapped = Refused(f"{repo_id} on {endpoint}: a config is not JSON: {error}")
        case _:
            mapped = Unavailable(
                f"the hub {endpoint} does not answer for {repo_id!r}: {type(error).__name__}: {error}",
                remedy="Check the network; behind a mirror set HF_ENDPOINT; without a network put the model below "
                "TUNEWRIGHT_IMPORT_ROOT and name that folder.",
            )
    return mapped
