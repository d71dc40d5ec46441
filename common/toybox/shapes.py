"""Watertight primitives in plain numpy: lofts and what follows from them, boxes, prisms, tubes.

Every builder returns a `Solid`: a closed surface whose edges are each shared by exactly two faces,
counter-clockwise seen from outside. Z is up; solids are made around the origin and then moved.
Lengths are in the units of the caller, angles in degrees.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


class Solid(NamedTuple):
    """A closed surface: vertices float64 `[V, 3]`, faces int64 `[F, 3]`."""

    vertices: Array
    faces: NDArray[np.int64]

    def moved(self, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Solid:
        """The solid shifted by (x, y, z)."""
        return Solid(self.vertices + np.array([x, y, z]), self.faces)

    def scaled(self, x: float = 1.0, y: float = 1.0, z: float = 1.0) -> Solid:
        """The solid scaled about the origin; a negative factor mirrors it."""
        return outward(self.vertices * np.array([x, y, z]), self.faces)

    def turned(self, axis: str, degrees: float) -> Solid:
        """The solid turned counter-clockwise about the `axis` "x", "y" or "z" of the origin."""
        i = "xyz".index(axis)
        j, k = (i + 1) % 3, (i + 2) % 3
        c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        turned = self.vertices.copy()
        turned[:, j] = c * self.vertices[:, j] - s * self.vertices[:, k]
        turned[:, k] = s * self.vertices[:, j] + c * self.vertices[:, k]
        return Solid(turned, self.faces)

    def mirrored(self) -> Solid:
        """The solid with left and right (y) exchanged."""
        return self.scaled(y=-1.0)


def signed_volume(vertices: Array, faces: NDArray[np.int64]) -> float:
    """Volume by the divergence theorem; positive for a closed surface that faces outward."""
    (ax, ay, az), (bx, by, bz), (cx, cy, cz) = vertices.T[:, faces].transpose(2, 0, 1)
    triple = ax * (by * cz - bz * cy) + ay * (bz * cx - bx * cz) + az * (bx * cy - by * cx)
    return float(triple.sum() / 6.0)


def outward(vertices: Array, faces: NDArray[np.int64]) -> Solid:
    """A consistently oriented closed surface, turned inside out if it faced inward."""
    centred = vertices - vertices.mean(axis=0)
    if signed_volume(centred, faces) < 0:
        faces = faces[:, ::-1]
    return Solid(np.ascontiguousarray(vertices), np.ascontiguousarray(faces))


def segments_around(radius: float) -> int:
    """How many segments make a circle of this radius look round at 512 px: 12 to 44."""
    return int(4 * np.clip(np.ceil(2 * np.pi * abs(radius) / 0.3), 3, 11))


# Curves and profiles ------------------------------------------------------------------------------


def spline(points: ArrayLike, count: int = 24) -> Array:
    """`count` points of the Catmull-Rom curve through `points` `[N, D]`, both ends included."""
    p = np.asarray(points, dtype=np.float64)
    p = np.concatenate([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])
    at = np.linspace(0, len(p) - 3, count)
    i = np.minimum(at.astype(int), len(p) - 4)
    t = (at - i)[:, None]
    a, b, c, d = p[i], p[i + 1], p[i + 2], p[i + 3]
    cubic = (3 * (b - c) + d - a) * t + 2 * a - 5 * b + 4 * c - d
    return 0.5 * (2 * b + (c - a + cubic * t) * t)


def rounded(points: ArrayLike, radius: float, closed: bool = False, steps: int = 4) -> Array:
    """The polyline `points` `[N, 2]` with its corners cut by arcs reaching `radius` along edges."""
    p = np.asarray(points, dtype=np.float64)
    rows: list[Array] = []
    for i, corner in enumerate(p):
        if not closed and i in (0, len(p) - 1):
            rows.append(corner[None])
            continue
        before, after = p[i - 1] - corner, p[(i + 1) % len(p)] - corner
        a, b = np.linalg.norm(before), np.linalg.norm(after)
        reach = min(radius, 0.49 * a, 0.49 * b)
        start, end = corner + before / a * reach, corner + after / b * reach
        t = np.linspace(0, 1, steps + 1)[:, None]
        rows.append((1 - t) ** 2 * start + 2 * t * (1 - t) * corner + t**2 * end)
    return np.concatenate(rows)


def arc(radius: float, start: float, end: float, count: int = 16) -> Array:
    """Points `[count, 2]` of a circle about the origin from `start` to `end` degrees."""
    angle = np.radians(np.linspace(start, end, count))
    return radius * np.stack([np.cos(angle), np.sin(angle)], axis=-1)


# Lofts --------------------------------------------------------------------------------------------


def _grid_faces(rows: int, columns: int, wrap_rows: bool) -> NDArray[np.int64]:
    """Two triangles a cell of a vertex grid whose columns (and rows, if asked) wrap around."""
    i, j = np.meshgrid(
        np.arange(rows if wrap_rows else rows - 1), np.arange(columns), indexing="ij"
    )
    i, j = i.ravel(), j.ravel()
    below, above = i * columns, (i + 1) % rows * columns
    right = (j + 1) % columns
    first = np.stack([below + j, below + right, above + right], axis=-1)
    second = np.stack([below + j, above + right, above + j], axis=-1)
    return np.concatenate([first, second])


def loft(rings: ArrayLike, start: ArrayLike | None = None, end: ArrayLike | None = None) -> Solid:
    """A skin over closed rings `[R, S, 3]`, capped by fans to `start` and `end`.

    The fans meet in the given points, or in the middles of the first and last ring; a ring must be
    star-shaped about its cap's point.
    """
    r = np.asarray(rings, dtype=np.float64)
    rows, columns = r.shape[:2]
    first = r[0].mean(axis=0) if start is None else np.asarray(start, dtype=np.float64)
    last = r[-1].mean(axis=0) if end is None else np.asarray(end, dtype=np.float64)
    vertices = np.concatenate([r.reshape(-1, 3), first[None], last[None]])
    j = np.arange(columns)
    right = (j + 1) % columns
    top = (rows - 1) * columns
    bottom_fan = np.stack([np.full(columns, rows * columns), right, j], axis=-1)
    top_fan = np.stack([np.full(columns, rows * columns + 1), top + j, top + right], axis=-1)
    faces = np.concatenate([_grid_faces(rows, columns, wrap_rows=False), bottom_fan, top_fan])
    return outward(vertices, faces)


def lathe(
    profile: ArrayLike, segments: int | None = None, ribs: tuple[int, float] = (0, 0)
) -> Solid:
    """A surface of revolution about Z of an open profile `[N, 2]` of (radius, z).

    The ends are closed on the axis. `ribs` = (count, depth) makes the radius swing by that share.
    """
    p = np.asarray(profile, dtype=np.float64)
    start, end = p[0, 1], p[-1, 1]
    body = p[p[:, 0] > 1e-9]
    count = segments or segments_around(float(body[:, 0].max()))
    angle = np.arange(count) * (2 * np.pi / count)
    swing = 1.0 + ribs[1] * np.cos(ribs[0] * angle) if ribs[0] else np.ones(count)
    rings = np.empty((len(body), count, 3))
    rings[..., 0] = body[:, :1] * (swing * np.cos(angle))
    rings[..., 1] = body[:, :1] * (swing * np.sin(angle))
    rings[..., 2] = body[:, 1:]
    return loft(rings, start=(0, 0, start), end=(0, 0, end))


def ellipsoid(x: float, y: float | None = None, z: float | None = None) -> Solid:
    """An ellipsoid with the half axes x, y, z (a ball of radius x if only that is given)."""
    radii = (x, x if y is None else y, x if z is None else z)
    count = segments_around(max(radii))
    profile = arc(1.0, -90, 90, count // 2 + 1)
    profile[[0, -1], 0] = 0.0
    return lathe(profile, count).scaled(*radii)


def frustum(lower: float, upper: float, height: float, bevel: float = 0.04) -> Solid:
    """A cone's slice with radii `lower` at z = 0 and `upper` at z = `height`, edges rounded.

    A cylinder if both radii are equal; a cone with a blunt tip if `upper` is small.
    """
    profile = [(0.0, 0.0), (lower, 0.0), (upper, height), (0.0, height)]
    return lathe(rounded(profile, bevel, steps=3))


def cylinder(radius: float, height: float, bevel: float = 0.04) -> Solid:
    """A cylinder from z = 0 to z = `height` with rounded edges."""
    return frustum(radius, radius, height, bevel)


def capsule(start: ArrayLike, end: ArrayLike, radius: float, end_radius: float = 0.0) -> Solid:
    """A rod with round ends between two points; `end_radius` (if given) tapers it."""
    radii = np.array([radius, end_radius or radius])
    return tube(np.stack([np.asarray(start, float), np.asarray(end, float)]), radii)


def tube(curve: ArrayLike, radius: ArrayLike, segments: int | None = None) -> Solid:
    """A tube along `curve` `[N, 3]` with round ends; `radius` is one number or `[N]`."""
    p = np.asarray(curve, dtype=np.float64)
    r = np.broadcast_to(np.asarray(radius, dtype=np.float64), len(p))
    tangent = np.gradient(p, axis=0)
    tangent /= np.linalg.norm(tangent, axis=-1, keepdims=True)
    count = segments or segments_around(float(r.max()))
    bend = np.radians(np.linspace(0, 90, max(count // 4, 3) + 1))[1:-1, None]
    head = p[0] - tangent[0] * r[0] * np.sin(bend)[::-1]
    tail = p[-1] + tangent[-1] * r[-1] * np.sin(bend)
    centers = np.concatenate([head, p, tail])
    radii = np.concatenate([r[0] * np.cos(bend[::-1, 0]), r, r[-1] * np.cos(bend[:, 0])])
    along = np.concatenate(
        [np.repeat(tangent[:1], len(bend), 0), tangent, np.repeat(tangent[-1:], len(bend), 0)]
    )
    rings = _rings(centers, along, radii, count)
    return loft(rings, p[0] - tangent[0] * r[0], p[-1] + tangent[-1] * r[-1])


def _rings(centers: Array, tangents: Array, radii: Array, count: int) -> Array:
    """Circles `[N, count, 3]` across `tangents`, their starting angle carried along untwisted."""
    angle = np.arange(count) * (2 * np.pi / count)
    u = np.cross(tangents[0], np.eye(3)[np.argmin(np.abs(tangents[0]))])
    rings = np.empty((len(centers), count, 3))
    for i, (center, tangent) in enumerate(zip(centers, tangents, strict=True)):
        u = u - tangent * np.dot(u, tangent)
        u /= np.linalg.norm(u)
        v = np.cross(tangent, u)
        rings[i] = center + radii[i] * (np.cos(angle)[:, None] * u + np.sin(angle)[:, None] * v)
    return rings


def torus(ring: float, radius: float) -> Solid:
    """A ring about Z: `ring` from the axis to the middle of a tube of `radius`."""
    rows, columns = segments_around(ring + radius), max(segments_around(radius), 12)
    a = np.arange(rows)[:, None] * (2 * np.pi / rows)
    b = np.arange(columns)[None] * (2 * np.pi / columns)
    away = ring + radius * np.cos(b)
    z = np.broadcast_to(radius * np.sin(b), (rows, columns))
    grid = np.stack([away * np.cos(a), away * np.sin(a), z], axis=-1)
    return outward(grid.reshape(-1, 3), _grid_faces(rows, columns, wrap_rows=True))


def hull(stations: ArrayLike, rows: int = 24, segments: int = 40) -> Solid:
    """A smooth body along X through superelliptic sections.

    stations: rows of (x, z of the middle, half width, half height, power); power 2 is an ellipse,
    4 a rounded rectangle. The ends are closed flat, so let the last sections be small for a nose.
    """
    s = spline(stations, rows)
    s[:, 2:4] = np.maximum(s[:, 2:4], 1e-3)
    angle = np.arange(segments) * (2 * np.pi / segments)
    cos, sin = np.cos(angle)[None], np.sin(angle)[None]
    exponent = 2.0 / s[:, 4:5]
    y = s[:, 2:3] * np.sign(cos) * np.abs(cos) ** exponent
    z = s[:, 1:2] + s[:, 3:4] * np.sign(sin) * np.abs(sin) ** exponent
    return loft(np.stack([np.broadcast_to(s[:, :1], y.shape), y, z], axis=-1))


# Boxes and prisms ---------------------------------------------------------------------------------


def box(x: float, y: float, z: float, bevel: float = 0.05, steps: int = 3) -> Solid:
    """A box of full sizes x, y, z about the origin, edges rounded by `bevel` (0: sharp)."""
    half = 0.5 * np.array([x, y, z])
    radius = min(bevel, 0.98 * float(half.min()))
    band = np.tan(np.radians(np.linspace(0, 45, steps + 1))) if radius > 0 else np.zeros(1)
    lines = [np.concatenate([-(h - radius + radius * band)[::-1], h - radius + radius * band])
             for h in half]  # fmt: skip
    count = 2 * len(band)
    keys, quads = _cube_grid(count)
    corner = np.stack([lines[axis][keys[:, axis]] for axis in range(3)], axis=-1)
    if radius > 0:
        core = np.clip(corner, -(half - radius), half - radius)
        out = corner - core
        corner = core + radius * out / np.linalg.norm(out, axis=-1, keepdims=True)
    faces = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    return outward(corner, faces)


@lru_cache(maxsize=16)
def _cube_grid(count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The surface of a `count`^3 lattice: coordinates `[V, 3]`, outward quads `[Q, 4]`."""
    u, v = (a.ravel() for a in np.meshgrid(np.arange(count - 1), np.arange(count - 1)))
    quads = []
    for axis in range(3):
        for side in (0, count - 1):
            corners = [(u, v), (u + 1, v), (u + 1, v + 1), (u, v + 1)]
            quad = np.empty((len(u), 4, 3), dtype=np.int64)
            for i, (a, b) in enumerate(corners if side else corners[::-1]):
                quad[:, i, axis] = side
                quad[:, i, (axis + 1) % 3], quad[:, i, (axis + 2) % 3] = a, b
            quads.append(quad)
    lattice = np.concatenate(quads).reshape(-1, 3)
    keys, index = np.unique(lattice, axis=0, return_inverse=True)
    return keys, index.reshape(-1, 4)


