"""Barycentrics and interpolation as Triton kernels, a covered pixel a lane, with their gradients.

Barycentrics are worked out in float64, as on the CPU. Gradients are summed into vertices by atomic
additions, whose order the GPU chooses. This module imports triton.
"""

from __future__ import annotations

from typing import Any

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..device import launch

BLOCK = 128  # pixels a program


def barycentrics(
    clip: Tensor, faces: Tensor, pixels: Tensor, face: Tensor, height: int, width: int
) -> Tensor:
    """`interpolate.barycentrics`, differentiable once in `clip`."""
    return _Barycentrics.apply(  # pyright: ignore[reportReturnType]
        clip, faces, pixels, face, height, width
    )


def weighted_rows(table: Tensor, corner: Tensor, weight: Tensor) -> Tensor:
    """`interpolate.weighted_rows_torch`, differentiable once in `table` and `weight`."""
    return _WeightedRows.apply(table, corner, weight)  # pyright: ignore[reportReturnType]


class _Barycentrics(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, clip: Tensor, faces: Tensor, pixels: Tensor, face: Tensor, height: int, width: int
    ) -> Tensor:
        clip, faces, pixels, face = (t.contiguous() for t in (clip, faces, pixels, face))
        ctx.save_for_backward(clip, faces, pixels, face)
        ctx.size = (height, width)
        bary = clip.new_empty(pixels.shape[0], 3)
        if pixels.shape[0]:
            sizes = (clip.shape[1], height, width, pixels.shape[0])
            arguments = (clip, faces, pixels, face, bary, *sizes)
            launch(_bary_forward, _grid(pixels), *arguments, BLOCK=BLOCK, exact=True)
        return bary

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        clip, faces, pixels, face = ctx.saved_tensors
        total = torch.zeros_like(clip)
        if pixels.shape[0]:
            sizes = (clip.shape[1], *ctx.size, pixels.shape[0])
            arguments = (clip, faces, pixels, face, cotangent.contiguous(), total, *sizes)
            launch(_bary_backward, _grid(pixels), *arguments, BLOCK=BLOCK, exact=True)
        return total, None, None, None, None, None


class _WeightedRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, corner: Tensor, weight: Tensor) -> Tensor:
        table, corner, weight = table.contiguous(), corner.contiguous(), weight.contiguous()
        ctx.save_for_backward(table, corner, weight)
        count, channels = corner.shape[0], table.shape[1]
        value = table.new_empty(count, channels)
        if count and channels:
            arguments = (table, corner, weight, value, count)
            launch(_rows_forward, _grid(corner), *arguments, CHANNELS=channels, BLOCK=BLOCK)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
        table, corner, weight = ctx.saved_tensors
        grad_table, grad_weight = torch.zeros_like(table), torch.zeros_like(weight)
        count, channels = corner.shape[0], table.shape[1]
        if count and channels:
            launch(
                _rows_backward, _grid(corner),
                table, corner, weight, cotangent.contiguous(), grad_table, grad_weight, count,
                CHANNELS=channels, TABLE=ctx.needs_input_grad[0], BLOCK=BLOCK,
            )  # fmt: skip
        needed = ctx.needs_input_grad
        return grad_table if needed[0] else None, None, grad_weight if needed[2] else None


def _grid(rows: Tensor) -> tuple[int]:
    return (triton.cdiv(rows.shape[0], BLOCK),)


@triton.jit
def _seen(clip_ptr, vertex, px, py, alive):
    """A vertex as seen along the line of sight through (px, py): x - w px and y - w py."""
    place = clip_ptr + vertex * 4
    x = tl.load(place, mask=alive, other=0.0).to(tl.float64)
    y = tl.load(place + 1, mask=alive, other=0.0).to(tl.float64)
    w = tl.load(place + 3, mask=alive, other=0.0).to(tl.float64)
    return x - w * px, y - w * py


