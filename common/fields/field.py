"""A neural field: a hash grid and a small network on top of it.

The coarse stage's NeRF and the fine stage's texture are both of this one kind, so that the texture
can start from the very albedo that the NeRF ended with.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..backends import multiplying
from ..config.fields import HashGridConfig
from .hashgrid import HashGrid, extend

EXTENT = 1.0  # fields live on the cube [-EXTENT, EXTENT]^3


class HashField(nn.Module):
    """World points `[N, 3]` to raw values `[N, outputs]`: hash grid, one hidden layer, ReLU."""

    def __init__(self, grid: HashGridConfig, hidden: int, outputs: int) -> None:
        super().__init__()
        self.grid = HashGrid(grid)
        self.hidden = nn.Linear(grid.width, hidden)
        self.out = nn.Linear(hidden, outputs)

    def shape(self) -> Tensor:
        """What `blank` makes a field of this shape of, int64 `[S]`."""
        grid = self.grid.config
        return torch.tensor([*dict(grid).values(), self.hidden.out_features, self.out.out_features])

    @staticmethod
    def blank(shape: Tensor) -> HashField:
        """A field of the shape that `shape` told; its values are for `load_state_dict` to bring.

        Raises ValueError for numbers that are no shape.
        """
        names = list(HashGridConfig.model_fields)
        if shape.shape != (len(names) + 2,):
            raise ValueError(f"shape: expected [{len(names) + 2}] numbers, got {shape.tolist()}")
        *grid, hidden, outputs = shape.tolist()
        return HashField(HashGridConfig(**dict(zip(names, grid, strict=True))), hidden, outputs)

    def encode(self, points: Tensor) -> Tensor:
        """Hash-grid features `[N, levels * features]` of world points; outside points clamp."""
        return self.grid((points / (2.0 * EXTENT) + 0.5).clamp(0.0, 1.0))

    def forward(self, points: Tensor) -> Tensor:
        features = self.encode(points)
        with multiplying(points.device):
            raw = self.out(F.relu(self.hidden(features)))
        return raw.to(features.dtype)


def grow(field: HashField, extra_levels: int) -> HashField:
    """The same function with `extra_levels` finer grid levels that do nothing yet.

    The new levels' features meet new columns of the hidden layer. Features start at zero and
    columns at random, so the field's values are unchanged while the features receive a gradient.
    """
    if extra_levels == 0:
        return field
    tables, config = extend(field.grid.tables.detach(), field.grid.config, extra_levels)
    grown = HashField(config, field.hidden.out_features, field.out.out_features)
    kept = field.hidden.in_features
    with torch.no_grad():
        grown.grid.tables.copy_(tables)
        grown.hidden.weight[:, :kept] = field.hidden.weight
        grown.hidden.bias.copy_(field.hidden.bias)
        grown.out.load_state_dict(field.out.state_dict())
    return grown
