"""The volume maths of the hand-off: from a density on a lattice to a clean signed distance.

A volume is float32 `[N, N, N]`, indexed x, y, z, its values at the points of the lattice over
`[-extent, extent]^3` (the vertices of `TetGrid(N - 1, extent)`). A solid is `{volume > level}`;
outside the cube there is nothing.

All of it works on whatever monotone transform of the density the caller brings, and should be
given an occupancy (`occupancy_at_level`): a NeRF's density climbs from 0 to hundreds within a cell,
and between 0 and 300 the straight line passes a level of 20 a fifteenth of a cell from the empty
side, wherever the surface is. Occupancy is bounded on both sides, so a corner's influence on the
place of the surface is, too. The way of a hand-off: find a level of the density by
`max_along_rays` and `best_level`, turn to the occupancy at that level, find the level near 1/2
that fits best, clean, and measure distances.

"Connected" means by Kuhn edges (14 neighbours) throughout, for the solid and for the empty space:
then the components of `{volume > level}` on the lattice are exactly the components that marching
tetrahedra cuts out of it, which neither 6 nor 26 neighbours give.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from .isosurface import connectivity, edge_crossings, triangle_counts
from .tetgrid import TetGrid

Volume = NDArray[np.float32]
Points = NDArray[np.floating]  # float32 or float64

# The nearest crossed cell is found from centre to centre, each at most sqrt(3)/2 cells from the
# point it stands for: the distance to it exceeds the true one by four times that at most.
SLACK_CELLS = 2 * math.sqrt(3)
_EVERY_NEIGHBOUR = np.ones((3, 3, 3), dtype=bool)
# A Kuhn edge goes from a vertex to one with each coordinate the same or one more, or back.
_KUHN_NEIGHBOURS = np.zeros((3, 3, 3), dtype=bool)
_KUHN_NEIGHBOURS[1:, 1:, 1:] = True
_KUHN_NEIGHBOURS[:2, :2, :2] = True


@dataclass(frozen=True)
class LevelSearch:
    """The level whose silhouettes agree best, and the whole curve.

    level: the level chosen; iou: its intersection over union in [0, 1]; levels, ious: float64
    `[C]`, every candidate tried, ascending.
    """

    level: float
    iou: float
    levels: NDArray[np.float64]
    ious: NDArray[np.float64]


@dataclass(frozen=True)
class FloaterReport:
    """What `remove_floaters` did: components found and kept, and the share of solid removed."""

    found: int
    kept: int
    removed_share: float


def occupancy_from_density(density: Volume, step: float) -> Volume:
    """`1 - exp(-density step)`: the share of light stopped over a length `step`, in [0, 1].

    density: any shape, at least 0, per world unit. step: world units, about a cell. Raises
    ValueError for a step that is not positive.
    """
    if not step > 0:
        raise ValueError(f"step: expected a positive length, got {step}")
    return np.asarray(-np.expm1(density * np.float32(-step)), dtype=np.float32)


def occupancy_at_level(density: Volume, level: float, blur_cells: float = 0.7) -> Volume:
    """A volume whose level 1/2 is the surface `{density = level}`, made smooth, in [0, 1].

    density: `[N, N, N]`, at least 0. level: the density to cut at, positive. It is the occupancy
    over the length in which that density stops half the light, blurred by a Gaussian of standard
    deviation `blur_cells`. A density that jumps within a cell leaves nothing to interpolate, and
    its surface comes out as stairs in any units; the blur puts back the share of the cell that the
    solid fills. Measured on a sphere whose density climbs within half a cell: normals are 9 degrees
    off (root mean square), against 31 from the density itself and 36 from its logarithm. Parts
    thinner than one cell and a half are lost to the blur; 0 turns it off. Raises ValueError for a
    wrong shape, a level that is not positive or a negative blur.
    """
    _check_volume(density)
    if not (level > 0 and blur_cells >= 0):
        raise ValueError(
            f"level, blur_cells: expected positive and at least 0, got {level}, {blur_cells}"
        )
    occupancy = occupancy_from_density(density, np.log(2) / level)
    blurred = ndimage.gaussian_filter(occupancy, blur_cells, mode="constant")
    return np.asarray(blurred, dtype=np.float32)


def max_along_rays(
    volume: Volume, origins: Points, directions: Points, extent: float, step: float
) -> Volume:
    """Greatest value of the trilinearly interpolated volume along each ray, float32 `[R]`.

    volume: `[N, N, N]`, at least 0. origins, directions: `[R, 3]`, world units, unit directions.
    A ray is sampled every `step` from where it enters the cube (or starts) to where it leaves,
    both ends included; one that misses gives 0. A ray meets `{volume > level}` exactly when its
    greatest value exceeds the level, so one pass serves every level. Raises ValueError for wrong
    shapes or a step that is not positive.
    """
    _check_volume(volume)
    if origins.ndim != 2 or origins.shape[1] != 3 or origins.shape != directions.shape:
        raise ValueError(
            f"origins, directions: expected [R, 3] both, got {origins.shape}, {directions.shape}"
        )
    if not step > 0:
        raise ValueError(f"step: expected a positive length, got {step}")
    rays = np.concatenate([origins, directions], axis=1).astype(np.float64)
    return _max_along_rays(np.ascontiguousarray(volume, np.float32), rays, extent, step)


@numba.njit(cache=True, parallel=True)
def _max_along_rays(volume: Volume, rays: NDArray[np.float64], extent: float, step: float):
    out = np.zeros(rays.shape[0], np.float32)
    cells = volume.shape[0] - 1
    scale = cells / (2 * extent)
    for r in numba.prange(rays.shape[0]):
        near, far = 0.0, np.inf
        for axis in range(3):
            origin, direction = rays[r, axis], rays[r, 3 + axis]
            if direction == 0.0:
                if abs(origin) > extent:
                    far = -1.0
            else:
                one, two = (-extent - origin) / direction, (extent - origin) / direction
                near, far = max(near, min(one, two)), min(far, max(one, two))
        if far < near:
            continue
        samples = int(np.ceil((far - near) / step))
        greatest = np.float32(0.0)
        for i in range(samples + 1):
            t = min(near + i * step, far)
            x = (rays[r, 0] + t * rays[r, 3] + extent) * scale
            y = (rays[r, 1] + t * rays[r, 4] + extent) * scale
            z = (rays[r, 2] + t * rays[r, 5] + extent) * scale
            greatest = max(greatest, _trilinear(volume, x, y, z, cells))
        out[r] = greatest
    return out


@numba.njit(cache=True, inline="always")
def _trilinear(volume, x, y, z, cells):
    """Value at lattice coordinates, which rounding may put a hair outside the cube."""
    i = min(max(int(x), 0), cells - 1)
    j = min(max(int(y), 0), cells - 1)
    k = min(max(int(z), 0), cells - 1)
    u, v, w = np.float32(x - i), np.float32(y - j), np.float32(z - k)
    a, b = volume[i, j, k], volume[i, j, k + 1]
    c, d = volume[i, j + 1, k], volume[i, j + 1, k + 1]
    e, f = volume[i + 1, j, k], volume[i + 1, j, k + 1]
    g, h = volume[i + 1, j + 1, k], volume[i + 1, j + 1, k + 1]
    a, c, e, g = a + w * (b - a), c + w * (d - c), e + w * (f - e), g + w * (h - g)
    a, e = a + v * (c - a), e + v * (g - e)
    return a + u * (e - a)


def best_level(
    greatest: NDArray[np.floating],
    opaque: NDArray[np.bool_],
    lowest: float = 0.02,
    highest: float = 0.98,
    count: int = 256,
) -> LevelSearch:
    """The level whose silhouette `{greatest > level}` overlaps an opacity mask best.

    greatest: float `[R]`, `max_along_rays`. opaque: bool `[R]`, where the rays end in the object.
    lowest, highest: range of the levels, spaced evenly in their logarithm; the defaults suit an
    occupancy. count: how many. The intersection over union is exact for each, by sorting once; of
    equal best neighbours the middle one is chosen. Nothing opaque gives an IoU of 0 throughout.
    Raises ValueError for wrong shapes or an empty range.
    """
    if greatest.ndim != 1 or greatest.shape != opaque.shape or opaque.dtype != np.bool_:
        raise ValueError(
            "greatest, opaque: expected float [R] and bool [R], "
            f"got {greatest.shape} and {opaque.dtype} {opaque.shape}"
        )
    if not (0 < lowest < highest and count >= 2):
        raise ValueError(
            f"lowest, highest, count: expected 0 < lowest < highest and at least 2, "
            f"got {lowest}, {highest}, {count}"
        )
    levels = np.geomspace(lowest, highest, count)
    inner, outer = np.sort(greatest[opaque]), np.sort(greatest[~opaque])
    hits = inner.size - np.searchsorted(inner, levels, side="right")
    strays = outer.size - np.searchsorted(outer, levels, side="right")
    ious = hits / np.maximum(inner.size + strays, 1)
    best = np.flatnonzero(ious == ious.max())
    runs = np.split(best, np.flatnonzero(np.diff(best) > 1) + 1)
    longest = max(runs, key=len)
    middle = longest[len(longest) // 2]
    return LevelSearch(float(levels[middle]), float(ious[middle]), levels, ious)


def remove_floaters(
    volume: Volume, level: float, keep_share: float = 0.02
) -> tuple[Volume, FloaterReport]:
    """The volume without the small detached parts of `{volume > level}`, and what was done.

    A component stays when it has at least `keep_share` of the largest one's lattice points: a true
    object may have detached parts, such as the cap of a bottle. The others are set to 0 with all
    that lies nearer to them than to what is kept, the faint skirt of a blurred density above all,
    so that no lower level brings them back. Points next to what is kept are left alone, so its
    surface does not move. Raises ValueError for a wrong shape or a share outside [0, 1].
    """
    _check_volume(volume)
    if not 0 <= keep_share <= 1:
        raise ValueError(f"keep_share: expected a number in [0, 1], got {keep_share}")
    labels, found = _components(volume > level)
    sizes = np.bincount(labels.reshape(-1), minlength=found + 1)
    sizes[0] = 0  # label 0 is the empty space
    stays = (sizes > 0) & (sizes >= keep_share * sizes.max())
    kept = stays[labels]
    dropped = (labels > 0) & ~kept
    removed = int(dropped.sum())
    if removed:
        x, y, z = _nearest_true(labels > 0)
        beside = ndimage.binary_dilation(kept, _EVERY_NEIGHBOUR) & ~dropped
        volume = np.where(kept[x, y, z] | beside, volume, np.float32(0))
    share = removed / max(int(sizes.sum()), 1)
    return volume, FloaterReport(int(found), int(stays.sum()), share)


def fill_cavities(volume: Volume, level: float) -> Volume:
    """The volume with its inner voids made solid: no surface that cannot be seen from outside.

    Lattice points at or below `level` that the empty space around the cube does not reach are set
    to the volume's greatest value. Raises ValueError for a wrong shape.
    """
    _check_volume(volume)
    labels, found = _components(np.pad(volume <= level, 1, constant_values=True))
    if found == 1:
        return volume
    inner = labels[1:-1, 1:-1, 1:-1]
    return np.where((inner > 0) & (inner != labels[0, 0, 0]), volume.max(), volume)


def _components(solid: NDArray[np.bool_]) -> tuple[NDArray[np.int32], int]:
    """Labels 1, 2, ... of the components by Kuhn edges, 0 elsewhere, and their number."""
    labels = np.empty(solid.shape, np.int32)
    return labels, int(ndimage.label(solid, _KUHN_NEIGHBOURS, output=labels))  # type: ignore[call-overload]


def _nearest_true(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Indices `[3, N, N, N]` of the true element nearest to each element."""
    indices = np.empty((3, *mask.shape), np.int32)
    ndimage.distance_transform_edt(
        ~mask, return_distances=False, return_indices=True, indices=indices
    )
    return indices


