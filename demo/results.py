"""What the demo found out: read from manifests and the run itself, shown as one table, and as one JSON document.

Knows nothing of how it was made. Losses are nats per answer token on held-out rows, through the served endpoints.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import psutil
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from demo.questions import Answer
from tunewright.cli.client import Gateway
from tunewright.cli.console import duration, size
from tunewright.cli.stack import processes
from tunewright.cli.stack.folder import StackFolder

SHOWN_CHARACTERS = 180


@dataclass(frozen=True, kw_only=True)
class Facts:
    """The finished run and the manifests of what it made."""

    run: dict[str, Any]
    manifests: dict[str, dict[str, Any]]
    """Stage → manifest of its artifact."""
    url: str
    stack: str
    """Folder of the stack."""
    serving_bytes: int
    """Memory of the inference service with all its engines, shared pages counted once."""

    def metrics(self, stage: str) -> dict[str, Any]:
        """Return the metrics in a stage's manifest."""
        found: dict[str, Any] = self.manifests.get(stage, {}).get("metrics", {})
        return found


def gather(gateway: Gateway, run: dict[str, Any], stack: StackFolder) -> Facts:
    """Return what the run's artifacts say of themselves.

    Raises:
        CliError: the gateway does not answer.
    """
    manifests = {stage: gateway.get(f"/v1/artifacts/{ref}") for stage, ref in run["artifacts"].items()}
    inference = stack.status().services.get("inference")
    service = inference.process.find() if inference and inference.process else None
    return Facts(
        run=run,
        manifests=manifests,
        url=gateway.endpoint.url,
        stack=str(stack.path),
        serving_bytes=sum(_memory(process) for process in processes.with_descendants([service] if service else [])),
    )


def _memory(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:
        return 0


def summary(facts: Facts, answers: list[Answer], steps: Mapping[str, float]) -> dict[str, Any]:
    """Return the document that summary.json holds.

    `seconds` are those of this very run, stage by stage: next to nothing where a finished artifact was found.
    `made_in_seconds` and `peak_rss_bytes` are those of the stage's process when the artifact was made.
    """
    data, training, merge, report = (facts.metrics(stage) for stage in ("prepare", "train", "merge", "evaluate"))
    made = {stage: facts.metrics(stage) for stage in facts.manifests}
    return {
        "model": facts.run["name"],
        "base": facts.run["base_model"],
        "endpoint": f"{facts.url}/v1",
        "stack": facts.stack,
        "run": facts.run["id"],
        "rows_in": data.get("rows_in"),
        "rows_out": data.get("rows_out"),
        "train_rows": data.get("train_rows"),
        "validation_rows": data.get("validation_rows"),
        "dropped": data.get("dropped", {}),
        "base_eval_loss": report.get("base_eval_loss"),
        "tuned_eval_loss": report.get("tuned_eval_loss"),
        "base_perplexity": report.get("base_perplexity"),
        "tuned_perplexity": report.get("tuned_perplexity"),
        "base_token_accuracy": report.get("base_token_accuracy"),
        "tuned_token_accuracy": report.get("tuned_token_accuracy"),
        "training_first_eval_loss": training.get("first_eval_loss"),
        "training_best_eval_loss": training.get("best_eval_loss"),
        "training_steps": training.get("steps"),
        "trainable_parameters": training.get("trainable_parameters"),
        "merge_max_kl": merge.get("merge_max_kl"),
        "merge_top1_agreement": merge.get("merge_top1_agreement"),
        "seconds": _stage_seconds(facts.run),
        "steps_seconds": dict(steps),
        "serving_after_seconds": round(sum(steps.values()) - steps.get("answers", 0.0), 2),
        "total_seconds": round(sum(steps.values()), 2),
        "made_in_seconds": {stage: found.get("stage_seconds") for stage, found in made.items()},
        "peak_rss_bytes": {stage: found.get("stage_peak_rss_bytes") for stage, found in made.items()},
        "serving_bytes": facts.serving_bytes,
        "artifacts": facts.run["artifacts"],
        "answers": [asdict(answer) for answer in answers],
    }


def _stage_seconds(run: Mapping[str, Any]) -> dict[str, float]:
    return {stage["name"]: round(stage["seconds"], 2) for stage in run["stages"] if stage["seconds"] is not None}


def show(document: Mapping[str, Any], console: Console) -> None:
    """Print the one table, and what to type next."""
    console.print()
    table = Table(box=box.ROUNDED, show_header=False, show_lines=True, title=f"[bold]{document['model']}[/]")
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("rows", _rows(document))
    table.add_row("held-out loss", _losses(document))
    table.add_row("merge", _merge(document))
    table.add_row("stages", _stages(document))
    console.print(table)
    console.print(_answers(document["answers"]))
    console.rule("[bold green]it answers[/]", style="green")
    for line in _next_lines(document):
        console.print(line, soft_wrap=True)  # unbroken, so that it can be copied


def _rows(document: Mapping[str, Any]) -> str:
    dropped = sorted(document["dropped"].items(), key=lambda item: -item[1])
    why = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in dropped if count)
    split = f"{document['train_rows']} to learn from, {document['validation_rows']} held out"
    return f"{document['rows_in']} in → {document['rows_out']} out ({split})" + (f"\ndropped: {why}" if why else "")


