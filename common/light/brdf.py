"""How a surface reflects: Cook-Torrance with GGX, as glTF 2.0 defines its metallic-roughness model.

n, l, v, h are unit vectors: the normal, towards the light, towards the eye, and halfway between
l and v. nl, nv, nh, vh are their cosines, alpha = roughness^2, f0 the reflectance seen head-on.
All functions are differentiable and work on tensors of any one shape.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

DIELECTRIC = 0.04
"""Reflectance of what is no metal, seen head-on."""
LEAST_ALPHA = 1e-4
VIEWS, ROUGHNESSES = 48, 17  # cells of the table of `environment_brdf`
_U, _TURN = 96, 32  # samples of its integral


def distribution(nh: Tensor, alpha: Tensor) -> Tensor:
    """GGX, the share of microfacets that face h, per steradian (Walter 2007, eq. 33)."""
    square = alpha.square()
    return square / (math.pi * (1.0 + nh.square() * (square - 1.0)).square())


def visibility(nl: Tensor, nv: Tensor, alpha: Tensor) -> Tensor:
    """`G / (4 nl nv)` with Smith's height-correlated masking and shadowing (Heitz 2014, eq. 99)."""
    square = alpha.square()
    shadowing = nv * (square + (1.0 - square) * nl.square()).sqrt()
    masking = nl * (square + (1.0 - square) * nv.square()).sqrt()
    return 0.5 / (shadowing + masking).clamp_min(1e-7)


def fresnel(f0: Tensor, vh: Tensor) -> Tensor:
    """The share of light that is mirrored at an angle (Schlick 1994, eq. 15)."""
    return f0 + (1.0 - f0) * (1.0 - vh).clamp(0.0, 1.0).pow(5)


def specular(n: Tensor, l: Tensor, v: Tensor, f0: Tensor, roughness: Tensor) -> Tensor:  # noqa: E741
    """The mirrored part of the reflectance, `D F G / (4 nl nv)`, `[P, C]` per steradian.

    n, l, v: unit `[P, 3]`; f0: `[P, C]`; roughness: `[P, 1]` in [0, 1]. Zero where the light or
    the eye is below the surface.
    """
    h = torch.nn.functional.normalize(l + v, dim=-1)
    nl, nv = (n * l).sum(-1, keepdim=True), (n * v).sum(-1, keepdim=True)
    nh, vh = (n * h).sum(-1, keepdim=True), (v * h).sum(-1, keepdim=True)
    alpha = roughness.square().clamp_min(LEAST_ALPHA)
    lobe = distribution(nh, alpha) * visibility(nl.clamp_min(0.0), nv.clamp_min(0.0), alpha)
    return torch.where((nl > 0.0) & (nv > 0.0), lobe * fresnel(f0, vh), torch.zeros_like(f0))


def halfway_cosines(u: Tensor, alpha: Tensor) -> Tensor:
    """nh of microfacets drawn as the GGX lobe has them; u: uniform in [0, 1] (Karis 2013)."""
    return ((1.0 - u) / (1.0 + (alpha.square() - 1.0) * u)).clamp_min(0.0).sqrt()


@lru_cache(maxsize=1)
def _brdf_table() -> Tensor:
    """A and B, float32 `[VIEWS, ROUGHNESSES, 2]`, by midpoints in u and in the turn about n."""
    nv = torch.linspace(0.0, 1.0, VIEWS, dtype=torch.float64).clamp_min(1e-3)
    roughness = torch.linspace(0.0, 1.0, ROUGHNESSES, dtype=torch.float64)
    nv, roughness = torch.meshgrid(nv, roughness, indexing="ij")
    nv, alpha = nv[..., None, None], roughness.square().clamp_min(LEAST_ALPHA)[..., None, None]
    u = ((torch.arange(_U, dtype=torch.float64) + 0.5) / _U)[:, None]
    turn = (torch.arange(_TURN, dtype=torch.float64) + 0.5) * (math.pi / _TURN)  # symmetric in it
    nh = halfway_cosines(u, alpha)
    vh = (1.0 - nv.square()).sqrt() * (1.0 - nh.square()).sqrt() * turn.cos() + nv * nh
    nl = 2.0 * vh * nh - nv
    # f nl / pdf with pdf = D nh / (4 vh), F left out.
    weight = 4.0 * visibility(nl.clamp_min(0.0), nv, alpha) * nl * vh / nh.clamp_min(1e-9)
    weight = torch.where((nl > 0.0) & (vh > 0.0), weight, torch.zeros_like(weight))
    grazing = (1.0 - vh).clamp(0.0, 1.0).pow(5)
    parts = [(weight * share).mean(dim=(-1, -2)) for share in (1.0 - grazing, grazing)]
    return torch.stack(parts, dim=-1).float()


def environment_brdf(nv: Tensor, roughness: Tensor) -> tuple[Tensor, Tensor]:
    """A and B of `f0 A + B`, what a surface mirrors of light that comes evenly from everywhere.

    nv, roughness: `[P, 1]` in [0, 1]. The second of the two sums that the split-sum approximation
    makes of the reflected light (Karis 2013), read between the cells of a table.
    """
    table = _tables(nv.device, nv.dtype)
    x, y = nv.clamp(0.0, 1.0) * (VIEWS - 1), roughness.clamp(0.0, 1.0) * (ROUGHNESSES - 1)
    left, low = x.detach().floor().clamp_max(VIEWS - 2), y.detach().floor()
    low = low.clamp_max(ROUGHNESSES - 2)
    fx, fy = x - left, y - low
    at = (left * ROUGHNESSES + low).long()[..., 0]
    here, up = table[at], table[at + 1]
    right, across = table[at + ROUGHNESSES], table[at + ROUGHNESSES + 1]
    found = (here * (1 - fy) + up * fy) * (1 - fx) + (right * (1 - fy) + across * fy) * fx
    return found[..., :1], found[..., 1:]


@lru_cache(maxsize=4)
def _tables(device: torch.device, dtype: torch.dtype) -> Tensor:
    return _brdf_table().to(device, dtype).reshape(-1, 2)
