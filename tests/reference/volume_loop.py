"""Volume rendering as the equations say it, one sample after another in float64."""

from __future__ import annotations

import torch
from torch import Tensor


def weights_loop(
    density: Tensor, t_starts: Tensor, t_ends: Tensor, ray_indices: Tensor, num_rays: int
) -> Tensor:
    """Mildenhall 2020, eq. 3, sample by sample; float64 `[S]`, differentiable in `density`."""
    transmittance = [torch.ones((), dtype=torch.float64) for _ in range(num_rays)]
    weights = []
    for i in range(density.shape[0]):
        ray = int(ray_indices[i])
        alpha = 1 - torch.exp(-density[i].double() * (t_ends[i].double() - t_starts[i].double()))
        weights.append(transmittance[ray] * alpha)
        transmittance[ray] = transmittance[ray] * (1 - alpha)
    return torch.stack(weights) if weights else density.double()


def accumulate_loop(weights: Tensor, values: Tensor, ray_indices: Tensor, num_rays: int) -> Tensor:
    """Sum of weighted values of each ray, sample by sample; float64 `[R, C]`."""
    total = [torch.zeros(values.shape[1], dtype=torch.float64) for _ in range(num_rays)]
    for i in range(weights.shape[0]):
        ray = int(ray_indices[i])
        total[ray] = total[ray] + weights[i].double() * values[i].double()
    return torch.stack(total) if total else values.new_zeros(0, values.shape[1]).double()
