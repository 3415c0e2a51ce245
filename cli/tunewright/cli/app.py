"""The commands. Each reads its options, calls one part, and prints; the parts know nothing of options.

Any failure ends as one red message with a remedy and an exit code other than 0, never as a traceback.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table

from tunewright.cli import lineage as lineages
from tunewright.cli import logs as service_logs
from tunewright.cli import rollout
from tunewright.cli import watch as watching
from tunewright.cli.chat import Conversation
from tunewright.cli.client import ApiError, Gateway
from tunewright.cli.console import make_console, show_error
from tunewright.cli.data import app as data_app
from tunewright.cli.data_files import DataFiles
from tunewright.cli.doctor import report as doctor_report
from tunewright.cli.endpoint import Endpoint, find_endpoint, local_stack
from tunewright.cli.errors import CliError
from tunewright.cli.merging import run_stage
from tunewright.cli.objects import ObjectFiles, stack_store
from tunewright.cli.options import ApiKey, Directory, RunId, Url
from tunewright.cli.plan import Given, has_gpu, make_plan, refusal, refuse_what_cannot_fit
from tunewright.cli.plan import show as show_plan
from tunewright.cli.recipe import Recipe, Sent, load_recipe
from tunewright.cli.stack import commands as stack_commands
from tunewright.cli.stack.credentials import bootstrap as bootstrap_credentials
from tunewright.cli.stack.display import service_table
from tunewright.cli.stack.folder import DEFAULT, StackFolder, find_stack

app = typer.Typer(
    name="tunewright",
    help="From raw instruction files to a served, fine-tuned model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(data_app)
rollout.add_to(app)


@app.command()
def doctor(
    directory: Directory = None,
    url: Url = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,  # noqa: FBT002 - typer's form of a flag
) -> None:
    """Say what this machine is and whether Tunewright fits on it (exit code 0) or not (1)."""
    console = make_console()
    stack = local_stack(directory)
    found = doctor_report.examine(stack.path if stack else Path.cwd(), stack, url)
    if as_json:
        sys.stdout.write(found.to_json() + "\n")
    else:
        doctor_report.show(found, console)
    if not found.fit:
        raise typer.Exit(1)


@app.command()
def up(
    directory: Directory = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Gateway's port; 8080 if free, else any.")] = None,
    import_root: Annotated[Path | None, typer.Option(help="Folder of base models; DIR/models if not given.")] = None,
) -> None:
    """Start the whole stack as local processes, or what of it is down, and return when it serves."""
    console = make_console()
    folder = local_stack(directory) or StackFolder(DEFAULT)
    options = stack_commands.UpOptions(port=port, import_root=import_root)
    try:
        found = stack_commands.up(folder, options, console)
    except KeyboardInterrupt:
        console.print("\nIt goes on starting: [bold]tunewright status[/] shows it, [bold]tunewright down[/] stops it.")
        raise typer.Exit(130) from None
    key = _shown_path(folder.api_key_file)
    console.print(f"\n[green]✔[/] [bold]{found.url}[/] answers; OpenAI clients use [bold]{found.url}/v1[/]")
    console.print(f"  API key: {key} (readable by you alone)")
    where = "" if find_stack(Path.cwd()) == folder else f" --dir {_shown_path(folder.path)}"
    following = ", ".join(f"[bold]tunewright {words}{where}[/]" for words in ("run RECIPE.yaml", "status", "down"))
    console.print(f"  Next:    {following}")


@app.command()
def down(directory: Directory = None) -> None:
    """Stop the local stack. Its data stay."""
    console = make_console()
    folder = _existing_stack(directory)
    if stack_commands.down(folder, console):
        console.print(f"\n[green]✔[/] Stopped. Data are kept in {_shown_path(folder.path)}.")
    else:
        console.print("Nothing was running.")


@app.command()
def status(directory: Directory = None) -> None:
    """Show the local stack's services; exit code 0 if all are up."""
    console = make_console()
    folder = _existing_stack(directory)
    found = stack_commands.status(folder)
    healthy = found.phase == "ready" and all(service.state == "up" for service in found.services.values())
    console.print(f"{_shown_path(folder.path)}: [bold]{found.phase}[/]{f', {found.url}' if healthy else ''}")
    if found.error:
        console.print(f"[red]{escape(found.error)}[/]")
    console.print(service_table(found, plain=not console.is_terminal))
    if not healthy:
        raise typer.Exit(1)


