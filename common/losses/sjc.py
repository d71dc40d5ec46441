"""Score Jacobian chaining (Wang 2022)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from ..options import Schedule
from .base import Distillation, Gradient, WeightKind

if TYPE_CHECKING:
    from torch import Tensor

    from ..guidance.ask import Ask


class SJC(Distillation):
    """Score Jacobian chaining: `-w(t) (D - x) / s`, s = sigma / alpha (Wang 2022, eq. 16).

    D = x0_hat is the denoiser at `x_t / alpha`, the noised input of a variance-exploding model.
    Without the variance reduction x is replaced by that noised input (eq. 15); the mean is the
    same. With it, and w = 1 as published, the value equals that of SDS with w = 1.
    """

    needs_signal: ClassVar[bool] = True

    loss: Literal["sjc"] = "sjc"
    guidance_scale: Schedule = 100.0
    weight: WeightKind = "one"
    variance_reduced: bool = True
    """Subtract the noise, which has mean zero, from the score."""

    def gradient(self, x: Tensor, image: Tensor, t: Tensor, noise: Tensor, ask: Ask) -> Gradient:
        alpha, sigma = ask.levels(t, x)
        x_t = alpha * x + sigma * noise
        denoised = (x_t - sigma * ask.guided(x_t, t, ask.scale)) / alpha
        origin = x if self.variance_reduced else x_t / alpha
        return Gradient(-ask.weight(t, x) * (denoised - origin) * (alpha / sigma))
