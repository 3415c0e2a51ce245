"""What each stage asks of its room: one function a stage, from recipe and artifacts to a submitted job.

The same functions check a recipe before its run starts (`validate_only`): artifacts that are not made yet are then
named by an id of zeros, which the rooms look for only after the spec was found right.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from tunewright.artifacts import ArtifactRef, Kind
from tunewright.chassis.errors import InvalidSpec, NotFound, TunewrightError, Unavailable, Violation, from_dict
from tunewright.chassis.records import ref_to_proto
from tunewright.gateway.clients import Room, Rooms
from tunewright.gateway.recipe import Recipe
from tunewright.v1 import (
    artifact_pb2,
    dataprep_pb2,
    evaluation_pb2,
    inference_pb2,
    job_pb2,
    merging_pb2,
    training_pb2,
)

_SOURCE = re.compile(r"^dataprep\.sources\.(\d+)")
"""What is said of a file stands beside it, under `data`; dataprep knows it by the upload's number."""
_NOT_MADE_YET = "0" * 64
_SOFT_PROMPTS = "prompt_tuning"


class Inputs:
    """Artifacts by name; while only checking, an id of zeros stands for those that are missing."""

    def __init__(
        self, refs: Mapping[str, ArtifactRef], *, validate_only: bool = False, goes_on: bool | None = None
    ) -> None:
        self._refs = refs
        self.validate_only = validate_only
        self.goes_on = "adapter" in refs if goes_on is None else goes_on
        """Whether a training goes on from an adapter."""

    def proto(self, name: str, kind: Kind) -> artifact_pb2.ArtifactRef:
        """Return one artifact as a proto message."""
        if self.validate_only and name not in self._refs:
            return ref_to_proto(ArtifactRef(kind, _NOT_MADE_YET))
        return ref_to_proto(self._refs[name])


@dataclass(frozen=True, kw_only=True)
class JobStage:
    """A stage that runs as a job of one room."""

    name: str
    room: Room
    section: str
    """Section of the recipe that its errors are about; empty for the recipe itself."""
    submit: Callable[[Rooms, Recipe, Inputs], job_pb2.Job]


def _import(rooms: Rooms, recipe: Recipe, inputs: Inputs) -> job_pb2.Job:
    spec = merging_pb2.ImportSpec(source=recipe.base_model, revision=recipe.base_revision or None)
    request = merging_pb2.SubmitImportRequest(spec=spec, validate_only=inputs.validate_only)
    return rooms.call(Room.MERGER, rooms.merging.SubmitImport, request).job


def _prepare(rooms: Rooms, recipe: Recipe, inputs: Inputs) -> job_pb2.Job:
    request = dataprep_pb2.SubmitDataprepRequest(
        spec=dataprep_spec(recipe),
        uploads=[ref_to_proto(ref) for ref in recipe.uploads],
        base=inputs.proto("base", Kind.MODEL),
        validate_only=inputs.validate_only,
    )
    return rooms.call(Room.DATAPREP, rooms.dataprep.SubmitDataprep, request).job


def dataprep_spec(recipe: Recipe) -> dataprep_pb2.DataprepSpec:
    """Return dataprep's section; rows are judged by the length that training cuts at, where nothing else is said."""
    spec = dataprep_pb2.DataprepSpec()
    spec.CopyFrom(recipe.section("dataprep", dataprep_pb2.DataprepSpec))
    training = recipe.section("training", training_pb2.TrainingSpec)
    if training.HasField("max_length") and not spec.audit.HasField("max_length"):
        spec.audit.max_length = training.max_length
    return spec


