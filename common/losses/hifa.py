"""HiFA (Zhu 2023)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from ..options import Count, Schedule
from .base import Distillation, Gradient, WeightKind
from .ddim import ddim_denoise

if TYPE_CHECKING:
    from torch import Tensor

    from ..guidance.ask import Ask


class HiFA(Distillation):
    """SDS and HiFA's extra term in pixels, `w' (|x - x_hat|^2 + lambda |I - I_hat|^2) / 2`.

    x_hat is the prior's estimate of the clean x, by `denoising_steps` steps of DDIM from x_t, I_hat
    what the decoder makes of it, and w' = w alpha / sigma (Zhu 2023). So the gradient in x is
    `w (alpha / sigma) (x - x_hat)`, with one step SDS, and `lambda w (alpha / sigma) (I - I_hat)`
    in the render. Where nothing decodes, x stands for the image: for pixel models, whose x it is
    (in their range [-1, 1]), and for latent ones with `pixels` off. The gradient is then
    `w [(e^s - e) + lambda (alpha / sigma) (x - x_hat)]`, with one step SDS once more, lambda times.

    The released code has a constant w' (w = "signal"), lambda = 0.1 and four steps, which draw
    fresh noise where ours are deterministic; our defaults, w = sigma^2, lambda = 0.01 and one step,
    keep SDS as it is beside the term in pixels. Goes with `timesteps: sqrt`.
    """

    needs_signal: ClassVar[bool] = True

    loss: Literal["hifa"] = "hifa"
    guidance_scale: Schedule = 100.0
    weight: WeightKind = "sigma2"
    image_weight: Annotated[float, Field(ge=0.0)] = 0.01
    """lambda."""
    denoising_steps: Count = 1
    pixels: bool = True
    """Decode the estimate of a latent prior, where the extra term belongs; no use to others."""

    def gradient(self, x: Tensor, image: Tensor, t: Tensor, noise: Tensor, ask: Ask) -> Gradient:
        alpha, sigma = ask.levels(t, x)
        x_t = alpha * x + sigma * noise
        e_hat = ask.guided(x_t, t, ask.scale)
        estimate = ddim_denoise(x_t, t, self.denoising_steps, ask.scale, ask, first=e_hat)
        w = ask.weight(t, x)
        decoded = ask.decoded(estimate, image) if self.pixels else None
        if decoded is None:
            extra = self.image_weight * (alpha / sigma) * (x - estimate)
            return Gradient(w * ((e_hat - noise) + extra))
        in_pixels = self.image_weight * w * (alpha / sigma) * (image - decoded)
        return Gradient(w * (alpha / sigma) * (x - estimate), in_pixels)
