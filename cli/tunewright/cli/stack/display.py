"""How a stack looks: one row a service. Knows nothing of how the state came about."""

import time

from rich import box
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from tunewright.cli.console import duration
from tunewright.cli.stack.folder import ServiceStatus, StackStatus

_STYLES = {
    "waiting": "dim",
    "starting": "cyan",
    "up": "green",
    "restarting": "yellow",
    "stopped": "dim",
    "failed": "bold red",
}
_SIGNS = {"waiting": "·", "up": "✔", "restarting": "↻", "stopped": "■", "failed": "✘"}
_SPINNERS: dict[str, Spinner] = {}


def service_table(status: StackStatus, *, plain: bool = False) -> Table:
    """Return the table of services; `plain` for pipes: no box, no motion."""
    table = Table(box=None if plain else box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in ("service", "state", "time", "address", "restarts", ""):
        table.add_column(name, justify="right" if name in {"time", "restarts"} else "left", no_wrap=True)
    for name, service in status.services.items():
        table.add_row(name, _state(name, service, plain=plain), _time(service), *_rest(service))
    return table


def _state(name: str, service: ServiceStatus, *, plain: bool) -> Text | Spinner:
    style = _STYLES[service.state]
    if plain:
        return Text(service.state)
    if service.state == "starting":  # one spinner a service, kept, as a new one would stand still
        return _SPINNERS.setdefault(name, Spinner("dots", Text(service.state, style=style), style=style))
    return Text(f"{_SIGNS[service.state]} {service.state}", style=style)


def _time(service: ServiceStatus) -> str:
    if service.state == "starting":
        return duration(time.time() - service.started)
    if service.state == "up":
        return duration(max(0.0, service.ready - service.started))
    return ""


def _rest(service: ServiceStatus) -> tuple[str, str, Text]:
    shown = next((service.addresses[key] for key in ("http", "grpc", "s3") if key in service.addresses), "")
    shown = shown if service.state == "up" else ""
    return shown, str(service.restarts or ""), Text(service.detail, style="dim")
