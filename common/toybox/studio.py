"""The photo studio of the toybox: how the truth of a caption looks from a camera.

One lamp, in the camera; a little light from everywhere; a magenta backdrop. (Where skies are given
they are the light instead, and show what the toy's paints are made of.) Whatever learns or
knows the toybox's views (the exact prior, the embedded one) speaks of these pictures, so a run that
it guides renders under the same light and before the same backdrop (`configs/toybox.yaml`).

Magenta is the colour farthest from every paint of the toybox in every shade. Before a grey one, the
rim of a white or cream part, which turns grey as it turns away, could melt into the backdrop at no
cost, and stems and bellies came out thin.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..light.shading import lit_by_sky
from ..light.skies import Skies
from ..rasterize import (
    Raster,
    antialias,
    interpolate,
    rasterize,
    scatter_image,
    surface_image,
)
from ..scene.cameras import Cameras
from ..scene.shading import headlights, shade
from .objects import ToyObject

Color = tuple[float, float, float]

AMBIENT = 0.35
BACKDROP = (1.0, 0.0, 1.0)
WHITE = (1.0, 1.0, 1.0)
"""The backdrop of reference images."""


@torch.no_grad()
def photograph(
    toy: ToyObject,
    cameras: Cameras,
    resolution: int,
    window: Tensor | None = None,
    backdrop: Color = BACKDROP,
    skies: Skies | None = None,
) -> Tensor:
    """Lit, antialiased views `[B, resolution, resolution, 3]` of a toy, sRGB in [0, 1].

    window: `window_matrix` rows `[B, 4, 4]`, for pictures of parts of the views. skies: what lights
    the toy in place of the lamp.
    """
    raster, points, albedo = _surface(toy, cameras, resolution, window)
    # Smooth normals: bevels carry the edges, and the facets of round parts are not the toy's.
    normals = F.normalize(interpolate(toy.normals, raster), dim=-1)
    if skies is None:
        lamp = headlights(cameras.position, AMBIENT)
        colors = shade(albedo, normals, points, lamp, raster.view)
    else:
        rough, metal = toy.finish(raster.face).split(1, dim=-1)
        eye = F.normalize(cameras.position[raster.view] - points, dim=-1)
        colors = lit_by_sky(albedo, rough, metal, normals, eye, skies, raster.view)
    return _compose(toy, colors, raster, backdrop)


def cutouts(toy: ToyObject, cameras: Cameras, resolution: int) -> Tensor:
    """Lit views `[B, H, W, 4]` of a toy without a backdrop: straight colours, and alpha."""
    black = photograph(toy, cameras, resolution, backdrop=(0.0, 0.0, 0.0))
    white = photograph(toy, cameras, resolution, backdrop=WHITE)
    alpha = (1.0 - (white - black).mean(dim=-1, keepdim=True)).clamp(0.0, 1.0)
    return torch.cat([(black / alpha.clamp_min(1e-3)).clamp(0.0, 1.0), alpha], dim=-1)


@torch.no_grad()
def albedo_views(
    toy: ToyObject, cameras: Cameras, resolution: int, backdrop: Color
) -> tuple[Tensor, Tensor]:
    """Unlit views `[B, H, W, 3]` of a toy and their silhouettes, bool `[B, H, W]`."""
    raster, _, albedo = _surface(toy, cameras, resolution)
    return _compose(toy, albedo, raster, backdrop), raster.face_index >= 0


@torch.no_grad()
def surface_views(toy: ToyObject, cameras: Cameras, resolution: int) -> Tensor:
    """What the views see of a toy's surface: `[B, H, W, 7]`, see `surface_image`."""
    mesh = toy.mesh
    raster = rasterize(mesh.vertices, mesh.faces, cameras.mvp(), resolution, resolution)
    normals = F.normalize(interpolate(toy.normals, raster), dim=-1)
    return surface_image(interpolate(mesh.vertices, raster), normals, raster)


def _surface(
    toy: ToyObject, cameras: Cameras, resolution: int, window: Tensor | None = None
) -> tuple[Raster, Tensor, Tensor]:
    mesh = toy.mesh
    mvp = cameras.mvp() if window is None else window @ cameras.mvp()
    raster = rasterize(mesh.vertices, mesh.faces, mvp, resolution, resolution)
    points = interpolate(mesh.vertices, raster)
    return raster, points, toy.albedo(points, raster.face)


def _compose(toy: ToyObject, colors: Tensor, raster: Raster, backdrop: Color) -> Tensor:
    background = torch.tensor(backdrop, device=colors.device)
    return antialias(scatter_image(colors, raster, background), raster, toy.opposite)
