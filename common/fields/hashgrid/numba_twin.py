"""The hash encoding compiled for the CPU by numba: equal to `reference.encode`.

Every kernel gives each number it writes to one iteration of its parallel loop, which adds in one
fixed order; so the bits are the same whatever the number of threads. The forward pass is parallel
over (level, run of points); the gradient of the tables over levels, since a level's entries are
that level's own; the gradient of the points over runs of points. Corners are found anew in the
backward passes: they are not kept.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numba import njit, prange
from torch import Tensor
from torch.autograd.function import once_differentiable

from .reference import (
    PRIME_Y,
    PRIME_Z,
    HashGridConfig,
    check,
    is_hashed,
    resolutions,
    table_offsets,
)

# Long enough that a level's table stays in the cache meanwhile, short enough to share work out.
RUN = 16_384
# float32 constants: a plain 1 would turn the arithmetic into float64.
ZERO, ONE = np.float32(0), np.float32(1)
# Entries are unsigned: a signed index is tested for negative values at every use.
Entry = np.uint64


def encode(x: Tensor, tables: Tensor, config: HashGridConfig) -> Tensor:
    """Multiresolution hash encoding on the CPU in float32; same contract as `reference.encode`.

    x `[N, 3]` in [0, 1], tables `[total_entries, F]`; returns `[N, levels * F]`. Differentiable
    once in `tables` and, where `x.requires_grad`, in `x`. Raises ValueError on a wrong shape,
    dtype or device.
    """
    check(x, tables, config)
    for name, tensor in (("x", x), ("tables", tables)):
        if tensor.device.type != "cpu" or tensor.dtype != torch.float32:
            raise ValueError(
                f"{name}: expected float32 on the CPU, got {tensor.dtype} on {tensor.device}"
            )
    return _Encode.apply(x, tables, config)  # pyright: ignore[reportReturnType]


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, tables: Tensor, config: HashGridConfig) -> Tensor:
        x, tables = x.contiguous(), tables.contiguous()
        ctx.save_for_backward(x, tables)
        ctx.config = config
        out = x.new_empty(x.shape[0], config.width)
        _forward(x.numpy(), tables.numpy(), *_layout(config), _lanes(config), out.numpy())
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, tables = ctx.saved_tensors
        points, entries = x.detach().numpy(), tables.detach().numpy()
        levels, lanes = _layout(ctx.config), _lanes(ctx.config)
        grad_out = cotangent.contiguous().numpy()
        grad_x = grad_tables = None
        if ctx.needs_input_grad[0]:
            grad_x = torch.zeros_like(x)
            _backward_x(points, entries, *levels[:3], lanes, grad_out, grad_x.numpy())
        if ctx.needs_input_grad[1]:
            # NumPy's memory comes in huge pages, which suits a large table's gradient.
            grad_entries = np.zeros(entries.shape, dtype=np.float32)
            _backward_tables(points, *levels, lanes, grad_out, grad_entries)
            grad_tables = torch.from_numpy(grad_entries)
        return grad_x, grad_tables, None


def _lanes(config: HashGridConfig) -> tuple[int, ...]:
    """A tuple as long as an entry: its length, part of its type, is known to the compiler."""
    return (0,) * config.features


@lru_cache(maxsize=64)
def _layout(config: HashGridConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Resolutions, offsets, which levels are hashed, and the order in which to take the levels."""
    # A parallel loop hands each thread one stretch of its range, and fine levels cost more than
    # coarse ones: in bit-reversed order every stretch holds its share of both.
    bits = max(1, (config.depth - 1).bit_length())
    order = sorted(range(config.depth), key=lambda level: int(f"{level:0{bits}b}"[::-1], 2))
    return (
        np.array(resolutions(config), dtype=np.int64),
        np.array(table_offsets(config), dtype=np.int64),
        np.array(is_hashed(config), dtype=np.bool_),
        np.array(order, dtype=np.int64),
    )


