"""CPT, then SFT, then DPO by one recipe: real data preparation, trainer and merger behind a real gateway."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.flow.conftest import ROOT
from tests.gateway.processes import Gateway, Process, room
from tests.seaweed import S3Settings

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(600)]
SETTINGS = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "max_length": 64, "learning_rate": 5e-3}
ORDER = ["import", "prepare:cpt", "prepare:sft", "prepare:dpo", "train:cpt", "merge:cpt", "train:sft", "train:dpo",
         "merge", "deploy_base", "deploy_tuned", "evaluate", "promote"]  # fmt: skip


def _lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


TEXTS = _lines([{"text": f"Harbour {n} lies {n * 7} miles from the old town of {chr(65 + n) * 3}."} for n in range(24)])
ROWS = _lines([{"instruction": f"Where is harbour {n}?", "output": f"{n * 7} miles away."} for n in range(24)])
PAIRS = _lines(
    [{"prompt": f"Is harbour {n} old?", "chosen": f"Yes, {n}.", "rejected": f"Who knows {n}, go."} for n in range(24)]
)


@pytest.fixture
def gateway(s3_store_settings: S3Settings, tmp_path: Path) -> Iterator[tuple[Gateway, dict[str, Process]]]:
    s3_store_settings.store("stages")
    store = s3_store_settings.environment("stages")
    rooms = {}
    for name in ("dataprep", "trainer", "merger"):
        environment = {
            **store,
            "TUNEWRIGHT_WORK_DIR": str(tmp_path / name / "work"),
            "TUNEWRIGHT_IMPORT_ROOT": str(ROOT / "tests" / "fixtures"),
            "TUNEWRIGHT_STOP_GRACE_SECONDS": "10",
            "OMP_NUM_THREADS": "1",
        }
        rooms[name] = Process(["-m", f"tunewright.{name}"], environment, tmp_path / name)
    rooms |= {name: room(name, store, tmp_path / name) for name in ("evaluator", "inference")}
    try:
        for process in rooms.values():
            process.launch()
        for process in rooms.values():
            process.wait_until_ready()
        front = Gateway(rooms, store, tmp_path / "gateway")
        rooms["gateway"] = front
        front.start()
        yield front, rooms
    finally:
        for process in rooms.values():
            process.kill()


def recipe(front: Gateway) -> dict[str, Any]:
    """Return the recipe: the first stage's adapter has another rank, so it is merged before the second begins."""
    split = {"split": {"validation_fraction": 0.2}, "duplicates": {"near": False}}
    return {
        "name": "staged",
        "base_model": "tiny_model",
        "dataprep": split,
        "training": {**SETTINGS, "max_steps": 6, "eval_steps": 3},
        "stages": [
            {
                "name": "cpt",
                "data": [{"file": front.upload(TEXTS)}],
                "training": {"objective": "cpt", "lora_r": 4, "lora_alpha": 8},
            },
            {"name": "sft", "data": [{"file": front.upload(ROWS)}]},
            {
                "name": "dpo",
                "data": [{"file": front.upload(PAIRS)}],
                "training": {
                    "objective": "dpo",
                    "learning_rate": 1e-3,
                    "max_steps": 60,
                    "eval_steps": 15,
                    "save_steps": 15,
                },
            },
        ],
        "merging": {"probe_count": 2, "probe_max_length": 32},
    }


def test_each_stage_trains_what_the_one_before_gave_and_survives_kills(
    gateway: tuple[Gateway, dict[str, Process]],
) -> None:
    front, rooms = gateway
    wanted = recipe(front)
    run_id = front.submit(wanted)
    front.wait(run_id, stage="train:dpo", seconds=180)
    for event in front_events(front, run_id):
        if event["type"] == "checkpoint_saved" and event["stage"] == "train:dpo":
            break
    rooms["trainer"].kill()
    front.kill()
    rooms["trainer"].start()
    front.start()
    run = front.wait(run_id, "succeeded", seconds=180)

    assert [stage["name"] for stage in run["stages"]] == ORDER
    made = run["artifacts"]
    manifests = {name: front.get(f"/v1/artifacts/{made[name]}") for name in ORDER if "/" in made.get(name, "")}
    parents = {name: manifests[name]["parents"] for name in manifests}
    assert parents["train:cpt"] == {"base": made["import"], "dataset": made["prepare:cpt"]}
    assert parents["train:sft"] == {"base": made["merge:cpt"], "dataset": made["prepare:sft"]}
    assert parents["train:dpo"] == {
        "base": made["merge:cpt"], "dataset": made["prepare:dpo"], "adapter": made["train:sft"],
    }  # fmt: skip
    assert parents["merge"] == {
        "base": made["merge:cpt"], "dataset": made["prepare:dpo"], "adapter": made["train:dpo"],
    }  # fmt: skip
    figures = {name: manifests[name]["metrics"] for name in manifests}
    assert figures["train:dpo"]["first_eval_loss"] == pytest.approx(math.log(2), abs=1e-6), "its reference is the SFT's"
    for name in ("train:cpt", "train:sft", "train:dpo"):
        assert figures[name]["best_eval_loss"] < figures[name]["first_eval_loss"], name
    events = front.events(run_id)
    assert any(event["type"] == "resume" and event["stage"] == "train:dpo" for event in events)

    again = front.wait(front.submit(run["recipe"]), "succeeded")
    assert again["artifacts"] == made


def front_events(front: Gateway, run_id: str) -> Iterator[dict[str, Any]]:
    """Yield the run's events as they come."""
    with front.client() as client, client.stream("GET", f"/v1/runs/{run_id}/events") as answer:
        for line in answer.iter_lines():
            if line.startswith("data: "):
                yield json.loads(line.removeprefix("data: "))
