"""A picture as the judge: the view from where it was taken must look like it.

Colour, opacity and, where there are maps, depth and normals of one further view, rendered from the
picture's own camera. The losses are pure functions; a depth map has no scale, so what is compared
is its correlation or its order.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..config.image import ImageConfig, ReferenceConfig
from ..config.scene import CameraConfig
from ..device import indices_of
from ..scene.cameras import Cameras
from ..scene.images import psnr_shown
from ..schedules import step_schedule
from .judges import Judged, Unchanging, Views, advising

PAIRS = 1024
"""Pairs of pixels whose order is compared in a step."""
MARGIN = 0.05
"""By how much of the depth map's spread two pixels must differ to have an order."""


@dataclass(frozen=True)
class Portrait:
    """A picture and where it was taken from.

    rgba: straight, `[S, S, 4]` in [0, 1], sRGB. camera: one. depth: `[S, S]`, near is large, any
    scale. normal: unit vectors `[S, S, 3]` in the camera's frame: right, up, backward.
    """

    rgba: Tensor
    camera: Cameras
    depth: Tensor | None = None
    normal: Tensor | None = None

    def at(self, resolution: int) -> Portrait:
        """The same at another resolution; colours are averaged weighed with alpha."""
        alpha = self.rgba[..., 3:]
        planes = [self.rgba[..., :3] * alpha, alpha]
        for extra in (self.depth, self.normal):
            if extra is not None:
                planes.append(extra.reshape(*extra.shape[:2], -1) * alpha)
        small = _resized(torch.cat(planes, dim=-1), resolution)
        covered = small[..., 3:4].clamp_min(1e-4)
        rgba = torch.cat([small[..., :3] / covered, small[..., 3:4]], dim=-1).clamp(0.0, 1.0)
        rest = small[..., 4:] / covered
        depth = None if self.depth is None else rest[..., 0]
        normal = None if self.normal is None else F.normalize(rest[..., -3:], dim=-1)
        return Portrait(rgba, self.camera, depth, normal)

    @property
    def white(self) -> Tensor:
        """The picture `[S, S, 3]` before white, as priors are shown it."""
        return self.before(torch.ones_like(self.rgba[0, 0, :3]))

    def before(self, backdrop: Tensor) -> Tensor:
        """The picture `[S, S, 3]` before a backdrop, `[3]` or `[S, S, 3]`."""
        alpha = self.rgba[..., 3:]
        return alpha * self.rgba[..., :3] + (1.0 - alpha) * backdrop

    def to(self, device: torch.device | str) -> Portrait:
        """The same on `device`."""
        return Portrait(
            self.rgba.to(device),
            self.camera.to(device),
            None if self.depth is None else self.depth.to(device),
            None if self.normal is None else self.normal.to(device),
        )


def picture_camera(image: ImageConfig, cameras: CameraConfig, elevation: float) -> Cameras:
    """Where a picture was taken from: one camera; elevation in degrees.

    cameras: those that a frame's width is taken from. The picture's field of view is its own, or
    else the middle of theirs. Its camera stands as far away as makes the frame as wide, at the
    origin, as that of their middle one.
    """
    usual, distance = (0.5 * sum(bounds) for bounds in (cameras.fovy, cameras.distance))
    fovy = usual if image.fovy is None else image.fovy
    width = distance * math.tan(math.radians(usual) / 2)
    return Cameras(
        azimuth=torch.tensor([math.radians(image.azimuth)]),
        elevation=torch.tensor([math.radians(elevation)]),
        distance=torch.tensor([width / math.tan(math.radians(fovy) / 2)]),
        fovy=torch.tensor([math.radians(fovy)]),
    )


