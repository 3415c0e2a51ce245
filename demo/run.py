"""The main job, told once: a raw, messy file and a base model become a tuned model that answers over OpenAI's API.

    python -m demo          (or `make demo`, which makes the environment first)

Everything goes the way a user goes: the stack by `tunewright up`, the run over HTTP, the questions by the official
`openai` package. The second time, what was finished is found again. Knows nothing of how a stage works.
"""

import argparse
import json
import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from demo.base_model import BaseModelError, make_base_model
from demo.data import RawDataError, write_raw
from demo.questions import Answer, ask_both, held_out
from demo.results import Facts, gather, show, summary
from tunewright.cli.app import submit
from tunewright.cli.client import Gateway
from tunewright.cli.console import make_console, show_error
from tunewright.cli.endpoint import find_endpoint
from tunewright.cli.errors import CliError
from tunewright.cli.recipe import Recipe, load_recipe
from tunewright.cli.stack import commands as stack_commands
from tunewright.cli.stack.folder import StackFolder
from tunewright.cli.watch import RunView, follow

ROOT = Path(__file__).parents[1]
QUESTIONS = 6


@dataclass
class Clock:
    """Seconds that each step of the demo itself took."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def measure(self, step: str, console: Console, words: str) -> Iterator[None]:
        """Print what is done now, and keep how long it took, in seconds."""
        console.print(f"\n[bold cyan]▶[/] [bold]{words}[/]")
        begun = time.monotonic()
        yield
        self.seconds[step] = round(time.monotonic() - begun, 2)


def main() -> int:
    """Run the demo; 0 if the tuned model answers, 1 with the error of the step that failed."""
    options = _options()
    try:
        demonstrate(options.recipe, StackFolder(options.dir), options.out, make_console())
    except CliError as error:
        show_error(error)
    except (BaseModelError, RawDataError) as error:
        show_error(CliError(str(error)))
    except KeyboardInterrupt:
        show_error(CliError("interrupted", remedy="`python -m demo` goes on from what is finished."))
    else:
        return 0
    return 1


def demonstrate(recipe_path: Path, stack: StackFolder, out: Path, console: Console) -> dict[str, Any]:
    """Do the whole job, print the table, write `out`/summary.json and return what it holds.

    Raises:
        CliError: the step that failed, with its remedy.
        BaseModelError, RawDataError: the packages of requirements/demo.txt are not installed.
    """
    clock = Clock()
    recipe = load_recipe(recipe_path)
    with clock.measure("up", console, "The stack, as local processes"):
        status = stack_commands.up(stack, stack_commands.UpOptions(), console)
        console.print(f"  {status.url} answers")
    with clock.measure("inputs", console, "A base model and raw data, out of installed packages"):
        make_inputs(recipe, stack, console)
    endpoint = find_endpoint(None, None, stack.path)
    with Gateway(endpoint) as gateway:
        with clock.measure("run", console, f"The run: {recipe_path.name}, over HTTP"):
            run = carry_out(gateway, recipe, console)
        with clock.measure("answers", console, f"{QUESTIONS} held-out questions, to base and tuned model"):
            rows = held_out(gateway, run, QUESTIONS)
            answers = ask_both(endpoint, run, rows)
        facts = gather(gateway, run, stack)
    return _conclude(facts, answers, clock, out, console)


def make_inputs(recipe: Recipe, stack: StackFolder, console: Console) -> None:
    """Write the raw file that the recipe names, and the base model below the stack's import root.

    Raises:
        CliError: the recipe names no file or no folder.
        BaseModelError, RawDataError: a package is missing.
    """
    stack.create()
    data, base = recipe.values.get("data"), recipe.values.get("base_model")
    if not (isinstance(data, list) and data and isinstance(data[0], dict) and isinstance(data[0].get("path"), str)):
        raise recipe.wrong("data", "the demo expects `- path: FILE`")
    if not isinstance(base, str) or not base:
        raise recipe.wrong("base_model", "the demo expects the name of a folder")
    raw = (recipe.path.parent / data[0]["path"]).resolve()
    counts = write_raw(raw)
    console.print(f"  {counts.rows} raw rows: {raw}")
    folder = stack.models / base
    if not folder.is_dir():
        # In a process of its own: what torch takes for the conversion is free again when training needs it.
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            pool.submit(make_base_model, folder).result()
    console.print(f"  base model: {folder}")


def carry_out(gateway: Gateway, recipe: Recipe, console: Console) -> dict[str, Any]:
    """Submit the recipe, watch the run to its end, and return it.

    Raises:
        CliError: the gateway refuses the recipe, or a stage failed.
    """
    started = submit(gateway, recipe, console)
    view = RunView.of(started)
    follow(gateway.events(view.run_id, lost=lambda why: setattr(view, "connection", why)), view, console)
    run = gateway.run(view.run_id)
    if run["state"] != "succeeded":
        failure = run.get("failure") or {}
        message = (
            f"stage {failure.get('stage') or '?'} of run {view.run_id} {run['state']}: {failure.get('message', '')}"
        )
        remedy = failure.get("remedy") or "`tunewright logs SERVICE` says more; then run the demo again."
        raise CliError(message, remedy=remedy)
    return run


def _conclude(facts: Facts, answers: list[Answer], clock: Clock, out: Path, console: Console) -> dict[str, Any]:
    document = summary(facts, answers, clock.seconds)
    out.mkdir(parents=True, exist_ok=True)
    path = out / "summary.json"
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    unfinished.replace(path)
    show(document, console)
    console.print(f"All of this as JSON: {path}")
    return document


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes/demo.yaml", help="default: recipes/demo.yaml")
    parser.add_argument("--dir", type=Path, default=ROOT / "var/stack", help="the stack's folder; default: var/stack")
    parser.add_argument("--out", type=Path, default=ROOT / "var/demo", help="for summary.json; default: var/demo")
    return parser.parse_args()
