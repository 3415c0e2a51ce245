"""The stage: a dataset and a base model in, an adapter or a model out. Reads like what happens; parts do the work."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import set_seed
from trl.data_utils import pack_dataset

from tunewright.artifacts import Kind, Manifest, canonical_json, file_sha256
from tunewright.chassis.errors import InvalidData, OutOfResources, Refused
from tunewright.chassis.stage import Reporter, Severity
from tunewright.trainer import adapters, output, trackers, troubles
from tunewright.trainer.attempts import Attempts
from tunewright.trainer.base import (
    base_identity,
    check_base,
    end_token_ids,
    load_base,
    load_tokenizer,
    quantization,
    weights_fingerprint,
)
from tunewright.trainer.board import Board
from tunewright.trainer.data import load_dataset
from tunewright.trainer.device import Device, pick_device
from tunewright.trainer.encoding import Encoded, Encoder, Example
from tunewright.trainer.fast.planning import fast_path
from tunewright.trainer.golden import golden_answers
from tunewright.trainer.loop import Loop
from tunewright.trainer.objectives import PreferenceTrainer, SupervisedTrainer, training_arguments
from tunewright.trainer.planning.lengths import steps_of
from tunewright.trainer.planning.machine import Machine
from tunewright.trainer.planning.memory import exceeds_gpu
from tunewright.trainer.planning.shapes import read_shape
from tunewright.trainer.preference import PreferenceEncoder
from tunewright.trainer.progress import RunProgress
from tunewright.trainer.ranks import group, launching, sharding
from tunewright.trainer.raw_text import TextEncoder
from tunewright.trainer.search.page import search_report
from tunewright.trainer.search.shared_base import SharedBase
from tunewright.trainer.search.space import with_settings
from tunewright.trainer.search.trials import Search
from tunewright.trainer.settings import TrainerSettings
from tunewright.trainer.spec import TrainingSpec
from tunewright.trainer.start import check_start
from tunewright.trainer.watch import Watch

_SPEED_ALONE = ("fast_path", "vram_budget_gb")
"""Settings that change no result beyond rounding: a run may go on with others."""


def run(spec: TrainingSpec, inputs: Mapping[str, Path], output_dir: Path, report: Reporter) -> Manifest:
    """Train an adapter, or by method full a whole model.

    Args:
        spec: what to do.
        inputs: `dataset` (folder of a dataset artifact), `base` (folder of a full-precision model), and if training
            goes on from an adapter of that base, `adapter`.
        output_dir: empty folder for the artifact's files.
        report: hears progress, keeps checkpoints, says when to stop.

    Returns:
        The draft of the artifact's manifest.

    Raises:
        InvalidData: rows or base are wrong.
        InvalidSpec: a setting does not fit the base.
        Refused: the base is quantised or unsafe, the template does not teach to stop, the loss is not a number
            whatever was tried.
        OutOfResources: the device is too small whatever was tried.
        Interrupted: a stop was requested; the newest checkpoint is saved.
    """
    spec = launching.with_runtime(spec, report.runtime)
    if spec.launcher == "ray":
        return launching.train_on_ray(spec, inputs, output_dir, report)
    processes = launching.processes_of(spec, report)
    if processes > 1:
        return launching.train_together(spec, processes, inputs, output_dir, report)
    try:
        manifest = train(spec, inputs, output_dir, report)
    except Exception as error:
        trouble = troubles.recognise(error)
        if trouble is None:
            raise
        told = troubles.explain(error, trouble)
        report.event("trouble", told.message, severity=Severity.ERROR, row=trouble.row, remedy=told.remedy)
        raise told from error
    if manifest is None:
        raise RuntimeError("a run in one process ends in a manifest")
    return manifest


def explained(error: Exception) -> Exception:
    """Return the error with what the error table has to say of it."""
    trouble = troubles.recognise(error)
    return error if trouble is None else troubles.explain(error, trouble)


def train(spec: TrainingSpec, inputs: Mapping[str, Path], output_dir: Path, report: Reporter) -> Manifest | None:
    """Train in this process, alone or as one of several; only rank 0 writes the artifact and returns its draft."""
    train_rows, held_out_rows = load_dataset(inputs["dataset"], spec.objective)
    check_base(inputs["base"])
    trackers.check(TrainerSettings())
    start = inputs.get("adapter")
    if start is not None:
        check_start(spec, _trained_with(report))
    tokenizer = load_tokenizer(inputs["base"], report)
    end_ids = end_token_ids(tokenizer, inputs["base"])

    def encode(length: int) -> tuple[Encoded, Encoded]:
        rows_encoder = _encoder_of(spec, tokenizer, Encoder(tokenizer, end_ids, length), length)
        return rows_encoder.encode(train_rows, "train", report), rows_encoder.encode(
            held_out_rows, "validation", report
        )

    train, held_out = encode(spec.max_length)
    _check_and_tell(train, held_out, spec, report)
    device = pick_device(spec, report)

    is_sharded = _is_sharded(spec, report)

    def fresh(wanted: TrainingSpec) -> Any:  # noqa: ANN401 - transformers ships no types
        on_host = not is_sharded and _exceeds_gpu(inputs["base"], wanted, device)
        base = load_base(inputs["base"], wanted, device, on_host=on_host)[0]
        model = adapters.make_trainable(base, wanted)
        return sharding.shard(model, report) if is_sharded else model

    def build(
        wanted: TrainingSpec, told: Reporter, mark: str, trainable: Callable[[TrainingSpec], Any] = fresh
    ) -> Loop:
        """Return a fresh trainer for the spec, or for what remedies made of it."""
        rows = (train, held_out) if wanted.max_length == spec.max_length else encode(wanted.max_length)
        _check_still_all(rows[0], train, wanted)
        set_seed(spec.seed)
        model = trainable(wanted)
        report.raise_if_stopped()
        return _trainer(wanted, device, model, tokenizer, *rows, told, mark, start, alone=trainable is fresh)

    def fingerprint(wanted: TrainingSpec) -> str:
        return _fingerprint(wanted, train, held_out, inputs)

    trainer, found = _trained(spec, build, fingerprint, lambda: load_base(inputs["base"], spec, device)[0], report)
    if group.current().rank and not is_sharded:
        return None
    model = trainer.model
    _take_best(trainer, report)

    rows = ([example.row for example in part.examples] for part in (held_out, train))
    golden = golden_answers(
        model, Encoder(tokenizer, end_ids, spec.max_length), *rows,
        device=device, end_ids=end_ids, pad_id=tokenizer.pad_token_id,
    )  # fmt: skip
    if group.current().rank:
        return None  # it was needed up to here: all gather each layer together
    identity = base_identity(inputs["base"], report.runtime)
    if spec.method == "full":
        output.save_model(model, inputs["base"], end_ids, output_dir)
    else:
        adapters.save_adapter(model, identity.name, output_dir)
    hashes = output.save_tokenizer(tokenizer, output_dir)
    output.save_golden(golden, output_dir)
    output.save_logs(trainer.progress.history, output_dir)
    if found:
        output.save_search(found, output_dir)
    return Manifest(
        kind=Kind.MODEL if spec.method == "full" else Kind.ADAPTER,
        created_by="trainer",
        spec=spec.canonical() | (_chosen(spec, found) if found else {}),
        base_model=identity.name,
        base_revision=identity.revision,
        quantization=quantization(spec, device),
        seed=spec.seed,
        metrics=_metrics(trainer, train, held_out) | ({"search": found["best"]} if found else {}),
        tokenizer_sha256=hashes["tokenizer_sha256"],
        chat_template_sha256=hashes["chat_template_sha256"],
    )


def _trained(
    spec: TrainingSpec,
    build: Callable[..., Loop],
    fingerprint: Callable[[TrainingSpec], str],
    load: Callable[[], Any],
    report: Reporter,
) -> tuple[Loop, dict[str, Any] | None]:
    """Return the trainer at the run's end, and what a search found if there was one.

    Args:
        spec: of the run.
        build: returns a trainer for a spec, a reporter, a fingerprint, and what makes the model trainable.
        fingerprint: of the run of a spec.
        load: returns the base that all trials of a search share.
        report: of the job.
    """
    if not spec.search.trials:
        mark = fingerprint(spec)
        return Attempts(spec, lambda wanted: build(wanted, report, mark), mark, report).run(), None
    base = SharedBase(load)
    search = Search(spec, lambda wanted, told, mark: build(wanted, told, mark, base.trainable), fingerprint, report)
    return search.run(), search_report(search.study)


def _chosen(spec: TrainingSpec, found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that a search changed, with the values of the trial that was trained on."""
    chosen = with_settings(spec, found["best"]["settings"]).canonical()
    return {name: chosen[name] for name in ("lora_r", "lora_alpha", "learning_rate")}


