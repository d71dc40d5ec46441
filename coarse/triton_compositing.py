"""Volume rendering of packed samples as Triton kernels: one program walks along one ray.

Symbols as in `compositing`. What is carried from block to block of a ray's samples is the optical
depth so far, in float32: it starts anew with every ray, so it loses nothing to the other rays'.
This module imports triton.
"""

from __future__ import annotations

from typing import Any

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..common.device import launch

BLOCK = 64  # samples of a ray at once
WARPS = 2  # as many lanes
FLAT_BLOCK = 256  # samples a program where rays play no part


def ray_offsets(ray_indices: Tensor, num_rays: int) -> Tensor:
    """First sample of each ray and S at the end, int64 `[num_rays + 1]`, without a look at them."""
    rays = torch.arange(num_rays + 1, device=ray_indices.device)
    return torch.searchsorted(ray_indices.contiguous(), rays)


def weights(density: Tensor, lengths: Tensor, ray_indices: Tensor, num_rays: int) -> Tensor:
    """`compositing.render_weights` of float32 samples `[S]`; differentiable once, in `density`."""
    offsets = ray_offsets(ray_indices, num_rays)
    return _Weights.apply(density, lengths, offsets)  # pyright: ignore[reportReturnType]


def accumulate(weights: Tensor, values: Tensor, ray_indices: Tensor, num_rays: int) -> Tensor:
    """`compositing.accumulate` of float32 weights and values; differentiable once."""
    offsets = ray_offsets(ray_indices, num_rays)
    return _Accumulate.apply(  # pyright: ignore[reportReturnType]
        weights, values, ray_indices, offsets
    )


class _Weights(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, density: Tensor, lengths: Tensor, offsets: Tensor) -> Tensor:
        density, lengths = density.contiguous(), lengths.contiguous()
        found, passed = torch.zeros_like(density), torch.zeros_like(density)
        rays = offsets.shape[0] - 1
        if rays and density.shape[0]:
            arguments = (density, lengths, offsets, found, passed)
            launch(_weights_forward, (rays,), *arguments, BLOCK=BLOCK, num_warps=WARPS)
        ctx.save_for_backward(lengths, offsets, found, passed)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None, None]:
        lengths, offsets, found, passed = ctx.saved_tensors
        grad, rays = torch.zeros_like(lengths), offsets.shape[0] - 1
        if rays and lengths.shape[0]:
            arguments = (cotangent.contiguous(), lengths, offsets, found, passed, grad)
            launch(_weights_backward, (rays,), *arguments, BLOCK=BLOCK, num_warps=WARPS)
        return grad, None, None


class _Accumulate(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, weights: Tensor, values: Tensor, ray_indices: Tensor, offsets: Tensor
    ) -> Tensor:
        weights, values = weights.contiguous(), values.contiguous()
        rays, channels = offsets.shape[0] - 1, values.shape[1]
        total = values.new_zeros(rays, channels)
        if rays and channels:
            launch(
                _accumulate_forward, (rays,), weights, values, offsets, total, channels,
                BLOCK=BLOCK, WIDTH=triton.next_power_of_2(channels), num_warps=WARPS,
            )  # fmt: skip
        ctx.save_for_backward(weights, values, ray_indices)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, Tensor, None, None]:
        weights, values, ray_indices = ctx.saved_tensors
        grad_weights, grad_values = torch.empty_like(weights), torch.empty_like(values)
        count, channels = values.shape
        if count:
            launch(
                _accumulate_backward, (triton.cdiv(count, FLAT_BLOCK),),
                weights, values, ray_indices.contiguous(), cotangent.contiguous(),
                grad_weights, grad_values, count, cotangent.shape[0],
                CHANNELS=channels, BLOCK=FLAT_BLOCK,
            )  # fmt: skip
        return grad_weights, grad_values, None, None


@triton.jit
def _absorbed(tau):
    """1 - exp(-tau), by its series where the difference would lose its digits."""
    series = tau * (1.0 - tau / 2.0 * (1.0 - tau / 3.0 * (1.0 - tau / 4.0 * (1.0 - tau / 5.0))))
    return tl.where(tau < 0.05, series, 1.0 - tl.exp(-tau))