@app.command()
def logs(
    service: Annotated[str, typer.Argument(help="store, a service's name, gateway, or supervisor.")],
    directory: Directory = None,
    lines: Annotated[int, typer.Option("-n", "--lines", min=1, help="So many of the newest lines.")] = 50,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on as lines come.")] = False,  # noqa: FBT002 - typer's form
) -> None:
    """Print a service's log."""
    service_logs.show(_existing_stack(directory), service, lines=lines, follow=follow)


@app.command(hidden=True)
def bootstrap(
    folder: Annotated[Path, typer.Argument(help="Folder for certificates, passwords and keys.")],
    services: Annotated[list[str], typer.Argument(help="Names that get a certificate.")],
) -> None:
    """Make the secrets of a stack in containers, once; docker-compose.yml calls it."""
    try:
        key = bootstrap_credentials(folder, services)
    except OSError as error:
        raise CliError(f"cannot write {folder}: {error.strerror}", remedy="Mount a folder of this user's.") from error
    make_console().print(f"certificates and secrets are in {folder}; the API key is in {key}")


@app.command()
def plan(
    recipe: Annotated[Path, typer.Argument(help="YAML file; see recipes/.")],
    base: Annotated[Path | None, typer.Option(help="Folder of the base; only config.json and tokenizer.")] = None,
    dataset: Annotated[Path | None, typer.Option(help="Prepared dataset, else the recipe's files are read.")] = None,
    vram: Annotated[str, typer.Option(help="GPU to plan for, such as 24GB; else this machine.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,  # noqa: FBT002 - typer's form of a flag
    directory: Directory = None,
) -> None:
    """Say what each method would take in memory, time and disk; exit code 1 if the recipe's cannot fit."""
    loaded = load_recipe(recipe)
    stages = loaded.alone()
    if dataset is not None and len(stages) > 1:
        raise CliError("--dataset names one dataset, the recipe has several stages", remedy="Leave --dataset out.")
    given, stack, console = Given(base=base, dataset=dataset, vram=vram), local_stack(directory), make_console()
    plans = {name: make_plan(stage, given, stack) for name, stage in stages}
    if as_json:
        sys.stdout.write(json.dumps(plans if loaded.values.get("stages") else plans[""]) + "\n")
    for (name, stage), found in zip(stages, plans.values(), strict=True):
        if not as_json:
            console.print(f"[bold]Stage {escape(name)}[/]" if name else "", end="\n" if name else "")
            show_plan(found, console)
        if refused := refusal(found, stage):
            raise refused


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(help="YAML file; see recipes/.")],
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Print the run's id and return.")] = False,  # noqa: FBT002
    plan: Annotated[
        bool | None,
        typer.Option("--plan/--no-plan", help="Refuse what cannot fit this machine; by itself with a local GPU."),
    ] = None,
    url: Url = None,
    api_key: ApiKey = None,
    directory: Directory = None,
) -> None:
    """Upload a recipe's files, start the run, and watch it."""
    console = make_console()
    loaded = load_recipe(recipe)
    stack = local_stack(directory)
    here = url is None and stack is not None and stack.supervised()
    if plan or (plan is None and here and has_gpu()):
        refuse_what_cannot_fit(loaded, stack, console, required=bool(plan))
    with Gateway(find_endpoint(url, api_key, directory)) as gateway:
        started = submit(gateway, loaded, console, stack_store(local_stack(directory)))
        if detach:
            console.print(started["id"])
            return
        _watch(gateway, started, console)


@app.command()
def watch(
    run_id: RunId,
    url: Url = None,
    api_key: ApiKey = None,
    directory: Directory = None,
) -> None:
    """Show a run live until it ends; exit code 0 if it succeeded."""
    with Gateway(find_endpoint(url, api_key, directory)) as gateway:
        _watch(gateway, gateway.run(run_id), make_console())


@app.command()
def runs(url: Url = None, api_key: ApiKey = None, directory: Directory = None) -> None:
    """List runs, newest first."""
    console = make_console()
    with Gateway(find_endpoint(url, api_key, directory)) as gateway:
        found = gateway.get("/v1/runs")["data"]
    table = _list_table(console, "run", "name", "state", "stage", "started")
    for item in found:
        started = watching.clock(item.get("started_at") or item.get("created_at"))
        table.add_row(item["id"], item["name"], item["state"], item.get("stage") or "", started)
    console.print(table if found else "No runs yet: tunewright run RECIPE.yaml")


@app.command()
def cancel(run_id: RunId, url: Url = None, api_key: ApiKey = None, directory: Directory = None) -> None:
    """Ask a run to end; what it finished stays."""
    _change(find_endpoint(url, api_key, directory), Gateway.cancel, run_id)