def _trained_with(report: Reporter) -> Mapping[str, Any] | None:
    """Return the settings of the adapter that training goes on from, None if it came without a manifest."""
    manifest = report.runtime.get("manifests", {}).get("adapter")
    return None if manifest is None else dict(manifest["spec"])


def _encoder_of(
    spec: TrainingSpec,
    tokenizer: Any,  # noqa: ANN401 - transformers ships no types
    encoder: Encoder,
    length: int,
) -> Encoder | TextEncoder | PreferenceEncoder:
    if spec.objective == "cpt":
        return TextEncoder(tokenizer, length)
    return PreferenceEncoder(encoder, length) if spec.objective == "dpo" else encoder


def _check_still_all(shorter: Encoded, train: Encoded, wanted: TrainingSpec) -> None:
    """Hold to the rows: a run goes on from its checkpoint only if none of them is left out."""
    if len(shorter.examples) != len(train.examples):
        left_out = len(train.examples) - len(shorter.examples)
        raise OutOfResources(
            f"out of memory, and rows cut at {wanted.max_length} tokens would leave {left_out} rows out altogether",
            remedy="Raise max_length_floor, or shorten the prompts of the longest rows.",
        )


def _check_and_tell(train: Encoded, held_out: Encoded, spec: TrainingSpec, report: Reporter) -> None:
    if not train.examples:
        raise InvalidData(
            f"no training row is left: the prompt of each fills max_length ({spec.max_length} tokens)",
            remedy="Raise max_length, or shorten the prompts.",
        )
    longest = max(len(example.input_ids) for example in train.examples)
    report.event(
        "encoded",
        f"{len(train.examples)} rows to train on, {len(held_out.examples)} held out; "
        f"{train.answer_tokens} answer tokens, longest row {longest} tokens",
        train_rows=len(train.examples),
        validation_rows=len(held_out.examples),
        answer_tokens=train.answer_tokens,
        longest_row_tokens=longest,
    )
    if not held_out.examples:
        report.event(
            "no_evaluation",
            "no held-out rows: nothing is evaluated, early stopping is off and the last adapter is taken",
            severity=Severity.WARNING,
        )


