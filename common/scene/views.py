"""Drawing the training views: cameras and their lamps.

All draws come from torch's CPU generator, in a fixed order, so that the same seed gives the same
views on every device and a resumed run draws what the uninterrupted one would have drawn.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import ranks
from ..config.scene import CameraConfig, LightConfig
from ..schedules import step_schedule
from .azimuths import narrowed, weighted
from .cameras import Cameras
from .shading import ALBEDO, LAMBERTIAN, TEXTURELESS, Lights, headlights


def sample_views(
    camera: CameraConfig,
    light: LightConfig,
    count: int,
    step: int,
    device: torch.device,
    group: int = 1,
) -> tuple[Cameras, Lights]:
    """The `count` cameras and lamps of a training step, drawn on the CPU, moved to `device`.

    Of several processes at a run each gets its own rows. group: how many views in a row belong
    together; see `around`.
    """
    cameras = around(sample_cameras(camera, count // group, step), group)
    lights = sample_lights(light, cameras, step)
    own = ranks.rows(len(cameras))
    return cameras[own].to(device), lights.rows(own).to(device)


def sample_cameras(config: CameraConfig, count: int, step: int = 0) -> Cameras:
    """`count` random cameras: stratified azimuths; elevations uniform in angle or on the sphere.

    step: of the stage, for azimuths from an arc that widens.
    """
    low, high = (math.radians(e) for e in config.elevation)
    # One azimuth in each of `count` equal sectors, so that a batch always looks all around.
    turn = torch.rand(1)
    azimuth = (torch.arange(count) + torch.rand(count)) / count + turn
    width = step_schedule(config.azimuth_width, step)
    if config.azimuth_weights:
        azimuth = weighted(azimuth, config.azimuth_weights, width)
    else:
        azimuth = narrowed(azimuth, width)
    share = torch.rand(count)
    in_angle = low + share * (high - low)
    on_sphere = torch.asin(math.sin(low) + share * (math.sin(high) - math.sin(low)))
    uniform = torch.rand(count) < config.uniform_share
    return Cameras(
        azimuth=torch.remainder(azimuth, 1.0) * (2 * math.pi),
        elevation=torch.where(uniform, on_sphere, in_angle),
        distance=_uniform(config.distance, count),
        fovy=_uniform((math.radians(config.fovy[0]), math.radians(config.fovy[1])), count),
    )


def around(cameras: Cameras, group: int) -> Cameras:
    """For each camera, `group` of them evenly around the object, the first one itself.

    They share elevation, distance and field of view: what a prior that denoises several views
    jointly wants to see.
    """
    if group == 1:
        return cameras
    turns = torch.arange(group).repeat(len(cameras)) * (2 * math.pi / group)
    every = cameras[torch.arange(len(cameras)).repeat_interleave(group)]
    azimuth = torch.remainder(every.azimuth + turns.to(every.azimuth), 2 * math.pi)
    return Cameras(azimuth, every.elevation, every.distance, every.fovy)


def sample_lights(config: LightConfig, cameras: Cameras, step: int) -> Lights:
    """Lamps for `cameras` (CPU) at `step`: which kind of shading, where the lamp is, how strong."""
    count = len(cameras)
    if config.kind == "camera":
        position = cameras.position
    else:
        axis = F.normalize(cameras.position, dim=-1)
        towards = directions_in_cone(axis, math.radians(config.cone))
        position = towards * _uniform(config.distance, count)[:, None]
    ambient = _uniform(config.ambient, count)
    draw = torch.rand(count)
    mode = torch.full((count,), LAMBERTIAN)
    mode[draw < config.shares[0] + config.shares[1]] = TEXTURELESS
    mode[draw < config.shares[0]] = ALBEDO
    if step < config.albedo_steps:
        mode = torch.full((count,), ALBEDO)
    return Lights(position, ambient, mode)


def directions_in_cone(axis: Tensor, angle: float) -> Tensor:
    """Unit vectors, uniform in the cone of half-angle `angle` (radians) around `axis` `[B, 3]`."""
    count = axis.shape[0]
    cosine = 1.0 - torch.rand(count) * (1.0 - math.cos(angle))
    sine = (1.0 - cosine**2).clamp_min(0.0).sqrt()
    turn = torch.rand(count) * (2 * math.pi)
    # Any vector not parallel to the axis gives a frame around it.
    helper = torch.where(
        axis[:, 2:].abs() < 0.9, torch.tensor([0.0, 0.0, 1.0]), torch.tensor([1.0, 0.0, 0.0])
    )
    u = F.normalize(torch.linalg.cross(axis, helper), dim=-1)
    v = torch.linalg.cross(axis, u)
    around = turn.cos()[:, None] * u + turn.sin()[:, None] * v
    return cosine[:, None] * axis + sine[:, None] * around


def picture_lights(config: LightConfig, cameras: Cameras, step: int) -> Lights:
    """How a scene is lit at a step where it is compared with a picture; draws nothing.

    Under a lamp in the camera it is, as the stage's views are once they are shaded; nothing is
    known of a picture's lamp where the views' own is random, so there it is the albedo.
    """
    lights = headlights(cameras.position, sum(config.ambient) / 2)
    shaded = config.kind == "camera" and config.shares[2] > 0.0 and step >= config.albedo_steps
    return lights if shaded else replace(lights, mode=torch.full_like(lights.mode, ALBEDO))


def studio_lights(cameras: Cameras, config: LightConfig) -> Lights:
    """Headlights of a stage's mean ambient share, for pictures that people look at."""
    return headlights(cameras.position, sum(config.ambient) / 2)


def _uniform(bounds: tuple[float, float], count: int) -> Tensor:
    return bounds[0] + torch.rand(count) * (bounds[1] - bounds[0])
