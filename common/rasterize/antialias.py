"""Antialiasing: silhouettes blend between pixels, and so pass a gradient to the shape.

Visibility at pixel centres is piecewise constant in the vertices. Where the boundary of a surface
crosses the line between two neighbouring pixel centres, the crossing is a differentiable function
of the edge's end points; blending the two pixels by it makes the image continuous, and its sum
linear in the position of the boundary.

Ours differs from Laine et al. 2020 (section 3.6) in where the edges come from. They look for the
silhouette among the edges of the face a pixel sees; on a finely divided, curved surface the faces
at the silhouette are slivers that no pixel centre hits, and most of it goes unseen. We walk every
silhouette edge over the pixel pairs it crosses instead, so the tessellation does not matter.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from torch import Tensor

from .. import rooms
from ..backends import Twin, everywhere, module_of, numba_obstacle, pick, triton_obstacle
from ..scene.mesh import opposite_vertices
from .interpolate import Raster, gather_rows
from .silhouette import SHORTEST, edge_codes, silhouettes_torch
from .visibility import project
from .zbuffer import project_torch


def antialias(image: Tensor, raster: Raster, opposite: Tensor | None = None) -> Tensor:
    """Blend an image across the silhouettes of its raster, `[B, H, W, C]` to the same.

    image: `[B, H, W, C]`, what the raster's pixel centres show. opposite: `opposite_vertices` of
    the faces, where they are at hand (they are computed otherwise).

    For a pair of neighbours with a silhouette between them at a distance s in (0, 1) from the
    nearer surface's pixel, that surface covers s - 1/2 of the other pixel, or lacks 1/2 - s of
    its own. Edges closer to the vertical act on horizontal pairs, the others on vertical pairs:
    each stretch of boundary counts once. Where the shares of a pixel's neighbours would exceed 1
    (features below a pixel) they are scaled down, so colours stay within their neighbours' range
    (to rounding).
    Gradients reach `image` and, through the crossings, the vertices. A silhouette beyond the outer
    pixel centres has no pair, and none of either.
    """
    batch, height, width = raster.shape
    if image.ndim != 4 or image.shape[:3] != raster.face_index.shape:
        expected = f"[{batch}, {height}, {width}, C]"
        raise ValueError(f"image: expected {expected}, got {list(image.shape)}")
    found = _crossed_pairs(raster, opposite)
    if found is None:
        return image
    inner, outer, ends, axis, there = found
    s = _crossing(raster.clip, ends, inner, outer, axis, height, width).to(image.dtype)
    flat = image.reshape(-1, image.shape[3])
    grows = (s > 0.5).detach()  # the nearer surface reaches into the outer pixel
    target, source = torch.where(grows, outer, inner), torch.where(grows, inner, outer)
    share = torch.where(grows, s - 0.5, 0.5 - s)  # not abs(): it has no slope at 0
    if there is not None:
        share = torch.where(there, share, 0.0)
    total = torch.zeros_like(flat[:, 0]).index_add(0, target, share)
    share = share / gather_rows(total[:, None], target)[:, 0].clamp_min(1.0)
    change = share[:, None] * (gather_rows(flat, source) - gather_rows(flat, target))
    return flat.index_add(0, target, change).view_as(image)


def _crossed_pairs(
    raster: Raster, opposite: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None] | None:
    """Pixel pairs with a silhouette edge between them, or None.

    The flat pixels of the nearer surface and of the other one `[M]`, the edge's two vertices as
    rows of `[B * V, 4]` `[M, 2]`, the axis of the pair `[M]` (0 horizontal, 1 vertical), and which
    rows hold a pair, where some stay empty (`common.rooms`).
    """
    _, height, width = raster.shape
    if raster.pixels.shape[0] == 0:
        return None
    if opposite is None:
        opposite = opposite_vertices(raster.faces)
    with torch.no_grad():
        flat = _edges(raster, opposite).view(-1)  # [B * 2 * H * W]
    slot, there = rooms.places_of(flat != 0, ("silhouettes", flat.shape[0])), None
    if slot.shape[0] == 0:
        return None
    if rooms.now() is not None:
        there = slot < flat.shape[0]
        slot = torch.where(there, slot, 0)
    code = flat[slot].long()
    if there is not None:
        code = torch.where(there, code, 1)
    half_edge, first_is_inner = code.abs() - 1, code > 0
    view, axis = slot // (2 * height * width), slot // (height * width) % 2
    first = view * height * width + slot % (height * width)
    second = first + torch.where(axis == 0, 1, width)
    face, corner = half_edge // 3, half_edge % 3
    ends = torch.stack([raster.faces[face, corner], raster.faces[face, (corner + 1) % 3]], dim=1)
    inner = torch.where(first_is_inner, first, second)
    outer = torch.where(first_is_inner, second, first)
    return inner, outer, ends + (view * raster.clip.shape[1])[:, None], axis, there


def twin(device: torch.device | str) -> Twin:
    """Which implementation finds the silhouettes on a device, and why."""
    obstacles = {"numba": numba_obstacle, "triton": triton_obstacle, "torch": everywhere}
    return pick("antialiasing", device, obstacles)


def _edges(raster: Raster, opposite: Tensor) -> Tensor:
    """The silhouette edge of each pair `[B, 2, H, W]`, as `_walk` says it."""
    _, height, width = raster.shape
    depth, name = raster.depth, twin(raster.clip.device).name
    if name == "numba":
        screen, valid = project(raster.clip, height, width)
        arrays = (
            t.contiguous().numpy() for t in (raster.faces, opposite, raster.face_index, depth)
        )
        return torch.from_numpy(_silhouettes(screen, valid, *arrays))
    walk = silhouettes_torch
    if name == "triton":
        walk = module_of(".triton_silhouette", __package__).silhouettes
    screen, valid = project_torch(raster.clip, height, width)
    return edge_codes(walk(screen, valid, raster.faces, opposite, raster.face_index, depth))


def _crossing(
    clip: Tensor, ends: Tensor, inner: Tensor, outer: Tensor, axis: Tensor, height: int, width: int
) -> Tensor:
    """How far along the way from the inner to the outer pixel centre the edge crosses, `[M]`."""
    corner = gather_rows(clip.reshape(-1, 4), ends.reshape(-1)).view(-1, 2, 4)
    col, row = inner % width, inner // width % height
    # Positions in pixels, from the inner pixel's centre: `along` the pair and `across` it.
    x = (corner[..., 0] / corner[..., 3] + 1.0) * (0.5 * width) - (col[:, None] + 0.5)
    y = (1.0 - corner[..., 1] / corner[..., 3]) * (0.5 * height) - (row[:, None] + 0.5)
    horizontal = (axis == 0)[:, None]
    along, across = torch.where(horizontal, x, y), torch.where(horizontal, y, x)
    span = across[:, 1] - across[:, 0]
    span = torch.where(span == 0, torch.full_like(span, SHORTEST), span)
    t = (-across[:, 0] / span).clamp(0.0, 1.0)
    position = along[:, 0] + t * (along[:, 1] - along[:, 0])
    return torch.where(outer > inner, position, -position)


@njit(cache=True, inline="always")
def _side(a, b, p):
    """Twice the signed area of a, b, p on the screen."""
    return (b[0] - a[0]) * (p[1] - a[1]) - (b[1] - a[1]) * (p[0] - a[0])


@njit(cache=True)
def _walk(a, b, half_edge, inner_side, face_index, depth, edge, reach):
    """Enter one silhouette edge into the pixel pairs that it crosses, in one view.

    inner_side: the sign of `_side` where the surface lies. edge `[2, H, W]`: the half-edge + 1 of
    the pair that starts at a pixel, negative where the pair's second pixel is the inner one.
    reach `[2, H, W]`: how far from its inner pixel; the edge with the farthest reach is kept,
    since whatever lies in front of the outer pixel's surface up to there is covered.
    """
    height, width = face_index.shape
    dx, dy = b[0] - a[0], b[1] - a[1]
    if max(abs(dx), abs(dy)) < SHORTEST:
        return
    axis = 0 if abs(dy) >= abs(dx) else 1
    along, across = axis, 1 - axis  # the pair's direction; the line through its centres is fixed
    low, high = min(a[across], b[across]), max(a[across], b[across])
    lines, steps = (height, width) if axis == 0 else (width, height)
    first_is_inner = inner_side * (dy if axis == 0 else -dx) > 0
    owns_centres = inner_side * dy < 0 or (dy == 0 and inner_side * dx > 0)  # top-left rule
    # Half-open, so that of two edges that meet on a line of centres only one takes it.
    for line in range(max(int(np.ceil(low - 0.5)), 0), min(int(np.ceil(high - 0.5)), lines)):
        t = (line + 0.5 - a[across]) / (b[across] - a[across])
        position = a[along] + t * (b[along] - a[along]) - 0.5
        # Which side the nearest centre is on is asked as visibility does, exactly.
        step = int(np.floor(position + 0.5))
        row, col = (line, step) if axis == 0 else (step, line)
        side = inner_side * _side(a, b, (col + 0.5, row + 0.5))
        if (side > 0 or (side == 0 and owns_centres)) != first_is_inner:
            step -= 1
        if step < 0 or step + 1 >= steps:
            continue
        row, col = (line, step) if axis == 0 else (step, line)
        row1, col1 = (row, col + 1) if axis == 0 else (row + 1, col)
        s = position - step if first_is_inner else 1.0 - (position - step)
        if not first_is_inner:
            row, col, row1, col1 = row1, col1, row, col
        inner, outer = face_index[row, col], face_index[row1, col1]
        if inner < 0 or inner == outer:
            continue
        w = 1.0 / ((1.0 - t) / a[3] + t / b[3])
        behind = depth[row1, col1] > w and depth[row1, col1] >= depth[row, col]
        if outer >= 0 and not behind:
            continue
        slot = (axis, line, step) if axis == 0 else (axis, step, line)
        if edge[slot] == 0 or s > reach[slot]:
            edge[slot] = half_edge + 1 if first_is_inner else -half_edge - 1
            reach[slot] = s


@njit(cache=True)
def _silhouettes(screen, valid, faces, opposite, face_index, depth):
    """The silhouette edge of each pair, `[B, 2, H, W]` int32 as in `_walk`, 0 for none."""
    batch, height, width = face_index.shape
    edge = np.zeros((batch, 2, height, width), dtype=np.int32)
    reach = np.empty((2, height, width), dtype=np.float32)  # read only where edge is set
    for view in range(batch):
        points, seen = screen[view], valid[view]
        index, far, out = face_index[view], depth[view], edge[view]
        for f in range(faces.shape[0]):
            if not (seen[faces[f, 0]] and seen[faces[f, 1]] and seen[faces[f, 2]]):
                continue
            for i in range(3):
                own, other = faces[f, (i + 2) % 3], opposite[f, i]
                if 0 <= other < own and seen[other]:
                    continue  # the neighbour takes this edge
                a, b = points[faces[f, i]], points[faces[f, (i + 1) % 3]]
                side = _side(a, b, points[own])
                across = 0.0
                if other >= 0 and seen[other]:
                    across = _side(a, b, points[other])
                if side * across < 0.0 or (side == 0.0 and across == 0.0):
                    continue  # the surface goes on, or is not seen at all
                inner_side = np.sign(side) if side != 0.0 else np.sign(across)
                _walk(a, b, 3 * f + i, inner_side, index, far, out, reach)
    return edge
