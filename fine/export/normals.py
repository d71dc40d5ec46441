"""Normal maps: what decimation took from the surface, put back into how it is lit.

Tangents are MikkTSpace's: of each face the direction in which U grows, of each vertex their mean by
the angle at it, made perpendicular to the smooth normal; faces whose texture is mirrored have a
handedness of -1. They are written into the file, so that a reader need not find them again.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ...common.rasterize import Raster, interpolate
from .bake import Texels, fill_from_nearest
from .source import Surface
from .unwrap import Unwrapped

Floats = NDArray[np.float64]
STEEPEST = 0.05  # least component along the smooth normal: nothing is lit from behind


def tangents(unwrapped: Unwrapped) -> Tensor:
    """Unit tangents with their handedness in the last column, float32 `[W, 4]`.

    The bitangent is the handedness times normal x tangent, and points to where V grows (bottom-up).
    """
    faces = unwrapped.faces.numpy()
    places = unwrapped.vertices.double().numpy()
    uv = unwrapped.uv.double().numpy()
    normals = unwrapped.normals().double().numpy()
    corners, flat = places[faces], uv[faces]
    a, b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    (s1, t1), (s2, t2) = (flat[:, 1] - flat[:, 0]).T, (flat[:, 2] - flat[:, 0]).T
    area = s1 * t2 - s2 * t1
    sign = np.where(area < 0.0, -1.0, 1.0)
    along = sign[:, None] * (a * t2[:, None] - b * t1[:, None])
    total, turn = np.zeros((len(places), 3)), np.zeros(len(places))
    for i in range(3):
        vertex = faces[:, i]
        normal = normals[vertex]
        own = _unit(along - normal * (along * normal).sum(axis=1, keepdims=True))
        one, two = (corners[:, (i + k) % 3] - corners[:, i] for k in (1, 2))
        one = _unit(one - normal * (one * normal).sum(axis=1, keepdims=True))
        two = _unit(two - normal * (two * normal).sum(axis=1, keepdims=True))
        angle = np.arccos(np.clip((one * two).sum(axis=1), -1.0, 1.0))
        np.add.at(total, vertex, angle[:, None] * own)
        np.add.at(turn, vertex, angle * sign)
    total = total - normals * (total * normals).sum(axis=1, keepdims=True)
    lost = np.linalg.norm(total, axis=1) < 1e-9
    total[lost] = _any_across(normals[lost])
    hand = np.where(turn < 0.0, -1.0, 1.0)
    return torch.from_numpy(np.column_stack([_unit(total), hand]).astype(np.float32))


def bake_normals(
    unwrapped: Unwrapped,
    size: int,
    surface: Surface | None,
    bend: Callable[[Floats, Floats], Floats] | None = None,
) -> NDArray[np.uint8]:
    """The tangent-space normal map of a decimated mesh, uint8 `[size, size, 3]`, green up.

    surface: what it was decimated from; None if it wasn't. bend: from points and unit normals of
    that surface to the normals that its material has there. Red is along the tangent, green along
    the bitangent, blue along the smooth normal, each from -1 to 1.
    """
    texels = Texels.of(unwrapped, size)
    smooth = unwrapped.normals().double().numpy()
    frame = tangents(unwrapped).double().numpy()
    out = np.zeros((size, size, 3), dtype=np.uint8)
    for row, column in texels.chunks():
        points, flat, weights = texels.places(row, column)
        corner = texels.faces[texels.owner[row, column]]
        normal = _unit(np.einsum("nk,nki->ni", weights, smooth[corner]))
        tangent = _unit(np.einsum("nk,nki->ni", weights, frame[corner, :3]))
        across = frame[corner[:, 0], 3:] * np.cross(normal, tangent)
        true = normal
        if surface is not None:
            points, true = surface.beneath(points, flat)
        if bend is not None:
            true = bend(points, true)
        local = np.stack([(true * axis).sum(axis=1) for axis in (tangent, across, normal)], axis=1)
        # The frame is not quite orthogonal between vertices: what it is to add up to is solved for.
        local = _solved(tangent, across, normal, true, local)
        local[:, 2] = np.maximum(local[:, 2], STEEPEST)
        out[row, column] = np.rint((0.5 + 0.5 * _unit(local)) * 255.0).astype(np.uint8)
    fill_from_nearest(out, texels.owner >= 0)
    return out


def mapped_normals(unwrapped: Unwrapped, frame: Tensor, values: Tensor, raster: Raster) -> Tensor:
    """World normals `[P, 3]` of covered pixels as a viewer makes them of a normal map.

    frame: of `tangents`. values: `[P, 3]` in [0, 1], what the map has at the pixels.
    """
    local = torch.from_numpy(unpacked(values.double().numpy())).float()
    normal = F.normalize(interpolate(unwrapped.normals(), raster), dim=-1)
    tangent = F.normalize(interpolate(frame[:, :3], raster), dim=-1)
    hand = frame[unwrapped.faces[raster.face][:, 0], 3:]
    across = hand * torch.linalg.cross(normal, tangent)
    x, y, z = local[:, :1], local[:, 1:2], local[:, 2:]
    return F.normalize(x * tangent + y * across + z * normal, dim=-1)


def unpacked(texture: Floats) -> Floats:
    """Normals `[..., 3]` in tangent space from values in [0, 1]."""
    return _unit(2.0 * texture - 1.0)


def flipped(texture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The same map with green down, as DirectX has it."""
    out = texture.copy()
    out[..., 1] = 255 - out[..., 1]
    return out


def _solved(tangent: Floats, across: Floats, normal: Floats, true: Floats, plain: Floats) -> Floats:
    """Coefficients of `true` in the frame; those of `plain` where the frame has collapsed."""
    matrix = np.stack([tangent, across, normal], axis=2)
    sound = np.abs(np.linalg.det(matrix)) > 1e-3
    out = plain.copy()
    out[sound] = np.linalg.solve(matrix[sound], true[sound][..., None])[..., 0]
    return out


def _unit(vectors: Floats) -> Floats:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.maximum(length, 1e-12)


def _any_across(normals: Floats) -> Floats:
    """Some direction perpendicular to each normal."""
    axis = np.eye(3)[np.abs(normals).argmin(axis=1)] if len(normals) else normals
    return np.cross(normals, axis)
