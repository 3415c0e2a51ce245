"""What is tried when a run fails, in which order and how often: bounded policies over the error table.

    E1 out of memory    in an evaluation: fewer rows at a time
                        in training on the fast path: three quarters of the memory it planned with, up to 3 times,
                        layers computed twice from the first time on; then, or where less memory made no other plan,
                        the plain path
                        in training on the plain path: micro-batch down to a smaller divisor of the effective
                        batch, accumulation up;
                        then gradient checkpointing; then the optimizer's state paged to host memory (GPU);
                        then, only if `max_length_floor` allows it, half of max_length
    E6 NaN, spikes      back to the last good checkpoint, half of the rate (not below 5e-5), max_grad_norm 0.5;
                        a jump that comes back in the same step, or after three rollbacks, is passed over
    disk full           older checkpoints removed, once
    loader killed       started again, twice
    all others          nothing can be tried: explained and ended

What has been tried is kept in every checkpoint, so that a run that is killed in between goes on with it. Each remedy
makes something strictly smaller or counts up, hence nothing loops for ever. Knows no model and no library.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunewright.trainer import troubles
from tunewright.trainer.spec import TrainingSpec
from tunewright.trainer.stability import ROLLBACKS
from tunewright.trainer.troubles import Trouble

_LOADER_STARTS = 2
_SMALLER_BUDGETS = 3
_BUDGET_SHARE = 0.75
_RATE_FLOOR = 5e-5
_LEAST_OF_A_LOW_RATE = 0.25
_GRAD_NORM = 0.5

Taken = Mapping[str, Any]
"""One remedy as it stands in a checkpoint: row, action, step, settings."""


@dataclass(frozen=True, slots=True)
class Remedy:
    """One thing to try."""

    action: str
    settings: dict[str, Any]
    """Fields of the spec with other values from here on."""
    tried: tuple[str, str]
    """What is done, in English and in Chinese."""


def with_remedies(spec: TrainingSpec, taken: Sequence[Taken]) -> TrainingSpec:
    """Return the spec with the settings of the remedies taken so far."""
    merged: dict[str, Any] = {}
    for remedy in taken:
        merged |= remedy["settings"]
    return spec.model_copy(update=merged)


def next_remedy(
    trouble: Trouble,
    spec: TrainingSpec,
    taken: Sequence[Taken],
    *,
    evaluating: bool,
    cuda: bool,
    begun: bool,
    fast_gb: float | None = None,
    fast_plan: str = "",
    processes: int = 1,
) -> Remedy | None:
    """Return what to try next, None if nothing is left.

    Args:
        trouble: what happened.
        spec: the settings under which it happened, earlier remedies included.
        taken: the earlier remedies.
        evaluating: it happened in an evaluation.
        cuda: the device is a GPU.
        begun: weights have moved already, so that a lower rate can change anything.
        fast_gb: GB (10^9 bytes) that the fast path planned with, 0 on a CPU; None on the plain path.
        fast_plan: what the fast path did, in words.
        processes: which share each step's passes evenly.
    """
    if trouble is troubles.OUT_OF_MEMORY:
        if evaluating or fast_gb is None:
            return _smaller_evaluation(spec) if evaluating else _smaller_step(spec, processes, cuda=cuda)
        return _smaller_fast_path(fast_gb, fast_plan, spec, taken)
    if trouble.row == "E6":
        return _gentler(spec, taken) if begun else None
    times = sum(remedy["action"] == trouble.name for remedy in taken)
    if trouble is troubles.DISK and not times:
        tried = ("older checkpoints are removed", "已删除较旧的检查点")
        return Remedy(trouble.name, {"save_total_limit": 1}, tried)
    if trouble is troubles.LOADER and times < _LOADER_STARTS:
        return Remedy(trouble.name, {}, ("started again", "已重新启动"))
    return None


def smaller_micro_batch(spec: TrainingSpec, processes: int = 1) -> int | None:
    """Return the largest divisor of a process's effective batch that is at most half of the micro-batch."""
    half, own = spec.per_device_train_batch_size // 2, spec.batch_rows // processes
    return next((rows for rows in range(half, 0, -1) if own % rows == 0), None)


