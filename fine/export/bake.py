"""Baking: a colour for every texel of a texture, from a field of colours on the surface.

Texel space has its origin at the texture's bottom left, x to the right, y up, texel centres at
half-integers; row 0 of the image is its top, so texel (x, y) is at row `size - 1 - floor(y)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numba import njit, prange
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from .source import Surface
from .unwrap import Unwrapped

AlbedoFn = Callable[[Tensor], Tensor]
"""World points `[N, 3]` to sRGB albedo `[N, 3]` in [0, 1]."""

EDGE = 24  # of 255: neighbouring texels that differ by more are sampled more finely
SUBSAMPLES = ((-0.25, -0.25), (0.25, -0.25), (-0.25, 0.25), (0.25, 0.25))  # texels
BAND = 2048  # rows of a large texture that are filled at a time ...
HALO = 512  # ... looking so many rows further
WHOLE = 4096  # a texture of so many texels a side is filled at once
Floats = NDArray[np.float64]
CHUNK = 2**18  # points a call of the field
REACH = 2.0**0.5  # texels: a bilinear lookup at a point reads centres no farther from it


@dataclass(frozen=True)
class Baked:
    """texture: uint8 `[size, size, 3]`, sRGB, row 0 on top. mask: bool `[size, size]`, the texels
    whose colour comes from the field itself (the others are filled from the nearest such one)."""

    texture: NDArray[np.uint8]
    mask: NDArray[np.bool_]


def bake(
    unwrapped: Unwrapped,
    size: int,
    albedo_fn: AlbedoFn,
    device: torch.device | str = "cpu",
    surface: Surface | None = None,
) -> Baked:
    """The texture of a mesh: `albedo_fn` at the surface point of each texel.

    size: texels a side. albedo_fn: is called with at most CHUNK world points on `device`.
    surface: the surface that the mesh was decimated from; colours are taken from its points, so
    that the texture is the model's own, not that of what lies before or behind it.

    A texel with its centre in a face takes the colour at that point of the face. One within REACH
    of a face takes the colour at the face's nearest point, so a bilinear lookup on the surface
    reads evaluated texels alone. Where the colour jumps from a texel to the next, four points of
    each are averaged. All others repeat the nearest evaluated texel, so that no background bleeds
    into filtered lookups or smaller mipmaps.
    """
    texels = Texels.of(unwrapped, size)
    texture = np.zeros((size, size, 3), dtype=np.uint8)
    for row, column in texels.chunks():
        points, normals, _ = texels.places(row, column)
        if surface is not None:
            points = surface.beneath(points, normals)[0]
        texture[row, column] = to_bytes(_colours(points, albedo_fn, device))
    rows, columns = np.nonzero(_jumps(texture, texels.owner))
    for first in range(0, rows.size, CHUNK // len(SUBSAMPLES)):
        row = rows[first : first + CHUNK // len(SUBSAMPLES)]
        column = columns[first : first + CHUNK // len(SUBSAMPLES)]
        total = np.zeros((row.size, 3), dtype=np.float32)
        for x, y in SUBSAMPLES:
            points, normals, _ = texels.places(row, column, x, y)
            if surface is not None:
                points = surface.beneath(points, normals)[0]
            total += _colours(points, albedo_fn, device)
        texture[row, column] = to_bytes(total / np.float32(len(SUBSAMPLES)))
    mask = texels.owner >= 0
    fill_from_nearest(texture, mask)
    return Baked(texture, mask)


class Texels:
    """Which face each texel of a texture belongs to, and where on it.

    owner: int32 `[size, size]`, -1 for none. vertices: float64, of the faces' corners.
    """

    def __init__(self, unwrapped: Unwrapped, size: int, owner: NDArray[np.int32]) -> None:
        self.owner, self.size = owner, size
        self.corners = (unwrapped.uv.double() * size)[unwrapped.faces].numpy()  # [F, 3, 2]
        self.faces = unwrapped.faces.numpy()
        self.vertices = unwrapped.vertices.double().numpy()
        a, b, c = np.moveaxis(self.vertices[self.faces], 1, 0)
        flat = np.cross(b - a, c - a)
        length = np.linalg.norm(flat, axis=1, keepdims=True)
        self.normals = flat / np.maximum(length, 1e-300)

    @staticmethod
    def of(unwrapped: Unwrapped, size: int) -> Texels:
        """Raises ValueError for a size below 1 and for a mesh that covers no texel."""
        if size < 1:
            raise ValueError(f"size: expected at least 1 texel, got {size}")
        corners = (unwrapped.uv.double() * size)[unwrapped.faces].numpy()
        owner = texel_owners(corners, size)
        if not (owner >= 0).any():
            raise ValueError("unwrapped: expected faces on the texture, got none")
        return Texels(unwrapped, size, owner)

    def chunks(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Rows and columns of the texels that belong to a face, at most CHUNK at a time."""
        step = max(CHUNK // self.size, 1)
        for top in range(0, self.size, step):
            rows, columns = np.nonzero(self.owner[top : top + step] >= 0)
            for first in range(0, rows.size, CHUNK):
                yield rows[first : first + CHUNK] + top, columns[first : first + CHUNK]

    def places(
        self, row: NDArray[np.int64], column: NDArray[np.int64], x: float = 0.0, y: float = 0.0
    ) -> tuple[Floats, Floats, Floats]:
        """Points `[N, 3]` of texels on their faces, the faces' normals, and barycentrics.

        x, y: where in the texel, measured from its centre in texels, y up.
        """
        face = self.owner[row, column]
        weights = _nearest_weights(self.corners, face, row - y, column + x, self.size)
        points = np.einsum("nk,nki->ni", weights, self.vertices[self.faces[face]])
        return points, self.normals[face], weights


def _jumps(texture: NDArray[np.uint8], owner: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Which texels differ by more than EDGE from an evaluated neighbour."""
    found = np.zeros(owner.shape, dtype=np.bool_)
    for axis in (0, 1):
        one = [slice(None), slice(None)]
        two = [slice(None), slice(None)]
        one[axis], two[axis] = slice(None, -1), slice(1, None)
        a, b = tuple(one), tuple(two)
        known = (owner[a] >= 0) & (owner[b] >= 0)
        apart = np.zeros(known.shape, dtype=np.bool_)
        for channel in range(3):
            high = np.maximum(texture[a][..., channel], texture[b][..., channel])
            low = np.minimum(texture[a][..., channel], texture[b][..., channel])
            apart |= (high - low) > EDGE
        found[a] |= apart & known
        found[b] |= apart & known
    return found


def fill_from_nearest(texture: NDArray[np.uint8], mask: NDArray[np.bool_]) -> None:
    """Give texels outside `mask` the colour of the nearest one inside, in place.

    A large texture is filled in bands: there a texel without any within HALO rows may take the
    colour of one that is not quite the nearest, or the mean of all.
    """
    size = mask.shape[0]
    if size <= WHOLE:
        _fill(texture, mask, slice(0, size))
        return
    mean = np.array([texture[..., c][mask].mean() for c in range(3)]).round().astype(np.uint8)
    for top in range(0, size, BAND):
        low, high = max(top - HALO, 0), min(top + BAND + HALO, size)
        if not mask[low:high].any():
            texture[top : top + BAND] = mean
            continue
        _fill(texture[low:high], mask[low:high], slice(top - low, top - low + BAND))


def _fill(texture: NDArray[np.uint8], mask: NDArray[np.bool_], wanted: slice) -> None:
    """Fill the `wanted` rows of a texture from the nearest texels in `mask`."""
    rows, columns = np.nonzero(~mask[wanted])
    if rows.size == 0:
        return
    rows += wanted.start
    near = ndimage.distance_transform_edt(~mask, return_distances=False, return_indices=True)
    near = np.asarray(near)
    for first in range(0, rows.size, CHUNK):
        row, column = rows[first : first + CHUNK], columns[first : first + CHUNK]
        texture[row, column] = texture[near[0, row, column], near[1, row, column]]


def to_bytes(colours: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Colours in [0, 1] as bytes, rounded."""
    return np.rint(colours * np.float32(255.0)).astype(np.uint8)


def _colours(
    points: NDArray[np.float64], albedo_fn: AlbedoFn, device: torch.device | str
) -> NDArray[np.float32]:
    """Colours `[N, 3]` in [0, 1] of points; ValueError for a wrong shape and what is not finite."""
    with torch.no_grad():
        albedo = albedo_fn(torch.from_numpy(points.astype(np.float32)).to(device))
    if albedo.shape != (points.shape[0], 3):
        expected = [points.shape[0], 3]
        raise ValueError(f"albedo_fn: expected {expected} colours, got {list(albedo.shape)}")
    if not bool(torch.isfinite(albedo).all()):
        raise ValueError("albedo_fn: expected finite colours, got NaN or infinity")
    return albedo.clamp(0.0, 1.0).float().cpu().numpy()


@njit(cache=True, inline="always")
def _nearest(corners, x, y):
    """Barycentrics of the point of a triangle `[3, 2]` nearest to (x, y), and its distance²."""
    ax, ay = corners[0, 0], corners[0, 1]
    bx, by = corners[1, 0], corners[1, 1]
    cx, cy = corners[2, 0], corners[2, 1]
    area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
    if area != 0.0:
        a = ((bx - x) * (cy - y) - (by - y) * (cx - x)) / area
        b = ((cx - x) * (ay - y) - (cy - y) * (ax - x)) / area
        c = 1.0 - a - b
        if a >= 0.0 and b >= 0.0 and c >= 0.0:
            return a, b, c, 0.0
    best, edge, along = np.inf, 0, 0.0
    for i in range(3):
        px, py = corners[i, 0], corners[i, 1]
        dx, dy = corners[(i + 1) % 3, 0] - px, corners[(i + 1) % 3, 1] - py
        square = dx * dx + dy * dy
        t = 0.0
        if square > 0.0:
            t = min(max(((x - px) * dx + (y - py) * dy) / square, 0.0), 1.0)
        distance = (px + t * dx - x) ** 2 + (py + t * dy - y) ** 2
        if distance < best:
            best, edge, along = distance, i, t
    if edge == 0:
        return 1.0 - along, along, 0.0, best
    if edge == 1:
        return 0.0, 1.0 - along, along, best
    return along, 0.0, 1.0 - along, best


@njit(cache=True)
def texel_owners(corners, size):
    """The face each texel is coloured from, int32 `[size, size]`, -1 for none.

    corners: float64 `[F, 3, 2]` in texels. It is the nearest face to the texel's centre within
    REACH; of several that contain it, or are as near, the first.
    """
    owner = np.full((size, size), -1, dtype=np.int32)
    best = np.full((size, size), np.float32(REACH * REACH + 1e-6))
    for f in range(corners.shape[0]):
        xs, ys = corners[f, :, 0], corners[f, :, 1]
        left, right = int(np.ceil(xs.min() - REACH - 0.5)), int(np.floor(xs.max() + REACH - 0.5))
        low, high = int(np.ceil(ys.min() - REACH - 0.5)), int(np.floor(ys.max() + REACH - 0.5))
        for y in range(max(low, 0), min(high + 1, size)):
            for x in range(max(left, 0), min(right + 1, size)):
                row = size - 1 - y
                if best[row, x] == 0.0:
                    continue
                distance = np.float32(_nearest(corners[f], x + 0.5, y + 0.5)[3])
                if distance < best[row, x]:
                    best[row, x] = distance
                    owner[row, x] = f
    return owner


@njit(cache=True, parallel=True)
def _nearest_weights(corners, face, row, column, size):
    """Barycentrics `[N, 3]` of the nearest point of each texel's face."""
    weights = np.empty((face.shape[0], 3))
    for n in prange(face.shape[0]):
        a, b, c, _ = _nearest(corners[face[n]], column[n] + 0.5, size - row[n] - 0.5)
        weights[n, 0], weights[n, 1], weights[n, 2] = a, b, c
    return weights
