"""What a mesh would be taken for: which toy, of which colour, and from how many sides its front.

The scores of `score.py` say how near an answer comes; these say whether it is the answer at all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from ..scene.cameras import Cameras
from .grammar import CATEGORIES, COLORS, FRONTED, Caption
from .objects import ToyObject, build
from .score import NEUTRAL, Textured, surface_scores, unlit_views, visible_points
from .studio import albedo_views

POINTS = 8_000
RESOLUTION = 96
LOOKS = 8
"""Cameras that tell colours apart, and cameras behind that look for a face."""
FRONT, BEHIND = math.radians(60.0), math.radians(120.0)
"""Azimuths up to the first are of the front, from the second on of the back."""


@dataclass(frozen=True)
class Recognized:
    """What a mesh would be taken for.

    taken_for: colour and category in words. right: whether both are the caption's.
    janus_views: of `LOOKS` cameras behind, those that see a front.
    """

    taken_for: str
    right: bool
    janus_views: int


def recognize(model: Textured, caption: Caption) -> Recognized:
    """What a model of a caption would be taken for."""
    category, color = nearest_category(model), nearest_color(model, caption)
    right = (category, color) == (caption.category, caption.color)
    return Recognized(f"{color} {category}", right, janus_views(model, build(caption)))


def nearest_category(model: Textured) -> str:
    """The category whose canonical surface has the least Chamfer distance from the mesh."""
    found = visible_points(model.mesh, POINTS)
    chamfers = {c: surface_scores(found, _surface_of(c))[1] for c in CATEGORIES}
    return min(chamfers, key=lambda category: chamfers[category])


def nearest_color(model: Textured, caption: Caption) -> str:
    """The main colour in which the caption's toy looks most like the model, all views together.

    Colours that would make the caption's two the same are left out.
    """
    cameras = _around(math.pi / LOOKS, 2.0 * math.pi, elevation=0.4)
    image, _ = unlit_views(model, cameras, RESOLUTION)
    errors = {}
    for color in COLORS:
        if color != caption.second:
            truth = build(replace(caption, color=color))
            errors[color] = _difference(image, _views(truth, cameras))
    return min(errors, key=lambda color: errors[color])


def janus_views(model: Textured, truth: ToyObject) -> int:
    """From how many of `LOOKS` cameras behind, the model looks more like the truth's front."""
    return sum(fronts_behind(model, truth))


def fronts_behind(model: Textured, truth: ToyObject) -> list[bool]:
    """From which of `LOOKS` cameras behind, the model looks more like the truth's front.

    The views are compared with the truth as seen from the same camera and from all cameras in
    front, at the same elevation. None for toys that look the same from both sides.
    """
    if truth.caption.category not in FRONTED:
        return [False] * LOOKS
    behind = _around(BEHIND, 2.0 * (math.pi - BEHIND), elevation=0.2)
    front = _around(-FRONT, 2.0 * FRONT, elevation=0.2)
    image, _ = unlit_views(model, behind, RESOLUTION)
    back, faces = _views(truth, behind), _views(truth, front)
    return [
        min(_difference(view, face) for face in faces) < _difference(view, own)
        for view, own in zip(image, back, strict=True)
    ]


def _views(toy: ToyObject, cameras: Cameras) -> Tensor:
    return albedo_views(toy, cameras, RESOLUTION, NEUTRAL)[0]


def _difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).square().mean())


def _around(start: float, sweep: float, elevation: float) -> Cameras:
    """`LOOKS` cameras at distance 3 over a sweep of azimuths, both its ends included; radians."""
    azimuth = start + sweep * torch.linspace(0.0, 1.0, LOOKS)
    even = torch.ones(LOOKS)
    return Cameras(azimuth, elevation * even, 3.0 * even, math.radians(40.0) * even)


@lru_cache(maxsize=len(CATEGORIES))
def _surface_of(category: str) -> Tensor:
    return visible_points(build(Caption(category, "red")).mesh, POINTS)
