"""Seconds that a run takes: floating-point operations over a rate that was measured, and where it was.

Knows no files. A rate is what training reached, not what a data sheet promises.
"""

from dataclasses import dataclass

from tunewright.trainer.fast.passes import Plan, speed_of
from tunewright.trainer.planning.lengths import Lengths, longest_of, mean_longest, rows_of, steps_of, tokens_of
from tunewright.trainer.planning.machine import Machine
from tunewright.trainer.planning.memory import processes_of
from tunewright.trainer.planning.shapes import Shape
from tunewright.trainer.search.space import TRIAL_SHARE, number_of_trials
from tunewright.trainer.spec import TrainingSpec

PLAIN_H100 = 6_430 * 6 * 7.07e9
"""Operations a second of the plain path on an H100: tokens a second of QLoRA with checkpointing × 6 a weight × weights
of Qwen2.5-7B's matrix products; bench/results/qlora_gpu_h100.json."""
FAST_H100 = 16_507 * 4 * 7.07e9
"""Likewise of the fast path with everything kept, passes of 16,384 tokens: bench/results/qlora_fast_h100.json."""
DORA = 1.85
"""A step of DoRA in steps of LoRA: the middle of the 1.3 to 2.4 that `use_dora` is documented with."""
CPU_SHARE = 0.3
"""Of the rate of a large matrix product on a CPU, what training reaches; each run's: bench/results/vram_plan.json."""
_MEASURED = {"cuda": ("qlora",), "cpu": ("qlora", "lora")}
PEAK_TFLOPS = {
    "H200": 989, "H100 PCIe": 756, "H100": 989, "A100": 312, "L40S": 362, "L4": 121, "A10G": 70, "A10": 125,
    "RTX 4090": 165, "RTX 3090": 71, "A6000": 155,
}  # fmt: skip
"""Dense bfloat16 products with float32 sums, 10^12 a second, by NVIDIA's data sheets; the first name found counts."""


@dataclass(frozen=True, slots=True)
class Duration:
    """Time of a run, its evaluations included."""

    seconds: float
    """0 if nothing is known of the machine's speed."""
    steps: int
    basis: str
    """In words: by which measurement, and where."""


def duration(shape: Shape, spec: TrainingSpec, lengths: Lengths, machine: Machine, passes: Plan | None) -> Duration:
    """Return how long a run takes; rows as training has them, `passes` on the fast path."""
    rows = _sequences(spec, lengths)
    steps = steps_of(spec, rows)
    fast = passes is not None
    tokens = steps * _tokens_a_step(spec, lengths, rows, fast=fast)
    operations = tokens * operations_a_token(shape, spec, longest_of(lengths.train), fast=fast)
    operations += _evaluations(spec, steps) * _evaluation(shape, spec, lengths)
    operations *= searched_share(spec, steps)
    rate, basis = _rate(machine, passes)
    processes = processes_of(spec, machine)
    if processes > 1 and machine.type == "cuda":
        rate *= processes
        basis += f", × {processes} processes; what they wait for each other is not counted"
    if spec.use_dora:
        rate, basis = rate / DORA, f"{basis}; DoRA's part is not measured"
    if spec.method not in _MEASURED[machine.type]:
        basis += f"; {spec.method} itself is not measured"
    return Duration(operations / rate if rate else 0.0, steps, basis)


def operations_a_token(shape: Shape, spec: TrainingSpec, length: int, *, fast: bool) -> float:
    """Return multiplications and additions of a token's way through the model and back.

    2 a weight forward and 2 backward, 2 more where weights are trained, 2 where layers are computed again; attention
    takes a causal half of 4 · length · width a layer.
    """
    forward = 2 * (shape.linear_weights + shape.embedding) + 2 * length * shape.queries * shape.layers
    again = spec.gradient_checkpointing and not fast
    ways = 2 + (spec.method == "full") + again
    return float(forward * ways * (2 if spec.objective == "dpo" else 1))


def searched_share(spec: TrainingSpec, steps: int) -> float:
    """Return steps of a run and of its search, over those of the run: trials but one, as the run goes on from one."""
    trials = number_of_trials(spec.search)
    return 1 + max(0, trials - 1) * min(1.0, (spec.search.max_steps or steps / TRIAL_SHARE) / max(1, steps))


def peak_of(card: str) -> float | None:
    """Return operations a second that a card's data sheet promises in bfloat16; None if the card is not known."""
    known = _known(card)
    return None if known is None else PEAK_TFLOPS[known] * 1e12


def _known(card: str) -> str | None:
    return next((name for name in PEAK_TFLOPS if name in card), None)


def _sequences(spec: TrainingSpec, lengths: Lengths) -> int:
    rows = rows_of(lengths.train)
    return max(1, -(-tokens_of(lengths.train) // spec.max_length)) if spec.packing else rows


def _tokens_a_step(spec: TrainingSpec, lengths: Lengths, rows: int, *, fast: bool) -> float:
    """Return the tokens that are computed in a step: padding too, where there is any."""
    mean = tokens_of(lengths.train) / rows_of(lengths.train)
    if spec.packing:
        return min(spec.batch_rows, rows) * tokens_of(lengths.train) / rows
    if not fast:
        mean = mean_longest(lengths.train, spec.per_device_train_batch_size)
    return min(spec.batch_rows, rows) * mean


def _evaluations(spec: TrainingSpec, steps: int) -> int:
    every = spec.eval_steps or max(1, -(-steps // 10))
    return 1 + steps // every


def _evaluation(shape: Shape, spec: TrainingSpec, lengths: Lengths) -> float:
    forward = 2 * (shape.linear_weights + shape.embedding) * (2 if spec.objective == "dpo" else 1)
    return float(forward * tokens_of(lengths.validation))


def _rate(machine: Machine, passes: Plan | None) -> tuple[float, str]:
    if machine.type == "cpu":
        if not machine.flops:
            return 0.0, "unknown: this CPU was not measured"
        gflops = machine.flops / 1e9
        return machine.flops * CPU_SHARE, f"{CPU_SHARE:.0%} of a matrix product's {gflops:,.0f} GFLOP/s, measured here"
    h100 = FAST_H100 * speed_of(passes) if passes else PLAIN_H100
    known = _known(machine.name)
    if known is None:
        return h100, "as measured on an H100 with a 7B model: the speed of this card is not known"
    if known == "H100":
        return h100, "measured on an H100 with a 7B model"
    share = PEAK_TFLOPS[known] / PEAK_TFLOPS["H100"]
    return h100 * share, f"measured on an H100 with a 7B model, × {share:.2f} by data sheets for this card"
