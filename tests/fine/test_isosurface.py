"""Marching tetrahedra: hand-worked cases, known shapes, closedness, gradients, twins."""

from __future__ import annotations

import itertools
import math
import sys
from collections import Counter
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from maquette.common.errors import UserError
from maquette.common.scene.mesh import face_areas, face_normals
from maquette.fine.isosurface import (
    Isosurface,
    connectivity,
    connectivity_numba,
    connectivity_torch,
    edge_crossings,
    grid_surface,
    marching_tetrahedra,
    tet_cases,
    triangle_counts,
)
from maquette.fine.tetgrid import TetGrid
from tests.reference.marching_tets_loop import marching_tetrahedra_loop

CORNER = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
ONE_TET = torch.tensor([[0, 1, 2, 3]])


def all_tets(grid: TetGrid) -> Tensor:
    return grid.tets(torch.arange(grid.resolution**3))


def surface_volume(vertices: Tensor, faces: Tensor) -> float:
    a, b, c = vertices.double()[faces].unbind(1)
    return float((a * torch.linalg.cross(b, c)).sum() / 6)


def assert_closed(faces: Tensor) -> None:
    """Every directed edge once, and its reverse once."""
    directed = Counter((int(f[i]), int(f[(i + 1) % 3])) for f in faces.tolist() for i in range(3))
    assert directed
    assert all(count == 1 and directed[b, a] == 1 for (a, b), count in directed.items())


def noise_field(resolution: int, smooth: bool, seed: int) -> Tensor:
    """A random field positive on the boundary of the grid, `[(R+1)^3]`."""
    side = resolution + 1
    field = torch.randn((side,) * 3, generator=torch.manual_seed(seed))
    if smooth:
        for _ in range(2):
            field = torch.nn.functional.avg_pool3d(field[None], 3, 1, 1)[0]
    inner = torch.zeros_like(field, dtype=torch.bool)
    inner[1:-1, 1:-1, 1:-1] = True
    return torch.where(inner, field, field.abs() + 0.01).reshape(-1)


@pytest.mark.parametrize("case", range(16))
def test_sixteen_cases_by_hand(case: int) -> None:
    """Number of triangles, area and normal of each case on the unit corner with values of +-1."""
    inside = [bool(case >> i & 1) for i in range(4)]
    sdf = torch.tensor([-1.0 if i else 1.0 for i in inside])
    surface = marching_tetrahedra(CORNER, sdf, ONE_TET)
    count = sum(inside)
    assert surface.faces.shape[0] == (0, 1, 2, 1, 0)[count]
    assert surface.vertices.shape[0] == (0, 3, 4, 3, 0)[count]
    assert int(tet_cases(torch.tensor(inside), ONE_TET)) == case
    assert int(triangle_counts(torch.tensor(inside), ONE_TET)) == surface.faces.shape[0]
    if count in (0, 4):
        return
    # The cut at the middles of the edges: a lone corner 0 leaves a triangle of sides sqrt(1/2),
    # any other lone corner one of sides 1/2, 1/2, sqrt(1/2); two and two a rectangle 1/2 by
    # sqrt(1/2).
    lone = inside.index(count == 1) if count != 2 else None
    area = math.sqrt(2) / 4 if lone is None else math.sqrt(3) / 8 if lone == 0 else 1 / 8
    vector = torch.zeros(3)
    for face in surface.vertices[surface.faces]:
        vector += torch.linalg.cross(face[1] - face[0], face[2] - face[0]) / 2
    assert float(face_areas(surface.vertices, surface.faces).sum()) == pytest.approx(area)
    assert float(vector.norm()) == pytest.approx(area)  # flat, and turned alike
    step = CORNER[[not i for i in inside]].mean(0) - CORNER[inside].mean(0)
    assert float(vector @ step) > 0


def test_one_corner_in_numbers() -> None:
    """Vertex 0 inside by 1, the others outside by 1, 3 and 0: zero is outside and is met."""
    sdf = torch.tensor([-1.0, 1, 3, 0])
    vertices, faces, edges = marching_tetrahedra(CORNER, sdf, ONE_TET)
    assert edges.tolist() == [[0, 1], [0, 2], [0, 3]]
    assert faces.tolist() == [[0, 1, 2]]
    torch.testing.assert_close(vertices, torch.tensor([[0.5, 0, 0], [0, 0.25, 0], [0, 0, 1]]))
    touched = marching_tetrahedra(CORNER, torch.tensor([0.0, 1, 3, 2]), ONE_TET)
    assert touched.faces.shape == (0, 3)


