"""One process of a run on this machine: `python -m tunewright.trainer.ranks.worker TASK.json MESSAGES.jsonl`.

RANK, LOCAL_RANK and WORLD_SIZE in the environment tell which. Its last message is how it ended. Knows nothing of jobs.
"""

import json
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import IO, Any

from tunewright.chassis.errors import Interrupted, foreign
from tunewright.trainer.ranks import group
from tunewright.trainer.ranks.reporter import RankReporter, Send

LOST = "lost_peer"
UNMET = "could_not_join"
_PEER_IS_GONE = ("gloo/", "NCCL", "Connection closed by peer", "Broken pipe", "Connection reset", "store->get")


def main(task_file: Path, messages: IO[str]) -> None:
    """Take part in the run; the last message tells how that ended."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())

    def send(message: dict[str, Any]) -> None:
        messages.write(json.dumps(message, ensure_ascii=False, default=float) + "\n")
        messages.flush()

    task = json.loads(task_file.read_bytes())
    try:
        joined = group.join(f"file://{task_file.with_name('meeting')}", cuda=task["cuda"])
    except Exception as error:
        logging.getLogger(__name__).exception("process %s could not join the others", os.environ.get("RANK"))
        why = f"{type(error).__name__}: {error}".partition("\n")[0]
        send({"say": UNMET, "why": why, "rank": int(os.environ["RANK"])})
        return
    report = RankReporter(joined, Path(task["checkpoints"]), task["runtime"], send, stop.is_set)
    take_part(task, report, send)


def take_part(task: dict[str, Any], report: RankReporter, send: Send) -> None:
    """Run the stage as one process of several, and send how it ended: done, remedy, error, or a peer was lost.

    Args:
        task: spec (all fields), inputs (name → folder), output (folder).
        report: of this process.
        send: takes the end.
    """
    from tunewright.trainer import stage  # noqa: PLC0415 - the group is joined first: it costs seconds to import
    from tunewright.trainer.attempts import TryAgain  # noqa: PLC0415
    from tunewright.trainer.spec import TrainingSpec  # noqa: PLC0415
    from tunewright.trainer.troubles import recognise  # noqa: PLC0415

    try:
        inputs = {name: Path(path) for name, path in task["inputs"].items()}
        spec = TrainingSpec.from_mapping(task["spec"])
        manifest = stage.train(spec, inputs, Path(task["output"]), report)
        send({"say": "done", "manifest": manifest.model_dump(mode="json") if manifest is not None else None})
    except TryAgain as again:
        logging.getLogger(__name__).exception("a remedy was found")
        send({"say": "remedy", "found": again.found, "fingerprint": again.fingerprint})
    except Interrupted as error:
        send({"say": "error", "error": error.to_dict(), "row": None})
    except Exception as error:
        logging.getLogger(__name__).exception("process %s failed", os.environ.get("RANK"))
        trouble = recognise(error)
        if trouble is None and any(sign in str(error) for sign in _PEER_IS_GONE):
            send({"say": LOST, "why": str(error).partition("\n")[0]})
            return
        told = foreign(stage.explained(error))
        send({"say": "error", "error": told.to_dict(), "row": trouble.row if trouble is not None else None})


if __name__ == "__main__":
    with Path(sys.argv[2]).open("a", encoding="utf-8") as file:
        main(Path(sys.argv[1]), file)
    # Nothing is left to do, and a group whose other processes are gone may not be left in peace.
    os._exit(0)
