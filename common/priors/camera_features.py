"""What the embedded networks are told beside text and time: cameras, a reference image, a surface.

A U-Net built with `class_embed_type="projection"` and 22 inputs adds a small network of them to its
time embedding: twelve numbers of the view's camera, ten of where it lies as seen from the camera of
a reference image. All zeros stand for "not told". Further input channels hold that image, and the
surface that is to be painted: where in space each pixel of it lies, as a depth ControlNet is told.
U-Nets with twelve inputs and no further channels are told the camera alone.
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
BUFFER = 7
"""Channels of a surface: whether a pixel sees it, its unit normal, the point (world units)."""
PERIODS = (0.6, 0.4, 0.3)
"""World units after which the waves of `surface_map` repeat."""
STRIPES, CHECKS, STEEPNESS = 0.3, 0.4, 4.0
"""Periods of stripes and of checks (world units), and how sharply their rules turn at an edge."""
RULES = 4
"""Channels for the rules of stripes across X, Y and Z and of checks."""
SURFACE = BUFFER + 6 * len(PERIODS) + RULES


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


def surface_map(surface: Tensor) -> Tensor:
    """What a network is told of surfaces `[B, BUFFER, h, w]`: `[B, SURFACE, h, w]`.

    The surfaces themselves; sines and cosines of the points' coordinates over each of `PERIODS`;
    on which side of the edges of stripes and checks the points lie, 1 or -1 but near an edge, for
    a check is a product of three waves, which a few layers don't find. Zeros where there is none.
    """
    covered, points = surface[:, :1], surface[:, 4:]
    waves = [2.0 * math.pi / period * points for period in PERIODS]
    stripes, checks = (
        (STEEPNESS * (2.0 * math.pi / period * points).cos()).tanh() for period in (STRIPES, CHECKS)
    )
    told = [f for w in waves for f in (w.sin(), w.cos())]
    told += [stripes, checks.prod(dim=1, keepdim=True)]
    return torch.cat([surface, *(covered * f for f in told)], dim=1)


def turned(surface: Tensor, angle: Tensor) -> Tensor:
    """Surfaces `[B, BUFFER, h, w]` turned about Z by angles `[B]` (radians)."""
    covered, rest = surface[:, :1], surface[:, 1:]
    c, s = angle.cos(), angle.sin()
    zero, one = torch.zeros_like(c), torch.ones_like(c)
    rows = [torch.stack(row, dim=-1) for row in ((c, -s, zero), (s, c, zero), (zero, zero, one))]
    rotation = torch.stack(rows, dim=1)  # [B, 3, 3]
    vectors = rest.unflatten(1, (2, 3))
    return torch.cat(
        [covered, torch.einsum("bij,bkjhw->bkihw", rotation, vectors).flatten(1, 2)], 1
    )


def at_grid(surface: Tensor, height: int, width: int) -> Tensor:
    """Surfaces as views have them, `[B, H, W, BUFFER]`, at the middles of h x w cells.

    Returns `[B, BUFFER, h, w]`; nothing is averaged, for a mean of two points lies on neither.
    """
    middles = [
        ((torch.arange(n, device=surface.device) + 0.5) * size / n).long()
        for n, size in ((height, surface.shape[1]), (width, surface.shape[2]))
    ]
    return surface[:, middles[0]][:, :, middles[1]].permute(0, 3, 1, 2)


def told_inputs(
    surface: Tensor,
    cameras: Cameras,
    told: Tensor,
    views: Cameras,
    reference: Cameras,
    related: Tensor,
) -> tuple[Tensor, Tensor]:
    """Class labels `[B, LABELS]` and surface maps `[B, SURFACE, h, w]` of B views.

    surface: `[B, BUFFER, h, w]`, zeros where it isn't told. cameras: of the views; told: `[B]`, 1
    where they are told, else 0. views, reference: cameras of the views and of the reference images
    in one frame; related: `[B]`, whether their relation is told. The surface is told in the
    camera's frame; where only the relation is told, in a world turned so that the reference looks
    from azimuth 0; not at all where neither is.
    """
    labels = torch.cat(
        [
            camera_features(cameras) * told[:, None],
            relative_features(views, reference) * related[:, None],
        ],
        dim=-1,
    )
    seen = turned(surface, torch.where(told > 0, 0.0 * told, -reference.azimuth))
    known = torch.maximum(told, related)
    return labels, surface_map(seen * known[:, None, None, None])


def reads_camera(config: Mapping[str, Any]) -> bool:
    """Whether a U-Net of this diffusers configuration takes `camera_features` as class labels."""
    return config.get("class_embed_type") == "projection" and config.get(
        "projection_class_embeddings_input_dim"
    ) in (FEATURES, LABELS)


def reads_reference(config: Mapping[str, Any]) -> bool:
    """Whether a U-Net also takes a reference image and a surface as further channels."""
    return (
        reads_camera(config)
        and config.get("projection_class_embeddings_input_dim") == LABELS
        and config.get("in_channels") == 2 * config.get("out_channels", 0) + SURFACE
    )


def unet_inputs(
    config: Mapping[str, Any],
    x_t: Tensor,
    cameras: Cameras | None = None,
    reference: Reference | None = None,
    surface: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """What a U-Net of this diffusers configuration takes for `x_t` `[B, C, h, w]`, and its labels.

    cameras: of the views, None for not told. reference, surface: for networks that take none they
    play no part. A U-Net that can't be told the camera takes `x_t` as it is.
    """
    if reads_reference(config):
        return with_reference(x_t, cameras, reference, surface)
    if not reads_camera(config):
        return x_t, None
    if cameras is None:
        return x_t, x_t.new_zeros(len(x_t), FEATURES)
    return x_t, camera_features(cameras).to(x_t)


def with_reference(
    x_t: Tensor,
    cameras: Cameras | None,
    reference: Reference | None,
    surface: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The input `[B, 2C + SURFACE, h, w]` and the class labels of a U-Net that `reads_reference`.

    x_t: `[B, C, h, w]`. cameras: of the views, or None if they aren't told. reference: pictures of
    the object, or None. surface: what of it the views see, `[B, BUFFER, h, w]`, or None. What isn't
    told is zeros.
    """
    one = torch.ones(len(x_t), device=x_t.device)
    none = torch.zeros_like(one)
    nowhere = Cameras(none, none, one, one)
    if surface is None:
        surface = torch.zeros(len(x_t), BUFFER, *x_t.shape[-2:], device=x_t.device)
    labels, painted = told_inputs(
        surface.to(x_t.device),
        nowhere if cameras is None else cameras.to(x_t.device),
        none if cameras is None else one,
        nowhere if reference is None else reference.views.to(x_t.device),
        nowhere if reference is None else reference.cameras.to(x_t.device),
        none if reference is None else one,
    )
    picture = torch.zeros_like(x_t) if reference is None else reference.x.to(x_t)
    return torch.cat([x_t, picture, painted.to(x_t)], dim=1), labels.to(x_t)