@pytest.mark.parametrize("sdf", [torch.ones(64), -torch.ones(64)])
def test_no_surface_is_a_result(sdf: Tensor) -> None:
    grid = TetGrid(3)
    for surface in (
        marching_tetrahedra(grid.vertices(), sdf, all_tets(grid)),
        grid_surface(grid, sdf),
    ):
        assert [list(t.shape) for t in surface] == [[0, 3], [0, 3], [0, 2]]
    assert connectivity_torch(sdf < 0, all_tets(grid))[0].shape == (0, 3)
    assert connectivity(torch.zeros(0, dtype=torch.bool), all_tets(grid)[:0])[0].shape == (0, 3)


def test_plane_is_exact() -> None:
    grid = TetGrid(5)
    normal = torch.tensor([2.0, 3.0, 6.0]) / 7
    vertices, faces, _ = grid_surface(grid, grid.vertices() @ normal - 0.05)
    torch.testing.assert_close(vertices @ normal, torch.full((vertices.shape[0],), 0.05))
    big = face_areas(vertices, faces) > 1e-6
    torch.testing.assert_close(
        face_normals(vertices, faces)[big], normal.expand(int(big.sum()), 3), atol=1e-3, rtol=0
    )


def test_sphere_area_and_volume_converge() -> None:
    """Second order: four times closer with half the cell."""
    errors = []
    for resolution in (16, 32, 64):
        grid = TetGrid(resolution)
        vertices, faces, _ = grid_surface(grid, grid.vertices().norm(dim=1) - 0.7)
        assert_closed(faces)
        volume = surface_volume(vertices, faces) / (4 / 3 * math.pi * 0.7**3)
        area = float(face_areas(vertices, faces).sum()) / (4 * math.pi * 0.7**2)
        errors.append((1 - volume, 1 - area))
    for coarse, fine in itertools.pairwise(errors):
        assert 3 < coarse[0] / fine[0] < 5
        assert 3 < coarse[1] / fine[1] < 5
    assert 0 < errors[-1][0] < 2e-3
    assert 0 < errors[-1][1] < 2e-3


@pytest.mark.parametrize("smooth", [True, False])
def test_closed_and_consistently_turned_on_random_fields(smooth: bool) -> None:
    grid = TetGrid(12)
    for seed in range(3):
        sdf = noise_field(12, smooth, seed)
        surface = grid_surface(grid, sdf)
        assert_closed(surface.faces)
        # Outward: the enclosed volume is positive, and that of the opposite field negative.
        assert surface_volume(surface.vertices, surface.faces) > 0
        turned = marching_tetrahedra(grid.vertices(), -sdf, all_tets(grid))
        assert surface_volume(turned.vertices, turned.faces) < 0


@pytest.mark.parametrize("smooth", [True, False])
def test_twins_and_the_reference_loop_agree(smooth: bool) -> None:
    grid = TetGrid(6)
    sdf = noise_field(6, smooth, 5).double()
    sdf[torch.randperm(sdf.numel(), generator=torch.manual_seed(6))[:20]] = 0.0
    vertices = grid.deform(grid.vertices().double(), torch.randn(7**3, 3).double())
    tets = all_tets(grid)
    surface = marching_tetrahedra(vertices, sdf, tets)
    for twin in (connectivity_numba, connectivity_torch):
        faces, edges = twin(sdf < 0, tets)
        assert torch.equal(faces, surface.faces)
        assert torch.equal(edges, surface.edges)
    points, polygons = marching_tetrahedra_loop(vertices.numpy(), sdf.numpy(), tets.numpy())
    assert [tuple(e) for e in surface.edges.tolist()] == sorted(points)
    expected = torch.from_numpy(np.array([points[edge] for edge in sorted(points)]))
    torch.testing.assert_close(surface.vertices, expected, atol=1e-12, rtol=0)
    assert polygons_of(surface, triangle_counts(sdf < 0, tets)) == polygons


