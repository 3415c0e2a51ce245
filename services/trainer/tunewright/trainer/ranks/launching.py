"""A run by several processes, seen from the stage: how many, what they say, and what follows when one is lost.

    start ─ hear ─┬─ done ─────────────────────────▶ manifest
                  ├─ remedy ─ written down ─┐
                  ├─ killed, peer lost ─────┴─ all ended, all started again from the newest checkpoint, bounded
                  └─ error, stop ──────────────────▶ raised

Knows no model and no torch.distributed.
"""

import contextlib
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from tunewright.artifacts import Manifest
from tunewright.chassis import ray_cluster
from tunewright.chassis.errors import InvalidSpec, OutOfResources, TunewrightError, Violation, from_dict
from tunewright.chassis.settings import read_settings
from tunewright.chassis.stage import Reporter, Severity
from tunewright.trainer import attempts, checkpoints
from tunewright.trainer.ranks.local import LocalRanks
from tunewright.trainer.ranks.reporter import HANDED
from tunewright.trainer.ranks.sharing import shared
from tunewright.trainer.ranks.worker import LOST, UNMET
from tunewright.trainer.settings import TrainerSettings
from tunewright.trainer.spec import BESIDE_IDENTITY, TrainingSpec

_POLL_SECONDS = 0.1
_SETTLE_SECONDS = 1.0
"""After the first sign that something went wrong, until the cause among all signs is chosen."""


class Ranks(Protocol):
    """The processes; `local.LocalRanks` has the words."""

    where: str

    def start(self) -> None: ...  # noqa: D102
    def messages(self) -> list[tuple[int, dict[str, Any]]]: ...  # noqa: D102
    def deaths(self) -> dict[int, str]: ...  # noqa: D102
    def ask_to_stop(self) -> None: ...  # noqa: D102
    def kill(self) -> None: ...  # noqa: D102
    def close(self) -> None: ...  # noqa: D102


def with_runtime(spec: TrainingSpec, runtime: Mapping[str, Any]) -> TrainingSpec:
    """Return the spec with the settings that came beside it."""
    return spec.model_copy(update={name: runtime[name] for name in BESIDE_IDENTITY if name in runtime})


