"""The whole export on shapes with known colours: files as good as the model, and the same twice."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from torch import Tensor

from maquette.common.config.export import ExportConfig
from maquette.common.scene.images import png_bytes
from maquette.common.scene.mesh import Mesh
from maquette.fine.export import export as exporting
from maquette.fine.export import unwrap as unwrapping
from maquette.fine.export.bake import bake
from maquette.fine.export.export import export
from maquette.fine.export.order import cache_misses
from maquette.fine.export.readback import compare, read_obj
from maquette.fine.export.seams import AtlasReport
from maquette.fine.export.write import write_obj


def mesh_of(shape: trimesh.Trimesh) -> Mesh:
    return Mesh(torch.tensor(shape.vertices).float(), torch.tensor(shape.faces).long())


def sphere() -> Mesh:
    return mesh_of(trimesh.creation.icosphere(subdivisions=5, radius=0.8))


def box() -> Mesh:
    return mesh_of(trimesh.creation.box((1.0, 0.8, 0.6)))


def torus() -> Mesh:
    return mesh_of(trimesh.creation.torus(0.6, 0.25, major_sections=96, minor_sections=48))


def waves(points: Tensor) -> Tensor:
    phase = torch.tensor([0.0, 1.0, 2.0])
    return 0.5 + 0.5 * torch.sin(9.0 * points + phase) * torch.cos(5.0 * points[:, [1, 2, 0]])


def stripes(points: Tensor) -> Tensor:
    """Hard stripes along Z: no texture holds their edges exactly."""
    red, cream = torch.tensor([0.8, 0.1, 0.1]), torch.tensor([0.95, 0.9, 0.8])
    return torch.where((points[:, 2:] * 4.0).floor() % 2 == 0, red, cream)


@pytest.mark.parametrize(
    ("shape", "colours"),
    [
        (sphere, waves),
        (box, stripes),
        (torus, waves),
        pytest.param(sphere, stripes, marks=pytest.mark.slow),
        pytest.param(torus, stripes, marks=pytest.mark.slow),
    ],
)
def test_files_match_the_model(shape, colours, tmp_path: Path) -> None:
    report = export(shape(), colours, tmp_path, "a shape", faces=6000, texture_size=1024)
    assert report.unwrap_method == "xatlas"
    assert report.psnr_min >= 30.0
    assert len(report.psnr) == 8
    assert report.psnr_mean >= report.psnr_min
    assert report.faces_out <= min(6000, report.faces_in)
    for path in (report.obj, report.mtl, report.texture, report.glb, report.turntable):
        assert path.parent == tmp_path
        assert path.stat().st_size > 0
    assert Image.open(report.texture).size == (1024, 1024)
    told = json.loads((tmp_path / "report.json").read_text())
    assert told["obj"] == "a-shape.obj"
    assert told["psnr_min"] == report.psnr_min
    assert set(told["seconds"]) >= {"clean", "unwrap", "bake", "write", "read back"}


def test_the_fallback_is_as_good(tmp_path: Path) -> None:
    report = export(torus(), waves, tmp_path, "x", 6000, 1024, unwrap_limit_s=0.01)
    assert report.unwrap_method == "fallback"
    assert "longer" in report.unwrap_reason
    assert report.psnr_min >= 30.0


@pytest.mark.slow
def test_a_crash_of_xatlas_costs_no_quality(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unwrapping, "CHILD", ("-c", "import os; os.abort()"))
    report = export(sphere(), waves, tmp_path, "x", 6000, 1024)
    assert report.unwrap_method == "fallback"
    assert "ended with code" in report.unwrap_reason
    assert report.psnr_min >= 30.0


def test_a_wrong_file_is_told_apart(tmp_path: Path) -> None:
    unwrapped = unwrapping.unwrap(torus(), 0.0, 512)
    texture = bake(unwrapped, 512, waves).texture
    upside_down = np.ascontiguousarray(texture[::-1])
    read = read_obj(
        write_obj(tmp_path, "x", unwrapped, png_bytes(torch.from_numpy(upside_down))).obj
    )
    assert max(compare(read, torus(), waves, views=2, resolution=128)) < 20.0
    read = read_obj(write_obj(tmp_path, "x", unwrapped, png_bytes(torch.from_numpy(texture))).obj)
    assert min(compare(read, torus(), waves, views=2, resolution=128)) > 40.0


def test_two_exports_are_the_same(tmp_path: Path) -> None:
    names = ("x.obj", "x.mtl", "x.png", "x.glb", "turntable.png")
    files = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        export(torus(), waves, folder, "x", faces=3000, texture_size=256)
        files.append([(folder / name).read_bytes() for name in names])
    assert files[0] == files[1]


def test_levels_share_one_texture_and_are_read_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    check = exporting.check_file
    monkeypatch.setattr(
        exporting, "check_file", lambda path, *given: (read.append(path.name), check(path, *given))
    )
    config = ExportConfig(faces=2400, texture_size=256, lods=3, formats=["obj", "glb"])
    report = export(torus(), waves, tmp_path, "x", config=config)
    assert sorted(read) == sorted(
        f"x{n}.{k}" for n in ("", "-lod1", "-lod2") for k in config.formats
    )
    assert [round(a / b) for a, b in pairwise(report.levels)] == [4, 4]
    for name in ("x-lod1.glb", "x-lod1.obj"):
        level = read_obj(tmp_path / name)
        assert min(compare(level, torus(), waves, views=2, resolution=128)) > 22.0
        least = len(level.vertices) / len(level.faces)  # each vertex fetched once
        assert cache_misses(level.faces.numpy()) < 1.25 * least


def test_specks_are_left_out(tmp_path: Path) -> None:
    speck = trimesh.creation.icosphere(subdivisions=2, radius=0.02).apply_translation([0, 0, 0.95])
    both = trimesh.util.concatenate([trimesh.creation.icosphere(subdivisions=4, radius=0.8), speck])
    steps: list[str] = []
    report = export(mesh_of(both), waves, tmp_path, "x", texture_size=256, on_step=steps.append)
    assert report.faces_in - report.faces_clean == 320
    assert float(read_obj(report.obj).vertices.norm(dim=1).max()) < 0.81
    assert steps == list(report.seconds)


def test_too_few_texels_are_told() -> None:
    apart, mixed = ([0.004, 0.2], [0.805, 1.0])
    assert exporting._told_of_texels(AtlasReport(12, 0, 0.5, 1.1, apart), 100) == []
    assert exporting._told_of_texels(AtlasReport(12, 0, 0.5, 1.1, []), 8192) == []
    (line,) = exporting._told_of_texels(AtlasReport(4066, 0, 0.03, 1.3, mixed), 100)
    assert line.startswith("100 px are too few for 4066 charts: 80% of the surface")


def test_nothing_to_export(tmp_path: Path) -> None:
    empty = Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="nothing to export"):
        exporting.export(empty, waves, tmp_path / "x", "x")
    assert not list(tmp_path.rglob("*.obj"))
