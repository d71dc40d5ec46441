"""Measures of meshes against shapes whose answer is known."""

from __future__ import annotations

import math

import pytest
import torch
import trimesh
from torch import Tensor

from maquette.common.scene.mesh import (
    Mesh,
    corners,
    face_areas,
    face_normals,
    opposite_vertices,
    sample_surface,
    vertex_normals,
)


def as_tensors(mesh: trimesh.Trimesh) -> tuple[Tensor, Tensor]:
    return torch.tensor(mesh.vertices), torch.tensor(mesh.faces, dtype=torch.int64)


CUBE = as_tensors(trimesh.creation.box((2, 2, 2)))
BALL = as_tensors(trimesh.creation.icosphere(subdivisions=3))
TRIANGLE = (
    torch.tensor([[0.0, 0, 0], [2, 0, 0], [0, 1, 0]], dtype=torch.float64),
    torch.tensor([[0, 1, 2]]),
)


def test_counter_clockwise_faces_look_outwards() -> None:
    assert face_normals(*TRIANGLE).tolist() == [[0.0, 0.0, 1.0]]
    assert face_areas(*TRIANGLE).tolist() == [1.0]
    flipped = TRIANGLE[1][:, [0, 2, 1]]
    assert face_normals(TRIANGLE[0], flipped).tolist() == [[0.0, 0.0, -1.0]]


def test_a_cube_has_its_area_and_outward_normals() -> None:
    vertices, faces = CUBE
    assert float(face_areas(vertices, faces).sum()) == pytest.approx(24.0)
    centres = vertices[faces].mean(dim=1)
    normals = face_normals(vertices, faces)
    # The normal is the axis on which the face's plane lies at distance one.
    torch.testing.assert_close((normals * centres).sum(dim=-1), torch.ones(12).double())
    assert sorted(map(tuple, normals.abs().round().int().unique(dim=0).tolist())) == [
        (0, 0, 1),
        (0, 1, 0),
        (1, 0, 0),
    ]


def test_vertex_normals_of_a_ball_point_outwards() -> None:
    vertices, faces = BALL
    normals = vertex_normals(vertices, faces)
    torch.testing.assert_close(normals.norm(dim=-1), torch.ones(len(vertices)).double())
    assert float((normals * vertices).sum(dim=-1).min()) > 0.999


def test_vertex_normals_are_weighted_by_area() -> None:
    # An edge between a face of area 4 in the xy plane and one of area 1/2 in the xz plane.
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 8, 0], [0, 0, 1.0]], dtype=torch.float64)
    faces = torch.tensor([[0, 1, 2], [0, 1, 3]])
    expected = torch.tensor([0.0, -0.5, 4.0], dtype=torch.float64) / math.hypot(4, 0.5)
    torch.testing.assert_close(vertex_normals(vertices, faces)[0], expected)


def test_no_area_and_no_faces_give_zero_normals() -> None:
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]])
    faces = torch.tensor([[0, 1, 2]])
    assert face_normals(vertices, faces).tolist() == [[0, 0, 0]]
    assert vertex_normals(vertices, faces[:0]).abs().sum() == 0


def test_normals_and_areas_match_finite_differences() -> None:
    generator = torch.Generator().manual_seed(1)
    vertices = torch.rand(6, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    faces = torch.tensor([[0, 1, 2], [2, 1, 3], [3, 4, 5]])
    for measure in (face_normals, face_areas, vertex_normals):
        assert torch.autograd.gradcheck(lambda v, m=measure: m(v, faces), (vertices,))


def test_corners_are_the_rows_of_the_faces() -> None:
    vertices, faces = CUBE
    for column, corner in enumerate(corners(vertices, faces)):
        assert torch.equal(corner, vertices[faces[:, column]])


def test_samples_lie_on_their_faces_evenly_by_area() -> None:
    # Two triangles of areas 1/2 and 3/2 in one plane.
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [5, 0, 0], [8, 0, 0], [5, 1, 0]])
    faces = torch.tensor([[0, 1, 2], [3, 4, 5]])
    count = 40_000
    points, index = sample_surface(vertices, faces, count, torch.Generator().manual_seed(0))
    assert float((index == 1).double().mean()) == pytest.approx(0.75, abs=0.01)
    first = points[index == 0].double()
    assert bool((first[:, :2] >= 0).all())
    assert float(first.sum(dim=1).max()) <= 1 + 1e-6
    # Uniform on the right triangle: E x = 1/3, E x^2 = 1/6, E xy = 1/12.
    assert float(first[:, 0].mean()) == pytest.approx(1 / 3, abs=0.01)
    assert float((first[:, 1] ** 2).mean()) == pytest.approx(1 / 6, abs=0.01)
    assert float((first[:, 0] * first[:, 1]).mean()) == pytest.approx(1 / 12, abs=0.005)
    assert bool((points[index == 1][:, 0] >= 5).all())


