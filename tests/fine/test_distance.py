"""The signed distance to a volume's surface."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import trimesh
from scipy import ndimage

from maquette.fine.distance import signed_distance, squared_to_triangle
from maquette.fine.isosurface import grid_surface
from maquette.fine.tetgrid import TetGrid
from tests.reference.volumes import BOX, CENTRE, Array, box, lattice, ramp, sphere, torus


@pytest.mark.parametrize("shape", [sphere, torus, box])
def test_distance_equals_the_analytic_one(shape: Callable[[Array], Array]) -> None:
    size = 65
    cell = 2 / (size - 1)
    volume = ramp(shape(lattice(size)), size)
    points = lattice(41, extent=1.1)  # another lattice, in part outside the cube
    truth = shape(points)
    ours = signed_distance(volume, 0.5, 1.0, points)
    assert ours.dtype == np.float32
    assert ours.shape == truth.shape
    error = np.abs(ours - truth) / cell
    band = np.abs(truth) < 3 * cell
    if shape is box:  # marching tetrahedra bevels a sharp edge by up to half a cell
        outer = np.sort(np.abs(points - CENTRE) - BOX, axis=1)
        band &= outer[:, 1] < -3 * cell
    assert error[band].max() < 0.15
    assert np.sqrt((error[band] ** 2).mean()) < 0.03
    assert error.max() < 1.5
    clear = np.abs(truth) > 0.5 * cell
    assert ((ours < 0) == (truth < 0))[clear].all()


def test_distance_is_exact_to_the_surface_in_the_band() -> None:
    """Against the closest point on the extracted mesh by trimesh, near and far."""
    size = 13
    volume = np.random.default_rng(3).uniform(size=(size,) * 3)
    volume = ndimage.gaussian_filter(volume, 1.5).astype(np.float32)
    level = float(np.quantile(volume, 0.6))
    field = level - volume
    field[[0, -1]] = field[:, [0, -1]] = field[:, :, [0, -1]] = np.abs(level)
    surface = grid_surface(TetGrid(size - 1), torch.from_numpy(np.minimum(field, level)).view(-1))
    points = np.random.default_rng(4).uniform(-1, 1, size=(200, 3))
    mesh = trimesh.Trimesh(surface.vertices, surface.faces, process=False)
    _, expected, _ = trimesh.proximity.closest_point_naive(mesh, points)
    ours = np.abs(signed_distance(volume, level, 1.0, points, band_cells=1.5))
    near = expected < 0.25  # the band asked for: one cell and a half
    assert 100 < near.sum() < 200
    np.testing.assert_allclose(ours[near], expected[near], atol=1e-5)
    assert (ours >= expected - 1e-5).all()
    assert (ours - expected).max() < 2 / 12


def test_sign_on_the_lattice_is_the_comparison() -> None:
    size = 17
    volume = np.random.default_rng(5).uniform(size=(size,) * 3).astype(np.float32)
    volume.reshape(-1)[::7] = 0.5  # exactly the level: outside
    inside = signed_distance(volume, 0.5, 1.0, lattice(size)).reshape(volume.shape) < 0
    expected = volume > 0.5
    expected[[0, -1]] = expected[:, [0, -1]] = expected[:, :, [0, -1]] = False
    assert (inside == expected).all()


def test_distance_has_unit_slope_and_no_stairs() -> None:
    """Neighbours a twentieth of a cell apart differ by that in the band, and nearly so far away."""
    volume = ramp(sphere(lattice(25)), 25, cells=1.5)
    line = np.linspace(-0.99, 0.99, 480)
    points = np.stack([line, 0.11 + 0 * line, 0.07 + 0 * line], axis=1)
    distance = signed_distance(volume, 0.5, 1.0, points)
    steps, apart, cell = np.abs(np.diff(distance)), line[1] - line[0], 2 / 24
    near = np.abs(distance[1:]) < 2.9 * cell
    assert near.sum() > 100
    assert steps[near].max() <= 1.001 * apart
    assert np.median(steps[near]) > 0.97 * apart
    assert steps.max() < 0.25 * cell


def test_distance_needs_a_surface() -> None:
    volume = np.zeros((5, 5, 5), np.float32)
    with pytest.raises(ValueError, match="level: expected one that the volume exceeds"):
        signed_distance(volume, 0.5, 1.0, lattice(5))
    volume[0] = 1  # only on a face of the cube
    with pytest.raises(ValueError, match="level"):
        signed_distance(volume, 0.5, 1.0, lattice(5))
    full = signed_distance(np.ones((5, 5, 5), np.float32), 0.5, 1.0, np.zeros((1, 3)))
    assert full[0] < 0


def test_triangle_distance_by_hand() -> None:
    triangle = np.array([[0.0, 0, 0], [2, 0, 0], [0, 2, 0]])
    cases = {
        (0.5, 0.5, 3.0): 9.0,  # over the face
        (-1.0, -1.0, 1.0): 3.0,  # nearest a corner
        (1.0, -2.0, 1.0): 5.0,  # nearest a side
        (2.0, 2.0, 0.0): 2.0,  # nearest the long side
        (0.5, 0.5, 0.0): 0.0,
    }
    for point, expected in cases.items():
        assert squared_to_triangle(*point, triangle) == pytest.approx(expected)
        assert squared_to_triangle(*point, triangle[[0, 2, 1]]) == pytest.approx(expected)
    segment = np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]])
    assert squared_to_triangle(1.5, 3.0, 4.0, segment) == pytest.approx(25)
    assert squared_to_triangle(3.0, 4.0, 0.0, np.zeros((3, 3))) == pytest.approx(25)