def prism(
    polygon: ArrayLike, depth: float, bevel: float = 0.03, corner: float = 0.0, steps: int = 3
) -> Solid:
    """A simple polygon `[N, 2]` in XY, extruded to `depth` about z = 0, rims rounded inward.

    `corner` rounds the polygon's own corners by an arc that reaches so far along their edges.
    """
    p = np.asarray(polygon, dtype=np.float64)
    p = p if _area(p) > 0 else p[::-1]
    bevel = min(bevel, 0.49 * depth)
    turn = np.radians(np.linspace(0, 90, steps + 1)) if bevel > 0 else np.array([np.pi / 2])
    insets = bevel * (1 - np.sin(turn))
    heights = 0.5 * depth - bevel * (1 - np.cos(turn))
    miter = _miters(p)
    outlines = [p - inset * miter for inset in insets]
    if corner > 0:  # an inset outline turns more sharply, but never so that its arc vanishes
        reach = np.maximum(corner - insets, 0.3 * corner)
        outlines = [rounded(o, r, closed=True) for o, r in zip(outlines, reach, strict=True)]
    flat = np.stack([*outlines, *outlines[::-1]])
    height = np.concatenate([-heights, heights[::-1]])[:, None, None]
    rings = np.concatenate([flat, np.broadcast_to(height, (*flat.shape[:2], 1))], axis=-1)
    cap = triangulate(outlines[0])
    count = flat.shape[1]
    faces = [_grid_faces(len(flat), count, False), cap[:, ::-1], cap + (len(flat) - 1) * count]
    return outward(rings.reshape(-1, 3), np.concatenate(faces))