@njit(cache=True, error_model="numpy", inline="always")
def _along(x, resolution):
    """Cell of the coordinate `x` and the place inside it in [0, 1]."""
    scaled = x * np.float32(resolution)
    if scaled < ZERO:
        scaled = ZERO
    elif scaled > np.float32(resolution):
        scaled = np.float32(resolution)
    cell = np.int64(0)  # stays so for NaN, whose fraction is NaN: it is passed on, not hidden
    if scaled >= ONE:
        cell = min(np.int64(scaled), resolution - 1)
    return cell, scaled - np.float32(cell)


@njit(cache=True, error_model="numpy", inline="always")
def _corners(x, i, resolution, start, stop, hashed):
    """Entries of the 8 corners of the cell of `point` (x fastest), and the place inside it."""
    cx, fx = _along(x[i, 0], resolution)
    cy, fy = _along(x[i, 1], resolution)
    cz, fz = _along(x[i, 2], resolution)
    if hashed:
        mask = stop - start - 1
        y0, z0 = cy * PRIME_Y, cz * PRIME_Z
        y1, z1 = y0 + PRIME_Y, z0 + PRIME_Z
        index = (
            Entry(start + ((cx ^ y0 ^ z0) & mask)),
            Entry(start + (((cx + 1) ^ y0 ^ z0) & mask)),
            Entry(start + ((cx ^ y1 ^ z0) & mask)),
            Entry(start + (((cx + 1) ^ y1 ^ z0) & mask)),
            Entry(start + ((cx ^ y0 ^ z1) & mask)),
            Entry(start + (((cx + 1) ^ y0 ^ z1) & mask)),
            Entry(start + ((cx ^ y1 ^ z1) & mask)),
            Entry(start + (((cx + 1) ^ y1 ^ z1) & mask)),
        )
    else:
        row = resolution + 1
        layer = row * row
        first = start + cx + row * cy + layer * cz
        index = (
            Entry(first),
            Entry(first + 1),
            Entry(first + row),
            Entry(first + row + 1),
            Entry(first + layer),
            Entry(first + layer + 1),
            Entry(first + layer + row),
            Entry(first + layer + row + 1),
        )
    return index, (fx, fy, fz)


@njit(cache=True, error_model="numpy", inline="always")
def _face_weights(u, v):
    """Bilinear weights of a face's 4 corners, u fastest."""
    return (ONE - u) * (ONE - v), u * (ONE - v), (ONE - u) * v, u * v


@njit(cache=True, error_model="numpy", inline="always")
def _weights(inside):
    """Trilinear weights of a cell's 8 corners, x fastest."""
    fx, fy, fz = inside
    a, b, c, d = _face_weights(fy, fz)
    gx = ONE - fx
    return gx * a, fx * a, gx * b, fx * b, gx * c, fx * c, gx * d, fx * d


@njit(cache=True, error_model="numpy", inline="always")
def _blend(tables, feature, index, weight):
    """The weighted sum of a feature at 8 entries."""
    a, b, c, d, e, f, g, h = index
    return (
        weight[0] * tables[a, feature]
        + weight[1] * tables[b, feature]
        + weight[2] * tables[c, feature]
        + weight[3] * tables[d, feature]
        + weight[4] * tables[e, feature]
        + weight[5] * tables[f, feature]
        + weight[6] * tables[g, feature]
        + weight[7] * tables[h, feature]
    )


@njit(cache=True, error_model="numpy", inline="always")
def _spread(grad_tables, feature, index, weight, cotangent):
    """The transpose of `_blend`: hand a feature's cotangent out to 8 entries."""
    a, b, c, d, e, f, g, h = index
    grad_tables[a, feature] += weight[0] * cotangent
    grad_tables[b, feature] += weight[1] * cotangent
    grad_tables[c, feature] += weight[2] * cotangent
    grad_tables[d, feature] += weight[3] * cotangent
    grad_tables[e, feature] += weight[4] * cotangent
    grad_tables[f, feature] += weight[5] * cotangent
    grad_tables[g, feature] += weight[6] * cotangent
    grad_tables[h, feature] += weight[7] * cotangent


