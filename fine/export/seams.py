"""What an atlas is like: charts, use, stretch, and what its seams do in the smaller mip levels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from ...common.scene.images import psnr
from ...common.scene.mesh import sample_surface
from .bake import texel_owners
from .unwrap import Unwrapped

LEVELS = 6  # 0 is the texture itself, each further one is half as wide
POINTS = 20_000  # of the surface, evenly by area
ROWS = 256  # of a level that are made at a time
LARGEST = 4096  # texels a side up to which all of this is measured

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class AtlasReport:
    """charts: how many. mirrored: faces whose chart is mirrored. use: share of the texture that
    faces cover. stretch: how unevenly texels lie on the surface, 1 is not at all (the L2 stretch of
    Sander 2001, "Texture mapping progressive meshes", of the whole atlas). mixed: for each mip
    level the share of the surface whose colour there comes from more than one chart."""

    charts: int
    mirrored: int
    use: float
    stretch: float
    mixed: list[float]


def describe_atlas(unwrapped: Unwrapped, size: int) -> AtlasReport:
    """Measure an atlas for a texture of `size` texels; `mixed` is empty beyond LARGEST."""
    chart = unwrapped.charts().numpy()
    signed = _uv_areas(unwrapped)
    return AtlasReport(
        charts=int(chart.max()) + 1,
        mirrored=int((signed < 0.0).sum()),
        use=round(float(np.abs(signed).sum()), 4),
        stretch=round(stretch(unwrapped), 3),
        mixed=[round(x, 5) for x in mixed_shares(unwrapped, chart, size)],
    )


def stretch(unwrapped: Unwrapped) -> float:
    """The L2 stretch of an atlas: at least 1, and 1 where all texels are alike squares."""
    corners = unwrapped.vertices.double().numpy()[unwrapped.faces.numpy()]
    a, b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    areas = 0.5 * np.linalg.norm(np.cross(a, b), axis=1)
    uv = unwrapped.uv.double().numpy()[unwrapped.faces.numpy()]
    (s1, t1), (s2, t2) = (uv[:, 1] - uv[:, 0]).T, (uv[:, 2] - uv[:, 0]).T
    twice = s1 * t2 - s2 * t1
    sound = (np.abs(twice) > 1e-12) & (areas > 0.0)
    a, b, twice = a[sound], b[sound], twice[sound, None]
    along_s = (a * t2[sound, None] - b * t1[sound, None]) / twice
    along_t = (b * s1[sound, None] - a * s2[sound, None]) / twice
    squared = 0.5 * ((along_s**2).sum(axis=1) + (along_t**2).sum(axis=1))
    total, places = areas[sound].sum(), 0.5 * np.abs(twice).sum()
    if not total > 0.0:
        return 1.0
    return float(np.sqrt((areas[sound] * squared).sum() / total * places / total))


def mixed_shares(unwrapped: Unwrapped, chart: NDArray[np.int64], size: int) -> list[float]:
    """The share of the surface, for each level, that a bilinear lookup colours from two charts.

    chart: of each face, `[F]`. Texels that belong to no face count for the nearest chart, which is
    what they are filled from.
    """
    if size > LARGEST:
        return []
    owner = texel_owners((unwrapped.uv.double() * size)[unwrapped.faces].numpy(), size)
    near = ndimage.distance_transform_edt(owner < 0, return_distances=False, return_indices=True)
    near = np.asarray(near)
    of_texel = chart[owner[near[0], near[1]]]
    points, face = _samples(unwrapped)
    own = chart[face]
    shares = []
    for _ in range(LEVELS):
        width = of_texel.shape[0]
        wrong = np.zeros(len(own), dtype=np.bool_)
        for row, column, weight in _texels_around(points, width):
            wrong |= (of_texel[row, column] != own) & (weight > 0.0)
        shares.append(float(wrong.mean()))
        if width < 2:
            break
        of_texel = _halved(of_texel)
    return shares


def texture_psnr(
    unwrapped: Unwrapped, texture: NDArray[np.uint8], colors: Callable[[Tensor], Tensor]
) -> list[float]:
    """PSNR in dB of lookups in each mip level of a texture against a field of colours.

    colors: sRGB `[N, 3]` of surface points `[N, 3]`. Smaller levels blur what the field has.
    """
    generator = torch.Generator().manual_seed(0)
    places, face = sample_surface(unwrapped.vertices, unwrapped.faces, POINTS, generator)
    points, again = _samples(unwrapped)
    assert torch.equal(face, torch.from_numpy(again))
    true = colors(places).double().clamp(0.0, 1.0)
    level, found = texture, []
    for _ in range(LEVELS):
        values = np.zeros((len(points), 3))
        for row, column, weight in _texels_around(points, level.shape[0]):
            values += weight[:, None] * (level[row, column] / 255.0)
        found.append(round(psnr(torch.from_numpy(values), true), 2))
        if level.shape[0] < 2:
            break
        level = _next_level(level)
    return found


def _next_level(level: NDArray[np.generic]) -> NDArray[np.float32]:
    """Half as wide, each texel the mean of four; some rows at a time, so that large ones fit."""
    width = level.shape[0] // 2
    out = np.empty((width, width, level.shape[2]), dtype=np.float32)
    for top in range(0, width, ROWS):
        rows = level[2 * top : min(2 * (top + ROWS), 2 * width), : 2 * width]
        four = rows.reshape(len(rows) // 2, 2, width, 2, -1)
        out[top : top + ROWS] = four.mean(axis=(1, 3), dtype=np.float32)
    return out


def _halved(of_texel: NDArray[np.int64]) -> NDArray[np.int64]:
    """The chart of each texel of the next level, -1 where its four texels are of several."""
    half = of_texel.shape[0] // 2 * 2
    four = of_texel[:half, :half].reshape(half // 2, 2, half // 2, 2)
    low, high = four.min(axis=(1, 3)), four.max(axis=(1, 3))
    return np.where(low == high, low, -1)


def _samples(unwrapped: Unwrapped) -> tuple[Floats, NDArray[np.int64]]:
    """Texture points `[N, 2]` of surface points spread evenly by area, and their faces."""
    generator = torch.Generator().manual_seed(0)
    flat = torch.cat([unwrapped.vertices, unwrapped.uv], dim=1)
    places, face = sample_surface(unwrapped.vertices, unwrapped.faces, POINTS, generator)
    corners = flat[unwrapped.faces[face]].double()
    a, b, c = corners[..., :3].unbind(1)
    # Barycentrics of the sampled place: the draw itself keeps them to itself.
    u, v, w = b - a, c - a, places.double() - a
    uu, uv, vv = (u * u).sum(1), (u * v).sum(1), (v * v).sum(1)
    wu, wv = (w * u).sum(1), (w * v).sum(1)
    below = (uu * vv - uv * uv).clamp_min(1e-300)
    second, third = (vv * wu - uv * wv) / below, (uu * wv - uv * wu) / below
    weights = torch.stack([1.0 - second - third, second, third], dim=1)
    return (weights[..., None] * corners[..., 3:]).sum(1).numpy(), face.numpy()


def _texels_around(points: Floats, width: int):
    """The four texels of bilinear lookups at texture points `[N, 2]`: rows, columns, weights."""
    x, y = points[:, 0] * width - 0.5, (1.0 - points[:, 1]) * width - 0.5
    left, top = np.floor(x), np.floor(y)
    for i in (0, 1):
        for j in (0, 1):
            weight = np.abs(1 - i - (y - top)) * np.abs(1 - j - (x - left))
            row = np.clip(top.astype(np.int64) + i, 0, width - 1)
            column = np.clip(left.astype(np.int64) + j, 0, width - 1)
            yield row, column, weight


def _uv_areas(unwrapped: Unwrapped) -> Floats:
    """Signed areas of faces on the texture, `[F]`, in shares of it."""
    a, b, c = unwrapped.uv.double()[unwrapped.faces].unbind(1)
    one, two = b - a, c - a
    return (0.5 * (one[:, 0] * two[:, 1] - one[:, 1] * two[:, 0])).numpy()
