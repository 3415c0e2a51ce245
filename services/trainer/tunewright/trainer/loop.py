"""The training loop: TRL's trainers with honest evaluations and checkpoints that hold no pickle.

    Loop ─┬─ SupervisedTrainer   TRL's SFTTrainer: sft and cpt, evaluated in nats per token that counts
          └─ PreferenceTrainer   TRL's DPOTrainer: dpo, evaluated in nats per pair

Knows nothing of datasets' files, and of the job only the reporter.
"""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.optimizers import create_loraplus_optimizer
from transformers import PrinterCallback, Trainer
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from tunewright.chassis.stage import Reporter, Severity
from tunewright.trainer import adapters, checkpoints
from tunewright.trainer.checkpoints import Checkpoint
from tunewright.trainer.device import Device
from tunewright.trainer.encoding import IGNORED
from tunewright.trainer.fast.path import FastPath
from tunewright.trainer.progress import RunProgress
from tunewright.trainer.spec import TrainingSpec
from tunewright.trainer.stability import Unstable, is_spike

_WHICH_ROWS = ("input_ids", "attention_mask", "position_ids")
_NAMED = 20  # rows listed in a message


def training_arguments(spec: TrainingSpec, device: Device, folder: Path, steps: int, *, evaluate: bool) -> Any:  # noqa: ANN401
    """Return TRL's configuration of a run of `steps` optimizer steps. Data come tokenised and cut already."""
    every = spec.eval_steps or max(1, -(-steps // 10))
    paged_on_cpu = device.type == "cpu" and spec.optim == "paged_adamw_8bit"
    if spec.objective == "dpo":
        # Whole models have no adapter to switch off: what the base says is measured once, before training.
        own: dict[str, Any] = {"beta": spec.beta, "precompute_ref_log_probs": spec.method == "full"}
    else:
        own = {"dataset_kwargs": {"skip_prepare_dataset": True}, "padding_free": spec.packing}
    config = DPOConfig if spec.objective == "dpo" else SFTConfig
    return config(
        **own,
        output_dir=str(folder),
        max_steps=steps,
        learning_rate=spec.learning_rate,
        lr_scheduler_type=spec.lr_scheduler_type,
        warmup_steps=spec.warmup_steps,
        per_device_train_batch_size=spec.per_device_train_batch_size,
        per_device_eval_batch_size=spec.per_device_eval_batch_size,
        gradient_accumulation_steps=spec.gradient_accumulation_steps,
        gradient_checkpointing=spec.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        optim="adamw_8bit" if paged_on_cpu else spec.optim,
        weight_decay=spec.weight_decay,
        max_grad_norm=spec.max_grad_norm,
        logging_steps=spec.logging_steps,
        logging_nan_inf_filter=False,
        eval_strategy="steps" if evaluate else "no",
        eval_steps=every,
        save_strategy="steps",
        save_steps=spec.save_steps or every,
        seed=spec.seed,
        data_seed=spec.seed,
        bf16=device.compute_dtype is torch.bfloat16,
        fp16=device.compute_dtype is torch.float16,
        use_cpu=device.type == "cpu",
        dataloader_pin_memory=device.type != "cpu",
        max_length=None,
        disable_tqdm=True,
        report_to="none",
    )


class Loop(Trainer):
    """What all objectives share: goes on bit for bit from its own checkpoints. Stands before one of TRL's trainers.

    Args:
        progress: figures of the run, shared with the callbacks.
        report: hears of checkpoints, and says when to stop.
        fingerprint: of settings, data and base; a checkpoint with another one is never gone on from.
        places: where a row with these token ids stands in the dataset, for messages.
        loraplus_lr_ratio: learning rate of the adapters' B over that of A.
        fast: takes the forward and backward passes of training steps; None: TRL and autograd do.
    """

    model: Any
    optimizer: Any
    lr_scheduler: Any
    _metrics: Any

    def __init__(
        self,
        *,
        progress: RunProgress,
        report: Reporter,
        fingerprint: str,
        places: dict[tuple[int, ...], str],
        keep_checkpoints: int,
        loraplus_lr_ratio: float = 1.0,
        fast: FastPath | None = None,
        **arguments: Any,  # noqa: ANN401 - TRL's own
    ) -> None:
        super().__init__(**arguments)
        self._forget_reference()
        self.remove_callback(PrinterCallback)
        adapters.to_float32(self.model)
        self.progress = progress
        self.report = report
        self.best_weights: adapters.Tensors | None = None
        self.fingerprint = fingerprint
        self._places = places
        self._keep_checkpoints = keep_checkpoints
        self._loraplus_lr_ratio = loraplus_lr_ratio
        self.fast = fast
        self.last_step = int(self.args.max_steps)
        """Step after which the run ends; a trial of a search ends before its schedule does."""
        self._outer_generators: tuple[checkpoints.Tensors, dict[str, Any]] | None = None
        self._unlogged: dict[str, Any] = {"loss": 0.0, "steps": 0}
        self._eval_nats = 0.0
        self._eval_counted = 0
        self._passes: list[dict[str, torch.Tensor]] = []
        self._previous_passes: list[dict[str, torch.Tensor]] = []
        self._step_loss = 0.0

    def create_optimizer(self, model: Any = None) -> Any:  # noqa: ANN401
        """Return the optimizer; with LoRA+ the adapters' two halves have a rate each."""
        if self.optimizer is None and self._loraplus_lr_ratio != 1:
            cls, settings = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = create_loraplus_optimizer(
                self.model,
                cls,
                loraplus_lr_ratio=self._loraplus_lr_ratio,
                loraplus_weight_decay=self.args.weight_decay,
                **settings,
            )
        return super().create_optimizer(model)

    @property
    def evaluating(self) -> bool:
        """True within an evaluation."""
        return self._outer_generators is not None

    def begin_step(self) -> None:
        """Start an optimizer step: its rows and its loss are collected anew."""
        self._previous_passes, self._passes, self._step_loss = self._passes, [], 0.0

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:  # noqa: ANN401
        """Run one forward and backward pass.

        Raises:
            Unstable: the loss is not a number; the rows are named.
        """
        self._passes.append({name: inputs[name] for name in _WHICH_ROWS if name in inputs})
        if self.fast is None:
            loss = super().training_step(model, inputs, num_items_in_batch)
        else:
            loss = self._fast_step(self.fast, inputs, num_items_in_batch)
        # TRL reads several figures of each pass back from the device, so that this one costs no further wait.
        value = float(loss)
        if not math.isfinite(value):
            self._raise_not_a_number(value)
        self._step_loss += value
        mask = inputs.get("attention_mask")
        self.progress.tokens += int(mask.sum()) if mask is not None else inputs["input_ids"].numel()
        return loss

    def end_step(self) -> None:
        """Look at the loss of the optimizer step that was just done.

        Raises:
            Unstable: it jumped, for the first time in this step; a second time, and after three rollbacks, it is told
                and passed over.
        """
        step, loss = self.state.global_step, self._step_loss
        if is_spike(self.progress.recent_losses, loss):
            rows = self._rows(self._passes)
            if not self.progress.passes_spike(step):
                raise Unstable("spike", step, loss, rows, f"in the rows {_listed(rows)}")
            self.report.event(
                "loss_spike",
                f"the loss jumped to {loss:.4g} in step {step} though the rate was lowered before: look at the rows "
                f"{_listed(rows)}. 学习率已降低，第 {step} 步损失仍跳到 {loss:.4g}，请检查这些数据行。",
                severity=Severity.WARNING,
                step=step,
                loss=loss,
                rows=rows[:_NAMED],
            )
        self.progress.note_step(loss)

    def check_weights(self) -> None:
        """Look whether what is trained still consists of numbers.

        Raises:
            Unstable: it does not; the rows of the step that spoilt it are named.
        """
        if not adapters.all_finite(self.model):
            rows = self._rows(self._passes)
            where = f"whose update left weights that are no numbers, in the rows {_listed(rows)}"
            raise Unstable("not_a_number", self.state.global_step, math.nan, rows, where)

    def _clip_grad_norm(self, model: Any) -> Any:  # noqa: ANN401 - transformers' signature
        """Clip the gradient; raise before the optimizer sees one that is no number.

        bitsandbytes' optimizers pass over such a gradient on a GPU, so that neither weights nor losses would show it.
        """
        norm: Any = super()._clip_grad_norm(model)  # type: ignore[no-untyped-call] # their own
        if not math.isfinite(float(norm)):
            rows = self._rows(self._passes)
            where = f"whose gradient is no number, in the rows {_listed(rows)}"
            raise Unstable("not_a_number", self.state.global_step + 1, self._step_loss, rows, where)
        return norm

    def _raise_not_a_number(self, loss: float) -> None:
        step = self.state.global_step + 1
        if adapters.all_finite(self.model):
            rows = self._rows(self._passes)
            raise Unstable("not_a_number", step, loss, rows, f"in the rows {_listed(rows)}")
        rows = self._rows(self._previous_passes)
        where = f"as the update of step {step - 1} left weights that are no numbers, in the rows {_listed(rows)}"
        raise Unstable("not_a_number", step - 1, loss, rows, where)

    def _fast_step(self, fast: FastPath, inputs: dict[str, Any], num_items_in_batch: Any) -> torch.Tensor:  # noqa: ANN401
        """Add the gradients of a batch; return its share of the step's mean loss, and note TRL's figures."""
        self.model.train()
        counted = float(self.counted(inputs) if num_items_in_batch is None else num_items_in_batch)
        losses = fast.step(inputs, counted, self.state.global_step)
        self._metrics["train"]["mean_token_accuracy"].append(float(losses.right) / max(1, losses.counted))
        return losses.nats / counted

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:  # noqa: ANN401
        """Measure the held-out rows, and leave every random generator as it was."""
        self._outer_generators = checkpoints.generators()
        try:
            measured: dict[str, float] = super().evaluate(*args, **kwargs)
        finally:
            checkpoints.set_generators(*self._outer_generators)
            self._outer_generators = None
        return measured

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Replace transformers' mean of batch means by the mean over what counts, whatever the batches are."""
        self._eval_nats, self._eval_counted = 0.0, 0
        output: Any = super().evaluation_loop(*args, **kwargs)
        output.metrics["eval_loss"] = self._eval_nats / self._eval_counted
        return output

    def prediction_step(
        self,
        model: Any,  # noqa: ANN401
        inputs: dict[str, Any],
        *args: Any,  # noqa: ANN401
        **kwargs: Any,  # noqa: ANN401
    ) -> tuple[torch.Tensor, None, None]:
        """Add one batch to the evaluation."""
        del args, kwargs
        inputs = self._prepare_inputs(inputs)
        counted = self.counted(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss: Any = self.compute_loss(model, inputs, num_items_in_batch=torch.tensor(counted))
        self._eval_nats += float(loss) * counted
        self._eval_counted += counted
        return loss, None, None

    def counted(self, inputs: dict[str, Any]) -> int:
        """Return how many items the mean loss of a batch is the mean of: tokens that count."""
        return int((inputs["labels"][..., 1:] != IGNORED).sum())

    def save_now(self) -> Checkpoint:
        """Write a checkpoint of this moment, and tell the reporter.

        Raises:
            Unstable: what is trained holds no numbers any more: a checkpoint always is a good one.
        """
        self.check_weights()
        rng, generators = self._outer_generators or checkpoints.generators()
        optimizer, optimizer_figures = checkpoints.flatten(self.optimizer.state_dict())
        tensors = {"trained": adapters.copy_weights(self.model), "optimizer": optimizer, "rng": rng}
        if self.best_weights is not None:
            tensors["best"] = self.best_weights
        scaler = self.accelerator.scaler
        state = {
            "progress": self.progress.to_dict(),
            "optimizer": optimizer_figures,
            "scheduler": self.lr_scheduler.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else None,
            "generators": generators,
            "epoch": self.state.epoch,
            "unlogged": {
                "loss": float(self._tr_loss),
                "steps": self.state.global_step - self._globalstep_last_logged,
            },
        }
        saved = checkpoints.write(
            self.report.checkpoints,
            self.state.global_step,
            fingerprint=self.fingerprint,
            tensors=tensors,
            state=state,
            trainer_state=json.dumps(dataclasses.asdict(self.state)),
        )
        self.report.checkpoint(saved.directory, saved.step)
        checkpoints.prune(self.report.checkpoints, self._keep_checkpoints)
        return saved

    def take_up_start(self, checkpoint: Checkpoint) -> None:
        """Take the figures of a checkpoint that was written before the first step."""
        for name, value in checkpoint.state()["progress"].items():
            setattr(self.progress, name, value)

    def take_up(self, checkpoint: Checkpoint) -> None:
        """Take what was trained, the best of it and the figures of a checkpoint; `train` takes the rest."""
        state = checkpoint.state()
        adapters.load_weights(self.model, checkpoint.tensors("trained"))
        self.best_weights = checkpoint.tensors("best") if checkpoint.has("best") else None
        for name, value in state["progress"].items():
            setattr(self.progress, name, value)
        self.state.global_step, self.state.epoch = checkpoint.step, state["epoch"]
        self.state.max_steps = self.args.max_steps
        self._unlogged = state["unlogged"]

    def take_up_unlogged_loss(self) -> None:
        """Go on with the loss that was summed but not yet reported when the checkpoint was written."""
        self._tr_loss += self._unlogged["loss"]
        self._globalstep_last_logged -= self._unlogged["steps"]

    def _save_checkpoint(self, model: Any, trial: Any) -> None:  # noqa: ANN401
        del model, trial
        self.save_now()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:  # noqa: ANN401
        adapters.load_weights(model or self.model, _at(resume_from_checkpoint).tensors("trained"))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            saved = _at(checkpoint)
            state = saved.state()
            peaks = [group["initial_lr"] for group in self.optimizer.param_groups]
            self.optimizer.load_state_dict(checkpoints.unflatten(saved.tensors("optimizer"), state["optimizer"]))
            self.lr_scheduler.load_state_dict(state["scheduler"])
            self._scale_rates(peaks)

    def _scale_rates(self, peaks: list[float]) -> None:
        """Go on at the rates of this run: a checkpoint from before a remedy carries higher ones."""
        schedule = self.lr_scheduler
        for index, (group, peak) in enumerate(zip(self.optimizer.param_groups, peaks, strict=True)):
            if group["initial_lr"] != peak:
                share = peak / group["initial_lr"]
                group["lr"], group["initial_lr"] = group["lr"] * share, peak
                schedule.base_lrs[index] = peak
                schedule._last_lr[index] *= share  # noqa: SLF001 - PyTorch keeps the rate that is reported there

    def _load_scaler(self, checkpoint: str | None) -> None:
        if checkpoint is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(_at(checkpoint).state()["scaler"])

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            saved = _at(checkpoint)
            checkpoints.set_generators(saved.tensors("rng"), saved.state()["generators"])

    def _forget_reference(self) -> None:
        """Remove what TRL adds for comparison where it is not needed."""

    def _rows(self, passes: list[dict[str, torch.Tensor]]) -> list[str]:
        """Return the places of the rows in these passes."""
        found = [place for inputs in passes for place in self._places_of(inputs)]
        return list(dict.fromkeys(found))

    def _places_of(self, inputs: dict[str, torch.Tensor]) -> list[str]:
        ids = inputs["input_ids"].tolist()
        if "attention_mask" in inputs:
            lengths = inputs["attention_mask"].sum(dim=1).tolist()
            rows = [row[:length] for row, length in zip(ids, lengths, strict=True)]
        elif "position_ids" in inputs:  # packed: each row's positions begin at 0
            starts = [at for at, position in enumerate(inputs["position_ids"][0].tolist()) if position == 0]
            rows = [ids[0][start:end] for start, end in zip(starts, [*starts[1:], len(ids[0])], strict=True)]
        else:
            rows = ids
        return [self._places.get(tuple(row), "?") for row in rows]


class SupervisedTrainer(Loop, SFTTrainer):
    """Trains on tokens that count: answers, or raw text."""


class PreferenceTrainer(Loop, DPOTrainer):
    """Trains on pairs of answers; rows come tokenised."""

    def counted(self, inputs: dict[str, Any]) -> int:
        """Return the pairs."""
        return len(inputs["input_ids"]) // 2

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        del args, kwargs
        return dataset

    def _forget_reference(self) -> None:
        """Remove TRL's copy of the adapter: a fresh one says what the base says, which is asked by switching it off."""
        if isinstance(self.model, PeftModel) and "ref" in self.model.peft_config:
            self.model.delete_adapter("ref")


def _listed(rows: list[str]) -> str:
    return ", ".join(rows[:_NAMED]) + (f" and {len(rows) - _NAMED} more" if len(rows) > _NAMED else "")


def _at(directory: str) -> Checkpoint:
    return Checkpoint(Path(directory), int(directory.rpartition("-")[2]))
