"""What changes over a run and over the noise levels, as pure functions.

Step schedules of the configuration, the timesteps a step of score distillation may draw, the weight
w(t) of its gradient, and the noise schedules of the common model families.

Symbols: T timesteps of a model, t in [0, T) one of them, `alpha_t` and `sigma_t` its noise level
(`x_t = alpha_t x + sigma_t eps`), i of N the steps of a run. Shares of T are in [0, 1].
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal, assert_never

import torch
from torch import Tensor

from common.priors.base import NoiseSchedule

Schedule = float | Sequence[tuple[float, float]]
"""A number, or [step, value] pairs joined by straight lines and constant outside them."""

WeightKind = Literal["sigma2", "one", "alpha_sigma", "signal"]


def step_schedule(points: Schedule, step: int) -> float:
    """The value of a schedule at a step: `[[0, 10], [5000, 1000]]` goes from 10 to 1000.

    points: a number, or pairs with strictly growing steps. Before the first pair and after the last
    one the value stays. Raises ValueError for no pairs, or steps that do not grow.
    """
    if isinstance(points, int | float):
        return float(points)
    if len(points) == 0:
        raise ValueError("points: expected a number or at least one [step, value] pair, got none")
    steps = [float(s) for s, _ in points]
    if any(b <= a for a, b in itertools.pairwise(steps)):
        raise ValueError(f"points: expected strictly growing steps, got {steps}")
    if step <= steps[0]:
        return float(points[0][1])
    for (s0, v0), (s1, v1) in itertools.pairwise(points):
        if step < s1:
            return float(v0 + (v1 - v0) * (step - s0) / (s1 - s0))
    return float(points[-1][1])


def timestep_range(t_min: Schedule, t_max: Schedule, step: int) -> tuple[float, float]:
    """The shares of T between which a step draws its timesteps.

    Raises ValueError unless 0 <= t_min <= t_max <= 1 at that step.
    """
    low, high = step_schedule(t_min, step), step_schedule(t_max, step)
    if not 0.0 <= low <= high <= 1.0:
        raise ValueError(
            f"t_min, t_max: expected 0 <= t_min <= t_max <= 1, got {low} and {high} at step {step}"
        )
    return low, high


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


def weight(kind: WeightKind, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The weight w(t) of a distillation gradient that is written in noise units.

    "sigma2": sigma^2, DreamFusion's choice (Poole 2022, sec. 3.2).
    "one": 1.
    "alpha_sigma": alpha sigma, which is symmetric in signal and noise and vanishes at both ends.
    "signal": sigma / alpha, which cancels the scale of the noise: `w (e_hat - e) = x - x0_hat`.
        It has no bound where alpha goes to 0; keep t below T there.
    """
    match kind:
        case "sigma2":
            return sigma**2
        case "one":
            return torch.ones_like(sigma)
        case "alpha_sigma":
            return alpha * sigma
        case "signal":
            return sigma / alpha
        case _:
            assert_never(kind)


def cosine_schedule(timesteps: int) -> NoiseSchedule:
    """The cosine schedule with betas capped at 0.999 (Nichol 2021, eq. 17); DeepFloyd IF's."""
    edge = torch.arange(timesteps + 1, dtype=torch.float64) / timesteps
    alpha_bar = torch.cos((edge + 0.008) / 1.008 * (math.pi / 2)) ** 2
    return _from_betas((1.0 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=0.999))


def linear_schedule(timesteps: int, first: float = 1e-4, last: float = 0.02) -> NoiseSchedule:
    """Betas on a straight line (DDPM, Ho 2020, sec. 4).

    The ends are those of T = 1000. Fewer timesteps keep the ends, and so end with less noise.
    """
    return _from_betas(torch.linspace(first, last, timesteps, dtype=torch.float64))


def scaled_linear_schedule(
    timesteps: int, first: float = 0.00085, last: float = 0.012
) -> NoiseSchedule:
    """Betas whose square roots are on a straight line (Stable Diffusion, Rombach 2022)."""
    root = torch.linspace(first**0.5, last**0.5, timesteps, dtype=torch.float64)
    return _from_betas(root**2)


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


def _from_betas(betas: Tensor) -> NoiseSchedule:
    alpha_bar = torch.cumprod(1.0 - betas, dim=0)
    return NoiseSchedule(alpha_bar.sqrt().float(), (1.0 - alpha_bar).sqrt().float())
