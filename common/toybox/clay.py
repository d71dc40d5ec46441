"""What the objects are kneaded with: painted solids, proportions that vary, eyes and cheeks."""

from __future__ import annotations

import math
from zlib import crc32

import numpy as np

from .grammar import Rgb
from .shapes import Solid, ellipsoid

PRIMARY, SECONDARY = "primary", "secondary"
"""The paints that a caption names; all other paints are accents."""

ACCENTS: dict[str, tuple[Rgb, Rgb]] = {
    "ink": ((0.11, 0.10, 0.13), (0.99, 0.80, 0.25)),
    "pupil": ((0.11, 0.10, 0.13), (0.11, 0.10, 0.13)),
    "cream": ((0.98, 0.92, 0.78), (0.99, 0.77, 0.64)),
    "snow": ((0.98, 0.98, 0.97), (0.62, 0.80, 0.95)),
    "dots": ((0.98, 0.98, 0.97), (0.92, 0.34, 0.32)),
    "sparkle": ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0)),
    "rose": ((0.97, 0.60, 0.66), (0.80, 0.28, 0.42)),
    "tomato": ((0.88, 0.20, 0.16), (0.99, 0.84, 0.20)),
    "tangerine": ((0.97, 0.50, 0.06), (0.80, 0.22, 0.12)),
    "gold": ((0.98, 0.80, 0.24), (0.98, 0.96, 0.88)),
    "wood": ((0.70, 0.50, 0.30), (0.93, 0.78, 0.55)),
    "cocoa": ((0.40, 0.24, 0.15), (0.86, 0.66, 0.42)),
    "waffle": ((0.88, 0.65, 0.34), (0.62, 0.40, 0.20)),
    "terracotta": ((0.78, 0.40, 0.26), (0.95, 0.85, 0.68)),
    "leaf": ((0.42, 0.72, 0.28), (0.85, 0.78, 0.42)),
    "glass": ((0.68, 0.88, 0.97), (0.68, 0.88, 0.97)),
    "slate": ((0.25, 0.29, 0.38), (0.90, 0.84, 0.72)),
    "tire": ((0.16, 0.16, 0.19), (0.16, 0.16, 0.19)),
    "silver": ((0.80, 0.83, 0.88), (0.45, 0.55, 0.75)),
    "sky": ((0.35, 0.66, 0.93), (0.95, 0.80, 0.30)),
}
"""Accent paints (sRGB): the usual colour, and the one for objects that are too like it."""

TOO_LIKE = 0.3
"""Accents nearer than this to the main colour (distance in sRGB) give way to their other colour."""


def accent(name: str, primary: Rgb) -> Rgb:
    """The colour of accent `name` on an object whose main colour is `primary`."""
    usual, other = ACCENTS[name]
    return other if math.dist(usual, primary) < TOO_LIKE else usual


class Clay:
    """Painted solids being put together to one object, Z up and front along +X.

    instance 0 has the canonical proportions; every other one varies them, the same way everywhere.
    """

    def __init__(self, category: str, instance: int = 0) -> None:
        if instance < 0:
            raise ValueError(f"instance: expected 0 or more, got {instance}")
        self.parts: list[tuple[str, Solid]] = []
        seed = (crc32(category.encode()), instance)
        self._rng = np.random.default_rng(seed) if instance else None

    def vary(self, value: float, share: float = 0.15) -> float:
        """A proportion: `value` for instance 0, else within `share` of it."""
        if self._rng is None:
            return value
        return value * (1.0 + share * (2.0 * float(self._rng.random()) - 1.0))

    def add(self, paint: str, *solids: Solid) -> None:
        """Put solids down as parts of one paint."""
        self.parts.extend((paint, solid) for solid in solids)

    def pair(self, paint: str, *solids: Solid) -> None:
        """Put solids down together with their mirror images on the other side."""
        for solid in solids:
            self.add(paint, solid, solid.mirrored())

    def eyes(self, x: float, y: float, z: float, radius: float, paint: str = "ink") -> None:
        """Two round eyes at (x, +-y, z), each with a spark of light."""
        self.pair(paint, ellipsoid(0.75 * radius, radius, 1.1 * radius).moved(x, y, z))
        spark = ellipsoid(0.42 * radius)
        self.add("sparkle", *(
            spark.moved(x + 0.5 * radius, side * y + 0.3 * radius, z + 0.45 * radius)
            for side in (-1, 1)
        ))  # fmt: skip


def on_ellipsoid(
    radii: tuple[float, float, float], y: float, z: float, depth: float = 0.0
) -> tuple[float, float, float]:
    """The point of an ellipsoid's front (+X) side at (y, z), moved inward by `depth` along X."""
    inside = max(1.0 - (y / radii[1]) ** 2 - (z / radii[2]) ** 2, 0.0)
    return radii[0] * math.sqrt(inside) - depth, y, z
