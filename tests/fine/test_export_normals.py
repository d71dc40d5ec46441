"""Normal maps: tangents in closed form, the sign of green, a coarse mesh lit like a fine one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import trimesh
from torch.nn import functional as F

from maquette.common.rasterize import interpolate, rasterize, scatter_image
from maquette.common.scene.cameras import orbit
from maquette.common.scene.images import psnr
from maquette.common.scene.mesh import Mesh, vertex_normals
from maquette.fine.export.clean import clean, decimate
from maquette.fine.export.normals import bake_normals, flipped, mapped_normals, tangents, unpacked
from maquette.fine.export.readback import sample_texture
from maquette.fine.export.source import Surface, distance_between
from maquette.fine.export.unwrap import Unwrapped, unwrap


def square(mirrored: bool = False) -> Unwrapped:
    """A square in the plane x = 0 seen from +x; U grows along y, V along z."""
    vertices = torch.tensor([[0.0, 0, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1]])
    uv = vertices[:, 1:].clone()
    if mirrored:
        uv[:, 0] = 1.0 - uv[:, 0]
    return Unwrapped(
        vertices, torch.tensor([[0, 1, 2], [0, 2, 3]]), uv, torch.arange(4), "fallback"
    )


@pytest.mark.parametrize("mirrored", [False, True])
def test_tangents_follow_the_texture(mirrored: bool) -> None:
    found = tangents(square(mirrored))
    sign = -1.0 if mirrored else 1.0
    torch.testing.assert_close(found, torch.tensor([[0.0, sign, 0.0, sign]]).expand(4, 4))
    normal = square().normals()
    torch.testing.assert_close(
        found[:, 3:] * torch.linalg.cross(normal, found[:, :3]),
        torch.tensor([[0.0, 0.0, 1.0]]).expand(4, 3),
    )


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_slope_in_closed_form(mirrored: bool) -> None:
    """A surface that rises with z has a normal that leans down: green below the middle."""
    slope = 0.1
    points = torch.tensor([[0.0, 0, 0], [0, 1, 0], [slope, 1, 1], [slope, 0, 1]])
    surface = Surface(Mesh(points, torch.tensor([[0, 1, 2], [0, 2, 3]])), reach=0.2)
    texture = bake_normals(square(mirrored), 16, surface)
    found = unpacked(texture[8, 8] / 255.0)
    expected = np.array([0.0, -slope, 1.0]) / np.hypot(1.0, slope)
    np.testing.assert_allclose(found, expected, atol=0.006)
    assert unpacked(flipped(texture)[8, 8] / 255.0)[1] == pytest.approx(-found[1], abs=0.006)


def bumpy() -> Mesh:
    ball = trimesh.creation.icosphere(subdivisions=5)
    x, y, z = ball.vertices.T
    radius = 0.7 + 0.02 * np.sin(12 * x) * np.cos(11 * y) + 0.02 * np.sin(13 * z)
    vertices = torch.tensor(ball.vertices * radius[:, None]).float()
    return clean(Mesh(vertices, torch.tensor(ball.faces).long()))


def lit(mesh_vertices, faces, normals_at) -> torch.Tensor:
    raster = rasterize(mesh_vertices, faces, orbit(3).mvp(), 96, 96)
    light = F.normalize(torch.tensor([1.0, 0.7, 0.9]), dim=0)
    bright = (normals_at(raster) @ light).clamp(0.0, 1.0)[:, None].expand(-1, 3)
    return scatter_image(bright, raster, torch.zeros(3))


def test_a_coarse_mesh_is_lit_like_the_fine_one() -> None:
    fine = bumpy()
    coarse = decimate(fine, 1200)
    unwrapped = unwrap(coarse, 0.0, 512)
    surface = Surface(fine, reach=0.05)
    texture = torch.from_numpy(bake_normals(unwrapped, 512, surface))
    own = vertex_normals(fine.vertices, fine.faces)
    frame, smooth = tangents(unwrapped), unwrapped.normals()

    def mapped(raster) -> torch.Tensor:
        values = sample_texture(texture, interpolate(unwrapped.uv, raster))
        return mapped_normals(unwrapped, frame, values, raster)

    true = lit(fine.vertices, fine.faces, lambda r: F.normalize(interpolate(own, r), dim=-1))
    plain = lit(
        unwrapped.vertices, unwrapped.faces, lambda r: F.normalize(interpolate(smooth, r), dim=-1)
    )
    with_map = lit(unwrapped.vertices, unwrapped.faces, mapped)
    inner = (true.sum(-1) > 0) & (plain.sum(-1) > 0)
    assert psnr(with_map, true, inner) > psnr(plain, true, inner) + 6.0
    assert psnr(with_map, true, inner) > 28.0


def test_the_surface_beneath_is_near_and_looks_the_same_way() -> None:
    fine = bumpy()
    coarse = decimate(fine, 1200)
    assert 0.0 < distance_between(coarse, fine) < 0.03
    # Of a thin plate, a point a little inside belongs to the side that its normal says.
    plate = trimesh.creation.box((1.0, 1.0, 0.02)).subdivide().subdivide()
    thin = Surface(Mesh(torch.tensor(plate.vertices).float(), torch.tensor(plate.faces)), 0.05)
    point = np.array([[0.1, 0.2, 0.002]])  # nearer to the upper side
    for side in (1.0, -1.0):
        moved, normal = thin.beneath(point, np.array([[0.0, 0.0, side]]))
        assert moved[0, 2] == pytest.approx(0.01 * side, abs=1e-6)
        assert normal[0, 2] * side > 0.9
    far = np.array([[0.0, 0.0, 3.0]])
    assert np.array_equal(thin.beneath(far, np.array([[0.0, 0, 1]]))[0], far)
