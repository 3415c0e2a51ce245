"""The plan: every method's memory, time and disk; the largest micro-batch that fits; what to change where nothing does.

A proposal keeps the rows of an optimizer step. Knows no files.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, get_args

from tunewright.chassis.errors import InvalidSpec
from tunewright.trainer.planning.disk import Disk, disk
from tunewright.trainer.planning.lengths import Lengths
from tunewright.trainer.planning.machine import Machine
from tunewright.trainer.planning.memory import Footprint, footprint, processes_of
from tunewright.trainer.planning.shapes import Shape
from tunewright.trainer.planning.timing import Duration, duration
from tunewright.trainer.spec import Method, TrainingSpec

_ADAPTERS_ALONE = (
    "lora_r", "lora_alpha", "lora_dropout", "target_modules", "use_dora", "use_rslora", "loraplus_lr_ratio",
    "modules_to_save", "search",
)  # fmt: skip
_SHORTEST = 64
"""Tokens: rows are not proposed to be cut below."""


@dataclass(frozen=True, slots=True)
class Option:
    """One method on this machine."""

    spec: TrainingSpec
    """As asked for, or with the micro-batch that is proposed."""
    found: Footprint
    time: Duration
    disk: Disk
    fits: bool


@dataclass(frozen=True, slots=True)
class Remedy:
    """Settings with which the run fits."""

    settings: dict[str, Any]
    option: Option


@dataclass(frozen=True, slots=True)
class Planned:
    """What is answered."""

    asked: Option
    """The recipe as it stands."""
    methods: tuple[Option, ...]
    """Every method with its best micro-batch; that of the recipe too."""
    refused: dict[str, str]
    """Method → why the recipe's other settings do not go with it."""
    remedies: tuple[Remedy, ...]
    """If the recipe's method fits with no micro-batch: what would."""

    @property
    def proposed(self) -> Option:
        """The recipe's own method with the largest micro-batch that fits; the smallest if none does."""
        return next(option for option in self.methods if option.spec.method == self.asked.spec.method)


def plan(shape: Shape, spec: TrainingSpec, lengths: Lengths, machine: Machine) -> Planned:
    """Return the plan of a run.

    Args:
        shape: of the base.
        spec: the recipe's training section.
        lengths: of the dataset's rows, uncut.
        machine: where it shall run.

    Raises:
        InvalidSpec: modules that the base does not have.
    """
    methods, refused = [], {}
    for method in get_args(Method):
        try:
            methods.append(best(shape, _by(spec, method), lengths, machine))
        except InvalidSpec as error:
            if method == spec.method:
                raise
            refused[method] = error.violations[0].description if error.violations else error.message
    asked = judged(shape, spec, lengths, machine)
    own = next(option for option in methods if option.spec.method == spec.method)
    remedies = () if own.fits else tuple(_remedies(shape, spec, lengths, machine))
    return Planned(asked, tuple(methods), refused, remedies)


def judged(shape: Shape, spec: TrainingSpec, lengths: Lengths, machine: Machine) -> Option:
    """Return what a run takes with exactly these settings, and whether it fits."""
    rows = lengths.cut(spec)
    found = footprint(shape, spec.heaviest, rows, machine)
    time = duration(shape, spec, rows, machine, found.passes)
    space = disk(shape, spec, evaluated=bool(rows.validation))
    return Option(spec, found, time, space, found.fits(machine))


