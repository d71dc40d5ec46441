"""Volume rendering of packed samples: weights along rays, and sums of values along rays.

Symbols (Mildenhall et al. 2020, "NeRF", eq. 3): sample i of a ray has the density sigma_i and the
length delta_i = t_end - t_start, so the optical depth tau_i = sigma_i delta_i; it lets through
exp(-tau_i) of the light that reaches it, the transmittance T_i, and its weight is
w_i = T_i (1 - exp(-tau_i)) = T_i - T_{i+1}.

Samples are packed: S samples of R rays one ray after another, `ray_indices` `[S]` ascending; those
of ray R, at the end, are rows that stayed empty (`common.rooms`), and weigh nothing. In
float32 compiled loops do the work, each ray owned by one iteration; on the CPU the bits repeat
whatever the number of threads. Any other dtype, or a device without them, takes the torch
functions.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numba import njit, prange
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..common import rooms
from ..common.backends import Twin, everywhere, module_of, numba_obstacle, pick, triton_obstacle


def render_weights(
    density: Tensor, t_starts: Tensor, t_ends: Tensor, ray_indices: Tensor, num_rays: int
) -> Tensor:
    """Weight of each sample in its ray's colour (Mildenhall 2020, eq. 3).

    density: `[S]`, per world unit, >= 0; t_starts, t_ends: `[S]`, distances; ray_indices: int64
    `[S]`, ascending, in [0, num_rays). Returns `[S]` in [0, 1], summing to at most 1 along a ray.
    Differentiable in `density` (once, in float32), not in the distances. Raises ValueError on
    unequal shapes or, on the CPU, unsorted rays.
    """
    for name, tensor in (("t_starts", t_starts), ("t_ends", t_ends)):
        if tensor.shape != density.shape:
            raise ValueError(
                f"{name}: expected {list(density.shape)} like density, got {list(tensor.shape)}"
            )
    offsets = _ray_offsets(density, ray_indices, num_rays)
    lengths = t_ends - t_starts
    match twin(density.device, density.dtype == lengths.dtype == torch.float32).name:
        case "numba":
            return _Weights.apply(density, lengths, offsets)  # pyright: ignore[reportReturnType]
        case "triton":
            return _triton().weights(density, lengths, ray_indices, num_rays)
        case _:
            return torch_weights(density * lengths, ray_indices, num_rays)


def accumulate(
    weights: Tensor, values: Tensor | None, ray_indices: Tensor, num_rays: int
) -> Tensor:
    """Sum `weights * values` along each ray (Mildenhall 2020, eq. 3): `[num_rays, C]`.

    weights: `[S]`; values: `[S, C]`, or None for the sum of the weights, the opacity (C = 1).
    ray_indices: int64 `[S]`, ascending, in [0, num_rays). A ray without samples gets zeros.
    Differentiable in both (once, in float32). Raises ValueError on wrong shapes or, on the CPU,
    unsorted rays.
    """
    offsets = _ray_offsets(weights, ray_indices, num_rays)
    if values is None:
        values = torch.ones_like(weights)[:, None]
    if values.ndim != 2 or values.shape[0] != weights.shape[0]:
        raise ValueError(f"values: expected [{weights.shape[0]}, C], got {list(values.shape)}")
    match twin(weights.device, weights.dtype == values.dtype == torch.float32).name:
        case "numba":
            return _Accumulate.apply(weights, values, offsets)  # pyright: ignore[reportReturnType]
        case "triton":
            return _triton().accumulate(weights, values, ray_indices, num_rays)
        case _:
            return torch_accumulate(weights, values, ray_indices, num_rays)


def twin(device: torch.device | str, float32: bool = True) -> Twin:
    """Which implementation renders packed samples on a device, and why."""
    obstacles = {"numba": numba_obstacle, "triton": triton_obstacle, "torch": everywhere}
    return pick("compositing", device, obstacles, float32)


def _triton() -> Any:
    return module_of(".triton_compositing", __package__)


def torch_weights(optical_depth: Tensor, ray_indices: Tensor, num_rays: int) -> Tensor:
    """`render_weights` in plain torch, from finite optical depths `[S]`; for any device and dtype.

    One running sum over all samples in float64, less its value at each ray's start, stands for the
    sum along the ray.
    """
    tau = optical_depth.double()
    before = tau.cumsum(0) - tau
    count = ray_indices.new_zeros(num_rays + 1)  # not bincount, which waits for a GPU
    count = count.index_add(0, ray_indices, torch.ones_like(ray_indices))
    first = (count.cumsum(0) - count)[ray_indices]
    transmittance = torch.exp(-(before - before[first]))
    return (transmittance * -torch.expm1(-tau)).to(optical_depth.dtype)


def torch_accumulate(weights: Tensor, values: Tensor, ray_indices: Tensor, num_rays: int) -> Tensor:
    """`accumulate` in plain torch; on CUDA the order of each sum is the GPU's own choice."""
    total = weights.new_zeros(num_rays + 1, values.shape[1])
    return total.index_add(0, ray_indices, weights[:, None] * values)[:num_rays]