def signed_distance(
    volume: Volume, level: float, extent: float, points: Points, band_cells: float = 3.0
) -> Volume:
    """Signed distance of points to the surface `{volume = level}`, negative inside, `[K]`.

    volume: `[N, N, N]`; its outermost lattice points count as empty, so that the surface closes.
    points: `[K, 3]`, world units, anywhere. The surface is the one marching tetrahedra cuts from
    the volume. The distance is first taken to the triangles in and around the crossed cell nearest
    to the point's own, which may be too great by a cell or so. Points that could lie within
    `band_cells` cells of the surface are then compared with every triangle that could be nearer, so
    that in the band, inside the cube, the distance is exact.
    The sign is that of the same piecewise linear field, so it fits the surface to the last digit.
    Raises ValueError for wrong shapes or a level that no surface has.
    """
    _check_volume(volume)
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(f"points: expected [K, 3], got {points.shape}")
    field = _outside_field(volume, level)
    triangles, cells, first = _triangles_by_cell(field, extent)
    cell_count = volume.shape[0] - 1
    row = np.full(cell_count**3, -1, np.int32)  # cell -> its row in `first`
    row[cells] = np.arange(cells.size, dtype=np.int32)
    nearest = _nearest_true((row >= 0).reshape((cell_count,) * 3))
    return _signed_distances(
        np.ascontiguousarray(points, np.float64), field, nearest, row, first, triangles,
        float(extent), float(band_cells),
    )  # fmt: skip


