"""Score distillation sampling (DreamFusion, Poole 2022)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ..options import Schedule
from .base import Distillation, Gradient, WeightKind

if TYPE_CHECKING:
    from torch import Tensor

    from ..guidance.ask import Ask


class SDS(Distillation):
    """Score distillation sampling: `w(t) (e^s - e)` (DreamFusion, Poole 2022, eq. 3).

    The paper's omega = 100 stands in `(1 + omega) e_y - omega e_0`, which is s = 101 here.
    """

    loss: Literal["sds"] = "sds"
    guidance_scale: Schedule = 101.0
    weight: WeightKind = "sigma2"

    def gradient(self, x: Tensor, image: Tensor, t: Tensor, noise: Tensor, ask: Ask) -> Gradient:
        x_t = ask.add_noise(x, noise, t)
        return Gradient(ask.weight(t, x) * (ask.guided(x_t, t, ask.scale) - noise))
