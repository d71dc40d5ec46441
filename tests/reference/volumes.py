"""Points of a lattice and solids whose distance is known."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from maquette.fine.tetgrid import TetGrid

Array = NDArray[np.float64]
CENTRE = np.array([0.0131, 0.0217, -0.0173])  # off the lattice, so that no symmetry helps
BOX = np.array([0.51, 0.37, 0.43])


def lattice(size: int, extent: float = 1.0) -> Array:
    return TetGrid(size - 1, extent).vertices().numpy().astype(np.float64)


def sphere(points: Array) -> Array:
    return np.linalg.norm(points - CENTRE, axis=1) - 0.6


def torus(points: Array) -> Array:
    p = points - CENTRE
    return np.hypot(np.hypot(p[:, 0], p[:, 1]) - 0.5, p[:, 2]) - 0.25


def box(points: Array) -> Array:
    outer = np.abs(points - CENTRE) - BOX
    return np.linalg.norm(np.maximum(outer, 0), axis=1) + np.minimum(outer.max(axis=1), 0)


def ramp(distance: Array, size: int, cells: float = 4.0) -> NDArray[np.float32]:
    """A volume whose level 1/2 is the surface, climbing from 0 to 1 over some cells."""
    cell = 2.0 / (size - 1)
    values = np.clip(0.5 - distance / (cells * cell), 0, 1)
    return values.reshape(size, size, size).astype(np.float32)


def balls(size: int, *specs: tuple[tuple[float, float, float], float]) -> NDArray[np.float32]:
    points = lattice(size)
    parts = [1 - np.linalg.norm(points - np.array(c), axis=1) / (2 * r) for c, r in specs]
    return np.max(parts, axis=0).clip(0).reshape((size,) * 3).astype(np.float32)
