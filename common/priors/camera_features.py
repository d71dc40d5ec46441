"""What the embedded networks are told beside text and time: cameras, a reference image, rays.

A U-Net built with `class_embed_type="projection"` and 22 inputs adds a small network of them to its
time embedding: twelve numbers of the view's camera, ten of where it lies as seen from the camera of
a reference image. All zeros stand for "not told". Further input channels hold that image and a map
of the view's rays, so that a convolution knows where in space it looks. U-Nets with twelve inputs
and no further channels are told the camera alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..scene.cameras import Cameras
from .base import Reference

HARMONICS = 3
FEATURES = 4 * HARMONICS
RELATIVE = 2 * HARMONICS + 4
LABELS = FEATURES + RELATIVE
PERIODS = (0.6, 0.3)
"""World units after which the waves of `ray_map` repeat; the toybox's stripes do after 0.3."""
RAYS = 6 + 6 * len(PERIODS)


def camera_features(cameras: Cameras) -> Tensor:
    """Sines and cosines of 1, 2 and 3 times azimuth and elevation, `[B, 12]`.

    Columns, three each by multiple: sin(k azimuth), cos(k azimuth), sin(k elevation),
    cos(k elevation). Values lie in [-1, 1] and no camera is all zeros.
    """
    multiples = torch.arange(1, HARMONICS + 1, device=cameras.azimuth.device)
    azimuth = cameras.azimuth[:, None] * multiples  # [B, 3]
    elevation = cameras.elevation[:, None] * multiples
    return torch.cat([azimuth.sin(), azimuth.cos(), elevation.sin(), elevation.cos()], dim=-1)


def relative_features(cameras: Cameras, reference: Cameras) -> Tensor:
    """Where views lie as seen from the camera of a reference image, `[B, 10]`.

    Columns: sines, then cosines of 1, 2 and 3 times azimuth minus the reference's azimuth; sine and
    cosine of the view's elevation, then of the reference's.
    """
    multiples = torch.arange(1, HARMONICS + 1, device=cameras.azimuth.device)
    turn = (cameras.azimuth - reference.azimuth)[:, None] * multiples
    heights = [e for c in (cameras, reference) for e in (c.elevation.sin(), c.elevation.cos())]
    return torch.cat([turn.sin(), turn.cos(), torch.stack(heights, dim=-1)], dim=-1)


def ray_map(cameras: Cameras, side: int) -> Tensor:
    """The rays of a view's `side` x `side` pixels, `[B, RAYS, side, side]`.

    Channels: of each ray the point nearest to the origin (world units, 3), its unit direction (3),
    and sines and cosines of that point's coordinates over each of `PERIODS`.
    """
    origins, directions = cameras.rays(side, side)
    along = (origins * directions).sum(dim=-1, keepdim=True)
    nearest = origins - along * directions
    waves = [2.0 * math.pi / period * nearest for period in PERIODS]
    parts = [nearest, directions, *(f for w in waves for f in (w.sin(), w.cos()))]
    return torch.cat(parts, dim=-1).permute(0, 3, 1, 2)


def told_inputs(
    side: int, cameras: Cameras, told: Tensor, views: Cameras, reference: Cameras, related: Tensor
) -> tuple[Tensor, Tensor]:
    """Class labels `[B, LABELS]` and ray maps `[B, RAYS, side, side]` of B views.

    cameras: of the views; told: `[B]`, 1 where they are told, else 0. views, reference: cameras of
    the views and of the reference images in one frame; related: `[B]`, whether their relation is
    told. The rays are those of the camera; where only the relation is told, of a world turned so
    that the reference looks from azimuth 0; zeros where neither is.
    """
    labels = torch.cat(
        [
            camera_features(cameras) * told[:, None],
            relative_features(views, reference) * related[:, None],
        ],
        dim=-1,
    )
    turned = views.azimuth - reference.azimuth
    seen = Cameras(
        torch.where(told > 0, cameras.azimuth, turned),
        torch.where(told > 0, cameras.elevation, views.elevation),
        torch.where(told > 0, cameras.distance, views.distance),
        torch.where(told > 0, cameras.fovy, views.fovy),
    )
    known = torch.maximum(told, related)
    return labels, ray_map(seen, side) * known[:, None, None, None]


def reads_camera(config: Mapping[str, Any]) -> bool:
    """Whether a U-Net of this diffusers configuration takes `camera_features` as class labels."""
    return config.get("class_embed_type") == "projection" and config.get(
        "projection_class_embeddings_input_dim"
    ) in (FEATURES, LABELS)


def reads_reference(config: Mapping[str, Any]) -> bool:
    """Whether a U-Net also takes a reference image and rays as further input channels."""
    return (
        reads_camera(config)
        and config.get("projection_class_embeddings_input_dim") == LABELS
        and config.get("in_channels") == 2 * config.get("out_channels", 0) + RAYS
    )


def unet_inputs(
    config: Mapping[str, Any],
    x_t: Tensor,
    cameras: Cameras | None = None,
    reference: Reference | None = None,
) -> tuple[Tensor, Tensor | None]:
    """What a U-Net of this diffusers configuration takes for `x_t` `[B, C, h, w]`, and its labels.

    cameras: of the views, None for not told. reference: for networks that take none it plays no
    part. A U-Net that can't be told the camera takes `x_t` as it is.
    """
    if reads_reference(config):
        return with_reference(x_t, cameras, reference)
    if not reads_camera(config):
        return x_t, None
    if cameras is None:
        return x_t, x_t.new_zeros(len(x_t), FEATURES)
    return x_t, camera_features(cameras).to(x_t)


def with_reference(
    x_t: Tensor, cameras: Cameras | None, reference: Reference | None
) -> tuple[Tensor, Tensor]:
    """The input `[B, 2C + RAYS, h, w]` and the class labels of a U-Net that `reads_reference`.

    x_t: `[B, C, h, w]`. cameras: of the views, or None if they aren't told. reference: pictures of
    the object, or None. What isn't told is zeros.
    """
    one = torch.ones(len(x_t), device=x_t.device)
    none = torch.zeros_like(one)
    nowhere = Cameras(none, none, one, one)
    labels, rays = told_inputs(
        x_t.shape[-1],
        nowhere if cameras is None else cameras.to(x_t.device),
        none if cameras is None else one,
        nowhere if reference is None else reference.views.to(x_t.device),
        nowhere if reference is None else reference.cameras.to(x_t.device),
        none if reference is None else one,
    )
    picture = torch.zeros_like(x_t) if reference is None else reference.x.to(x_t)
    return torch.cat([x_t, picture, rays.to(x_t)], dim=1), labels.to(x_t)