def _area(polygon: Array) -> float:
    """Signed area of a polygon `[N, 2]`, positive counter-clockwise."""
    x, y = polygon.T
    return float(0.5 * np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)))


def _miters(polygon: Array) -> Array:
    """Per corner, the outward step `[N, 2]` that moves both of its edges outward by one."""
    edge = np.roll(polygon, -1, axis=0) - polygon
    normal = np.stack([edge[:, 1], -edge[:, 0]], axis=-1)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    before = np.roll(normal, 1, axis=0)
    total = normal + before
    return total / np.maximum(1 + np.sum(normal * before, axis=-1, keepdims=True), 0.3)


def triangulate(polygon: Array) -> NDArray[np.int64]:
    """Triangles `[N - 2, 3]` of a simple counter-clockwise polygon `[N, 2]`, by clipping ears.

    Raises ValueError if the polygon crosses itself so that no ear is left.
    """
    left = list(range(len(polygon)))
    triangles: list[tuple[int, int, int]] = []
    while len(left) > 3:
        for i in range(len(left)):
            ear = (left[i - 1], left[i], left[(i + 1) % len(left)])
            if _is_ear(polygon, ear, [k for k in left if k not in ear]):
                triangles.append(ear)
                del left[i]
                break
        else:
            raise ValueError(
                f"polygon: expected a simple counter-clockwise outline, got {polygon.tolist()}"
            )
    return np.array([*triangles, tuple(left)], dtype=np.int64)


def _is_ear(polygon: Array, ear: Sequence[int], others: Sequence[int]) -> bool:
    """Whether the corner is convex and its triangle holds none of the other corners."""
    a, b, c = polygon[list(ear)]
    edges = np.stack([b - a, c - b, a - c])
    if edges[0, 0] * edges[1, 1] - edges[0, 1] * edges[1, 0] <= 0:
        return False
    away = polygon[list(others)][:, None] - np.stack([a, b, c])
    side = edges[:, 0] * away[..., 1] - edges[:, 1] * away[..., 0]
    return not bool(np.any(np.all(side >= 0, axis=-1)))
