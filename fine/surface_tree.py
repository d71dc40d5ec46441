"""A tree of boxes over triangles: the nearest point of a surface, and how often it winds around.

The generalized winding number (Jacobson 2013, "Robust inside-outside segmentation using generalized
winding numbers") is 1 inside a closed surface that is wound counter-clockwise from outside, 0
outside of it, and something in between where the surface has holes. Far boxes are summed as one
dipole each (Barill 2018, "Fast winding numbers for soups and clouds", order 1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

LEAF = 8  # triangles of a box that is not halved any more
FAR = 2.3  # a box this many of its radii away is one dipole (Barill's beta is 2)
DEPTH = 64  # of the stack: halving never goes deeper


@dataclass(frozen=True)
class SurfaceTree:
    """Triangles in boxes within boxes.

    triangles: float64 `[F, 3, 3]`, in the order of `face`. face: int64 `[F]`, which of the faces
    given each one was. low, high: `[N, 3]` the boxes. first, count: `[N]`, the triangles of a leaf;
    count is 0 for a box that has two within, `child` `[N]` and the next one. middle, dipole:
    `[N, 3]`, the area-weighted middle of a box's triangles and the sum of their area vectors.
    radius: `[N]`, of the sphere around that middle that holds them all.
    """

    triangles: Floats
    face: Ints
    low: Floats
    high: Floats
    first: Ints
    count: Ints
    child: Ints
    middle: Floats
    dipole: Floats
    radius: Floats

    @staticmethod
    def of(vertices: NDArray, faces: Ints) -> SurfaceTree:
        """The tree of a mesh's faces, `[V, 3]` and `[F, 3]`. Raises ValueError for none."""
        if faces.ndim != 2 or faces.shape[1] != 3 or faces.shape[0] == 0:
            raise ValueError(f"faces: expected [F, 3] with at least one, got {list(faces.shape)}")
        triangles = np.ascontiguousarray(vertices, dtype=np.float64)[faces]
        order = np.arange(faces.shape[0])
        low, high, first, count, child = _build(triangles, triangles.mean(axis=1), order)
        triangles = np.ascontiguousarray(triangles[order])
        middle, dipole, radius = _dipoles(triangles, low, high, first, count, child)
        return SurfaceTree(triangles, order, low, high, first, count, child, middle, dipole, radius)

    def nearest(
        self,
        points: NDArray,
        limit: float = math.inf,
        normals: NDArray | None = None,
        face_normals: NDArray | None = None,
        least_cosine: float = -1.0,
    ) -> tuple[Floats, Ints, Floats]:
        """The nearest point of the surface to each of `[K, 3]`, within `limit`.

        normals: `[K, 3]`; with them and the faces' own unit normals `[F, 3]`, only faces whose
        normal has a dot product of at least `least_cosine` with a point's own count for it.
        Returns distances `[K]`, faces `[K]` and barycentrics `[K, 3]`; infinity, -1 and zeros where
        nothing is as near as `limit`. Of equally near faces the first one found counts.
        """
        points = np.ascontiguousarray(points, dtype=np.float64)
        nothing = np.zeros((0, 3))
        own, sides = nothing, nothing
        if normals is not None and face_normals is not None:
            own = np.ascontiguousarray(normals, dtype=np.float64)
            sides = np.ascontiguousarray(face_normals[self.face])
        squared, at, weights = _nearest_all(
            points, limit * limit, self.triangles, self.low, self.high, self.first, self.count,
            self.child, own, sides, least_cosine,
        )  # fmt: skip
        faces = np.where(at >= 0, self.face[np.maximum(at, 0)], -1)
        return np.sqrt(squared), faces, weights

    def winding(self, points: NDArray) -> Floats:
        """The generalized winding number at points `[K, 3]`, `[K]`."""
        points = np.ascontiguousarray(points, dtype=np.float64)
        return _winding_all(
            points, self.triangles, self.first, self.count, self.child, self.middle, self.dipole,
            self.radius,
        )  # fmt: skip


