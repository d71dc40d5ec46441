"""FlexiCubes: its table, closedness, known shapes, gradients, and corners that stay sharp."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from torch import Tensor

from maquette.common.scene.mesh import face_areas, sample_surface
from maquette.fine import flexicubes
from maquette.fine.flexicubes import EDGES, WEIGHTS, dual_surface, loops
from maquette.fine.isosurface import grid_surface
from maquette.fine.tetgrid import TetGrid
from tests.fine.test_isosurface import assert_closed, noise_field, surface_volume


def random_weights(grid: TetGrid, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(grid.resolution**3, WEIGHTS, generator=torch.manual_seed(seed))


@pytest.mark.parametrize("joined", [False, True])
def test_each_crossed_edge_is_in_one_loop(joined: bool) -> None:
    table = loops(joined)
    for case in range(256):
        crossed = [(case >> a & 1) != (case >> b & 1) for a, b in EDGES]
        assert [loop >= 0 for loop in table.of_edge[case]] == crossed
        sizes = Counter(loop for loop in table.of_edge[case] if loop >= 0)
        assert sorted(sizes) == list(range(table.count[case]))
        assert all(3 <= size <= 7 for size in sizes.values())
    # Four corners no two of which are neighbours: each has a loop of its own, or around the others.
    assert table.count[0b10010110] == table.count[0b01101001] == 4
    # Inside and outside change places with the rule.
    assert all(table.count[case] == loops(not joined).count[255 - case] for case in range(256))


def test_the_crowded_cases_are_the_paper_s() -> None:
    """Configurations 16 and 19, in all their turns: one loop, which the other rule makes two."""
    found = [case for case in range(256) if loops().crowded[case] >= 0]
    assert sorted(Counter(case.bit_count() for case in found).items()) == [(5, 24), (6, 12)]
    assert all(loops().count[case] == 1 and loops(joined=True).count[case] == 2 for case in found)


@pytest.mark.parametrize("smooth", [True, False])
def test_closed_on_random_fields(smooth: bool) -> None:
    grid = TetGrid(10)
    for seed in range(3):
        sdf = noise_field(10, smooth, seed)
        offset = torch.randn(11**3, 3, generator=torch.manual_seed(seed))
        for centred in (True, False):
            surface = dual_surface(grid, sdf, offset, random_weights(grid, seed), centred)
            assert_closed(surface.faces)
            assert surface_volume(surface.vertices, surface.faces) > 0
            used = torch.unique(surface.faces)
            assert len(used) == len(surface.vertices)
            assert bool(((sdf < 0)[surface.edges].sum(1) == 1).all())


def test_two_crowded_cells_that_meet_would_join_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flexicubes, "loops", lambda joined=False: loops())
    grid = TetGrid(10)
    faces = dual_surface(grid, noise_field(10, False, 0)).faces
    with pytest.raises(AssertionError):
        assert_closed(faces)


def test_a_plane_is_exact_and_a_ball_converges() -> None:
    grid = TetGrid(5)
    normal = torch.tensor([2.0, 3.0, 6.0]) / 7
    surface = dual_surface(grid, grid.vertices() @ normal - 0.05)
    torch.testing.assert_close(
        surface.vertices @ normal, torch.full((len(surface.vertices),), 0.05)
    )
    a, b, c = surface.vertices[surface.faces].unbind(1)
    assert bool((torch.linalg.cross(b - a, c - a) @ normal > 0).all())
    errors = []
    for resolution in (12, 24):
        grid = TetGrid(resolution)
        vertices, faces, _, _ = dual_surface(grid, grid.vertices().norm(dim=1) - 0.7)
        assert_closed(faces)
        volume = surface_volume(vertices, faces) / (4 / 3 * math.pi * 0.7**3)
        area = float(face_areas(vertices, faces).sum()) / (4 * math.pi * 0.7**2)
        errors.append((1 - volume, 1 - area))
    assert all(3 < coarse / fine < 5 for coarse, fine in zip(*errors, strict=True))
    assert 0 < errors[-1][0] < 0.03


def test_no_surface_is_a_result() -> None:
    grid = TetGrid(3)
    surface = dual_surface(grid, torch.ones(64), centred=True)
    assert [list(t.shape) for t in surface] == [[0, 3], [0, 3], [0, 2], []]


def test_one_inside_point_in_numbers() -> None:
    """Eight cells around the middle of a lattice of two cells: a box of half a cell each way."""
    grid = TetGrid(2)
    sdf = torch.ones(27)
    sdf[13] = -1.0
    surface = dual_surface(grid, sdf)
    third = torch.full((8, 3), 1 / 6)  # the mean of three crossings at a half
    torch.testing.assert_close(surface.vertices.abs(), third)
    assert surface.faces.shape == (12, 3)
    assert surface_volume(surface.vertices, surface.faces) == pytest.approx(1 / 27)
    assert float(surface.spread) == pytest.approx(0.0, abs=1e-6)
    # A corner of weight 3 draws the crossing to a quarter; an edge's weight draws the vertex to it.
    weights = torch.zeros(8, WEIGHTS)
    weights[:, 12:20] = torch.atanh(torch.tensor(2.0 / 3 / 0.99 - 1))
    same = dual_surface(grid, sdf, None, weights)
    torch.testing.assert_close(same.vertices.abs(), third)  # all corners alike: nothing changes
    weights = torch.zeros(8, WEIGHTS)
    weights[:, :4] = 50.0  # edges along x count twice
    found = dual_surface(grid, sdf, None, weights).vertices.abs()
    expected = torch.tensor([0.5 * 1.99 / 3.99, 0.5 / 3.99, 0.5 / 3.99])
    torch.testing.assert_close(found, expected.expand(8, 3))


def test_gradients_are_those_of_finite_differences() -> None:
    grid = TetGrid(4)
    generator = torch.manual_seed(3)
    sdf = noise_field(4, False, 1).double()
    sdf = torch.where(sdf.abs() < 0.05, 0.05, sdf).requires_grad_()
    offset = torch.randn(125, 3, generator=generator).double().requires_grad_()
    weights = random_weights(grid, 4).double().requires_grad_()
    shape = dual_surface(grid, sdf, offset, weights, centred=True)
    cotangent = torch.randn(shape.vertices.shape, generator=generator).double()

    def value(*inputs: Tensor) -> Tensor:
        found = dual_surface(grid, *inputs, centred=True)
        return (found.vertices * cotangent).sum() + found.spread

    inputs = (sdf, offset, weights)
    slopes = torch.autograd.grad(value(*inputs), inputs)
    for index, slope in enumerate(slopes):
        turn = torch.randn(slope.shape, generator=generator).double()
        sides = []
        for sign in (1.0, -1.0):
            moved = [x.detach() for x in inputs]
            moved[index] = moved[index] + sign * 1e-6 * turn
            sides.append(float(value(*moved)))
        assert (sides[0] - sides[1]) / 2e-6 == pytest.approx(float((slope * turn).sum()), rel=1e-5)


def box_distance(points: Tensor) -> Tensor:
    """Signed distance to a box, turned so that no face follows the lattice."""
    axis = torch.tensor([[0.8, 0.6, 0], [-0.48, 0.64, 0.6], [0.36, -0.48, 0.8]])
    outer = (points @ axis.T).abs() - torch.tensor([0.5, 0.42, 0.36])
    beyond = outer.clamp_min(0).square().sum(1).clamp_min(1e-12).sqrt()
    return beyond + outer.amax(1).clamp_max(0)


@pytest.mark.slow
def test_it_learns_sharper_edges_than_tetrahedra() -> None:
    """From a ball to a turned box, by the distances of points on the surface alone."""
    grid = TetGrid(12)
    left = {}
    for kind in ("flexicubes", "tetrahedra"):
        sdf = (box_distance(grid.vertices()) / grid.cell_size).requires_grad_()
        offset = torch.zeros(13**3, 3, requires_grad=True)
        weights = torch.zeros(12**3, WEIGHTS, requires_grad=True)
        optimizer = torch.optim.Adam([sdf, offset, weights], lr=1e-2)
        generator = torch.Generator().manual_seed(0)
        for _ in range(80):
            if kind == "flexicubes":
                surface = dual_surface(grid, sdf, offset, weights, centred=True)
            else:
                surface = grid_surface(grid, sdf, offset)
            points, _ = sample_surface(surface.vertices, surface.faces, 2000, generator)
            loss = box_distance(points).abs().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        points, _ = sample_surface(surface.detach().vertices, surface.faces, 20_000, generator)
        left[kind] = float(box_distance(points).abs().mean()) / grid.cell_size
    assert left["flexicubes"] < 0.7 * left["tetrahedra"], left
