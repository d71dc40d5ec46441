"""Losses of the coarse stage beside distillation: pure functions of what a render returns."""

from __future__ import annotations

from torch import Tensor


def orientation_loss(normals: Tensor, directions: Tensor, opacity: Tensor) -> Tensor:
    """Mean over rays of stopgrad(o) max(0, n . d)^2: visible normals must not face away.

    normals: unit `[P, 3]`; directions: unit, from the camera, `[P, 3]`; opacity: `[P]` in [0, 1].
    Ref-NeRF (Verbin 2022, eq. 11); theirs sums over the samples of a ray, ours looks at the one
    normal per ray that shading uses.
    """
    away = (normals * directions).sum(dim=-1).clamp_min(0.0)
    return (opacity.detach() * away**2).mean()


def opacity_loss(opacity: Tensor) -> Tensor:
    """Mean sqrt(o^2 + 0.01) of ray opacities: keeps empty space empty (DreamFusion, app. A)."""
    return (opacity**2 + 0.01).sqrt().mean()


def entropy_loss(opacity: Tensor) -> Tensor:
    """Mean binary entropy, in nats, of ray opacities in [0, 1]: rays either stop or pass."""
    o = opacity.clamp(1e-4, 1.0 - 1e-4)
    return -(o * o.log() + (1.0 - o) * (1.0 - o).log()).mean()
