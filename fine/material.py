"""What a surface is made of: the joint between the fine stage and its materials.

A material is a field over space that says, at a point of the surface, what is there (`Layers`); how
that looks is shading's part, and depends on the light alone. A new material is one file with one
subclass: `texture.py` is albedo alone, `pbr.py` has roughness, metal and normals of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import assert_never

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..common.config.models import FineConfig
from ..common.light.shading import lit_by_sky
from ..common.light.skies import Skies, sample_skies, studio_skies
from ..common.scene.cameras import Cameras
from ..common.scene.shading import Lights, shade
from ..common.scene.views import sample_views, studio_lights

Lighting = Lights | Skies
"""A lamp a view, or a sky a view."""


@dataclass(frozen=True)
class Layers:
    """What is at P points of a surface.

    albedo: `[P, 3]`, sRGB-encoded. normals: unit `[P, 3]`, as it is lit by. roughness, metallic:
    `[P, 1]` in [0, 1].
    """

    albedo: Tensor
    normals: Tensor
    roughness: Tensor
    metallic: Tensor


@dataclass(frozen=True)
class Finish:
    """What is exported of a material beside its albedo.

    surface: from world points `[N, 3]` to roughness and metallic `[N, 2]` in [0, 1]. bend: from
    points and unit normals to the normals that the material has there; None if it has no own.
    """

    surface: Callable[[Tensor], Tensor]
    bend: Callable[[Tensor, Tensor], Tensor] | None = None


class Material(nn.Module, ABC):
    """Called with world points `[N, 3]` it gives their albedo `[N, 3]` in [0, 1], sRGB-encoded."""

    @abstractmethod
    def forward(self, points: Tensor) -> Tensor: ...

    @abstractmethod
    def layers(self, points: Tensor, normals: Tensor) -> Layers:
        """What is at points `[P, 3]` of a surface with unit normals `[P, 3]`."""

    def finish(self) -> Finish | None:
        """What there is beside the albedo, if there is anything."""
        return None


def lit(
    material: Material,
    points: Tensor,
    normals: Tensor,
    cameras: Cameras,
    lights: Lighting,
    view: Tensor,
) -> Tensor:
    """Displayed colours `[P, 3]` of a surface's points under a lamp or a sky.

    normals: unit `[P, 3]`. view: int64 `[P]`, the row of `cameras` and `lights` of each point. A
    lamp shows albedo and normals alone. The material is a function of space: its gradient belongs
    to it, not to where the surface lies.
    """
    there = material.layers(points.detach(), normals)
    match lights:
        case Lights():
            return shade(there.albedo, there.normals, points, lights, view)
        case Skies():
            eye = F.normalize(cameras.position[view] - points, dim=-1)
            return lit_by_sky(
                there.albedo, there.roughness, there.metallic, there.normals, eye, lights, view
            )
        case _:
            assert_never(lights)


def views_of_step(
    config: FineConfig, step: int, device: torch.device, group: int
) -> tuple[Cameras, Lighting]:
    """The cameras of a training step, and what they are lit by; see `scene.views.sample_views`."""
    cameras, lights = sample_views(config.camera, config.light, config.views, step, device, group)
    if config.material == "albedo":
        return cameras, lights
    return cameras, sample_skies(config.pbr.sky, config.views, device, group)


def studio(config: FineConfig, cameras: Cameras) -> Lighting:
    """The light of pictures that people look at."""
    if config.material == "albedo":
        return studio_lights(cameras, config.light)
    return studio_skies(len(cameras), cameras.azimuth.device)
