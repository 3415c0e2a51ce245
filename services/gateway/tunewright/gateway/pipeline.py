"""The order of the stages: the one place that knows it. Durable, so a run survives the end of this process.

    base model ─ import ─┬───────────┐
    raw files ───────────┴─ prepare ─┴─ train ─ merge ─ deploy base and candidate ─ evaluate ─ promote

A recipe with `stages` has a prepare and a train for each, named `prepare:cpt`, `train:cpt`. A stage trains the adapter
of the one before further if it is of the same shape; else it starts on that one's model, merged for it (`merge:cpt`).

Each line of `run` is a step whose result is kept in the database; a run that is taken up again after a crash passes
over the lines that have one. How a step is carried out stands in `runner.py`, what it asks of its room in `stages.py`.

Change `durable.VERSION` when lines are added, removed or reordered.
"""

from dbos import DBOS, DBOSConfiguredInstance
from dbos import error as dbos_error

from tunewright.artifacts import ArtifactRef, Kind
from tunewright.chassis.errors import Cancelled, foreign
from tunewright.gateway.recipe import Recipe, parse
from tunewright.gateway.runner import PAUSED, StageRunner

GPU_QUEUE = "gpu"
_POLL_SECONDS = 0.25


def stage_names(recipe: Recipe) -> list[str]:
    """Return the stages of a recipe's run, in order."""
    names = ["import"] if recipe.base_ref is None else []
    names += [stage.called("prepare") for stage in recipe.stages]
    for number, stage in enumerate(recipe.stages):
        names += [stage.called("train"), merge_after(recipe, number)]
    return [name for name in (*names, "deploy_base", "deploy_tuned", "evaluate", "promote") if name]


def merge_after(recipe: Recipe, number: int) -> str:
    """Return the name of the merge after a training; empty if the next one trains its adapter further."""
    if number == len(recipe.stages) - 1:
        return "merge"
    return "" if recipe.goes_on(number + 1) else recipe.stages[number].called("merge")


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
            datasets = [self._job(run_id, stage.called("prepare"), base=base) for stage in recipe.stages]
            tuned, dataset = self._train(run_id, recipe, base, datasets), datasets[-1]
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

    def _train(self, run_id: str, recipe: Recipe, base: str, datasets: list[str]) -> str:
        """Carry out the recipe's trainings, each on what the one before gave; return the tuned model."""
        model, trained = base, ""
        for number, (stage, dataset) in enumerate(zip(recipe.stages, datasets, strict=True)):
            start = {"adapter": trained} if recipe.goes_on(number) else {}
            trained = self._on_gpu(run_id, stage.called("train"), dataset=dataset, base=model, **start)
            merge = merge_after(recipe, number)
            if not merge:  # the next stage trains this adapter further
                continue
            if ArtifactRef.parse(trained).kind is Kind.MODEL:  # every weight was trained: there is nothing to merge
                model = DBOS.run_step({"name": merge}, self._runner.pass_over, run_id, merge, trained)
            else:
                model = self._on_gpu(run_id, merge, adapter=trained, base=model, dataset=dataset)
        return model

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