@triton.jit
def _unit(value):
    """Clamped to [0, 1]."""
    return tl.minimum(tl.maximum(value, 0.0), 1.0)


@triton.jit
def _sight(face_ptr, pixel_ptr, seen_ptr, index, alive, vertices, height, width):
    """The three vertices that each pixel's face has, as rows of the flat clip positions, and the
    ndc position of its centre."""
    pixel = tl.load(pixel_ptr + index, mask=alive, other=0)
    face = tl.load(seen_ptr + index, mask=alive, other=0)
    base = pixel // (height * width) * vertices
    i = tl.load(face_ptr + face * 3, mask=alive, other=0) + base
    j = tl.load(face_ptr + face * 3 + 1, mask=alive, other=0) + base
    k = tl.load(face_ptr + face * 3 + 2, mask=alive, other=0) + base
    row, col = pixel // width % height, pixel % width
    px = (2 * col + 1).to(tl.float64) / width - 1.0
    py = 1.0 - (2 * row + 1).to(tl.float64) / height
    return i, j, k, px, py


@triton.jit
def _ratios(x0, y0, x1, y1, x2, y2):
    """Unclamped barycentrics, their denominator, and whether there is any area to speak of."""
    w0, w1, w2 = x1 * y2 - x2 * y1, x2 * y0 - x0 * y2, x0 * y1 - x1 * y0
    total = w0 + w1 + w2
    flat = total == 0.0
    total = tl.where(flat, 1.0, total)
    third = 1.0 / 3.0
    r0 = tl.where(flat, third, w0 / total)
    r1 = tl.where(flat, third, w1 / total)
    r2 = tl.where(flat, third, w2 / total)
    return r0, r1, r2, total, flat


@triton.jit(do_not_specialize=["vertices", "height", "width", "count"])
def _bary_forward(
    clip_ptr, face_ptr, pixel_ptr, seen_ptr, bary_ptr, vertices, height, width, count,
    BLOCK: tl.constexpr,
):  # fmt: skip
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    alive = index < count
    i, j, k, px, py = _sight(face_ptr, pixel_ptr, seen_ptr, index, alive, vertices, height, width)
    x0, y0 = _seen(clip_ptr, i, px, py, alive)
    x1, y1 = _seen(clip_ptr, j, px, py, alive)
    x2, y2 = _seen(clip_ptr, k, px, py, alive)
    r0, r1, r2, _, _ = _ratios(x0, y0, x1, y1, x2, y2)
    u0, u1, u2 = _unit(r0), _unit(r1), _unit(r2)
    scale = u0 + u1 + u2
    tl.store(bary_ptr + index * 3, u0 / scale, mask=alive)
    tl.store(bary_ptr + index * 3 + 1, u1 / scale, mask=alive)
    tl.store(bary_ptr + index * 3 + 2, u2 / scale, mask=alive)


@triton.jit
def _add(grad_ptr, vertex, gx, gy, px, py, heard):
    """Add one vertex's gradient in x, y and w."""
    place = grad_ptr + vertex * 4
    kind = grad_ptr.dtype.element_ty
    tl.atomic_add(place, gx.to(kind), mask=heard, sem="relaxed")
    tl.atomic_add(place + 1, gy.to(kind), mask=heard, sem="relaxed")
    tl.atomic_add(place + 3, (-(gx * px + gy * py)).to(kind), mask=heard, sem="relaxed")


