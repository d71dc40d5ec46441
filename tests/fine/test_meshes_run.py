"""Runs that begin with a mesh: painted ones keep it, refined ones come back to where it stood."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import trimesh

from maquette import pipeline
from maquette.common.runs.folder import open_run
from maquette.common.toybox.objects import build
from maquette.fine.evaluate import evaluate_run
from maquette.fine.meshes.begin import FILE
from maquette.fine.meshes.read import read_mesh

pytestmark = pytest.mark.slow

PROMPT = "a red mushroom"
SETTINGS = [
    *("fine.steps=3", "fine.checkpoint_every=2", "fine.views=1", "fine.geometry.resolution=48"),
    *("fine.texture.extra_levels=0", "export.faces=1500", "export.texture_size=128"),
    *("coarse.field.grid.log2_entries=12", "export.unwrap_limit=20"),
]
MORE = ["--prior", "exact", "--device", "cpu", *(w for s in SETTINGS for w in ("--set", s))]


@pytest.fixture(scope="module")
def toy() -> trimesh.Trimesh:
    """The true mushroom in the axes of files, in no colour, somewhere else and larger."""
    mesh = build(PROMPT).mesh
    vertices = mesh.vertices.double().numpy()[:, [1, 2, 0]] * 40.0 + [3.0, 100.0, -7.0]
    return trimesh.Trimesh(vertices, mesh.faces.numpy(), process=False)


def lines(path: Path, first: str) -> list[str]:
    return [line for line in path.read_text().splitlines() if line.startswith(f"{first} ")]


def test_two_prompts_paint_one_layout(maquette, toy: trimesh.Trimesh, tmp_path: Path) -> None:
    toy.export(tmp_path / "toy.obj")
    objs = []
    for index, prompt in enumerate((PROMPT, "a blue mushroom")):
        out = tmp_path / str(index)
        told = maquette(
            "texture", "--mesh", str(tmp_path / "toy.obj"), prompt, "--out", str(out), *MORE
        )
        objs.append(Path(told[0]))
    for first in ("v", "vt", "f"):
        one, two = (lines(path, first) for path in objs)
        assert one == two
    found = read_mesh(objs[0])
    np.testing.assert_array_equal(found.faces, toy.faces)
    np.testing.assert_allclose(found.vertices, toy.vertices, atol=1e-4)
    pictures = [path.with_suffix(".png").read_bytes() for path in objs]
    assert pictures[0] != pictures[1]
    # Painted once more, it keeps the texture coordinates that it now has.
    told = maquette(
        "texture", "--mesh", str(objs[0]), PROMPT, "--out", str(tmp_path / "again"), *MORE
    )
    assert lines(Path(told[0]), "vt") != []
    a, b = read_mesh(Path(told[0])), found
    assert a.uv is not None
    assert b.uv is not None
    np.testing.assert_allclose(a.uv, b.uv, atol=2e-6)


def test_an_undamaged_mesh_is_not_made_worse(
    maquette, toy: trimesh.Trimesh, tmp_path: Path
) -> None:
    toy.export(tmp_path / "toy.glb")
    out = tmp_path / "run"
    maquette("fine", "--mesh", str(tmp_path / "toy.glb"), PROMPT, "--out", str(out), *MORE)
    run = open_run(str(out))
    assert not run.coarse.exists()
    for stage in ("handoff", "fine"):
        scores = evaluate_run(run, stage)
        assert scores.f_score >= 0.97, stage
        assert scores.iou >= 0.97, stage
    (tmp_path / "toy.glb").unlink()  # the run has all it needs
    before = (out / FILE).read_bytes()
    told = maquette("resume", str(out))
    assert (out / FILE).read_bytes() == before
    found = read_mesh(Path(told[0]))
    np.testing.assert_allclose(found.vertices.min(axis=0), toy.bounds[0], atol=1.5)
    np.testing.assert_allclose(found.vertices.max(axis=0), toy.bounds[1], atol=1.5)
    assert maquette("fine", str(out)) == [str(out)]
    printed = maquette("export", str(out), "--format", "3mf")
    # A GLB is in metres, so the print's size is known: as many millimetres.
    high = read_mesh(Path(printed[0])).vertices[:, 2].max()
    assert high == pytest.approx(1000.0 * np.ptp(toy.vertices[:, 1]), rel=0.03)


def test_another_prompt_for_a_mesh_is_a_new_run(
    toy: trimesh.Trimesh, tmp_path: Path, monkeypatch, capfd, maquette
) -> None:
    toy.export(tmp_path / "toy.ply")
    out = str(tmp_path / "run")
    maquette("fine", "--mesh", str(tmp_path / "toy.ply"), PROMPT, "--out", out, *MORE)
    monkeypatch.setattr(sys, "argv", ["maquette", "fine", out, "--prompt", "a blue mushroom"])
    with pytest.raises(SystemExit) as ended:
        pipeline.main()
    assert ended.value.code == 2
    assert "began with a mesh" in capfd.readouterr().err
