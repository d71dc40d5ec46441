"""What all distillation losses share: the options, the weight w(t), and what a loss gives back.

A loss is one file: a frozen `Distillation` with its own options and the values it was published
with, and `gradient(x, image, t, noise, ask)`, what the prior makes of a render, as a gradient. x is
what `Prior.encode_image` made of the render `image` `[B, H, W, 3]`, `[B, C, h, w]`; t int64 `[B]`;
noise is standard normal and shaped like x. The caller takes no gradient through it and applies
what comes back as `(x * gradient.x).sum() / B`, so that it reaches the scene through the renderer
and the image encoder, never through the prior. What a loss may know of prior and prompt it asks
`ask` for (`guidance.ask.Ask`).

Symbols: `x_t = alpha x + sigma e`, e the noise, e_y / e_0 / e_n the prior's noise with the prompt,
without text and with the negative prompt, `e^s = e_0 + s (e_y - e_0)` the guided one,
`x0_hat = (x_t - sigma e_hat) / alpha`, w(t) the weight. A negative prompt takes the place of e_0 in
e^s wherever a loss has no e_n of its own, as diffusers has it.

These files import no torch: the configuration reads them, and is to answer at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, assert_never

from pydantic import model_validator

from ..options import Fraction, Part, Schedule, steps_of, values_of
from ..schedules import timestep_range

if TYPE_CHECKING:
    from torch import Tensor

    from ..guidance.ask import Ask

WeightKind = Literal["sigma2", "one", "alpha_sigma", "signal"]


class Gradient(NamedTuple):
    """What a loss wants of a render.

    x: with respect to x, shaped like it. image: with respect to the render itself, `[B, H, W, 3]`,
    for losses that look at pixels beside latents; None for the others.
    """

    x: Tensor
    image: Tensor | None = None


class Distillation(Part):
    """How a prior's opinion becomes a gradient: the options that every loss has."""

    shorthand: ClassVar[str | None] = "loss"
    needs_signal: ClassVar[bool] = False
    """Whether the loss divides by alpha, and so can't take levels without any signal."""

    loss: str
    guidance_scale: Schedule
    """Scale of classifier-free guidance, 1 is none; null is what the loss was published with."""
    weight: WeightKind
    """w(t); null is what the loss was published with."""
    t_min: Schedule = 0.02
    """Lowest noise level, as a share of the prior's timesteps."""
    t_max: Schedule = 0.98
    timesteps: Literal["uniform", "sqrt", "dreamtime"] = "uniform"
    """Drawn between t_min and t_max; or annealed from t_max to `sqrt_end` by the square root of
    the step (HiFA); or falling from t_max to t_min by DreamTime's weights."""
    sqrt_end: Fraction = 0.3
    noise_of: Literal["view", "step", "run"] = "view"
    """Whether each view has its own noise, all views of a step share one, or all of the run."""
    clip: Schedule | None = None
    """Limit of the gradient's size; null is none."""
    clip_by: Literal["norm", "value"] = "norm"
    """Root mean square of a view's gradient, or each of its elements."""

    @model_validator(mode="before")
    @classmethod
    def _null_is_the_default(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {key: value for key, value in values.items() if value is not None}

    @model_validator(mode="after")
    def _ordered(self) -> Distillation:
        for step in steps_of(self.t_min, self.t_max):
            timestep_range(self.t_min, self.t_max, step)
        if self.clip is not None and any(value <= 0 for value in values_of(self.clip)):
            raise ValueError("clip: expected positive limits")
        return self

    def gradient(self, x: Tensor, image: Tensor, t: Tensor, noise: Tensor, ask: Ask) -> Gradient:
        """The gradient of the loss for one batch of views."""
        raise NotImplementedError


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
            return sigma.new_ones(sigma.shape)
        case "alpha_sigma":
            return alpha * sigma
        case "signal":
            return sigma / alpha
        case _:
            assert_never(kind)
