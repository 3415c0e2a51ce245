"""Imports point one way: artifacts ← chassis ← services; the CLI stands apart; a server never loads a model library."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STUBS = "v1"
FORBIDDEN_NAMES = {"utils", "common", "helpers", "misc"}
MODEL_LIBRARIES = {"torch", "transformers", "peft", "trl", "bitsandbytes", "vllm"}


def rooms(root: Path) -> dict[str, Path]:
    """Return name → package folder of every room below `root`."""
    packages = [*root.glob("services/*/tunewright/*/"), *root.glob("cli/tunewright/*/")]
    return {package.name: package for package in sorted(packages) if any(package.glob("*.py"))}


def allowed(room: str) -> set[str]:
    """Return the rooms that `room` may import."""
    match room:
        case "artifacts" | "cli":
            return {room}
        case "chassis":
            return {room, "artifacts", STUBS}
        case _:
            return {room, "chassis", "artifacts", STUBS}


def imported(path: Path, package: str) -> Iterator[tuple[int, str]]:
    """Yield line and full name of everything a module of `package` imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, alias.name) for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                parts = package.split(".")
                base = ".".join(parts[: len(parts) - level + 1]) if level else ""
                start = ".".join(filter(None, [base, module]))
                yield from ((node.lineno, f"{start}.{alias.name}") for alias in names)
            case ast.Call(func=ast.Attribute(attr="import_module"), args=[ast.Constant(value=str(name)), *_]):
                yield node.lineno, name
            case _:
                pass


def violations(root: Path) -> list[str]:
    """Return one line for each import that points the wrong way and each file with a name that says nothing."""
    found = []
    for room, folder in rooms(root).items():
        for path in sorted(folder.rglob("*.py")):
            where = path.relative_to(root)
            package = ".".join(("tunewright", room, *path.relative_to(folder).parent.parts))
            for line, name in imported(path, package):
                top, _, rest = name.partition(".")
                if top == "tunewright" and rest.split(".")[0] not in allowed(room):
                    found.append(f"{where}:{line} imports {name}")
            if path.stem in FORBIDDEN_NAMES or FORBIDDEN_NAMES & set(where.parts):
                found.append(f"{where} has a name that says nothing")
    return found


def server_modules(root: Path) -> list[str]:
    """Return the modules that a service's server process is made of."""
    files = [folder / f"{name}.py" for folder in rooms(root).values() for name in ("service", "__main__")]
    return [f"tunewright.{path.parent.name}.{path.stem}" for path in files if path.exists()]


def model_libraries_of(module: str, *paths: Path) -> set[str]:
    """Import a module in a process of its own and return the model libraries that came with it."""
    code = f"import sys, importlib; importlib.import_module({module!r}); print(*sys.modules)"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    return MODEL_LIBRARIES & set(done.stdout.split())


def test_imports_point_one_way() -> None:
    assert {"artifacts", "chassis", "cli", "gateway", "trainer"} <= set(rooms(ROOT))
    assert violations(ROOT) == []


@pytest.mark.parametrize("module", server_modules(ROOT))
def test_a_server_process_loads_no_model_library(module: str) -> None:
    assert model_libraries_of(module) == set()


@pytest.mark.parametrize(
    ("room", "line"),
    [
        ("artifacts", "from tunewright.chassis import errors"),
        ("artifacts", "import tunewright.v1.job_pb2"),
        ("chassis", "from tunewright import trainer"),
        ("trainer", "import tunewright.merger.stage as stage"),
        ("trainer", "from ..merger import stage"),
        ("trainer", "def late() -> None:\n    from tunewright.gateway import pipeline"),
        ("trainer", "import importlib\nimportlib.import_module('tunewright.evaluator.stage')"),
        ("gateway", "from tunewright.dataprep.spec import DataprepSpec"),
        ("cli", "from tunewright.artifacts import Kind"),
    ],
)
def test_an_import_that_points_the_wrong_way_is_seen(tmp_path: Path, room: str, line: str) -> None:
    folder = tmp_path / ("cli" if room == "cli" else f"services/{room}") / "tunewright" / room
    folder.mkdir(parents=True)
    (folder / "fine.py").write_text(f"import os\nfrom tunewright.{room} import other\nfrom . import another\n")
    assert violations(tmp_path) == []
    (folder / "planted.py").write_text(line)
    (found,) = violations(tmp_path)
    assert "planted.py" in found


@pytest.mark.parametrize("name", ["utils.py", "common/shapes.py"])
def test_a_name_that_says_nothing_is_seen(tmp_path: Path, name: str) -> None:
    path = tmp_path / "services/trainer/tunewright/trainer" / name
    path.parent.mkdir(parents=True)
    (tmp_path / "services/trainer/tunewright/trainer/__init__.py").touch()
    path.touch()
    (found,) = violations(tmp_path)
    assert name in found


def test_a_server_that_loads_a_model_library_is_seen(tmp_path: Path) -> None:
    folder = tmp_path / "services/planted/tunewright/planted"
    folder.mkdir(parents=True)
    (folder / "part.py").write_text("import torch\n")
    (folder / "service.py").write_text("from tunewright.planted import part\n")
    (tmp_path / "torch.py").touch()  # stands for the real one, which takes seconds
    assert server_modules(tmp_path) == ["tunewright.planted.service"]
    assert model_libraries_of("tunewright.planted.service", folder.parents[1], tmp_path) == {"torch"}
