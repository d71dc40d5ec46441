"""Classifier score distillation (Yu 2023)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import model_validator

from ..options import Schedule, values_of
from ..schedules import step_schedule
from .base import Distillation, Gradient, WeightKind

if TYPE_CHECKING:
    from torch import Tensor

    from ..guidance.ask import Ask


class CSD(Distillation):
    """Classifier score distillation: `w(t) s (e_y - (1 - p) e_0 - p e_n)` (Yu 2023).

    p goes from 0 to 1 to bring the negative prompt in; without a negative prompt e_n is e_0. The
    scale s is 1 as published: it only scales the gradient. The released code takes p from 0 to 1 in
    its first stage and from 1 to 1/2 in its second, and has w = 1 for the first stage. With
    Perp-Neg its push is added to the difference.
    """

    loss: Literal["csd"] = "csd"
    guidance_scale: Schedule = 1.0
    weight: WeightKind = "sigma2"
    progress: Schedule | None = None
    """How far the negative prompt has taken the empty one's place; null goes evenly from 0 to 1."""

    @model_validator(mode="after")
    def _shares(self) -> CSD:
        if self.progress is not None and any(
            not 0.0 <= value <= 1.0 for value in values_of(self.progress)
        ):
            raise ValueError("progress: expected values between 0 and 1")
        return self

    def gradient(self, x: Tensor, image: Tensor, t: Tensor, noise: Tensor, ask: Ask) -> Gradient:
        p = ask.progress if self.progress is None else step_schedule(self.progress, ask.step)
        x_t = ask.add_noise(x, noise, t)
        if not ask.has_negative or p == 0.0:
            e = ask.noise(x_t, t, "wanted", "empty")
            base = e["empty"]
        elif p == 1.0:
            e = ask.noise(x_t, t, "wanted", "negative")
            base = e["negative"]
        else:
            e = ask.noise(x_t, t, "wanted", "empty", "negative")
            base = (1.0 - p) * e["empty"] + p * e["negative"]
        return Gradient(ask.weight(t, x) * ask.scale * ask.direction(e, base))
