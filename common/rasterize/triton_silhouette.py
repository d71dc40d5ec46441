"""Silhouette edges as a Triton kernel: each half-edge walks over the pixel pairs that it crosses.

Most half-edges are no silhouette and wait for the longest of their program. Keys as in
`silhouette`. This module imports triton.
"""

from __future__ import annotations

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

from ..device import launch
from .silhouette import HALF_EDGES, LOW, REACHES, SHORTEST

BLOCK = 128  # half-edges a program


def silhouettes(
    screen: Tensor,
    valid: Tensor,
    faces: Tensor,
    opposite: Tensor,
    face_index: Tensor,
    depth: Tensor,
) -> Tensor:
    """The keys of all pairs, int64 `[B, 2, H, W]`; arguments as of `silhouettes_torch`."""
    batch, height, width = face_index.shape
    keys = torch.zeros(batch, 2, height, width, dtype=torch.int64, device=screen.device)
    count = 3 * faces.shape[0]
    if batch and count:
        launch(
            _walk, (triton.cdiv(count, BLOCK), batch),
            screen.contiguous(), valid.contiguous().view(torch.uint8), faces.contiguous(),
            opposite.contiguous(), face_index.contiguous(), depth.contiguous(), keys,
            screen.shape[1], count, height, width,
            SHORTEST=SHORTEST, REACHES=REACHES, HALF_EDGES=HALF_EDGES, LOW=LOW, BLOCK=BLOCK,
            exact=True,
        )  # fmt: skip
    return keys


@triton.jit
def _vertex(screen_ptr, valid_ptr, vertex, alive):
    """x, y and w of a vertex, and whether it is in front of the camera."""
    place = screen_ptr + vertex * 4
    x = tl.load(place, mask=alive, other=0.0)
    y = tl.load(place + 1, mask=alive, other=0.0)
    w = tl.load(place + 3, mask=alive, other=1.0)
    return x, y, w, tl.load(valid_ptr + vertex, mask=alive, other=0) != 0


@triton.jit
def _side(ax, ay, bx, by, px, py):
    """Twice the signed area of a, b, p on the screen."""
    return (bx - ax) * (py - ay) - (by - ay) * (px - ax)


@triton.jit(do_not_specialize=["vertices", "count", "height", "width"])
def _walk(
    screen_ptr, valid_ptr, face_ptr, opposite_ptr, index_ptr, depth_ptr, key_ptr,
    vertices, count, height, width,
    SHORTEST: tl.constexpr, REACHES: tl.constexpr, HALF_EDGES: tl.constexpr, LOW: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    half_edge = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    view = tl.program_id(1).to(tl.int64)
    alive = half_edge < count
    face, corner = half_edge // 3 * 3, half_edge % 3
    base = view * vertices
    own = tl.load(face_ptr + face + (corner + 2) % 3, mask=alive, other=0)
    other = tl.load(opposite_ptr + half_edge, mask=alive, other=-1)
    start = tl.load(face_ptr + half_edge, mask=alive, other=0) + base
    end = tl.load(face_ptr + face + (corner + 1) % 3, mask=alive, other=0) + base
    ax, ay, aw, a_seen = _vertex(screen_ptr, valid_ptr, start, alive)
    bx, by, bw, b_seen = _vertex(screen_ptr, valid_ptr, end, alive)
    cx, cy, _, c_seen = _vertex(screen_ptr, valid_ptr, own + base, alive)
    ox, oy, _, o_seen = _vertex(screen_ptr, valid_ptr, tl.maximum(other, 0) + base, alive)
    known = (other >= 0) & o_seen
    side = _side(ax, ay, bx, by, cx, cy)
    across = tl.where(known, _side(ax, ay, bx, by, ox, oy), 0.0)
    goes_on = (side * across < 0.0) | ((side == 0.0) & (across == 0.0))
    neighbours = known & (other < own)  # the neighbour takes this edge
    deciding = tl.where(side != 0.0, side, across)
    inner = tl.where(deciding > 0.0, 1.0, -1.0)
    dx, dy = bx - ax, by - ay
    long_enough = tl.maximum(tl.abs(dx), tl.abs(dy)) >= SHORTEST
    walks = alive & a_seen & b_seen & c_seen & (goes_on == 0) & (neighbours == 0) & long_enough
    flat = tl.abs(dy) >= tl.abs(dx)  # the edge is steep, the pairs lie flat
    on, across_a = tl.where(flat, ax, ay), tl.where(flat, ay, ax)
    off, across_b = tl.where(flat, bx, by), tl.where(flat, by, bx)
    lines = tl.where(flat, height, width)
    steps = tl.where(flat, width, height)
    first_line = tl.maximum(tl.ceil(tl.minimum(across_a, across_b) - 0.5), 0.0)
    stop_line = tl.ceil(tl.maximum(across_a, across_b) - 0.5)
    stop_line = tl.minimum(stop_line, lines.to(tl.float64))
    first_line = tl.where(walks, first_line, 0.0)
    length = tl.where(walks, tl.maximum(stop_line - first_line, 0.0), 0.0).to(tl.int64)
    owns_centres = (inner * dy < 0.0) | ((dy == 0.0) & (inner * dx > 0.0))  # top-left rule
    first = tl.where(flat, inner * dy, -inner * dx) > 0.0
    slope = tl.where(walks, across_b - across_a, 1.0)
    slope = tl.where(slope == 0.0, 1.0, slope)
    images = view * height * width
    for number in range(tl.max(length, 0)):
        line = first_line.to(tl.int64) + number
        t = (line.to(tl.float64) + 0.5 - across_a) / slope
        position = on + t * (off - on) - 0.5
        step = tl.floor(position + 0.5)
        row = tl.where(flat, line.to(tl.float64), step)
        col = tl.where(flat, step, line.to(tl.float64))
        # Which side the nearest centre is on is asked as visibility does, exactly.
        where = inner * _side(ax, ay, bx, by, col + 0.5, row + 0.5)
        inside = (where > 0.0) | ((where == 0.0) & owns_centres)
        step = tl.where(inside != first, step - 1.0, step)
        here = walks & (number < length) & (step >= 0.0)
        here = here & (step + 1.0 < steps.to(tl.float64))
        at = tl.where(here, step, 0.0).to(tl.int64)
        one = tl.where(flat, line * width + at, at * width + line)
        two = one + tl.where(flat, 1, width)
        in_pixel, out_pixel = tl.where(first, one, two), tl.where(first, two, one)
        in_face = tl.load(index_ptr + images + in_pixel, mask=here, other=-1)
        out_face = tl.load(index_ptr + images + out_pixel, mask=here, other=-1)
        in_depth = tl.load(depth_ptr + images + in_pixel, mask=here, other=0.0)
        out_depth = tl.load(depth_ptr + images + out_pixel, mask=here, other=0.0)
        w = 1.0 / ((1.0 - t) / aw + t / bw)
        behind = (out_depth.to(tl.float64) > w) & (out_depth >= in_depth)
        here = here & (in_face >= 0) & (in_face != out_face) & ((out_face < 0) | behind)
        reach = tl.where(first, position - step, 1.0 - (position - step))
        reach = tl.where(here, tl.minimum(tl.maximum(reach, 0.0), 1.0), 0.0)
        key = (reach * REACHES).to(tl.int64) * LOW + (HALF_EDGES - half_edge) * 2
        key += tl.where(first, 1, 0)
        slot = key_ptr + images * 2 + tl.where(flat, 0, height * width) + one
        tl.atomic_max(slot, key, mask=here, sem="relaxed")
