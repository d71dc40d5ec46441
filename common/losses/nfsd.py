"""Noise-free score distillation (Katzir 2023)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ..options import Fraction, Schedule
from .base import Distillation, Gradient, WeightKind

if TYPE_CHECKING:
    from torch import Tensor

    from ..guidance.ask import Ask


class NFSD(Distillation):
    """Noise-free score distillation: `w(t) [s (e_y - e_0) + d]` (Katzir 2023, eq. 6).

    The domain correction d is e_0 for t < 0.2 T and e_0 - e_n above, so that no noise is left in
    it. Ours takes d = 0 above when no negative prompt is given. With Perp-Neg its push is added to
    `e_y - e_0`.
    """

    loss: Literal["nfsd"] = "nfsd"
    guidance_scale: Schedule = 7.5
    weight: WeightKind = "sigma2"
    threshold: Fraction = 0.2
    """Share of T below which e_0 itself is the domain correction."""

    def gradient(self, x: Tensor, image: Tensor, t: Tensor, noise: Tensor, ask: Ask) -> Gradient:
        x_t = ask.add_noise(x, noise, t)
        e = ask.noise(x_t, t, "wanted", "empty", "negative")
        e_0 = e["empty"]
        above = e_0 - e["negative"] if "negative" in e else e_0.new_zeros(e_0.shape)
        low = (t < self.threshold * len(ask.schedule)).reshape(-1, *(1,) * (x.ndim - 1))
        domain = e_0.where(low, above)
        return Gradient(ask.weight(t, x) * (ask.scale * ask.direction(e, e_0) + domain))
