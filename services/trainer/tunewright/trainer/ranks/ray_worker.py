"""One worker of a run on a Ray cluster. Ray Train has joined it into the process group already. Knows no cluster."""

import os
import platform
import threading
import time
from pathlib import Path
from typing import Any

import ray
from ray import exceptions, train
from ray.train.torch import get_device

from tunewright.chassis.errors import Refused
from tunewright.trainer.ranks import group, worker
from tunewright.trainer.ranks.reporter import RankReporter

_POLL_SECONDS = 0.5


class Ended(Exception):
    """The worker said how it ended; raised so that Ray Train ends the others too."""


def take_part(config: dict[str, Any]) -> None:
    """Run the stage as one process of several; Ray Train calls it in each worker.

    Args:
        config: task (as for a process of one machine), mailbox (the actor).

    Raises:
        Ended: this process did not come to the run's end.
    """
    task, mailbox = config["task"], config["mailbox"]
    rank = train.get_context().get_world_rank()
    os.environ[group.PATIENCE_SECONDS] = str(task["patience_seconds"])
    if task["cuda"]:
        os.environ["LOCAL_RANK"] = str(get_device().index)  # among the GPUs that the node's workers see
    stop = threading.Event()
    threading.Thread(target=_listen, args=(mailbox, stop), daemon=True).start()
    said: list[str] = []

    def send(message: dict[str, Any]) -> None:
        said.append(message["say"])
        ray.get(mailbox.put.remote(rank, message))

    if not _sees(task):
        why = f"Ray node {platform.node()} does not see the stage's folders"
        remedy = "Mount the trainer's TUNEWRIGHT_WORK_DIR at the same path on all nodes, or use `launcher: local`."
        send({"say": "error", "error": Refused(why, remedy=remedy).to_dict(), "row": None})
        raise Ended(why)
    report = RankReporter(group.current(), Path(task["checkpoints"]), task["runtime"], send, stop.is_set)
    worker.take_part(task, report, send)
    if said[-1] != "done":
        raise Ended(said[-1])


def _sees(task: dict[str, Any]) -> bool:
    try:
        return Path(task["token_file"]).read_text(encoding="utf-8") == str(task["token"])
    except OSError:
        return False


def _listen(mailbox: Any, stop: threading.Event) -> None:  # noqa: ANN401 - an actor's handle
    """Hear the wish to stop; end this process where the stage is gone, in whatever it waits for."""
    while True:
        try:
            if ray.get(mailbox.stop_wished.remote()):
                stop.set()
        except exceptions.RayError:
            os._exit(1)
        time.sleep(_POLL_SECONDS)
