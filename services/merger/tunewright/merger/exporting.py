"""The export stage: a merged model in a form that other engines serve, loaded back and measured against the model.

Knows no transport and no store.
"""

import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tunewright.artifacts import Kind, Manifest
from tunewright.chassis.errors import InvalidSpec, Refused
from tunewright.chassis.stage import Reporter
from tunewright.merger.candidates import rounded
from tunewright.merger.card import export_card
from tunewright.merger.companions import copy_companions
from tunewright.merger.comparison import Agreement, Logits, choose_machine, gguf_model, plain_model
from tunewright.merger.probes import load_tokenizer, make_probes, read_conversations
from tunewright.merger.safety import chat_template, check_folder, text_sha256, tokenizer_sha256
from tunewright.merger.spec import ExportSpec
from tunewright.merger.weights import main_dtype

RECORD = "export.json"


def run(spec: ExportSpec, inputs: Mapping[str, Path], output_dir: Path, report: Reporter) -> Manifest:
    """Export inputs["model"] as `spec.format`; inputs["dataset"] gives the held-out probes.

    Raises:
        InvalidSpec: an input is missing.
        Refused: the model cannot be exported so, or what is loaded back is too far from it.
    """
    for name in ("model", "dataset"):
        if name not in inputs:
            raise InvalidSpec(f"input {name!r} is missing", remedy=f"Give the export its {name}.")
    model = inputs["model"]
    tensors = check_folder(model, "the model")
    tokenizer = load_tokenizer(model, "model")
    conversations = read_conversations(inputs["dataset"], spec.probe_count)
    probes = make_probes(tokenizer, tokenizer, conversations, spec.probe_max_length)
    copy_companions(model, model, output_dir)
    _write(spec, model, output_dir)
    report.raise_if_stopped()

    machine = choose_machine(sum(tensor.size_bytes for tensor in tensors), main_dtype(tensors))
    done = 0

    def on_probe() -> None:
        nonlocal done
        report.raise_if_stopped()
        done += 1
        report.progress(done, 2 * len(probes), unit="probes")

    opened = gguf_model if spec.format == "gguf" else plain_model
    with closing(Logits(len(probes))) as reference, closing(Logits(len(probes))) as exported:
        with plain_model(model, machine) as loaded:
            reference.record(loaded, probes, on_probe)
        with opened(output_dir, machine) as loaded:
            exported.record(loaded, probes, on_probe)
        agreement = exported.against(reference)
        figures = _figures(agreement, reference.eval_loss, exported.eval_loss)
    size = sum(path.stat().st_size for path in output_dir.iterdir() if path.suffix in {".safetensors", ".gguf"})
    figures |= {"weight_bytes": size, "weight_bytes_before": sum(tensor.size_bytes for tensor in tensors)}
    _refuse_a_bad_export(spec, agreement, figures)
    report.event("measured", _sentence(spec, figures), **figures)
    record = {"format": spec.format, **({"gguf_type": spec.gguf_type} if spec.format == "gguf" else {}), **figures}
    (output_dir / RECORD).write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", "utf-8")
    base = report.runtime.get("manifests", {}).get("model", {})
    card = (model / "README.md").read_text("utf-8") if (model / "README.md").is_file() else ""
    (output_dir / "README.md").write_text(card + export_card(record), "utf-8")
    return Manifest(
        kind=Kind.MODEL,
        created_by="merger",
        spec=spec.canonical(),
        base_model=base.get("base_model"),
        base_revision=base.get("base_revision"),
        tokenizer_sha256=tokenizer_sha256(output_dir),
        chat_template_sha256=text_sha256(chat_template(output_dir, "the export")),
        quantization={"quant_method": spec.format},
        metrics={f"export_{name}": value for name, value in figures.items()},
    )


def _write(spec: ExportSpec, model: Path, output_dir: Path) -> None:
    """Write weights and config. The libraries are loaded for the format that is asked for only."""
    if spec.format == "gguf":
        from tunewright.merger.gguf_file import write_gguf  # noqa: PLC0415 - an optional extra

        write_gguf(model, output_dir, spec.gguf_type)
        return
    from tunewright.merger.compressing import Compression, write_compressed  # noqa: PLC0415 - an optional extra

    write_compressed(model, output_dir, Compression.of(model, spec.format), spec.max_shard_bytes)


def _figures(agreement: Agreement, before: float | None, after: float | None) -> dict[str, Any]:
    figures = {name: rounded(value) for name, value in asdict(agreement).items()}
    return {**figures, "eval_loss": rounded(after, 4), "eval_loss_before": rounded(before, 4)}


def _refuse_a_bad_export(spec: ExportSpec, agreement: Agreement, figures: Mapping[str, Any]) -> None:
    if not agreement.mean_kl <= spec.max_kl:
        raise Refused(
            f"{_sentence(spec, figures)} max_kl allows {spec.max_kl:g}",
            remedy="Take another format, or raise max_kl if the difference is acceptable to you.",
        )


def _sentence(spec: ExportSpec, figures: Mapping[str, Any]) -> str:
    return (
        f"{spec.format}, loaded back: mean KL {figures['mean_kl']:.3g} and worst {figures['max_kl']:.3g} nats/token "
        f"from the model, top-1 agreement {figures['top1_agreement']:.1%}, held-out loss {figures['eval_loss']} "
        f"(before {figures['eval_loss_before']}), {figures['weight_bytes']:,} bytes of weights."
    )
