"""How high a picture's camera stood: asked of a prior that can be told the camera.

The picture is noised, and denoised under every direction of a grid; see `classify`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..priors.base import Condition, Prior, TextEmbedding
from ..scene.cameras import Cameras
from .classify import noise_errors

HEIGHTS = tuple(range(-20, 61, 10))
"""Elevations that are tried, degrees."""
TURNS = 16
SHARES = (0.6, 0.75)
"""Noise levels, as shares of the timesteps."""


@torch.no_grad()
def search_elevation(
    prior: Prior, image: Tensor, text: TextEmbedding, camera: Cameras, seed: int = 0
) -> float:
    """The elevation, in degrees, under which a prior finds the noise in a picture best.

    image: `[S, S, 3]` before the backdrop of the prior's own pictures. text: one row. camera: one;
    its distance and field of view count.
    """
    x = prior.encode_image(image[None])
    generator = torch.Generator().manual_seed(seed)
    noises = [torch.randn(x.shape, generator=generator).to(x) for _ in SHARES]
    errors = []
    for height in HEIGHTS:
        total = torch.zeros(TURNS)
        for share, noise in zip(SHARES, noises, strict=True):
            total += _errors(prior, x, text, camera, math.radians(height), share, noise)
        errors.append(float(total.min()))
    return lowest(HEIGHTS, errors)


def _errors(
    prior: Prior,
    x: Tensor,
    text: TextEmbedding,
    camera: Cameras,
    height: float,
    share: float,
    noise: Tensor,
) -> Tensor:
    """The mean squared error of the noise by azimuth, `[TURNS]`."""
    azimuth = torch.arange(TURNS) * (2.0 * math.pi / TURNS)
    even = torch.ones(TURNS)
    around = Cameras(azimuth, height * even, camera.distance.cpu() * even, camera.fovy.cpu() * even)
    condition = Condition(text.select([0] * TURNS), around.to(x.device))
    alike = (TURNS, -1, -1, -1)
    return noise_errors(prior, x.expand(alike), noise.expand(alike), share, [condition])[0]


def lowest(places: tuple[int, ...], errors: list[float]) -> float:
    """Where evenly spaced values are lowest: the vertex of the parabola through the least three."""
    i = min(range(len(errors)), key=errors.__getitem__)
    if i in (0, len(errors) - 1):
        return float(places[i])
    before, here, after = errors[i - 1 : i + 2]
    bend = before - 2.0 * here + after
    shift = 0.5 * (before - after) / bend if bend > 0.0 else 0.0
    return places[i] + shift * (places[i + 1] - places[i])
