"""The script for a GPU that is at hand for minutes: tiny, on the CPU, so that it can't rot."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from maquette.common.embedded.version import check_version

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "train_on_gpu.py"


@pytest.mark.slow
def test_both_networks_are_trained_and_scored(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--out", str(tmp_path), "--dry"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    for kind, row in zip(("pixel", "latent"), rows[-2:], strict=True):
        assert row.startswith(f"| {kind}, ")
        check_version(tmp_path / kind / "model")
        assert list((tmp_path / kind / "model").rglob("*.safetensors"))
        assert not (tmp_path / kind / "checkpoints").exists()
