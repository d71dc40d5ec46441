"""The metallic-roughness material: albedo, roughness, metallic, and normals of its own.

One field gives all of it (as in Fantasia3D, Chen 2023), and starts as the colour field that the
stage begins with, half rough and hardly metal. The quantities are glTF 2.0's, so that what is
learned is what is exported.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..common.config.material import PbrConfig
from ..common.fields.field import HashField
from .material import Finish, Layers, Material
from .texture import texture_of

OUTPUTS = 8  # albedo 3, roughness 1, metallic 1, normal 3
FIRST_METAL = -2.0
"""The first metallic's logit: .12, near enough to none, and not so near that nothing moves it."""


class Pbr(Material):
    """field: OUTPUTS values at a point; what they may become is `config`'s to say."""

    def __init__(self, field: HashField, config: PbrConfig) -> None:
        super().__init__()
        self.field, self.config = field, config

    def forward(self, points: Tensor) -> Tensor:
        return torch.sigmoid(self.field(points)[:, :3])

    def layers(self, points: Tensor, normals: Tensor) -> Layers:
        color, surface, push = self.field(points).split((3, 2, 3), dim=-1)
        low, high = self.config.roughness
        roughness, metallic = torch.sigmoid(surface).split(1, dim=-1)
        return Layers(
            torch.sigmoid(color),
            self._bent(push, normals),
            low + (high - low) * roughness,
            self.config.metallic * metallic,
        )

    def finish(self) -> Finish:
        """Roughness and metallic, and the normals if the material may bend them."""
        return Finish(self._surface, self._bend if self.config.bump else None)

    def _bent(self, push: Tensor, normals: Tensor) -> Tensor:
        """Unit normals pushed by `bump tanh(push)`; bump <= 1/2 keeps them on their own side."""
        if not self.config.bump:
            return normals
        return F.normalize(normals + self.config.bump * torch.tanh(push), dim=-1)

    @torch.no_grad()
    def _surface(self, points: Tensor) -> Tensor:
        points = points.to(self.field.out.weight.device)
        there = self.layers(points, torch.zeros_like(points))
        return torch.cat([there.roughness, there.metallic], dim=-1)

    @torch.no_grad()
    def _bend(self, points: Tensor, normals: Tensor) -> Tensor:
        points, normals = (x.to(self.field.out.weight.device) for x in (points, normals))
        return self._bent(self.field(points)[:, 5:], normals)


def pbr_of(color: HashField, extra_levels: int, config: PbrConfig) -> Pbr:
    """The material that a colour field begins as; see `texture_of`."""
    field = texture_of(color, extra_levels).field
    wide = nn.Linear(field.out.in_features, OUTPUTS).to(field.out.weight)
    with torch.no_grad():
        wide.weight.zero_()
        wide.bias.zero_()
        wide.weight[:3], wide.bias[:3] = field.out.weight, field.out.bias
        wide.bias[4] = FIRST_METAL
    field.out = wide
    return Pbr(field, config)