def polygons_of(surface: Isosurface, counts: Tensor) -> list[list[tuple[int, ...]]]:
    """The faces of each crossed tetrahedron joined into one polygon of edges, least first."""
    faces = iter(surface.faces.tolist())
    polygons = []
    for count in counts[counts > 0].tolist():
        corners = next(faces)
        if count == 2:
            a, c, d = next(faces)
            assert [a, c] == [corners[0], corners[2]]  # (a b c) and (a c d) share a side
            corners = [*corners, d]
        start = corners.index(min(corners))
        turned = corners[start:] + corners[:start]
        polygons.append([tuple(surface.edges[i].tolist()) for i in turned])
    return polygons


def test_grid_surface_equals_all_tets_deformed() -> None:
    grid = TetGrid(8, extent=1.3)
    sdf = noise_field(8, True, 7)
    raw = torch.randn(9**3, 3, generator=torch.manual_seed(8))
    fast = grid_surface(grid, sdf, raw)
    vertices = grid.deform(grid.vertices(), raw)
    slow = marching_tetrahedra(vertices, sdf, all_tets(grid))
    for one, other in zip(fast, slow, strict=True):
        assert torch.equal(one, other)


def test_gradients_equal_finite_differences() -> None:
    """A random functional of the surface against float64 central differences, in all inputs."""
    grid = TetGrid(3)
    generator = torch.manual_seed(9)
    sdf = noise_field(3, False, 10).double().requires_grad_()
    raw = torch.randn(64, 3, generator=generator).double().requires_grad_()
    vertices = grid.deform(grid.vertices().double(), raw).detach().requires_grad_()
    tets = all_tets(grid)
    assert float(sdf.detach().abs().min()) > 1e-3  # no sign may change in a difference
    assert torch.autograd.gradcheck(
        lambda v, s: marching_tetrahedra(v, s, tets).vertices, (vertices, sdf)
    )
    assert torch.autograd.gradcheck(
        lambda s, r: grid_surface(grid, s, r).vertices.square(), (sdf, raw)
    )


def test_lower_field_grows_the_solid() -> None:
    """d volume / d sdf of a uniform shift is minus the area, for a distance field."""
    grid = TetGrid(48)
    sdf = (grid.vertices().double().norm(dim=1) - 0.6).requires_grad_()
    vertices, faces, _ = grid_surface(grid, sdf)
    a, b, c = vertices[faces].unbind(1)
    ((a * torch.linalg.cross(b, c)).sum() / 6).backward()
    assert sdf.grad is not None
    assert float(sdf.grad.sum()) == pytest.approx(-4 * math.pi * 0.36, rel=0.01)


def test_crossings_stay_on_their_edges() -> None:
    """Values of any size, down to nothing, keep the point between the ends."""
    s = torch.tensor([[-1e-30, 1.0], [-1.0, 1e-30], [-3e30, 2e30], [-1e-42, 0.0], [2.0, -2.0]])
    ends = torch.tensor([[0.3, 0.3, 0.3], [0.7, 0.9, 0.3]]).expand(5, 2, 3)
    points = edge_crossings(ends, s)
    assert bool(((points >= ends[:, 0]) & (points <= ends[:, 1])).all())
    torch.testing.assert_close(points[[2, 4], 0], torch.tensor([0.54, 0.5]))


