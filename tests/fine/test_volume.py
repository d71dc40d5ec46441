"""Volume maths of the hand-off on shapes whose answers are known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import trimesh
from numpy.typing import NDArray
from scipy import ndimage

from maquette.common.scene.mesh import face_areas, face_normals
from maquette.fine.isosurface import grid_surface
from maquette.fine.tetgrid import TetGrid
from maquette.fine.volume import (
    best_level,
    fill_cavities,
    max_along_rays,
    occupancy_at_level,
    occupancy_from_density,
    remove_floaters,
    signed_distance,
    squared_to_triangle,
)

Array = NDArray[np.float64]
CENTRE = np.array([0.0131, 0.0217, -0.0173])  # off the lattice, so that no symmetry helps
BOX = np.array([0.51, 0.37, 0.43])


def lattice(size: int, extent: float = 1.0) -> Array:
    return TetGrid(size - 1, extent).vertices().numpy().astype(np.float64)


def sphere(points: Array) -> Array:
    return np.linalg.norm(points - CENTRE, axis=1) - 0.6


def torus(points: Array) -> Array:
    p = points - CENTRE
    return np.hypot(np.hypot(p[:, 0], p[:, 1]) - 0.5, p[:, 2]) - 0.25


def box(points: Array) -> Array:
    outer = np.abs(points - CENTRE) - BOX
    return np.linalg.norm(np.maximum(outer, 0), axis=1) + np.minimum(outer.max(axis=1), 0)


def ramp(distance: Array, size: int, cells: float = 4.0) -> NDArray[np.float32]:
    """A volume whose level 1/2 is the surface, climbing from 0 to 1 over some cells."""
    cell = 2.0 / (size - 1)
    values = np.clip(0.5 - distance / (cells * cell), 0, 1)
    return values.reshape(size, size, size).astype(np.float32)


# Rays


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


# Level


def test_best_level_equals_the_count_of_every_level() -> None:
    generator = np.random.default_rng(2)
    opaque = generator.uniform(size=500) < 0.4
    greatest = (np.where(opaque, 0.7, 0.2) + generator.normal(0, 0.2, size=500)).clip(0, 1)
    search = best_level(greatest, opaque)
    for level, iou in zip(search.levels, search.ious, strict=True):
        hit = greatest > level
        assert iou == pytest.approx((hit & opaque).sum() / max((hit | opaque).sum(), 1))
    assert search.iou == search.ious.max()
    assert 0.35 < search.level < 0.6
    np.testing.assert_allclose(search.levels[[0, -1]], [0.02, 0.98])
    np.testing.assert_allclose(np.diff(np.log(search.levels)), np.log(49) / 255)


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
    assert not search.ious.any()
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


# Components


def balls(size: int, *specs: tuple[tuple[float, float, float], float]) -> NDArray[np.float32]:
    points = lattice(size)
    parts = [1 - np.linalg.norm(points - np.array(c), axis=1) / (2 * r) for c, r in specs]
    return np.max(parts, axis=0).clip(0).reshape((size,) * 3).astype(np.float32)


def test_floaters_go_and_detached_parts_stay() -> None:
    body, part, speck = ((0.3, 0, 0), 0.5), ((-0.6, 0, 0), 0.25), ((0.3, 0.8, 0.5), 0.1)
    volume = balls(49, body, part, speck)
    cleaned, report = remove_floaters(volume, 0.5)
    assert (report.found, report.kept) == (3, 2)
    without = balls(49, body, part)
    assert ((cleaned > 0.5) == (without > 0.5)).all()
    near_kept = ndimage.binary_dilation(without > 0.5, np.ones((3, 3, 3)))
    assert (cleaned[near_kept] == volume[near_kept]).all()  # the kept surfaces do not move
    solid = (volume > 0.5).sum()
    assert report.removed_share == pytest.approx(1 - (without > 0.5).sum() / solid)
    # Nothing comes back at a lower level where the speck and its skirt were.
    from_speck = np.linalg.norm(lattice(49) - np.array(speck[0]), axis=1).reshape(volume.shape)
    skirt = (from_speck < 0.19) & (without == 0)
    assert volume[skirt].max() > 0.6
    assert (volume[skirt] > 0).all()
    assert not cleaned[skirt].any()
    _, all_kept = remove_floaters(volume, 0.5, keep_share=0.0)
    assert (all_kept.found, all_kept.kept, all_kept.removed_share) == (3, 3, 0)


def test_a_floater_beside_the_body_leaves_the_body_s_surface() -> None:
    """A dropped point that touches a kept block across a diagonal, in faint fog."""
    volume = np.full((12, 12, 12), 0.3, np.float32)
    volume[2:6, 2:6, 2:6] = 1
    volume[6, 1, 3] = 0.9
    cleaned, report = remove_floaters(volume, 0.5, keep_share=0.1)
    assert (report.found, report.kept) == (2, 1)
    assert cleaned[6, 1, 3] == cleaned[7, 1, 3] == cleaned[6, 0, 3] == 0
    # Nearer to the floater, but an end of edges that the block's surface crosses.
    assert cleaned[6, 1, 2] == cleaned[6, 1, 4] == np.float32(0.3)
    assert (cleaned[1:7, 2:7, 1:7] == volume[1:7, 2:7, 1:7]).all()


def test_components_are_those_of_the_surface() -> None:
    """Points joined by a Kuhn edge are one solid, across the other diagonals they are two."""
    for step, found in (((1, 1, 1), 1), ((1, 1, 0), 1), ((1, -1, 0), 2), ((1, -1, 1), 2)):
        volume = np.zeros((6, 6, 6), np.float32)
        volume[2, 2, 2] = volume[2 + step[0], 2 + step[1], 2 + step[2]] = 1
        _, report = remove_floaters(volume, 0.5)
        surface = grid_surface(TetGrid(5), torch.from_numpy(0.5 - volume).view(-1))
        mesh = trimesh.Trimesh(surface.vertices, surface.faces, process=False)
        assert report.found == found == mesh.body_count


def test_nothing_above_the_level_is_left_alone() -> None:
    volume = np.full((5, 5, 5), 0.1, np.float32)
    cleaned, report = remove_floaters(volume, 0.5)
    assert (cleaned == volume).all()
    assert (report.found, report.kept, report.removed_share) == (0, 0, 0)


def test_cavities_fill_and_open_hollows_do_not() -> None:
    distance = np.abs(sphere(lattice(41))).reshape(41, 41, 41)
    shell = np.clip(1 - distance / 0.2, 0, 1).astype(np.float32)
    filled = fill_cavities(shell, 0.5)
    outside = ndimage.binary_dilation(sphere(lattice(41)).reshape(41, 41, 41) > 0.12)
    assert (filled[outside] == shell[outside]).all()
    assert (filled[sphere(lattice(41)).reshape(41, 41, 41) < 0] > 0.5).all()
    pierced = shell.copy()
    pierced[20, 20, :] = 0  # a hole through the shell's poles
    assert (fill_cavities(pierced, 0.5) == pierced).all()
    solid = ramp(sphere(lattice(41)), 41)
    assert fill_cavities(solid, 0.5) is solid


def test_hollow_at_the_cube_s_face_is_open() -> None:
    volume = np.ones((7, 7, 7), np.float32)
    volume[:4, 3, 3] = 0
    assert (fill_cavities(volume, 0.5) == volume).all()
    volume[0, 3, 3] = 1
    assert (fill_cavities(volume, 0.5) == 1).all()


# Distance


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


# Occupancy


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