def processes_of(spec: TrainingSpec, report: Reporter) -> int:
    """Return how many processes share the run.

    Raises:
        InvalidSpec: more than there are GPUs, or they cannot share the effective batch.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if spec.processes:
        if gpus and spec.processes > gpus:
            why = f"{spec.processes} processes need as many GPUs, this machine has {gpus}"
            raise InvalidSpec(
                f"processes: {why}", remedy="Lower it, or set 0 for all.", violations=[Violation("processes", why)]
            )
        shared(spec, spec.processes)
        return spec.processes
    most = 1 if spec.search.trials else max(1, gpus)
    found = next(count for count in range(most, 0, -1) if spec.batch_rows % count == 0)
    if found < gpus:
        why = f"the effective batch of {spec.batch_rows} rows divides by no more"
        report.event(
            "processes",
            f"{found} of {gpus} GPUs are used: {'a search runs in one process' if spec.search.trials else why}",
            severity=Severity.WARNING,
            processes=found,
            gpus=gpus,
        )
    return found


def train_together(
    spec: TrainingSpec, processes: int, inputs: Mapping[str, Path], output_dir: Path, report: Reporter
) -> Manifest:
    """Train by several processes of this machine, and return the draft of the manifest.

    Raises:
        TunewrightError: what one of them raised.
        OutOfResources: processes were killed, more often than max_restarts.
        Interrupted: a stop was requested; the newest checkpoint is saved.
    """
    task = _task(spec, inputs, output_dir, report) | {"cuda": torch.cuda.is_available()}
    with contextlib.closing(LocalRanks(processes, task)) as ranks:
        return Launch(ranks, spec, processes, report).run()


def train_on_ray(spec: TrainingSpec, inputs: Mapping[str, Path], output_dir: Path, report: Reporter) -> Manifest:
    """Train by workers of the Ray cluster that the service was told of, and return the draft of the manifest.

    Raises:
        TunewrightError: what one of them raised, or the cluster does not answer or is too small.
        OutOfResources: workers were lost, more often than max_restarts.
        Interrupted: a stop was requested; the newest checkpoint is saved.
    """
    address = read_settings(TrainerSettings).ray_address
    ray_cluster.refuse_without_cluster(address)
    from tunewright.trainer.ranks.on_ray import RayRanks  # noqa: PLC0415 - Ray is there only where it is wanted

    with contextlib.closing(RayRanks(address, spec, _task(spec, inputs, output_dir, report))) as ranks:
        return Launch(ranks, spec, ranks.size, report).run()


def _task(spec: TrainingSpec, inputs: Mapping[str, Path], output_dir: Path, report: Reporter) -> dict[str, Any]:
    return {
        "spec": spec.canonical() | {name: getattr(spec, name) for name in BESIDE_IDENTITY},
        "inputs": {name: str(path.resolve()) for name, path in inputs.items()},
        "output": str(output_dir.resolve()),
        "checkpoints": str(report.checkpoints.resolve()),
        "runtime": dict(report.runtime),
        "patience_seconds": read_settings(TrainerSettings).rank_patience_seconds,
    }


@dataclass
class Launch:
    """Lives of all processes, one after the other, until the run ends."""

    ranks: Ranks
    spec: TrainingSpec
    processes: int
    report: Reporter
    _restarts: int = field(default=0, init=False)
    _stopping: bool = field(default=False, init=False)

    def run(self) -> Manifest:
        """Return the draft that rank 0 made; errors are those of `train_together`."""
        own = shared(self.spec, self.processes)
        passes = own.gradient_accumulation_steps // self.processes
        self.report.event(
            "processes",
            f"{self.processes} processes {self.ranks.where}: each takes {own.per_device_train_batch_size} rows × "
            f"{passes} passes a step; the effective batch is {own.batch_rows}",
            processes=self.processes,
            per_device_train_batch_size=own.per_device_train_batch_size,
            passes=passes,
        )
        while True:
            shutil.rmtree(self.report.checkpoints / HANDED, ignore_errors=True)
            self.ranks.start()
            try:
                end = self._hear()
            finally:
                self.ranks.kill()
                shutil.rmtree(self.report.checkpoints / HANDED, ignore_errors=True)
            if end["say"] == "done":
                return Manifest.model_validate(end["manifest"])
            self._raise_or_mend(end)

    def _hear(self) -> dict[str, Any]:
        """Pass on what is said until it is clear how this life ended."""
        ends: dict[int, dict[str, Any]] = {}
        settled = None
        while True:
            ends |= {rank: message for rank, message in self.ranks.messages() if not self._pass_on(message)}
            dead = {rank: {"say": "killed", "how": how, "rank": rank} for rank, how in self.ranks.deaths().items()}
            failed = [end for end in (dead | ends).values() if end["say"] != "done"]
            if ends.get(0, {}).get("say") == "done":
                return ends[0]
            if failed and (settled is None or len(failed) == self.processes):
                settled = time.monotonic() + (_SETTLE_SECONDS if len(failed) < self.processes else 0)
            if settled is not None and time.monotonic() >= settled:
                cause = min(failed, key=lambda end: _CAUSES.index(end["say"]))
                return {**cause, "silent": sorted(set(range(self.processes)) - dead.keys() - ends.keys())}
            if not self._stopping and self.report.stop_requested():
                self._stopping = True
                self.ranks.ask_to_stop()
            time.sleep(_POLL_SECONDS)

    def _pass_on(self, message: dict[str, Any]) -> bool:
        """Tell what rank 0 tells; False if the message is an end."""
        match message["say"]:
            case "progress":
                figures = message["figures"]
                self.report.progress(message["step"], message["total"], unit=message["unit"], **figures)
            case "event":
                severity = Severity(message["severity"])
                self.report.event(message["type"], message["message"], severity=severity, **message["data"])
            case "checkpoint":
                directory = Path(message["directory"])
                self.report.checkpoint(directory, message["step"])
                shutil.rmtree(directory)
            case _:
                return False
        return True

    def _raise_or_mend(self, end: dict[str, Any]) -> None:
        """Raise what ended the run, or prepare the next life."""
        if end["say"] == "error":
            error = from_dict(end["error"])
            if end["row"] is not None:
                self.report.event(
                    "trouble", error.message, severity=Severity.ERROR, row=end["row"], remedy=error.remedy
                )
            raise error
        if self._stopping:
            self.report.raise_if_stopped()
        if end["say"] == "remedy":
            back = checkpoints.newest(self.report.checkpoints, end["fingerprint"], lambda _: None)
            taken = back.state()["progress"]["remedies"] if back is not None else []
            attempts.take(end["found"], [*taken, end["found"]["entry"]], end["fingerprint"], self.report)
            return
        self._count_death(end)

    def _count_death(self, end: dict[str, Any]) -> None:
        if end["say"] == LOST:
            why = f"the processes lost each other: {end['why']}"
            if end["silent"]:
                numbers = ", ".join(map(str, end["silent"]))
                why = f"process {numbers} of {self.processes} lives and does not answer ({end['why']})"
        elif end["say"] == UNMET:
            why = f"process {end['rank']} of {self.processes} could not join the others: {end['why']}"
        else:
            why = f"process {end['rank']} of {self.processes} was ended {end['how']}"
        if self._restarts >= self.spec.max_restarts:
            raise _given_up(why, self._restarts)
        self._restarts += 1
        self.report.event(
            "restart",
            f"{why}; all are started again from the newest checkpoint ({self._restarts} of {self.spec.max_restarts})",
            severity=Severity.WARNING,
            restarts=self._restarts,
            max_restarts=self.spec.max_restarts,
        )


_CAUSES = ("remedy", "error", UNMET, "killed", LOST)
"""Whose word counts when several processes end at once: those after it are mostly what came of it."""


def _given_up(why: str, restarts: int) -> TunewrightError:
    return OutOfResources(
        f"{why}; the run was started again {restarts} times",
        remedy="Look at the memory of the machine and at the GPUs' own log: a process that is killed mostly took more "
        "than there was. Submit again to go on from the newest checkpoint; max_restarts allows more deaths.",
    )
