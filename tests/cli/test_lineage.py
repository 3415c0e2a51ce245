"""Where an artifact comes from is printed down to the uploads; what is not there is named with a remedy."""

import json
from typing import Any

import pytest

from tests.cli.gateway_server import KEY, Script, gateway_server
from tests.cli.shell import tunewright


def manifest(kind: str, sign: str, parents: dict[str, str], **further: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    files = [{"path": "a", "size_bytes": 1500, "sha256": "0"}]
    return {"ref": f"{kind}/{sign * 64}", "created_by": kind, "parents": parents, "files": files, **further}


BASE = f"models/{'b' * 64}"
CHAIN = [
    manifest("adapters", "d", {"base": BASE, "dataset": f"datasets/{'a' * 64}"}, base_model="bot-base"),
    manifest("models", "b", {}),
    manifest("datasets", "a", {"base": BASE, "upload_000": f"uploads/{'c' * 64}"}, metrics={"rows_in": 1200}),
    manifest("uploads", "c", {}),
]


@pytest.mark.parametrize("name", ["run-1", f"adapters/{'d' * 64}"])
def test_the_chain_is_a_tree_from_the_artifact_to_the_raw_bytes(name: str) -> None:
    with gateway_server(Script(lineage=CHAIN)) as url:
        shown = tunewright("lineage", name, "--url", url, "--api-key", KEY)
        told = tunewright("lineage", name, "--url", url, "--api-key", KEY, "--json")
    assert shown.returncode == 0, shown.stderr
    assert [line.strip("│├└─ ") for line in shown.stdout.splitlines()] == [
        "adapters/dddddddddddd by adapters; 1 file, 1,500 bytes, base bot-base",
        "base: models/bbbbbbbbbbbb by models; 1 file, 1,500 bytes",
        "dataset: datasets/aaaaaaaaaaaa by datasets; 1 file, 1,500 bytes, rows_in 1,200",
        "base: models/bbbbbbbbbbbb (as above)",
        "upload_000: uploads/cccccccccccc by uploads; 1 file, 1,500 bytes",
    ]
    assert json.loads(told.stdout) == CHAIN


def test_what_has_no_chain_is_named() -> None:
    with gateway_server(Script(lineage=CHAIN)) as url:
        foreign = tunewright("lineage", "bot", "--url", url, "--api-key", KEY)
        unknown = tunewright("lineage", "nobody", "--url", url, "--api-key", KEY)
    assert foreign.returncode == unknown.returncode == 1
    assert "bot was made by no run of this stack" in foreign.stderr
    assert "nobody is no model that answers" in unknown.stderr
    assert "the id of a run" in unknown.stderr
