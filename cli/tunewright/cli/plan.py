"""`tunewright plan`: what a recipe's run will take, before anything is queued. Collects the question, shows the answer.

The trainer's planning answers it in a process of its own. Knows no arithmetic of memory.
"""

import json
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tunewright.cli.console import duration
from tunewright.cli.data_files import DataFiles
from tunewright.cli.doctor.gpu import driver_facts
from tunewright.cli.errors import CliError
from tunewright.cli.recipe import Recipe
from tunewright.cli.stack.folder import StackFolder

_MEMORY = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(GB|GiB)?\s*", re.IGNORECASE)
_MOST_DATA = 50_000_000
"""Bytes of raw files that are prepared for a plan; more would take longer than the plan is worth."""
_AUDIT = "audit.json"


@dataclass(frozen=True, kw_only=True)
class Given:
    """What a person says beside the recipe."""

    base: Path | None = None
    dataset: Path | None = None
    vram: str = ""


def make_plan(recipe: Recipe, given: Given, stack: StackFolder | None) -> dict[str, Any]:
    """Return the plan of a recipe, as tunewright.trainer.planning writes it.

    Raises:
        CliError: the base is not here, or something is wrong with recipe, base or dataset.
    """
    training = recipe.values.get("training") or {}
    if not isinstance(training, dict):
        raise recipe.wrong("training", "a mapping of settings is expected")
    machine = _machine(given.vram)
    base = given.base or find_base(recipe, stack)
    with tempfile.TemporaryDirectory() as scratch:
        audit, why = _audit(recipe, given.dataset, base, Path(scratch))
        question = {
            "training": training,
            "base": str(base.absolute()),
            "audit": str(audit) if audit else None,
            "machine": machine,
        }
        found = _ask(question, recipe)
    if why:
        found["rows"]["origin"] += f"; {why}"
    return found


def find_base(recipe: Recipe, stack: StackFolder | None) -> Path:
    """Return the folder of the recipe's base on this machine.

    Raises:
        CliError: there is none.
    """
    named = recipe.values.get("base_model")
    if not isinstance(named, str) or not named.strip():
        raise recipe.wrong("base_model", "a hub id or a folder is expected")
    roots = [recipe.path.parent]
    if stack is not None and stack.exists:
        import_root = stack.status().import_root
        roots = [*([Path(import_root)] if import_root else []), stack.models, *roots]
    for root in roots:
        if (root / named / "config.json").is_file():
            return root / named
    raise CliError(
        f"{recipe.place('base_model')}: {named!r} is not on this machine, and a plan downloads nothing",
        remedy="Give --base FOLDER: config.json is read, and the tokenizer to count the rows' tokens.",
    )


def show(found: dict[str, Any], console: Console) -> None:
    """Print a plan."""
    machine, rows = found["machine"], found["rows"]
    gpu = machine["type"] == "cuda"
    what = (machine["name"] or "GPU") if gpu else machine["name"]
    parameters = found["base"]["parameters"] / 1e9
    console.print(
        f"[bold]{found['base']['kind']}, {parameters:,.2f} billion parameters[/] on {escape(what)} with "
        f"{_gb(machine['memory'])} of {'VRAM' if gpu else 'free RAM'}"
    )
    console.print(f"Rows: {rows['train']:,}, {rows['tokens']:,} tokens, longest {rows['longest']:,}; {rows['origin']}")
    console.print()
    console.print(_table(found, console, memory="VRAM" if gpu else "RAM"))
    for method, why in found["refused"].items():
        console.print(f"[dim]{method}: {escape(why)}[/]")
    console.print(f"Time: {found['proposed']['time_basis']}.")
    asked, proposed = found["asked"], found["proposed"]
    if proposed["fast_path"]:
        console.print(f"Fast path: {proposed['fast_path']}.")
    if proposed["host"]:
        console.print(f"Beside the GPU it takes {_gb(proposed['host'])} of RAM for what lies there.")
    if proposed["processes"] > 1:
        where = "each on a GPU of its own" if gpu else "all in this machine's RAM"
        console.print(f"{proposed['processes']} processes, {where}; memory is that of each.")
    console.print()
    if asked["fits"]:
        console.print(f"[green]✔[/] The recipe fits as it is: {_batch(asked)}, {_gb(asked['memory']['total'])}.")
    if proposed["fits"] and _settings(asked) != _settings(proposed):
        word = "Larger passes fit too" if asked["fits"] else "[yellow]![/] It does not fit as it is, but so"
        console.print(f"{word}: {_batch(proposed)}, {_gb(proposed['memory']['total'])}; set")
        for name, value in _settings(proposed).items():
            if value != _settings(asked)[name]:
                console.print(f"    {name}: {value}")