@numba.njit(cache=True)
def _build(triangles, middles, order):
    """Boxes, halved at the median of the middles along their longest side; `order` is sorted."""
    total = order.shape[0]
    most = 2 * total + 1
    low, high = np.empty((most, 3)), np.empty((most, 3))
    first, count = np.empty(most, np.int64), np.zeros(most, np.int64)
    child = np.full(most, -1)
    start, end = np.empty(most, np.int64), np.empty(most, np.int64)
    start[0], end[0] = 0, total
    made, node = 1, 0
    while node < made:
        a, b = start[node], end[node]
        small, large = np.full(3, np.inf), np.full(3, -np.inf)
        for i in range(3):
            low[node, i], high[node, i] = np.inf, -np.inf
        for t in range(a, b):
            for i in range(3):
                m = middles[order[t], i]
                small[i], large[i] = min(small[i], m), max(large[i], m)
                for c in range(3):
                    x = triangles[order[t], c, i]
                    low[node, i], high[node, i] = min(low[node, i], x), max(high[node, i], x)
        first[node] = a
        if b - a <= LEAF:
            count[node] = b - a
        else:
            axis = np.argmax(large - small)
            part = order[a:b]
            order[a:b] = part[np.argsort(middles[part, axis], kind="mergesort")]
            half = (a + b) // 2
            child[node] = made
            start[made], end[made] = a, half
            start[made + 1], end[made + 1] = half, b
            made += 2
        node += 1
    return low[:made], high[:made], first[:made], count[:made], child[:made]


@numba.njit(cache=True)
def _dipoles(triangles, low, high, first, count, child):
    """Area-weighted middles, area vectors and radii of all boxes, from the leaves up."""
    boxes = first.shape[0]
    middle, dipole = np.zeros((boxes, 3)), np.zeros((boxes, 3))
    area, radius = np.zeros(boxes), np.zeros(boxes)
    for node in range(boxes - 1, -1, -1):
        if child[node] >= 0:
            for c in range(child[node], child[node] + 2):
                area[node] += area[c]
                for i in range(3):
                    middle[node, i] += area[c] * middle[c, i]
                    dipole[node, i] += dipole[c, i]
        else:
            for t in range(first[node], first[node] + count[node]):
                u = triangles[t, 1] - triangles[t, 0]
                v = triangles[t, 2] - triangles[t, 0]
                vector = 0.5 * np.cross(u, v)
                size = math.sqrt((vector * vector).sum())
                area[node] += size
                for i in range(3):
                    dipole[node, i] += vector[i]
                    middle[node, i] += size * triangles[t, :, i].mean()
        for i in range(3):
            if area[node] > 0.0:
                middle[node, i] /= area[node]
            else:
                middle[node, i] = 0.5 * (low[node, i] + high[node, i])
            side = max(high[node, i] - middle[node, i], middle[node, i] - low[node, i])
            radius[node] += side * side
        radius[node] = math.sqrt(radius[node])
    return middle, dipole, radius


@numba.njit(cache=True)
def closest_weights(p, triangle):
    """Barycentrics `(a, b, c)` of the point of a triangle `[3, 3]` nearest to `p` `[3]`.

    By regions (Ericson 2005, "Real-Time Collision Detection", section 5.1.5).
    """
    ax, ay, az = triangle[0, 0], triangle[0, 1], triangle[0, 2]
    ux, uy, uz = triangle[1, 0] - ax, triangle[1, 1] - ay, triangle[1, 2] - az
    vx, vy, vz = triangle[2, 0] - ax, triangle[2, 1] - ay, triangle[2, 2] - az
    x, y, z = p[0] - ax, p[1] - ay, p[2] - az
    d1, d2 = ux * x + uy * y + uz * z, vx * x + vy * y + vz * z
    if d1 <= 0.0 and d2 <= 0.0:
        return 1.0, 0.0, 0.0
    uu, uv, vv = (
        ux * ux + uy * uy + uz * uz,
        ux * vx + uy * vy + uz * vz,
        vx * vx + vy * vy + vz * vz,
    )
    d3, d4 = d1 - uu, d2 - uv
    if d3 >= 0.0 and d4 <= d3:
        return 0.0, 1.0, 0.0
    vc = d1 * d4 - d3 * d2
    if vc <= 0.0 and d1 >= 0.0 and d3 <= 0.0 and d1 > d3:
        along = d1 / (d1 - d3)
        return 1.0 - along, along, 0.0
    d5, d6 = d1 - uv, d2 - vv
    if d6 >= 0.0 and d5 <= d6:
        return 0.0, 0.0, 1.0
    vb = d5 * d2 - d1 * d6
    if vb <= 0.0 and d2 >= 0.0 and d6 <= 0.0 and d2 > d6:
        along = d2 / (d2 - d6)
        return 1.0 - along, 0.0, along
    va = d3 * d6 - d5 * d4
    if va <= 0.0 and d4 >= d3 and d5 >= d6 and (d4 - d3) + (d5 - d6) > 0.0:
        along = (d4 - d3) / ((d4 - d3) + (d5 - d6))
        return 0.0, 1.0 - along, along
    total = va + vb + vc
    if total == 0.0:
        return 1.0, 0.0, 0.0
    return va / total, vb / total, vc / total


