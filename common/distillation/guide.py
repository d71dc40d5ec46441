"""One step of guidance: from rendered views to a loss whose gradient is the prior's opinion."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from common.cameras import Cameras
from common.config import DistillationConfig
from common.distillation.losses import Distillation, distillation_gradient
from common.priors.base import Prior
from common.schedules import sample_timesteps, timestep_range


@dataclass(frozen=True)
class Guided:
    """loss: a scalar whose gradient is the distillation gradient, per view.

    error: root mean square of that gradient in the model's own space, a number to watch.
    """

    loss: Tensor
    error: float


class Guide:
    """A prior, a prompt and a way of distillation, ready to judge views."""

    def __init__(self, prior: Prior, prompt: str, config: DistillationConfig) -> None:
        self.prior, self.config = prior, config
        self.text = prior.encode_text([prompt])
        self.uncond = prior.encode_text([""])

    def __call__(self, image: Tensor, cameras: Cameras, step: int) -> Guided:
        """Judge views `[B, H, W, 3]` seen from B cameras at `step` of the run."""
        x = self.prior.encode_image(image)
        count = x.shape[0]
        low, high = timestep_range(self.config.t_min, self.config.t_max, step)
        t = sample_timesteps(len(self.prior.schedule), low, high, count, torch.default_generator)
        noise = torch.randn(x.shape).to(x)
        ctx = Distillation(
            prior=self.prior,
            text=self.text.select([0] * count),
            uncond=self.uncond.select([0] * count),
            camera=cameras,
            guidance_scale=self.config.guidance_scale,
            weight=self.config.weight,
        )
        gradient = distillation_gradient(self.config.loss, x, t.to(x.device), noise, ctx)
        return Guided((x * gradient).sum() / count, float(gradient.pow(2).mean().sqrt()))