def _outside_field(volume: Volume, level: float) -> Volume:
    """`level - volume`: negative inside, with the outermost points outside."""
    field = np.float32(level) - np.asarray(volume, np.float32)
    # Rounding must not move a point across the level: the sign is that of the comparison.
    field = np.where(volume > level, np.minimum(field, -1e-30), np.maximum(field, 0))
    empty = np.ones(field.shape, bool)
    empty[1:-1, 1:-1, 1:-1] = False
    field = np.where(empty, np.maximum(field, np.float32(abs(level))), field).astype(np.float32)
    if not (field < 0).any():
        raise ValueError(
            f"level: expected one that the volume exceeds away from the cube's faces, got {level} "
            f"for values of {volume.min():.4g} to {volume.max():.4g}"
        )
    return field


def _triangles_by_cell(
    field: Volume, extent: float
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Triangles `[F, 3, 3]` of a field's surface, its crossed cells `[M]`, and the first triangle
    of each `[M + 1]`."""
    grid = TetGrid(field.shape[0] - 1, extent)
    values = torch.from_numpy(np.ascontiguousarray(field)).view(-1)
    inside = values < 0
    cells = grid.active_cells(inside.view(field.shape))
    tets = grid.tets(cells)
    faces, edges = connectivity(inside, tets)
    surface = edge_crossings(grid.vertices(edges).double(), values[edges].double())
    per_cell = triangle_counts(inside, tets).view(-1, 6).sum(1)
    first = np.concatenate([[0], np.cumsum(per_cell.numpy())])
    return surface[faces].numpy(), cells.numpy(), first


@numba.njit(cache=True, parallel=True)
def _signed_distances(points, field, nearest, row, first, triangles, extent, band):
    """Distances `[K]`: first to the triangles in and around the nearest crossed cell, and where
    that may be in the band, to those of every cell that is not farther than the best so far."""
    out = np.empty(points.shape[0], np.float32)
    cells = field.shape[0] - 1
    size = 2 * extent / cells
    for p in numba.prange(points.shape[0]):
        x, y, z = points[p, 0], points[p, 1], points[p, 2]
        i = min(max(int((x + extent) / size), 0), cells - 1)
        j = min(max(int((y + extent) / size), 0), cells - 1)
        k = min(max(int((z + extent) / size), 0), cells - 1)
        a, b, c = nearest[0, i, j, k], nearest[1, i, j, k], nearest[2, i, j, k]
        best = _squared_to_cell(x, y, z, (a * cells + b) * cells + c, row, first, triangles, np.inf)
        best = _squared_around(x, y, z, a, b, c, 1, row, first, triangles, extent, cells, best)
        reach = np.sqrt(best) / size
        if reach <= band + SLACK_CELLS:
            steps = int(reach) + 1
            best = _squared_around(
                x, y, z, i, j, k, steps, row, first, triangles, extent, cells, best
            )
        distance = np.sqrt(best)
        is_inside = _kuhn_value(field, x, y, z, extent, size, cells) < 0
        out[p] = -distance if is_inside else distance
    return out


@numba.njit(cache=True)
def _squared_around(x, y, z, i, j, k, reach, row, first, triangles, extent, cells, best):
    """The least of `best` and the squared distances to triangles at most `reach` cells from a cell
    along each axis; cells that lie farther away than the best so far are passed over."""
    size = 2 * extent / cells
    for ci in range(max(i - reach, 0), min(i + reach + 1, cells)):
        dx = max(-extent + ci * size - x, x + extent - (ci + 1) * size, 0.0)
        for cj in range(max(j - reach, 0), min(j + reach + 1, cells)):
            dy = max(-extent + cj * size - y, y + extent - (cj + 1) * size, 0.0)
            if dx * dx + dy * dy >= best:
                continue
            for ck in range(max(k - reach, 0), min(k + reach + 1, cells)):
                dz = max(-extent + ck * size - z, z + extent - (ck + 1) * size, 0.0)
                if dx * dx + dy * dy + dz * dz < best:
                    cell = (ci * cells + cj) * cells + ck
                    best = _squared_to_cell(x, y, z, cell, row, first, triangles, best)
    return best


@numba.njit(cache=True)
def _squared_to_cell(x, y, z, cell, row, first, triangles, best):
    """The least of `best` and the squared distances to the triangles of one cell."""
    at = row[cell]
    if at < 0:
        return best
    for t in range(first[at], first[at + 1]):
        best = min(best, squared_to_triangle(x, y, z, triangles[t]))
    return best


@numba.njit(cache=True)
def squared_to_triangle(x, y, z, triangle):
    """Squared distance of a point to a triangle `[3, 3]`, which may be a segment or a point.

    The least distance to the three sides, or to the plane where the point lies over the triangle.
    """
    ax, ay, az = triangle[0, 0] - x, triangle[0, 1] - y, triangle[0, 2] - z
    bx, by, bz = triangle[1, 0] - x, triangle[1, 1] - y, triangle[1, 2] - z
    cx, cy, cz = triangle[2, 0] - x, triangle[2, 1] - y, triangle[2, 2] - z
    best = min(
        _squared_to_segment(ax, ay, az, bx, by, bz),
        _squared_to_segment(bx, by, bz, cx, cy, cz),
        _squared_to_segment(cx, cy, cz, ax, ay, az),
    )
    nx = (by - ay) * (cz - az) - (bz - az) * (cy - ay)
    ny = (bz - az) * (cx - ax) - (bx - ax) * (cz - az)
    nz = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
    length = nx * nx + ny * ny + nz * nz
    if length == 0.0:
        return best
    # The point lies over the triangle when it is on the same side of the three planes that stand
    # on its sides: n . (a x b), n . (b x c), n . (c x a) all at least 0.
    over = (
        _triple(nx, ny, nz, ax, ay, az, bx, by, bz) >= 0
        and _triple(nx, ny, nz, bx, by, bz, cx, cy, cz) >= 0
        and _triple(nx, ny, nz, cx, cy, cz, ax, ay, az) >= 0
    )
    height = ax * nx + ay * ny + az * nz
    return min(best, height * height / length) if over else best


@numba.njit(cache=True, inline="always")
def _triple(nx, ny, nz, ax, ay, az, bx, by, bz):
    """`n . (a x b)`."""
    return nx * (ay * bz - az * by) + ny * (az * bx - ax * bz) + nz * (ax * by - ay * bx)


@numba.njit(cache=True, inline="always")
def _squared_to_segment(ax, ay, az, bx, by, bz):
    """Squared distance of the origin to a segment."""
    dx, dy, dz = bx - ax, by - ay, bz - az
    length = dx * dx + dy * dy + dz * dz
    t = 0.0
    if length > 0.0:
        t = min(max(-(ax * dx + ay * dy + az * dz) / length, 0.0), 1.0)
    ax, ay, az = ax + t * dx, ay + t * dy, az + t * dz
    return ax * ax + ay * ay + az * az


@numba.njit(cache=True)
def _kuhn_value(field, x, y, z, extent, size, cells):
    """The field linear on Kuhn tetrahedra, at a point; outside the cube 1.

    In a cell the walk from the lowest corner takes the axes by descending coordinate, and the
    value is the sum of the steps' differences times the coordinates.
    """
    if max(abs(x), abs(y), abs(z)) > extent:
        return 1.0
    x, y, z = (x + extent) / size, (y + extent) / size, (z + extent) / size
    i, j, k = min(int(x), cells - 1), min(int(y), cells - 1), min(int(z), cells - 1)
    u, v, w = x - i, y - j, z - k
    value = float(field[i, j, k])
    last = value
    for _ in range(3):
        if u >= v and u >= w:
            share, i, u = u, i + 1, -1.0
        elif v >= w:
            share, j, v = v, j + 1, -1.0
        else:
            share, k, w = w, k + 1, -1.0
        here = float(field[i, j, k])
        value += share * (here - last)
        last = here
    return value


def _check_volume(volume: Volume) -> None:
    if volume.ndim != 3 or len(set(volume.shape)) != 1 or volume.shape[0] < 2:
        raise ValueError(f"volume: expected [N, N, N] with N at least 2, got {volume.shape}")
