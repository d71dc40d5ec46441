"""Soft symmetry about the plane of front and up: left and right of an object look alike.

Most objects that have a front have this symmetry, and a face on a shoulder breaks it; one on the
back does not, so it helps beside other remedies. A loss with a weight, by choice: a teapot's handle
may stay where it is. Such priors are common in shape from one view (Wu 2020, "Unsupervised
Learning of Probably Symmetric Deformable 3D Objects", for images); ours compares the field itself.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Field = Callable[[Tensor], tuple[Tensor, Tensor]]
POINTS = 4096


def mirrored(points: Tensor) -> Tensor:
    """World points `[N, 3]` on the other side of the plane y = 0: the front looks along +X."""
    return points * points.new_tensor([1.0, -1.0, 1.0])


def symmetry_loss(field: Field, points: Tensor, thickness: float) -> Tensor:
    """How unlike a field is to its mirror image at points `[N, 3]`, a mean over them.

    field: gives density `[N]` and albedo `[N, 3]`. thickness: of a step of a ray, so that
    `o = 1 - exp(-density * thickness)` is how much of it a point covers: `(o - o')^2`, and where
    both cover something, `min(o, o') |c - c'|^2` of the colours, whose gradient leaves o alone.
    """
    density, albedo = field(torch.cat([points, mirrored(points)]))
    cover, other = (1.0 - torch.exp(-density * thickness)).chunk(2)
    color, mirror = albedo.chunk(2)
    both = torch.minimum(cover, other).detach()
    return ((cover - other).square() + both * (color - mirror).square().sum(dim=-1)).mean()


def points_in_ball(count: int, radius: float, device: torch.device) -> Tensor:
    """`count` points, even in a ball, drawn on the CPU."""
    direction = torch.nn.functional.normalize(torch.randn(count, 3), dim=-1)
    away = radius * torch.rand(count, 1).pow(1.0 / 3.0)
    return (direction * away).to(device, non_blocking=True)