class ReferenceJudge(Unchanging):
    """The picture as a `Judge`: it looks at the scene from where the picture was taken."""

    group = 1

    def __init__(self, portrait: Portrait, config: ReferenceConfig, resolution: int) -> None:
        """resolution: of the view that is compared, unless the options say another."""
        self.config = config
        self.portrait = portrait.at(config.resolution or resolution)

    def __call__(self, views: Views, step: int) -> Judged:
        """The loss of the picture's view at a step; to watch: its PSNR over the whole frame.

        Raises ValueError for views that can't be looked at from elsewhere.
        """
        if views.look is None:
            raise ValueError("views: expected a way to look at the scene, got None")
        if step % self.config.every:
            return Judged(views.image.sum() * 0.0)
        portrait, config = self.portrait, self.config
        seen = views.look(self.jittered(), portrait.rgba.shape[0])
        wanted = portrait.before(seen.backdrop.detach())
        wanted = wanted if wanted.ndim == 4 else wanted[None]
        alpha = portrait.rgba[None, ..., 3]
        loss = step_schedule(config.rgb, step) * F.mse_loss(seen.image, wanted)
        loss = loss + step_schedule(config.mask, step) * F.mse_loss(seen.opacity, alpha)
        loss = loss + self.of_maps(seen, step)
        return Judged(loss, {"psnr": psnr_shown(seen.image.detach(), wanted)})

    def of_maps(self, seen: Views, step: int) -> Tensor:
        """The losses on depth and normals, where there are maps of them."""
        portrait, config = self.portrait, self.config
        total = seen.image.new_zeros(())
        if seen.geometry is None or (portrait.depth is None and portrait.normal is None):
            return total
        depth, normals = (found[0] for found in seen.geometry())
        # Where the scene has nothing yet, it has no depth to compare.
        inside = (portrait.rgba[..., 3] > config.alpha) & (seen.opacity[0].detach() > config.alpha)
        place = indices_of(inside.view(-1))
        if place.shape[0] < 2:
            return total
        if portrait.depth is not None:
            nearness, wanted = -depth.reshape(-1)[place], portrait.depth.reshape(-1)[place]
            compare = pearson_loss if config.depth_loss == "pearson" else ranking_loss
            total = total + step_schedule(config.depth, step) * compare(nearness, wanted)
        if portrait.normal is not None:
            c2w = portrait.camera.c2w[0, :3, :3]
            turned = portrait.normal.reshape(-1, 3)[place] @ c2w.T
            total = total + step_schedule(config.normal, step) * normal_loss(
                normals.reshape(-1, 3)[place], turned
            )
        return total

    def jittered(self) -> Cameras:
        """The picture's camera, a little elsewhere if the options say so."""
        camera = self.portrait.camera
        if self.config.jitter == 0.0:
            return camera
        noise = (math.radians(self.config.jitter) * torch.randn(2, 1)).to(camera.azimuth)
        return Cameras(
            camera.azimuth + noise[0], camera.elevation + noise[1], camera.distance, camera.fovy
        )

    def memory_advice(self) -> AbstractContextManager[None]:
        """Turn running out of the device's memory within the block into a `UserError`."""
        return advising(
            "the device ran out of memory; try a smaller reference.resolution, or fewer views "
            "a step"
        )


def pearson_loss(found: Tensor, wanted: Tensor) -> Tensor:
    """(1 - correlation) / 2 of two vectors `[N]`: 0 where one grows as the other does, 1 reversed.

    Neither scale nor offset plays a part (Magic123, Qian 2024, sec. 3.1).
    """
    a, b = found - found.mean(), wanted - wanted.mean()
    correlation = (a * b).sum() / (a.norm() * b.norm()).clamp_min(1e-8)
    return 0.5 * (1.0 - correlation)


def ranking_loss(found: Tensor, wanted: Tensor) -> Tensor:
    """How far pairs of a vector `[N]` are in another order than the wanted ones, at least 0.

    Pairs are drawn from torch's CPU generator; those that differ by less than `MARGIN` of the
    wanted spread don't count. The mean of `max(0, margin - (f_i - f_j) sign(w_i - w_j))`, with a
    margin that is `MARGIN` of the found spread (as NeuralLift-360 ranks depths, Xu 2023).
    """
    first, second = torch.randint(len(found), (2, PAIRS)).to(found.device)
    apart = wanted[first] - wanted[second]
    margin = MARGIN * (found.amax() - found.amin()).detach()
    counts = (apart.abs() > MARGIN * (wanted.amax() - wanted.amin())).to(found)
    late = (margin - (found[first] - found[second]) * apart.sign()).clamp_min(0.0)
    return (counts * late).sum() / counts.sum().clamp_min(1.0)


def normal_loss(found: Tensor, wanted: Tensor) -> Tensor:
    """The mean of (1 - cosine) / 2 between unit vectors `[N, 3]`."""
    return 0.5 * (1.0 - (found * wanted).sum(dim=-1)).mean()


def _resized(planes: Tensor, resolution: int) -> Tensor:
    """Planes `[S, S, C]` at another resolution, averaged."""
    if planes.shape[0] == resolution:
        return planes
    small = F.interpolate(
        planes.permute(2, 0, 1)[None], (resolution, resolution), mode="bilinear", antialias=True
    )
    return small[0].permute(1, 2, 0)