@numba.njit(cache=True, inline="always")
def _squared_to_box(p, low, high):
    total = 0.0
    for i in range(3):
        d = max(low[i] - p[i], p[i] - high[i], 0.0)
        total += d * d
    return total


@numba.njit(cache=True, parallel=True)
def _nearest_all(
    points, limit, triangles, low, high, first, count, child, normals, sides, least_cosine
):
    squared = np.full(points.shape[0], np.inf)
    at = np.full(points.shape[0], -1)
    weights = np.zeros((points.shape[0], 3))
    for k in numba.prange(points.shape[0]):
        p = points[k]
        best = limit
        stack, gaps = np.empty(DEPTH, np.int64), np.empty(DEPTH)
        stack[0], gaps[0], depth = 0, _squared_to_box(p, low[0], high[0]), 1
        while depth > 0:
            depth -= 1
            node = stack[depth]
            if gaps[depth] > best:
                continue
            if child[node] >= 0:
                one, two = child[node], child[node] + 1
                near, far = (
                    _squared_to_box(p, low[one], high[one]),
                    _squared_to_box(p, low[two], high[two]),
                )
                if far < near:
                    one, two, near, far = two, one, far, near
                stack[depth], gaps[depth] = two, far
                stack[depth + 1], gaps[depth + 1] = one, near
                depth += 2
                continue
            for t in range(first[node], first[node] + count[node]):
                if normals.shape[0] > 0 and (
                    normals[k, 0] * sides[t, 0]
                    + normals[k, 1] * sides[t, 1]
                    + normals[k, 2] * sides[t, 2]
                    < least_cosine
                ):
                    continue
                a, b, c = closest_weights(p, triangles[t])
                d = 0.0
                for i in range(3):
                    x = a * triangles[t, 0, i] + b * triangles[t, 1, i] + c * triangles[t, 2, i]
                    d += (x - p[i]) ** 2
                if d < best or (d == best and at[k] < 0):
                    best, at[k] = d, t
                    squared[k] = d
                    weights[k, 0], weights[k, 1], weights[k, 2] = a, b, c
    return squared, at, weights


@numba.njit(cache=True)
def solid_angle(p, triangle):
    """The signed solid angle of a triangle `[3, 3]` seen from `p`, in steradians.

    Positive where `p` lies behind it. (Van Oosterom and Strackee 1983, eq. 8.)
    """
    ax, ay, az = triangle[0, 0] - p[0], triangle[0, 1] - p[1], triangle[0, 2] - p[2]
    bx, by, bz = triangle[1, 0] - p[0], triangle[1, 1] - p[1], triangle[1, 2] - p[2]
    cx, cy, cz = triangle[2, 0] - p[0], triangle[2, 1] - p[1], triangle[2, 2] - p[2]
    a = math.sqrt(ax * ax + ay * ay + az * az)
    b = math.sqrt(bx * bx + by * by + bz * bz)
    c = math.sqrt(cx * cx + cy * cy + cz * cz)
    volume = ax * (by * cz - bz * cy) + ay * (bz * cx - bx * cz) + az * (bx * cy - by * cx)
    below = a * b * c
    below += (ax * bx + ay * by + az * bz) * c
    below += (bx * cx + by * cy + bz * cz) * a
    below += (cx * ax + cy * ay + cz * az) * b
    return 2.0 * math.atan2(volume, below)


@numba.njit(cache=True, parallel=True)
def _winding_all(points, triangles, first, count, child, middle, dipole, radius):
    out = np.zeros(points.shape[0])
    for k in numba.prange(points.shape[0]):
        p = points[k]
        stack = np.empty(DEPTH, np.int64)
        stack[0], depth, total = 0, 1, 0.0
        while depth > 0:
            depth -= 1
            node = stack[depth]
            x, y, z = middle[node, 0] - p[0], middle[node, 1] - p[1], middle[node, 2] - p[2]
            apart = math.sqrt(x * x + y * y + z * z)
            if apart > FAR * radius[node] and apart > 0.0:
                flux = dipole[node, 0] * x + dipole[node, 1] * y + dipole[node, 2] * z
                total += flux / (apart * apart * apart)
            elif child[node] >= 0:
                stack[depth], stack[depth + 1] = child[node], child[node] + 1
                depth += 2
            else:
                for t in range(first[node], first[node] + count[node]):
                    total += solid_angle(p, triangles[t])
        out[k] = total / (4.0 * math.pi)
    return out
