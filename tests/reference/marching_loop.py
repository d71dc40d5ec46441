"""The sampling rule of `coarse.marching` in its plainest form: try every stretch of every ray."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor


def march_loop(
    origins: Tensor,
    directions: Tensor,
    binaries: Tensor,
    aabb: Tensor,
    step: float,
    near_planes: Tensor,
    far: float,
) -> list[tuple[int, float, float, float, bool]]:
    """Every stretch whose midpoint lies in the box or on its brink, of every ray, in order.

    Each is (ray, start, end, margin, kept): whether the midpoint's cell is occupied and within the
    planes, and how far along the ray, in t, the midpoint is from a place where that could change.
    Distances grow in float32, as the sampler's do; all else is in float64.
    """
    box = aabb.double().numpy()
    cells = binaries.numpy()
    found = []
    for ray in range(origins.shape[0]):
        o, d = origins[ray].double().numpy(), directions[ray].double().numpy()
        t_in, t_out = _through(o, d, box)
        near, brink = float(near_planes[ray]), 1e-3
        t_out = min(t_out, far)
        t = near_planes[ray].numpy().astype(np.float32)
        while float(t) < t_out + step:
            end = np.float32(t + np.float32(step))
            middle = float(t) + 0.5 * float(np.float32(step))
            if max(t_in, near) - brink <= middle <= t_out + brink:
                margin = min(
                    abs(middle - t_in), abs(middle - t_out), _to_face(o, d, middle, box, cells)
                )
                kept = t_in <= middle < t_out and _occupied(o + middle * d, box, cells)
                found.append((ray, float(t), float(end), margin, kept))
            t = end
    return found


def _through(o: np.ndarray, d: np.ndarray, box: np.ndarray) -> tuple[float, float]:
    """Distances at which a ray enters and leaves the box; an empty span where it misses."""
    t_in, t_out = -math.inf, math.inf
    for axis in range(3):
        if d[axis] == 0:
            if not box[axis] <= o[axis] <= box[axis + 3]:
                return math.inf, -math.inf
            continue
        crossings = sorted((box[side] - o[axis]) / d[axis] for side in (axis, axis + 3))
        t_in, t_out = max(t_in, crossings[0]), min(t_out, crossings[1])
    return (t_in, t_out) if t_in < t_out else (math.inf, -math.inf)


def _occupied(point: np.ndarray, box: np.ndarray, cells: np.ndarray) -> bool:
    index = np.floor((point - box[:3]) / (box[3:] - box[:3]) * cells.shape).astype(int)
    index = np.clip(index, 0, np.array(cells.shape) - 1)
    return bool(cells[tuple(index)])


def _to_face(o: np.ndarray, d: np.ndarray, t: float, box: np.ndarray, cells: np.ndarray) -> float:
    """Distance in t from the point at `t` to the nearest plane between cells that the ray meets."""
    nearest = math.inf
    for axis in range(3):
        if d[axis] == 0:
            continue
        width = (box[axis + 3] - box[axis]) / cells.shape[axis]
        place = (o[axis] + t * d[axis] - box[axis]) / width
        nearest = min(nearest, abs(place - round(place)) * width / abs(d[axis]))
    return nearest