@app.command()
def pause(run_id: RunId, url: Url = None, api_key: ApiKey = None, directory: Directory = None) -> None:
    """Pause a run: training saves a checkpoint and lets go of the GPU until `resume`."""
    _change(find_endpoint(url, api_key, directory), Gateway.pause, run_id)


@app.command()
def resume(run_id: RunId, url: Url = None, api_key: ApiKey = None, directory: Directory = None) -> None:
    """Let a paused run go on, from its checkpoint."""
    _change(find_endpoint(url, api_key, directory), Gateway.resume, run_id)


def _change(endpoint: Endpoint, ask: Callable[[Gateway, str], Mapping[str, Any]], run_id: str) -> None:
    with Gateway(endpoint) as gateway:
        make_console().print(f"{run_id}: {ask(gateway, run_id)['state']}")


@app.command()
def models(url: Url = None, api_key: ApiKey = None, directory: Directory = None) -> None:
    """List the models that answer."""
    console = make_console()
    with Gateway(find_endpoint(url, api_key, directory)) as gateway:
        found = gateway.get("/v1/models")["data"]
    table = _list_table(console, "model", "state", "since", "artifact")
    for item in found:
        ours = item.get("tunewright") or {}
        artifact = watching.short_reference(ours.get("artifact", ""))
        table.add_row(item["id"], ours.get("state", ""), watching.clock(item.get("created")), artifact)
    console.print(table if found else "No model answers yet: tunewright run RECIPE.yaml")


@app.command()
def lineage(
    name: Annotated[str, typer.Argument(help="A model, a run's id, or an artifact as KIND/ID.")],
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,  # noqa: FBT002 - typer's form of a flag
    url: Url = None,
    api_key: ApiKey = None,
    directory: Directory = None,
) -> None:
    """Print where a model, a run's result or an artifact comes from, down to the raw bytes."""
    with Gateway(find_endpoint(url, api_key, directory)) as gateway:
        chain = lineages.find_chain(gateway, name)
    if as_json:
        sys.stdout.write(json.dumps(chain, ensure_ascii=False, indent=2) + "\n")
    else:
        lineages.show(chain, make_console())


@app.command()
def merge(
    adapter: Annotated[str, typer.Argument(help="Folder of an adapter, or adapters/ID of a stack.")],
    base: Annotated[str, typer.Argument(help="Folder of its base in full precision, or models/ID.")],
    dataset: Annotated[str, typer.Option(help="Prepared dataset with held-out rows: a folder, or datasets/ID.")],
    output: Annotated[Path, typer.Option(help="New folder for the model.")],
    onto: Annotated[str, typer.Option("--merge", help="auto, full_precision or dequantized.")] = "auto",
    max_shard_bytes: Annotated[int | None, typer.Option(help="Bytes of a weight file at most.")] = None,
    url: Url = None,
    api_key: ApiKey = None,
    directory: Directory = None,
) -> None:
    """Merge an adapter into its base here, measured against the model as trained; the best candidate is kept."""
    spec = {"merge": onto} | ({"max_shard_bytes": max_shard_bytes} if max_shard_bytes else {})
    inputs = {"adapter": adapter, "base": base, "dataset": dataset}
    _run_stage("merge", spec, inputs, output, find=partial(find_endpoint, url, api_key, directory))


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="Folder of a merged model, or models/ID of a stack.")],
    form: Annotated[str, typer.Option("--format", help="fp8 or int4 for vLLM, gguf for llama.cpp.")],
    dataset: Annotated[str, typer.Option(help="Prepared dataset with held-out rows: a folder, or datasets/ID.")],
    output: Annotated[Path, typer.Option(help="New folder for the export.")],
    gguf_type: Annotated[str, typer.Option(help="Of a gguf's matrices: q8_0, bf16 or f16.")] = "q8_0",
    max_kl: Annotated[float | None, typer.Option(help="Largest mean KL from the model, nats a token.")] = None,
    url: Url = None,
    api_key: ApiKey = None,
    directory: Directory = None,
) -> None:
    """Give a merged model another form, load it back, and say how far it is from the model."""
    spec = {"format": form, "gguf_type": gguf_type} | ({"max_kl": max_kl} if max_kl else {})
    inputs = {"model": model, "dataset": dataset}
    _run_stage("export", spec, inputs, output, find=partial(find_endpoint, url, api_key, directory))


def _run_stage(
    stage: str, spec: Mapping[str, Any], inputs: Mapping[str, str], output: Path, find: Callable[[], Endpoint]
) -> None:
    with ExitStack() as stack:
        run_stage(stage, spec, inputs, output, lambda: stack.enter_context(Gateway(find())), make_console())


