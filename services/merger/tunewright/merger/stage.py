"""The merge stage: adapter into its base, each candidate measured against the model as trained, the best one kept.

Knows no transport and no store.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tunewright.artifacts import Kind, Manifest
from tunewright.chassis.errors import InvalidSpec, Refused
from tunewright.chassis.stage import Reporter, Severity
from tunewright.merger.adapter_config import AdapterConfig, read_adapter_config
from tunewright.merger.candidates import (
    DEQUANTIZED,
    FULL_PRECISION,
    Measured,
    choose,
    refuse_a_bad_merge,
    refuse_what_cannot_be_made,
    rounded,
    table,
)
from tunewright.merger.card import model_card
from tunewright.merger.companions import add_end_tokens, copy_companions
from tunewright.merger.comparison import choose_machine
from tunewright.merger.golden import (
    LARGEST_KL,
    LEAST_AGREEMENT,
    GoldenAgreement,
    GoldenPrompt,
    read_golden,
    refuse_another_model,
)
from tunewright.merger.headers import INDEX_NAME, TensorInfo
from tunewright.merger.lineage import check_lineage, check_settings, manifests_of
from tunewright.merger.measuring import Found, Measurement
from tunewright.merger.plan import MergePlan, plan_merge
from tunewright.merger.probes import Probe, load_tokenizer, make_probes, read_conversations
from tunewright.merger.quantization import Quantization
from tunewright.merger.safety import (
    chat_template,
    check_folder,
    read_json,
    text_sha256,
    tokenizer_sha256,
)
from tunewright.merger.spec import MergeSpec
from tunewright.merger.streaming import write_merged
from tunewright.merger.weights import main_dtype


def run(spec: MergeSpec, inputs: Mapping[str, Path], output_dir: Path, report: Reporter) -> Manifest:
    """Merge inputs["adapter"] into inputs["base"]; inputs["dataset"] gives the held-out probes.

    Raises:
        InvalidSpec: an input is missing or of the wrong kind.
        Refused: quantised or wrong base, foreign tokenizer, unsupported adapter, or a merge that is not what was
            trained.
        DiskFull: there is no room for the candidates.
    """
    base, adapter, dataset = (_input(inputs, name) for name in ("base", "adapter", "dataset"))
    manifests = manifests_of(report.runtime)
    tensors = check_folder(base, "the base")
    plan = _plan(base, adapter, tensors, manifests)
    tokenizer = load_tokenizer(adapter, "adapter")
    conversations = read_conversations(dataset, spec.probe_count)
    probes = make_probes(tokenizer, load_tokenizer(base, "base"), conversations, spec.probe_max_length)
    golden = read_golden(adapter, tokenizer)
    report.event("plan", f"{len(plan.changes)} of {len(tensors)} tensors change.", changed=len(plan.changes))

    trained_on = manifests["adapter"].quantization if "adapter" in manifests else None
    quantization = Quantization.read(trained_on)
    refuse_what_cannot_be_made(spec.merge, quantized=quantization is not None, known="adapter" in manifests)
    plans = _candidates(plan, spec, base, quantization, report)
    folders = _write_candidates(plans, spec, base, adapter, output_dir, report)
    measurement = _measurement(
        spec, base, adapter, quantization, tensors, probes, golden, len(plans), report, known="adapter" in manifests
    )
    try:
        found = measurement.run(folders)
        chosen = choose(found.candidates, spec.merge)
        refuse_a_bad_merge(found.candidates, chosen, max_kl=spec.max_kl, max_trained_kl=spec.max_trained_kl)
    except Refused:
        shutil.rmtree(candidates_folder(output_dir))  # another attempt would be refused as well
        raise
    _keep(folders, chosen, output_dir)
    if added := add_end_tokens(output_dir):
        report.event("end_tokens", f"The model now also stops at tokens {added}, as it was trained to.", added=added)

    record = _record(manifests, adapter, found, chosen, str(measurement.machine.dtype).removeprefix("torch."))
    _write_record(record, manifests, output_dir)
    report.event("measured", f"{chosen} is published\n{table(found.candidates, chosen)}", **_told(record))
    return Manifest(
        kind=Kind.MODEL,
        created_by="merger",
        spec=spec.canonical(),
        base_model=record["base_model"],
        base_revision=record["base_revision"],
        tokenizer_sha256=tokenizer_sha256(output_dir),
        chat_template_sha256=text_sha256(chat_template(output_dir, "the merged model")),
        metrics=_metrics(found, chosen),
    )


def _input(inputs: Mapping[str, Path], name: str) -> Path:
    if name not in inputs:
        raise InvalidSpec(f"input {name!r} is missing", remedy=f"Give the merge its {name}.")
    return inputs[name]


def _plan(base: Path, adapter: Path, tensors: list[TensorInfo], manifests: Mapping[str, Manifest]) -> MergePlan:
    config: AdapterConfig = read_adapter_config(adapter)
    if {"adapter", "base"} <= manifests.keys():
        check_lineage(manifests)
    if "adapter" in manifests:
        check_settings(config, manifests["adapter"])
    tied = bool(read_json(base / "config.json").get("tie_word_embeddings"))
    return plan_merge(adapter, config, tensors, tied=tied)


def _candidates(
    plan: MergePlan, spec: MergeSpec, base: Path, quantization: Quantization | None, report: Reporter
) -> dict[str, MergePlan]:
    """Return the plans of the candidates to make, by name.

    Raises:
        Refused: the one asked for cannot be made of this base.
    """
    plans = {FULL_PRECISION: plan} if spec.merge != DEQUANTIZED else {}
    if quantization is None or spec.merge == FULL_PRECISION:
        return plans or {FULL_PRECISION: plan}
    from tunewright.merger.dequantized import quantized_layers  # noqa: PLC0415 - seconds that most merges have no need of

    layers = quantized_layers(base)
    if missing := sorted(layers.keys() - {tensor.name for tensor in plan.tensors}):
        why = f"the base stores {missing[0]} otherwise than transformers names it"
        words = f"{why}; only full precision is merged"
        if spec.merge == DEQUANTIZED:
            raise Refused(
                f"merge: {DEQUANTIZED} cannot be made: {why}",
                remedy="Set merging.merge to auto or full_precision.",
            )
        report.event("no_dequantized", words, severity=Severity.WARNING, missing=missing[:5])
        return {FULL_PRECISION: plan}
    return {**plans, DEQUANTIZED: replace(plan, quantization=quantization, quantized=layers)}


def _write_candidates(
    plans: Mapping[str, MergePlan], spec: MergeSpec, base: Path, adapter: Path, output_dir: Path, report: Reporter
) -> dict[str, Path]:
    """Write each candidate into a folder beside the output, where a later attempt finds what this one wrote."""
    folders = {}
    _remove_others(candidates_folder(output_dir), plans)
    for name, plan in plans.items():

        def on_part(done: int, total: int, name: str = name) -> None:
            report.raise_if_stopped()
            report.progress(done, total, unit=f"bytes of {name}")

        folder = folders[name] = candidates_folder(output_dir) / name
        folder.mkdir(parents=True, exist_ok=True)
        written = write_merged(plan, folder, spec.max_shard_bytes, on_part)
        index = {INDEX_NAME} if len(written) > 1 else set()
        for path in folder.iterdir():
            if path.name not in {file.name for file in written} | index:
                path.unlink()  # an earlier attempt's companions: they would be published
        copy_companions(base, adapter, folder)
    return folders


def candidates_folder(output_dir: Path) -> Path:
    """Return where candidates lie until one is chosen."""
    return output_dir.with_name(output_dir.name + ".candidates")


def _remove_others(folder: Path, plans: Mapping[str, MergePlan]) -> None:
    """Remove candidates that this run does not make, left by an attempt with other settings."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name not in plans:
            shutil.rmtree(path)


