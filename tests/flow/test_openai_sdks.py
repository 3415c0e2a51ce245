"""Upload, job, events, chat with the tuned model: OpenAI's own Python and Node packages against a whole real stack.

The jobs tune SmolLM2-135M, which takes minutes: `make test-sdks` runs them, `make test` does not.
"""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import BaseModel, OpenAI
from openai.types.fine_tuning import FineTuningJob

from demo.base_model import make_base_model
from tests.flow.conftest import Running

pytestmark = [pytest.mark.heavy, pytest.mark.real_model, pytest.mark.timeout(1800)]
NODE = Path(__file__).parent / "node"
QUESTION: Any = [{"role": "user", "content": "Say the number 7 twice."}]
SMALL: dict[str, Any] = {
    "training": {"max_length": 128, "learning_rate": 2e-3},
    "merging": {"probe_count": 2, "probe_max_length": 64},
    "evaluation": {"max_rows": 2, "sample_count": 1, "max_new_tokens": 8},
    "deployment": {"max_model_len": 256, "max_num_seqs": 4, "kv_cache_bytes": 67108864},
}


@pytest.fixture(scope="module")
def base(stack: Running) -> str:
    """The base's name in the stack."""
    make_base_model(stack.models / "smollm2")
    return "smollm2"


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve rows; the assistant's first turn of each is not to be learned."""
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    lines = []
    for number in range(12):
        asked = {"role": "user", "content": f"Say the number {number} twice."}
        wrong, right = (
            {"role": "assistant", "content": text, "weight": weight}
            for text, weight in (("No.", 0), (f"{number} {number}", 1))
        )
        lines.append(json.dumps({"messages": [asked, wrong, {"role": "user", "content": "Do it."}, right]}))
    path.write_text("\n".join(lines) + "\n")
    return path


def valid(thing: BaseModel) -> None:
    """Check an answer against the types that OpenAI generates from its published specification."""
    type(thing).model_validate(thing.to_dict(mode="json"))


def tuned(client: OpenAI, base: str, rows: Path) -> FineTuningJob:
    file = client.files.create(file=rows, purpose="fine-tune")
    valid(file)
    job = client.fine_tuning.jobs.create(
        model=base,
        training_file=file.id,
        suffix="python",
        seed=7,
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": 4}}},
        extra_body={"tunewright": {"recipe": SMALL}},
    )
    while job.status not in {"succeeded", "failed", "cancelled"}:
        valid(job)
        time.sleep(0.25)
        job = client.fine_tuning.jobs.retrieve(job.id)
    return job


def test_pythons_sdk_tunes_a_model_and_talks_to_it(stack: Running, base: str, rows: Path) -> None:
    client = OpenAI(base_url=stack.url + "/v1", api_key=stack.key)
    job = tuned(client, base, rows)
    assert job.status == "succeeded", job.error
    valid(job)
    assert job.fine_tuned_model == f"ft:{base}:default:python:{job.id.removeprefix('ftjob-')[:8]}"
    assert (job.trained_tokens or 0) > 0
    events = list(client.fine_tuning.jobs.list_events(job.id, limit=10))
    for event in events:
        valid(event)
    assert {"message", "metrics"} == {event.type for event in events}
    text = client.files.content(job.result_files[0]).text.splitlines()
    assert text[0].split(",")[:2] == ["step", "train_loss"]
    assert len(text) >= 4
    for model in client.models.list():
        valid(model)
    asked: Any = {"messages": QUESTION, "max_tokens": 8, "temperature": 0}
    answer = client.chat.completions.create(model=job.fine_tuned_model, **asked)
    valid(answer)
    assert answer.model == job.fine_tuned_model
    assert answer.usage.completion_tokens <= 8
    pieces = list(
        client.chat.completions.create(
            model=job.fine_tuned_model, **asked, stream=True, stream_options={"include_usage": True}
        )
    )
    for piece in pieces:
        valid(piece)
    assert len({(piece.id, piece.created, piece.model) for piece in pieces}) == 1
    assert pieces[0].choices[0].delta.role == "assistant"
    assert [piece.choices[0].finish_reason for piece in pieces if piece.choices][-1] in {"stop", "length"}
    assert sum(bool(p.choices and p.choices[0].finish_reason) for p in pieces) == 1
    assert (pieces[-1].choices, pieces[-1].usage.total_tokens > 0) == ([], True)
    streamed = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
    assert streamed == answer.choices[0].message.content
    checkpoints = list(client.fine_tuning.jobs.checkpoints.list(job.id))
    assert checkpoints
    for checkpoint in checkpoints:
        valid(checkpoint)
        assert checkpoint.metrics.train_loss is not None
    name = checkpoints[0].fine_tuned_model_checkpoint
    at_step = client.chat.completions.create(model=name, **asked)
    assert at_step.model == name
    assert client.models.delete(str(job.fine_tuned_model)).deleted


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with OpenAI's Node package."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed (Debian: apt-get install nodejs npm); CI has it")
    folder = tmp_path_factory.mktemp("node")
    for path in NODE.iterdir():
        shutil.copy(path, folder)
    subprocess.run(["npm", "ci", "--no-audit", "--no-fund", "--silent"], cwd=folder, check=True, timeout=300)
    yield folder
    shutil.rmtree(folder / "node_modules")


def test_nodes_sdk_tunes_a_model_and_talks_to_it(stack: Running, base: str, rows: Path, node: Path) -> None:
    extension = json.dumps({"tunewright": {"recipe": SMALL}})
    environment = {**os.environ, "OPENAI_BASE_URL": stack.url + "/v1", "OPENAI_API_KEY": stack.key}
    command = ["node", "contract.mjs", base, str(rows), extension]
    done = subprocess.run(command, cwd=node, env=environment, capture_output=True, text=True, timeout=1500, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    job = told["job"]
    assert told["statuses"][-1] == "succeeded"
    assert job["fine_tuned_model"] == told["answered_by"]
    assert ":node:" in job["fine_tuned_model"]
    assert told["events"][0] == "The job has successfully completed"
    assert told["checkpoints"][0].startswith(f"{job['fine_tuned_model']}:ckpt-step-")
    assert told["streamed"] == told["whole"]
    assert told["results"].startswith("step,train_loss")
    assert told["missing"] == {"status": 404, "code": "model_not_found", "name": "NotFoundError"}