def refusal(found: dict[str, Any], recipe: Recipe) -> CliError | None:
    """Return the error that says why the recipe cannot run here and what would; None if it can."""
    if found["fits"]:
        return None
    proposed, there = found["proposed"], found["machine"]["memory"]
    least = _gb(proposed["memory"]["total"] - proposed["memory"].get("mapped", 0))
    if proposed["processes"] > 1:
        least += f" in each of {proposed['processes']} processes"
    takes = f"takes {least} even with one row at a time, there are {_gb(there)}"
    if proposed["lacks_host"]:
        ram = _gb(found["machine"]["host"])
        takes = f"puts {_gb(proposed['host'])} of the base into RAM, as the GPU is too small, and {ram} of RAM are free"
    remedies = [
        f"{', '.join(f'{name}: {_value(value)}' for name, value in remedy['settings'].items())} → "
        f"{_gb(remedy['memory']['total'])} with {_batch(remedy)}"
        for remedy in found["remedies"]
    ]
    return CliError(
        f"{recipe.path}: method {found['asked']['method']} {takes}",
        lines=remedies,
        remedy="Set in training: one of the above fits."
        if remedies
        else "No setting of training makes it fit: take a smaller base, or a machine with more memory.",
    )


def has_gpu() -> bool:
    """Return True if this machine's driver tells of a GPU."""
    return bool(driver_facts().gpus)


def refuse_what_cannot_fit(recipe: Recipe, stack: StackFolder | None, console: Console, *, required: bool) -> None:
    """Plan each of the recipe's trainings on this machine, before anything is sent.

    Args:
        recipe: what is to run.
        stack: the local stack, whose bases are looked at.
        console: hears that there is no plan, if `required` is not set.
        required: whether a recipe that cannot be planned is refused as well.

    Raises:
        CliError: a method fits with no micro-batch; what would is named.
    """
    for name, alone in recipe.alone():
        try:
            found = make_plan(alone, Given(), stack)
        except CliError as error:
            if required:
                raise
            console.print(f"[dim]not planned: {escape(error.message)}[/]", soft_wrap=True)
            return
        if refused := refusal(found, alone):
            refused.message = f"stage {name}: {refused.message}" if name else refused.message
            refused.remedy = f"{refused.remedy} `--no-plan` queues it all the same."
            raise refused


def bytes_of(text: str) -> int:
    """Return the bytes of a size such as 24GB (10^9 each) or 24GiB (2^30).

    Raises:
        CliError: it is none.
    """
    match = _MEMORY.fullmatch(text)
    if match is None or not float(match[1]):
        raise CliError(f"--vram {text!r} is no size", remedy="Write it like 24GB.")
    return round(float(match[1]) * (2**30 if (match[2] or "").lower() == "gib" else 10**9))


def _machine(vram: str) -> dict[str, Any]:
    gpus = driver_facts().gpus
    if vram:
        name = gpus[0].name if gpus else ""
        return {"type": "cuda", "name": name, "memory": bytes_of(vram)}
    if gpus:
        alike = sum(gpu.name == gpus[0].name for gpu in gpus)
        ram = psutil.virtual_memory().available
        return {"type": "cuda", "name": gpus[0].name, "memory": gpus[0].total_bytes, "count": alike, "host": ram}
    cores = psutil.cpu_count(logical=False) or psutil.cpu_count() or 1
    return {"type": "cpu", "name": f"this CPU ({cores} cores)", "memory": psutil.virtual_memory().available}


