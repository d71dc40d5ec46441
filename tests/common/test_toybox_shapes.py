"""The toybox's primitives: closed, outward, and of the volume that geometry gives them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from maquette.common.toybox import shapes
from maquette.common.toybox.shapes import Solid, signed_volume

L_SHAPE = [(0, 0), (2, 0), (2, 1), (1, 1), (1, 2), (0, 2)]

SOLIDS = {
    "ellipsoid": (shapes.ellipsoid(1.0, 0.8, 0.6), 4 / 3 * math.pi * 0.48),
    "cylinder": (shapes.cylinder(0.5, 1.2, bevel=0.001), math.pi * 0.25 * 1.2),
    "frustum": (
        shapes.frustum(0.6, 0.2, 0.9, bevel=0.001),
        math.pi / 3 * 0.9 * (0.36 + 0.12 + 0.04),
    ),
    "capsule": (
        shapes.capsule((0.1, 0, 0), (0.1, 0, 1), 0.4),
        math.pi * 0.16 + 4 / 3 * math.pi * 0.064,
    ),
    "torus": (shapes.torus(0.7, 0.2), 2 * math.pi**2 * 0.7 * 0.04),
    "lathe": (shapes.lathe([(0.5, 0), (0.5, 1)]), math.pi * 0.25),
    "tube": (
        shapes.tube([(math.cos(a), math.sin(a), 0) for a in np.linspace(0, math.pi, 40)], 0.2),
        math.pi * math.pi * 0.04 + 4 / 3 * math.pi * 0.008,
    ),
    "sharp box": (shapes.box(1.0, 0.6, 0.4, bevel=0.0), 0.24),
    "round box": (
        shapes.box(1.0, 1.0, 1.0, bevel=0.5, steps=8),  # all bevel: nearly a ball
        4 / 3 * math.pi * 0.125,
    ),
    "prism": (shapes.prism(L_SHAPE, 0.5, bevel=0.0), 1.5),
    "hull": (shapes.hull([(x, 0, 0.5, 0.25, 2) for x in (0, 1, 2)]), math.pi * 0.125 * 2),
}


def edges_pair_up(faces: np.ndarray) -> bool:
    """Whether every directed edge occurs once and its opposite once."""
    edges = faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2)
    size = faces.max() + 1
    there, back = edges @ [size, 1], edges @ [1, size]
    once = len(np.unique(there)) == len(there)
    return once and bool(np.array_equal(np.sort(there), np.sort(back)))


@pytest.mark.parametrize("name", SOLIDS)
def test_solid_is_closed_and_has_its_volume(name: str) -> None:
    solid, volume = SOLIDS[name]
    assert edges_pair_up(solid.faces)
    assert signed_volume(solid.vertices, solid.faces) == pytest.approx(volume, rel=0.06)


@pytest.mark.parametrize("name", SOLIDS)
def test_transforms_keep_solids_outward(name: str) -> None:
    solid, _ = SOLIDS[name]
    volume = signed_volume(solid.vertices, solid.faces)
    for other, factor in (
        (solid.mirrored(), 1.0),
        (solid.moved(1.0, -2.0, 3.0), 1.0),
        (solid.scaled(2.0, 0.5, -3.0), 3.0),
        (solid.turned("y", 123.0), 1.0),
    ):
        assert edges_pair_up(other.faces)
        assert signed_volume(other.vertices, other.faces) == pytest.approx(factor * volume)


def test_turns_are_counter_clockwise() -> None:
    point = Solid(np.array([[1.0, 2.0, 3.0]]), np.zeros((0, 3), dtype=np.int64))
    np.testing.assert_allclose(point.turned("x", 90).vertices, [[1, -3, 2]], atol=1e-12)
    np.testing.assert_allclose(point.turned("y", 90).vertices, [[3, 2, -1]], atol=1e-12)
    np.testing.assert_allclose(point.turned("z", 90).vertices, [[-2, 1, 3]], atol=1e-12)


def test_box_reaches_its_sizes_and_rounds_its_corners() -> None:
    box = shapes.box(1.0, 0.6, 0.4, bevel=0.1)
    np.testing.assert_allclose(box.vertices.max(axis=0), [0.5, 0.3, 0.2])
    np.testing.assert_allclose(box.vertices.min(axis=0), [-0.5, -0.3, -0.2])
    core = np.clip(box.vertices, [-0.4, -0.2, -0.1], [0.4, 0.2, 0.1])
    np.testing.assert_allclose(np.linalg.norm(box.vertices - core, axis=-1), 0.1)


def test_spline_passes_through_its_points() -> None:
    points = np.array([(0.0, 0.0), (1.0, 0.5), (1.5, 2.0), (0.0, 3.0)])
    np.testing.assert_allclose(shapes.spline(points, 13)[::4], points, atol=1e-12)


def test_rounded_outline_stays_inside_and_keeps_the_ends() -> None:
    line = shapes.rounded([(0, 0), (1, 0), (1, 1)], 0.2)
    np.testing.assert_allclose(line[[0, -1]], [(0, 0), (1, 1)])
    assert np.linalg.norm(line - [1, 0], axis=-1).min() > 0.05
    np.testing.assert_allclose(line[1], (0.8, 0))
    ring = shapes.rounded([(0, 0), (1, 0), (1, 1), (0, 1)], 0.2, closed=True)
    assert len(ring) == 4 * 5
    assert ring.min() >= 0
    assert ring.max() <= 1


def test_triangles_tile_a_concave_polygon() -> None:
    polygon = np.array(L_SHAPE, dtype=float)
    a, b, c = polygon[shapes.triangulate(polygon)].transpose(1, 0, 2)
    areas = 0.5 * ((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0])
    assert areas.min() > 0
    assert areas.sum() == pytest.approx(3.0)


def test_a_clockwise_polygon_is_refused() -> None:
    with pytest.raises(ValueError, match="simple counter-clockwise"):
        shapes.triangulate(np.array([(0, 0), (0, 1), (1, 1), (1, 0.0)]))
