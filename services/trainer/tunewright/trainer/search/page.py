"""All trials of a search as JSON values, and as a page with two plots. Knows no training.

The plots' geometry is in the units of their view boxes; their words are HTML in `templates/search.html.j2`.
"""

import math
from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader

from tunewright.trainer.search.space import words
from tunewright.trainer.search.study import Study

WIDTH, HEIGHT, LEFT, BOTTOM = 560.0, 240.0, 52.0, 28.0
_MARGIN = 12.0
_TICKS = 4
Trial = dict[str, Any]


def search_report(study: Study) -> dict[str, Any]:
    """Return what search.json holds: trials in order, and the one that was trained on."""
    best = study.best
    return {
        "best": best.to_json() | {"trials": len(study.outcomes())} if best is not None else None,
        "trials": [outcome.to_json() for outcome in study.outcomes()],
    }


def page(found: dict[str, Any]) -> str:
    """Return the page."""
    environment = Environment(loader=PackageLoader("tunewright.trainer.search"), autoescape=True, trim_blocks=True)
    trials = found["trials"]
    lines = [trial for trial in trials if trial["evaluations"]]
    names = sorted({name for trial in trials for name in trial["settings"]})
    return environment.get_template("search.html.j2").render(
        found=found,
        best=found["best"],
        words=words,
        curves=_curves(lines, found["best"]),
        plots=[_scatter(lines, name, found["best"]) for name in names],
        width=WIDTH,
        height=HEIGHT,
        left=LEFT,
        floor=HEIGHT - BOTTOM,
    )


def _curves(trials: Sequence[Trial], best: Trial) -> dict[str, Any]:
    """Return each trial's held-out loss over its steps."""
    down = _Axis([loss for trial in trials for _, loss in trial["evaluations"]], HEIGHT - BOTTOM, _MARGIN)
    across = _Axis([step for trial in trials for step, _ in trial["evaluations"]], LEFT, WIDTH - _MARGIN)
    return {
        "lines": [
            {
                "points": " ".join(f"{across.at(step)},{down.at(loss)}" for step, loss in trial["evaluations"]),
                "ends": [(across.at(step), down.at(loss)) for step, loss in trial["evaluations"]],
                "kind": _kind(trial, best),
                "title": _title(trial),
            }
            for trial in trials
        ],
        "x": across.whole_ticks(),
        "y": down.ticks(),
    }


def _scatter(trials: Sequence[Trial], name: str, best: Trial) -> dict[str, Any]:
    """Return each trial's last held-out loss over one setting, which stands on a logarithmic axis."""
    down = _Axis([trial["evaluations"][-1][1] for trial in trials], HEIGHT - BOTTOM, _MARGIN)
    across = _Axis([trial["settings"][name] for trial in trials], LEFT, WIDTH - _MARGIN, logarithmic=True)
    return {
        "name": name,
        "points": [
            {
                "x": across.at(trial["settings"][name]),
                "y": down.at(trial["evaluations"][-1][1]),
                "kind": _kind(trial, best),
                "title": _title(trial),
            }
            for trial in trials
        ],
        "x": across.ticks(),
        "y": down.ticks(),
    }


class _Axis:
    """Places of values between two ends of a plot."""

    def __init__(self, values: Sequence[float], start: float, end: float, *, logarithmic: bool = False) -> None:
        self._start, self._end, self._logarithmic = start, end, logarithmic
        placed = [self._value(value) for value in values]
        self._low, self._high = min(placed), max(placed)
        if self._low == self._high:
            self._low, self._high = self._low - 0.5, self._high + 0.5

    def at(self, value: float) -> float:
        share = (self._value(value) - self._low) / (self._high - self._low)
        return round(self._start + share * (self._end - self._start), 1)

    def ticks(self) -> list[dict[str, Any]]:
        values = [math.exp(place) if self._logarithmic else place for place in self._places()]
        return [{"at": self.at(value), "text": f"{value:.3g}"} for value in values]

    def whole_ticks(self) -> list[dict[str, Any]]:
        """Return ticks at whole numbers: there is no step between two."""
        values = sorted({round(place) for place in self._places()})
        return [{"at": self.at(value), "text": f"{value:,}"} for value in values]

    def _places(self) -> list[float]:
        return [self._low + (self._high - self._low) * part / (_TICKS - 1) for part in range(_TICKS)]

    def _value(self, value: float) -> float:
        return math.log(value) if self._logarithmic else float(value)


def _kind(trial: Trial, best: Trial) -> str:
    if trial["number"] == best["number"]:
        return "best"
    return "whole" if trial["eval_loss"] is not None else "early"


def _title(trial: Trial) -> str:
    last = trial["evaluations"][-1][1]
    return f"trial {trial['number'] + 1}: {words(trial['settings'])}; {trial['state']}, {last:.4f}"