def _losses(document: Mapping[str, Any]) -> str:
    base, tuned = document["base_eval_loss"], document["tuned_eval_loss"]
    if base is None or tuned is None:
        return "not measured"
    words = (
        f"base {base:.3f} → tuned [bold green]{tuned:.3f}[/] nats a token"
        f" (perplexity {math.exp(base):.1f} → {math.exp(tuned):.1f})"
    )
    before, after = document["base_token_accuracy"], document["tuned_token_accuracy"]
    return words if before is None or after is None else f"{words}\nnext token right: {before:.1%} → {after:.1%}"


def _merge(document: Mapping[str, Any]) -> str:
    if document["merge_max_kl"] is None:
        return "not measured"
    agreement = document["merge_top1_agreement"]
    same = "" if agreement is None else f", same first choice in {agreement:.1%} of places"
    return f"merged against base + adapter: KL at most {document['merge_max_kl']:.2g} nats a token{same}"


def _stages(document: Mapping[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("stage")
    for column in ("this time", "when made", "peak memory"):
        table.add_column(column, justify="right")
    for stage, seconds in document["seconds"].items():
        made, peak = document["made_in_seconds"].get(stage), document["peak_rss_bytes"].get(stage)
        table.add_row(stage, duration(seconds), duration(made) if made else "", size(peak) if peak else "")
    table.add_row("[dim]serving both[/]", "", "", size(document["serving_bytes"]))
    table.add_row("[dim]until it answered[/]", duration(document["serving_after_seconds"]), "", "")
    table.add_row("[dim]whole demo[/]", duration(document["total_seconds"]), "", "")
    return table


def _answers(answers: list[dict[str, str]]) -> Table:
    table = Table(box=box.ROUNDED, show_lines=True, expand=True)
    for column in ("held-out question", "base", "[green]tuned[/]", "held-out answer"):
        table.add_column(column, ratio=1, overflow="fold")
    for answer in answers:
        table.add_row(*(_cut(answer[key]) for key in ("question", "base", "tuned", "expected")))
    return table


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return escape(text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS].rstrip() + " …")


def _next_lines(document: Mapping[str, Any]) -> Iterator[str]:
    model, key = document["model"], f"{document['stack']}/api_key"
    body = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello"}}]}}'
    yield f"[bold]{document['endpoint']}[/]  model [bold]{model}[/]  (base: {document['base']})"
    yield ""
    yield "Talk to it:     " + escape(f"tunewright chat {model}")
    yield "By curl:        " + escape(
        f'curl -s {document["endpoint"]}/chat/completions -H "Authorization: Bearer $(cat {key})"'
        f" -H 'Content-Type: application/json' -d '{body}'"
    )
    yield "Your own data:  tunewright run RECIPE.yaml"
    yield "The stack goes on running. Stop it (data stay):  " + escape("tunewright down")
