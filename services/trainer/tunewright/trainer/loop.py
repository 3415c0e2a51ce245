"""The training loop: honest evaluations, and checkpoints that hold no pickle. `objectives.py` sets it before TRL's.

Knows nothing of datasets' files, and of the job only the reporter.
"""

import dataclasses
import functools
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from peft.optimizers import create_loraplus_optimizer
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer

from tunewright.chassis.stage import Reporter, Severity
from tunewright.trainer import adapters, checkpoints
from tunewright.trainer.checkpoints import Checkpoint
from tunewright.trainer.encoding import IGNORED
from tunewright.trainer.fast.path import FastPath
from tunewright.trainer.progress import RunProgress
from tunewright.trainer.ranks import group, sharing
from tunewright.trainer.stability import Unstable, is_spike

_WHICH_ROWS = ("input_ids", "attention_mask", "position_ids")
_NAMED = 20  # rows listed in a message


class Loop(Trainer):
    """What all objectives share: goes on bit for bit from its own checkpoints. Stands before one of TRL's trainers.

    Args:
        progress: figures of the run, shared with the callbacks.
        report: hears of checkpoints, and says when to stop.
        fingerprint: of settings, data and base; a checkpoint with another one is never gone on from.
        places: where a row with these token ids stands in the dataset, for messages.
        loraplus_lr_ratio: learning rate of the adapters' B over that of A.
        fast: takes the forward and backward passes of training steps; None: TRL and autograd do.
        goes_on: the adapter is one that was trained before, so DPO compares with it and not with the base.
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
        goes_on: bool = False,
        **arguments: Any,  # noqa: ANN401 - TRL's own
    ) -> None:
        super().__init__(**arguments)
        if not goes_on:
            self._forget_reference()
        self.remove_callback(PrinterCallback)
        adapters.to_float32(self.model)
        self.group = group.current()
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
        self.evaluation_seconds = 0.0
        """Spent in evaluations by this process."""
        self._eval_nats = 0.0
        self._eval_counted = 0
        self._passes: list[dict[str, torch.Tensor]] = []
        self._previous_passes: list[dict[str, torch.Tensor]] = []
        self._step_loss = 0.0
        if self.group.size > 1:
            self._keep_gradients_to_ourselves()
        if self.group.rank:  # the same adapters everywhere so far; from here on each draws its own dropout
            torch.manual_seed(self.args.seed + self.group.rank)

    def _keep_gradients_to_ourselves(self) -> None:
        """Keep accelerate from wrapping the model: gradients are averaged here, once a step, whoever computed them.

        DDP would only do it for passes that go through its own forward (not those of the fast path), refuses sharded
        weights, and accelerate 1.15.0 does without it, silently, where a run begins with an evaluation: the model
        counts as prepared then. What is trained is small (160 MB of gradients for a 7B model at rank 16), so that
        nothing is gained by sending the first of it while the last is computed.
        """
        prepare: Any = self.accelerator.prepare_model
        self.accelerator.prepare_model = functools.partial(prepare, evaluation_mode=True)

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

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return this process's share of each step's rows."""
        if self.group.size == 1:
            return super().get_train_dataloader()
        rows: Any = self.train_dataset
        order = sharing.order_of(rows, self.args.seed)
        passes = self.args.gradient_accumulation_steps * self.group.size
        micro_batch = self.args.per_device_train_batch_size
        return self._loader(rows, sharing.ShareOfSteps(order, len(rows), micro_batch, passes, self.group))

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:  # noqa: ANN401
        """Return this process's share of the held-out rows."""
        if self.group.size == 1:
            return super().get_eval_dataloader(eval_dataset)
        rows: Any = self.eval_dataset
        batch = self.args.per_device_eval_batch_size
        return self._loader(rows, sharing.ShareOfEvaluation(len(rows), batch, self.group))

    def _loader(self, rows: Any, share: Any) -> DataLoader[Any]:  # noqa: ANN401
        with_blank = sharing.WithBlank(self._remove_unused_columns(rows))
        pin = self.args.dataloader_pin_memory
        return sharing.Loader(with_blank, batch_sampler=share, collate_fn=self.data_collator, pin_memory=pin)

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
            Unstable: the loss is not a number, in whichever process; the rows are named.
        """
        counts = self.group.size == 1 or not self.is_blank(inputs)
        if counts:
            self._passes.append({name: inputs[name] for name in _WHICH_ROWS if name in inputs})
        if self.fast is None:
            loss = super().training_step(model, inputs, num_items_in_batch)
        else:
            loss = self._fast_step(self.fast, inputs, num_items_in_batch)
        # TRL reads several figures of each pass back from the device, so that this one costs no further wait.
        mask = inputs.get("attention_mask")
        tokens = int(mask.sum()) if mask is not None else inputs["input_ids"].numel()
        total, tokens_of_all = self.group.sums(float(loss), tokens if counts else 0)
        value = total / self.group.size
        if not math.isfinite(value):
            self._raise_not_a_number(value)
        self._step_loss += value
        self.progress.tokens += int(tokens_of_all)
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
        if self.group.any(not adapters.all_finite(self.model)):
            rows = self._rows(self._passes)
            where = f"whose update left weights that are no numbers, in the rows {_listed(rows)}"
            raise Unstable("not_a_number", self.state.global_step, math.nan, rows, where)

    def _clip_grad_norm(self, model: Any) -> Any:  # noqa: ANN401 - transformers' signature
        """Clip the gradient, of several processes their mean; raise before the optimizer sees one that is no number.

        bitsandbytes' optimizers pass over such a gradient on a GPU, so that neither weights nor losses would show it.
        """
        if self.group.size > 1:
            group.average([_gradient(parameter) for parameter in adapters.trainable(self.model).values()])
        norm: Any = super()._clip_grad_norm(model)  # type: ignore[no-untyped-call] # their own
        scaler = self.accelerator.scaler
        if scaler is not None and scaler.get_scale() >= 1:
            # float16: a scale that is too large shows as infinity. The step is left out, and the scale halved.
            return norm
        if self.group.any(not math.isfinite(float(norm))):
            rows = self._rows(self._passes)
            where = f"whose gradient is no number, in the rows {_listed(rows)}"
            raise Unstable("not_a_number", self.state.global_step + 1, self._step_loss, rows, where)
        return norm

    def _raise_not_a_number(self, loss: float) -> None:
        step = self.state.global_step + 1
        if not self.group.any(not adapters.all_finite(self.model)):
            rows = self._rows(self._passes)
            raise Unstable("not_a_number", step, loss, rows, f"in the rows {_listed(rows)}")
        rows = self._rows(self._previous_passes)
        where = f"as the update of step {step - 1} left weights that are no numbers, in the rows {_listed(rows)}"
        raise Unstable("not_a_number", step - 1, loss, rows, where)

    def _fast_step(self, fast: FastPath, inputs: dict[str, Any], num_items_in_batch: Any) -> torch.Tensor:  # noqa: ANN401
        """Add the gradients of a batch; return its share of the step's mean loss, and note TRL's figures.

        As with TRL's, loss and gradients are those of all processes together once their mean is taken.
        """
        self.model.train()
        counted = float(self.counted(inputs) if num_items_in_batch is None else num_items_in_batch) / self.group.size
        losses = fast.step(inputs, counted, self.state.global_step * self.group.size + self.group.rank)
        right, all_counted = self.group.sums(float(losses.right), losses.counted)
        self._metrics["train"]["mean_token_accuracy"].append(right / max(1, all_counted))
        return losses.nats / counted

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:  # noqa: ANN401
        """Measure the held-out rows, and leave every random generator as it was."""
        self._outer_generators = checkpoints.generators()
        begun = time.monotonic()
        try:
            measured: dict[str, float] = super().evaluate(*args, **kwargs)
        finally:
            checkpoints.set_generators(*self._outer_generators)
            self._outer_generators = None
            self.evaluation_seconds += time.monotonic() - begun
        return measured

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Replace transformers' mean of batch means by the mean over what counts, whatever the batches are."""
        self._eval_nats, self._eval_counted = 0.0, 0
        output: Any = super().evaluation_loop(*args, **kwargs)
        nats, counted = self.group.sums(self._eval_nats, self._eval_counted)
        output.metrics["eval_loss"] = nats / counted
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
        self._eval_nats += float(loss) * counted / self.loss_scale
        self._eval_counted += counted
        return loss, None, None

    def counted(self, inputs: dict[str, Any]) -> int:
        """Return how many items the mean loss of a batch is the mean of: tokens that count."""
        return int((inputs["labels"][..., 1:] != IGNORED).sum())

    def is_blank(self, inputs: dict[str, Any]) -> bool:
        """Return True for the batch of a process that has no rows left in this round."""
        return self.counted(inputs) == 0

    @property
    def loss_scale(self) -> float:
        """What a loss is multiplied by where its items are counted, as the mean over all processes is taken later."""
        return self.group.size

    def save_now(self) -> Checkpoint:
        """Write a checkpoint of this moment, and tell the reporter.

        Raises:
            Unstable: what is trained holds no numbers any more: a checkpoint always is a good one.
        """
        self.check_weights()
        own, generators = self._outer_generators or checkpoints.generators()
        rng = checkpoints.of_all_ranks(own, self.group)
        unlogged = self.group.sums(float(self._tr_loss))[0] / self.group.size
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
                "loss": unlogged,
                "steps": self.state.global_step - self._globalstep_last_logged,
            },
        }
        if self.group.rank:
            return Checkpoint(self.report.checkpoints / f"checkpoint-{self.state.global_step}", self.state.global_step)
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
        for index, (trained, peak) in enumerate(zip(self.optimizer.param_groups, peaks, strict=True)):
            if trained["initial_lr"] != peak:
                share = peak / trained["initial_lr"]
                trained["lr"], trained["initial_lr"] = trained["lr"] * share, peak
                schedule.base_lrs[index] = peak
                schedule._last_lr[index] *= share  # noqa: SLF001 - PyTorch keeps the rate that is reported there

    def _load_scaler(self, checkpoint: str | None) -> None:
        if checkpoint is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(_at(checkpoint).state()["scaler"])

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            saved = _at(checkpoint)
            tensors = checkpoints.of_rank(saved.tensors("rng"), self.group)
            checkpoints.set_generators(tensors, saved.state()["generators"])
            if not tensors:  # written by fewer processes
                torch.manual_seed(self.args.seed + self.group.rank + saved.step * self.group.size)

    def _forget_reference(self) -> None:
        """Remove what TRL adds for comparison where it is not needed."""

    def _rows(self, passes: list[dict[str, torch.Tensor]]) -> list[str]:
        """Return the places of the rows in these passes, of all processes: all of them must ask."""
        own = [place for inputs in passes for place in self._places_of(inputs)]
        return list(dict.fromkeys(place for found in self.group.gather(own) for place in found))

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


def _listed(rows: list[str]) -> str:
    return ", ".join(rows[:_NAMED]) + (f" and {len(rows) - _NAMED} more" if len(rows) > _NAMED else "")


def _gradient(parameter: torch.Tensor) -> torch.Tensor:
    """Return the gradient; zeros if no pass of this process touched the parameter."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def _at(directory: str) -> Checkpoint:
    return Checkpoint(Path(directory), int(directory.rpartition("-")[2]))
