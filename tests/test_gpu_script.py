"""The script for a GPU that is at hand for minutes: every part tiny, on the CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.py"


def dry(out: Path, *parts: str) -> dict[str, list[dict]]:
    """The rows of a dry run by part."""
    command = [sys.executable, str(SCRIPT), "--out", str(out), "--dry"]
    if parts:
        command += ["--only", *parts]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads((out / "gpu.json").read_text("utf-8"))
    report = (out / "gpu.md").read_text("utf-8")
    assert report.startswith("No GPU")
    for part in found:
        assert f"### {part}" in report
    return found


@pytest.mark.slow
def test_every_part_runs_and_tells_what_it_found(tmp_path: Path) -> None:
    found = dry(tmp_path)
    for part, rows in found.items():
        failed = [row["ended"] for row in rows if "ended" in row and part != "kernels"]
        assert not failed, (part, failed)
    assert found["tests"][0]["tests"] >= 1
    assert found["tests"][0]["failures"] == found["tests"][0]["errors"] == 0
    assert {"coarse", "hand-off", "fine", "export", "all"} <= found["toybox"][0].keys()
    assert found["scores"]
    steps = found["steps"]
    assert [(row["model"], row["stage"]) for row in steps] == [
        *(("sd15", "fine"), ("if", "coarse"), ("sdxl", "coarse")),
    ]
    assert all(0 < row["outside the model, ms"] <= row["step, ms"] for row in steps)
    assert found["training"][0]["images a second"] > 0


def test_every_twin_is_timed_or_says_why_not(tmp_path: Path) -> None:
    rows = dry(tmp_path, "kernels")["kernels"]
    timed = {row["part"].split()[0] for row in rows if row.get("ms", 0) > 0}
    assert timed == {
        *("ray_marching", "compositing", "hash_grid", "visibility"),
        *("interpolation", "antialiasing", "tetrahedra"),
    }
    for row in rows:
        assert "ended" not in row or "does not run here" in row["ended"]