def _train(rooms: Rooms, recipe: Recipe, inputs: Inputs) -> job_pb2.Job:
    spec = recipe.section("training", training_pb2.TrainingSpec)
    if spec.method == _SOFT_PROMPTS:
        why = "a run ends in a served model, and vLLM serves no soft prompts; train one by the trainer's `run` command"
        raise InvalidSpec(f"training.method: {why}", violations=[Violation("method", why)])
    request = training_pb2.SubmitTrainingRequest(
        spec=spec,
        dataset=inputs.proto("dataset", Kind.DATASET),
        base=inputs.proto("base", Kind.MODEL),
        validate_only=inputs.validate_only,
        adapter=inputs.proto("adapter", Kind.ADAPTER) if inputs.goes_on else None,
    )
    return rooms.call(Room.TRAINER, rooms.training.SubmitTraining, request).job


def _merge(rooms: Rooms, recipe: Recipe, inputs: Inputs) -> job_pb2.Job:
    request = merging_pb2.SubmitMergeRequest(
        spec=recipe.section("merging", merging_pb2.MergeSpec),
        adapter=inputs.proto("adapter", Kind.ADAPTER),
        base=inputs.proto("base", Kind.MODEL),
        dataset=inputs.proto("dataset", Kind.DATASET),
        validate_only=inputs.validate_only,
    )
    return rooms.call(Room.MERGER, rooms.merging.SubmitMerge, request).job


def _evaluate(rooms: Rooms, recipe: Recipe, inputs: Inputs) -> job_pb2.Job:
    base = inputs.proto("base", Kind.MODEL)
    tuned = inputs.proto("tuned", Kind.MODEL)
    request = evaluation_pb2.SubmitEvaluationRequest(
        spec=recipe.section("evaluation", evaluation_pb2.EvaluationSpec),
        dataset=inputs.proto("dataset", Kind.DATASET),
        base=_target(rooms, recipe.base_name, base, inputs),
        tuned=_target(rooms, f"{recipe.name}-{tuned.id[:12]}", tuned, inputs),
        validate_only=inputs.validate_only,
    )
    return rooms.call(Room.EVALUATOR, rooms.evaluation.SubmitEvaluation, request).job


def _target(
    rooms: Rooms, deployment: str, model: artifact_pb2.ArtifactRef, inputs: Inputs
) -> evaluation_pb2.EvaluationTarget:
    """Return where a deployment answers right now: its address may have changed since it was deployed.

    Raises:
        Unavailable: it is being restarted.
    """
    endpoint = "http://127.0.0.1:1/v1" if inputs.validate_only else _endpoint(rooms.deployment(deployment))
    return evaluation_pb2.EvaluationTarget(model=model, endpoint=endpoint, served_model_name=deployment)


def _endpoint(deployment: inference_pb2.Deployment) -> str:
    if deployment.state == inference_pb2.DEPLOYMENT_STATE_FAILED:
        raise error_of(deployment.failure, f"deployment {deployment.name} failed without saying why")
    if deployment.state != inference_pb2.DEPLOYMENT_STATE_READY:
        raise Unavailable(f"deployment {deployment.name} does not answer right now")
    return deployment.endpoint


JOB_STAGES = {
    stage.name: stage
    for stage in (
        JobStage(name="import", room=Room.MERGER, section="", submit=_import),
        JobStage(name="prepare", room=Room.DATAPREP, section="dataprep", submit=_prepare),
        JobStage(name="train", room=Room.TRAINER, section="training", submit=_train),
        JobStage(name="merge", room=Room.MERGER, section="merging", submit=_merge),
        JobStage(name="evaluate", room=Room.EVALUATOR, section="evaluation", submit=_evaluate),
    )
}


def job_stage(name: str) -> tuple[JobStage, str]:
    """Return the stage of a name such as `merge` or `train:sft`, and the name of the recipe's stage that it is of."""
    kind, _, part = name.partition(":")
    return replace(JOB_STAGES[kind], name=name), part


def deploy(rooms: Rooms, recipe: Recipe, name: str, inputs: Inputs) -> inference_pb2.Deployment:
    """Start the deployment `name` of the artifact "model", or attach to it. Raises TunewrightError."""
    request = inference_pb2.DeployRequest(
        name=name,
        spec=recipe.section("deployment", inference_pb2.DeploymentSpec),
        model=inputs.proto("model", Kind.MODEL),
        validate_only=inputs.validate_only,
    )
    return rooms.call(Room.INFERENCE, rooms.inference.Deploy, request).deployment


