"""The training loop: TRL's trainers with honest evaluations and checkpoints that hold no pickle.

    Loop ─┬─ SupervisedTrainer   TRL's SFTTrainer: sft and cpt, evaluated in nats per token that counts
          └─ PreferenceTrainer   TRL's DPOTrainer: dpo, evaluated in nats per pair

Knows nothing of datasets' files, and of the job only the reporter.
"""

import dataclasses
import json
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

from tunewright.chassis.errors import Refused
from tunewright.chassis.stage import Reporter
from tunewright.trainer import adapters, checkpoints
from tunewright.trainer.checkpoints import Checkpoint
from tunewright.trainer.device import Device
from tunewright.trainer.encoding import IGNORED
from tunewright.trainer.progress import NAN_REMEDY, RunProgress
from tunewright.trainer.spec import TrainingSpec


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
    """

    model: Any
    optimizer: Any
    lr_scheduler: Any

    def __init__(
        self,
        *,
        progress: RunProgress,
        report: Reporter,
        fingerprint: str,
        places: dict[tuple[int, ...], str],
        keep_checkpoints: int,
        loraplus_lr_ratio: float = 1.0,
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
        self._outer_generators: tuple[checkpoints.Tensors, dict[str, Any]] | None = None
        self._unlogged: dict[str, Any] = {"loss": 0.0, "steps": 0}
        self._eval_nats = 0.0
        self._eval_counted = 0

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

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:  # noqa: ANN401
        """Run one forward and backward pass.

        Raises:
            Refused: the loss is not a number; the rows of this pass are named.
        """
        loss = super().training_step(model, inputs, num_items_in_batch)
        # TRL reads several figures of each pass back from the device, so that this one costs no further wait.
        if not torch.isfinite(loss):
            rows = ", ".join(self._places_of(inputs))
            raise Refused(
                f"the loss is {loss.item()} in step {self.state.global_step + 1}, in the rows {rows}", remedy=NAN_REMEDY
            )
        mask = inputs.get("attention_mask")
        self.progress.tokens += int(mask.sum()) if mask is not None else inputs["input_ids"].numel()
        return loss

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
        """Write a checkpoint of this moment, and tell the reporter."""
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
            self.optimizer.load_state_dict(checkpoints.unflatten(saved.tensors("optimizer"), state["optimizer"]))
            self.lr_scheduler.load_state_dict(state["scheduler"])

    def _load_scaler(self, checkpoint: str | None) -> None:
        if checkpoint is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(_at(checkpoint).state()["scaler"])

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            saved = _at(checkpoint)
            checkpoints.set_generators(saved.tensors("rng"), saved.state()["generators"])

    def _forget_reference(self) -> None:
        """Remove what TRL adds for comparison where it is not needed."""

    def _places_of(self, inputs: dict[str, Any]) -> list[str]:
        """Return the places of the rows in a batch, `packed` for a packed one."""
        mask = inputs.get("attention_mask")
        if mask is None:
            return ["(packed)"]
        rows = zip(inputs["input_ids"].tolist(), mask.sum(dim=1).tolist(), strict=True)
        return list(dict.fromkeys(self._places.get(tuple(ids[:length]), "?") for ids, length in rows))


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


def _at(directory: str) -> Checkpoint:
    return Checkpoint(Path(directory), int(directory.rpartition("-")[2]))
