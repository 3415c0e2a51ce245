"""The report as one self-contained HTML page: no script, font or image from elsewhere; every text escaped.

Draws what `figures.py` counted. Knows nothing of how.
"""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

_SIZE, _MARGIN = 380, 46
_BINS = 16
_WORST = 5


def render(document: dict[str, Any]) -> str:
    """Return the page of a report document."""
    environment = Environment(
        loader=PackageLoader("tunewright.evaluator"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(figure=_figure, signed=_signed)
    rows = document["rows"]
    return environment.get_template("report.html.j2").render(
        r=document,
        table=[_line(name, label, document) for name, label in _LABELS.items() if name in document["figures"]],
        scatter=scatter(rows),
        histogram=histogram(rows),
        worst=sorted(rows, key=lambda row: row["base_loss"] - row["tuned_loss"])[:_WORST],
        better=sum(row["tuned_loss"] < row["base_loss"] for row in rows),
    )


def scatter(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return points of base loss (x) against tuned loss (y), with ticks; below the diagonal tuned is better."""
    top = _nice_top(max((max(row["base_loss"], row["tuned_loss"]) for row in rows), default=1.0))
    points = [
        {
            "x": _place(row["base_loss"], top),
            "y": _SIZE - _place(row["tuned_loss"], top),
            "better": row["tuned_loss"] < row["base_loss"],
            "words": f"{row['question'][:80]} base {row['base_loss']:.3f}, tuned {row['tuned_loss']:.3f}",
        }
        for row in rows
    ]
    ticks = [{"at": _place(top * step / 4, top), "words": f"{top * step / 4:g}"} for step in range(5)]
    return {"size": _SIZE, "margin": _MARGIN, "points": points, "ticks": ticks}


def histogram(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return bars of how many rows have which loss, for both models over the same bins."""
    top = _nice_top(max((max(row["base_loss"], row["tuned_loss"]) for row in rows), default=1.0))
    counts = {side: [0] * _BINS for side in ("base", "tuned")}
    for row in rows:
        for side, bins in counts.items():
            bins[min(_BINS - 1, int(row[f"{side}_loss"] / top * _BINS))] += 1
    highest = max(1, *(max(bins) for bins in counts.values()))
    step = (_SIZE - 2 * _MARGIN) / _BINS
    bars = [
        {
            "side": side,
            "x": round(_MARGIN + step * (place + 0.5 * number), 2),
            "width": round(step * 0.5 - 0.5, 2),
            "height": round((_SIZE - 2 * _MARGIN) * count / highest, 2),
            "words": f"{side}: {count} rows from {top * place / _BINS:.2f} to {top * (place + 1) / _BINS:.2f}",
        }
        for number, (side, bins) in enumerate(counts.items())
        for place, count in enumerate(bins)
        if count
    ]
    ticks = [{"at": _place(top * step / 4, top), "words": f"{top * step / 4:g}"} for step in range(5)]
    return {"size": _SIZE, "margin": _MARGIN, "bars": bars, "ticks": ticks, "highest": highest}


_LABELS = {
    "loss": "Loss, nats per answer token",
    "token_accuracy": "Answer tokens guessed right",
    "token_f1": "Free answers: token F1",
    "rouge_l": "Free answers: ROUGE-L",
    "exact_match": "Free answers: exact match",
}


def _line(name: str, label: str, document: dict[str, Any]) -> dict[str, Any]:
    pair = document["figures"][name]
    difference = pair["difference"]
    shown = difference["low"] > 0 or difference["high"] < 0
    good = (difference["value"] < 0) == (name == "loss")
    return {
        "label": label,
        "pair": pair,
        "share": name != "loss",
        "state": ("good" if good else "bad") if shown else "",
    }


def _place(value: float, top: float) -> float:
    return round(_MARGIN + (_SIZE - 2 * _MARGIN) * min(1.0, value / top), 2)


def _nice_top(value: float) -> float:
    """Return the next of 0.5, 0.75, 1, 1.5, 2, 3, 4, 6, 8, … above a value: a quarter of it is a round tick."""
    top = 0.5
    while top < value:
        if 1.5 * top >= value:
            return 1.5 * top
        top *= 2
    return top


def _figure(value: float, *, share: bool = False) -> str:
    return f"{value:.1%}" if share else f"{value:.3f}"


def _signed(value: float, *, share: bool = False) -> str:
    return f"{100 * value:+.1f}" if share else f"{value:+.3f}"
