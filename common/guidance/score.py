"""One step of guidance: from rendered views to a loss whose gradient is the prior's opinion."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import assert_never

import torch
from torch import Tensor

from ..config.models import DistillationConfig
from ..errors import UserError
from ..priors.base import Prior, TextEmbedding
from ..priors.memory import out_of_memory_advice
from ..priors.pretrained import PretrainedPrior, to_pixels
from ..scene.cameras import Cameras
from ..schedules import step_schedule, timestep_range
from .critic import LoraCritic
from .losses import (
    Critic,
    Distillation,
    clip_gradient,
    distillation_gradient,
    hifa_image_gradient,
    hifa_residual,
)
from .prompts import ViewPrompts
from .timesteps import dreamtime_timesteps, sample_timesteps, share_to_timestep, sqrt_annealing


@dataclass(frozen=True)
class Guided:
    """loss: a scalar whose gradient is the distillation gradient, per view.

    error: root mean square of that gradient in the model's own space, a number to watch. HiFA's
        gradient in pixels is not in it.
    """

    loss: Tensor
    error: float


class Guide:
    """A prior, a prompt and a way of distillation, ready to judge views; a `Trainable`.

    What it learns, if anything, is VSD's critic.
    """

    def __init__(
        self,
        prior: Prior,
        prompts: ViewPrompts,
        config: DistillationConfig,
        steps: int,
        tell_camera: bool = True,
        perp_neg: bool = False,
        critic: LoraCritic | None = None,
    ) -> None:
        """steps: of the stage, for schedules over its whole length.

        tell_camera: whether a prior that can be told the camera is. perp_neg: Perp-Neg in place of
        plain guidance. critic: needed by VSD alone. Raises UserError for noise levels that the
        prior doesn't have.
        """
        self.prior, self.prompts, self.config, self.steps = prior, prompts, config, steps
        self.tell_camera, self.perp_neg, self.critic = tell_camera, perp_neg, critic
        self._falling = self._dreamtime() if config.timesteps == "dreamtime" else None

    def __call__(self, image: Tensor, cameras: Cameras, step: int) -> Guided:
        """Judge views `[B, H, W, 3]` seen from B cameras at `step` of the stage.

        The critic, if there is one, learns from the same views afterwards.
        """
        x = self.prior.encode_image(image)
        count = x.shape[0]
        t = self.timesteps(step, count).to(x.device)
        noise = torch.randn(x.shape).to(x)
        ctx = self.context(cameras, step)
        limit = None if self.config.clip is None else step_schedule(self.config.clip, step)
        terms = [
            (value, clip_gradient(gradient, limit, self.config.clip_by))
            for value, gradient in self._gradients(image, x, t, noise, ctx)
        ]
        if self.critic is not None:
            self.critic.update(x, ctx.text, cameras, torch.default_generator)
        loss = torch.stack([(value * gradient).sum() for value, gradient in terms]).sum() / count
        return Guided(loss, float(terms[0][1].pow(2).mean().sqrt()))

    @property
    def decoder(self) -> PretrainedPrior | None:
        """The prior, if the loss compares its decoded estimate with the render (HiFA's pixels)."""
        wanted = self.config.loss == "hifa" and self.config.hifa_pixels
        if wanted and isinstance(self.prior, PretrainedPrior) and self.prior.vae is not None:
            return self.prior
        return None

    def timesteps(self, step: int, count: int) -> Tensor:
        """The timesteps `[count]` of a step, on the CPU: drawn, or one that falls over the run."""
        config, total = self.config, len(self.prior.schedule)
        low, high = timestep_range(config.t_min, config.t_max, step)
        match config.timesteps:
            case "uniform":
                return sample_timesteps(total, low, high, count, torch.default_generator)
            case "sqrt":
                end = min(config.sqrt_end, high)
                share = max(low, sqrt_annealing(step, self.steps, start=high, end=end))
                return torch.full((count,), share_to_timestep(share, total))
            case "dreamtime":
                assert self._falling is not None
                return self._falling[step].expand(count)
            case _:
                assert_never(config.timesteps)

    def context(self, cameras: Cameras, step: int) -> Distillation:
        """What the losses need for views from these cameras: rows of text, one a view, and options.

        CSD's progress goes from 0 to 1 over the stage unless the configuration says otherwise.
        """
        config, prompts = self.config, self.prompts
        negatives, weights = prompts.perp_neg_rows(cameras) if self.perp_neg else ((), None)
        progress = min(1.0, step / max(1, self.steps - 1))
        if config.csd_progress is not None:
            progress = step_schedule(config.csd_progress, step)
        scale = config.guidance_scale
        return Distillation(
            prior=self.prior,
            text=prompts.rows(cameras),
            uncond=prompts.unconditional_rows(cameras),
            negative=prompts.negative_rows(cameras),
            camera=cameras if self.tell_camera else None,
            guidance_scale=None if scale is None else step_schedule(scale, step),
            weight=config.weight,
            perp_neg_texts=negatives,
            perp_neg_weights=weights,
            critic=None if self.critic is None else _CriticAt(self.critic, cameras),
            sjc_variance_reduced=config.sjc_variance_reduced,
            nfsd_threshold=config.nfsd_threshold,
            csd_progress=progress,
            ism_gap=config.ism_gap,
            ism_stride=config.ism_stride,
            sdi_noise=config.sdi_noise,
            sdi_steps=config.sdi_steps,
            sdi_inversion_scale=config.sdi_inversion_scale,
            sdi_gap=config.sdi_gap,
            hifa_weight=config.hifa_weight,
            hifa_steps=config.hifa_steps,
        )

    @contextmanager
    def memory_advice(self) -> Iterator[None]:
        """Turn running out of the device's memory within the block into a `UserError`."""
        if isinstance(self.prior, PretrainedPrior):
            with out_of_memory_advice(self.prior.options):
                yield
        else:
            yield

    def tensors(self) -> dict[str, Tensor]:
        """The state of the critic; empty without one."""
        return {} if self.critic is None else self.critic.tensors()

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` gave; the checkpoint before the first step has nothing."""
        if self.critic is not None and tensors:
            self.critic.load(tensors)

    def _gradients(
        self, image: Tensor, x: Tensor, t: Tensor, noise: Tensor, ctx: Distillation
    ) -> list[tuple[Tensor, Tensor]]:
        """What the loss looks at and its gradient with respect to that: x, and HiFA's pixels."""
        decoder = self.decoder
        if decoder is None:
            return [(x, distillation_gradient(self.config.loss, x, t, noise, ctx))]
        gradient, estimate = hifa_residual(x, t, noise, ctx)
        pixels = to_pixels(image.to(decoder.device), decoder.resolution)
        seen = (0.5 * pixels + 0.5).permute(0, 2, 3, 1)
        in_pixels = hifa_image_gradient(seen, decoder.decode_image(estimate), t, ctx)
        return [(x, gradient), (seen, in_pixels)]

    def _dreamtime(self) -> Tensor:
        low, high = timestep_range(self.config.t_min, self.config.t_max, 0)
        try:
            return dreamtime_timesteps(self.prior.schedule, self.steps, low, high)
        except ValueError as error:
            raise UserError(f"distillation.timesteps: DreamTime cannot use {error}") from None


@dataclass(frozen=True)
class _CriticAt:
    """A critic that knows the cameras even where the prior is not told them."""

    critic: Critic
    cameras: Cameras

    def predict_noise(
        self, x_t: Tensor, t: Tensor, text: TextEmbedding, camera: Cameras | None
    ) -> Tensor:
        return self.critic.predict_noise(x_t, t, text, self.cameras)

    def update(
        self,
        x: Tensor,
        text: TextEmbedding,
        camera: Cameras | None,
        generator: torch.Generator | None,
    ) -> float:
        return self.critic.update(x, text, self.cameras, generator)
