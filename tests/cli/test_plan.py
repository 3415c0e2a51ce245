"""A recipe is planned before anything is queued: the real stages answer, as processes, without any stack."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.shell import tunewright
from tunewright.cli.errors import CliError
from tunewright.cli.plan import bytes_of, refusal
from tunewright.cli.recipe import load_recipe

TINY = Path(__file__).parents[1] / "fixtures" / "tiny_model"
QWEN_7B = {
    "model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
    "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064,
}  # fmt: skip


def written(folder: Path, **training: Any) -> str:  # noqa: ANN401 - any field's value
    """Write a recipe beside a base of 7B whose weights are not there, and return the recipe's path."""
    (folder / "big").mkdir(exist_ok=True)
    (folder / "big" / "config.json").write_text(json.dumps(QWEN_7B))
    recipe = {"name": "mine", "base_model": "big", "data": [{"path": "raw.jsonl"}], "training": training}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    return str(folder / "recipe.yaml")


def test_a_recipe_is_planned_on_its_own_rows_as_a_run_would_prepare_them(tmp_path: Path) -> None:
    rows = [{"instruction": f"What is number {n}?", "output": f"It is {n}, {'x' * n}"} for n in range(30)]
    (tmp_path / "raw.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[0]]))
    recipe = written(tmp_path, max_length=64, per_device_train_batch_size=2, gradient_accumulation_steps=4)
    shutil.copytree(TINY, tmp_path / "big", dirs_exist_ok=True)
    done = tunewright("plan", recipe, "--json", "--vram", "24GB", timeout=240)  # 4 s of CPU time
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["rows"]["train"] + found["rows"]["validation"] == 30
    assert found["rows"]["known"]
    assert found["base"]["parameters"] == 98_816
    assert found["proposed"]["per_device_train_batch_size"] == 8
    assert found["proposed"]["gradient_accumulation_steps"] == 1


def test_what_each_method_takes_stands_in_a_table_and_what_to_set_below(tmp_path: Path) -> None:
    recipe = written(tmp_path, max_length=2048, per_device_train_batch_size=16, fast_path="off")
    done = tunewright("plan", recipe, "--vram", "16GB")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "qwen2, 7.62 billion parameters on GPU with 16.00 GB of VRAM"
    assert "assumed: 1,000 rows that all fill max_length" in lines[1]
    methods = [line.split()[0] for line in lines if " × " in line and line.split()[0] in {"qlora", "lora", "full"}]
    assert methods == ["qlora", "lora", "full"]
    assert "It does not fit as it is, but so" in done.stdout
    assert "per_device_train_batch_size: 8" not in done.stdout
    assert "gradient_accumulation_steps: " in done.stdout


def test_what_cannot_fit_is_refused_with_what_would(tmp_path: Path) -> None:
    done = tunewright("plan", written(tmp_path, method="full", max_length=2048), "--vram", "24GB")
    assert done.returncode == 1
    assert "method full takes 1" in done.stderr
    assert "method: qlora → " in done.stderr
    assert "Traceback" not in done.stderr
    hopeless = tunewright("plan", written(tmp_path), "--vram", "2GB")
    assert hopeless.returncode == 1
    assert "take a smaller base" in hopeless.stderr


def test_each_stage_of_a_recipe_is_planned_and_the_one_that_cannot_fit_is_named(tmp_path: Path) -> None:
    written(tmp_path)
    recipe = {
        "name": "mine",
        "base_model": "big",
        "data": [{"path": "raw.jsonl"}],
        "training": {"max_length": 2048},
        "stages": [{"name": "cpt", "training": {"objective": "cpt"}}, {"name": "sft", "training": {"lora_r": 256}}],
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    done = tunewright("plan", str(path), "--json", "--vram", "24GB")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert list(found) == ["cpt", "sft"]
    assert found["cpt"]["asked"]["memory"]["total"] < found["sft"]["asked"]["memory"]["total"]
    recipe["stages"][1]["training"] = {"method": "full"}  # type: ignore[index] # a list of mappings
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    refused = tunewright("run", str(path), "--plan", "--url", "http://127.0.0.1:1", "--api-key", "none")
    assert "stage sft: " in refused.stderr
    assert "method full takes 1" in " ".join(refused.stderr.split())


def test_a_run_that_cannot_fit_is_refused_before_the_gateway_is_asked(tmp_path: Path) -> None:
    recipe = written(tmp_path, method="full", max_length=2048)
    nowhere = ("--url", "http://127.0.0.1:1", "--api-key", "none")
    refused = tunewright("run", recipe, "--plan", *nowhere)
    assert refused.returncode == 1
    told = " ".join(refused.stderr.split())
    assert "recipe.yaml: method full takes 1" in told
    assert "`--no-plan` queues it all the same" in told
    (tmp_path / "raw.jsonl").write_text("{}\n")
    for words in (["--no-plan"], []):  # another machine's gateway: this one says nothing of it
        asked = tunewright("run", recipe, *words, *nowhere)
        assert "does not answer" in asked.stderr, asked.stderr


def test_a_mistake_in_the_recipe_is_told_with_its_line(tmp_path: Path) -> None:
    done = tunewright("plan", written(tmp_path, lora_rank=8), "--vram", "24GB")
    assert done.returncode == 1
    assert "recipe.yaml:6: training.lora_rank: unknown name; did you mean 'lora_r'?" in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--base", "/nowhere"], "config.json"),
        (["--dataset", "/nowhere"], "holds no audit.json"),
        (["--vram", "much"], "is no size"),
    ],
)
def test_what_is_not_there_is_told(words: list[str], problem: str, tmp_path: Path) -> None:
    done = tunewright("plan", written(tmp_path), *(words if "--vram" in words else ["--vram", "24GB", *words]))
    assert done.returncode == 1
    assert problem in " ".join(done.stderr.split())
    assert "→" in done.stderr


def test_a_base_that_is_not_here_is_told(tmp_path: Path) -> None:
    recipe = Path(written(tmp_path))
    recipe.write_text(recipe.read_text().replace("base_model: big", "base_model: someone/else"))
    done = tunewright("plan", str(recipe), "--vram", "24GB")
    assert done.returncode == 1
    assert "'someone/else' is not on this machine" in " ".join(done.stderr.split())


def test_sizes_are_read() -> None:
    assert bytes_of("24GB") == bytes_of(" 24 gb ") == bytes_of("24") == 24 * 10**9
    assert bytes_of("1.5GiB") == 3 * 2**29
    for text in ("", "GB", "-3GB", "24TB", "0"):
        with pytest.raises(CliError, match="is no size"):
            bytes_of(text)


def test_too_little_ram_beside_the_gpu_is_named_with_both_figures(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("name: bot\n", encoding="utf-8")
    proposed = {"memory": {"total": 5e9}, "processes": 2, "host": 40e9, "lacks_host": True}
    machine = {"memory": 24e9, "host": 31e9}
    found = {"fits": False, "proposed": proposed, "asked": {"method": "qlora"}, "machine": machine, "remedies": []}
    told = refusal(found, load_recipe(path))
    assert told is not None
    assert told.message.endswith(
        "method qlora puts 40.00 GB of the base into RAM, as the GPU is too small, and 31.00 GB of RAM are free"
    )
    told = refusal(found | {"proposed": proposed | {"lacks_host": False}}, load_recipe(path))
    assert told is not None
    assert "takes 5.00 GB in each of 2 processes even with one row at a time, there are 24.00 GB" in told.message
