"""Which toy a picture shows, and from where: what the exact prior is told of a picture.

Every category is laid over the picture from all around; those whose silhouettes fit best are then
compared in colour, first plain, then with patterns and second colours; at last the angles are
refined. A caption that is known leaves the angles alone to be found.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import UserError
from ..scene.cameras import Cameras
from ..scene.images import psnr
from ..toybox.grammar import CATEGORIES, COLORS, Caption, paints
from ..toybox.objects import ToyObject
from ..toybox.studio import WHITE, albedo_views, photograph
from .training.data import make_toy

SIDE = 64
TURNS = 24
"""Azimuths that are tried at first."""
HEIGHTS = tuple(range(-20, 61, 10))
"""Elevations (degrees) that are tried where none is known."""
CATEGORIES_KEPT, TURNS_KEPT = 5, 4
LEAST_PSNR = 18.0
"""In dB; a picture that no toy comes as near to shows none."""


@dataclass(frozen=True)
class Match:
    """A toy from one direction: azimuth, elevation in radians, and how near it comes, in dB."""

    caption: Caption
    azimuth: float
    elevation: float
    psnr: float


def identify(
    rgba: Tensor,
    camera: Cameras,
    elevation: float | None,
    caption: Caption | None = None,
    instance: int = 0,
) -> Match:
    """The toy that a picture shows, and where its camera stands around that toy.

    rgba: straight, `[S, S, 4]`, the toy at its own size. camera: one; its distance and field of
    view count. elevation: radians, None if it isn't known. Raises UserError if no toy looks like
    it.
    """
    look = _Look.of(rgba, camera)
    heights = [math.radians(h) for h in HEIGHTS] if elevation is None else [elevation]
    if caption is None:
        best = _any_toy(look, heights, instance)
    else:
        best = look.best(make_toy(caption, instance), look.directions(heights), caption)
    best = _refined(look, best, instance, elevation is None)
    if best.psnr < LEAST_PSNR:
        wanted = "any toy" if caption is None else caption.text
        raise UserError(
            f"the picture doesn't show {wanted} as the exact prior knows it (the nearest, "
            f"{best.caption.text}, comes to {best.psnr:.0f} dB); give a picture of the toybox's "
            "studio, or another prior"
        )
    return best


@dataclass(frozen=True)
class _Look:
    """The picture at the size in which it is compared, before white, and its silhouette."""

    image: Tensor
    mask: Tensor
    camera: Cameras

    @staticmethod
    def of(rgba: Tensor, camera: Cameras) -> _Look:
        white = rgba[..., 3:] * rgba[..., :3] + (1.0 - rgba[..., 3:])
        planes = torch.cat([white, rgba[..., 3:]], dim=-1).permute(2, 0, 1)[None]
        small = F.interpolate(planes, (SIDE, SIDE), mode="bilinear", antialias=True)[0]
        return _Look(small[:3].permute(1, 2, 0), small[3] > 0.5, camera)

    def cameras(self, directions: Sequence[tuple[float, float]]) -> Cameras:
        azimuth, elevation = torch.tensor(directions).T
        even = torch.ones_like(azimuth)
        return Cameras(azimuth, elevation, self.camera.distance * even, self.camera.fovy * even)

    def directions(self, heights: Sequence[float]) -> list[tuple[float, float]]:
        turns = [2.0 * math.pi * i / TURNS for i in range(TURNS)]
        return [(turn, height) for height in heights for turn in turns]

    def overlap(self, toy: ToyObject, directions: Sequence[tuple[float, float]]) -> Tensor:
        """Intersection over union of silhouettes by direction."""
        _, masks = albedo_views(toy, self.cameras(directions), SIDE, WHITE)
        both = (masks & self.mask).sum(dim=(1, 2)).double()
        return both / (masks | self.mask).sum(dim=(1, 2)).clamp_min(1)

    def best(
        self, toy: ToyObject, directions: Sequence[tuple[float, float]], caption: Caption
    ) -> Match:
        """The direction from which a toy looks most like the picture."""
        images = photograph(toy, self.cameras(directions), SIDE, backdrop=WHITE)
        scores = [psnr(image, self.image) for image in images]
        index = max(range(len(scores)), key=scores.__getitem__)
        return Match(caption, *directions[index], scores[index])


def _any_toy(look: _Look, heights: Sequence[float], instance: int) -> Match:
    """The best of all captions."""
    directions = look.directions(heights)
    fits: list[tuple[float, str, list[int]]] = []
    for category in CATEGORIES:
        overlap = look.overlap(make_toy(Caption(category, "red"), instance), directions)
        order = overlap.argsort(descending=True)[:TURNS_KEPT].tolist()
        fits.append((float(overlap.max()), category, order))
    fits.sort(reverse=True)
    found = []
    for _, category, order in fits[:CATEGORIES_KEPT]:
        # From behind, a silhouette is the same mirrored.
        some = [directions[i] for i in order]
        some += [(math.pi + a, e) for a, e in some] + [(math.pi - a, e) for a, e in some]
        some += [(-a, e) for a, e in some[:TURNS_KEPT]]
        found.append(_best(look, (Caption(category, c) for c in COLORS), some, instance))
    best = max(found, key=lambda match: match.psnr)
    # Colours may be another once there is a pattern: all pairs, from this one direction.
    there = [(best.azimuth, best.elevation)]
    return _best(look, paints(best.caption), there, instance)


def _best(
    look: _Look,
    captions: Iterable[Caption],
    directions: Sequence[tuple[float, float]],
    instance: int,
) -> Match:
    matches = (look.best(make_toy(c, instance), directions, c) for c in captions)
    return max(matches, key=lambda match: match.psnr)


def _refined(look: _Look, match: Match, instance: int, free: bool) -> Match:
    """The same with its angles to a quarter of a degree; free: the elevation too."""
    toy = make_toy(match.caption, instance)
    for step in (8.0, 4.0, 2.0, 1.0, 0.5, 0.25):
        d = math.radians(step)
        near = [(match.azimuth + i * d, match.elevation) for i in (-1, 0, 1)]
        if free:
            near += [(match.azimuth + i * d, match.elevation + j * d) for i in (-1, 0, 1)
                     for j in (-1, 1)]  # fmt: skip
        match = look.best(toy, near, match.caption)
    return match
