"""Score distillation via inversion (Lukoianov 2024)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal, assert_never

from ..options import Count, Fraction, Schedule
from .base import Distillation, Gradient, WeightKind
from .ddim import ddim_invert

if TYPE_CHECKING:
    from torch import Tensor

    from ..guidance.ask import Ask


class SDI(Distillation):
    """Score distillation via inversion: `w(t) (e^s(x_t) - kappa)` (Lukoianov 2024, eq. 10).

    With the published w = sigma / alpha it is `x - x0_hat(x_t)`. kappa is the noise that leads from
    x to x_t:
        "inversion": by DDIM inversion at guidance -7.5, 10 steps over the whole of T and
            proportionally fewer below; `noise` is not used (sec. 5).
        "fixed_point": the solution of `kappa = e^s(alpha x + sigma kappa)` at t + gap (eq. 8),
            iterated from `noise`. Solved exactly, a step of size 1 on an image is a step of DDIM
            from t + gap to t. It converges where the prior's noise is a contraction; a network's
            rarely is, and the paper prefers the inversion.
    Ours takes the same number of steps for all rows, from the largest t of the batch.
    """

    needs_signal: ClassVar[bool] = True

    loss: Literal["sdi"] = "sdi"
    guidance_scale: Schedule = 7.5
    weight: WeightKind = "signal"
    noise: Literal["inversion", "fixed_point"] = "inversion"
    """How the noise is found: by DDIM inversion, or as a fixed point at time t + gap."""
    steps: Count = 10
    """Inversion steps over the whole of T, or iterations of the fixed point."""
    inversion_scale: float = -7.5
    """Guidance of the inversion."""
    gap: Fraction = 0.05
    """A share of T."""

    def gradient(self, x: Tensor, image: Tensor, t: Tensor, noise: Tensor, ask: Ask) -> Gradient:
        schedule = ask.schedule
        alpha, sigma = ask.levels(t, x)
        match self.noise:
            case "inversion":
                latest = ask.latest_of(t)
                steps = max(1, math.ceil(self.steps * (latest + 1) / len(schedule)))
                x_t = ddim_invert(x, t, steps, self.inversion_scale, ask)
                kappa = (x_t - alpha * x) / sigma
            case "fixed_point":
                later = (t + round(self.gap * len(schedule))).clamp(max=len(schedule) - 1)
                kappa = noise
                for _ in range(self.steps):
                    kappa = ask.guided(ask.add_noise(x, kappa, later), later, ask.scale)
                x_t = alpha * x + sigma * kappa
            case _:
                assert_never(self.noise)
        return Gradient(ask.weight(t, x) * (ask.guided(x_t, t, ask.scale) - kappa))
