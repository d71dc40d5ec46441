"""Noise schedules of the common model families, for tests: no product code asks for them."""

from __future__ import annotations

import torch

from maquette.common.priors.noise import NoiseSchedule, from_betas


def linear_schedule(timesteps: int, first: float = 1e-4, last: float = 0.02) -> NoiseSchedule:
    """Betas on a straight line (DDPM, Ho 2020, sec. 4).

    The ends are those of T = 1000. Fewer timesteps keep the ends, and so end with less noise.
    """
    return from_betas(torch.linspace(first, last, timesteps, dtype=torch.float64))


def scaled_linear_schedule(
    timesteps: int, first: float = 0.00085, last: float = 0.012
) -> NoiseSchedule:
    """Betas whose square roots are on a straight line (Stable Diffusion, Rombach 2022)."""
    root = torch.linspace(first**0.5, last**0.5, timesteps, dtype=torch.float64)
    return from_betas(root**2)


def flow_schedule(timesteps: int, shift: float = 1.0) -> NoiseSchedule:
    """The straight path of flow models: sigma = t', alpha = 1 - t' (Esser 2024, sec. 5.3.2).

    t' = shift u / (1 + (shift - 1) u) with u = (t + 1) / T: a shift above 1 spends more timesteps
    at high noise. The last timestep is pure noise (alpha 0), the first is not quite clean.
    Raises ValueError for shift <= 0.
    """
    if shift <= 0:
        raise ValueError(f"shift: expected a positive number, got {shift}")
    u = torch.arange(1, timesteps + 1, dtype=torch.float64) / timesteps
    sigma = shift * u / (1.0 + (shift - 1.0) * u)
    return NoiseSchedule((1.0 - sigma).float(), sigma.float())
