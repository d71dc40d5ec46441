"""The Kuhn grid: a partition of the cube that conforms, and moves that cannot invert it."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest
import torch
from torch import Tensor

from maquette.fine.tetgrid import OFFSET_BOUND, TetGrid


def all_tets(grid: TetGrid) -> Tensor:
    return grid.tets(torch.arange(grid.resolution**3))


def volumes(vertices: Tensor, tets: Tensor) -> Tensor:
    a, b, c, d = vertices[tets].unbind(1)
    return torch.linalg.det(torch.stack([b - a, c - a, d - a], dim=1)) / 6


def test_vertices_are_the_lattice_with_z_fastest() -> None:
    grid = TetGrid(2, extent=3.0)
    expected = torch.tensor(list(itertools.product([-3.0, 0.0, 3.0], repeat=3)))
    assert torch.equal(grid.vertices(), expected)
    ids = torch.tensor([[26, 5], [1, 9]])
    assert torch.equal(grid.vertices(ids), expected[ids])


def test_six_equal_positive_tets_fill_every_cell() -> None:
    grid = TetGrid(3, extent=0.9)
    volume = volumes(grid.vertices().double(), all_tets(grid))
    assert volume.shape == (6 * 27,)
    torch.testing.assert_close(volume, torch.full_like(volume, 0.6**3 / 6))


def test_tets_partition_the_cube() -> None:
    """Every random point lies in exactly one tetrahedron."""
    grid = TetGrid(3)
    corners = grid.vertices().double()[all_tets(grid)]  # [T, 4, 3]
    points = 2 * torch.rand(500, 3, dtype=torch.float64, generator=torch.manual_seed(0)) - 1
    axes = (corners[:, 1:] - corners[:, :1]).transpose(1, 2)
    local = torch.linalg.solve(axes, (points[:, None] - corners[:, 0])[..., None])[..., 0]
    inside = (local > 0).all(-1) & (local.sum(-1) < 1)
    assert (inside.sum(1) == 1).all()


def test_faces_conform() -> None:
    """Inner triangles belong to two tetrahedra, those on the cube's faces to one."""
    grid = TetGrid(3)
    vertices = grid.vertices()
    shared = Counter(
        tuple(sorted(face))
        for tet in all_tets(grid).tolist()
        for face in itertools.combinations(tet, 3)
    )
    assert set(shared.values()) == {1, 2}
    for face, count in shared.items():
        corners = vertices[list(face)]
        on_a_side = bool(((corners == 1).all(0) | (corners == -1).all(0)).any())
        assert (count == 1) == on_a_side


def test_active_cells_equal_a_loop_over_corners() -> None:
    r = 5
    occupied = torch.rand((r + 1,) * 3, generator=torch.manual_seed(1)) < 0.15
    expected = [
        (x * r + y) * r + z
        for x, y, z in itertools.product(range(r), repeat=3)
        if 0 < int(occupied[x : x + 2, y : y + 2, z : z + 2].sum()) < 8
    ]
    assert TetGrid(r).active_cells(occupied).tolist() == expected
    assert 0 < len(expected) < r**3
    for constant in (torch.zeros_like(occupied), torch.ones_like(occupied)):
        assert TetGrid(r).active_cells(constant).numel() == 0


def test_tets_of_a_cell_have_its_eight_corners() -> None:
    grid = TetGrid(4, extent=2.0)
    cells = torch.tensor([0, 37, 63])
    corners = grid.vertices()[grid.tets(cells)].view(3, 24, 3)
    lowest = torch.tensor([[-2.0, -2, -2], [0, -1, -1], [1, 1, 1]])  # 37 = (2 * 4 + 1) * 4 + 1
    assert torch.equal(corners.amin(1), lowest)
    assert torch.equal(corners.amax(1), lowest + 1)
    assert all(len(set(map(tuple, c))) == 8 for c in corners.tolist())


