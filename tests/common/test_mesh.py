"""Measures of meshes against shapes whose answer is known."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import trimesh
from torch import Tensor

from maquette.common.scene.mesh import (
    Mesh,
    adjacent_faces,
    corners,
    face_areas,
    face_normals,
    half_edges,
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


def soup(seed: int, vertices: int, count: int) -> Tensor:
    """Random faces of three different vertices."""
    faces = torch.randint(0, vertices, (count, 3), generator=torch.Generator().manual_seed(seed))
    return faces[(faces != faces.roll(1, dims=1)).all(dim=1)]


def faces_at_edges(faces: Tensor) -> dict[frozenset[int], list[int]]:
    """The half-edges 3f + i of every edge, in ascending order."""
    found: dict[frozenset[int], list[int]] = {}
    for f, face in enumerate(faces.tolist()):
        for i in range(3):
            found.setdefault(frozenset((face[i], face[(i + 1) % 3])), []).append(3 * f + i)
    return found


# From a few faces that hardly meet to a crowd in which most edges are shared by many.
SOUPS = [(seed, *size) for seed in range(4) for size in ((40, 12), (12, 30), (9, 60), (5, 60))]


def test_soups_have_borders_pairs_and_crowded_edges() -> None:
    counts = [len(mates) for one in SOUPS for mates in faces_at_edges(soup(*one)).values()]
    for wanted in (1, 2, 3):
        assert counts.count(wanted) > 30
    assert max(counts) > 6


@pytest.mark.parametrize("case", SOUPS)
def test_opposite_vertices_of_any_soup_equal_those_of_a_search(case: tuple[int, int, int]) -> None:
    """Borders, edges of two faces wound either way, and edges that more faces share."""
    faces = soup(*case)
    expected = torch.full_like(faces, -1)
    for mates in faces_at_edges(faces).values():
        if len(mates) == 2:
            for own, other in (mates, mates[::-1]):
                expected[own // 3, own % 3] = faces[other // 3, (other % 3 + 2) % 3]
    assert torch.equal(opposite_vertices(faces), expected)


@pytest.mark.parametrize("case", SOUPS)
def test_half_edges_and_neighbours_of_any_soup_equal_those_of_a_search(
    case: tuple[int, int, int],
) -> None:
    """Edge by edge in the order of their vertices; where more than two meet, each with the next."""
    faces = soup(*case)
    edges = sorted(faces_at_edges(faces).items(), key=lambda item: sorted(item[0]))
    key, half_edge = half_edges(faces)
    assert half_edge.tolist() == [own for _, mates in edges for own in mates]
    assert torch.unique_consecutive(key, return_counts=True)[1].tolist() == [
        len(mates) for _, mates in edges
    ]
    assert bool((key.diff() >= 0).all())
    assert adjacent_faces(faces).tolist() == [
        [one // 3, two // 3] for _, mates in edges for one, two in itertools.pairwise(mates)
    ]


def test_neighbours_of_a_tetrahedron() -> None:
    """Ascending by edge: 01, 02, 03, 12, 13, 23."""
    faces = torch.tensor([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
    assert adjacent_faces(faces).tolist() == [[0, 1], [0, 2], [1, 2], [0, 3], [1, 3], [2, 3]]


def test_neighbours_on_a_closed_surface_equal_a_loop_over_pairs() -> None:
    faces = as_tensors(trimesh.creation.icosphere(subdivisions=2))[1]
    pairs = {tuple(p) for p in adjacent_faces(faces).tolist()}
    meeting = [set(f) for f in faces.tolist()]
    count = len(meeting)
    expected = {(i, j) for i in range(count) for j in range(i) if len(meeting[i] & meeting[j]) == 2}
    assert {tuple(sorted(p, reverse=True)) for p in pairs} == expected
    assert len(pairs) == len(adjacent_faces(faces)) == 3 * count // 2


def test_borders_and_nothing_have_no_neighbours() -> None:
    assert adjacent_faces(torch.tensor([[0, 1, 2]])).shape == (0, 2)
    assert adjacent_faces(torch.zeros(0, 3, dtype=torch.int64)).shape == (0, 2)
    index = torch.arange(16).view(4, 4)  # a sheet of 3 x 3 quads, with 12 edges around it
    a, b, c, d = index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]
    faces = torch.cat([torch.stack(t, -1).reshape(-1, 3) for t in ((a, b, c), (a, c, d))])
    assert adjacent_faces(faces).shape[0] == (3 * faces.shape[0] - 12) // 2
    for function in (adjacent_faces, opposite_vertices, half_edges):
        with pytest.raises(ValueError, match=r"faces: expected \[F, 3\], got \[4, 2\]"):
            function(torch.zeros(4, 2, dtype=torch.int64))