def _trainer(
    spec: TrainingSpec,
    device: Device,
    model: Any,  # noqa: ANN401 - PEFT ships no types
    tokenizer: Any,  # noqa: ANN401
    train: Encoded,
    held_out: Encoded,
    report: Reporter,
    fingerprint: str,
    start: Path | None = None,
    *,
    alone: bool = True,
) -> Loop:
    """Return the trainer, its rows laid out and its watch set; `alone`: the model is no other trainer's as well."""
    columns = _pairs if spec.objective == "dpo" else _columns
    rows = columns(train.examples)
    if spec.packing:
        rows = pack_dataset(rows, spec.max_length, "bfd")
    # Longest first: evaluation pads least, and memory runs out at once if it ever does.
    by_length = sorted(held_out.examples, key=lambda example: -len(example.input_ids))
    if spec.optim == "paged_adamw_8bit" and device.type == "cpu":
        report.event("optimizer", "a CPU has nothing to page from: adamw_8bit is used", severity=Severity.WARNING)
    longest = max(len(example.input_ids) for example in train.examples)
    fast = fast_path(model, spec, device, longest, report, alone=alone)
    arguments = training_arguments(
        _in_one(spec) if fast else spec,
        device,
        report.checkpoints,
        steps_of(spec, len(rows)),
        evaluate=bool(held_out.examples),
    )
    cls = PreferenceTrainer if spec.objective == "dpo" else SupervisedTrainer
    trainer = cls(
        progress=RunProgress(),
        report=report,
        fingerprint=fingerprint,
        places=_places(train.examples),
        keep_checkpoints=spec.save_total_limit,
        loraplus_lr_ratio=spec.loraplus_lr_ratio,
        fast=fast,
        goes_on=start is not None,
        model=model,
        args=arguments,
        train_dataset=rows,
        eval_dataset=columns(by_length) if by_length else None,
        processing_class=tokenizer,
    )
    if start is not None:
        adapters.load_start(trainer.model, start)
    trainer.add_callback(Watch(trainer, spec, device, _board(report)))
    if not group.current().rank and "trial" not in str(report.runtime.get("part", "")):
        trackers.add(trainer, TrainerSettings(), str(report.runtime.get("job_id", "alone"))[:12], report)
    return trainer


def _is_sharded(spec: TrainingSpec, report: Reporter) -> bool:
    """Return True if the base is divided among several processes; tell where one alone was asked to do so."""
    asked, alone = spec.fsdp == "full_shard", group.current().size == 1
    if asked and alone:
        text = "fsdp is full_shard, but the run has one process: the base lies on its device as a whole"
        report.event("not_sharded", text, severity=Severity.WARNING)
    return asked and not alone