def deploy_adapter(rooms: Rooms, recipe: Recipe, name: str, inputs: Inputs) -> inference_pb2.Deployment:
    """Start the deployment `name` of the artifact "model" with "adapter" on top, or attach to it. Raises as above."""
    request = inference_pb2.DeployRequest(
        name=name,
        spec=recipe.section("deployment", inference_pb2.DeploymentSpec),
        model=inputs.proto("model", Kind.MODEL),
        adapter=inputs.proto("adapter", Kind.ADAPTER),
    )
    return rooms.call(Room.INFERENCE, rooms.inference.Deploy, request).deployment


def validate(rooms: Rooms, recipe: Recipe) -> None:
    """Ask every room whether its part of the recipe is right; nothing is started.

    Raises:
        InvalidSpec: with all wrong fields of all rooms and their paths in the recipe.
        TunewrightError: a room refuses for another reason, or does not answer.
    """
    known = {} if recipe.base_ref is None else {"base": recipe.base_ref}
    inputs = Inputs(known, validate_only=True)
    violations: list[Violation] = []
    checks: list[tuple[str, str, Callable[[], object]]] = []
    data_keys = {recipe.prefix(stage): stage.data_key for stage in recipe.stages}
    if recipe.base_ref is None:
        checks.append(("", "", partial(_import, rooms, recipe, inputs)))
    for number, stage in enumerate(recipe.stages):
        alone, prefix = recipe.at(stage.name), recipe.prefix(stage)
        first = Inputs(known, validate_only=True, goes_on=recipe.goes_on(number))
        checks.append((prefix, "dataprep", partial(_prepare, rooms, alone, inputs)))
        checks.append((prefix, "training", partial(_train, rooms, alone, first)))
    checks.append(("", "merging", partial(_merge, rooms, recipe, inputs)))
    checks.append(("", "evaluation", partial(_evaluate, rooms, recipe, inputs)))
    checks.append(("", "deployment", partial(deploy, rooms, recipe, recipe.base_name, inputs)))
    for prefix, section, check in checks:
        try:
            check()
        except NotFound as error:
            if not section:
                violations.append(Violation("base_model", error.message))
            elif _NOT_MADE_YET not in error.message:
                raise
        except InvalidSpec as error:
            key = data_keys.get(prefix, "data")
            found = [Violation(_path(prefix, section, v.field, key), v.description) for v in error.violations]
            violations += found or [Violation(prefix + (section or "base_model"), error.message)]
    violations = list(dict.fromkeys(violations))  # what several stages share is wrong once
    if violations:
        text = "; ".join(f"{v.field}: {v.description}" for v in violations)
        raise InvalidSpec(f"the recipe is not valid: {text}", violations=violations)


def _path(prefix: str, section: str, field: str, data_key: str) -> str:
    """Return the path in the recipe of a field that a room names in its own spec.

    Args:
        prefix: what stands before the paths of the stage's keys.
        section: of the recipe.
        field: as the room names it.
        data_key: path of the stage's `data`, which it may share with others.
    """
    if not section:
        return prefix + {"source": "base_model", "revision": "base_revision"}.get(field, field)
    path = f"{section}.{field.removeprefix('spec.')}"
    return f"{data_key}[{match[1]}]{path[match.end() :]}" if (match := _SOURCE.match(path)) else prefix + path


def failure_of(job: job_pb2.Job) -> TunewrightError:
    """Return the error that a failed or cancelled job ended with."""
    return error_of(job.failure, f"job {job.job_id} of {job.service} ended without saying why")


def error_of(failure: job_pb2.JobFailure, otherwise: str) -> TunewrightError:
    """Return a failure on the wire as a member of the error tree."""
    document = {"reason": failure.reason, "message": failure.message or otherwise, "remedy": failure.remedy}
    return from_dict(document)
