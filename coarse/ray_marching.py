"""Ray marching through an occupancy grid: which stretches of each ray the field is asked about.

The rule is that of nerfacc 0.5.3's `OccGridEstimator.sampling` with one level and a constant step
(`traverse_grids` in its `cuda/csrc/grid.cu`), whose own sampler runs on CUDA alone and wants a
compiler there: stretches [t, t + step] follow one another from a ray's near plane, t growing by
`step` in float32, and a stretch is kept where its midpoint lies between the ray's entry into the
box (or `near`, if later) and its exit (or `far`, if earlier), in an occupied cell. A cell ends
where nerfacc's traversal ends it: a millionth of a unit early, so a midpoint exactly on a face
belongs to the cell behind it.
The samples equal nerfacc's bit for bit where its compiler keeps every float32 operation apart. Ours
differ for a ray that lies exactly in the box's minimum or maximum x plane: there nerfacc multiplies
zero by infinity and loses the entry point; here that axis doesn't limit the ray.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from ..common import rooms
from ..common.backends import (
    Twin,
    everywhere,
    first_line,
    module_of,
    numba_obstacle,
    pick,
    triton_obstacle,
)
from ..common.device import indices_of, size_of

ZERO, HALF, ONE = np.float32(0), np.float32(0.5), np.float32(1)
# How far past a cell's face, in units of t, the traversal looks to find the cell it enters.
NUDGE = np.float32(1e-6)
ENDLESS = np.int64(2**62)
AT_ONCE = 2**23  # midpoints that plain torch looks at in one go


@dataclass(frozen=True)
class Samples:
    """S stretches of R rays, packed: ray after ray, along each ray from near to far.

    ray_indices: the ray of each stretch, int64 `[S]`, ascending; R for rows that stayed empty (see
    `common.rooms`), which come last and have no length.
    t_starts, t_ends: distances along the ray, float32 `[S]`.
    """

    ray_indices: Tensor
    t_starts: Tensor
    t_ends: Tensor

    def __len__(self) -> int:
        return self.ray_indices.shape[0]

    def points(self, origins: Tensor, directions: Tensor) -> Tensor:
        """The middle of each stretch in the world `[S, 3]`; some place for a row that is empty."""
        ray = self.ray_indices
        if rooms.now() is not None:
            ray = ray.clamp_max(origins.shape[0] - 1)
        return origins[ray] + self.midpoints[:, None] * directions[ray]

    def kept(self, mask: Tensor, num_rays: int) -> Samples:
        """Those that a mask `[S]` is true for."""
        if rooms.now() is None:
            place = indices_of(mask)
            return Samples(self.ray_indices[place], self.t_starts[place], self.t_ends[place])
        place = rooms.places_of(mask & (self.ray_indices < num_rays), ("samples", num_rays))
        there, place = place < len(self), place.clamp_max(len(self) - 1)
        starts, ends = self.t_starts[place], self.t_ends[place]
        ray = torch.where(there, self.ray_indices[place], num_rays)
        return Samples(ray, torch.where(there, starts, 0.0), torch.where(there, ends, 0.0))

    @property
    def midpoints(self) -> Tensor:
        """Distances to the middle of each stretch `[S]`."""
        return 0.5 * (self.t_starts + self.t_ends)


@torch.no_grad()
def march(
    origins: Tensor,
    directions: Tensor,
    binaries: Tensor,
    aabb: Tensor,
    step: float,
    near: float = 0.0,
    far: float = 1e10,
    jitter: Tensor | None = None,
) -> Samples:
    """Sample rays where an occupancy grid is occupied, as nerfacc's `OccGridEstimator` does.

    origins, directions: float32 `[R, 3]`, world units; directions of unit length.
    binaries: bool `[X, Y, Z]`, the occupied cells of the box `aabb` `[6]` (minimum, maximum).
    step: length of a stretch; near, far: planes, as distances along the ray.
    jitter: `[R]` in [0, 1), moves the near plane of each ray by that share of a step.
    `twin` says whose loop runs. On the CPU it is compiled, and gives the same bits whatever the
    number of threads. Not differentiable. Raises ValueError on a wrong shape or dtype, and on the
    CPU, where looking at values stalls nothing, for directions that aren't unit or a step too small
    for float32 distances.
    """
    _check(origins, directions, binaries, aabb, step, jitter)
    near_planes = torch.full_like(origins[:, 0], near)
    if jitter is not None:
        near_planes += jitter * step
    if origins.shape[0] == 0:
        nothing = near_planes.new_zeros(0)
        return Samples(nothing.long(), nothing, nothing.clone())
    far_planes = torch.full_like(near_planes, far)
    rays = (origins, directions, binaries, aabb, step, near_planes, far_planes)
    match twin(origins.device).name:
        case "numba":
            return _march_numba(*rays)
        case "triton":
            return Samples(*module_of(".triton_march", __package__).march(*rays))
        case "nerfacc":
            return _march_nerfacc(*rays)
        case _:
            return march_torch(*rays)


def twin(device: torch.device | str) -> Twin:
    """Which implementation marches rays on a device, and why."""
    obstacles = {
        "numba": numba_obstacle,
        "triton": triton_obstacle,
        "nerfacc": nerfacc_obstacle,
        "torch": everywhere,
    }
    return pick("ray_marching", device, obstacles)


def nerfacc_obstacle(device: torch.device) -> str | None:
    """Why nerfacc's sampler can't run on a device; on CUDA its code is built at the first use."""
    return "its sampler runs on CUDA only" if device.type != "cuda" else _tried_nerfacc(device)


@cache
def _tried_nerfacc(device: torch.device) -> str | None:
    ray, box = torch.tensor([[0.0, 0.0, 1.0]], device=device), torch.ones(6, device=device)
    box[:3] = -1.0
    cells = torch.ones(1, 1, 1, dtype=torch.bool, device=device)
    near, far = ray.new_zeros(1), ray.new_full((1,), 9.0)
    try:
        samples = _march_nerfacc(-2.0 * ray, ray, cells, box, 0.5, near, far)
    except Exception as error:  # no compiler, or one that doesn't suit
        return f"its CUDA code can't be built ({first_line(error)})"
    return None if len(samples) == 4 else "its kernels give wrong samples here"


def _check(
    origins: Tensor,
    directions: Tensor,
    binaries: Tensor,
    aabb: Tensor,
    step: float,
    jitter: Tensor | None,
) -> None:
    for name, rays in (("origins", origins), ("directions", directions)):
        if rays.ndim != 2 or rays.shape[1] != 3 or rays.dtype != torch.float32:
            raise ValueError(f"{name}: expected float32 [R, 3], got {_describe(rays)}")
    if directions.shape != origins.shape:
        raise ValueError(
            f"directions: expected {list(origins.shape)}, got {list(directions.shape)}"
        )
    if binaries.ndim != 3 or binaries.dtype != torch.bool or binaries.numel() == 0:
        raise ValueError(f"binaries: expected bool [X, Y, Z], got {_describe(binaries)}")
    if list(aabb.shape) != [6]:
        raise ValueError(f"aabb: expected [6], got {list(aabb.shape)}")
    if jitter is not None and jitter.shape != origins.shape[:1]:
        raise ValueError(f"jitter: expected [{origins.shape[0]}], got {list(jitter.shape)}")
    if not step > 0.0:
        raise ValueError(f"step: expected a positive length, got {step}")
    if origins.device.type != "cpu":
        return
    if not bool((aabb[3:] > aabb[:3]).all()):
        raise ValueError(f"aabb: expected [6], minimum before maximum, got {aabb.tolist()}")
    if origins.shape[0] == 0:
        return
    off_unit = float((directions.norm(dim=-1) - 1).abs().max())
    if not off_unit < 1e-3:
        raise ValueError(f"directions: expected unit length, got one off by {off_unit:.3g}")
    # Distances up to this must still grow when a step is added to them, or marching never ends.
    reach = 2.0 * float(origins.abs().max() + aabb.abs().max())
    if not step > 1e-6 * reach:
        raise ValueError(f"step: expected more than {1e-6 * reach:.3g} for these rays, got {step}")


def _describe(tensor: Tensor) -> str:
    return f"{tensor.dtype} {list(tensor.shape)}"


def _march_nerfacc(
    origins: Tensor,
    directions: Tensor,
    binaries: Tensor,
    aabb: Tensor,
    step: float,
    near_planes: Tensor,
    far_planes: Tensor,
) -> Samples:
    """nerfacc's sampler, by the call that `OccGridEstimator.sampling` makes."""
    from nerfacc.grid import traverse_grids  # builds its CUDA code on first import

    intervals, samples, _ = traverse_grids(
        origins,
        directions,
        binaries[None],
        aabb.to(origins)[None],
        near_planes=near_planes,
        far_planes=far_planes,
        step_size=step,
        cone_angle=0.0,
    )
    left, right, indices = intervals.is_left, intervals.is_right, samples.ray_indices
    if left is None or right is None or indices is None:
        raise RuntimeError("nerfacc's traverse_grids gave samples without edges or ray indices")
    return Samples(indices, intervals.vals[left], intervals.vals[right])