@njit(cache=True, parallel=True, error_model="numpy")
def _forward(x, tables, resolution, offset, hashed, order, lanes, out):
    count, features = x.shape[0], len(lanes)
    runs = (count + RUN - 1) // RUN
    for task in prange(runs * order.shape[0]):
        # Level after level, so that one table at a time is in the cache.
        level, run = order[task // runs], task % runs
        start, stop, column = offset[level], offset[level + 1], level * features
        for i in range(run * RUN, min(count, (run + 1) * RUN)):
            index, inside = _corners(x, i, resolution[level], start, stop, hashed[level])
            weight = _weights(inside)
            for f in range(features):
                out[i, column + f] = _blend(tables, f, index, weight)


@njit(cache=True, parallel=True, error_model="numpy")
def _backward_tables(x, resolution, offset, hashed, order, lanes, grad_out, grad_tables):
    features = len(lanes)
    for task in prange(order.shape[0]):
        level = order[task]
        start, stop, column = offset[level], offset[level + 1], level * features
        for i in range(x.shape[0]):
            silent = True  # samples that no pixel sees have no cotangent
            for f in range(features):
                silent = silent and grad_out[i, column + f] == ZERO
            if silent:
                continue
            index, inside = _corners(x, i, resolution[level], start, stop, hashed[level])
            weight = _weights(inside)
            for f in range(features):
                _spread(grad_tables, f, index, weight, grad_out[i, column + f])


@njit(cache=True, error_model="numpy", inline="always")
def _slope(tables, feature, index, inside):
    """Derivatives of the interpolated feature along x, y and z, in units of a cell."""
    a, b, c, d, e, f, g, h = index
    v0, v1, v2, v3 = tables[a, feature], tables[b, feature], tables[c, feature], tables[d, feature]
    v4, v5, v6, v7 = tables[e, feature], tables[f, feature], tables[g, feature], tables[h, feature]
    fx, fy, fz = inside
    w0, w1, w2, w3 = _face_weights(fy, fz)
    along_x = w0 * (v1 - v0) + w1 * (v3 - v2) + w2 * (v5 - v4) + w3 * (v7 - v6)
    w0, w1, w2, w3 = _face_weights(fx, fz)
    along_y = w0 * (v2 - v0) + w1 * (v3 - v1) + w2 * (v6 - v4) + w3 * (v7 - v5)
    w0, w1, w2, w3 = _face_weights(fx, fy)
    along_z = w0 * (v4 - v0) + w1 * (v5 - v1) + w2 * (v6 - v2) + w3 * (v7 - v3)
    return along_x, along_y, along_z


@njit(cache=True, parallel=True, error_model="numpy")
def _backward_x(x, tables, resolution, offset, hashed, lanes, grad_out, grad_x):
    count, features = x.shape[0], len(lanes)
    for run in prange((count + RUN - 1) // RUN):
        for level in range(resolution.shape[0]):
            start, stop, column = offset[level], offset[level + 1], level * features
            scale = np.float32(resolution[level])
            for i in range(run * RUN, min(count, (run + 1) * RUN)):
                index, inside = _corners(x, i, resolution[level], start, stop, hashed[level])
                sx = sy = sz = ZERO
                for f in range(features):
                    along_x, along_y, along_z = _slope(tables, f, index, inside)
                    sx += grad_out[i, column + f] * along_x
                    sy += grad_out[i, column + f] * along_y
                    sz += grad_out[i, column + f] * along_z
                grad_x[i, 0] += scale * sx
                grad_x[i, 1] += scale * sy
                grad_x[i, 2] += scale * sz
        for i in range(run * RUN, min(count, (run + 1) * RUN)):
            for axis in range(3):
                if x[i, axis] < ZERO or x[i, axis] > ONE:  # the encoding is flat outside the box
                    grad_x[i, axis] = ZERO
