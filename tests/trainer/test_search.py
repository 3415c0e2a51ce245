"""A search tries ranks and rates on one base, and its best trial is trained on, as if nothing else had been tried."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.conftest import letters, train, write_dataset
from tests.trainer.reporting import Recorder
from tests.trainer.test_resume import content, go, losses
from tunewright.artifacts import MemoryStore
from tunewright.artifacts import checkpoints as stored_checkpoints
from tunewright.chassis.errors import Interrupted, InvalidSpec, Refused
from tunewright.gateway.recipe import parse
from tunewright.trainer import adapters, base, checkpoints
from tunewright.trainer.search.space import with_settings
from tunewright.trainer.search.study import Study
from tunewright.trainer.search.trials import _Pruning
from tunewright.trainer.spec import TrainingSpec
from tunewright.trainer.start import check_start
from tunewright.v1 import training_pb2

SHORT: dict[str, Any] = {"max_steps": 8, "eval_steps": 2, "gradient_accumulation_steps": 1, "lora_dropout": 0.1}
SEARCH: dict[str, Any] = {"trials": 4, "lora_r": [4, 8, 16], "learning_rate": [1e-4, 5e-2], "max_steps": 2}
ARTIFACT = ("adapter_model.safetensors", "adapter_config.json", "golden.json")


def read(folder: Path, *, last: str = "search.json") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / last).read_bytes())
    return found


@pytest.mark.parametrize("kind", [{"method": "qlora"}, {"method": "lora", "modules_to_save": ["norm"]}], ids=str)
def test_the_best_trial_is_trained_on_and_ends_in_the_bytes_of_a_run_with_its_settings(
    kind: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = []

    def counted(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401 - whatever it takes
        loads.append(arguments)
        return base.load_base(*arguments, **named)

    monkeypatch.setattr("tunewright.trainer.stage.load_base", counted)
    dataset = write_dataset(tmp_path / "dataset", letters(8), letters(4))
    searched = train(tmp_path / "searched", dataset, search=SEARCH, **SHORT, **kind)
    assert len(loads) == 1
    trials = read(searched.output)["trials"]
    assert [trial["number"] for trial in trials] == [0, 1, 2, 3]
    assert trials[0]["settings"] == {"lora_r": 16, "learning_rate": 1e-2}, "the recipe's own come first"
    assert len({json.dumps(trial["settings"]) for trial in trials}) == 4
    best = min(trials, key=lambda trial: trial["eval_loss"])
    assert searched.manifest.metrics["search"]["settings"] == best["settings"]
    scale = 2.0 * best["settings"]["lora_r"]
    written = {name: searched.manifest.spec[name] for name in ("lora_r", "lora_alpha", "learning_rate")}
    assert written == {**best["settings"], "lora_alpha": scale}, "so that a later stage can go on from it"
    check_start(TrainingSpec.from_mapping({**kind, **written}), searched.manifest.spec)
    assert read(searched.output)["best"]["settings"] == best["settings"]
    assert read(searched.output)["best"]["settings"] == best["settings"]
    assert [event["number"] for event in searched.report.of_type("trial")] == [0, 1, 2, 3]
    steps = [entry["step"] for entry in searched.report.steps]
    assert steps == sorted(steps)
    assert (steps[-1], searched.report.steps[-1]["total"]) == (14, 14)  # three trials of 2, the fourth's 2 and 6 more

    page = (searched.output / "search.html").read_text(encoding="utf-8")
    for trial in trials:
        assert f"{trial['eval_loss']:.4f}</td>" in page
        assert f"lora_r {trial['settings']['lora_r']}</td>" in page
    assert page.count("<polyline") == 4
    assert page.count("<h2>Over ") == 3, "steps, rank and rate"

    settings = best["settings"] | {"lora_alpha": 2.0 * best["settings"]["lora_r"]}
    plain = train(tmp_path / "plain", dataset, **{**SHORT, **kind, **settings})
    for name in ARTIFACT:
        assert (searched.output / name).read_bytes() == (plain.output / name).read_bytes(), name
    assert searched.manifest.metrics["best_eval_loss"] == plain.manifest.metrics["best_eval_loss"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = prepare(tmp_path_factory.mktemp("whole"))
    status, said = go(folder)
    assert (status, said["saved"]) == (0, [2, 4, 6, 8, 10, 12, 14])
    return folder


def prepare(folder: Path) -> Path:
    write_dataset(folder / "dataset", letters(7), letters(8))
    spec = {**SHORT, "search": SEARCH, "per_device_train_batch_size": 4, "learning_rate": 1e-2}
    (folder / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("how", "after"),
    [(("checkpoint", 4), "3"), (("progress", 5), "3"), (("checkpoint", 8), ""), (("checkpoint", 12), "")],
    ids=["after a trial", "within a trial", "after the last trial", "in the run after them"],
)
def test_a_search_that_is_killed_goes_on_and_ends_in_the_same_bytes(
    how: tuple[str, int], after: str, whole: Path, tmp_path: Path
) -> None:
    prepare(tmp_path)
    assert go(tmp_path, *how)[0] == -signal.SIGKILL
    status, said = go(tmp_path)
    assert status == 0
    assert said["events"].count("trial") == {"3": 2, "": 0}[after], "what is done is not done again"
    assert content(tmp_path) == content(whole)
    assert losses(tmp_path) == losses(whole)
    assert read(tmp_path / "output") == read(whole / "output")


def test_a_search_that_is_stopped_within_a_trial_goes_on_within_it(whole: Path, tmp_path: Path) -> None:
    prepare(tmp_path)
    status, said = go(tmp_path, "stop", 5)
    assert (status, said["saved"][-1]) == (3, 6)
    bundle = checkpoints.latest(tmp_path / "checkpoints")
    assert bundle is not None
    assert (bundle.directory / "trial" / "checkpoint-2").is_dir()
    assert go(tmp_path)[0] == 0
    assert content(tmp_path) == content(whole)
    assert read(tmp_path / "output") == read(whole / "output")


def test_a_bundle_comes_back_whole_from_the_store_and_holds_no_pickle(tmp_path: Path) -> None:
    prepare(tmp_path)
    assert go(tmp_path, "checkpoint", 6)[0] == -signal.SIGKILL
    bundle = checkpoints.latest(tmp_path / "checkpoints")
    assert bundle is not None
    names = {path.name for path in bundle.directory.rglob("*") if path.is_file()}
    assert "journal.log" in names
    assert {name.rpartition(".")[2] for name in names} == {"safetensors", "json", "log"}
    store = MemoryStore()
    stored_checkpoints.save(store, "a" * 64, bundle.step, bundle.directory)
    assert stored_checkpoints.restore_newest(store, "a" * 64, tmp_path / "restored") == 6
    fingerprint = json.loads((bundle.directory / "checkpoint.json").read_bytes())["fingerprint"]
    told: list[str] = []
    restored = checkpoints.newest(tmp_path / "restored", fingerprint, told.append)
    assert (restored is not None, told) == (True, [])


def test_a_trial_worse_than_the_median_ends_early_and_the_best_does_not(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "dataset", letters(8), letters(8))
    search = {"trials": 6, "learning_rate": [1e-6, 2e-2], "max_steps": 6, "startup_trials": 1}
    result = train(tmp_path / "run", dataset, search=search, **{**SHORT, "eval_steps": 2})
    trials = read(result.output)["trials"]
    early = [trial for trial in trials if trial["state"] == "ended early"]
    assert early
    for trial in early:
        step, loss = trial["evaluations"][-1]
        assert step < 6
        assert f"worse than the median of earlier trials after {step} steps" in trial["why"]
        others = [dict(other["evaluations"]) for other in trials if other["number"] < trial["number"]]
        assert loss > min(other[step] for other in others if step in other)
    assert read(result.output)["best"]["state"] == "complete"


def test_a_trial_that_was_to_end_early_does_so_after_a_pause_within_that_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = write_dataset(tmp_path / "dataset", letters(8), letters(8))
    search = {"trials": 4, "learning_rate": [1e-6, 2e-2], "max_steps": 6, "startup_trials": 1}
    spec = {**SHORT, "eval_steps": 2, "save_steps": 2, "search": search}
    whole = train(tmp_path / "whole", dataset, **spec)
    assert any(trial["state"] == "ended early" for trial in read(whole.output)["trials"])
    report = Recorder(tmp_path / "checkpoints")
    evaluated = _Pruning.on_evaluate
    paused: list[str] = []

    def stop_there(self: _Pruning, *arguments: Any, **named: Any) -> None:  # noqa: ANN401 - whatever it takes
        evaluated(self, *arguments, **named)
        if self.why and not paused:
            paused.append(self.why)

    monkeypatch.setattr(_Pruning, "on_evaluate", stop_there)
    report.stop = lambda: len(paused) == 1
    with pytest.raises(Interrupted):
        train(tmp_path / "paused", dataset, report=report, **spec)
    paused.append("goes on")
    result = train(tmp_path / "resumed", dataset, report=report, **spec)
    assert read(result.output) == read(whole.output)


def test_a_trial_for_whose_adapter_there_is_no_memory_ends_and_the_search_goes_on_with_a_base_like_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = write_dataset(tmp_path / "dataset", letters(8), letters(4))
    search = {"trials": 3, "lora_r": [16, 8, 4], "max_steps": 2}
    make = adapters.make_trainable
    starved = [16, 8]

    def too_large(base: Any, wanted: TrainingSpec) -> Any:  # noqa: ANN401 - transformers ships no types
        made = make(base, wanted)
        if wanted.lora_r in starved:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return made

    monkeypatch.setattr("tunewright.trainer.search.shared_base.adapters.make_trainable", too_large)
    report = Recorder(tmp_path / "run" / "checkpoints")
    report.stop = lambda: len(report.of_type("trial")) >= 2
    with pytest.raises(Interrupted):
        train(tmp_path / "run", dataset, report=report, search=search, **SHORT)
    first, second, _ = report.of_type("trial")
    assert (first["settings"], first["state"], second["state"]) == ({"lora_r": 16}, "ended early", "complete")
    assert "E1" in first["why"] or "out of memory" in first["why"]
    assert report.saved == [1, 4, 6], "a step of its own for what is known of the first trial"
    report.stop = lambda: False
    result = train(tmp_path / "again", dataset, report=report, search=search, **SHORT)
    assert [event["number"] for event in report.of_type("trial")] == [0, 1, 2], "none is done over"
    assert result.manifest.metrics["search"]["settings"] == {"lora_r": 4}
    plain = train(tmp_path / "plain", dataset, **SHORT, lora_r=4, lora_alpha=8.0)
    for name in ARTIFACT:
        assert (result.output / name).read_bytes() == (plain.output / name).read_bytes(), name


def test_trials_that_give_no_numbers_end_and_the_search_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = write_dataset(tmp_path / "dataset", letters(8), letters(4))
    report = Recorder(tmp_path / "run" / "checkpoints")
    monkeypatch.setattr("tunewright.trainer.adapters.all_finite", lambda _: False)
    search = {"trials": 2, "learning_rate": [1e-4, 1e-2], "max_steps": 2}
    with pytest.raises(Refused, match=r"no trial came to its end: learning_rate 0\.01: .*no number") as caught:
        train(tmp_path / "run", dataset, report=report, search=search, **SHORT)
    assert "lower learning rates" in caught.value.remedy
    assert [event["state"] for event in report.of_type("trial")] == ["ended early"] * 2
    assert report.of_type("remedy") == [], "another rate than the trial's would say nothing of it"


def test_without_an_evaluation_there_is_nothing_to_judge_by(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "dataset", letters(8))
    with pytest.raises(InvalidSpec, match="there are no held-out rows") as caught:
        train(tmp_path / "run", dataset, search=SEARCH, **SHORT)
    assert caught.value.violations[0].field == "search"
    assert "validation_fraction" in caught.value.remedy


def test_ranks_alone_are_each_tried_once_that_of_the_recipe_first(tmp_path: Path) -> None:
    spec = TrainingSpec.from_mapping({"search": {"trials": 9, "lora_r": [32, 8, 16]}})
    study = Study(tmp_path / "journal.log", spec)
    tried = []
    while (trial := study.following()) is not None:
        tried.append(study.settings(trial)["lora_r"])
        study.complete(trial, 1.0)
    assert tried == [16, 8, 32]


def test_a_study_that_is_read_again_proposes_what_it_would_have(tmp_path: Path) -> None:
    def proposed(journal: Path, again: int) -> list[dict[str, Any]]:
        study = Study(journal, spec)
        found = []
        while (trial := study.following()) is not None:
            found.append(study.settings(trial))
            study.complete(trial, float(len(found) % 3))
            if len(found) == again:
                study = Study(journal, spec)
        return found

    search = {"trials": 8, "lora_r": [4, 8, 16], "learning_rate": [1e-5, 1e-2]}
    spec = TrainingSpec.from_mapping({"search": search, "seed": 7})
    assert proposed(tmp_path / "once", 0) == proposed(tmp_path / "twice", 4)


def test_the_adapters_scale_stays_what_the_recipe_says() -> None:
    plain = TrainingSpec(lora_r=16, lora_alpha=32)
    assert with_settings(plain, {"lora_r": 64}).lora_alpha == 128
    assert with_settings(plain.model_copy(update={"use_rslora": True}), {"lora_r": 64}).lora_alpha == 32


@pytest.mark.parametrize(
    ("training", "field", "why"),
    [
        ({"search": {"trials": 4}}, "search", "name what is searched"),
        ({"search": {"lora_r": [8, 16]}}, "search", "how many trials"),
        ({"search": {"trials": 4, "lora_r": [8]}}, "search.lora_r", "two or more"),
        ({"search": {"trials": 4, "lora_r": [0, 8]}}, "search.lora_r", "two or more"),
        ({"search": {"trials": 4, "learning_rate": [1e-4]}}, "search.learning_rate", "lowest and the highest"),
        ({"search": {"trials": 4, "learning_rate": [0, 1e-4]}}, "search.learning_rate", "above 0"),
        ({"search": {"trials": 4, "ranks": [8, 16]}}, "search.ranks", "unknown name"),
        ({"method": "full", "search": {"trials": 4, "learning_rate": [1e-6, 1e-4]}}, "search", "method qlora or lora"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused_by_its_key(training: dict[str, Any], field: str, why: str) -> None:
    document = {"name": "bot", "base_model": "tiny", "data": [{"file": f"file-{'a' * 64}"}], "training": training}
    with pytest.raises(InvalidSpec) as caught:
        TrainingSpec.from_proto(parse(document).section("training", training_pb2.TrainingSpec))
    (violation,) = caught.value.violations
    assert violation.field.removeprefix("training.") == field
    assert why in violation.description
