"""Draw docs/qlora_budgets.svg: training speed against GPU memory, ours as a line, peers as points.

    python -m bench.qlora_plot

Reads what bench/qlora_gpu.py left in bench/results. Knows no GPU.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 420, 70, 30, 50, 55
FEWEST, MOST, FASTEST = 1.5, 80.0, 20_000
NAMES = {"unsloth": "Unsloth 2026.10.9", "recipe": "TRL + PEFT + bitsandbytes"}


@dataclass(frozen=True, slots=True)
class Point:
    """A run: GB reserved, tokens a second."""

    gigabytes: float
    speed: float
    label: str

    @property
    def x(self) -> float:
        """Place on a logarithmic axis."""
        share = math.log(self.gigabytes / FEWEST) / math.log(MOST / FEWEST)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    @property
    def y(self) -> float:
        """Place from the top."""
        return HEIGHT - BOTTOM - self.speed / FASTEST * (HEIGHT - TOP - BOTTOM)


def points(runs: list[dict[str, Any]], who: str) -> list[Point]:
    """Return the runs of long rows of one participant, by memory."""
    found = [
        Point(run["peak_reserved_gb"], run["tokens_per_second"], NAMES.get(who, ""))
        for run in runs
        if run["who"] == who and run["workload"] == "full" and "tokens_per_second" in run
    ]
    return sorted(found, key=lambda point: point.gigabytes)


def draw(ours: list[Point], peers: list[Point]) -> str:
    """Return the picture."""
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            'font-family="sans-serif" font-size="13">'
        ),
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        (
            f'<text x="{LEFT}" y="26" font-size="16" fill="#111">'
            "QLoRA of a 7B model on one H100: tokens/s by GPU memory</text>"
        ),
    ]
    for speed in range(0, FASTEST + 1, 5000):
        y = Point(FEWEST, speed, "").y
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end" fill="#444">{speed:,}</text>')
    for gigabytes in (2, 4, 8, 16, 24, 40, 80):
        x = Point(gigabytes, 0, "").x
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" stroke="#eee"/>')
        parts.append(
            f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle" fill="#444">{gigabytes}</text>'
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(
        f'<text x="{middle}" y="{HEIGHT - 12}" text-anchor="middle" fill="#444">'
        "GB reserved (10^9 bytes, logarithmic)</text>"
    )
    line = " ".join(f"{point.x:.1f},{point.y:.1f}" for point in ours)
    parts.append(f'<polyline points="{line}" fill="none" stroke="#0b62d6" stroke-width="2"/>')
    for point in ours:
        told = f"{point.speed:,.0f} at {point.gigabytes:.1f}"
        parts.append(f'<circle cx="{point.x:.1f}" cy="{point.y:.1f}" r="5" fill="#0b62d6"/>')
        parts.append(
            f'<text x="{point.x:.1f}" y="{point.y - 11:.1f}" text-anchor="middle" fill="#0b62d6">{told}</text>'
        )
    for point in peers:
        told = f"{point.label}: {point.speed:,.0f} at {point.gigabytes:.1f}"
        parts.append(f'<rect x="{point.x - 5:.1f}" y="{point.y - 5:.1f}" width="10" height="10" fill="#c2410c"/>')
        parts.append(f'<text x="{point.x + 11:.1f}" y="{point.y + 16:.1f}" fill="#c2410c">{told}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> None:
    """Write the picture."""
    mine = json.loads((RESULTS / "qlora_memory_h100.json").read_bytes())["runs"]
    theirs = json.loads((RESULTS / "qlora_budgets_h100.json").read_bytes())["runs"]
    peers = [*points(theirs, "unsloth"), *points(theirs, "recipe")]
    (ROOT / "docs" / "qlora_budgets.svg").write_text(draw(points(mine, "ours"), peers), encoding="utf-8")


if __name__ == "__main__":
    main()