def _keep(folders: Mapping[str, Path], chosen: str, output_dir: Path) -> None:
    for path in sorted(folders[chosen].iterdir()):
        shutil.move(path, output_dir / path.name)
    shutil.rmtree(candidates_folder(output_dir))


def _measurement(
    spec: MergeSpec,
    base: Path,
    adapter: Path,
    quantization: Quantization | None,
    tensors: list[TensorInfo],
    probes: list[Probe],
    golden: list[GoldenPrompt],
    merged: int,
    report: Reporter,
    *,
    known: bool,
) -> Measurement:
    """Return what is to be measured; `known`: by its manifest, the base is run as training had it."""
    models = merged + (1 if quantization is None else 2)
    steps = _ProbeProgress(report, models * len(probes))

    def check_golden(repeated: GoldenAgreement, plain: GoldenAgreement) -> None:
        min_agreement, max_kl = spec.min_golden_agreement, spec.max_golden_kl
        if not known:
            min_agreement, max_kl = min(min_agreement, LEAST_AGREEMENT), max(max_kl, LARGEST_KL)
        refuse_another_model(repeated, plain, min_agreement=min_agreement, max_kl=max_kl)

    return Measurement(
        base=base,
        adapter=adapter,
        quantization=quantization,
        machine=choose_machine(sum(tensor.size_bytes for tensor in tensors), main_dtype(tensors)),
        probes=probes,
        golden=golden,
        check_golden=check_golden,
        on_probe=steps.advance,
    )


