"""The committed stubs are those of the protos, and the protos keep to buf's rules."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROTOS = Path(__file__).parents[2] / "protos"
TOOLS = Path(sys.executable).parent


def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PATH": f"{TOOLS}{os.pathsep}{os.environ['PATH']}", "PYTHON": sys.executable}
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not any("egg-info" in part for part in path.parts)
    }


def stale(protos: Path, fresh: Path) -> set[str]:
    """Return the stubs that are missing, left over or different when they are written anew."""
    done = run("bash", str(protos / "generate.sh"), str(fresh), cwd=protos)
    assert done.returncode == 0, done.stderr
    old, new = contents(protos / "gen"), contents(fresh)
    return {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the protos for planting faults."""
    return Path(shutil.copytree(PROTOS, tmp_path / "protos"))


def test_the_committed_stubs_are_fresh(tmp_path: Path) -> None:
    assert stale(PROTOS, tmp_path / "fresh") == set()


def test_a_changed_proto_makes_its_stubs_stale(copy: Path, tmp_path: Path) -> None:
    path = copy / "tunewright/v1/job.proto"
    path.write_text(path.read_text() + "\nmessage Planted { string name = 1; }\n")
    names = {f"tunewright/v1/job_pb2.{end}" for end in ("py", "pyi")}
    assert names <= stale(copy, tmp_path / "fresh")


def test_a_stub_without_a_proto_is_seen(copy: Path, tmp_path: Path) -> None:
    (copy / "gen/tunewright/v1/left_over_pb2.py").touch()
    assert stale(copy, tmp_path / "fresh") == {"tunewright/v1/left_over_pb2.py"}


def test_the_protos_keep_to_the_rules_of_buf() -> None:
    done = run("buf", "lint", cwd=PROTOS)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_a_proto_that_breaks_the_rules_is_seen(copy: Path) -> None:
    path = copy / "tunewright/v1/job.proto"
    path.write_text(path.read_text() + "\nmessage planted { string Name = 1; }\n")
    done = run("buf", "lint", cwd=copy)
    assert done.returncode != 0
    assert "planted" in done.stdout
