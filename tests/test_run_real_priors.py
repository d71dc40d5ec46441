"""Whole runs guided by real architectures: a small random DeepFloyd IF and a Stable Diffusion.

The content is noise, the path is real: both stages, the hand-off between them, and the export.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trimesh
from click.testing import Result
from safetensors import safe_open
from safetensors.torch import load_file
from typer.testing import CliRunner

from maquette import pipeline
from maquette.common.errors import UserError
from maquette.common.guidance.score import ScoreDistillation
from maquette.common.runs.checkpoints import checkpoint_path
from tests.reference.tiny_models import build

pytestmark = pytest.mark.slow

SMALL = (
    "coarse.steps=4",
    "coarse.resolution=32",
    "coarse.samples=24",
    "coarse.checkpoint_every=2",
    "coarse.look_behind=false",  # random weights take anything for a front
    "fine.look_behind=false",
    "coarse.field.grid.levels=4",
    "coarse.field.grid.log2_entries=12",
    "coarse.occupancy.resolution=16",
    "coarse.field.density_bias=10",
    "coarse.field.density_radius=0.5",
    "handoff.resolution=24",
    "handoff.views=16",
    "handoff.view_resolution=32",
    "fine.steps=2",
    "fine.resolution=64",
    "fine.geometry.resolution=12",
    "fine.checkpoint_every=1",
    "export.faces=400",
    "export.texture_size=64",
)


UNWATCHED = ("--previews", "0", "--no-films", "--log", "none")
"""Options of commands that train; what they picture is tested in `test_watching.py`."""


class CutOffError(Exception):
    """Stands for a kill: nothing of the run gets to tidy up."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {name: build(name, root / name) for name in ("if", "sd15")}


def maquette(*arguments: str) -> Result:
    result = CliRunner().invoke(pipeline.app, [*arguments, *UNWATCHED])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def settings(models: dict[str, Path], *more: str) -> list[str]:
    pairs = [f"coarse.prior={models['if']}", f"fine.prior={models['sd15']}", *SMALL, *more]
    return [part for pair in pairs for part in ("--set", pair)]


def events(folder: Path, name: str) -> list[dict[str, Any]]:
    lines = (folder / "events.jsonl").read_text("utf-8").splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == name]


def test_from_a_prompt_to_an_obj(models: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "run"
    more = ["coarse.text.perp_neg=true", "coarse.text.negative=grey", "fine.distillation=hifa"]
    more += ["fine.distillation.guidance_scale=20", "coarse.distillation.guidance_scale=20"]
    maquette("run", "A dragon, very red!", *settings(models, *more), "--out", str(out))
    (obj,) = (out / "export").glob("*.obj")
    mesh = trimesh.load(obj, force="mesh")
    assert 4 <= len(mesh.faces) <= 400
    loaded = events(out, "prior loaded")
    assert [event["family"] for event in loaded] == ["pixel", "sd"]
    assert [event["source"] for event in loaded] == [str(models["if"]), str(models["sd15"])]
    assert not events(out, "warning")


def test_a_cut_off_run_ends_with_the_same_bits(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """VSD in the coarse stage (its critic learns in step), cut off in both stages and resumed."""
    pairs = settings(models, "coarse.distillation=vsd", "coarse.distillation.guidance_scale=7.5")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    maquette("run", "a red chair", *pairs, "--out", str(whole))
    real = ScoreDistillation.__call__
    for resolution, last, command in (
        (32, 3, ["run", "a red chair", *pairs, "--out", str(cut)]),  # in the coarse stage
        (64, 1, ["resume", str(cut)]),  # in the fine stage
    ):

        def call(self, views, step, resolution=resolution, last=last):
            if views.image.shape[1] == resolution and step == last:
                raise CutOffError
            return real(self, views, step)

        monkeypatch.setattr(ScoreDistillation, "__call__", call)
        with pytest.raises(CutOffError):
            maquette(*command)
    monkeypatch.setattr(ScoreDistillation, "__call__", real)
    maquette("resume", str(cut))
    for stage, steps in (("coarse", 4), ("fine", 2)):
        ours = load_file(checkpoint_path(whole / stage, steps))
        theirs = load_file(checkpoint_path(cut / stage, steps))
        assert ours.keys() == theirs.keys()
        assert all(bytes_of(ours[key]) == bytes_of(theirs[key]) for key in ours)
    with safe_open(checkpoint_path(whole / "coarse", 4), "pt") as file:
        assert any(key.startswith("judges/prior/lora/") for key in file.keys())  # noqa: SIM118
    # Loaded again by every resume, the texts embedded but once a stage.
    loads = [event["stage"] for event in events(cut, "prior loaded")]
    assert loads == ["coarse", "coarse", "fine", "fine"]
    assert len(list(cut.glob("*/text-*.safetensors"))) == 2


def bytes_of(tensor) -> bytes:
    return tensor.numpy().tobytes()


def test_the_fine_stage_takes_another_model_and_prompt(
    models: dict[str, Path], tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    maquette("coarse", "a red chair", *settings(models), "--out", str(first))
    other = build("sd15", tmp_path / "other", seed=7)
    edit = ["--prior", str(other), "--vram", "8", "--prompt", "a golden chair"]
    maquette("fine", str(first), *edit, "--out", str(second))
    (loaded,) = events(second, "prior loaded")
    assert loaded["source"] == str(other)
    assert json.loads((second / "fine" / "prior.json").read_text("utf-8"))["source"] == str(other)
    with pytest.raises(UserError, match="no file"):
        maquette("fine", str(first), "--lora", str(tmp_path / "none.safetensors"), "--out", "x")
