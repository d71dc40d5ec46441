"""The NeRF of the coarse stage: density, albedo and normals of points in space."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..common.config.models import FieldConfig
from ..common.device import constant
from ..common.fields.field import HashField

# Corners of a tetrahedron: four samples give a gradient where central differences take six.
_STENCIL = ((1.0, -1.0, -1.0), (-1.0, -1.0, 1.0), (-1.0, 1.0, -1.0), (1.0, 1.0, 1.0))


class RadianceField(nn.Module):
    """density = s softplus(raw + bias (1 - |x| / radius)), albedo = sigmoid(raw).

    Magic3D (sec. 4.1) has s = 1.

    Magic3D predicts normals with a second network because finite differences of a 4096-cell hash
    grid are noise; coarser grids can do with finite differences, which tie shading to the shape.
    """

    def __init__(self, config: FieldConfig) -> None:
        super().__init__()
        self.config = config
        self.body = HashField(config.grid, config.hidden, outputs=4)
        self.normal_head: nn.Sequential | None = None
        if config.normals == "predicted":
            self.normal_head = nn.Sequential(
                nn.Linear(config.grid.width, config.hidden), nn.ReLU(), nn.Linear(config.hidden, 3)
            )

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Density `[N]` and albedo `[N, 3]` in [0, 1] of world points `[N, 3]`."""
        raw = self.body(points)
        density = F.softplus(raw[:, 0] + self.bias(points))
        return self.config.density_scale * density, torch.sigmoid(raw[:, 1:4])

    def density(self, points: Tensor) -> Tensor:
        """Density `[N]`, per world unit of length."""
        return self.config.density_scale * F.softplus(self.logit(points))

    def logit(self, points: Tensor) -> Tensor:
        """What the softplus turns into density, `[N]`."""
        return self.body(points)[:, 0] + self.bias(points)

    def bias(self, points: Tensor) -> Tensor:
        """Magic3D's spatial bias: a blob in the middle to start from, `[N]`."""
        radius = torch.linalg.norm(points, dim=-1)
        return self.config.density_bias * (1.0 - radius / self.config.density_radius)

    def normals(self, points: Tensor, eps: float) -> Tensor:
        """Unit normals `[N, 3]`, towards falling density.

        Finite differences are taken of the logit, whose gradient has the density's direction
        without its huge range: sum_k s_k f(x + eps s_k) over the corners s_k of a tetrahedron is
        4 eps grad f to first order.
        """
        if self.normal_head is not None:
            return F.normalize(self.normal_head(self.body.encode(points)), dim=-1)
        corners = constant(_STENCIL, points.device, points.dtype)
        taps = (points[:, None] + eps * corners).reshape(-1, 3)
        values = self.logit(taps).reshape(-1, 4)
        return F.normalize(-(values @ corners), dim=-1)
