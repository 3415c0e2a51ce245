"""What the trainer's tests share: one thread, small conversations, and one memorising run that many tests look at."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.reporting import Recorder
from tunewright.artifacts import Manifest
from tunewright.trainer import adapters, stage
from tunewright.trainer.base import end_token_ids, load_base, load_tokenizer
from tunewright.trainer.data import load_dataset
from tunewright.trainer.device import pick_device
from tunewright.trainer.encoding import Encoded, Encoder
from tunewright.trainer.spec import TrainingSpec
from tunewright.trainer.stage import run

TINY_MODEL = Path(__file__).parents[1] / "fixtures" / "tiny_model"
Conversation = list[dict[str, Any]]


@pytest.fixture(autouse=True, scope="package")
def _one_thread() -> Iterator[None]:
    """Tiny matrices on many threads only wait for each other: ten times slower on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class Trained:
    manifest: Manifest
    output: Path
    report: Recorder

    @property
    def golden(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.output / "golden.json").read_bytes())
        return document


def exchange(question: str, answer: str) -> Conversation:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def letters(count: int, shift: int = 0) -> list[Conversation]:
    """Return `count` (up to 8) conversations that a tiny model can learn by heart; `shift` makes the answers wrong."""
    return [exchange(chr(65 + n) * 6, chr(97 + (n + shift) % 8) * 4) for n in range(count)]


def write_dataset(folder: Path, train: Sequence[Any], validation: Sequence[Any] = ()) -> Path:
    """Write conversations, or rows as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, given in (("train", train), ("validation", validation)):
        found = [row if isinstance(row, dict) else {"messages": row} for row in given]
        rows = [{"id": f"{name}-{n}", **row} for n, row in enumerate(found)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def train(folder: Path, dataset: Path, base: Path = TINY_MODEL, report: Recorder | None = None, **spec: Any) -> Trained:  # noqa: ANN401
    """Run the stage; small steps unless `spec` says otherwise, which may name an `adapter` to go on from."""
    small = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "learning_rate": 1e-2, "max_steps": 2}
    output = folder / "output"
    output.mkdir(parents=True)
    start = spec.pop("adapter", None)
    inputs = {"dataset": dataset, "base": base} | ({"adapter": start} if start else {})
    recorder = report or Recorder(folder / "checkpoints")
    manifest = run(TrainingSpec.from_mapping({**small, **spec}), inputs, output, recorder)
    return Trained(manifest, output, recorder)


def set_up(folder: Path, dataset: Path, **values: Any) -> tuple[Any, Encoded]:  # noqa: ANN401 - the trainer's parts
    """Return the stage's trainer before its first step, and the training examples."""
    spec = TrainingSpec.from_mapping({"max_steps": 2, "gradient_accumulation_steps": 1, **values})
    report = Recorder(folder / "checkpoints")
    tokenizer = load_tokenizer(TINY_MODEL, report)
    encoder = Encoder(tokenizer, end_token_ids(tokenizer, TINY_MODEL), spec.max_length)
    train_rows, held_rows = load_dataset(dataset, spec.objective)
    rows = stage._encoder_of(spec, tokenizer, encoder, spec.max_length)
    examples, held = rows.encode(train_rows, "train", report), rows.encode(held_rows, "validation", report)
    device = pick_device(spec, report)
    model = adapters.make_trainable(load_base(TINY_MODEL, spec, device)[0], spec)
    return stage._trainer(spec, device, model, tokenizer, examples, held, report, "f"), examples


@pytest.fixture(scope="session")
def memorised(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A run that learns 8 rows by heart; the same rows are held out, so that the loss shows it."""
    folder = tmp_path_factory.mktemp("memorised")
    torch.set_num_threads(1)
    dataset = write_dataset(folder / "dataset", letters(8), letters(8))
    return train(folder, dataset, max_steps=50, lora_dropout=0.0, eval_steps=25)
