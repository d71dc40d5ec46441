"""Surface losses: hand-worked values, invariances, gradients."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from maquette.common.scene.mesh import adjacent_faces, face_normals
from maquette.fine.isosurface import grid_surface
from maquette.fine.regularizers import laplacian_loss, normal_consistency, sdf_sign_loss
from maquette.fine.tetgrid import TetGrid

Mesh = tuple[Tensor, Tensor]  # vertices and faces

TETRAHEDRON = torch.tensor([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
OCTAHEDRON = torch.tensor(
    [[0, 2, 4], [2, 1, 4], [1, 3, 4], [3, 0, 4], [2, 0, 5], [1, 2, 5], [3, 1, 5], [0, 3, 5]]
)
OCTAHEDRON_VERTICES = torch.tensor(
    [[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]]
)


def flat_sheet(side: int) -> tuple[Tensor, Tensor]:
    """A flat square sheet of `side^2` vertices in the plane z = x."""
    index = torch.arange(side * side).view(side, side)
    a, b, c, d = index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]
    faces = torch.cat([torch.stack(t, -1).reshape(-1, 3) for t in ((a, b, c), (a, c, d))])
    x, y = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return torch.stack([x, y, x], dim=-1).reshape(-1, 3).double(), faces


def cube() -> tuple[Tensor, Tensor]:
    """The unit cube of 8 vertices and 12 faces."""
    vertices = torch.tensor([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)]).double()
    quads = [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]]
    return vertices, torch.tensor([t for a, b, c, d in quads for t in ([a, b, c], [a, c, d])])


def blob() -> tuple[Tensor, Tensor]:
    grid = TetGrid(5)
    field = grid.vertices().double().square().sum(1) - 0.5
    field = field + 0.1 * torch.rand(216, generator=torch.manual_seed(0)).double()
    surface = grid_surface(grid, field)
    return surface.vertices, surface.faces


def test_normals_of_known_solids() -> None:
    vertices, faces = flat_sheet(5)
    assert float(normal_consistency(vertices, faces)) < 1e-12
    # A cube: 12 edges with normals at right angles count 1 each, 6 flat diagonals 0.
    assert float(normal_consistency(*cube())) == pytest.approx(12 / 18)
    # Octahedron (+-1, +-1, +-1)/sqrt(3): cos = 1/3. Regular tetrahedron: cos = -1/3.
    octahedron = normal_consistency(OCTAHEDRON_VERTICES, OCTAHEDRON)
    assert float(octahedron) == pytest.approx(2 / 3)
    regular = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    loss = normal_consistency(regular, TETRAHEDRON)
    assert float(loss) == pytest.approx(4 / 3)


def test_weights_are_the_smaller_areas() -> None:
    """Three faces in a strip: folded by 90 degrees at edge 12, flat at edge 23."""
    vertices = torch.tensor([[0.0, 0, 2], [0, 0, 0], [0, 1, 0], [1, 0, 0], [1, 1, 0]])
    faces = torch.tensor([[0, 1, 2], [1, 3, 2], [3, 4, 2]])  # areas 1, 1/2, 1/2
    assert float(normal_consistency(vertices, faces)) == pytest.approx(0.5)
    vertices[4] = torch.tensor([0.6, 0.6, 0])  # area of the last face: 0.1
    weighted = normal_consistency(vertices, faces)
    assert float(weighted) == pytest.approx(0.5 / (0.5 + 0.1))


def test_faces_without_area_are_left_out() -> None:
    """A cube with a vertex doubled: its two empty faces change nothing and give no NaN."""
    vertices, faces = cube()
    vertices = torch.cat([vertices, vertices[7:]])
    slit = faces.clone()
    slit[2] = torch.tensor([4, 6, 8])  # 4 6 7 with the corner 7 replaced by its double
    slit = torch.cat([slit, torch.tensor([[6, 7, 8], [7, 4, 8]])])
    vertices.requires_grad_()
    loss = normal_consistency(vertices, slit)
    (gradient,) = torch.autograd.grad(loss, vertices)
    assert bool(torch.isfinite(gradient).all())
    assert 0 < float(loss.detach()) < 1
    empty = normal_consistency(vertices.detach(), faces[:0])
    assert float(empty) == 0


def test_slivers_bound_the_weighted_gradient() -> None:
    """Two faces of height h: a plain mean's gradient grows as 1/h, the weighted one's does not."""

    def plain_mean(vertices: Tensor, faces: Tensor) -> Tensor:
        left, right = face_normals(vertices, faces)[adjacent_faces(faces)].unbind(1)
        return (1 - (left * right).sum(dim=1)).mean()

    gradients = []
    for height in (1e-2, 1e-6):
        vertices = torch.tensor(
            [[0, 0, 0], [1, 0, 0], [0.5, height, 0], [0.5, 0, 1], [0.5, -1, 0.3]]
        ).double().requires_grad_()  # fmt: skip
        faces = torch.tensor([[0, 1, 2], [1, 0, 4], [1, 3, 4]])
        row = []
        for loss in (plain_mean, normal_consistency):
            value = loss(vertices, faces)
            row.append(float(torch.autograd.grad(value, vertices)[0].abs().max()))
        gradients.append(row)
    assert gradients[1][0] > 1e3 * gradients[0][0]
    assert gradients[1][1] < 10 * gradients[0][1]


def test_laplacian_of_known_solids() -> None:
    # Octahedron: the four neighbours of a vertex average to 0, at distance 1.
    assert float(laplacian_loss(OCTAHEDRON_VERTICES, OCTAHEDRON)) == pytest.approx(1)
    assert float(laplacian_loss(3 * OCTAHEDRON_VERTICES, OCTAHEDRON)) == pytest.approx(9)
    # Regular tetrahedron about 0: the neighbours average to -v/3, so 16/9 |v|^2 with |v|^2 = 3.
    regular = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    assert float(laplacian_loss(regular + 5, TETRAHEDRON)) == pytest.approx(16 / 3)
    # A vertex of no face changes nothing.
    with_stray = torch.cat([regular, torch.full((1, 3), 100.0)])
    assert float(laplacian_loss(with_stray, TETRAHEDRON)) == pytest.approx(16 / 3)
    assert float(laplacian_loss(regular, TETRAHEDRON[:0])) == 0


def test_laplacian_is_the_mean_over_neighbours() -> None:
    vertices, faces = blob()
    around: list[set[int]] = [set() for _ in vertices]
    for a, b, c in faces.tolist():
        around[a] |= {b, c}
        around[b] |= {a, c}
        around[c] |= {a, b}
    rows = [vertices[sorted(n)].mean(0) - v for n, v in zip(around, vertices, strict=True)]
    expected = torch.stack(rows).square().sum(1).mean()
    torch.testing.assert_close(laplacian_loss(vertices, faces), expected)


def test_a_flat_regular_sheet_has_no_inner_laplacian() -> None:
    vertices, faces = flat_sheet(5)
    vertices.requires_grad_()
    laplacian_loss(vertices, faces).backward()
    assert vertices.grad is not None
    assert float(vertices.grad[12].abs().max()) < 1e-12  # the centre neither sees nor is a border


def test_sign_loss_by_hand() -> None:
    """Edge (-1, 2): log(1 + e) + log(1 + e^2); edges of one sign count nothing."""
    sdf = torch.tensor([-1.0, 2.0, 3.0, -4.0])
    edges = torch.tensor([[0, 1], [1, 2], [0, 3]])
    expected = math.log(1 + math.e) + math.log(1 + math.e**2)
    assert float(sdf_sign_loss(sdf, edges)) == pytest.approx(expected)
    assert float(sdf_sign_loss(sdf, edges.flip(1))) == pytest.approx(expected)
    assert float(sdf_sign_loss(sdf, edges[1:])) == 0
    # Zero is outside: (-1, 0) is a change, (0, 2) is none.
    zero = torch.tensor([-1.0, 0.0, 2.0])
    loss = sdf_sign_loss(zero, torch.tensor([[0, 1], [1, 2]]))
    assert float(loss) == pytest.approx(math.log(1 + math.e) + math.log(2))


def test_sign_loss_draws_both_ends_over() -> None:
    """Descent raises what is inside and lowers what is outside, and no other value."""
    sdf = torch.tensor([-1.0, 2.0, 5.0], requires_grad=True)
    sdf_sign_loss(sdf, torch.tensor([[0, 1], [1, 2]])).backward()
    assert sdf.grad is not None
    expected = [-1 / (1 + math.exp(-1)), 1 / (1 + math.exp(-2)), 0]
    torch.testing.assert_close(sdf.grad, torch.tensor(expected))


def test_gradients_equal_finite_differences() -> None:
    vertices, faces = cube()
    vertices = vertices + 0.2 * torch.randn(8, 3, generator=torch.manual_seed(3)).double()
    vertices.requires_grad_()
    assert torch.autograd.gradcheck(lambda v: laplacian_loss(v, faces), vertices)
    sdf = torch.randn(60, generator=torch.manual_seed(4)).double().requires_grad_()
    edges = torch.randint(0, 60, (200, 2), generator=torch.manual_seed(5))
    assert torch.autograd.gradcheck(lambda s: sdf_sign_loss(s, edges), sdf)


@pytest.mark.parametrize("shape", [cube, blob])
def test_weighted_gradient_holds_the_weights_still(shape: Callable[[], Mesh]) -> None:
    vertices, faces = shape()
    pairs = adjacent_faces(faces)
    if shape is cube:
        vertices = vertices + 0.2 * torch.randn(8, 3, generator=torch.manual_seed(3)).double()
    vertices = vertices.detach().requires_grad_()

    def normals(v: Tensor) -> Tensor:
        a, b, c = v[faces].unbind(1)
        return torch.linalg.cross(b - a, c - a)

    area = normals(vertices).norm(dim=1).detach()
    weight = area[pairs].min(dim=1).values

    def loss(v: Tensor) -> Tensor:
        unit = torch.nn.functional.normalize(normals(v), dim=1)
        cosine = (unit[pairs[:, 0]] * unit[pairs[:, 1]]).sum(1)
        return (weight * (1 - cosine)).sum() / weight.sum()

    if shape is cube:
        assert torch.autograd.gradcheck(loss, vertices)
    torch.testing.assert_close(normal_consistency(vertices, faces), loss(vertices))
    expected = torch.autograd.grad(loss(vertices), vertices)[0]
    ours = torch.autograd.grad(normal_consistency(vertices, faces), vertices)[0]
    torch.testing.assert_close(ours, expected)
