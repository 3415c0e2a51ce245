"""The durable workflow engine (DBOS): configured, launched, asked to start and cancel runs. Knows no stage."""

import logging

from dbos import DBOS, DBOSConfig, SetWorkflowID

from tunewright.chassis.errors import Cancelled, Internal
from tunewright.gateway.database import with_driver
from tunewright.gateway.journal import Journal
from tunewright.gateway.pipeline import GPU_QUEUE, Pipeline

VERSION = "pipeline-3"
"""Runs are taken up again only by the order of stages they were started with; other changes make no new order."""
_QUEUE_POLL_SECONDS = 0.25

_log = logging.getLogger(__name__)


class DurableRuns:
    """Starts runs so that they end, whatever happens to this process. One object a process.

    Args:
        pipeline: the workflows.
        journal: what users are told.
        database_url: sqlite:///FILE or postgresql://…
        executor_id: name under which interrupted runs are taken up again.
    """

    def __init__(self, pipeline: Pipeline, journal: Journal, *, database_url: str, executor_id: str) -> None:
        self._pipeline = pipeline
        self._journal = journal
        config = DBOSConfig(
            name="tunewright",
            system_database_url=with_driver(database_url),
            application_version=VERSION,
            executor_id=executor_id,
            log_level="WARNING",
        )
        DBOS(config=config)
        _log_as_we_do()

    def launch(self) -> None:
        """Take up what was interrupted, and take new runs from now on."""
        DBOS.launch()
        DBOS.register_queue(
            GPU_QUEUE, global_concurrency=1, polling_interval_sec=_QUEUE_POLL_SECONDS, on_conflict="always_update"
        )
        for run_id in self._journal.unfinished():
            self._reconcile(run_id)

    def start(self, run_id: str) -> None:
        """Start the workflow of a run that is in the journal; harmless if it was started before."""
        with SetWorkflowID(run_id):
            DBOS.start_workflow(self._pipeline.run, run_id)

    def cancel_waiting(self, run_id: str) -> None:
        """Take the run's stages out of the queue if they wait in it."""
        waiting = DBOS.list_workflows(parent_workflow_id=run_id, status=["ENQUEUED", "DELAYED"], load_input=False)
        if waiting:
            DBOS.cancel_workflows([workflow.workflow_id for workflow in waiting])

    def _reconcile(self, run_id: str) -> None:
        """Mend what a crash between journal and workflow left: a run never started, or an end never told."""
        status = DBOS.get_workflow_status(run_id)
        if status is None:
            _log.info("starting a run that was filed and not started", extra={"run_id": run_id})
            self.start(run_id)
        elif status.status == "CANCELLED":
            self._journal.finish(run_id, Cancelled(f"run {run_id} was cancelled"))
        elif status.status in {"ERROR", "SUCCESS", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"}:
            self._journal.finish(run_id, Internal(f"the workflow of run {run_id} ended as {status.status}"))


def _log_as_we_do() -> None:
    """Let DBOS's lines go through the root logger, in the service's own format."""
    logger = logging.getLogger("dbos")
    logger.handlers.clear()
    logger.propagate = True