@triton.jit(do_not_specialize=["vertices", "height", "width", "count"])
def _bary_backward(
    clip_ptr, face_ptr, pixel_ptr, seen_ptr, cotangent_ptr, grad_ptr,
    vertices, height, width, count, BLOCK: tl.constexpr,
):  # fmt: skip
    """Back through the renormalization, the clamp, the division and the cross products."""
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    alive = index < count
    i, j, k, px, py = _sight(face_ptr, pixel_ptr, seen_ptr, index, alive, vertices, height, width)
    x0, y0 = _seen(clip_ptr, i, px, py, alive)
    x1, y1 = _seen(clip_ptr, j, px, py, alive)
    x2, y2 = _seen(clip_ptr, k, px, py, alive)
    r0, r1, r2, total, flat = _ratios(x0, y0, x1, y1, x2, y2)
    u0, u1, u2 = _unit(r0), _unit(r1), _unit(r2)
    g0 = tl.load(cotangent_ptr + index * 3, mask=alive, other=0.0).to(tl.float64)
    g1 = tl.load(cotangent_ptr + index * 3 + 1, mask=alive, other=0.0).to(tl.float64)
    g2 = tl.load(cotangent_ptr + index * 3 + 2, mask=alive, other=0.0).to(tl.float64)
    # Rows that stay empty (`common.rooms`) hear nothing, and would all wait for one vertex.
    spoken = (g0 != 0.0) | (g1 != 0.0) | (g2 != 0.0)
    scale = u0 + u1 + u2
    mean = (g0 * u0 + g1 * u1 + g2 * u2) / scale
    g0 = tl.where(u0 == r0, (g0 - mean) / scale, 0.0)
    g1 = tl.where(u1 == r1, (g1 - mean) / scale, 0.0)
    g2 = tl.where(u2 == r2, (g2 - mean) / scale, 0.0)
    mean = g0 * r0 + g1 * r1 + g2 * r2
    g0, g1, g2 = (g0 - mean) / total, (g1 - mean) / total, (g2 - mean) / total
    heard = alive & (flat == 0) & spoken
    _add(grad_ptr, i, g2 * y1 - g1 * y2, g1 * x2 - g2 * x1, px, py, heard)
    _add(grad_ptr, j, g0 * y2 - g2 * y0, g2 * x0 - g0 * x2, px, py, heard)
    _add(grad_ptr, k, g1 * y0 - g0 * y1, g0 * x1 - g1 * x0, px, py, heard)


@triton.jit(do_not_specialize=["count"])
def _rows_forward(
    table_ptr, corner_ptr, weight_ptr, value_ptr, count,
    CHANNELS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    alive = index < count
    for channel in tl.static_range(CHANNELS):
        total = tl.zeros([BLOCK], dtype=value_ptr.dtype.element_ty)
        for side in tl.static_range(3):
            row = tl.load(corner_ptr + index * 3 + side, mask=alive, other=0)
            weight = tl.load(weight_ptr + index * 3 + side, mask=alive, other=0.0)
            total += weight * tl.load(table_ptr + row * CHANNELS + channel, mask=alive, other=0.0)
        tl.store(value_ptr + index * CHANNELS + channel, total, mask=alive)


@triton.jit(do_not_specialize=["count"])
def _rows_backward(
    table_ptr, corner_ptr, weight_ptr, cotangent_ptr, grad_table_ptr, grad_weight_ptr, count,
    CHANNELS: tl.constexpr, TABLE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """TABLE: whether the table has a gradient."""
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    alive = index < count
    for side in tl.static_range(3):
        row = tl.load(corner_ptr + index * 3 + side, mask=alive, other=0)
        weight = tl.load(weight_ptr + index * 3 + side, mask=alive, other=0.0)
        total = tl.zeros([BLOCK], dtype=grad_weight_ptr.dtype.element_ty)
        for channel in tl.static_range(CHANNELS):
            heard = tl.load(cotangent_ptr + index * CHANNELS + channel, mask=alive, other=0.0)
            place = row * CHANNELS + channel
            total += heard * tl.load(table_ptr + place, mask=alive, other=0.0)
            if TABLE:
                target = grad_table_ptr + place
                tl.atomic_add(target, weight * heard, mask=alive & (heard != 0.0), sem="relaxed")
        tl.store(grad_weight_ptr + index * 3 + side, total, mask=alive)
