"""Ray marching through an occupancy grid as Triton kernels: `march`'s rule, one program a ray.

A ray's stretches begin at `near + k step`, rounded once, where the compiled loop adds up; its cells
are looked up at the midpoints. So a stretch whose midpoint lies on a cell's face to within rounding
may be kept here and not there. This module imports triton.
"""

from __future__ import annotations

from typing import Any

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

from ..common import rooms
from ..common.device import launch, size_of

BLOCK = 128  # stretches of a ray at once


def march(
    origins: Tensor,
    directions: Tensor,
    binaries: Tensor,
    aabb: Tensor,
    step: float,
    near_planes: Tensor,
    far_planes: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Ray indices, starts and ends of the kept stretches; arguments as in `ray_marching.march`.

    Counts the stretches of each ray, then writes them where they belong. The one number that is
    read back is how many there are; within `rooms.Rooms.held` there is room for some, and rows that
    stay empty are of ray R.
    """
    rays = origins.shape[0]
    common = (
        origins.contiguous(),
        directions.contiguous(),
        binaries.contiguous().view(torch.uint8),
        aabb.to(torch.float32).contiguous(),
        near_planes.contiguous(),
        far_planes.contiguous(),
    )
    x, y, z = binaries.shape
    # What is counted and what is written must be the same stretches to the last bit: `exact`.
    sizes: Any = {"SX": x, "SY": y, "SZ": z, "BLOCK": BLOCK, "exact": True}
    counts = torch.zeros(rays, dtype=torch.int64, device=origins.device)
    unused = (counts, common[0], common[0])
    launch(_march, (rays,), *common, step, counts, *unused, 0, WRITE=False, **sizes)
    stops = counts.cumsum(0)
    held = rooms.now()
    total = size_of(stops[-1]) if held is None else held.take(("stretches", rays), stops[-1])
    ray_indices = torch.full((total,), rays, dtype=torch.int64, device=origins.device)
    starts, ends = origins.new_zeros(2, total).unbind(0)
    if total:
        first = stops - counts
        written = (ray_indices, starts, ends)
        launch(_march, (rays,), *common, step, first, *written, total, WRITE=True, **sizes)
    return ray_indices, starts, ends


@triton.jit
def _slab(origin, direction, low, high):
    """Where a ray enters and leaves the slab between two planes of one axis."""
    flat = direction == 0.0
    inverse = 1.0 / tl.where(flat, 1.0, direction)
    one, two = (low - origin) * inverse, (high - origin) * inverse
    inside = (origin >= low) & (origin <= high)
    enter = tl.where(flat, tl.where(inside, float("-inf"), float("inf")), tl.minimum(one, two))
    leave = tl.where(flat, tl.where(inside, float("inf"), float("-inf")), tl.maximum(one, two))
    return enter, leave


@triton.jit
def _cell(origin, direction, middle, low, high, size: tl.constexpr):
    """The cell of one axis that points along a ray lie in."""
    place = (origin + direction * middle - low) / (high - low) * size
    place = tl.minimum(tl.maximum(place, 0.0), size - 1.0)
    return place.to(tl.int64)


@triton.jit(do_not_specialize=["room"])
def _march(
    origin_ptr, direction_ptr, occupied_ptr, box_ptr, near_ptr, far_ptr, step,
    first_ptr, ray_ptr, start_ptr, end_ptr, room,
    WRITE: tl.constexpr, BLOCK: tl.constexpr,
    SX: tl.constexpr, SY: tl.constexpr, SZ: tl.constexpr,
):  # fmt: skip
    """One ray: count its stretches into `first_ptr`, or write them from there on."""
    ray = tl.program_id(0).to(tl.int64)
    ox = tl.load(origin_ptr + ray * 3)
    oy = tl.load(origin_ptr + ray * 3 + 1)
    oz = tl.load(origin_ptr + ray * 3 + 2)
    dx = tl.load(direction_ptr + ray * 3)
    dy = tl.load(direction_ptr + ray * 3 + 1)
    dz = tl.load(direction_ptr + ray * 3 + 2)
    lx, ly, lz = tl.load(box_ptr), tl.load(box_ptr + 1), tl.load(box_ptr + 2)
    hx, hy, hz = tl.load(box_ptr + 3), tl.load(box_ptr + 4), tl.load(box_ptr + 5)
    near, far = tl.load(near_ptr + ray), tl.load(far_ptr + ray)
    enter_x, leave_x = _slab(ox, dx, lx, hx)
    enter_y, leave_y = _slab(oy, dy, ly, hy)
    enter_z, leave_z = _slab(oz, dz, lz, hz)
    t_in = tl.maximum(tl.maximum(enter_x, enter_y), tl.maximum(enter_z, near))
    t_out = tl.minimum(tl.minimum(leave_x, leave_y), tl.minimum(leave_z, far))
    meets = (t_in < t_out) & (t_out > 0.0)
    # The midpoints near + (k + 1/2) step that lie in [t_in, t_out).
    low = tl.maximum(tl.ceil((tl.where(meets, t_in, near) - near) / step - 0.5), 0.0)
    high = tl.ceil((tl.where(meets, t_out, near) - near) / step - 0.5)
    first_step = low.to(tl.int32)
    steps = tl.maximum(high - low, 0.0).to(tl.int32)
    found = tl.zeros([], dtype=tl.int64)
    if WRITE:
        found += tl.load(first_ptr + ray)
    for begin in range(0, steps, BLOCK):
        index = begin + tl.arange(0, BLOCK)
        t = near + (first_step + index).to(tl.float32) * step
        middle = t + 0.5 * step
        cx = _cell(ox, dx, middle, lx, hx, SX)
        cy = _cell(oy, dy, middle, ly, hy, SY)
        cz = _cell(oz, dz, middle, lz, hz, SZ)
        alive = index < steps
        keep = tl.load(occupied_ptr + (cx * SY + cy) * SZ + cz, mask=alive, other=0)
        kept = (alive & (keep != 0)).to(tl.int32)
        if WRITE:
            place = found + tl.cumsum(kept, 0) - 1
            fits = (kept != 0) & (place < room)
            tl.store(ray_ptr + place, ray, mask=fits)
            tl.store(start_ptr + place, t, mask=fits)
            tl.store(end_ptr + place, t + step, mask=fits)
        found += tl.sum(kept, 0)
    if not WRITE:
        tl.store(first_ptr + ray, found)
