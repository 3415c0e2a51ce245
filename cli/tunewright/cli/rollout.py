"""`deploy`, `promote`, `rollback`, `undeploy`, `versions`, `snippet`: public names and the versions behind them.

Knows the gateway's /v1/aliases and nothing of engines.
"""

import sys
import time
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tunewright.cli.client import Gateway
from tunewright.cli.console import make_console
from tunewright.cli.endpoint import find_endpoint
from tunewright.cli.errors import CliError
from tunewright.cli.options import ApiKey, Directory, Url
from tunewright.cli.watch import clock, short_reference

_POLL_SECONDS = 0.2
_ENDED = {"failed", "rolled_back", "retired"}

Name = Annotated[str, typer.Argument(metavar="NAME", help="Public name: what applications use as `model`.")]
Why = Annotated[str, typer.Option("--why", help="Kept with the change.")]
Number = Annotated[int | None, typer.Option("--version", min=1, help="Number of the version.")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Return at once.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (deploy, promote, rollback, undeploy, versions, snippet):
        app.command()(command)


def deploy(
    name: Name,
    artifact: Annotated[str, typer.Argument(help="models/<sha256>, or adapters/<sha256>, served on its base.")],
    weight: Annotated[
        float, typer.Option(min=0, max=100, help="Percent of the traffic: less than 100 makes a canary, 0 none yet.")
    ] = 100.0,
    rule: Annotated[
        list[str] | None, typer.Option(help="What a canary is judged by, as `window_seconds=600`; may be repeated.")
    ] = None,
    why: Why = "",
    no_wait: NoWait = False,  # noqa: FBT002 - typer's form of a flag
    url: Url = None,
    api_key: ApiKey = None,
    directory: Directory = None,
) -> None:
    """Bring up a new version behind a public name; the first one gets all traffic."""
    body = {"artifact": artifact, "weight": weight, "why": why, "rules": dict(_rule(text) for text in rule or ())}
    with Gateway(find_endpoint(url, api_key, directory)) as gateway:
        version = gateway.change("POST", f"/v1/aliases/{name}/versions", body)
        _tell(gateway, version, make_console(), wait=not no_wait)


def promote(
    name: Name,
    version: Number = None,
    weight: Annotated[float, typer.Option(min=0.01, max=100, help="Percent of the traffic.")] = 100.0,
    why: Why = "",
    url: Url = None,
    api_key: ApiKey = None,
    directory: Directory = None,
) -> None:
    """Give the candidate all traffic, or another share of it."""
    body = {"version": version, "weight": weight, "why": why}
    with Gateway(find_endpoint(url, api_key, directory)) as gateway:
        found = gateway.change("POST", f"/v1/aliases/{name}/promote", body)
        _tell(gateway, found, make_console(), wait=True)


def rollback(
    name: Name,
    version: Number = None,
    why: Why = "",
    url: Url = None,
    api_key: ApiKey = None,
    directory: Directory = None,
) -> None:
    """Take the candidate's traffic away; without a candidate, bring back the version that served before."""
    with Gateway(find_endpoint(url, api_key, directory)) as gateway:
        found = gateway.change("POST", f"/v1/aliases/{name}/rollback", {"version": version, "why": why})
        _tell(gateway, found, make_console(), wait=True)


def undeploy(name: Name, why: Why = "", url: Url = None, api_key: ApiKey = None, directory: Directory = None) -> None:
    """Take a public name away; its running answers are finished."""
    with Gateway(find_endpoint(url, api_key, directory)) as gateway:
        gateway.change("DELETE", f"/v1/aliases/{name}", why=why)
    make_console().print(f"{name}: undeployed")


def versions(name: Name, url: Url = None, api_key: ApiKey = None, directory: Directory = None) -> None:
    """Show the versions behind a public name, what they answered lately, and who changed what and why."""
    console = make_console()
    with Gateway(find_endpoint(url, api_key, directory)) as gateway:
        found = gateway.get(f"/v1/aliases/{name}")["versions"]
        changes = gateway.get(f"/v1/aliases/{name}/changes", limit=20)["data"]
    table = _table(console, "version", "state", "weight", "artifact", "requests", "errors", "first token", "judged")
    for item in found:
        seen, artifact = item["seen"], item["adapter"] or item["model"]
        ttft = "" if seen["ttft_p50_ms"] is None else f"{seen['ttft_p50_ms']:.0f} ms"
        cells = (item["state"], f"{item['weight']:g} %", short_reference(artifact), str(seen["requests"]))
        table.add_row(str(item["version"]), *cells, str(seen["errors"]), ttft, escape(item["judged"] or item["detail"]))
    console.print(table)
    told = _table(console, "when", "what", "version", "who", "why")
    for item in changes:
        number = "" if item["version"] is None else str(item["version"])
        told.add_row(clock(item["time"]), item["action"], number, escape(item["who"]), escape(item["why"]))
    console.print(told)


def snippet(
    model: Annotated[str, typer.Argument(help="A model's name; see `tunewright models`.")],
    language: Annotated[str, typer.Option("-l", "--language", help="curl, python or node.")] = "curl",
    url: Url = None,
    api_key: ApiKey = None,
    directory: Directory = None,
) -> None:
    """Print a program that asks a model, ready to run; the key is read from OPENAI_API_KEY."""
    with Gateway(find_endpoint(url, api_key, directory)) as gateway:
        found = gateway.get("/v1/snippets", model=model)["snippets"]
    if language not in found:
        raise CliError(f"there is no snippet in {language!r}", remedy=f"One of {', '.join(found)}.")
    sys.stdout.write(found[language])


def _rule(text: str) -> tuple[str, Any]:
    key, sign, value = text.partition("=")
    if not sign:
        raise CliError(f"--rule {text!r} is no rule", remedy="Write it as `--rule window_seconds=600`.")
    if value in {"true", "false"}:
        return key, value == "true"
    try:
        return key, float(value)
    except ValueError as error:
        raise CliError(f"--rule {text!r}: {value!r} is no number", remedy="true, false or a number.") from error


def _tell(gateway: Gateway, version: dict[str, Any], console: Console, *, wait: bool) -> None:
    """Print what becomes of a version, until it stands if `wait`. Raises CliError if it failed."""
    alias, number, told = version["alias"], version["version"], ""
    while True:
        if version["detail"] and version["detail"] != told and version["state"] == "starting":
            told = version["detail"]
            console.print(f"{alias} v{number}: {escape(told)}", soft_wrap=True)
        if version["state"] != "starting" or not wait:
            break
        time.sleep(_POLL_SECONDS)
        found = gateway.get(f"/v1/aliases/{alias}")["versions"]
        version = next(item for item in found if item["version"] == number)
    if version["state"] == "failed":
        raise CliError(f"{alias} v{number} failed: {version['detail']}", remedy="The version before goes on serving.")
    share = "" if version["state"] in _ENDED else f", {version['weight']:g} % of the traffic"
    console.print(f"{alias} v{number}: [bold]{version['state']}[/]{share}")


def _table(console: Console, *columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD if console.is_terminal else None, show_edge=False, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
