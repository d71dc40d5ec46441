"""Interval score matching (LucidDreamer, Liang 2023)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from ..options import Fraction, Schedule
from .base import Distillation, Gradient, WeightKind
from .ddim import ddim_invert, ddim_step

if TYPE_CHECKING:
    from torch import Tensor

    from ..guidance.ask import Ask


class ISM(Distillation):
    """Interval score matching: `w(t) (e^s(x_t) - e_0(x_s))` (LucidDreamer, Liang 2023).

    x_s with s = t - gap comes from x by DDIM inversion with the empty prompt, whatever the negative
    one, x_t from x_s by one more step of it; `noise` is not used. The released code has strides of
    200 of 1000 timesteps, a gap that falls from 100 to 80, and w = sigma / alpha; our gap is 50.
    Ours takes equal steps of at most the stride for all rows, so that rows of different t share
    one call of the prior.
    """

    loss: Literal["ism"] = "ism"
    guidance_scale: Schedule = 7.5
    weight: WeightKind = "signal"
    gap: Fraction = 0.05
    """The last step, as a share of T; at least one timestep is taken."""
    stride: Annotated[float, Field(gt=0.0, le=1.0)] = 0.2
    """Steps of the inversion, as a share of T."""

    def gradient(self, x: Tensor, image: Tensor, t: Tensor, noise: Tensor, ask: Ask) -> Gradient:
        total = len(ask.schedule)
        gap = max(1, round(self.gap * total))
        s = (t - gap).clamp(min=0)
        steps = max(1, math.ceil((ask.latest_of(t) - gap) / max(1.0, self.stride * total)))
        x_s = ddim_invert(x, s, steps, 0.0, ask, base="empty")
        e_s = ask.guided(x_s, s, 0.0, base="empty")
        x_t = ddim_step(x_s, e_s, ask.levels(s, x), ask.levels(t, x))
        return Gradient(ask.weight(t, x) * (ask.guided(x_t, t, ask.scale) - e_s))
