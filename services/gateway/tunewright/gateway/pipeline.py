"""The order of the stages: the one place that knows it. Durable, so a run survives the end of this process.

    base model ─ import ─┬───────────┐
    raw files ───────────┴─ prepare ─┴─ train ─ merge ─ deploy base and candidate ─ evaluate ─ promote

Each line of `run` is a step whose result is kept in the database; a run that is taken up again after a crash passes
over the lines that have one. How a step is carried out stands in `runner.py`, what it asks of its room in `stages.py`.

Change `durable.VERSION` when lines are added, removed or reordered.
"""

from dbos import DBOS, DBOSConfiguredInstance
from dbos import error as dbos_error

from tunewright.artifacts import ArtifactRef, Kind
from tunewright.chassis.errors import Cancelled, foreign
from tunewright.gateway.recipe import parse
from tunewright.gateway.runner import PAUSED, StageRunner

GPU_QUEUE = "gpu"
STAGES = ("import", "prepare", "train", "merge", "deploy_base", "deploy_tuned", "evaluate", "promote")
_POLL_SECONDS = 0.25


@DBOS.dbos_class()
class Pipeline(DBOSConfiguredInstance):
    """The durable workflows."""

    def __init__(self, runner: StageRunner) -> None:
        super().__init__("pipeline")
        self._runner = runner

    @DBOS.workflow(name="run", max_recovery_attempts=None)
    def run(self, run_id: str) -> str:
        """Carry out a run, from its recipe to a public name that answers; return that name."""
        try:
            recipe = parse(DBOS.run_step({"name": "begin"}, self._runner.begin, run_id))
            base = str(recipe.base_ref or self._job(run_id, "import"))
            dataset = self._job(run_id, "prepare", base=base)
            trained = self._on_gpu(run_id, "train", dataset=dataset, base=base)
            if ArtifactRef.parse(trained).kind is Kind.MODEL:  # every weight was trained: there is nothing to merge
                tuned = DBOS.run_step({"name": "merge"}, self._runner.pass_over, run_id, "merge", trained)
            else:
                tuned = self._on_gpu(run_id, "merge", adapter=trained, base=base, dataset=dataset)
            candidate = recipe.candidate_name(ArtifactRef.parse(tuned))
            self._deploy(run_id, "deploy_base", recipe.base_name, base)
            self._deploy(run_id, "deploy_tuned", candidate, tuned)
            self._job(run_id, "evaluate", dataset=dataset, base=base, tuned=tuned)
            public_name = DBOS.run_step({"name": "promote"}, self._runner.promote, run_id, "promote", candidate)
        except Exception as error:
            DBOS.run_step({"name": "fail"}, self._runner.fail, run_id, foreign(error))
            if isinstance(error, Cancelled):
                DBOS.cancel_workflow(run_id)
            raise
        DBOS.run_step({"name": "succeed"}, self._runner.succeed, run_id)
        return public_name

    @DBOS.workflow(name="gpu_stage", max_recovery_attempts=None)
    def gpu_stage(self, run_id: str, stage: str, inputs: dict[str, str]) -> str:
        """Run one stage that needs the GPU, or let go of it at a pause; the queue lets one of them run at a time."""
        return self._job_once(run_id, stage, inputs)

    def _job(self, run_id: str, stage: str, **inputs: str) -> str:
        while (ref := self._job_once(run_id, stage, inputs)) == PAUSED:
            self._wait_until_resumed(run_id)
        return ref

    def _job_once(self, run_id: str, stage: str, inputs: dict[str, str]) -> str:
        return DBOS.run_step({"name": stage}, self._runner.job, run_id, stage, inputs)

    def _wait_until_resumed(self, run_id: str) -> None:
        DBOS.run_step({"name": "pause"}, self._runner.wait_until_resumed, run_id)

    def _deploy(self, run_id: str, stage: str, name: str, model: str) -> None:
        DBOS.run_step({"name": stage}, self._runner.deploy, run_id, stage, name, model)

    def _on_gpu(self, run_id: str, stage: str, **inputs: str) -> str:
        while True:
            handle = DBOS.enqueue_workflow(GPU_QUEUE, self.gpu_stage, run_id, stage, inputs)
            try:
                ref = handle.get_result(polling_interval_sec=_POLL_SECONDS)
            except dbos_error.DBOSAwaitedWorkflowCancelledError as error:
                raise Cancelled(f"run {run_id} was cancelled while it waited for the GPU") from error
            if ref != PAUSED:
                return ref
            self._wait_until_resumed(run_id)