def _ray_offsets(samples: Tensor, ray_indices: Tensor, num_rays: int) -> np.ndarray | None:
    """First sample of each ray and S at the end, int64 `[num_rays + 1]`; None off the CPU.

    Raises ValueError where the indices aren't one a sample, ascending and in range; on a GPU their
    values aren't looked at, since that would stall it.
    """
    if samples.ndim != 1 or ray_indices.shape != samples.shape:
        raise ValueError(
            "ray_indices: expected one index for each of [S] samples, got "
            f"{list(ray_indices.shape)} for {list(samples.shape)}"
        )
    if samples.device.type != "cpu" or rooms.now() is not None:
        return None
    offsets = np.zeros(num_rays + 1, dtype=np.int64)
    wrong = _count_samples(ray_indices.to(torch.int64).contiguous().numpy(), offsets)
    if wrong >= 0:
        raise ValueError(
            f"ray_indices: expected ascending numbers in [0, {num_rays}), got "
            f"{int(ray_indices[wrong])} at position {wrong}"
        )
    return np.cumsum(offsets)


@njit(cache=True, error_model="numpy")
def _count_samples(ray_indices, offsets):
    """Add each ray's samples to `offsets[ray + 1]`; the position of a wrong index, or -1."""
    previous = 0
    for i in range(ray_indices.shape[0]):
        ray = ray_indices[i]
        if ray < previous or ray >= offsets.shape[0] - 1:
            return i
        offsets[ray + 1] += 1
        previous = ray
    return -1


class _Weights(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, density: Tensor, lengths: Tensor, offsets: np.ndarray) -> Tensor:
        lengths = lengths.contiguous()
        weights, passed = torch.empty_like(lengths), torch.empty_like(lengths)
        _weights_forward(
            density.contiguous().numpy(), lengths.numpy(), offsets, weights.numpy(), passed.numpy()
        )
        ctx.save_for_backward(lengths, weights, passed)
        ctx.offsets = offsets
        return weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None, None]:
        lengths, weights, passed = (t.detach().numpy() for t in ctx.saved_tensors)
        grad_density = torch.empty(lengths.shape)
        _weights_backward(
            cotangent.contiguous().numpy(), lengths, weights, passed, ctx.offsets,
            grad_density.numpy(),
        )  # fmt: skip
        return grad_density, None, None


class _Accumulate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weights: Tensor, values: Tensor, offsets: np.ndarray) -> Tensor:
        weights, values = weights.contiguous(), values.contiguous()
        total = torch.empty(offsets.shape[0] - 1, values.shape[1])
        _accumulate_forward(weights.numpy(), values.numpy(), offsets, total.numpy())
        ctx.save_for_backward(weights, values)
        ctx.offsets = offsets
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        weights, values = ctx.saved_tensors
        grad_weights, grad_values = torch.empty_like(weights), torch.empty_like(values)
        _accumulate_backward(
            weights.detach().numpy(), values.detach().numpy(), cotangent.contiguous().numpy(),
            ctx.offsets, grad_weights.numpy(), grad_values.numpy(),
        )  # fmt: skip
        return grad_weights, grad_values, None


@njit(cache=True, parallel=True, error_model="numpy")
def _weights_forward(density, lengths, offsets, weights, passed):
    """Weights, and what light is left behind each sample (`passed`)."""
    for ray in prange(offsets.shape[0] - 1):
        depth, transmittance = 0.0, 1.0  # float64: differences of nearly equal numbers follow
        for i in range(offsets[ray], offsets[ray + 1]):
            depth += np.float64(density[i]) * np.float64(lengths[i])
            remaining = math.exp(-depth)
            weights[i] = np.float32(transmittance - remaining)
            passed[i] = np.float32(remaining)
            transmittance = remaining


@njit(cache=True, parallel=True, error_model="numpy")
def _weights_backward(cotangent, lengths, weights, passed, offsets, grad_density):
    """d w_i / d tau_i = T_{i+1}, and d w_j / d tau_i = -w_j for every j behind i."""
    for ray in prange(offsets.shape[0] - 1):
        behind = 0.0
        for i in range(offsets[ray + 1] - 1, offsets[ray] - 1, -1):
            slope = np.float64(cotangent[i]) * np.float64(passed[i]) - behind
            grad_density[i] = np.float32(slope * np.float64(lengths[i]))
            behind += np.float64(cotangent[i]) * np.float64(weights[i])


@njit(cache=True, parallel=True, error_model="numpy")
def _accumulate_forward(weights, values, offsets, total):
    for ray in prange(offsets.shape[0] - 1):
        for channel in range(values.shape[1]):
            running = 0.0
            for i in range(offsets[ray], offsets[ray + 1]):
                running += np.float64(weights[i]) * np.float64(values[i, channel])
            total[ray, channel] = np.float32(running)


@njit(cache=True, parallel=True, error_model="numpy")
def _accumulate_backward(weights, values, cotangent, offsets, grad_weights, grad_values):
    for ray in prange(offsets.shape[0] - 1):
        for i in range(offsets[ray], offsets[ray + 1]):
            running = 0.0
            for channel in range(values.shape[1]):
                running += np.float64(cotangent[ray, channel]) * np.float64(values[i, channel])
                grad_values[i, channel] = cotangent[ray, channel] * weights[i]
            grad_weights[i] = np.float32(running)
