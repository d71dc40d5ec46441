"""What three.js and Blender show of the files, beside our own picture of the model."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
import trimesh
from torch import Tensor

from maquette.common.config.export import ExportConfig
from maquette.common.rasterize import interpolate
from maquette.common.scene.cameras import Cameras, orbit
from maquette.common.scene.images import psnr
from maquette.common.scene.mesh import Mesh
from maquette.common.toybox.score import Textured, unlit_views
from maquette.fine.export.export import export
from tests.clients.pictures import blender, by_blender, by_three

pytestmark = pytest.mark.slow
SIZE = 128
LEAST = 28.0  # dB over the pixels that either picture covers
CAMERAS = orbit(5)[torch.tensor([0, 2])]


@cache
def nosed() -> Mesh:
    """A body that no turn or reflection takes to itself: a ball with a nose and a hump."""
    ball = trimesh.creation.icosphere(subdivisions=4, radius=0.6)
    vertices = torch.tensor(ball.vertices).float()
    vertices[:, 0] += 0.3 * (vertices[:, 0] - 0.4).clamp_min(0.0)
    vertices[:, 2] += 1.5 * (vertices[:, 2] - 0.45).clamp_min(0.0)
    vertices[:, 1] += 0.8 * (vertices[:, 1] - 0.35).clamp_min(0.0)
    return Mesh(vertices, torch.tensor(ball.faces).long())


def colors(points: Tensor) -> Tensor:
    """Each channel follows an axis of its own, with waves that a wrong texture would show."""
    return (0.5 + 0.5 * points + 0.15 * torch.sin(12.0 * points[:, [1, 2, 0]])).clamp(0.0, 1.0)


def own_views(cameras: Cameras) -> Tensor:
    mesh = nosed()
    model = Textured(mesh, lambda raster: colors(interpolate(mesh.vertices, raster)))
    fine = unlit_views(model, cameras, 2 * SIZE)[0].permute(0, 3, 1, 2)
    return torch.nn.functional.avg_pool2d(fine, 2).permute(0, 2, 3, 1)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clients")
    config = ExportConfig(faces=3000, texture_size=512, unwrap_limit=1e-3)
    export(nosed(), colors, folder, "thing", config=config)
    return folder


def assert_shows(found: Tensor) -> None:
    """Each view is our own, and not the next one's: a wrong axis would be as unlike as that."""
    true = own_views(CAMERAS)
    covered = ((true - 0.5).abs().amax(-1) > 0.01) | ((found - 0.5).abs().amax(-1) > 0.01)
    values = [psnr(found[i], true[i], covered[i]) for i in range(len(true))]
    assert min(values) >= LEAST, values
    swapped = [psnr(found[i], true[1 - i], covered[i] | covered[1 - i]) for i in range(2)]
    assert max(swapped) < 20.0, swapped


def test_three_shows_the_model(files: Path) -> None:
    assert_shows(by_three(files / "thing.glb", CAMERAS, SIZE))


@pytest.mark.parametrize("kind", ["obj", "glb"])
def test_blender_shows_the_model(kind: str, files: Path) -> None:
    command = blender()
    if command is None:
        pytest.skip("Blender is not installed (the program, or `pip install bpy`)")
    try:
        found = by_blender(command, files / f"thing.{kind}", CAMERAS, SIZE)
    except ModuleNotFoundError as missing:
        pytest.skip(str(missing))
    assert_shows(found)
