"""What a material looks like under a sky: the split-sum approximation, and how it is displayed."""

from __future__ import annotations

import torch
from torch import Tensor

from .brdf import DIELECTRIC, environment_brdf
from .skies import Skies

LEAST_COSINE = 1e-3
SHOULDER = 0.8
"""Linear radiance up to which a picture shows light as it is; more of it nears 1."""


def lit_by_sky(
    albedo: Tensor,
    roughness: Tensor,
    metallic: Tensor,
    normals: Tensor,
    eye: Tensor,
    skies: Skies,
    view: Tensor,
) -> Tensor:
    """Displayed colours `[P, 3]` in [0, 1), sRGB-encoded, of surface points.

    albedo: `[P, 3]`, sRGB-encoded; roughness, metallic: `[P, 1]` in [0, 1]; normals, eye: unit
    `[P, 3]`, the latter towards the eye; view: int64 `[P]`, the row of `skies` of each point.
    """
    light = reflected(to_linear(albedo), roughness, metallic, normals, eye, skies, view)
    return to_srgb(displayed(light))


def reflected(
    base: Tensor,
    roughness: Tensor,
    metallic: Tensor,
    normals: Tensor,
    eye: Tensor,
    skies: Skies,
    view: Tensor,
) -> Tensor:
    """Linear radiance `[P, 3]` towards the eye.

        base (1 - m) (1 - E_d) L_matt(n) + (f0 A + B) L(r),  f0 = 0.04 (1 - m) + base m

    with A, B and the prefiltered L of Karis 2013, and E_d = 0.04 A + B, so that what is mirrored
    can't be reflected a second time and no more light leaves a surface than came (Karis adds both).
    """
    cosine = (normals * eye).sum(dim=-1, keepdim=True)
    nv = cosine.clamp(LEAST_COSINE, 1.0)
    mirrored = 2.0 * cosine * normals - eye
    a, b = environment_brdf(nv, roughness)
    f0 = DIELECTRIC * (1.0 - metallic) + base * metallic
    matt = base * (1.0 - metallic) * (1.0 - (DIELECTRIC * a + b))
    return matt * skies.matt(normals, view) + (f0 * a + b) * skies.mirrored(
        mirrored, roughness, view
    )


def to_linear(color: Tensor) -> Tensor:
    """From sRGB-encoded values in [0, 1] to linear ones (IEC 61966-2-1)."""
    curve = ((color.clamp_min(0.04045) + 0.055) / 1.055).pow(2.4)
    return torch.where(color <= 0.04045, color / 12.92, curve)


def to_srgb(light: Tensor) -> Tensor:
    """The inverse of `to_linear`."""
    curve = 1.055 * light.clamp_min(0.0031308).pow(1.0 / 2.4) - 0.055
    return torch.where(light <= 0.0031308, 12.92 * light, curve)


def displayed(light: Tensor) -> Tensor:
    """Linear radiance as a picture shows it, in [0, 1): itself up to SHOULDER, then ever less.

    `1 - (1 - s)^2 / (light + 1 - 2 s)` above s: value and slope are continuous, and no highlight
    is so bright that it has no gradient.
    """
    above = 1.0 - (1.0 - SHOULDER) ** 2 / (light.clamp_min(SHOULDER) + 1.0 - 2.0 * SHOULDER)
    return torch.where(light <= SHOULDER, light, above)
