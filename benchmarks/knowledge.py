"""How well a learned prior knows the toybox: what it makes of noised views, and what it samples.

The toybox's truth is the yardstick: a prior that knew it would give back the very view.
"""

from __future__ import annotations

import torch
from torch import Tensor

from maquette.common.embedded.training.data import View, take_pictures, view_cameras
from maquette.common.guidance.ask import Ask
from maquette.common.guidance.conditions import Rows
from maquette.common.guidance.timesteps import share_to_timestep
from maquette.common.losses.ddim import ddim_denoise
from maquette.common.priors.base import Condition, Prior
from maquette.common.priors.pretrained import PretrainedPrior
from maquette.common.scene.view_words import view_phrase


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
    t = torch.full((len(x),), share_to_timestep(share, len(prior.schedule)), device=x.device)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)).to(x)
    alpha, sigma = prior.schedule.at(t)
    x_t = prior.schedule.add_noise(x, noise, t)
    eps = prior.predict_noise(x_t, t, condition(prior, views, told, x.device))
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
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(prior.device)
    t = torch.full((len(views),), len(prior.schedule) - 1, device=prior.device)
    wanted = condition(prior, views, told, prior.device)
    empty = Condition(prior.encode_text([""] * len(views)), wanted.cameras)
    x = ddim_denoise(noise, t, steps, scale, Ask(prior, Rows(wanted, empty)))
    image = prior.decode_image(x)
    if image is not None:
        return image
    return (0.5 * x + 0.5).clamp(0.0, 1.0).permute(0, 2, 3, 1)


def condition(prior: Prior, views: list[View], told: bool, device: torch.device) -> Condition:
    """What a prior is told of views: caption and camera, or a caption that names the view."""
    cameras = view_cameras(views).to(device) if told else None
    return Condition(prior.encode_text(texts_of(views, told)), cameras)


def texts_of(views: list[View], told: bool) -> list[str]:
    """The captions of views, with the view's name where the camera isn't told."""
    captions = [view.caption.text for view in views]
    if told:
        return captions
    names = [view_phrase(view.azimuth, view.elevation) for view in views]
    return [f"{caption}, {name}" for caption, name in zip(captions, names, strict=True)]
