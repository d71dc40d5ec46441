"""How high a picture's camera stood: asked of a prior that can be told the camera.

A diffusion model that knows where a view is taken from finds its noise best if it is told the truth
(Li 2023, "Your diffusion model is secretly a zero-shot classifier"). So the picture is noised, and
denoised under every direction of a grid; the same noise serves all.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..priors.base import Condition, Prior, TextEmbedding
from ..scene.cameras import Cameras
from .timesteps import share_to_timestep

HEIGHTS = tuple(range(-20, 61, 10))
"""Elevations that are tried, degrees."""
TURNS = 16
SHARES = (0.6, 0.75)
"""Noise levels, as shares of the timesteps."""
BATCH = 16


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
    t = torch.full((1,), share_to_timestep(share, len(prior.schedule)), device=x.device)
    x_t = prior.schedule.add_noise(x, noise, t)
    azimuth = torch.arange(TURNS) * (2.0 * math.pi / TURNS)
    even = torch.ones(TURNS)
    around = Cameras(azimuth, height * even, camera.distance.cpu() * even, camera.fovy.cpu() * even)
    found = []
    for start in range(0, TURNS, BATCH):
        here = around[start : start + BATCH].to(x.device)
        rows = len(here)
        condition = Condition(text.select([0] * rows), here)
        eps = prior.predict_noise(x_t.expand(rows, -1, -1, -1), t.expand(rows), condition)
        found.append((eps - noise).square().flatten(1).mean(dim=1).cpu())
    return torch.cat(found)


def lowest(places: tuple[int, ...], errors: list[float]) -> float:
    """Where evenly spaced values are lowest: the vertex of the parabola through the least three."""
    i = min(range(len(errors)), key=errors.__getitem__)
    if i in (0, len(errors) - 1):
        return float(places[i])
    before, here, after = errors[i - 1 : i + 2]
    bend = before - 2.0 * here + after
    shift = 0.5 * (before - after) / bend if bend > 0.0 else 0.0
    return places[i] + shift * (places[i + 1] - places[i])