def _exceeds_gpu(base: Path, spec: TrainingSpec, device: Device) -> bool:
    """Return True if the base is to be loaded into host memory; False if nothing is known of its shape."""
    if device.type != "cuda":
        return False
    free = torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved()
    try:
        return exceeds_gpu(read_shape(base), spec, Machine("cuda", device.name, free, device.compute_dtype.itemsize))
    except (Refused, InvalidData):
        return False


def _board(report: Reporter) -> Board | None:
    """Return what writes the figures for TensorBoard, where the operator wants that and the job has a name."""
    folder, job = TrainerSettings().tensorboard_dir, report.runtime.get("job_id")
    return Board(folder / str(job)[:12] / str(report.runtime.get("part", ""))) if folder and job else None


def _in_one(spec: TrainingSpec) -> TrainingSpec:
    """Return the spec with a process's rows of a step in one batch: the fast path splits it by tokens itself."""
    size = group.current().size
    rows = spec.batch_rows // size
    return spec.model_copy(update={"per_device_train_batch_size": rows, "gradient_accumulation_steps": size})


def _take_best(trainer: Loop, report: Reporter) -> None:
    """Put the adapter of the best evaluation into the model."""
    progress = trainer.progress
    if trainer.best_weights is not None:
        adapters.load_weights(trainer.model, trainer.best_weights)
    first, best = progress.first_eval_loss, progress.best_eval_loss
    if first is not None and best is not None and best >= first:
        report.event(
            "no_improvement",
            f"training did not help: held-out loss {first:.4f} before, {best:.4f} at best",
            severity=Severity.WARNING,
            first_eval_loss=first,
            best_eval_loss=best,
        )


def _columns(examples: list[Example]) -> Any:  # noqa: ANN401 - datasets ships no types
    return Dataset.from_dict(
        {
            "input_ids": [example.input_ids for example in examples],
            "labels": [example.labels for example in examples],
        }
    )


def _pairs(examples: list[Example]) -> Any:  # noqa: ANN401 - datasets ships no types
    return Dataset.from_dict(
        {
            "prompt_ids": [example.input_ids[: example.prompt_tokens] for example in examples],
            "chosen_ids": [example.input_ids[example.prompt_tokens :] for example in examples],
            "rejected_ids": [list(example.rejected_ids[example.prompt_tokens :]) for example in examples],
        }
    )


def _places(examples: list[Example]) -> dict[tuple[int, ...], str]:
    """Return where a row with these token ids stands."""
    places = {tuple(example.input_ids): example.row.place for example in examples}
    return places | {example.rejected_ids: example.row.place for example in examples if example.rejected_ids}


def _fingerprint(spec: TrainingSpec, train: Encoded, held_out: Encoded, inputs: Mapping[str, Path]) -> str:
    """Return the SHA-256 of what a checkpoint must have in common with the run that goes on from it."""
    settings = {name: value for name, value in spec.canonical().items() if name not in _SPEED_ALONE}
    digest = hashlib.sha256(canonical_json(settings))
    for example in (*train.examples, *held_out.examples):
        digest.update(canonical_json([example.input_ids, example.labels, list(example.rejected_ids)]))
    if "adapter" in inputs:
        digest.update(file_sha256(inputs["adapter"] / "adapter_model.safetensors").encode())
    digest.update(weights_fingerprint(inputs["base"]).encode())
    return digest.hexdigest()


def _metrics(trainer: Loop, train: Encoded, held_out: Encoded) -> dict[str, Any]:
    progress = trainer.progress
    trainable, total = adapters.count(trainer.model)
    last = progress.history[-1] if progress.history else {}
    return {
        "trainable_parameters": trainable,
        "total_parameters": total,
        "train_rows": len(train.examples),
        "validation_rows": len(held_out.examples),
        "rows_left_out": len(train.prompt_too_long) + len(held_out.prompt_too_long),
        "rows_cut": len(train.answer_cut) + len(held_out.answer_cut),
        "first_eval_loss": progress.first_eval_loss,
        "best_eval_loss": progress.best_eval_loss,
        "best_step": progress.best_step,
        "steps": int(last.get("step", 0)),
        "epochs_seen": last.get("epoch", 0.0),
        "tokens": progress.tokens,
        "tokens_per_second": progress.tokens / progress.seconds if progress.seconds else None,
        "stopped_early": progress.stopped_early,
        "overfits_since": progress.overfits_since,
        "remedies": progress.remedies,
    }
