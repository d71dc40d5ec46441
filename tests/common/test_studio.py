"""The studio's pictures of toys whose look is known in closed form, and pictures as files."""

from __future__ import annotations

import dataclasses
import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from torch import Tensor

from maquette.common.scene.cameras import orbit, sphere_views
from maquette.common.scene.images import png_bytes, save_png, save_strip, strip, to_uint8
from maquette.common.scene.mesh import Mesh
from maquette.common.toybox.objects import ToyObject, build
from maquette.common.toybox.studio import AMBIENT, BACKDROP, albedo_views, photograph

SIZE = 96
FRONT, BACK = torch.tensor([0.9, 0.6, 0.2]), torch.tensor([0.2, 0.3, 0.8])


def ball(radius: float = 0.8) -> ToyObject:
    """A ball whose front half (+X) has one paint and whose back half another."""
    sphere = trimesh.creation.icosphere(subdivisions=5, radius=radius)
    mesh = Mesh(torch.tensor(sphere.vertices).float(), torch.tensor(sphere.faces).long())
    behind = (mesh.vertices[mesh.faces].mean(dim=1)[:, 0] < 0).long()
    return dataclasses.replace(
        build("a red mushroom"),
        mesh=mesh,
        part_of_face=torch.zeros_like(behind),
        paint_of_face=behind,
        paints=torch.stack([FRONT, BACK]),
    )


def ball_hits(radius: float, azimuth_index: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Points `[H, W, 3]` where rays first meet the ball, whether they do, and the camera."""
    camera = orbit(4, elevation_deg=0.0)[azimuth_index : azimuth_index + 1]
    origins, directions = (r[0].double() for r in camera.rays(SIZE, SIZE))
    middle = (origins * directions).sum(dim=-1)
    under = middle**2 - (origins**2).sum(dim=-1) + radius**2
    points = origins + (-middle - under.clamp_min(0).sqrt())[..., None] * directions
    return points, under > 0, camera.position[0].double()


def inner(mask: Tensor) -> Tensor:
    """Pixels of a mask that aren't at its edge."""
    grown = torch.nn.functional.max_pool2d((~mask).float()[None], 5, stride=1, padding=2)[0]
    return grown == 0


def test_a_ball_is_lit_by_the_lamp_in_the_camera() -> None:
    points, hit, position = ball_hits(0.8)
    towards = torch.nn.functional.normalize(position - points, dim=-1)
    facing = (points / 0.8 * towards).sum(dim=-1, keepdim=True)
    wanted = FRONT.double() * (AMBIENT + (1 - AMBIENT) * facing)
    found = photograph(ball(), orbit(1, elevation_deg=0.0), SIZE)[0].double()
    sure = inner(hit)
    assert int(sure.sum()) > 1000
    torch.testing.assert_close(found[sure], wanted[sure], atol=0.01, rtol=0)
    background = inner(~hit)
    assert torch.equal(
        found[background], torch.tensor(BACKDROP).double().expand(found.shape)[background]
    )


@pytest.mark.parametrize(
    ("index", "left", "right"),
    [(0, FRONT, FRONT), (1, FRONT, BACK), (2, BACK, BACK), (3, BACK, FRONT)],
)
def test_the_front_is_seen_from_azimuth_zero(index: int, left: Tensor, right: Tensor) -> None:
    """Cameras at azimuth 0, 90, 180, 270; from +Y the front (+X) lies on the picture's left."""
    camera = orbit(4, elevation_deg=0.0)[index : index + 1]
    picture, mask = albedo_views(ball(), camera, SIZE, (1.0, 1.0, 1.0))
    middle = SIZE // 2
    torch.testing.assert_close(picture[0, middle, middle - 8], left)
    torch.testing.assert_close(picture[0, middle, middle + 8], right)
    assert bool(mask[0, middle, middle])


def test_the_silhouette_of_a_ball_is_its_perspective_disc() -> None:
    _, hit, _ = ball_hits(0.8)
    picture, mask = albedo_views(ball(), orbit(1, elevation_deg=0.0), SIZE, (0.0, 1.0, 0.0))
    assert int((mask[0] ^ hit).sum()) < 0.02 * int(hit.sum())
    # tan of the disc's half-angle over tan of half the field of view, in half pictures.
    radius = 0.8 / math.sqrt(9 - 0.64) / math.tan(math.radians(20)) * SIZE / 2
    assert float(mask.sum()) == pytest.approx(math.pi * radius**2, rel=0.02)
    torch.testing.assert_close(picture[0, 0, 0], torch.tensor([0.0, 1.0, 0.0]))


def test_edges_are_blended() -> None:
    picture, mask = albedo_views(ball(), orbit(1, elevation_deg=0.0), SIZE, (0.0, 0.0, 0.0))
    inside = picture[0][mask[0]][:, 0]
    between = (inside > 0.05) & (inside < 0.85)
    assert 20 < int(between.sum()) < 4 * SIZE


@pytest.mark.parametrize("caption", ["a red mushroom", "a blue car", "a dotted yellow teapot"])
def test_every_view_is_a_picture_of_the_toy(caption: str) -> None:
    cameras = sphere_views(6)
    toy = build(caption)
    pictures = photograph(toy, cameras, 48)
    assert pictures.shape == (6, 48, 48, 3)
    assert float(pictures.min()) >= 0.0
    assert float(pictures.max()) <= 1.0
    albedo, mask = albedo_views(toy, cameras, 48, BACKDROP)
    share = mask.float().mean(dim=(1, 2))
    assert float(share.min()) > 0.03
    assert float(share.max()) < 0.75
    # Light from a lamp can only darken: lit views lie at or below the albedo.
    inside = inner(mask)
    assert bool((pictures[inside] <= albedo[inside] + 1e-4).all())
    assert bool((pictures[inside] >= AMBIENT * albedo[inside] - 0.05).all())


def test_photographs_of_a_batch_are_those_of_its_cameras() -> None:
    cameras, toy = orbit(3), build("a red mushroom")
    both = photograph(toy, cameras, 32)
    for index in range(3):
        alone = photograph(toy, cameras[index : index + 1], 32)
        torch.testing.assert_close(both[index], alone[0], atol=1e-6, rtol=0)


def test_bytes_of_a_picture_are_rounded_and_clamped() -> None:
    values = torch.tensor([-1.0, 0.0, 0.5 / 255 - 1e-6, 0.5 / 255 + 1e-6, 0.5, 1.0, 7.0])
    assert to_uint8(values).tolist() == [0, 0, 0, 1, 128, 255, 255]


def test_a_png_reads_back_as_it_was(tmp_path: Path) -> None:
    image = torch.rand(5, 7, 3)
    read = torch.from_numpy(np.array(Image.open(io.BytesIO(png_bytes(image)))))
    assert torch.equal(read, to_uint8(image))
    save_png(to_uint8(image), tmp_path / "deep" / "x.png")
    with Image.open(tmp_path / "deep" / "x.png") as saved:
        assert saved.size == (7, 5)


def test_a_strip_reads_row_by_row(tmp_path: Path) -> None:
    images = torch.arange(3.0)[:, None, None, None].expand(3, 2, 4, 3)
    assert strip(images)[0, :, 0].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    two = strip(images, columns=2)
    assert two.shape == (4, 8, 3)
    assert two[0, ::4, 0].tolist() == [0, 1]
    assert two[2, ::4, 0].tolist() == [2, 1]  # what is left over is white
    save_strip(images / 2, tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as saved:
        assert saved.size == (12, 2)
