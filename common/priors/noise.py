"""The noise levels of a diffusion model, and those of the models that come with the program."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class NoiseSchedule:
    """Noise levels of a diffusion model: `x_t = alpha_t x + sigma_t eps`.

    alpha, sigma: float32 `[T]`, by timestep 0 (clean) to T - 1 (noise). Diffusion models keep
    `alpha^2 + sigma^2 = 1`; flow models keep `alpha + sigma = 1`.
    """

    alpha: Tensor
    sigma: Tensor

    def __len__(self) -> int:
        return self.alpha.shape[0]

    def at(self, t: Tensor, ndim: int = 4) -> tuple[Tensor, Tensor]:
        """alpha_t and sigma_t of timesteps `t` `[B]`, shaped `[B, 1, ...]` with `ndim` axes."""
        shape = (-1,) + (1,) * (ndim - 1)
        alpha, sigma = self.alpha.to(t.device), self.sigma.to(t.device)
        return alpha[t].reshape(shape), sigma[t].reshape(shape)

    def add_noise(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The noised `x_t` of `x` and `noise` (`[B, ...]`) at timesteps `t` `[B]`."""
        alpha, sigma = self.at(t, x.ndim)
        return alpha * x + sigma * noise


def cosine_schedule(timesteps: int) -> NoiseSchedule:
    """The cosine schedule with betas capped at 0.999 (Nichol 2021, eq. 17); DeepFloyd IF's."""
    edge = torch.arange(timesteps + 1, dtype=torch.float64) / timesteps
    alpha_bar = torch.cos((edge + 0.008) / 1.008 * (math.pi / 2)) ** 2
    return from_betas((1.0 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=0.999))


def from_betas(betas: Tensor) -> NoiseSchedule:
    """The noise schedule of a chain's variances `[T]` (Ho 2020, eq. 4)."""
    alpha_bar = torch.cumprod(1.0 - betas, dim=0)
    return NoiseSchedule(alpha_bar.sqrt().float(), (1.0 - alpha_bar).sqrt().float())
