"""A run under way: what its events say so far, and how that looks. Reads events in order, however they arrive.

Knows nothing of HTTP.
"""

import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tunewright.cli.console import duration, size

FIGURES = ("loss", "eval_loss", "tokens_per_second", "rows_per_second", "learning_rate", "grad_norm")
LOSSES = ("loss", "eval_loss")
WIDE_COLUMNS = 110
"""From this width of the terminal on there is room for all figures."""
_NAMES = {
    "eval_loss": "eval loss",
    "tokens_per_second": "tok/s",
    "rows_per_second": "rows/s",
    "learning_rate": "lr",
    "grad_norm": "grad",
}
PLAIN_INTERVAL_SECONDS = 5.0
RECENT_LINES = 6
_QUIET = frozenset({"progress", "stage", "run", "state"})
"""Events that show in the bars; the others get a line of their own."""


@dataclass
class StageView:
    """One stage as far as its events tell."""

    name: str
    state: str = "pending"
    step: float = 0
    total: float = 0
    unit: str = ""
    figures: dict[str, float] = field(default_factory=dict)
    """Newest value of each figure."""
    started: float = 0.0
    """Unix time, seconds."""
    seconds: float = 0.0
    """Set at its end."""
    result: str = ""

    def take_progress(self, data: Mapping[str, Any]) -> None:
        """Note a progress event's figures."""
        self.step, self.total = float(data.get("step", 0)), float(data.get("total", 0))
        self.unit = str(data.get("unit", ""))
        for key, value in data.items():
            if key not in {"step", "total", "unit"} and isinstance(value, int | float):
                self.figures[key] = float(value)


