"""The reconstruction loss of MVDream (Shi 2023)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from ..options import Fraction, Schedule
from .base import Distillation, Gradient, WeightKind

if TYPE_CHECKING:
    from torch import Tensor

    from ..guidance.ask import Ask


class Reconstruction(Distillation):
    """Reconstruction of x: `w(t) (x - x0)`, x0 what guidance makes of `x_t` (Shi 2023, sec. 3.3).

    A high scale overshoots the colours, so x0 is brought nearer to the spread of the unguided one:
    `x0 (r std(x0_y) / std(x0) + 1 - r)`, the standard deviation over all of a group of views that
    the prior denoises together (Lin 2024, eq. 15). Without it the loss is SDS with w = sigma/alpha.
    The published weight is 1.
    """

    needs_signal: ClassVar[bool] = True

    loss: Literal["recon"] = "recon"
    guidance_scale: Schedule = 50.0
    weight: WeightKind = "one"
    rescale: Fraction = 0.5
    """Share r of the rescaled x0."""

    def gradient(self, x: Tensor, image: Tensor, t: Tensor, noise: Tensor, ask: Ask) -> Gradient:
        x_t = ask.add_noise(x, noise, t)
        alpha, sigma = ask.levels(t, x)
        x0 = (x_t - sigma * ask.guided(x_t, t, ask.scale)) / alpha
        if self.rescale > 0.0:
            plain = (x_t - sigma * ask.noise(x_t, t, "wanted")["wanted"]) / alpha
            least = 1e-12  # of a single value there is no spread
            factor = _spread(plain, ask.prior.group) / _spread(x0, ask.prior.group).clamp(min=least)
            x0 = x0 * (self.rescale * factor + 1.0 - self.rescale)
        return Gradient(ask.weight(t, x) * (x - x0))


def _spread(x: Tensor, group: int) -> Tensor:
    """The standard deviation of each run of `group` rows over all their elements, `[B, 1, ...]`."""
    runs = x.reshape(x.shape[0] // group, -1).std(dim=1, correction=0)
    return runs.repeat_interleave(group).reshape(-1, *(1,) * (x.ndim - 1))
