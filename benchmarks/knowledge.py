"""How well a learned prior knows the toybox: what it makes of noised views, and what it samples.

The toybox's truth is the yardstick: a prior that knew it would give back the very view.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..embedded.training.data import View, take_pictures, view_cameras
from ..guidance.losses import Distillation, ddim_denoise
from ..guidance.prompts import view_phrase
from ..guidance.timesteps import share_to_timestep
from ..priors.base import Prior
from ..priors.pretrained import PretrainedPrior


def true_views(views: list[View], resolution: int) -> Tensor:
    """Photographs `[N, resolution, resolution, 3]` of views, in [0, 1]."""
    return take_pictures(views, resolution).float() / 255.0


@torch.no_grad()
def denoised(
    prior: Prior, images: Tensor, views: list[View], share: float, told: bool, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """What a prior takes the clean x for, and the true x, both `[N, C, h, w]`.

    images: photographs of the views. share: the noise level as a share of the timesteps.
    told: the camera is told; else the text names the view. No guidance.
    """
    x = prior.encode_image(images)
    t = torch.full((len(x),), share_to_timestep(share, len(prior.schedule)))
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
    alpha, sigma = prior.schedule.at(t)
    x_t = prior.schedule.add_noise(x, noise, t)
    text = prior.encode_text(texts_of(views, told))
    eps = prior.predict_noise(x_t, t, text, view_cameras(views) if told else None)
    return (x_t - sigma * eps) / alpha, x


@torch.no_grad()
def sample(
    prior: PretrainedPrior,
    views: list[View],
    told: bool = True,
    steps: int = 30,
    scale: float = 2.0,
    seed: int = 0,
) -> Tensor:
    """Samples `[N, H, W, 3]` in [0, 1] of views' captions and cameras, by DDIM under guidance."""
    shape = (len(views), *prior.latent_shape)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    t = torch.full((len(views),), len(prior.schedule) - 1)
    empty = prior.encode_text([""] * len(views))
    context = Distillation(
        prior=prior,
        text=prior.encode_text(texts_of(views, told)),
        uncond=empty,
        negative=empty,
        camera=view_cameras(views) if told else None,
        guidance_scale=scale,
    )
    x = ddim_denoise(noise, t, steps, scale, context)
    if prior.space == "latent":
        return prior.decode_image(x)
    return (0.5 * x + 0.5).clamp(0.0, 1.0).permute(0, 2, 3, 1)


def texts_of(views: list[View], told: bool) -> list[str]:
    """The captions of views, with the view's name where the camera isn't told."""
    captions = [view.caption.text for view in views]
    if told:
        return captions
    names = [view_phrase(view.azimuth, view.elevation) for view in views]
    return [f"{caption}, {name}" for caption, name in zip(captions, names, strict=True)]
