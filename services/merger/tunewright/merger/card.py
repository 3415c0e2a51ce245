"""The model card of a merged model: what it is, where it comes from, how good the merge is, how to serve it.

Holds nothing that differs between two runs of the same job: no times, hosts or folders.
"""

from collections.abc import Mapping
from typing import Any

from tunewright.artifacts import Manifest
from tunewright.merger.candidates import figures_table


def model_card(manifests: Mapping[str, Manifest], record: Mapping[str, Any]) -> str:
    """Return README.md for the model.

    Args:
        manifests: of adapter, base and dataset, where known.
        record: the contents of merge.json.
    """
    base = record["base_model"] or "a local base model"
    return "\n".join(
        [
            *_front_matter(str(base)),
            f"# {base}, fine-tuned and merged",
            "",
            "Made by Tunewright: an adapter was merged into its base, and the merged model compared with the model as",
            "it was trained on held-out prompts before it was published.",
            "",
            "## Where it comes from",
            "",
            *_origin(manifests, record),
            "",
            "## How far it is from what was trained",
            "",
            "Candidates against the model as it was trained (its base as training had it, the adapter unmerged), whose",
            f"held-out loss is {_shown(record['trained_eval_loss'])}; KL in nats per token:",
            "",
            figures_table(record["candidates"], record["merge"]),
            "",
            "The published one against the same weights with the adapter unmerged:",
            "",
            *_figures(record),
            "",
            *_serving(),
        ]
    )


def export_card(record: Mapping[str, Any]) -> str:
    """Return what an export adds to the model's card.

    Args:
        record: the contents of export.json.
    """
    figures = ("mean_kl", "max_kl", "top1_agreement", "eval_loss", "eval_loss_before", "weight_bytes")
    rows = [f"| {name} | {record[name]} |" for name in figures if record.get(name) is not None]
    how = "llama-server -m model.gguf" if record["format"] == "gguf" else "vllm serve . --served-model-name tuned"
    lines = [
        "",
        f"## Exported as {record['format']}",
        "",
        "Loaded back and compared with the model on held-out prompts; KL in nats per token.",
        "",
        "| figure | value |",
        "|---|---|",
        *rows,
        "",
        f"```bash\n{how}\n```",
        "",
    ]
    return "\n".join(lines)


def _front_matter(base: str) -> list[str]:
    return ["---", f"base_model: {base!r}", "library_name: transformers", "pipeline_tag: text-generation", "---", ""]


def _origin(manifests: Mapping[str, Manifest], record: Mapping[str, Any]) -> list[str]:
    lines = [f"- base: `{record['base_model']}` at revision `{record['base_revision']}`"]
    lines += [f"- {name}: `{manifest.ref}`" for name, manifest in sorted(manifests.items())]
    fingerprint = manifests["dataset"].metrics.get("fingerprint") if "dataset" in manifests else None
    if fingerprint:
        lines.append(f"- data fingerprint: `{fingerprint}`")
    if "adapter" in manifests:
        settings = ", ".join(f"{name}={value}" for name, value in sorted(manifests["adapter"].spec.items()))
        lines.append(f"- training: {settings}")
    lines.append("- licence: that of the base applies; see its LICENSE file or its page")
    return lines


def _figures(record: Mapping[str, Any]) -> list[str]:
    rows = [f"| {name} | {record[name]:.4g} |" for name in _SHOWN if record.get(name) is not None]
    return ["| figure | value |", "|---|---|", *rows]


def _shown(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"


_SHOWN = ("mean_kl", "max_kl", "top1_agreement", "max_abs_logit_diff", "golden_agreement", "tokens", "probes")


def _serving() -> list[str]:
    return [
        "`mean_kl` and `max_kl` are nats per token; `merge.json` holds all figures, layer by layer.",
        "",
        "## How to serve it",
        "",
        "```bash",
        "vllm serve . --served-model-name tuned",
        "```",
        "",
        "The chat template travels with the tokenizer: ask through `/v1/chat/completions`.",
        "",
    ]