def _smaller_evaluation(spec: TrainingSpec) -> Remedy | None:
    rows = spec.per_device_eval_batch_size // 2
    if not rows:
        return None
    tried = (f"evaluations take {rows} rows at a time", f"评估时每次只算 {rows} 行")
    return Remedy("smaller_evaluation", {"per_device_eval_batch_size": rows}, tried)


def _smaller_fast_path(planned_gb: float, plan: str, spec: TrainingSpec, taken: Sequence[Taken]) -> Remedy:
    """Let the fast path plan with less; at last leave it. Its passes do not depend on the micro-batch.

    Without gradient checkpointing less memory may make no other plan, and three attempts would be one.
    """
    earlier = [remedy for remedy in taken if remedy["action"] == "smaller_budget"]
    repeated = bool(plan) and spec.gradient_checkpointing and any(remedy.get("plan") == plan for remedy in earlier)
    if not planned_gb or len(earlier) >= _SMALLER_BUDGETS or repeated:
        return Remedy("plain_path", {"fast_path": "off"}, ("the plain path is taken", "改用普通训练路径"))
    budget = round(planned_gb * _BUDGET_SHARE, 2)
    tried = (f"the fast path plans with {budget:g} GB", f"快速路径按 {budget:g} GB 显存重新规划")
    if spec.gradient_checkpointing:
        return Remedy("smaller_budget", {"vram_budget_gb": budget}, tried)
    twice = (f"{tried[0]}, and computes layers twice where that saves memory", f"{tried[1]}，并开启梯度检查点")
    return Remedy("smaller_budget", {"vram_budget_gb": budget, "gradient_checkpointing": True}, twice)


def _smaller_step(spec: TrainingSpec, processes: int, *, cuda: bool) -> Remedy | None:
    rows = smaller_micro_batch(spec, processes)
    if rows is not None:
        passes = spec.batch_rows // rows
        before = f"{spec.per_device_train_batch_size} × {spec.gradient_accumulation_steps}"
        return Remedy(
            "smaller_micro_batch",
            {"per_device_train_batch_size": rows, "gradient_accumulation_steps": passes},
            (
                f"{rows} rows × {passes} passes in place of {before}; the effective batch stays {spec.batch_rows}",
                f"改为每次 {rows} 行 × 累积 {passes} 次，有效批大小保持 {spec.batch_rows} 不变",
            ),
        )
    if not spec.gradient_checkpointing:
        tried = (
            "gradient checkpointing is turned on, a third slower",
            "开启梯度检查点，速度约慢三分之一",
        )
        return Remedy("gradient_checkpointing", {"gradient_checkpointing": True}, tried)
    if cuda and spec.optim == "adamw_8bit":
        tried = ("the optimizer's state is paged to host memory", "优化器状态可换出到主机内存")
        return Remedy("paged_optimizer", {"optim": "paged_adamw_8bit"}, tried)
    return _shorter(spec)


def _shorter(spec: TrainingSpec) -> Remedy | None:
    """Cut rows, only where the user allowed it and no row's place in the order changes by it."""
    if not spec.max_length_floor or spec.packing or spec.objective == "cpt":
        return None
    length = max(spec.max_length // 2, spec.max_length_floor)
    if length >= spec.max_length:
        return None
    tried = (
        f"rows are cut at {length} tokens, as max_length_floor allows",
        f"按 max_length_floor 的许可，每行截断到 {length} 个词元",
    )
    return Remedy("shorter_rows", {"max_length": length}, tried)


def _gentler(spec: TrainingSpec, taken: Sequence[Taken]) -> Remedy | None:
    """Cut the rate by half, not below 5e-5; a rate that is lower to begin with may go to a quarter."""
    cut = [remedy for remedy in taken if remedy["action"] == "roll_back"]
    if len(cut) >= ROLLBACKS:
        return None
    first = spec.learning_rate * 2 ** len(cut)
    floor = _RATE_FLOOR if first > _RATE_FLOOR else first * _LEAST_OF_A_LOW_RATE
    rate = max(spec.learning_rate / 2, min(floor, spec.learning_rate))
    norm = min(spec.max_grad_norm, _GRAD_NORM)
    tried = (
        f"back to the last good checkpoint, learning_rate {rate:g}, max_grad_norm {norm:g}",
        f"回到上一个正常的检查点，learning_rate 降为 {rate:g}，max_grad_norm 降为 {norm:g}",
    )
    return Remedy("roll_back", {"learning_rate": rate, "max_grad_norm": norm}, tried)
