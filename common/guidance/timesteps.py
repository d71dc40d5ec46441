"""The timesteps a step of score distillation may draw.

Symbols: T timesteps of a model, t in [0, T) one of them, `alpha_t` and `sigma_t` its noise level
(`x_t = alpha_t x + sigma_t eps`), i of N the steps of a run. Shares of T are in [0, 1].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..priors.noise import NoiseSchedule
from ..schedules import timestep_range


def sample_timesteps(
    timesteps: int, t_min: float, t_max: float, count: int, generator: torch.Generator
) -> Tensor:
    """`count` timesteps drawn evenly between two shares of T, both ends included.

    DreamFusion (Poole 2022) draws t ~ U(0.02, 0.98). Equal ends give that one timestep.
    Returns int64 `[count]` in [0, T) on the generator's device.
    Raises ValueError unless 0 <= t_min <= t_max <= 1.
    """
    low, high = (
        share_to_timestep(share, timesteps) for share in timestep_range(t_min, t_max, step=0)
    )
    return torch.randint(low, high + 1, (count,), generator=generator, device=generator.device)


def share_to_timestep(share: float, timesteps: int) -> int:
    """The timestep in [0, T) nearest to a share of T."""
    return min(max(round(share * timesteps), 0), timesteps - 1)


def sqrt_annealing(step: int, steps: int, start: float = 0.98, end: float = 0.30) -> float:
    """HiFA's share of T at a step, `start - (start - end) sqrt(i / N)` (Zhu 2023).

    Fast where the noise is high, slow where details form. The step is clamped to [0, N].
    Raises ValueError for steps < 1.
    """
    if steps < 1:
        raise ValueError(f"steps: expected at least 1, got {steps}")
    return start - (start - end) * math.sqrt(min(max(step / steps, 0.0), 1.0))


def dreamtime_timesteps(
    schedule: NoiseSchedule,
    steps: int,
    t_min: float = 0.02,
    t_max: float = 0.98,
    knees: tuple[float, float] = (0.8, 0.5),
    widths: tuple[float, float] = (0.3, 0.1),
) -> Tensor:
    """DreamTime's timestep for each step of a run, never growing (TP-SDS, Huang 2023).

    The share of the run spent above timestep t is the share of W = W_d W_p above t, with
    `W_d = sigma / alpha` and W_p flat between the knees, falling like a Gaussian of the first width
    above the first knee and of the second width below the second. Knees and widths are shares of T
    (the paper's 800, 500, 300, 100 of 1000). Ours restricts the sum to [t_min, t_max], so that
    schedules whose last level has no signal keep a finite weight.

    Returns int64 `[steps]`. Raises ValueError for steps < 1 or a level without signal in the range.
    """
    if steps < 1:
        raise ValueError(f"steps: expected at least 1, got {steps}")
    total = len(schedule)
    low, high = (share_to_timestep(s, total) for s in timestep_range(t_min, t_max, step=0))
    t = torch.arange(low, high + 1)
    alpha, sigma = schedule.alpha.cpu()[t].double(), schedule.sigma.cpu()[t].double()
    if bool((alpha <= 0).any()):
        raise ValueError(f"t_max: expected levels with some signal, got alpha 0 below {t_max}")
    share = t.double() / total
    above = (share - knees[0]).clamp(min=0.0) / widths[0]
    below = (knees[1] - share).clamp(min=0.0) / widths[1]
    weight = sigma / alpha * torch.exp(-0.5 * (above**2 + below**2))
    tail = weight.flip(0).cumsum(0).flip(0) / weight.sum()
    wanted = torch.arange(steps, dtype=torch.float64) / steps
    nearest = (tail[None, :] - wanted[:, None]).abs().argmin(dim=1)
    return t[nearest]
