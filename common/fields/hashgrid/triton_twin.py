"""The hash encoding as Triton kernels for CUDA: equal to `reference.encode` up to rounding.

This module imports triton, so nothing imports it before a tensor on a GPU asks for it. The
gradient of the tables is summed by atomic additions, whose order the GPU chooses: its last bits
may differ from run to run, unlike on the CPU.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...device import launch, send
from .reference import (
    PRIME_Y,
    PRIME_Z,
    HashGridConfig,
    check,
    is_hashed,
    resolutions,
    table_offsets,
)

BLOCK = 256  # points a program


def encode(x: Tensor, tables: Tensor, config: HashGridConfig) -> Tensor:
    """Multiresolution hash encoding on a GPU in float32; same contract as `reference.encode`.

    x `[N, 3]` in [0, 1], tables `[total_entries, F]`; returns `[N, levels * F]`. Differentiable
    once in `tables` and, where `x.requires_grad`, in `x`. Raises ValueError on a wrong shape or
    dtype.
    """
    check(x, tables, config)
    for name, tensor in (("x", x), ("tables", tables)):
        if tensor.dtype != torch.float32 or tensor.device != x.device:
            raise ValueError(
                f"{name}: expected float32 on {x.device}, got {tensor.dtype} on {tensor.device}"
            )
    return _Encode.apply(x, tables, config)  # pyright: ignore[reportReturnType]


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, tables: Tensor, config: HashGridConfig) -> Tensor:
        x, tables = x.contiguous(), tables.contiguous()
        ctx.save_for_backward(x, tables)
        ctx.config = config
        out = x.new_empty(x.shape[0], config.width)
        if x.shape[0]:
            grid = (triton.cdiv(x.shape[0], BLOCK), config.depth)
            layout = _layout(config, x.device)
            launch(_forward, grid, x, tables, *layout, out, x.shape[0], **_sizes(config))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, tables = ctx.saved_tensors
        config, count, cotangent = ctx.config, x.shape[0], cotangent.contiguous()
        layout, blocks = _layout(config, x.device), triton.cdiv(count, BLOCK)
        grad_x = torch.zeros_like(x) if ctx.needs_input_grad[0] else None
        grad_tables = torch.zeros_like(tables) if ctx.needs_input_grad[1] else None
        if grad_x is not None and count:
            arguments = (x, tables, *layout, cotangent, grad_x, count)
            launch(_backward_x, (blocks,), *arguments, **_sizes(config))
        if grad_tables is not None and count:
            arguments = (x, *layout, cotangent, grad_tables, count)
            launch(_backward_tables, (blocks, config.depth), *arguments, **_sizes(config))
        return grad_x, grad_tables, None


@lru_cache(maxsize=64)
def _layout(config: HashGridConfig, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Resolutions `[L]`, offsets `[L + 1]` and which levels are hashed `[L]`, int64 on `device`."""
    rows = (resolutions(config), table_offsets(config), is_hashed(config))
    resolution, offset, hashed = (
        send(torch.tensor(row, dtype=torch.int64), device) for row in rows
    )
    return resolution, offset, hashed


def _sizes(config: HashGridConfig) -> dict[str, int]:
    """The compile-time numbers of every kernel."""
    return {
        "LEVELS": config.depth,
        "FEATURES": config.features,
        "PRIME_Y": PRIME_Y,
        "PRIME_Z": PRIME_Z,
        "BLOCK": BLOCK,
    }


@triton.jit
def _along(x_ptr, point, alive, resolution, axis: tl.constexpr):
    """Cell of a block of points along one axis, and the place inside it in [0, 1]."""
    scaled = tl.load(x_ptr + point * 3 + axis, mask=alive, other=0.0) * resolution.to(tl.float32)
    scaled = tl.where(scaled < 0.0, 0.0, scaled)
    scaled = tl.where(scaled > resolution.to(tl.float32), resolution.to(tl.float32), scaled)
    # NaN takes cell 0 and keeps its fraction: it is passed on without reading out of bounds.
    cell = tl.where(scaled >= 1.0, scaled, 0.0).to(tl.int64)
    cell = tl.minimum(cell, resolution - 1)
    return cell, scaled - cell.to(tl.float32)


@triton.jit
def _entry(
    ix, iy, iz, resolution, start, stop, hashed, PRIME_Y: tl.constexpr, PRIME_Z: tl.constexpr
):
    """Entries of grid corners in the concatenated tables (Müller 2022, eq. 4)."""
    mixed = (ix ^ (iy * PRIME_Y) ^ (iz * PRIME_Z)) & (stop - start - 1)
    dense = ix + (resolution + 1) * (iy + (resolution + 1) * iz)
    return start + tl.where(hashed != 0, mixed, dense)


@triton.jit
def _weight(inside, upper: tl.constexpr):
    """Linear weight of a cell's lower or upper corner along one axis."""
    return inside if upper else 1.0 - inside


@triton.jit
def _signed(value, upper: tl.constexpr):
    """`_weight`'s slope times `value`."""
    return value if upper else -value


