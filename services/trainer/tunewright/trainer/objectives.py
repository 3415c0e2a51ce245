"""TRL's trainers with our loop before them, one for each kind of objective, and how they are configured.

Loop ─┬─ SupervisedTrainer   TRL's SFTTrainer: sft and cpt, evaluated in nats per token that counts
└─ PreferenceTrainer   TRL's DPOTrainer: dpo, evaluated in nats per pair
"""

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from tunewright.trainer.device import Device
from tunewright.trainer.loop import Loop
from tunewright.trainer.ranks import group
from tunewright.trainer.spec import TrainingSpec


def training_arguments(spec: TrainingSpec, device: Device, folder: Path, steps: int, *, evaluate: bool) -> Any:  # noqa: ANN401
    """Return TRL's configuration of a run of `steps` optimizer steps. Data come tokenised and cut already.

    The spec's accumulation steps are those of all processes together.
    """
    processes = group.current().size
    every = spec.eval_steps or max(1, -(-steps // 10))
    paged_on_cpu = device.type == "cpu" and spec.optim == "paged_adamw_8bit"
    if spec.objective == "dpo":
        # Whole models have no adapter to switch off: what the base says is measured once, before training.
        own: dict[str, Any] = {"beta": spec.beta, "precompute_ref_log_probs": spec.method == "full"}
    else:
        own = {"dataset_kwargs": {"skip_prepare_dataset": True}, "padding_free": spec.packing}
    if processes > 1 and device.type == "cpu":
        own["ddp_backend"] = "gloo"
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
        gradient_accumulation_steps=spec.gradient_accumulation_steps // processes,
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


class SupervisedTrainer(Loop, SFTTrainer):
    """Trains on tokens that count: answers, or raw text."""


class PreferenceTrainer(Loop, DPOTrainer):
    """Trains on pairs of answers; rows come tokenised."""

    def __init__(self, **arguments: Any) -> None:  # noqa: ANN401 - Loop's and TRL's own
        super().__init__(**arguments)
        self._counts = True
        if self.group.size > 1:
            self.accelerator.gather = self._gather

    def _gather(self, own: torch.Tensor) -> torch.Tensor:
        """Return TRL's figures of all processes' pairs: batches may differ in size, and a blank gives none."""
        figures = own.detach().flatten().cpu()
        if own.dim() and not self._counts:
            figures = figures[:0]
        return torch.cat(self.group.tensors(figures)).to(own.device)

    def counted(self, inputs: dict[str, Any]) -> int:
        """Return the pairs."""
        return 0 if self.is_blank(inputs) else len(inputs["input_ids"]) // 2

    def is_blank(self, inputs: dict[str, Any]) -> bool:
        """Return True for the pair without answers of a process that has no rows left in this round."""
        return self.group.size > 1 and not bool(inputs["completion_mask"].any())

    @property
    def loss_scale(self) -> float:
        """TRL takes the mean over a batch's pairs, and scales nothing."""
        return 1

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:  # noqa: ANN401
        """Return the batches of a step; count those of all processes, as each has the same weight in the mean."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        own = sum(not self.is_blank(batch) for batch in batches)
        self._batches_of_step = self.group.sums(own)[0]
        return batches, items

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:  # noqa: ANN401
        """Run one forward and backward pass."""
        batches: Any = self._batches_of_step / self.group.size
        self.current_gradient_accumulation_steps = batches
        return super().training_step(model, inputs, num_items_in_batch)

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Return the loss of a batch's pairs; a blank has none."""
        self._counts = not self.is_blank(inputs)
        loss: Any = super().compute_loss(model, inputs, *args, **kwargs)  # type: ignore[no-untyped-call] # TRL's own
        return loss if self._counts else loss * 0

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        del args, kwargs
        return dataset

    def _forget_reference(self) -> None:
        """Remove TRL's copy of the adapter: a fresh one says what the base says, which is asked by switching it off."""
        if isinstance(self.model, PeftModel) and "ref" in self.model.peft_config:
            self.model.delete_adapter("ref")