def test_width_of_a_kuhn_tetrahedron() -> None:
    """The stated least width, from heights and distances of opposite edges."""
    a, b, c, d = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1]]).double()
    corners = [a, b, c, d]
    widths = []
    for i in range(4):
        p, q, r = (corners[j] for j in range(4) if j != i)
        normal = torch.linalg.cross(q - p, r - p)
        widths.append(float(((corners[i] - p) @ normal).abs() / normal.norm()))
    for (p, q), (r, s) in (((a, b), (c, d)), ((a, c), (b, d)), ((a, d), (b, c))):
        normal = torch.linalg.cross(q - p, s - r)
        widths.append(float(((r - p) @ normal).abs() / normal.norm()))
    assert min(widths) == pytest.approx(1 / math.sqrt(3), abs=1e-12)
    assert 0.5 / math.sqrt(3) > OFFSET_BOUND


def test_offsets_follow_the_ball_map() -> None:
    grid = TetGrid(2, extent=1.0)  # cells of size 1
    raw = torch.tensor([[0.0, 0, 0], [0, 3.0, 0], [1e6, 0, 0], [-4e8, 4e8, 4e8]])
    moved = grid.deform(torch.zeros_like(raw), raw)
    torch.testing.assert_close(moved[1], torch.tensor([0, 0.28 * 3 / 10**0.5, 0]))
    torch.testing.assert_close(moved[2], torch.tensor([0.28, 0, 0]))
    torch.testing.assert_close(moved[3], 0.28 / 3**0.5 * torch.tensor([-1.0, 1, 1]))
    small = torch.tensor([[1e-4, -2e-4, 3e-4]])
    torch.testing.assert_close(grid.deform(torch.zeros_like(small), small), 0.28 * small)


@pytest.mark.parametrize("scale", [0.3, 1.0, 1e4])
def test_random_offsets_invert_nothing(scale: float) -> None:
    grid = TetGrid(6)
    vertices = grid.vertices()
    generator = torch.manual_seed(2)
    for _ in range(20):
        raw = scale * torch.randn(vertices.shape, generator=generator)
        assert float(volumes(grid.deform(vertices, raw), all_tets(grid)).min()) > 0


def test_the_worst_offsets_invert_nothing_and_are_nearly_flat() -> None:
    """Opposite edges driven towards each other: what is left is the width minus both moves."""
    grid = TetGrid(1, extent=0.5)  # one cell of size 1
    tets = all_tets(grid)
    vertices = grid.vertices().double()
    direction = torch.tensor([1.0, -1.0, 1.0]).double()  # from edge 000-110 to edge 100-111
    raw = torch.zeros_like(vertices)
    raw[tets[0, [0, 2]]] = 1e9 * direction
    raw[tets[0, [1, 3]]] = -1e9 * direction
    left = volumes(grid.deform(vertices, raw), tets[:1])
    torch.testing.assert_close(
        left, torch.tensor([3**0.5 / 6 * (3**-0.5 - 2 * OFFSET_BOUND)]).double()
    )
    assert float(left) > 0


def test_descent_on_volume_finds_no_inversion() -> None:
    """An adversary that pushes the smallest volume down by gradient cannot pass zero."""
    grid = TetGrid(3)
    vertices, tets = grid.vertices().double(), all_tets(grid)
    raw = torch.randn(vertices.shape, generator=torch.manual_seed(3)).double().requires_grad_()
    optimizer = torch.optim.Adam([raw], lr=0.3)
    smallest = torch.inf
    for _ in range(150):
        volume = volumes(grid.deform(vertices, raw), tets) / (grid.cell_size**3 / 6)
        smallest = min(smallest, float(volume.detach().min()))
        optimizer.zero_grad()
        volume.sort().values[:40].sum().backward()
        optimizer.step()
    assert 0 < smallest < 0.2  # the adversary did get close


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="resolution: expected at least 1, got 0"):
        TetGrid(0)
    with pytest.raises(ValueError, match=r"extent: .* got -1"):
        TetGrid(4, extent=-1)
    with pytest.raises(ValueError, match=r"occupied: expected bool \[5, 5, 5\]"):
        TetGrid(4).active_cells(torch.zeros(4, 4, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="raw_offset"):
        TetGrid(4).deform(torch.zeros(5, 3), torch.zeros(4, 3))
