"""The noise levels of a diffusion model, and what its outputs say of the noise."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from ..device import send
from ..errors import UserError

Prediction = Literal["epsilon", "v_prediction", "sample", "velocity"]


@dataclass(frozen=True)
class NoiseSchedule:
    """Noise levels of a diffusion model: `x_t = alpha_t x + sigma_t eps`.

    alpha, sigma: float32 `[T]`, by timestep 0 (clean) to T - 1 (noise). Diffusion models keep
    `alpha^2 + sigma^2 = 1`; flow models keep `alpha + sigma = 1`.
    """

    alpha: Tensor
    sigma: Tensor
    _placed: dict[torch.device, tuple[Tensor, Tensor]] = field(
        default_factory=dict, compare=False, repr=False
    )

    def __len__(self) -> int:
        return self.alpha.shape[0]

    def at(self, t: Tensor, ndim: int = 4) -> tuple[Tensor, Tensor]:
        """alpha_t and sigma_t of timesteps `t` `[B]`, shaped `[B, 1, ...]` with `ndim` axes."""
        shape = (-1,) + (1,) * (ndim - 1)
        alpha, sigma = self.on(t.device)
        return alpha[t].reshape(shape), sigma[t].reshape(shape)

    def on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """alpha and sigma on a device, where they are brought once."""
        if device not in self._placed:
            self._placed[device] = (send(self.alpha, device), send(self.sigma, device))
        return self._placed[device]

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


def to_noise(kind: Prediction, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The noise in `x_t = alpha x_0 + sigma eps` that a model's output of some kind stands for.

    All tensors broadcast together. By kind the output is
        epsilon: eps;
        v_prediction: v = alpha eps - sigma x_0 (Salimans and Ho 2022, appendix D), for
            alpha^2 + sigma^2 = 1, hence eps = sigma x_t + alpha v;
        velocity: v = eps - x_0 (Liu et al. 2023, rectified flow), for alpha + sigma = 1, hence
            eps = x_t + alpha v;
        sample: x_0, hence eps = (x_t - alpha x_0) / sigma.
    """
    match kind:
        case "epsilon":
            return output
        case "v_prediction":
            return sigma * x_t + alpha * output
        case "velocity":
            return x_t + alpha * output
        case "sample":
            return (x_t - alpha * output) / sigma


def diffusion_schedule(scheduler: Any) -> tuple[NoiseSchedule, Prediction]:
    """Noise levels and prediction type of a U-Net's scheduler, from its `alphas_cumprod`.

    The step rule of the scheduler (DDIM, Euler, ...) plays no part in distillation, only its
    betas do. Raises `UserError` for schedulers that have none, or another prediction type.
    """
    products = getattr(scheduler, "alphas_cumprod", None)
    kind = scheduler.config.get("prediction_type", "epsilon")
    if products is None or kind not in ("epsilon", "v_prediction", "sample"):
        raise UserError(
            f"the scheduler {type(scheduler).__name__} (prediction type {kind}) has no noise levels"
            " maquette can read; it takes schedulers with betas and epsilon, v or sample prediction"
        )
    products = products.double().cpu()
    return NoiseSchedule(products.sqrt().float(), (1.0 - products).sqrt().float()), kind