@app.command()
def chat(
    model: Annotated[str, typer.Argument(help="A model's name; see `tunewright models`.")],
    message: Annotated[
        str | None, typer.Option("-m", "--message", help="Ask this alone; - reads it from stdin.")
    ] = None,
    system: Annotated[str, typer.Option(help="System message.")] = "",
    temperature: Annotated[float | None, typer.Option(min=0, max=2)] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Tokens of an answer at most.")] = None,
    url: Url = None,
    api_key: ApiKey = None,
    directory: Directory = None,
) -> None:
    """Talk to a model; the answer is printed as it comes."""
    console = make_console()
    given = {"temperature": temperature, "max_tokens": max_tokens}
    settings: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    with Gateway(find_endpoint(url, api_key, directory)) as gateway:
        conversation = Conversation(gateway, model, settings, system)
        if message is None:
            conversation.interactive(console)
        else:
            conversation.ask(sys.stdin.read() if message == "-" else message, console)


def submit(
    gateway: Gateway, recipe: Recipe, console: Console, store: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Upload a recipe's files and start its run; what the gateway finds wrong is told with the recipe's lines.

    Args:
        gateway: where the run goes.
        recipe: what to run.
        console: where progress is shown.
        store: variables that tell of the object store, for `s3://` where the environment does not.

    Raises:
        CliError: a file is missing, or the gateway refuses.
    """
    uploads = recipe.uploads(store)
    with _by_line(recipe):
        gateway.check(recipe.values)
    for _, found in uploads:
        if found.is_folder:
            console.print(escape(found.words()), soft_wrap=True)
    sent = recipe.with_files(_upload(gateway, uploads, console))
    with _by_line(recipe, sent):
        return gateway.submit(sent.values)


def _upload(
    gateway: Gateway, uploads: list[tuple[str, DataFiles | ObjectFiles]], console: Console
) -> dict[str, list[str]]:
    """Send all files; return the ids of each entry's."""
    ids: dict[str, list[str]] = {}
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        for field, found in uploads:
            task = progress.add_task(f"uploading {escape(found.name)}", total=found.size_bytes)
            advance = partial(progress.advance, task)
            ids[field] = [gateway.upload(path, advance) for path in found.local()]
    return ids


@contextmanager
def _by_line(recipe: Recipe, sent: Sent | None = None) -> Iterator[None]:
    """Tell what the gateway finds wrong with a recipe one mistake a line, each with its place in the file."""
    try:
        yield
    except ApiError as error:
        if error.violations:
            error.message = f"{recipe.path} is not valid"
            fields = [(sent.field_of_recipe(field) if sent else field, why) for field, why in error.violations]
            error.lines = tuple(dict.fromkeys(f"{recipe.place(field)}: {why}" for field, why in fields))
        raise


def _watch(gateway: Gateway, started: dict[str, Any], console: Console) -> None:
    view = watching.RunView.of(started)

    def lost(why: str) -> None:
        view.connection = why
        if not console.is_terminal:
            console.print(f"connection lost, trying again: {why}")

    try:
        watching.follow(gateway.events(view.run_id, lost=lost), view, console)
    except KeyboardInterrupt:
        console.print(f"\nThe run goes on. Watch it again: [bold]tunewright watch {view.run_id}[/]")
        raise typer.Exit(130) from None
    ended = gateway.run(view.run_id)
    console.print()
    console.print(watching.summary(ended, view, plain=not console.is_terminal))
    if ended["state"] == "succeeded":
        console.print(f"\n[green]✔[/] Talk to it: [bold]tunewright chat {ended['name']}[/]")
        return
    failure = ended.get("failure") or {}
    stage = f" in {failure['stage']}" if failure.get("stage") else ""
    message = f"run {view.run_id} {ended['state']}{stage}: {failure.get('message', '')}".rstrip(": ")
    raise CliError(message, remedy=failure.get("remedy") or "Submit it again to go on from what is finished.")


def _existing_stack(directory: Path | None) -> StackFolder:
    folder = local_stack(directory)
    if folder is None or not folder.exists:
        where = f"in {folder.path}" if folder else "here or above"
        raise CliError(f"there is no stack {where}", remedy="Start one with `tunewright up`.")
    return folder


def _shown_path(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _list_table(console: Console, *columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD if console.is_terminal else None, show_edge=False, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def main() -> None:
    """Run the command line."""
    try:
        app()
    except CliError as error:
        show_error(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if os.environ.get("TUNEWRIGHT_DEBUG"):
            raise
        words = f"a fault of tunewright's own: {type(error).__name__}: {error}"
        show_error(CliError(words, remedy="TUNEWRIGHT_DEBUG=1 shows where; please report it."))
        sys.exit(70)
