"""Variational score distillation (ProlificDreamer, Wang 2023)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ..options import Count, Fraction, Part, Positive, Schedule
from .base import Distillation, Gradient, WeightKind

if TYPE_CHECKING:
    from torch import Tensor

    from ..guidance.ask import Ask


class CriticConfig(Part):
    """VSD's model of the renders: the prior with a LoRA that learns in step (Wang 2023)."""

    rank: Count = 4
    layers: Literal["attention", "all"] = "attention"
    """Where the LoRA lies: on the attention's projections, or on convolutions as well."""
    learning_rate: Positive = 1e-4
    updates: Count = 1
    """Steps of learning after each step of the scene."""
    camera_dropout: Fraction = 0.1
    """Share of the updates that don't tell the critic the camera."""
    checkpoint: bool = False
    """Recompute activations in the backward pass: slower, much smaller."""


class VSD(Distillation):
    """Variational score distillation: `w(t) (e^s - e_phi)` (ProlificDreamer, Wang 2023, eq. 9).

    e_phi is the critic's noise for the same x_t, prompt and camera. With `entropy` l it is
    `l e_phi(without camera) + (1 - l) e_phi(with it)`: entropic score distillation (Wang 2024,
    "Taming Mode Collapse in Score Distillation"), which rewards views for differing; l = 0 is VSD.
    """

    loss: Literal["vsd"] = "vsd"
    guidance_scale: Schedule = 7.5
    weight: WeightKind = "sigma2"
    critic: CriticConfig = CriticConfig()
    entropy: Fraction = 0.0
    """Share of the critic's noise that isn't told the camera: pulls views apart (ESD)."""

    def gradient(self, x: Tensor, image: Tensor, t: Tensor, noise: Tensor, ask: Ask) -> Gradient:
        x_t = ask.add_noise(x, noise, t)
        e_phi = 0.0 if self.entropy == 1.0 else (1.0 - self.entropy) * ask.critic_noise(x_t, t)
        if self.entropy > 0.0:
            e_phi = e_phi + self.entropy * ask.untold_critic_noise(x_t, t)
        return Gradient(ask.weight(t, x) * (ask.guided(x_t, t, ask.scale) - e_phi))