@triton.jit(do_not_specialize=["count"])
def _forward(
    x_ptr, tables_ptr, resolution_ptr, offset_ptr, hashed_ptr, out_ptr, count,
    LEVELS: tl.constexpr, FEATURES: tl.constexpr,
    PRIME_Y: tl.constexpr, PRIME_Z: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    level = tl.program_id(1)
    point = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    alive = point < count
    resolution, hashed = tl.load(resolution_ptr + level), tl.load(hashed_ptr + level)
    start, stop = tl.load(offset_ptr + level), tl.load(offset_ptr + level + 1)
    cx, fx = _along(x_ptr, point, alive, resolution, 0)
    cy, fy = _along(x_ptr, point, alive, resolution, 1)
    cz, fz = _along(x_ptr, point, alive, resolution, 2)
    for feature in tl.static_range(FEATURES):
        total = tl.zeros([BLOCK], dtype=tl.float32)
        for corner in tl.static_range(8):
            entry = _entry(
                cx + (corner & 1), cy + ((corner >> 1) & 1), cz + ((corner >> 2) & 1),
                resolution, start, stop, hashed, PRIME_Y, PRIME_Z,
            )  # fmt: skip
            weight = _weight(fx, corner & 1) * _weight(fy, (corner >> 1) & 1)
            weight *= _weight(fz, (corner >> 2) & 1)
            entry_ptr = tables_ptr + entry * FEATURES + feature
            total += weight * tl.load(entry_ptr, mask=alive, other=0.0)
        tl.store(out_ptr + (point * LEVELS + level) * FEATURES + feature, total, mask=alive)


@triton.jit(do_not_specialize=["count"])
def _backward_tables(
    x_ptr, resolution_ptr, offset_ptr, hashed_ptr, cotangent_ptr, grad_tables_ptr, count,
    LEVELS: tl.constexpr, FEATURES: tl.constexpr,
    PRIME_Y: tl.constexpr, PRIME_Z: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    level = tl.program_id(1)
    point = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    alive = point < count
    resolution, hashed = tl.load(resolution_ptr + level), tl.load(hashed_ptr + level)
    start, stop = tl.load(offset_ptr + level), tl.load(offset_ptr + level + 1)
    cx, fx = _along(x_ptr, point, alive, resolution, 0)
    cy, fy = _along(x_ptr, point, alive, resolution, 1)
    cz, fz = _along(x_ptr, point, alive, resolution, 2)
    for feature in tl.static_range(FEATURES):
        place = cotangent_ptr + (point * LEVELS + level) * FEATURES + feature
        cotangent = tl.load(place, mask=alive, other=0.0)
        heard = alive & (cotangent != 0.0)
        for corner in tl.static_range(8):
            entry = _entry(
                cx + (corner & 1), cy + ((corner >> 1) & 1), cz + ((corner >> 2) & 1),
                resolution, start, stop, hashed, PRIME_Y, PRIME_Z,
            )  # fmt: skip
            weight = _weight(fx, corner & 1) * _weight(fy, (corner >> 1) & 1)
            weight *= _weight(fz, (corner >> 2) & 1)
            target = grad_tables_ptr + entry * FEATURES + feature
            tl.atomic_add(target, weight * cotangent, mask=heard, sem="relaxed")


@triton.jit(do_not_specialize=["count"])
def _backward_x(
    x_ptr, tables_ptr, resolution_ptr, offset_ptr, hashed_ptr, cotangent_ptr, grad_x_ptr, count,
    LEVELS: tl.constexpr, FEATURES: tl.constexpr,
    PRIME_Y: tl.constexpr, PRIME_Z: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    point = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    alive = point < count
    grad_x = tl.zeros([BLOCK], dtype=tl.float32)
    grad_y = tl.zeros([BLOCK], dtype=tl.float32)
    grad_z = tl.zeros([BLOCK], dtype=tl.float32)
    for level in range(LEVELS):
        resolution, hashed = tl.load(resolution_ptr + level), tl.load(hashed_ptr + level)
        start, stop = tl.load(offset_ptr + level), tl.load(offset_ptr + level + 1)
        scale = resolution.to(tl.float32)
        cx, fx = _along(x_ptr, point, alive, resolution, 0)
        cy, fy = _along(x_ptr, point, alive, resolution, 1)
        cz, fz = _along(x_ptr, point, alive, resolution, 2)
        for corner in tl.static_range(8):
            entry = _entry(
                cx + (corner & 1), cy + ((corner >> 1) & 1), cz + ((corner >> 2) & 1),
                resolution, start, stop, hashed, PRIME_Y, PRIME_Z,
            )  # fmt: skip
            value = tl.zeros([BLOCK], dtype=tl.float32)
            for feature in tl.static_range(FEATURES):
                place = cotangent_ptr + (point * LEVELS + level) * FEATURES + feature
                cotangent = tl.load(place, mask=alive, other=0.0)
                entry_ptr = tables_ptr + entry * FEATURES + feature
                value += cotangent * tl.load(entry_ptr, mask=alive, other=0.0)
            value *= scale
            wx = _weight(fx, corner & 1)
            wy = _weight(fy, (corner >> 1) & 1)
            wz = _weight(fz, (corner >> 2) & 1)
            grad_x += _signed(value, corner & 1) * wy * wz
            grad_y += _signed(value, (corner >> 1) & 1) * wx * wz
            grad_z += _signed(value, (corner >> 2) & 1) * wx * wy
    _store_slope(grad_x_ptr, x_ptr, grad_x, point, alive, 0)
    _store_slope(grad_x_ptr, x_ptr, grad_y, point, alive, 1)
    _store_slope(grad_x_ptr, x_ptr, grad_z, point, alive, 2)


@triton.jit
def _store_slope(grad_x_ptr, x_ptr, slope, point, alive, axis: tl.constexpr):
    """Write one axis of the points' gradient: zero outside the box, where the encoding is flat."""
    x = tl.load(x_ptr + point * 3 + axis, mask=alive, other=0.0)
    outside = (x < 0.0) | (x > 1.0)
    tl.store(grad_x_ptr + point * 3 + axis, tl.where(outside, 0.0, slope), mask=alive)