def stand_in(vertices: Tensor, tets: Tensor, sdf: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """What kaolin documents: batches, positive values outside, zero inside. By the slow loop."""
    field = torch.where(sdf[0] > 0, 1.0, -1.0).double().numpy()
    points, polygons = marching_tetrahedra_loop(
        vertices[0].detach().double().numpy(), field, tets.numpy()
    )
    place = {edge: index for index, edge in enumerate(sorted(points))}
    a, b = torch.tensor(sorted(points), dtype=torch.int64).view(-1, 2).unbind(1)
    s_a, s_b = sdf[0][a, None], sdf[0][b, None]
    crossings = (vertices[0][a] * s_b - vertices[0][b] * s_a) / (s_b - s_a)
    fans = [
        [place[polygon[0]], place[polygon[k]], place[polygon[k + 1]]]
        for polygon in polygons
        for k in range(1, len(polygon) - 1)
    ]
    return [crossings], [torch.tensor(fans, dtype=torch.int64).view(-1, 3)]


@pytest.fixture
def kaolin(monkeypatch: pytest.MonkeyPatch) -> None:
    package = ModuleType("kaolin.ops.conversions")
    package.marching_tetrahedra = stand_in  # type: ignore[attr-defined]
    for name in ("kaolin", "kaolin.ops"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "kaolin.ops.conversions", package)


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.usefixtures("kaolin")
def test_kaolin_backend_gives_the_same_surface(moved: bool) -> None:
    """Vertices, their edges and gradients; faces up to how a quad is cut in two."""
    grid = TetGrid(6)
    sdf = noise_field(6, False, 11)
    sdf[150:170] = 0.0
    sdf.requires_grad_()
    raw = torch.randn(7**3, 3, generator=torch.Generator().manual_seed(3)).requires_grad_()
    own = grid_surface(grid, sdf, raw if moved else None)
    other = grid_surface(grid, sdf, raw if moved else None, backend="kaolin")
    assert torch.equal(own.edges, other.edges)
    torch.testing.assert_close(own.vertices, other.vertices)
    counts = triangle_counts(sdf < 0, all_tets(grid))
    assert own.faces.shape[0] > 100
    assert polygons_of(other, counts) == polygons_of(own, counts)
    assert_closed(other.faces)
    weight = torch.randn(own.vertices.shape, generator=torch.Generator().manual_seed(4))
    # Edges on which a value is exactly zero have slopes too steep to compare.
    weight[(sdf[own.edges] == 0).any(dim=1)] = 0.0
    leaves = [sdf, raw] if moved else [sdf]
    gradients = [
        torch.autograd.grad((surface.vertices * weight).sum(), leaves) for surface in (own, other)
    ]
    for one, two in zip(*gradients, strict=True):
        assert float(one.abs().max()) > 0.01
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-3 * float(one.abs().max()))


@pytest.mark.usefixtures("kaolin")
def test_kaolin_backend_gives_no_surface_where_there_is_none() -> None:
    surface = grid_surface(TetGrid(3), torch.ones(64), backend="kaolin")
    assert [list(t.shape) for t in surface] == [[0, 3], [0, 3], [0, 2]]


def test_kaolin_itself_gives_the_same_surface() -> None:
    pytest.importorskip("kaolin.ops.conversions")
    grid, sdf = TetGrid(6), noise_field(6, False, 11)
    own, other = (grid_surface(grid, sdf, backend=backend) for backend in ("own", "kaolin"))
    torch.testing.assert_close(own.vertices, other.vertices)
    assert sorted(own.faces.tolist()) == sorted(other.faces.tolist())


def test_kaolin_backend_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kaolin", None)
    monkeypatch.setitem(sys.modules, "kaolin.ops.conversions", None)
    with pytest.raises(UserError, match=r"fine\.geometry\.isosurface: kaolin isn't installed"):
        grid_surface(TetGrid(6), noise_field(6, False, 11), backend="kaolin")


def test_bad_arguments_are_named() -> None:
    sdf = torch.tensor([-1.0, 1, 1, 1])
    with pytest.raises(ValueError, match=r"vertices: expected \[V, 3\], got \[4, 2\]"):
        marching_tetrahedra(CORNER[:, :2], sdf, ONE_TET)
    with pytest.raises(ValueError, match=r"sdf: expected \[4\], got \[3\]"):
        marching_tetrahedra(CORNER, sdf[:3], ONE_TET)
    with pytest.raises(ValueError, match=r"tets: expected \[T, 4\]"):
        marching_tetrahedra(CORNER, sdf, ONE_TET[:, :3])
    with pytest.raises(ValueError, match="inside: expected bool"):
        connectivity(sdf, ONE_TET)
    with pytest.raises(ValueError, match=r"sdf: expected \[27\], got \[8\]"):
        grid_surface(TetGrid(2), torch.zeros(8))
    with pytest.raises(IndexError, match=r"0\.\.3"):
        connectivity_numba(sdf < 0, ONE_TET + 1)
