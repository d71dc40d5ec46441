"""The texture of the fine stage: a hash field over space that starts from the coarse albedo."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..common.config.models import FieldConfig
from ..common.fields.field import HashField, grid_config, grow

_ALBEDO = slice(1, 4)  # outputs of the coarse field: density logit, then three albedo logits


class Texture(nn.Module):
    """Albedo `[N, 3]` in [0, 1] of world points `[N, 3]`."""

    def __init__(self, field: HashField) -> None:
        super().__init__()
        self.field = field

    def forward(self, points: Tensor) -> Tensor:
        return torch.sigmoid(self.field(points))


def texture_from_coarse(
    state: Mapping[str, Tensor], config: FieldConfig, extra_levels: int
) -> Texture:
    """A texture equal to the coarse field's albedo, with room for finer detail.

    state: the coarse field's parameters; config: what it was built from; extra_levels: finer
    hash-grid levels to add, which change nothing until they learn.
    """
    coarse = HashField(grid_config(config.grid), config.hidden, outputs=4)
    coarse.load_state_dict(dict(state))
    albedo = HashField(grid_config(config.grid), config.hidden, outputs=3)
    albedo.grid.load_state_dict(coarse.grid.state_dict())
    albedo.hidden.load_state_dict(coarse.hidden.state_dict())
    with torch.no_grad():
        albedo.out.weight.copy_(coarse.out.weight[_ALBEDO])
        albedo.out.bias.copy_(coarse.out.bias[_ALBEDO])
    return Texture(grow(albedo, extra_levels))
