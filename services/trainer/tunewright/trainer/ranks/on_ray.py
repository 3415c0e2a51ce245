"""The processes of a run as workers of Ray Train, seen from the stage. Knows no model.

Ray Train places the workers, joins them into a process group, and ends all of them when one is lost. How often they
are started again, and with which remedy, is decided as for processes of one machine (`launching.py`); so Ray Train
itself retries nothing and keeps no checkpoints. What the workers say goes through one small actor, the mailbox.

The workers read and write the stage's own folders: all nodes must see them under the same paths.
"""

import os
import secrets
import shutil
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
# Its workers would change into a folder of the run's; nothing here is relative.
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")

import ray
from ray import exceptions
from ray.train import FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.torch import TorchConfig, TorchTrainer

from tunewright.chassis import ray_cluster
from tunewright.chassis.errors import InvalidSpec, Unavailable, Violation
from tunewright.trainer.ranks.mailbox import Mailbox
from tunewright.trainer.ranks.ray_worker import Ended, take_part
from tunewright.trainer.ranks.sharing import shared
from tunewright.trainer.spec import TrainingSpec

_NODES_SECONDS = 60.0
"""How long a lost node may take to come back before a run gives up on the cluster."""
_END_SECONDS = 30.0


class RayRanks:
    """Implements `launching.Ranks`.

    Args:
        address: of the cluster; a Ray node runs on this machine.
        spec: of the run.
        task: what a worker reads.

    Raises:
        InvalidSpec: the cluster has fewer processors or GPUs than processes are asked for.
        Unavailable: it does not answer.
    """

    where = "of a Ray cluster"

    def __init__(self, address: str, spec: TrainingSpec, task: dict[str, Any]) -> None:
        ray_cluster.join(address)
        # Below the checkpoints, which all nodes must see anyhow; the token shows whether they do.
        self._folder = Path(tempfile.mkdtemp(prefix=".ray-", dir=task["checkpoints"]))
        token = secrets.token_hex(16)
        (self._folder / "token").write_text(token, encoding="utf-8")
        self._cuda = bool(_resources("GPU"))
        self._task = task | {"cuda": self._cuda, "token_file": str(self._folder / "token"), "token": token}
        try:
            self.size = _size(spec, _resources(self._resource))
        except BaseException:
            self.close()
            raise
        self._mailbox: Any = None
        self._fit: threading.Thread | None = None
        self._end: Exception | None = None
        self._asked = False
        self._heard = False

    def start(self) -> None:
        """Start all workers afresh.

        Raises:
            Unavailable: nodes were lost and did not come back.
        """
        self._wait_for_nodes()
        self._end, self._heard = None, False
        self._mailbox = ray.remote(Mailbox).options(num_cpus=0).remote()
        trainer = TorchTrainer(
            take_part,
            train_loop_config={"task": self._task, "mailbox": self._mailbox},
            scaling_config=ScalingConfig(num_workers=self.size, use_gpu=self._cuda),
            run_config=RunConfig(
                name=f"life-{secrets.token_hex(4)}",
                storage_path=str(self._folder),
                failure_config=FailureConfig(max_failures=0),
            ),
            torch_config=TorchConfig(
                backend="nccl" if self._cuda else "gloo", timeout_s=max(1, int(self._task["patience_seconds"]))
            ),
        )
        self._fit = threading.Thread(target=self._run, args=(trainer,), daemon=True)
        self._fit.start()

    def messages(self) -> list[tuple[int, dict[str, Any]]]:
        """Return what the workers have said since the last time, with their ranks."""
        try:
            found: list[tuple[int, dict[str, Any]]] = ray.get(self._mailbox.take.remote())
        except exceptions.RayError as error:
            raise Unavailable(f"the Ray cluster is lost: {type(error).__name__}") from error
        self._heard = self._heard or bool(found)
        return found

    def deaths(self) -> dict[int, str]:
        """Return rank → how its worker was lost; none as long as Ray Train goes on."""
        if self._fit is None or self._fit.is_alive():
            waiting = self._asked and not self._heard
            return {0: "before it began"} if waiting else {}
        if self._end is None:
            return {0: "without a word"}  # of no consequence where it said before that it was done
        if not isinstance(self._end, WorkerGroupError):
            raise Unavailable(f"Ray Train gave the run up: {_how(self._end)}") from self._end
        return {
            rank: f"with its Ray worker: {_how(error)}"
            for rank, error in self._end.worker_failures.items()
            if not _spoke(error)
        }

    def ask_to_stop(self) -> None:
        """Wish that all stop at the next point where they can."""
        self._asked = True
        self._mailbox.wish_stop.remote()

    def kill(self) -> None:
        """End all workers; returns when Ray Train has ended, or does not within half a minute."""
        if self._fit is not None:
            ray.kill(self._mailbox)  # a worker that finds its mailbox gone ends at once
            self._fit.join(_END_SECONDS)

    def close(self) -> None:
        """Leave the cluster, which ends what may be left of the run."""
        ray_cluster.leave()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def _resource(self) -> str:
        return "GPU" if self._cuda else "CPU"

    def _run(self, trainer: Any) -> None:  # noqa: ANN401 - Ray's
        try:
            trainer.fit()
        except Exception as error:  # noqa: BLE001 - a thread's border; `deaths` tells
            self._end = error

    def _wait_for_nodes(self) -> None:
        deadline = time.monotonic() + _NODES_SECONDS
        while _resources(self._resource) < self.size:
            if time.monotonic() > deadline:
                left = f"{_resources(self._resource)} {self._resource}s"
                raise Unavailable(
                    f"the Ray cluster has {left} left, the run needs {self.size}",
                    remedy="Bring the lost node back, or submit again with fewer `processes`: it goes on from the "
                    "newest checkpoint.",
                )
            time.sleep(1)


def _resources(name: str) -> int:
    return int(ray.cluster_resources().get(name, 0))  # type: ignore[no-untyped-call] # Ray's own


def _size(spec: TrainingSpec, most: int) -> int:
    """Return how many workers there are: as asked for, else one for each GPU as far as the batch divides."""
    if spec.processes > most:
        why = f"{spec.processes} processes are more than the Ray cluster has room for ({most})"
        raise InvalidSpec(f"processes: {why}", violations=[Violation("processes", why)])
    gpus = max(1, _resources("GPU"))
    size = spec.processes or next(count for count in range(gpus, 0, -1) if spec.batch_rows % count == 0)
    shared(spec, size)
    return size


def _spoke(error: BaseException) -> bool:
    """Return True if a worker ended after it had said why, so that its word counts."""
    return isinstance(error, Ended) or Ended.__name__ in f"{type(error).__name__}: {error}"


def _how(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
