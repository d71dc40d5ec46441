"""All stages at small settings: files that open anywhere, scores, other prompts and exports."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from maquette.common.runs.checkpoints import read_tensors
from maquette.fine.first_shape import read_first

pytestmark = pytest.mark.slow

NAME = "a-red-mushroom"


@pytest.fixture
def copy(tmp_path: Path, small_run: Path) -> Path:
    """The finished run, to be written to."""
    return Path(shutil.copytree(small_run, tmp_path / "run"))


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def events(folder: Path) -> list[str]:
    return [
        json.loads(line)["event"] for line in (folder / "events.jsonl").read_text().splitlines()
    ]


def test_a_run_is_the_folder_that_is_promised(small_run: Path) -> None:
    names = set(contents(small_run))
    assert {
        "config.yaml",
        "events.jsonl",
        "coarse/preview.png",
        "coarse/result.safetensors",
        "coarse/step-000012.safetensors",
        "fine/first.safetensors",
        "fine/handoff.json",
        "fine/handoff.png",
        "fine/preview.png",
        "fine/step-000006.safetensors",
        f"export/{NAME}.obj",
        f"export/{NAME}.mtl",
        f"export/{NAME}.png",
        f"export/{NAME}.glb",
        "export/turntable.png",
        "export/report.json",
    } <= names
    found = events(small_run)
    wanted = ["created", "stage started", "stage finished", "hand-off", "stage started"]
    assert [e for e in found if e != "checkpoint"][:5] == wanted
    assert found[-1] == "exported"


def test_the_hand_off_is_recorded(small_run: Path) -> None:
    report = json.loads((small_run / "fine" / "handoff.json").read_text())
    assert 0.8 < report["mesh_iou"] <= 1.0
    assert report["kept"] >= 1
    with Image.open(small_run / "fine" / "handoff.png") as picture:
        assert picture.size == (8 * 32, 2 * 32)  # the NeRF's views above the mesh's


def test_the_obj_opens_with_its_texture_y_up(small_run: Path) -> None:
    folder = small_run / "export"
    mesh = trimesh.load(folder / f"{NAME}.obj", process=False, force="mesh")
    assert isinstance(mesh, trimesh.Trimesh)
    assert 100 < len(mesh.faces) <= 1500
    assert isinstance(mesh.visual, trimesh.visual.TextureVisuals)
    assert mesh.visual.uv is not None
    assert mesh.visual.uv.min() >= 0.0
    assert mesh.visual.uv.max() <= 1.0
    image = mesh.visual.material.image
    assert image.size == (128, 128)
    assert np.asarray(image).std() > 1.0
    for name in contents(folder):
        assert " " not in name
    # World Z is the files' Y and world X (the front) their Z: the vertices of the GLB are those of
    # the OBJ, and the model's own vertices, turned, lie on them.
    from maquette.common.runs.folder import open_run
    from maquette.fine.train import load_finished

    model = load_finished(open_run(str(small_run))).mesh().vertices.numpy()
    turned = model[:, [1, 2, 0]]
    np.testing.assert_allclose(mesh.bounds, [turned.min(axis=0), turned.max(axis=0)], atol=0.05)
    scene = trimesh.load(folder / f"{NAME}.glb")
    np.testing.assert_allclose(scene.bounds, mesh.bounds, atol=1e-4)


def test_the_files_are_near_the_model(small_run: Path) -> None:
    report = json.loads((small_run / "export" / "report.json").read_text())
    assert len(report["psnr"]) == 8
    assert report["psnr_mean"] > 25
    assert report["faces_out"] <= 1500
    assert report["obj"] == f"{NAME}.obj"


def test_evaluate_writes_one_object_a_run(maquette, small_run: Path, tmp_path: Path) -> None:
    file = tmp_path / "scores.json"
    lines = maquette("evaluate", str(small_run), "--json", str(file))
    rows = json.loads(file.read_text())
    assert len(rows) == len(lines) == 1
    assert {"prompt", "f_score", "chamfer", "iou", "psnr"} <= rows[0].keys()
    assert isinstance(rows[0]["right"], bool)
    assert rows[0]["janus_views"] == 0  # a mushroom has no front
    assert rows[0]["taken_for"] in lines[0]
    assert rows[0]["prompt"] == "a red mushroom"
    assert 0 <= rows[0]["f_score"] <= 1
    assert 0.2 < rows[0]["iou"] <= 1
    assert 5 < rows[0]["psnr"] < 100
    assert 0 < rows[0]["chamfer"] < 1
    assert f"{rows[0]['iou']:.3f}" in lines[0]


def test_another_prompt_makes_a_new_run_of_the_same_coarse_stage(
    maquette, small_run: Path, tmp_path: Path, monkeypatch
) -> None:
    before = contents(small_run)
    monkeypatch.chdir(tmp_path)
    lines = maquette("fine", str(small_run), "--prompt", "a blue mushroom")
    assert lines == [str(Path("runs/a-blue-mushroom"))]
    assert contents(small_run) == before
    new = contents(tmp_path / "runs" / "a-blue-mushroom")
    for name in ("coarse/result.safetensors", "coarse/step-000012.safetensors"):
        assert new[name] == before[name]
    last = "fine/step-000006.safetensors"
    folders = (small_run, tmp_path / "runs" / "a-blue-mushroom")
    first = [read_first(folder / "fine").distance for folder in folders]
    assert torch.equal(*first)
    paint = [read_tensors(folder / last)["texture/field.grid.tables"] for folder in folders]
    assert not torch.equal(*paint)
    assert b"prompt: a blue mushroom" in new["config.yaml"]
    # Asked again it is the same run, and nothing is done over.
    told = events(tmp_path / "runs" / "a-blue-mushroom")
    assert maquette("fine", str(small_run), "--prompt", "a blue mushroom") == lines
    assert events(tmp_path / "runs" / "a-blue-mushroom") == told
    # Its export is called after its own prompt.
    paths = maquette("export", lines[0])
    assert paths[0] == str(Path("runs/a-blue-mushroom/export/a-blue-mushroom.obj"))


def test_painting_leaves_the_shape_as_it_is(maquette, small_run: Path, tmp_path: Path) -> None:
    maquette("fine", str(small_run), "--out", str(tmp_path / "run"), "--set", "fine.paint_from=2")
    folder = tmp_path / "run" / "fine"
    painted, last = (read_tensors(folder / f"step-00000{step}.safetensors") for step in (4, 6))
    assert not torch.equal(read_first(folder).distance, painted["sdf/value"])
    for name in ("sdf/value", "offset/value"):
        assert torch.equal(painted[name], last[name])
    table = "texture/field.grid.tables"
    assert not torch.equal(painted[table], last[table])


def test_fine_of_a_finished_run_does_nothing(maquette, copy: Path) -> None:
    before = contents(copy)
    assert maquette("fine", str(copy)) == [str(copy)]
    assert contents(copy) == before


def test_resume_of_a_finished_run_does_no_work_over(maquette, copy: Path) -> None:
    before = contents(copy)
    lines = maquette("resume", str(copy))
    assert lines == [str(copy / "export" / f"{NAME}.obj"), str(copy / "export" / "turntable.png")]
    assert contents(copy) == before


def test_the_same_command_again_is_the_same_run(
    maquette, copy: Path, small_settings: list[str]
) -> None:
    before = contents(copy)
    lines = maquette(
        "run", "a red mushroom", "--out", str(copy), "--device", "cpu", *small_settings
    )
    assert lines[0] == str(copy / "export" / f"{NAME}.obj")
    assert contents(copy) == before


def test_resume_makes_what_the_export_lacks(maquette, copy: Path) -> None:
    before = contents(copy)
    (copy / "export" / "turntable.png").unlink()
    maquette("resume", str(copy))
    after = contents(copy)
    assert after["export/turntable.png"] == before["export/turntable.png"]
    assert after[f"export/{NAME}.obj"] == before[f"export/{NAME}.obj"]


def test_export_again_with_other_limits(maquette, copy: Path) -> None:
    before = contents(copy)
    paths = maquette("export", str(copy), "--faces", "300", "--texture-size", "64")
    assert paths == [str(copy / "export" / f"{NAME}.obj"), str(copy / "export" / "turntable.png")]
    mesh = trimesh.load(paths[0], process=False, force="mesh")
    assert isinstance(mesh, trimesh.Trimesh)
    assert len(mesh.faces) <= 300
    assert isinstance(mesh.visual, trimesh.visual.TextureVisuals)
    assert mesh.visual.material.image.size == (64, 64)
    after = contents(copy)
    untouched = [n for n in before if not n.startswith(("export/", "events"))]
    assert {n: after[n] for n in untouched} == {n: before[n] for n in untouched}
