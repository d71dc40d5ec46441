"""Nearest points and winding numbers, against closed forms and a look at every triangle."""

from __future__ import annotations

import math

import numpy as np
import pytest
import trimesh

from maquette.fine.surface_tree import SurfaceTree, closest_weights, solid_angle


def knot() -> trimesh.Trimesh:
    shape = trimesh.creation.torus(0.6, 0.2, major_sections=40, minor_sections=20)
    shape.vertices[:, 2] += 0.3 * np.sin(4 * shape.vertices[:, 0])
    return shape


def points(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1.2, 1.2, (count, 3))


def test_the_nearest_point_is_the_nearest_of_all() -> None:
    shape = knot()
    tree = SurfaceTree.of(shape.vertices, shape.faces)
    asked = points(300)
    distance, face, weights = tree.nearest(asked)
    corners = shape.vertices[shape.faces]
    every = np.stack(
        [
            [np.linalg.norm(np.array(closest_weights(p, t)) @ t - p) for t in corners]
            for p in asked[:60]
        ]
    )
    np.testing.assert_allclose(distance[:60], every.min(axis=1), atol=1e-12)
    found = np.einsum("nk,nki->ni", weights, corners[face])
    np.testing.assert_allclose(np.linalg.norm(found - asked, axis=1), distance, atol=1e-12)
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, atol=1e-12)
    assert weights.min() >= 0.0


def test_the_nearest_point_of_a_triangle_by_trying() -> None:
    generator = np.random.default_rng(3)
    grid = np.array([(i, j, 60 - i - j) for i in range(61) for j in range(61 - i)]) / 60
    for _ in range(200):
        triangle, p = generator.normal(size=(3, 3)), generator.normal(size=3)
        found = np.linalg.norm(np.array(closest_weights(p, triangle)) @ triangle - p)
        tried = np.linalg.norm(grid @ triangle - p, axis=1).min()
        assert found <= tried + 1e-12
        assert found >= tried - 0.1


def test_nothing_beyond_the_limit() -> None:
    shape = trimesh.creation.icosphere(subdivisions=3)
    tree = SurfaceTree.of(shape.vertices, shape.faces)
    distance, face, weights = tree.nearest(np.array([[3.0, 0, 0], [1.01, 0, 0]]), limit=0.5)
    assert math.isinf(distance[0])
    assert face[0] == -1
    assert not weights[0].any()
    assert distance[1] == pytest.approx(0.01, abs=5e-3)
    assert face[1] >= 0


def test_an_octant_is_an_eighth_of_all_directions() -> None:
    octant = np.eye(3)
    assert solid_angle(np.zeros(3), octant) == pytest.approx(4 * math.pi / 8)
    assert solid_angle(np.zeros(3), octant[::-1].copy()) == pytest.approx(-4 * math.pi / 8)


def test_inside_is_one_and_outside_zero() -> None:
    shape = knot()
    tree = SurfaceTree.of(shape.vertices, shape.faces)
    asked = points(2000)
    expected = shape.contains(asked) if trimesh.ray.has_embree else None
    found = tree.winding(asked)
    exact = np.array(
        [
            sum(solid_angle(p, t) for t in shape.vertices[shape.faces]) / (4 * math.pi)
            for p in asked[:60]
        ]
    )
    np.testing.assert_allclose(exact, exact.round(), atol=1e-9)
    np.testing.assert_allclose(found[:60], exact, atol=0.02)
    assert set(found.round()) == {0.0, 1.0}
    assert np.abs(found - found.round()).max() < 0.03
    if expected is not None:
        assert np.array_equal(found > 0.5, expected)
    turned = SurfaceTree.of(shape.vertices, shape.faces[:, ::-1].copy()).winding(asked)
    np.testing.assert_allclose(turned, -found, atol=0.04)


def test_a_hole_leaves_the_inside_inside() -> None:
    ball = trimesh.creation.icosphere(subdivisions=4)
    open_ball = ball.faces[ball.triangles_center[:, 2] < 0.9]
    tree = SurfaceTree.of(ball.vertices, open_ball)
    inner, outer = tree.winding(np.array([[0, 0, 0.0], [0, 0, 1.2]]))
    exact = sum(solid_angle(np.zeros(3), t) for t in ball.vertices[open_ball]) / (4 * math.pi)
    assert exact == pytest.approx(0.95, abs=0.02)  # the cap is a twentieth of the sphere
    assert inner == pytest.approx(exact, abs=0.02)
    assert abs(outer) < 0.3


def test_one_triangle_is_enough() -> None:
    tree = SurfaceTree.of(np.eye(3), np.array([[0, 1, 2]]))
    assert tree.nearest(np.array([[1.0, 1.0, 1.0]]))[0][0] == pytest.approx(2 / math.sqrt(3))
    with pytest.raises(ValueError, match="at least one"):
        SurfaceTree.of(np.eye(3), np.zeros((0, 3), dtype=np.int64))


def test_faces_in_one_place_end() -> None:
    faces = np.tile([[0, 1, 2]], (1000, 1))
    tree = SurfaceTree.of(np.eye(3), faces)
    assert tree.nearest(np.zeros((1, 3)))[0][0] == pytest.approx(1 / math.sqrt(3))
