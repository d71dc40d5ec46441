"""The rasterizer's twins: plain torch and Triton's kernels against the compiled loops of the CPU.

Without a GPU the kernels run in Triton's interpreter.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import trimesh
from torch import Tensor

from maquette.common import backends
from maquette.common.config.backends import BackendsConfig
from maquette.common.rasterize import (
    Raster,
    antialias,
    interpolate,
    rasterize,
    scatter_image,
    visible_faces,
)
from maquette.common.rasterize.interpolate import barycentrics
from maquette.common.scene.cameras import orbit, sphere_views
from tests.common.test_rasterize import (
    QUAD,
    clip_of_pixels,
    coverage,
    flat_mvp,
    rectangle,
    soup,
    sphere,
)

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TWINS = ["torch", "triton"]


def choose(name: str) -> None:
    """Let one twin do all of the rasterizer's work, or skip where it can't run."""
    if name == "triton":
        pytest.importorskip("triton")
    backends.use(BackendsConfig(visibility=name, interpolation=name, antialiasing=name))


def on_cpu(work):
    """What the compiled loops of the CPU say."""
    backends.use(BackendsConfig())
    return work()


def same_faces(name: str, clip: Tensor, faces: Tensor, height: int, width: int) -> Tensor:
    """What a twin sees, having found that it is what the CPU sees."""
    expected = on_cpu(lambda: visible_faces(clip, faces, height, width))
    choose(name)
    seen = visible_faces(clip.to(DEVICE), faces.to(DEVICE), height, width).cpu()
    assert torch.equal(seen, expected)
    return seen


@pytest.mark.parametrize("name", TWINS)
@pytest.mark.parametrize("seed", range(3))
def test_random_triangles_are_seen_as_by_the_cpu(name: str, seed: int) -> None:
    clip, faces = soup(seed, 14, views=2)
    clip[1, 5, 3] = -0.3  # a face that goes behind the camera
    clip[0, 9:12] = clip[0, 9]  # one without area
    seen = same_faces(name, clip, faces, 21, 33)
    assert len(seen.unique()) > 6


@pytest.mark.parametrize("name", TWINS)
def test_a_closed_surface_is_seen_as_by_the_cpu(name: str) -> None:
    vertices, faces = sphere(2)
    clip = torch.nn.functional.pad(vertices, (0, 1), value=1.0) @ orbit(2).mvp().transpose(1, 2)
    assert (same_faces(name, clip, faces, 24, 24) >= 0).any()


@pytest.mark.parametrize("name", TWINS)
def test_edges_ties_and_planes_are_decided_as_by_the_cpu(name: str) -> None:
    square = torch.tensor([[0.0, 0, 0], [4, 0, 0], [0, 4, 0], [4, 4, 0]])
    faces = torch.tensor([[0, 1, 2], [1, 3, 2], [2, 1, 0]])  # the last is the first, turned
    assert (same_faces(name, clip_of_pixels(square, 4, 4), faces, 4, 4) < 2).all()
    thin = torch.tensor(
        [[1.0, 1, 0], [7, 1.4, 0], [1, 1.2, 0], [2.4, 3.4, 0], [2.6, 3.4, 0], [2.5, 3.6, 0]]
    )
    same_faces(name, clip_of_pixels(thin, 8, 8), torch.tensor([[0, 1, 2], [3, 4, 5]]), 8, 8)
    large = torch.tensor([[-9.0, -9, 0], [30, -9, 0], [-9, 30, 0]])
    for w in (0.0, -1.0, torch.tensor([1.0, 1.0, -0.5])):
        seen = same_faces(name, clip_of_pixels(large, 8, 8, w), torch.tensor([[0, 1, 2]]), 8, 8)
        assert (seen == -1).all()
    for z in (-1.01, -1.0, 1.0, 1.01):
        large[:, 2] = z
        seen = same_faces(name, clip_of_pixels(large, 8, 8), torch.tensor([[0, 1, 2]]), 8, 8)
        assert bool((seen == 0).all()) == (abs(z) <= 1.0)
    edge_on = torch.tensor([[2.0, 2, 0], [2, 6, 0.5], [2, 4, 0.9]])
    same_faces(name, clip_of_pixels(edge_on, 8, 8), torch.tensor([[0, 1, 2]]), 8, 8)


@pytest.mark.parametrize("name", TWINS)
def test_no_faces_and_no_views_show_the_background(name: str) -> None:
    choose(name)
    none = torch.zeros(0, 3, dtype=torch.long, device=DEVICE)
    raster = rasterize(torch.zeros(0, 3, device=DEVICE), none, orbit(2).mvp().to(DEVICE), 8, 8)
    assert (raster.face_index == -1).all()
    image = scatter_image(raster.bary, raster, torch.ones(3, device=DEVICE))
    assert torch.equal(antialias(image, raster), image)
    assert visible_faces(torch.zeros(0, 3, 4, device=DEVICE), none, 8, 8).shape == (0, 8, 8)


@pytest.mark.parametrize("name", TWINS)
def test_barycentrics_have_the_cpus_values_and_gradients(name: str) -> None:
    clip, faces = soup(7, 30, views=2)
    clip[:, faces[0]] = clip[:, faces[0, :1]] + torch.rand(3, 4) * 1e-6  # almost without area
    clip[:, faces[1]] = clip[:, faces[1, :1]]  # without any
    index = visible_faces(clip, faces, 24, 20).view(-1)
    pixels = torch.nonzero(index >= 0)[:, 0]
    face = index[pixels].clone()
    face[:3], face[3:6] = 0, 1
    cotangent = torch.randn(pixels.shape[0], 3, generator=torch.Generator().manual_seed(1))

    def asked(device: torch.device) -> tuple[Tensor, Tensor]:
        leaf = clip.double().to(device).requires_grad_(True)
        rest = (faces.to(device), pixels.to(device), face.to(device))
        bary = barycentrics(leaf, *rest, 24, 20)
        (grad,) = torch.autograd.grad((bary * cotangent.to(device)).sum(), leaf)
        return bary.detach().cpu(), grad.cpu()

    value, slope = on_cpu(lambda: asked(torch.device("cpu")))
    choose(name)
    other_value, other_slope = asked(DEVICE)
    assert torch.allclose(other_value, value, atol=1e-9)
    assert torch.allclose(other_slope, slope, rtol=1e-7, atol=1e-9 * float(slope.abs().max()))
    assert float(slope[..., :2].abs().max()) > 1.0


@pytest.mark.parametrize("name", TWINS)
@pytest.mark.parametrize("by_view", [False, True])
def test_interpolation_has_the_cpus_values_and_gradients(name: str, by_view: bool) -> None:
    vertices, faces = sphere(1)
    raster = rasterize(vertices, faces, sphere_views(2).mvp(), 16, 16)
    generator = torch.Generator().manual_seed(0)
    shape = (2, vertices.shape[0], 5) if by_view else (vertices.shape[0], 5)
    attributes = torch.randn(shape, generator=generator)
    cotangent = torch.randn(raster.pixels.shape[0], 5, generator=generator)

    def asked(device: torch.device) -> list[Tensor]:
        leaf = attributes.to(device).requires_grad_(True)
        own = Raster(**{key: value.to(device) for key, value in vars(raster).items()})
        bary = own.bary.detach().requires_grad_(True)
        value = interpolate(leaf, Raster(**{**vars(own), "bary": bary}))
        slopes = torch.autograd.grad((value * cotangent.to(device)).sum(), (leaf, bary))
        return [t.detach().cpu() for t in (value, *slopes)]

    expected = on_cpu(lambda: asked(torch.device("cpu")))
    choose(name)
    for got, wanted in zip(asked(DEVICE), expected, strict=True):
        assert torch.allclose(got, wanted, atol=1e-5)
        assert float(wanted.abs().max()) > 0.1


def scene_of_two() -> tuple[Tensor, Tensor]:
    """A ball with a box half before it."""
    cube = trimesh.creation.box((0.7, 0.5, 0.9))
    ball, ball_faces = sphere(1, radius=0.45)
    box = torch.tensor(cube.vertices, dtype=torch.float32) + torch.tensor([0.5, 0.1, -0.1])
    faces = torch.cat([ball_faces, torch.tensor(np.array(cube.faces)) + ball.shape[0]])
    return torch.cat([ball, box]), faces


@pytest.mark.parametrize("name", TWINS)
def test_antialiasing_has_the_cpus_values_and_gradients(name: str) -> None:
    vertices, faces = scene_of_two()
    mvp = sphere_views(3).mvp(26 / 22)
    picture = torch.rand(3, 22, 26, 3, generator=torch.Generator().manual_seed(2))
    cotangent = torch.randn(3, 22, 26, 3, generator=torch.Generator().manual_seed(3))

    def asked(device: torch.device) -> list[Tensor]:
        leaf = vertices.to(device).requires_grad_(True)
        image = picture.detach().to(device).requires_grad_(True)
        raster = rasterize(leaf, faces.to(device), mvp.to(device), 22, 26)
        blended = antialias(image, raster)
        slopes = torch.autograd.grad((blended * cotangent.to(device)).sum(), (leaf, image))
        return [t.detach().cpu() for t in (blended, *slopes)]

    expected = on_cpu(lambda: asked(torch.device("cpu")))
    choose(name)
    for got, wanted in zip(asked(DEVICE), expected, strict=True):
        assert torch.allclose(got, wanted, atol=1e-4, rtol=1e-4)
    assert float((expected[0] - picture).abs().max()) > 0.1
    assert float(expected[1].abs().max()) > 0.1


@pytest.mark.parametrize("name", TWINS)
@pytest.mark.parametrize("degrees", [0, 30, 45, 130])
def test_coverage_is_linear_in_where_an_edge_lies(name: str, degrees: float) -> None:
    choose(name)
    angle = math.radians(degrees)
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    square = (torch.tensor([[-1.0, -1], [1, -1], [1, 1], [-1, 1]]) @ turn.T).to(DEVICE)
    half = torch.tensor(5.2, device=DEVICE, requires_grad=True)
    flat = square * half + torch.tensor([8.2, 7.7], device=DEVICE)
    vertices = torch.cat([flat, torch.zeros(4, 1, device=DEVICE)], dim=1)
    mask = coverage(vertices, QUAD.to(DEVICE), flat_mvp(16, 16).to(DEVICE), 16)
    assert mask.sum().item() == pytest.approx(4 * 5.2**2, rel=0.02)
    (grad,) = torch.autograd.grad(mask.sum(), half)
    assert float(grad) == pytest.approx(8 * 5.2, rel=0.15)


@pytest.mark.parametrize("name", TWINS)
def test_a_near_surface_before_a_far_one_and_specks(name: str) -> None:
    front = rectangle(*torch.tensor([4.0, 4.0, 8.3, 12.0]))
    back = rectangle(*torch.tensor([0.5, 0.5, 15.5, 15.5]))
    generator = torch.Generator().manual_seed(5)
    specks = (
        torch.rand(8, 1, 3, generator=generator) * 14 + torch.rand(8, 3, 3, generator=generator) * 2
    ).reshape(-1, 3)
    points = torch.cat([front, back, specks])
    depth = torch.cat([torch.full((4,), 1.0), torch.full((4,), 2.0), torch.full((24,), 0.5)])
    homogeneous = clip_of_pixels(points, 16, 16, depth)[0]
    faces = torch.cat([QUAD, QUAD + 4, torch.arange(24).view(-1, 3) + 8])
    mvp = torch.tensor([[[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, -1.0], [0, 0, 1, 0]]])
    world = torch.cat([homogeneous[:, :2], depth[:, None]], dim=1)

    def asked(device: torch.device) -> list[Tensor]:
        leaf = world.to(device).requires_grad_(True)
        raster = rasterize(leaf, faces.to(device), mvp.to(device), 16, 16)
        part = torch.linspace(0.2, 1.0, 12, device=device)[raster.face]
        image = scatter_image(part[:, None], raster, torch.zeros(1, device=device))
        blended = antialias(image, raster)
        (slope,) = torch.autograd.grad(blended.square().sum(), leaf)
        return [blended.detach().cpu(), slope.cpu()]

    expected = on_cpu(lambda: asked(torch.device("cpu")))
    choose(name)
    for got, wanted in zip(asked(DEVICE), expected, strict=True):
        assert torch.allclose(got, wanted, atol=1e-4, rtol=1e-4)
