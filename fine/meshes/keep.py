"""Texture coordinates that a mesh brings along: kept where they are good, else made anew."""

from __future__ import annotations

import numpy as np
import torch

from ...common.scene.mesh import Mesh
from ..export.charts import doubly_covered
from ..export.levels import from_corners
from ..export.unwrap import Unwrapped, unwrap
from .data import welded
from .start import Start

LOOK = 1024  # texels a side at which overlaps are looked for
OVERLAP = 0.002  # share of the faces that may overlap
OUTSIDE = 1e-4  # how far coordinates may leave [0, 1]


def kept_layout(start: Start, unwrap_limit: float, size: int) -> tuple[Unwrapped, str]:
    """The mesh in its own order with texture coordinates, and why its own weren't good, or "".

    Vertices of no face are left out; all others, and all faces, keep their order.
    """
    reason = why_not(start)
    if reason:
        # Vertices at one place are one for the charts: many files have some for each face.
        joined = torch.from_numpy(welded(start.source.vertices)[start.mesh.faces.numpy()])
        made = unwrap(Mesh(start.mesh.vertices, joined), unwrap_limit, size)
        corner_uv, method = made.uv[made.faces].reshape(-1, 2).numpy(), made.method
    else:
        assert start.source.uv is not None
        corner_uv, method = start.source.uv.reshape(-1, 2).clip(0.0, 1.0), "own"
    places, faces = start.mesh.vertices.numpy(), start.mesh.faces.numpy()
    return from_corners(places, faces, corner_uv, method), reason


def why_not(start: Start) -> str:
    """What is wrong with a mesh's own texture coordinates for one texture; "" if nothing is."""
    uv = start.source.uv
    if uv is None:
        return "it has none"
    if not np.isfinite(uv).all():
        return "some faces have none"
    if uv.min() < -OUTSIDE or uv.max() > 1.0 + OUTSIDE:
        return "they leave the texture"
    texels = uv.reshape(-1, 2).astype(np.float64) * LOOK
    bad = doubly_covered(texels, np.arange(len(texels)).reshape(-1, 3), LOOK)
    if bad.mean() > OVERLAP:
        return f"{bad.mean():.0%} of the faces overlap others"
    a, b, c = np.moveaxis(uv.astype(np.float64), 1, 0)
    areas = np.abs(np.cross(b - a, c - a))
    if areas.sum() < 0.02:
        return "they use hardly any of the texture"
    return ""