def test_the_same_generator_gives_the_same_samples() -> None:
    vertices, faces = CUBE
    one = sample_surface(vertices, faces, 50, torch.Generator().manual_seed(4))
    two = sample_surface(vertices, faces, 50, torch.Generator().manual_seed(4))
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])


def test_a_surface_without_area_cannot_be_sampled() -> None:
    vertices, faces = TRIANGLE
    with pytest.raises(ValueError, match="0 faces"):
        sample_surface(vertices, faces[:0], 5)
    with pytest.raises(ValueError, match="with area"):
        sample_surface(torch.zeros(3, 3), faces, 5)


def test_wrong_shapes_are_told() -> None:
    with pytest.raises(ValueError, match=r"vertices: expected \[V, 3\], got \[4, 2\]"):
        Mesh(torch.zeros(4, 2), torch.zeros(1, 3).long())
    with pytest.raises(ValueError, match=r"faces: expected \[F, 3\], got \[4\]"):
        Mesh(torch.zeros(4, 3), torch.zeros(4).long())


def test_a_detached_mesh_has_left_the_graph() -> None:
    vertices = CUBE[0].clone().requires_grad_()
    mesh = Mesh(vertices * 2, CUBE[1])
    assert mesh.to("cpu").vertices.requires_grad
    assert not mesh.detach().vertices.requires_grad


def test_opposite_vertices() -> None:
    faces = torch.tensor([[0, 1, 2], [2, 1, 3]])
    assert opposite_vertices(faces).tolist() == [[-1, 3, -1], [0, -1, -1]]
    three = torch.tensor([[0, 1, 2], [1, 0, 3], [0, 1, 4]])
    assert opposite_vertices(three).tolist() == [[-1] * 3] * 3
    ball = trimesh.creation.icosphere(subdivisions=3)
    faces = torch.tensor(ball.faces).long()
    opposite = opposite_vertices(faces)
    thirds = {}
    for a, b, c in faces.tolist():
        thirds.update({(a, b): c, (b, c): a, (c, a): b})
    for face, row in zip(faces.tolist(), opposite.tolist(), strict=True):
        assert row == [thirds[face[(i + 1) % 3], face[i]] for i in range(3)]
    assert opposite_vertices(faces[:0]).shape == (0, 3)


def test_opposite_vertices_of_any_soup_equal_those_of_a_search() -> None:
    """Borders, edges of two faces wound either way, and edges that many faces share."""
    faces = torch.randint(0, 9, (60, 3), generator=torch.Generator().manual_seed(2))
    distinct = (faces != faces.roll(1, dims=1)).all(dim=1)
    faces = faces[distinct]
    found = opposite_vertices(faces)
    for f, face in enumerate(faces.tolist()):
        for i in range(3):
            edge = {face[i], face[(i + 1) % 3]}
            mates = [
                other[(k + 2) % 3]
                for g, other in enumerate(faces.tolist())
                for k in range(3)
                if (g, k) != (f, i) and {other[k], other[(k + 1) % 3]} == edge
            ]
            assert int(found[f, i]) == (mates[0] if len(mates) == 1 else -1)
    assert int((found >= 0).sum()) > 4
