"""A job runner in a process of its own, to be killed: `python -m tests.chassis.runner_process WORK_DIR [SPEC_JSON]`.

Submits the spec if one is given, else only recovers; prints the final state of every job once all have ended.
"""

import json
import signal
import sys
import threading
import time
from pathlib import Path

from tests.chassis.stages import COUNT, STAGES, CountSpec
from tunewright.chassis.jobs import JobRunner
from tunewright.chassis.settings import ServiceSettings


def main() -> None:
    settings = ServiceSettings(work_dir=Path(sys.argv[1]))
    runner = JobRunner("counter", STAGES, settings.open_store(), settings)
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    runner.recover()
    if len(sys.argv) > 2:
        runner.submit(COUNT, CountSpec(**json.loads(sys.argv[2])), {})
    while not stopping.is_set() and any(job.state in (1, 2) for job in runner.jobs(100)):
        time.sleep(0.1)
    runner.drain()
    sys.stdout.write(
        json.dumps([[job.job_id, job.state, job.result.id, job.attempt] for job in runner.jobs(100)]) + "\n"
    )


if __name__ == "__main__":
    main()
