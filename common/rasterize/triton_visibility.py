"""Visibility as a Triton kernel: a z-buffer by atomic minimum of depth and face.

One program draws one face into one view. Positions and edge functions are float64 on the same
screen grid as on the CPU, so both agree on which side of an edge a pixel centre lies. This module
imports triton.
"""

from __future__ import annotations

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

from ..device import launch
from .zbuffer import DEPTH_STEPS, FACE_STEPS, NOTHING

EDGE_STEP = tl.constexpr(2.0**-28)
TILE = 8  # pixels a side of what a program looks at in one go


def nearest(screen: Tensor, valid: Tensor, faces: Tensor, height: int, width: int) -> Tensor:
    """The keys of `zbuffer`, int64 `[B, height, width]`; arguments as there."""
    batch, vertices, _ = screen.shape
    keys = torch.full((batch, height, width), NOTHING, dtype=torch.int64, device=screen.device)
    if batch and faces.shape[0]:
        launch(
            _draw, (faces.shape[0], batch),
            screen.contiguous(), valid.contiguous().view(torch.uint8), faces.contiguous(), keys,
            vertices, height, width,
            DEPTH_STEPS=DEPTH_STEPS, FACE_STEPS=FACE_STEPS, TILE=TILE, num_warps=1, exact=True,
        )  # fmt: skip
    return keys


@triton.jit
def _corner(screen_ptr, vertex):
    """x, y and z/w of a vertex."""
    place = screen_ptr + vertex * 4
    return tl.load(place), tl.load(place + 1), tl.load(place + 2)


@triton.jit
def _centres(one, two, three, count):
    """The half-open range of pixels whose centres lie between three positions."""
    low = tl.minimum(tl.minimum(one, two), three)
    high = tl.maximum(tl.maximum(one, two), three)
    first = tl.maximum(tl.ceil(low - 0.5), 0.0)
    last = tl.minimum(tl.floor(high - 0.5) + 1.0, count.to(tl.float64))
    return first.to(tl.int32), last.to(tl.int32)


@triton.jit
def _threshold(dx, dy):
    """0 on a left or a top edge (a centre on it is inside), else just above 0."""
    return tl.where((dy < 0.0) | ((dy == 0.0) & (dx > 0.0)), 0.0, EDGE_STEP)


@triton.jit(do_not_specialize=["vertices", "height", "width"])
def _draw(
    screen_ptr, valid_ptr, face_ptr, key_ptr, vertices, height, width,
    DEPTH_STEPS: tl.constexpr, FACE_STEPS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """One face in one view."""
    face, view = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    i = tl.load(face_ptr + face * 3) + view * vertices
    j = tl.load(face_ptr + face * 3 + 1) + view * vertices
    k = tl.load(face_ptr + face * 3 + 2) + view * vertices
    ax, ay, az = _corner(screen_ptr, i)
    bx, by, bz = _corner(screen_ptr, j)
    cx, cy, cz = _corner(screen_ptr, k)
    area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
    turned = area < 0.0
    bx, cx = tl.where(turned, cx, bx), tl.where(turned, bx, cx)
    by, cy = tl.where(turned, cy, by), tl.where(turned, by, cy)
    bz, cz = tl.where(turned, cz, bz), tl.where(turned, bz, cz)
    area = tl.abs(area)
    seen = tl.load(valid_ptr + i) & tl.load(valid_ptr + j) & tl.load(valid_ptr + k)
    drawn = (seen != 0) & (area > 0.0)
    left, right = _centres(ax, bx, cx, width)
    top, bottom = _centres(ay, by, cy, height)
    bottom = tl.where(drawn, bottom, top)
    dx0, dy0, dx1, dy1, dx2, dy2 = cx - bx, cy - by, ax - cx, ay - cy, bx - ax, by - ay
    min0, min1, min2 = _threshold(dx0, dy0), _threshold(dx1, dy1), _threshold(dx2, dy2)
    area = tl.where(drawn, area, 1.0)
    slope1, slope2 = (bz - az) / area, (cz - az) / area
    for row_begin in range(top, bottom, TILE):
        for col_begin in range(left, right, TILE):
            row = row_begin + tl.arange(0, TILE)[:, None]
            col = col_begin + tl.arange(0, TILE)[None, :]
            y, x = row.to(tl.float64) + 0.5, col.to(tl.float64) + 0.5
            e0 = dx0 * (y - by) - dy0 * (x - bx)
            e1 = dx1 * (y - cy) - dy1 * (x - cx)
            e2 = dx2 * (y - ay) - dy2 * (x - ax)
            z = az + e1 * slope1 + e2 * slope2
            inside = (e0 >= min0) & (e1 >= min1) & (e2 >= min2) & (row < bottom) & (col < right)
            inside = inside & (z >= -1.0) & (z - 1.0 < 1e-12)
            depth = ((tl.where(inside, z, 0.0) + 1.0) * DEPTH_STEPS).to(tl.int64)
            place = key_ptr + (view * height + row) * width + col
            tl.atomic_min(place, depth * FACE_STEPS + face, mask=inside, sem="relaxed")
