"""The merge stage: adapter into full-precision base, measured against base + adapter, refused if they differ.

Knows no transport and no store.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from tunewright.artifacts import Kind, Manifest
from tunewright.chassis.errors import InvalidSpec, Refused
from tunewright.chassis.stage import Reporter
from tunewright.merger.adapter_config import AdapterConfig, read_adapter_config
from tunewright.merger.card import model_card
from tunewright.merger.companions import add_end_tokens, copy_companions
from tunewright.merger.comparison import Agreement, ReferenceLogits, choose_machine, plain_model, unmerged_model
from tunewright.merger.golden import GoldenAgreement, read_golden, refuse_another_model, replay
from tunewright.merger.headers import TensorInfo
from tunewright.merger.lineage import check_lineage, check_settings, manifests_of
from tunewright.merger.plan import MergePlan, plan_merge
from tunewright.merger.probes import load_tokenizer, make_probes, read_conversations
from tunewright.merger.safety import (
    chat_template,
    check_folder,
    read_json,
    text_sha256,
    tokenizer_sha256,
)
from tunewright.merger.spec import MergeSpec
from tunewright.merger.streaming import write_merged
from tunewright.merger.weights import DTYPES


def run(spec: MergeSpec, inputs: Mapping[str, Path], output_dir: Path, report: Reporter) -> Manifest:
    """Merge inputs["adapter"] into inputs["base"]; inputs["dataset"] gives the held-out probes.

    Raises:
        InvalidSpec: an input is missing or of the wrong kind.
        Refused: quantised or wrong base, foreign tokenizer, unsupported adapter, or a merge that is not what was
            trained.
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

    _write(plan, spec, output_dir, report)
    copy_companions(base, adapter, output_dir)
    if added := add_end_tokens(output_dir):
        report.event("end_tokens", f"The model now also stops at tokens {added}, as it was trained to.", added=added)

    machine = choose_machine(sum(tensor.size_bytes for tensor in tensors), _main_dtype(tensors))
    steps = _ProbeProgress(report, 2 * len(probes))
    reference, repeated = ReferenceLogits(), None
    try:
        with unmerged_model(base, adapter, machine) as model:
            reference.record(model, probes, steps.advance)
            if golden:
                repeated = replay(model, golden)
                with model.disable_adapter():
                    plain = replay(model, golden)
                refuse_another_model(
                    repeated, plain, min_agreement=spec.min_golden_agreement, max_kl=spec.max_golden_kl
                )
        with plain_model(output_dir, machine) as model:
            agreement = reference.compare(model, probes, steps.advance)
    finally:
        reference.close()
    _refuse_a_bad_merge(agreement, spec)

    record = _record(manifests, adapter, agreement, repeated, str(machine.dtype).removeprefix("torch."))
    _write_record(record, manifests, output_dir)
    report.event("measured", _sentence(agreement), **asdict(agreement))
    return Manifest(
        kind=Kind.MODEL,
        created_by="merger",
        spec=spec.canonical(),
        base_model=record["base_model"],
        base_revision=record["base_revision"],
        tokenizer_sha256=tokenizer_sha256(output_dir),
        chat_template_sha256=text_sha256(chat_template(output_dir, "the merged model")),
        metrics=_metrics(agreement, repeated),
    )


def _input(inputs: Mapping[str, Path], name: str) -> Path:
    if name not in inputs:
        raise InvalidSpec(f"input {name!r} is missing", remedy=f"Give the merge its {name}.")
    return inputs[name]


def _plan(base: Path, adapter: Path, tensors: list[TensorInfo], manifests: Mapping[str, Manifest]) -> MergePlan:
    config: AdapterConfig = read_adapter_config(adapter)
    if {"adapter", "base"} <= manifests.keys():
        check_lineage(manifests)
        check_settings(config, manifests["adapter"])
    tied = bool(read_json(base / "config.json").get("tie_word_embeddings"))
    return plan_merge(adapter, config, tensors, tied=tied)


def _write(plan: MergePlan, spec: MergeSpec, output_dir: Path, report: Reporter) -> None:
    def on_part(done: int, total: int) -> None:
        report.raise_if_stopped()
        report.progress(done, total, unit="bytes")

    write_merged(plan, output_dir, spec.max_shard_bytes, on_part)


class _ProbeProgress:
    """Counts probes over both models and hears a cancel between two of them."""

    def __init__(self, report: Reporter, total: int) -> None:
        self._report, self._total, self._done = report, total, 0

    def advance(self) -> None:
        self._report.raise_if_stopped()
        self._done += 1
        self._report.progress(self._done, self._total, unit="probes")


def _refuse_a_bad_merge(agreement: Agreement, spec: MergeSpec) -> None:
    if not agreement.mean_kl <= spec.max_kl:  # NaN is refused too
        raise Refused(
            f"the merged model is not base + adapter: {_sentence(agreement)} max_kl allows {spec.max_kl:g}",
            remedy="Serve the adapter unmerged; if the difference is acceptable to you, raise merging.max_kl.",
        )


def _sentence(agreement: Agreement) -> str:
    return (
        f"mean KL {agreement.mean_kl:.3g} and worst {agreement.max_kl:.3g} nats/token, "
        f"top-1 agreement {agreement.top1_agreement:.2%}, largest logit difference {agreement.max_abs_logit_diff:.3g} "
        f"over {agreement.tokens} tokens of {agreement.probes} probes."
    )


def _record(
    manifests: Mapping[str, Manifest], adapter: Path, agreement: Agreement, repeated: GoldenAgreement | None, dtype: str
) -> dict[str, Any]:
    base = manifests.get("base")
    return {
        "base_model": base.base_model if base else read_adapter_config(adapter).base_model or None,
        "base_revision": base.base_revision if base else None,
        "adapter": str(manifests["adapter"].ref) if "adapter" in manifests else None,
        "compute_dtype": dtype,
        **{name: _rounded(value) for name, value in asdict(agreement).items()},
        "golden_agreement": _rounded(repeated.agreement) if repeated else None,
        "golden_first_step_kl": _rounded(repeated.first_step_kl) if repeated else None,
    }


def _rounded(value: float) -> float:
    """Keep 3 significant digits: what a repeated run gives again even where sums are taken in another order."""
    return value if isinstance(value, int) else float(f"{value:.3g}")


def _write_record(record: dict[str, Any], manifests: Mapping[str, Manifest], output_dir: Path) -> None:
    (output_dir / "merge.json").write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", "utf-8")
    (output_dir / "README.md").write_text(model_card(manifests, record), "utf-8")


def _metrics(agreement: Agreement, repeated: GoldenAgreement | None) -> dict[str, Any]:
    figures = {f"merge_{name}": value for name, value in asdict(agreement).items() if name not in {"tokens", "probes"}}
    golden = (
        {"golden_agreement": repeated.agreement, "golden_first_step_kl": repeated.first_step_kl} if repeated else {}
    )
    return {**figures, **golden, "probes": agreement.probes, "probe_tokens": agreement.tokens}


def _main_dtype(tensors: list[TensorInfo]) -> torch.dtype:
    """Return the dtype that most of the weights' bytes have."""
    bytes_by_dtype: dict[str, int] = {}
    for tensor in tensors:
        bytes_by_dtype[tensor.dtype] = bytes_by_dtype.get(tensor.dtype, 0) + tensor.size_bytes
    return DTYPES[max(bytes_by_dtype, key=lambda name: bytes_by_dtype[name])]