@dataclass
class RunView:
    """A run as far as its events tell; starts from the run's own document, so that all stages show at once."""

    run_id: str
    name: str
    state: str = "queued"
    stages: dict[str, StageView] = field(default_factory=dict)
    recent: deque[Text] = field(default_factory=lambda: deque(maxlen=RECENT_LINES))
    failure: Mapping[str, Any] | None = None
    connection: str = ""
    """Why nothing is heard right now; empty while connected."""

    @classmethod
    def of(cls, run: Mapping[str, Any]) -> "RunView":
        """Return the view of a run before its first event."""
        stages = {stage["name"]: StageView(stage["name"]) for stage in run.get("stages", ())}
        return cls(str(run["id"]), str(run.get("name") or run["id"]), stages=stages)

    def take(self, event: Mapping[str, Any]) -> None:
        """Note one event."""
        self.connection = ""
        data = event.get("data") or {}
        if event["type"] == "run":
            self.state = data.get("state", self.state)
            self.failure = data.get("failure") or self.failure
        if (name := event.get("stage")) and event["type"] != "run":
            self._take_stage(self.stages.setdefault(name, StageView(name)), event, data)
        if event["type"] not in _QUIET or event.get("severity") in {"warning", "error"}:
            self.recent.append(event_text(event))

    @staticmethod
    def _take_stage(stage: StageView, event: Mapping[str, Any], data: Mapping[str, Any]) -> None:
        if event["type"] == "progress":
            stage.take_progress(data)
        elif event["type"] == "stage":
            stage.state = data.get("state", stage.state)
            stage.result = data.get("result") or stage.result
            stage.seconds = float(data.get("seconds") or stage.seconds)
        if stage.state == "running" and not stage.started:
            stage.started = float(event["time"])

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw it as wide as the terminal is."""
        head = Text.assemble((self.name, "bold"), "  ", (self.run_id, "dim"), "  ", (self.state, _style(self.state)))
        wide = options.max_width >= WIDE_COLUMNS
        parts: list[RenderableType] = [head, "", stage_bars(self.stages.values(), wide=wide)]
        if self.recent:
            parts += ["", *self.recent]
        if self.connection:
            parts += ["", Text(f"connection lost, trying again: {self.connection}", style="yellow")]
        yield Group(*parts)


def _style(state: str) -> str:
    styles = {"running": "cyan", "succeeded": "green", "failed": "bold red", "cancelled": "yellow", "paused": "magenta"}
    return styles.get(state, "dim")


_SIGNS = {"running": "▸", "succeeded": "✔", "failed": "✘", "cancelled": "■", "paused": "‖"}


def stage_bars(stages: Iterable[StageView], *, wide: bool) -> Table:
    """Return one line a stage: sign, name, bar, steps, time, figures; on a narrow terminal the losses alone."""
    table = Table.grid(padding=(0, 2))
    for column in ("sign", "name", "bar", "steps"):
        table.add_column(column, no_wrap=True)
    table.add_column("time", justify="right", no_wrap=True)
    table.add_column("figures", overflow="fold")
    for stage in stages:
        style = _style(stage.state)
        table.add_row(
            Text(_SIGNS.get(stage.state, "·"), style=style),
            Text(stage.name, style="bold" if stage.state == "running" else style),
            _bar(stage, width=24 if wide else 10),
            Text(steps(stage), style="dim"),
            Text(_time(stage), style="dim"),
            Text(figures(stage, FIGURES if wide else LOSSES)),
        )
    return table


def _bar(stage: StageView, width: int) -> RenderableType:
    if stage.state == "running" and not stage.total:
        return ProgressBar(total=None, width=width, pulse=True, animation_time=time.monotonic())
    done = stage.state == "succeeded"
    return ProgressBar(
        total=stage.total or 1,
        completed=(stage.total or 1) if done else min(stage.step, stage.total),
        width=width,
        finished_style="green" if done else "cyan",
        complete_style="cyan",
    )


def steps(stage: StageView) -> str:
    """Return how far a stage is, such as 12/60 steps."""
    if not stage.total or stage.state not in {"running", "paused", "failed", "cancelled"}:
        return ""
    if stage.unit == "bytes":
        return f"{size(stage.step)}/{size(stage.total)}"
    return f"{stage.step:g}/{stage.total:g} {stage.unit}"


def _time(stage: StageView) -> str:
    if stage.state == "running" and stage.started:
        left = stage.figures.get("eta_seconds")
        told = duration(max(0.0, time.time() - stage.started))
        return f"{told}, {duration(left)} left" if left else told
    return duration(stage.seconds) if stage.seconds else ""


def figures(stage: StageView, names: Iterable[str] = FIGURES) -> str:
    """Return the newest figures in words, in a fixed order; eval loss stays visible between evaluations."""
    shown = [
        f"{_NAMES.get(name, name)} {_number(name, stage.figures[name])}" for name in names if name in stage.figures
    ]
    return " · ".join(shown)


def _number(name: str, value: float) -> str:
    if name == "learning_rate":
        return f"{value:.1e}"
    return f"{value:.0f}" if name.endswith("_per_second") and value >= 10 else f"{value:.4g}"  # noqa: PLR2004 - two digits


def event_text(event: Mapping[str, Any]) -> Text:
    """Return one event as one line."""
    style = {"warning": "yellow", "error": "red"}.get(str(event.get("severity")), "dim")
    stage = f"{event['stage']}: " if event.get("stage") and not _names_stage(event) else ""
    return Text(f"{time.strftime('%H:%M:%S', time.localtime(event['time']))}  {stage}{event['message']}", style=style)


def _names_stage(event: Mapping[str, Any]) -> bool:
    return str(event["message"]).startswith(f"{event['stage']}:")


def follow(events: Iterable[Mapping[str, Any]], view: RunView, console: Console) -> None:
    """Show a run until its events end: live bars on a terminal, plain lines elsewhere."""
    if not console.is_terminal:
        _follow_plainly(events, view, console)
        return
    with Live(view, console=console, refresh_per_second=8):
        for event in events:
            view.take(event)


def _follow_plainly(events: Iterable[Mapping[str, Any]], view: RunView, console: Console) -> None:
    told: dict[str, float] = {}
    for event in events:
        view.take(event)
        stage = str(event.get("stage"))
        if event["type"] == "progress":
            last = event["data"].get("step") == event["data"].get("total")
            if not last and event["time"] - told.get(stage, 0.0) < PLAIN_INTERVAL_SECONDS:
                continue
            told[stage] = event["time"]
        console.print(event_text(event))


def summary(run: Mapping[str, Any], view: RunView, *, plain: bool) -> Table:
    """Return the final table: what each stage took, and what came out of it."""
    table = Table(box=None if plain else box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column in ("stage", "state", "time", "result", "figures"):
        table.add_column(column, justify="right" if column == "time" else "left", overflow="fold")
    for stage in run["stages"]:
        known = view.stages.get(stage["name"], StageView(stage["name"]))
        table.add_row(
            escape(stage["name"]),
            Text(stage["state"], style=_style(stage["state"])),
            duration(stage["seconds"]) if stage.get("seconds") is not None else "",
            short_reference(stage.get("result") or ""),
            figures(known),
        )
    return table


def short_reference(result: str) -> str:
    """Return an artifact's kind and first digits; `GET /v1/artifacts` and the run's JSON have it whole."""
    kind, _, identifier = result.partition("/")
    return f"{kind}/{identifier[:12]}" if identifier else result


def clock(unix_seconds: float | None) -> str:
    """Return a time of day, with the date if it was not today."""
    if not unix_seconds:
        return ""
    moment = time.localtime(unix_seconds)
    today = time.strftime("%Y-%m-%d") == time.strftime("%Y-%m-%d", moment)
    return time.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M", moment)