class _ProbeProgress:
    """Counts probes over all models and hears a cancel between two of them."""

    def __init__(self, report: Reporter, total: int) -> None:
        self._report, self._total, self._done = report, total, 0

    def advance(self) -> None:
        self._report.raise_if_stopped()
        self._done += 1
        self._report.progress(self._done, self._total, unit="probes")


def _record(manifests: Mapping[str, Manifest], adapter: Path, found: Found, chosen: str, dtype: str) -> dict[str, Any]:
    base, best = manifests.get("base"), found.candidates[chosen]
    fidelity = _fidelity(best)
    return {
        "base_model": base.base_model if base else read_adapter_config(adapter).base_model or None,
        "base_revision": base.base_revision if base else None,
        "adapter": str(manifests["adapter"].ref) if "adapter" in manifests else None,
        "compute_dtype": dtype,
        "merge": chosen,
        "candidates": {name: measured.figures() for name, measured in found.candidates.items()},
        "trained_eval_loss": rounded(found.trained_eval_loss, 4),
        "quantization_error_over_delta": {name: rounded(ratio) for name, ratio in sorted(found.noise.items())},
        **{name: rounded(value) for name, value in fidelity.items()},
        "golden_agreement": rounded(found.repeated.agreement) if found.repeated else None,
        "golden_first_step_kl": rounded(found.repeated.first_step_kl) if found.repeated else None,
    }


def _fidelity(measured: Measured) -> dict[str, Any]:
    """Return the figures of a merged candidate against the same weights with the adapter unmerged."""
    if measured.fidelity is None:
        raise RuntimeError("a merged candidate is compared with its unmerged twin")
    return asdict(measured.fidelity)


def _told(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of the record goes into the event: all but the layers."""
    return {name: value for name, value in record.items() if name != "quantization_error_over_delta"}


def _write_record(record: dict[str, Any], manifests: Mapping[str, Manifest], output_dir: Path) -> None:
    (output_dir / "merge.json").write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", "utf-8")
    (output_dir / "README.md").write_text(model_card(manifests, record), "utf-8")


def _metrics(found: Found, chosen: str) -> dict[str, Any]:
    best = found.candidates[chosen]
    fidelity = _fidelity(best)
    figures = {f"merge_{name}": value for name, value in fidelity.items() if name not in {"tokens", "probes"}}
    if found.repeated:
        figures["golden_agreement"] = found.repeated.agreement
        figures["golden_first_step_kl"] = found.repeated.first_step_kl
    ratios = sorted(found.noise.values())
    return {
        **figures,
        "merge": chosen,
        "trained_mean_kl": best.trained.mean_kl,
        "trained_top1_agreement": best.trained.top1_agreement,
        "eval_loss": best.eval_loss,
        "trained_eval_loss": found.trained_eval_loss,
        "candidates": {name: measured.figures() for name, measured in found.candidates.items()},
        "quantization_error_over_delta_median": ratios[len(ratios) // 2] if ratios else None,
        "probes": fidelity["probes"],
        "probe_tokens": fidelity["tokens"],
    }
