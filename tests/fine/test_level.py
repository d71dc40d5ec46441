"""The level whose silhouettes fit, and the occupancy that is smooth there."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage

from maquette.common.scene.mesh import face_areas, face_normals
from maquette.fine.cleaning import fill_cavities, remove_floaters
from maquette.fine.distance import signed_distance
from maquette.fine.isosurface import grid_surface
from maquette.fine.level import (
    best_level,
    max_along_rays,
    occupancy_at_level,
    occupancy_from_density,
)
from maquette.fine.tetgrid import TetGrid
from tests.reference.volumes import CENTRE, lattice, sphere


def test_rays_through_a_linear_field_find_its_corner() -> None:
    """On values linear in x, y, z the greatest value of a segment is at one of its ends."""
    points = lattice(9)
    slope = np.array([0.3, -0.2, 0.5])
    volume = (1.5 + points @ slope).reshape(9, 9, 9).astype(np.float32)
    generator = np.random.default_rng(0)
    origins = generator.normal(size=(200, 3))
    origins *= 3 / np.linalg.norm(origins, axis=1, keepdims=True)
    directions = generator.uniform(-0.6, 0.6, size=(200, 3)) - origins
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    greatest = max_along_rays(volume, origins, directions, extent=1.0, step=0.05)
    for i in range(200):
        bounds = np.stack([(-1 - origins[i]) / directions[i], (1 - origins[i]) / directions[i]])
        near, far = bounds.min(axis=0).max(), bounds.max(axis=0).min()
        ends = origins[i] + np.array([[near], [far]]) * directions[i]
        assert greatest[i] == pytest.approx((1.5 + ends @ slope).max(), abs=1e-5)


def test_rays_equal_dense_sampling_by_scipy() -> None:
    volume = np.random.default_rng(1).uniform(size=(6, 6, 6)).astype(np.float32)
    origins = np.array([[-2.0, 0.1, 0.2], [0.3, -0.4, 0.1], [0.9, 0.9, -3.0]])
    directions = np.array([[1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])
    greatest = max_along_rays(volume, origins, directions, extent=1.0, step=1e-3)
    t = np.linspace(0, 5, 20001)
    for i in range(3):
        at = (origins[i] + t[:, None] * directions[i] + 1) * 2.5
        at = at[((at >= 0) & (at <= 5)).all(axis=1)]
        expected = ndimage.map_coordinates(volume, at.T, order=1, mode="nearest").max()
        assert greatest[i] == pytest.approx(expected, abs=2e-3)


def test_rays_that_miss_give_nothing() -> None:
    volume = np.ones((4, 4, 4), np.float32)
    origins = np.array([[2.0, 0, 0], [2.0, 0, 0], [-2.0, 1.5, 0], [0, 0, 0.5]])
    directions = np.array([[1.0, 0, 0], [-1.0, 0, 0], [1.0, 0, 0], [0, 0, 1.0]])
    assert max_along_rays(volume, origins, directions, 1.0, 0.1).tolist() == [0, 1, 0, 1]


def test_best_level_equals_the_count_of_every_level() -> None:
    generator = np.random.default_rng(2)
    opaque = generator.uniform(size=500) < 0.4
    greatest = (np.where(opaque, 0.7, 0.2) + generator.normal(0, 0.2, size=500)).clip(0, 1)
    search = best_level(greatest, opaque)
    levels = np.geomspace(0.02, 0.98, 256)
    hits = greatest > levels[:, None]
    ious = (hits & opaque).sum(axis=1) / np.maximum((hits | opaque).sum(axis=1), 1)
    assert search.iou == pytest.approx(ious.max())
    assert ious[np.abs(levels - search.level).argmin()] == pytest.approx(ious.max())
    assert np.abs(levels - search.level).min() < 1e-12
    assert 0.35 < search.level < 0.6


def test_middle_of_a_plateau_is_chosen() -> None:
    """Any level from 0.1 to 0.9 separates these: the middle of the logarithm is 0.3."""
    greatest = np.array([0.1, 0.1, 0.9, 0.9])
    opaque = np.array([False, False, True, True])
    search = best_level(greatest, opaque, lowest=0.01, highest=1.0, count=1001)
    assert search.iou == 1
    assert search.level == pytest.approx(0.3, rel=0.01)


def test_nothing_opaque_matches_nothing() -> None:
    search = best_level(np.array([0.5, 0.5, 0.0]), np.zeros(3, bool))
    assert search.iou == 0
    with pytest.raises(ValueError, match="opaque"):
        best_level(np.zeros(3), np.zeros(4, bool))
    with pytest.raises(ValueError, match="lowest"):
        best_level(np.zeros(3), np.zeros(3, bool), lowest=0.0)


def test_silhouette_level_of_a_ball() -> None:
    """Density that falls outwards: the level found is that of the radius seen."""
    size, points = 49, lattice(49)
    volume = (1.2 - np.linalg.norm(points, axis=1)).clip(0).reshape((size,) * 3).astype(np.float32)
    grid = np.stack(np.meshgrid(*[np.linspace(-0.9, 0.9, 120)] * 2), -1).reshape(-1, 2)
    origins = np.concatenate([grid, np.full((len(grid), 1), 2.0)], axis=1)
    directions = np.broadcast_to([0.0, 0.0, -1.0], origins.shape)
    greatest = max_along_rays(volume, origins, directions, 1.0, 0.02)
    opaque = np.hypot(*grid.T) < 0.5
    search = best_level(greatest, opaque)
    assert search.level == pytest.approx(0.7, abs=0.015)
    assert search.iou > 0.98


def test_occupancy_is_the_light_stopped() -> None:
    density = np.array([0.0, 2.0, 1e4], np.float32)
    np.testing.assert_allclose(
        occupancy_from_density(density, 0.5), [0, 1 - np.exp(-1), 1], rtol=1e-6
    )
    with pytest.raises(ValueError, match="step"):
        occupancy_from_density(density, 0.0)


def test_level_of_the_density_is_a_half() -> None:
    density = np.full((3, 3, 3), 25.0, np.float32)
    assert occupancy_at_level(density, 25.0, blur_cells=0)[1, 1, 1] == pytest.approx(0.5)
    for level, blur in ((0.0, 0.7), (25.0, -1.0)):
        with pytest.raises(ValueError, match="level, blur_cells"):
            occupancy_at_level(density, level, blur)


def test_steep_density_gives_a_smooth_surface() -> None:
    """A density that jumps to 300 within half a cell: normals and places, against plain ways."""
    grid = TetGrid(48)
    distance = sphere(lattice(49))
    density = np.logaddexp(0, np.minimum(-distance / grid.cell_size * 200, 300) - 3)
    density = density.reshape(49, 49, 49).astype(np.float32)

    def roughness(field: NDArray[np.floating]) -> tuple[float, float]:
        """Spread of the surface in cells, and the normals' root mean square error in degrees."""
        values = torch.from_numpy(np.ascontiguousarray(field)).double().view(-1)
        vertices, faces, _ = grid_surface(grid, values)
        radius = np.linalg.norm(vertices.numpy() - CENTRE, axis=1)
        outward = vertices[faces].mean(1) - torch.from_numpy(CENTRE)
        cosine = torch.cosine_similarity(face_normals(vertices, faces), outward).clamp(-1, 1)
        area = face_areas(vertices, faces)
        angle = (torch.rad2deg(torch.acos(cosine)).square() * area).sum() / area.sum()
        return float(radius.std() / grid.cell_size), float(angle.sqrt())

    ours = roughness(0.5 - occupancy_at_level(density, 25.0))
    plain = roughness(25.0 - density)
    logarithm = roughness(np.log(25.0) - np.log(density + 1e-8))
    assert ours[0] < 0.1
    assert ours[1] < 11
    assert min(plain[0], logarithm[0]) > 2 * ours[0]
    assert min(plain[1], logarithm[1]) > 2.5 * ours[1]


def test_wrong_shapes_are_named() -> None:
    flat = np.zeros((4, 4), np.float32)
    uneven = np.zeros((4, 4, 5), np.float32)
    rays = np.zeros((2, 3), np.float32)
    for volume in (flat, uneven):
        for call in (
            lambda v: remove_floaters(v, 0.5),
            lambda v: fill_cavities(v, 0.5),
            lambda v: occupancy_at_level(v, 0.5),
            lambda v: max_along_rays(v, rays, rays, 1.0, 0.1),
            lambda v: signed_distance(v, 0.5, 1.0, rays),
        ):
            with pytest.raises(ValueError, match=r"\[N, N, N\]"):
                call(volume)
    cube = np.ones((4, 4, 4), np.float32)
    with pytest.raises(ValueError, match="points"):
        signed_distance(cube, 0.5, 1.0, np.zeros((3, 2)))
    with pytest.raises(ValueError, match="origins, directions"):
        max_along_rays(cube, rays, rays[:1], 1.0, 0.1)
    with pytest.raises(ValueError, match="step"):
        max_along_rays(cube, rays, rays, 1.0, 0.0)
    with pytest.raises(ValueError, match="keep_share"):
        remove_floaters(cube, 0.5, keep_share=1.5)