def _audit(recipe: Recipe, dataset: Path | None, base: Path, scratch: Path) -> tuple[Path | None, str]:
    """Return the audit of the rows, or None and why there is none."""
    if dataset is not None:
        audit = dataset / _AUDIT if dataset.is_dir() else dataset
        if not audit.is_file():
            raise CliError(
                f"{dataset} holds no {_AUDIT}",
                remedy="Name a dataset that was prepared with a base: `tunewright data inspect FILE --base FOLDER`.",
            )
        return audit.absolute(), ""
    if not (base / "tokenizer.json").is_file():
        return None, "the base's folder has no tokenizer.json to count with"
    if any(isinstance(item, dict) and "path" not in item for item in recipe.values.get("data") or ()):
        return None, "files that were uploaded before are not on this machine; name the dataset by --dataset"
    if any("://" in str(item.get("path")) for item in recipe.values.get("data") or () if isinstance(item, dict)):
        return None, "files in an object store are not fetched for a plan; name the dataset by --dataset"
    uploads = [(field, files) for field, files in recipe.uploads() if isinstance(files, DataFiles)]
    size = sum(files.size_bytes for _, files in uploads)
    if size > _MOST_DATA:
        return None, f"{size / 1e6:,.0f} MB of raw files are not prepared for a plan; name the dataset by --dataset"
    return _prepared(recipe, {field: [str(path) for path in found.files] for field, found in uploads}, base, scratch)


def _prepared(recipe: Recipe, files: dict[str, list[str]], base: Path, scratch: Path) -> tuple[Path | None, str]:
    """Prepare the recipe's files as a run would, and return the audit."""
    entries = recipe.with_files(files).values["data"]
    values = dict(recipe.values.get("dataprep") or {})
    values["sources"] = [{key: value for key, value in entry.items() if key != "file"} for entry in entries]
    length = (recipe.values.get("training") or {}).get("max_length")
    if length is not None:
        values["audit"] = {**(values.get("audit") or {}), "max_length": length}
    spec = scratch / "spec.yaml"
    spec.write_text(yaml.safe_dump(values), encoding="utf-8")
    command = ["tunewright.dataprep", "run", str(spec), "--output", str(scratch / "dataset")]
    command += ["--input", f"base={base.absolute()}"]
    for number, entry in enumerate(entries):
        folder = scratch / f"upload_{number:03d}"
        folder.mkdir()
        (folder / Path(entry["file"]).name).symlink_to(entry["file"])
        command += ["--input", f"upload_{number:03d}={folder}"]
    _child(command, "", "data preparation")
    audit = scratch / "dataset" / _AUDIT
    return (audit, "") if audit.is_file() else (None, "the base's tokenizer cannot be read")


def _ask(question: dict[str, Any], recipe: Recipe) -> dict[str, Any]:
    done = _child(["tunewright.trainer.planning"], json.dumps(question), "planning", answers=True)
    found: dict[str, Any] = json.loads(done.stdout)
    if done.returncode:
        places = [f"{recipe.place(_field(field))}: {why}" for field, why in found["violations"]]
        raise CliError(f"{recipe.path} cannot be planned" if places else found["error"], remedy=found["remedy"],
                       lines=places)  # fmt: skip
    return found


def _child(module: list[str], given: str, what: str, *, answers: bool = False) -> subprocess.CompletedProcess[str]:
    """Run a module of the stack's services to its end; one that answers tells of its errors on standard output.

    Raises:
        CliError: it failed; its last lines are quoted.
    """
    done = subprocess.run([sys.executable, "-m", *module], input=given, capture_output=True, text=True, check=False)
    if done.returncode and not (answers and done.stdout):
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise CliError(f"{what} failed", lines=lines[-5:])
    return done


def _field(field: str) -> str:
    return field if field.startswith("training.") else f"training.{field}"


def _table(found: dict[str, Any], console: Console, *, memory: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD if console.is_terminal else None, show_edge=False, pad_edge=False)
    for column in ("method", "rows × passes", memory, "fits", "time", "disk"):
        table.add_column(column)
    for option in found["methods"]:
        mine = option["method"] == found["asked"]["method"]
        table.add_row(
            f"{option['method']}{' (the recipe’s)' if mine else ''}",
            f"{option['per_device_train_batch_size']} × {option['gradient_accumulation_steps']}",
            _gb(option["memory"]["total"]),
            "yes" if option["fits"] else "no",
            duration(option["seconds"]) if option["seconds"] else "?",
            _gb(option["disk"]["total"]),
        )
    return table


def _settings(option: dict[str, Any]) -> dict[str, int]:
    names = ("per_device_train_batch_size", "gradient_accumulation_steps", "per_device_eval_batch_size")
    return {name: option[name] for name in names}


def _batch(option: dict[str, Any]) -> str:
    return f"{option['per_device_train_batch_size']} rows × {option['gradient_accumulation_steps']} passes a step"


def _value(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _gb(count: float) -> str:
    return f"{count / 1e9:,.2f} GB"
