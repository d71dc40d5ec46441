"""Skies made by code: what light comes from where, and what is left of it after rough mirrors.

A sky is a sum of lobes, each a colour times a function of the angle to the lobe's axis. Blurring by
a kernel that is round about its middle keeps that form (Funk-Hecke theorem): a lobe's l-th Legendre
coefficient is multiplied by the kernel's. So the prefiltered environment of the split-sum
approximation (Karis 2013) and the diffuse irradiance are tables over an angle and a roughness, one
a lobe, exact but for their cells; there is no map with poles or seams. Z is up.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.polynomial import legendre
from numpy.typing import NDArray
from torch import Tensor

from .brdf import halfway_cosines

Floats = NDArray[np.float64]

DEGREE = 128
ANGLES = 1024  # cells of a table over the cosine
LEVELS = 17  # roughnesses 0, 1/16 ... 1; the row after them is the diffuse one
MEAN = 0.55
"""Mean radiance of every sky, the same in red, green and blue: a white matt thing turned about in
it looks white on the whole."""
_SAMPLES = 512


@dataclass(frozen=True)
class Lobe:
    """Light about an axis: `color * shape(cosine of the angle to it)`.

    axis: any length. sharpness: of `exp(sharpness (cosine - 1))`; zero is light from everywhere.
    dome: a half sphere whose edge is as wide as `1 / sharpness`, in place of that.
    """

    axis: tuple[float, float, float]
    color: tuple[float, float, float]
    sharpness: float
    dome: bool = False

    def shape(self, cosine: Floats) -> Floats:
        """The lobe's strength at cosines in [-1, 1]."""
        if self.dome:
            return 1.0 / (1.0 + np.exp(-self.sharpness * cosine))
        return np.exp(self.sharpness * (cosine - 1.0))


_UP = (0.0, 0.0, 1.0)
SKIES: tuple[tuple[Lobe, ...], ...] = (
    (  # a photographer's room: a key light, a fill, a rim, and light walls
        Lobe(_UP, (0.22, 0.22, 0.22), 0.0),
        Lobe((1.0, 0.8, 0.9), (2.6, 2.5, 2.3), 9.0),
        Lobe((0.8, -1.0, 0.3), (0.9, 1.0, 1.15), 5.0),
        Lobe((-1.0, 0.2, 0.8), (1.6, 1.6, 1.6), 14.0),
        Lobe((0.0, 0.0, 1.0), (0.5, 0.5, 0.5), 4.0),
    ),
    (  # noon: blue above, a bright horizon, sand below, the sun
        Lobe(_UP, (0.30, 0.26, 0.20), 0.0),
        Lobe(_UP, (0.10, 0.28, 0.62), 7.0, dome=True),
        Lobe((0.6, -0.5, 1.1), (5.5, 5.0, 4.2), 40.0),
        Lobe((-0.6, 0.5, 0.1), (0.35, 0.34, 0.34), 3.0),
    ),
    (  # overcast: one soft dome over dark ground
        Lobe(_UP, (0.14, 0.14, 0.13), 0.0),
        Lobe(_UP, (0.60, 0.63, 0.66), 4.0, dome=True),
        Lobe(_UP, (0.40, 0.40, 0.42), 2.0),
    ),
    (  # evening: a low warm sun, a violet sky across from it
        Lobe(_UP, (0.16, 0.15, 0.17), 0.0),
        Lobe(_UP, (0.20, 0.22, 0.36), 6.0, dome=True),
        Lobe((1.0, 0.3, 0.25), (3.6, 2.6, 1.7), 16.0),
        Lobe((-1.0, -0.3, 0.3), (0.40, 0.40, 0.62), 3.0),
    ),
)
"""The skies, the first of which is the one of pictures."""
MOST = max(len(lobes) for lobes in SKIES)


@dataclass(frozen=True)
class Tables:
    """All skies as tensors; those with fewer lobes have black ones.

    axes, colors: `[K, MOST, 3]`. values: `[K * MOST * (LEVELS + 1), ANGLES]`, a lobe's strength at
    cosines from -1 to 1, after a mirror of each roughness and after a matt surface.
    """

    axes: Tensor
    colors: Tensor
    values: Tensor


def kernel_coefficients(roughness: float) -> Floats:
    """Legendre coefficients `[DEGREE]` of what a mirror of a roughness blurs by, the first one 1.

    As Karis 2013: the normal and the eye are taken to lie in the mirrored direction, microfacets
    are drawn from the GGX lobe, and light counts by its cosine.
    """
    u = (torch.arange(_SAMPLES, dtype=torch.float64) + 0.5) / _SAMPLES
    nh = halfway_cosines(u, torch.tensor(roughness, dtype=torch.float64).square())
    cosine = (2.0 * nh.square() - 1.0).numpy()
    weight = np.maximum(cosine, 0.0)
    return (legendre.legvander(cosine, DEGREE - 1) * weight[:, None]).sum(axis=0) / weight.sum()


def cosine_coefficients() -> Floats:
    """The same of a matt surface, which weighs light by its cosine (Ramamoorthi 2001)."""
    nodes, weights = legendre.leggauss(DEGREE)
    nodes, weights = 0.5 * nodes + 0.5, 0.5 * weights  # the half that is lit
    values = legendre.legvander(nodes, DEGREE - 1) * (weights * nodes)[:, None]
    return values.sum(axis=0) / (weights * nodes).sum()


def lobe_coefficients(lobe: Lobe) -> Floats:
    """Legendre coefficients `[DEGREE]` of a lobe's shape."""
    nodes, weights = legendre.leggauss(2 * DEGREE)
    basis = legendre.legvander(nodes, DEGREE - 1)
    return (np.arange(DEGREE) + 0.5) * ((weights * lobe.shape(nodes)) @ basis)


def balanced(lobes: tuple[Lobe, ...]) -> Floats:
    """The lobes' colours `[N, 3]`, scaled so that each channel's mean over the sphere is MEAN."""
    means = np.array([lobe_coefficients(lobe)[0] for lobe in lobes])
    colors = np.array([lobe.color for lobe in lobes])
    return colors * (MEAN / (means @ colors))


@lru_cache(maxsize=1)
def _made() -> Tables:
    kernels = [kernel_coefficients(level / (LEVELS - 1)) for level in range(1, LEVELS)]
    blurs = np.stack([np.ones(DEGREE), *kernels, cosine_coefficients()])
    basis = legendre.legvander(np.linspace(-1.0, 1.0, ANGLES), DEGREE - 1)
    axes, colors = np.zeros((len(SKIES), MOST, 3)), np.zeros((len(SKIES), MOST, 3))
    axes[..., 2] = 1.0
    values = np.zeros((len(SKIES), MOST, LEVELS + 1, ANGLES))
    for sky, lobes in enumerate(SKIES):
        colors[sky, : len(lobes)] = balanced(lobes)
        for index, lobe in enumerate(lobes):
            axes[sky, index] = np.array(lobe.axis) / np.linalg.norm(lobe.axis)
            blurred = (blurs * lobe_coefficients(lobe)) @ basis.T
            values[sky, index] = np.maximum(blurred, 0.0)
    tensors = (torch.from_numpy(made) for made in (axes, colors, values.reshape(-1, ANGLES)))
    return Tables(*tensors)


@lru_cache(maxsize=4)
def tables(device: torch.device, dtype: torch.dtype) -> Tables:
    """The skies on a device; made once a process."""
    made = _made()
    return Tables(*(t.to(device, dtype) for t in (made.axes, made.colors, made.values)))
