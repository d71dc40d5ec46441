"""The script for a GPU that is at hand for minutes: every part tiny, on the CPU."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from maquette.common.config.priors import PriorConfig

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.py"
PUBLISHED = {"sd15": 859_520_964, "sdxl": 2_567_463_684, "if": 4.3e9}
"""Parameters of the denoisers: those of their files, and what IF's authors say of theirs."""


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a file of the benchmarks."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    return importlib.import_module


def dry(out: Path) -> dict[str, list[dict]]:
    """The rows of a dry run by part."""
    command = [sys.executable, str(SCRIPT), "--out", str(out), "--dry"]
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
    steps = [*found["steps"], *found["options"]]
    assert [(row["model"], row["stage"], row["set"]) for row in steps] == [
        *(("sd15", "fine", ""), ("if", "coarse", "networks=bfloat16")),
    ]
    for row in steps:
        assert row["outside the model, ms"] > 0
        assert row["step, ms"] > 0
        assert row["gradient's norm"] > 0
    assert found["training"][0]["images a second"] > 0
    kernels = found["kernels"]
    assert {row["part"].split()[0] for row in kernels if row.get("ms", 0) > 0} == {
        *("ray_marching", "compositing", "hash_grid", "visibility"),
        *("interpolation", "antialiasing", "tetrahedra"),
    }
    for row in kernels:
        assert "ended" not in row or "does not run here" in row["ended"]


def test_a_step_of_sdxls_shape_is_measured(script: Any) -> None:
    row = script("gpu_step").measure("sdxl", "coarse", PriorConfig(), torch.device("cpu"), True)
    assert row["outside the model, ms"] > 0
    assert row["step, ms"] > 0


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_full_size_networks_are_of_the_published_sizes(name: str, script: Any) -> None:
    diffusers = pytest.importorskip("diffusers")
    with torch.device("meta"):
        network = diffusers.UNet2DConditionModel(**script("large_models").UNETS[name])
    count = sum(p.numel() for p in network.parameters())
    assert count == pytest.approx(PUBLISHED[name], rel=0.01 if name == "if" else 0.0, abs=0)


def test_every_chosen_option_is_a_setting(script: Any) -> None:
    """What `options` measures can be chosen by a user."""
    from maquette.common.config.backends import BackendsConfig

    for _, _, pairs in script("gpu").OPTIONS:
        chosen = dict(pair.split("=") for pair in pairs.split())
        ours = {key: chosen.pop(key) for key in list(chosen) if key in BackendsConfig.model_fields}
        BackendsConfig.model_validate(ours)
        PriorConfig.model_validate({"name": "sd15", **chosen})


def test_a_part_that_takes_too_long_is_ended_with_all_that_it_has_begun(
    tmp_path: Path, script: Any
) -> None:
    gpu = script("gpu")
    found = gpu.Found(tmp_path, 60.0)
    code = (
        "import subprocess, sys, time; print('{\"a\": 1}', flush=True); "
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); time.sleep(60)"
    )
    rows = list(found.child("tests", ["-c", code], 5.0))
    assert rows[0] == {"a": 1}
    assert "cut off after 5 s" in rows[1]["ended"]
    spent = gpu.Found(tmp_path, 1.0)
    assert next(spent.child("tests", ["-c", code], 5.0))["ended"] == "no time left"
