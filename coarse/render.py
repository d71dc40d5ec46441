"""Rendering views of the NeRF: rays, samples, weights, colours."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..common import rooms
from ..common.device import indices_of
from ..common.scene.cameras import Cameras
from ..common.scene.shading import Lights, shade
from .background import Background
from .compositing import accumulate, render_weights
from .field import RadianceField
from .occupancy import Occupancy
from .ray_marching import Samples

TRANSMITTANCE_STOP = 1e-3  # what lies behind this little light is not evaluated with gradients
_HIT = 0.05  # opacity from which a ray has a surface point with a normal


@dataclass(frozen=True)
class Rendered:
    """Views of the NeRF.

    image: `[B, H, W, 3]`; behind: the background's colours, likewise; opacity: `[B, H, W]`; depth:
    distance along the ray, `[B, H, W]`; normals, directions: of the rays that have a surface point,
    `[P, 3]`; hit_opacity: theirs, `[P]`; samples: how many points were evaluated with gradients;
    hits: how many rays have a surface point. Within a step on a GPU (`common.rooms`) every ray has
    a row among the P, and those without a surface point an opacity of 0 there.
    """

    image: Tensor
    behind: Tensor
    opacity: Tensor
    depth: Tensor
    normals: Tensor
    directions: Tensor
    hit_opacity: Tensor
    samples: int
    hits: int | Tensor


def render_views(
    field: RadianceField,
    background: Background,
    occupancy: Occupancy,
    cameras: Cameras,
    lights: Lights,
    resolution: int,
    training: bool,
    normals: bool = False,
) -> Rendered:
    """Render square views (Mildenhall 2020, eq. 3) and shade one surface point a ray.

    Magic3D shades every sample; ours shades the accumulated albedo once, with the normal at the
    ray's expected depth. Where weights are concentrated both agree.

    normals: whether they are wanted even if no view is shaded.
    """
    origins, directions = (r.reshape(-1, 3) for r in cameras.rays(resolution, resolution))
    rays = origins.shape[0]
    samples = visible_samples(field, occupancy, origins, directions, jitter=training)
    middle, points = samples.midpoints, samples.points(origins, directions)
    density, albedo = field(points)
    weights = render_weights(density, samples.t_starts, samples.t_ends, samples.ray_indices, rays)
    packed = torch.cat([albedo, middle[:, None], torch.ones_like(middle)[:, None]], dim=-1)
    total = accumulate(weights, packed, samples.ray_indices, rays)  # (R, 5)
    color, depth, opacity = total[:, :3], total[:, 3], total[:, 4]

    hit, seen, hits = _hit(opacity.detach())
    facing = directions.new_zeros(0, 3)
    if (normals or lights.need_normals()) and hit.numel() > 0:
        distance = (depth[hit] / opacity[hit].clamp_min(_HIT)).detach()
        surface = origins[hit] + distance[:, None] * directions[hit]
        facing = field.normals(surface, eps=occupancy.step_size)
        view = hit // (resolution * resolution)
        shaded = shade(color[hit], facing, surface, lights, view, opacity[hit, None])
        if seen is not None:
            shaded = torch.where(seen[:, None], shaded, color)
        color = color.index_copy(0, hit, shaded)
    shape = (len(cameras), resolution, resolution)
    behind = background(directions.reshape(*shape, 3), random=training)
    image = color.reshape(*shape, 3) + (1.0 - opacity.reshape(*shape, 1)) * behind
    return Rendered(
        image=image,
        behind=behind,
        opacity=opacity.reshape(shape),
        depth=depth.reshape(shape),
        normals=facing,
        directions=directions[hit] if facing.shape[0] else facing,
        hit_opacity=_of_hits(opacity[hit], seen) if facing.shape[0] else opacity[:0],
        samples=points.shape[0],
        hits=hits,
    )


def _hit(opacity: Tensor) -> tuple[Tensor, Tensor | None, int | Tensor]:
    """The rays that have a surface point `[P]`, and how many they are.

    Within a step on a GPU all rays, and a mask of those that have one.
    """
    seen = opacity > _HIT
    if rooms.now() is None:
        hit = indices_of(seen)
        return hit, None, hit.shape[0]
    return torch.arange(seen.shape[0], device=seen.device), seen, seen.sum()


def _of_hits(opacity: Tensor, seen: Tensor | None) -> Tensor:
    """Opacities `[P]`, 0 for rays without a surface point."""
    return opacity if seen is None else torch.where(seen, opacity, 0.0)


def seen_surface(rendered: Rendered) -> Tensor:
    """Which pixels have a surface point with a normal, bool `[B, H, W]`, none if none was asked."""
    if rendered.normals.shape[0] == 0:
        return torch.zeros_like(rendered.opacity, dtype=torch.bool)
    return rendered.opacity.detach() > _HIT


@torch.no_grad()
def visible_samples(
    field: RadianceField,
    occupancy: Occupancy,
    origins: Tensor,
    directions: Tensor,
    jitter: bool,
) -> Samples:
    """Samples of rays in occupied cells, without those that hardly any light reaches.

    It takes a first look at the field, without gradients.
    """
    samples = occupancy.sample(origins, directions, jitter)
    if samples.t_starts.numel() == 0:
        return samples
    density = field.density(samples.points(origins, directions))
    weights = render_weights(
        density, samples.t_starts, samples.t_ends, samples.ray_indices, origins.shape[0]
    )
    opacity = 1.0 - torch.exp(-density * (samples.t_ends - samples.t_starts))
    # weight = transmittance * opacity; where the opacity is nothing, the weight says nothing either
    # and the sample is worth keeping for its gradient.
    keep = (weights > TRANSMITTANCE_STOP * opacity) | (opacity < 1e-6)
    return samples.kept(keep, origins.shape[0])
