"""The signed distance of points to the surface of a volume."""

from __future__ import annotations

import math

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from .isosurface import connectivity, edge_crossings, triangle_counts
from .tetgrid import TetGrid
from .volumes import Volume, check_volume, nearest_true

Points = NDArray[np.floating]  # float32 or float64

# The nearest crossed cell is found from centre to centre, each at most sqrt(3)/2 cells from the
# point it stands for: the distance to it exceeds the true one by four times that at most.
SLACK_CELLS = 2 * math.sqrt(3)


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
    check_volume(volume)
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(f"points: expected [K, 3], got {points.shape}")
    field = _outside_field(volume, level)
    triangles, cells, first = _triangles_by_cell(field, extent)
    cell_count = volume.shape[0] - 1
    row = np.full(cell_count**3, -1, np.int32)  # cell -> its row in `first`
    row[cells] = np.arange(cells.size, dtype=np.int32)
    nearest = nearest_true((row >= 0).reshape((cell_count,) * 3))
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
