"""How well a learned prior knows the toybox: what it makes of noised views, and what it samples.

The toybox's truth is the yardstick: a prior that knew it would give back the very view.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from maquette.common.embedded.training.data import (
    View,
    make_toy,
    take_pictures,
    take_references,
    take_surfaces,
    view_cameras,
)
from maquette.common.guidance.ask import Ask
from maquette.common.guidance.conditions import Rows
from maquette.common.guidance.timesteps import share_to_timestep
from maquette.common.losses.ddim import ddim_denoise
from maquette.common.priors.base import Condition, Prior, Reference
from maquette.common.priors.pretrained import PretrainedPrior
from maquette.common.rasterize import rasterize
from maquette.common.scene.mesh import face_areas
from maquette.common.scene.view_words import view_phrase

SMALL_PART = 0.02
"""Share of a toy's surface below which one of its parts is a small thing: an eye, a window."""


@dataclass(frozen=True)
class Hints:
    """What a prior is told of a view beside the noise.

    camera: the view's own; without camera and picture the text names the view. surface: what the
    view sees of the true surface. picture: the view's reference image and where it was taken from.
    caption: the text.
    """

    camera: bool = True
    surface: bool = False
    picture: bool = False
    caption: bool = True


CAMERA = Hints()
BLIND = Hints(camera=False)


def true_views(views: list[View], resolution: int) -> Tensor:
    """Photographs `[N, resolution, resolution, 3]` of views, in [0, 1]."""
    return take_pictures(views, resolution).float() / 255.0


@torch.no_grad()
def denoised(
    prior: Prior, images: Tensor, views: list[View], share: float, told: Hints, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """What a prior takes the clean x for, and the true x, both `[N, C, h, w]`.

    images: photographs of the views. share: the noise level as a share of the timesteps. No
    guidance.
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
    told: Hints = CAMERA,
    steps: int = 30,
    scale: float = 2.0,
    seed: int = 0,
) -> Tensor:
    """Samples `[N, H, W, 3]` in [0, 1] of views' captions and cameras, by DDIM under guidance."""
    shape = (len(views), *prior.latent_shape)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(prior.device)
    t = torch.full((len(views),), len(prior.schedule) - 1, device=prior.device)
    wanted = condition(prior, views, told, prior.device)
    empty = replace(wanted, text=prior.encode_text([""] * len(views)))
    x = ddim_denoise(noise, t, steps, scale, Ask(prior, Rows(wanted, empty)))
    return as_images(prior, x)


@torch.no_grad()
def as_images(prior: PretrainedPrior, x: Tensor) -> Tensor:
    """The images `[N, H, W, 3]` in [0, 1] that a prior's clean `x` stand for."""
    image = prior.decode_image(x)
    if image is not None:
        return image
    return (0.5 * x + 0.5).clamp(0.0, 1.0).permute(0, 2, 3, 1)


def condition(prior: Prior, views: list[View], told: Hints, device: torch.device) -> Condition:
    """What a prior is told of views."""
    cameras = view_cameras(views).to(device)
    surface = None
    if told.surface:
        side = prior.resolution if prior.space == "pixel" else prior.resolution // 8
        surface = take_surfaces(views, side).float().to(device)
    return Condition(
        prior.encode_text(texts_of(views, told)),
        cameras if told.camera else None,
        reference_of(prior, views, device) if told.picture else None,
        surface,
    )


def reference_of(prior: Prior, views: list[View], device: torch.device) -> Reference:
    """The reference images of views, in a world turned so that nobody knows where the front is.

    Raises ValueError if a view has none.
    """
    taken = [view.reference for view in views if view.reference is not None]
    if len(taken) < len(views):
        raise ValueError(f"views: expected a reference for each, got {len(taken)} of {len(views)}")
    images = take_references(views, prior.resolution).float() / 255.0
    with torch.no_grad():
        x = torch.cat([prior.encode_reference(image.to(device))[0] for image in images])
    of = view_cameras(
        [replace(v, azimuth=a, elevation=e) for v, (a, e) in zip(views, taken, strict=True)]
    )
    seen = view_cameras(views)
    start = of.azimuth.clone()
    for cameras in (of, seen):
        cameras.azimuth.sub_(start)
    return Reference(x, of.to(device), seen.to(device))


def texts_of(views: list[View], told: Hints) -> list[str]:
    """The captions of views, with the view's name where nothing tells where it is taken from."""
    if not told.caption:
        return [""] * len(views)
    captions = [view.caption.text for view in views]
    if told.camera or told.picture:
        return captions
    names = [view_phrase(view.azimuth, view.elevation) for view in views]
    return [f"{caption}, {name}" for caption, name in zip(captions, names, strict=True)]


def small_things(views: list[View], resolution: int) -> Tensor:
    """Where views see a toy's small parts, bool `[N, resolution, resolution]`."""
    masks = []
    for view in views:
        toy = make_toy(view.caption, view.instance)
        areas = face_areas(toy.mesh.vertices, toy.mesh.faces)
        parts = torch.zeros(int(toy.part_of_face.max()) + 1).index_add(0, toy.part_of_face, areas)
        small = (parts / parts.sum() < SMALL_PART)[toy.part_of_face]
        mvp = view_cameras([view]).mvp()
        raster = rasterize(toy.mesh.vertices, toy.mesh.faces, mvp, resolution, resolution)
        face = raster.face_index[0]
        masks.append((face >= 0) & small[face.clamp_min(0)])
    return torch.stack(masks)