@triton.jit
def _weights_forward(
    density_ptr, length_ptr, offset_ptr, weight_ptr, passed_ptr, BLOCK: tl.constexpr
):
    """w_i = T_i (1 - exp(-tau_i)), and what light is left behind each sample."""
    ray = tl.program_id(0).to(tl.int64)
    start, stop = tl.load(offset_ptr + ray), tl.load(offset_ptr + ray + 1)
    depth = tl.zeros([], dtype=tl.float32)
    for begin in range(start, stop, BLOCK):
        index = begin + tl.arange(0, BLOCK)
        alive = index < stop
        density = tl.load(density_ptr + index, mask=alive, other=0.0)
        tau = density * tl.load(length_ptr + index, mask=alive, other=0.0)
        behind = depth + tl.cumsum(tau, 0)
        before = tl.maximum(behind - tau, depth)
        tl.store(weight_ptr + index, tl.exp(-before) * _absorbed(tau), mask=alive)
        tl.store(passed_ptr + index, tl.exp(-behind), mask=alive)
        depth += tl.sum(tau, 0)


@triton.jit
def _weights_backward(
    cotangent_ptr, length_ptr, offset_ptr, weight_ptr, passed_ptr, grad_ptr, BLOCK: tl.constexpr
):
    """d w_i / d tau_i = T_{i+1}, and d w_j / d tau_i = -w_j for every j behind i."""
    ray = tl.program_id(0).to(tl.int64)
    start, stop = tl.load(offset_ptr + ray), tl.load(offset_ptr + ray + 1)
    behind = tl.zeros([], dtype=tl.float32)
    blocks = (stop - start + BLOCK - 1) // BLOCK
    for number in range(blocks):
        index = start + (blocks - 1 - number) * BLOCK + tl.arange(0, BLOCK)
        alive = index < stop
        cotangent = tl.load(cotangent_ptr + index, mask=alive, other=0.0)
        heard = cotangent * tl.load(weight_ptr + index, mask=alive, other=0.0)
        passed = tl.load(passed_ptr + index, mask=alive, other=0.0)
        farther = behind + tl.cumsum(heard, 0, reverse=True) - heard
        slope = cotangent * passed - farther
        length = tl.load(length_ptr + index, mask=alive, other=0.0)
        tl.store(grad_ptr + index, slope * length, mask=alive)
        behind += tl.sum(heard, 0)


@triton.jit(do_not_specialize=["channels"])
def _accumulate_forward(
    weight_ptr, value_ptr, offset_ptr, total_ptr, channels,
    BLOCK: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Sums of weights times values along one ray."""
    ray = tl.program_id(0).to(tl.int64)
    start, stop = tl.load(offset_ptr + ray), tl.load(offset_ptr + ray + 1)
    channel = tl.arange(0, WIDTH)
    total = tl.zeros([WIDTH], dtype=tl.float32)
    for begin in range(start, stop, BLOCK):
        index = begin + tl.arange(0, BLOCK)
        alive = index < stop
        weight = tl.load(weight_ptr + index, mask=alive, other=0.0)
        place = value_ptr + index[:, None] * channels + channel[None, :]
        here = alive[:, None] & (channel < channels)[None, :]
        total += tl.sum(weight[:, None] * tl.load(place, mask=here, other=0.0), 0)
    tl.store(total_ptr + ray * channels + channel, total, mask=channel < channels)


@triton.jit(do_not_specialize=["count", "rays"])
def _accumulate_backward(
    weight_ptr, value_ptr, ray_ptr, cotangent_ptr, grad_weight_ptr, grad_value_ptr, count, rays,
    CHANNELS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Each sample hears its own ray's cotangent, and one of ray `rays` nothing."""
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    alive = index < count
    ray = tl.load(ray_ptr + index, mask=alive, other=0)
    weight = tl.load(weight_ptr + index, mask=alive, other=0.0)
    total = tl.zeros([BLOCK], dtype=tl.float32)
    for channel in tl.static_range(CHANNELS):
        of_a_ray = alive & (ray < rays)
        heard = tl.load(cotangent_ptr + ray * CHANNELS + channel, mask=of_a_ray, other=0.0)
        place = index * CHANNELS + channel
        total += heard * tl.load(value_ptr + place, mask=alive, other=0.0)
        tl.store(grad_value_ptr + place, heard * weight, mask=alive)
    tl.store(grad_weight_ptr + index, total, mask=alive)
