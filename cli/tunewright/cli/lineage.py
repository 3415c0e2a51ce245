"""Where an artifact comes from: the chain of manifests down to the raw bytes, as a tree.

Asks the gateway, which checks each manifest against its id. Knows no options.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.tree import Tree

from tunewright.cli.client import Gateway
from tunewright.cli.errors import CliError
from tunewright.cli.watch import short_reference

_REMEDY = "Name a model (`tunewright models`), the id of a run (`tunewright runs`), or an artifact as KIND/ID."
_FACTS = ("fingerprint", "rows_in", "train_rows", "validation_rows", "method", "objective", "train_loss", "eval_loss")
_WIDEST = 16


def find_chain(gateway: Gateway, name: str) -> list[dict[str, Any]]:
    """Return the manifests of an artifact and of all it was made from, each before its parents.

    Args:
        gateway: of the stack that made it.
        name: a model, a run's id, or an artifact's reference.

    Raises:
        CliError: there is nothing of that name, or it has made nothing yet.
    """
    found: list[dict[str, Any]] = gateway.get(f"/v1/artifacts/{_reference(gateway, name)}/lineage")["data"]
    return found


def show(chain: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Print the chain: the artifact, and below it what went in, down to the uploads."""
    known = {manifest["ref"]: manifest for manifest in chain}
    top = Tree(_label(chain[0], ""))
    _grow(top, chain[0], known, {chain[0]["ref"]})
    console.print(top)


def _grow(tree: Tree, manifest: Mapping[str, Any], known: Mapping[str, Mapping[str, Any]], shown: set[str]) -> None:
    for role, reference in sorted(manifest["parents"].items()):
        if reference in shown:
            tree.add(f"{escape(role)}: {short_reference(reference)} (as above)")
            continue
        shown.add(reference)
        _grow(tree.add(_label(known[reference], role)), known[reference], known, shown)


def _label(manifest: Mapping[str, Any], role: str) -> str:
    size = sum(file["size_bytes"] for file in manifest["files"])
    count = len(manifest["files"])
    files = f"{count:,} {'file' if count == 1 else 'files'}, {size:,} bytes"
    base = f", base {manifest['base_model']}" if manifest.get("base_model") else ""
    metrics = manifest.get("metrics", {})
    facts = "".join(f", {name} {_short(metrics[name])}" for name in _FACTS if name in metrics)
    named = f"{escape(role)}: " if role else ""
    made = f"by {manifest['created_by']}; {files}{base}{facts}"
    return f"{named}[bold]{short_reference(manifest['ref'])}[/] {escape(made)}"


def _short(value: Any) -> str:  # noqa: ANN401 - any JSON value
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.3f}" if isinstance(value, float) else str(value)[:_WIDEST]


def _reference(gateway: Gateway, name: str) -> str:
    if "/" in name:
        return name
    if name.startswith("run-"):
        made = list(gateway.run(name)["artifacts"].values())
        if not made:
            raise CliError(f"{name} has made nothing yet", remedy="Wait until a stage has ended: tunewright watch.")
        return str(made[-1])
    for model in gateway.get("/v1/models")["data"]:
        if model["id"] == name:
            reference: str = (model.get("tunewright") or {}).get("artifact", "")
            if not reference:
                raise CliError(f"{name} was made by no run of this stack", remedy=_REMEDY)
            return reference
    raise CliError(f"{name} is no model that answers", remedy=_REMEDY)