def march_torch(
    origins: Tensor,
    directions: Tensor,
    binaries: Tensor,
    aabb: Tensor,
    step: float,
    near_planes: Tensor,
    far_planes: Tensor,
) -> Samples:
    """`march` in plain torch, for any device.

    Stretches begin at `near + k step`, rounded once, where the compiled loop adds up, and cells are
    looked up at the midpoints: one whose midpoint lies on a cell's face to within rounding may be
    kept here and not there.
    """
    low, high = aabb[:3].to(origins), aabb[3:].to(origins)
    parts: list[tuple[Tensor, Tensor]] = []
    widest = size_of(((high - low).norm() / step).ceil()) + 1
    rays = max(1, AT_ONCE // widest)
    for begin in range(0, origins.shape[0], rays):
        part = slice(begin, begin + rays)
        o, d, near = origins[part], directions[part], near_planes[part]
        one, two = (low - o) / d, (high - o) / d  # a ray in a plane of the box: NaN, and no limit
        in_plane = one.isnan() | two.isnan()
        enter = torch.minimum(one, two).masked_fill(in_plane, -math.inf)
        leave = torch.maximum(one, two).masked_fill(in_plane, math.inf)
        t_in = torch.maximum(enter.amax(1), near)
        t_out = torch.minimum(leave.amin(1), far_planes[part])
        meets = (t_in < t_out) & (t_out > 0.0)
        first = ((t_in - near) / step - 0.5).ceil().clamp_min(0.0)
        stop = torch.where(meets, ((t_out - near) / step - 0.5).ceil(), 0.0)
        k = first[:, None] + torch.arange(widest, device=o.device)
        t = near[:, None] + k * step  # [r, K]
        points = o[:, None] + d[:, None] * (t + 0.5 * step)[..., None]
        keep = (k < stop[:, None]) & _occupied(binaries, (points - low) / (high - low))
        kept = indices_of(keep.view(-1))
        parts.append((kept // widest + begin, t.view(-1)[kept]))
    starts = torch.cat([t for _, t in parts])
    return Samples(torch.cat([ray for ray, _ in parts]), starts, starts + step)


def _occupied(binaries: Tensor, places: Tensor) -> Tensor:
    """Whether places `[..., 3]` in the unit cube lie in an occupied cell, bool `[...]`."""
    flat = torch.zeros_like(places[..., 0], dtype=torch.int64)
    for axis, size in enumerate(binaries.shape):
        cell = (places[..., axis].nan_to_num(0.0, 0.0, 0.0) * size).clamp(0, size - 1).long()
        flat = flat * size + cell
    return binaries.reshape(-1)[flat]


def _march_numba(
    origins: Tensor,
    directions: Tensor,
    binaries: Tensor,
    aabb: Tensor,
    step: float,
    near_planes: Tensor,
    far_planes: Tensor,
) -> Samples:
    """Two passes over the rays: count the stretches of each, then write them where they belong."""
    rays = (
        origins.contiguous().numpy(),
        directions.contiguous().numpy(),
        binaries.contiguous().numpy(),
        aabb.to(torch.float32).contiguous().numpy(),
        np.float32(step),
        near_planes.numpy(),
        far_planes.numpy(),
    )
    counts = np.zeros(origins.shape[0], dtype=np.int64)
    _count(*rays, counts)
    stops = np.cumsum(counts)
    total = int(stops[-1])
    ray_indices = torch.empty(total, dtype=torch.int64)
    t_starts, t_ends = torch.empty(total), torch.empty(total)
    _fill(*rays, stops - counts, counts, ray_indices.numpy(), t_starts.numpy(), t_ends.numpy())
    return Samples(ray_indices, t_starts, t_ends)


@njit(cache=True, parallel=True, error_model="numpy")
def _count(origins, directions, occupied, aabb, step, near, far, counts):
    nowhere = np.empty(0, dtype=np.float32)
    for ray in prange(origins.shape[0]):
        counts[ray] = _walk(
            origins[ray], directions[ray], occupied, aabb, step, near[ray], far[ray],
            nowhere, nowhere, -1, ENDLESS,
        )  # fmt: skip


@njit(cache=True, parallel=True, error_model="numpy")
def _fill(
    origins, directions, occupied, aabb, step, near, far, first, counts, ray_indices, starts, ends
):
    for ray in prange(origins.shape[0]):
        if counts[ray] == 0:
            continue
        _walk(
            origins[ray], directions[ray], occupied, aabb, step, near[ray], far[ray],
            starts, ends, first[ray], counts[ray],
        )  # fmt: skip
        ray_indices[first[ray] : first[ray] + counts[ray]] = ray


@njit(cache=True, error_model="numpy")
def _walk(origin, direction, occupied, aabb, step, near, far, starts, ends, first, limit):
    """Count the stretches of one ray until there are `limit`; written from `first` on if >= 0."""
    t_in, t_out = _span(origin, direction, aabb, near, far)
    if not t_in < t_out:
        return 0
    t = near
    while t + step * HALF < t_in:
        t += step
    size_x, size_y, size_z = occupied.shape
    x, dx, stop_x, exit_x, cross_x = _axis(origin, direction, aabb, 0, size_x, t_in, t_out)
    y, dy, stop_y, exit_y, cross_y = _axis(origin, direction, aabb, 1, size_y, t_in, t_out)
    z, dz, stop_z, exit_z, cross_z = _axis(origin, direction, aabb, 2, size_z, t_in, t_out)
    count = 0
    # Rounding may lead a ray that grazes an edge past its last cell: never outside the grid.
    while count < limit and 0 <= x < size_x and 0 <= y < size_y and 0 <= z < size_z:
        t_leave = min(exit_x, exit_y, exit_z, t_out)
        keep = occupied[x, y, z]
        while t + step * HALF < t_leave:
            if keep:
                if first >= 0:
                    starts[first + count] = t
                    ends[first + count] = t + step
                count += 1
            t += step
        if exit_x < exit_y and exit_x < exit_z:
            x, exit_x = x + dx, exit_x + cross_x
            if x == stop_x:
                break
        elif exit_y < exit_z:
            y, exit_y = y + dy, exit_y + cross_y
            if y == stop_y:
                break
        else:
            z, exit_z = z + dz, exit_z + cross_z
            if z == stop_z:
                break
    return count


@njit(cache=True, error_model="numpy")
def _span(origin, direction, aabb, near, far):
    """Where a ray enters and leaves the box, within its planes; empty where it misses it."""
    t_in, t_out = np.float32(-np.inf), np.float32(np.inf)
    for axis in range(3):
        inverse = ONE / direction[axis]
        low = (aabb[axis] - origin[axis]) * inverse
        high = (aabb[axis + 3] - origin[axis]) * inverse
        if inverse < ZERO:
            low, high = high, low
        if t_in > high or low > t_out:
            return ONE, ZERO
        if low > t_in:
            t_in = low
        if high < t_out:
            t_out = high
    if t_out <= ZERO:
        return ONE, ZERO
    return max(t_in, near), min(t_out, far)


@njit(cache=True, error_model="numpy")
def _axis(origin, direction, aabb, axis, size, t_in, t_out):
    """One axis of the traversal: first cell, its step, the cell that ends the walk, the distance
    at which the first cell is left, and the distance across a cell (Amanatides & Woo 1987)."""
    low, high = aabb[axis], aabb[axis + 3]
    d, voxel = direction[axis], (high - low) / np.float32(size)
    start = origin[axis] + d * (t_in + NUDGE)
    end = origin[axis] + d * (t_out - NUDGE)
    cell = min(max(np.int64((start - low) / (high - low) * np.float32(size)), 0), size - 1)
    last = min(max(np.int64((end - low) / (high - low) * np.float32(size)), 0), size - 1)
    if d == ZERO:
        return cell, 0, last, t_out, t_out
    inverse = ONE / d
    forward = 1 if d > ZERO else 0
    leave = (low + (np.float32(cell + forward) * voxel - start)) * inverse + t_in
    cross = voxel * inverse
    if d < ZERO:
        return cell, -1, last - 1, leave, -cross
    return cell, 1, last + 1, leave, cross