def best(shape: Shape, spec: TrainingSpec, lengths: Lengths, machine: Machine) -> Option:
    """Return the option with the largest micro-batch that fits, the smallest if none does.

    The rows of an optimizer step stay what they are; an evaluation's are halved with no effect on its result.
    """
    own = spec.batch_rows // processes_of(spec, machine)
    for rows in range(max(1, own), 0, -1):
        if max(1, own) % rows:
            continue
        settings = {"per_device_train_batch_size": rows, "gradient_accumulation_steps": spec.batch_rows // rows}
        option = judged(shape, spec.model_copy(update=settings), lengths, machine)
        if option.fits:
            return option
    while not option.fits and option.spec.per_device_eval_batch_size > 1:
        fewer = {"per_device_eval_batch_size": option.spec.per_device_eval_batch_size // 2}
        option = judged(shape, option.spec.model_copy(update=fewer), lengths, machine)
    return option


def _remedies(shape: Shape, spec: TrainingSpec, lengths: Lengths, machine: Machine) -> Iterator[Remedy]:
    """Yield what alone makes the run fit; if nothing does, the first row of changes that does so together."""
    single = 0
    for settings in _changes(spec, lengths):
        found = best(shape, _with(spec, settings), lengths, machine)
        if found.fits:
            single += 1
            yield Remedy(settings, found)
            if "max_length" in settings:
                break
    if single:
        return
    together: dict[str, Any] = {}
    for settings in _changes(spec, lengths):
        together |= settings
        found = best(shape, _with(spec, together), lengths, machine)
        if found.fits:
            yield Remedy(together, found)
            return


def _changes(spec: TrainingSpec, lengths: Lengths) -> Iterator[dict[str, Any]]:
    """Yield changes that save memory, those that cost least first; shorter rows last."""
    if not spec.gradient_checkpointing:
        yield {"gradient_checkpointing": True}
    if spec.optim == "adamw_torch":
        yield {"optim": "adamw_8bit"}
    for method in ("lora", "qlora"):
        if spec.method != method and (spec.method, method) != ("qlora", "lora"):
            yield {"method": method}
    length = min(spec.max_length, lengths.train[-1][0])
    while (length := length // 2) >= _SHORTEST:
        yield {"max_length": length}


def _by(spec: TrainingSpec, method: str) -> TrainingSpec:
    """Return the recipe by another method, without what only its own has.

    Raises:
        InvalidSpec: its objective does not go with the method.
    """
    return spec if method == spec.method else _with(spec, {"method": method})


def _with(spec: TrainingSpec, settings: dict[str, Any]) -> TrainingSpec:
    values = {**spec.model_dump(), **settings}
    method = values["method"]
    if method != spec.method:
        values.pop("learning_rate")
    alone = () if method in {"qlora", "lora"} else _ADAPTERS_ALONE
    for name in (*alone, *(() if method == "prompt_tuning" else ("num_virtual_tokens",))):
        values.pop(name)
    if method == "prompt_tuning":
        values.pop("packing")
    return TrainingSpec.from_mapping(values)


def to_document(planned: Planned, shape: Shape, lengths: Lengths, machine: Machine) -> dict[str, Any]:
    """Return the plan as JSON values; bytes and seconds."""
    return {
        "base": {"kind": shape.kind, "parameters": shape.parameters},
        "machine": asdict(machine),
        "rows": {"known": lengths.known, "origin": lengths.origin, **_row_figures(lengths)},
        "asked": _option(planned.asked, machine),
        "proposed": _option(planned.proposed, machine),
        "methods": [_option(option, machine) for option in planned.methods],
        "refused": planned.refused,
        "fits": planned.proposed.fits,
        "remedies": [{"settings": remedy.settings, **_option(remedy.option, machine)} for remedy in planned.remedies],
    }


def _option(option: Option, machine: Machine) -> dict[str, Any]:
    spec, passes = option.spec, option.found.passes
    return {
        "method": spec.method,
        "per_device_train_batch_size": spec.per_device_train_batch_size,
        "gradient_accumulation_steps": spec.gradient_accumulation_steps,
        "per_device_eval_batch_size": spec.per_device_eval_batch_size,
        "fits": option.fits,
        "memory": {**asdict(option.found.memory), "total": option.found.memory.total},
        "fast_path": passes.describe() if passes else "",
        "processes": option.found.processes,
        "host": option.found.host,
        "lacks_host": option.found.lacks_host(machine),
        "steps": option.time.steps,
        "seconds": option.time.seconds,
        "time_basis": option.time.basis,
        "disk": {**asdict(option.disk), "total": option.disk.total},
    }


def _row_figures(lengths: Lengths) -> dict[str, int]:
    train = lengths.train
    return {
        "train": sum(count for _, count in train),
        "validation": sum(count for _, count in lengths.validation),
        "tokens": sum(length * count for length, count in train),
        "longest": train[-1][0],
    }
