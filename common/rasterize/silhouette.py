"""Silhouette edges in plain torch, for any device: which edge ends the surface between two pixels.

A pair of neighbouring pixels holds one edge, the one that reaches farthest from its inner pixel.
Reach, edge and direction are one int64 key, so that one maximum decides:
`(reach 2^30) 2^31 + (HALF_EDGES - half_edge) 2 + first`, of equal reaches the lower half-edge;
`first` is 1 where the pair's first pixel is the inner one. 0 stands for no edge.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..device import Waiting, indices_of

SHORTEST = 2.0**-10  # pixels; a shorter edge has no direction in float32 worth following
REACHES = 2**30  # steps of a reach of one pixel
HALF_EDGES = 2**30 - 1  # the most that keys tell apart
LOW = 2**31  # what the lower part of a key stays below


def edge_codes(keys: Tensor) -> Tensor:
    """The half-edge + 1 of each pair, negative where its second pixel is the inner one; 0: none."""
    low = keys % LOW
    half_edge = HALF_EDGES - low // 2 + 1
    return torch.where(keys == 0, 0, torch.where(low % 2 == 1, half_edge, -half_edge))


def silhouettes_torch(
    screen: Tensor,
    valid: Tensor,
    faces: Tensor,
    opposite: Tensor,
    face_index: Tensor,
    depth: Tensor,
) -> Tensor:
    """The keys of all pairs, int64 `[B, 2, H, W]`: pairs along a row first, then along a column.

    screen `[B, V, 4]` float64 and valid `[B, V]` as `zbuffer.project_torch` gives them; faces and
    opposite int64 `[F, 3]`; face_index and depth `[B, H, W]` of the raster.
    """
    batch, height, width = face_index.shape
    keys = torch.zeros(batch * 2 * height * width, dtype=torch.int64, device=screen.device)
    view, half_edge, inner_side = silhouette_edges(screen, valid, faces, opposite)
    start, end = faces.reshape(-1)[half_edge], faces.roll(-1, 1).reshape(-1)[half_edge]
    a, b = screen[view, start], screen[view, end]  # [N, 4]
    delta = (b - a)[:, :2]
    axis = (delta[:, 1].abs() < delta[:, 0].abs()).long()  # 0: the edge is steep, pairs lie flat
    on, off = _pair(a, axis), _pair(b, axis)  # [N, 2] along and across
    low, high = torch.minimum(on[1], off[1]), torch.maximum(on[1], off[1])
    lines = torch.where(axis == 0, height, width)
    first_line = (low - 0.5).ceil().clamp_min(0.0).long()
    stop_line = torch.minimum((high - 0.5).ceil().long(), lines)
    long_enough = delta.abs().amax(1) >= SHORTEST
    count = torch.where(long_enough, (stop_line - first_line).clamp_min(0), 0)
    with Waiting(count.device):
        own = torch.repeat_interleave(torch.arange(count.shape[0], device=count.device), count)
    if own.shape[0] == 0:
        return keys.view(batch, 2, height, width)
    line = first_line[own] + torch.arange(own.shape[0], device=own.device)
    line = line - (count.cumsum(0) - count)[own]
    a, b, axis, side = a[own], b[own], axis[own], inner_side[own]
    t = (line + 0.5 - on[1][own]) / (off[1] - on[1])[own]
    position = on[0][own] + t * (off[0] - on[0])[own] - 0.5
    step = (position + 0.5).floor().long()
    flat = axis == 0
    row, col = torch.where(flat, line, step), torch.where(flat, step, line)
    dx, dy = b[:, 0] - a[:, 0], b[:, 1] - a[:, 1]
    # Which side the nearest centre is on is asked as visibility does, exactly.
    where = side * (dx * (row + 0.5 - a[:, 1]) - dy * (col + 0.5 - a[:, 0]))
    owns_centres = (side * dy < 0) | ((dy == 0) & (side * dx > 0))  # top-left rule
    first = torch.where(flat, side * dy, -side * dx) > 0
    step = step - (((where > 0) | ((where == 0) & owns_centres)) != first).long()
    there = indices_of((step >= 0) & (step + 1 < torch.where(flat, width, height)))
    own, axis, first, t, line = (x[there] for x in (own, axis, first, t, line))
    a, b, step, position = a[there], b[there], step[there], position[there]
    row, col = torch.where(axis == 0, line, step), torch.where(axis == 0, step, line)
    one = (view[own] * height + row) * width + col
    two = one + torch.where(axis == 0, 1, width)
    inner, outer = torch.where(first, one, two), torch.where(first, two, one)
    index, far = face_index.reshape(-1), depth.reshape(-1)
    w = 1.0 / ((1.0 - t) / a[:, 3] + t / b[:, 3])
    behind = (far[outer] > w) & (far[outer] >= far[inner])
    kept = (index[inner] >= 0) & (index[inner] != index[outer]) & ((index[outer] < 0) | behind)
    reach = torch.where(first, position - step, 1.0 - (position - step)).clamp(0.0, 1.0)
    key = (reach * REACHES).long() * LOW + (HALF_EDGES - half_edge[own]) * 2 + first
    slot = ((view[own] * 2 + axis) * height + row) * width + col
    keys.scatter_reduce_(0, slot, torch.where(kept, key, 0), "amax")
    return keys.view(batch, 2, height, width)


def silhouette_edges(
    screen: Tensor, valid: Tensor, faces: Tensor, opposite: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Views, half-edges and inner sides `[N]` of all edges that end the surface on the screen.

    The inner side is the sign of the side on which the surface lies, seen along the edge.
    """
    x, y = screen[..., 0], screen[..., 1]  # [B, V]
    third, known = faces.roll(1, 1), (opposite >= 0) & valid[:, opposite.clamp_min(0)]  # [B, F, 3]
    own = _side(x, y, faces, faces.roll(-1, 1), third)
    across = _side(x, y, faces, faces.roll(-1, 1), opposite.clamp_min(0))
    across = torch.where(known, across, 0.0)
    goes_on = (own * across < 0.0) | ((own == 0.0) & (across == 0.0))
    neighbours = known & (opposite < third)  # the neighbour takes this edge
    drawn = valid[:, faces].all(-1, keepdim=True)
    found = indices_of((drawn & ~neighbours & ~goes_on).view(-1))
    view, half_edge = found // (3 * faces.shape[0]), found % (3 * faces.shape[0])
    side = torch.where(own != 0.0, own, across).sign().view(-1)[found]
    return view, half_edge, side


def _side(x: Tensor, y: Tensor, a: Tensor, b: Tensor, p: Tensor) -> Tensor:
    """Twice the signed area on the screen of vertices a, b, p `[F, 3]`, `[B, F, 3]`."""
    dx, dy = x[:, b] - x[:, a], y[:, b] - y[:, a]
    return dx * (y[:, p] - y[:, a]) - dy * (x[:, p] - x[:, a])


def _pair(point: Tensor, axis: Tensor) -> tuple[Tensor, Tensor]:
    """Positions `[N]` along the pairs that an edge crosses, and across them."""
    x, y = point[:, 0], point[:, 1]
    return torch.where(axis == 0, x, y), torch.where(axis == 0, y, x)
