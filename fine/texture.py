"""The plain material: albedo alone, a hash field over space that starts from a colour field."""

from __future__ import annotations

import torch
from torch import Tensor

from ..common.fields.field import HashField, grow
from .material import Layers, Material


class Texture(Material):
    """Albedo `[N, 3]` in [0, 1] of world points `[N, 3]`."""

    def __init__(self, field: HashField) -> None:
        super().__init__()
        self.field = field

    def forward(self, points: Tensor) -> Tensor:
        return torch.sigmoid(self.field(points))

    def layers(self, points: Tensor, normals: Tensor) -> Layers:
        """The albedo; where more is asked for, it is matt and no metal."""
        albedo = self(points)
        none = torch.zeros_like(albedo[:, :1])
        return Layers(albedo, normals, none + 1.0, none)


def texture_of(color: HashField, extra_levels: int) -> Texture:
    """A texture equal to a colour field, with room for finer detail.

    color: three outputs, the albedo's logits. extra_levels: finer hash-grid levels to add, which
    change nothing until they learn.
    """
    # Two fields were drawn here before the colour field brought its shape along; that they still
    # are leaves the random numbers of a seed, and so a run's bits, as they were.
    grid, hidden = color.grid.config, color.hidden.out_features
    HashField(grid, hidden, outputs=4)
    own = HashField(grid, hidden, color.out.out_features)
    own.load_state_dict(color.state_dict())
    return Texture(grow(own, extra_levels))
