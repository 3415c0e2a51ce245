"""Real processes of the real command line: none outlives the one that started them."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from tests.trainer.conftest import TINY_MODEL, letters, write_dataset

_SECONDS = 120


@pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.device_count() < 2, reason="two processes need two GPUs, or none"
)
def test_after_kill_9_of_the_stage_no_rank_is_left(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "dataset", letters(8))
    spec = tmp_path / "spec.yaml"
    spec.write_text("{processes: 2, max_steps: 100000, save_steps: 100000}", encoding="utf-8")
    command = [sys.executable, "-m", "tunewright.trainer", "run", str(spec), "--output", str(tmp_path / "out")]
    inputs = ["--input", f"dataset={dataset}", "--input", f"base={TINY_MODEL}", "--events", "json"]
    with subprocess.Popen([*command, *inputs], stderr=subprocess.PIPE, text=True) as stage:
        assert stage.stderr is not None
        deadline = time.monotonic() + _SECONDS
        while '"type": "progress"' not in (line := stage.stderr.readline()):
            assert line, "the stage ended before its first step"
            assert time.monotonic() < deadline
        ranks = [
            child
            for child in psutil.Process(stage.pid).children(recursive=True)
            if "tunewright.trainer.ranks.worker" in child.cmdline() and "--" not in child.cmdline()
        ]
        assert len(ranks) == 2
        stage.send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs(ranks, timeout=20)
    assert not alive
