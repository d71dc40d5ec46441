"""What a ray sees where the object does not stop it."""

from __future__ import annotations

import math
from typing import assert_never

import torch
from torch import Tensor, nn

from ..common import ranks
from ..common.config.models import BackgroundConfig
from ..common.device import constant, send

_OCTAVES = 4


class Background(nn.Module):
    """Colours by ray direction: one solid colour, a random one a view, or a small environment MLP.

    The MLP learns at a tenth of the field's rate (Magic3D, sec. 4.1), else it paints the object.
    """

    def __init__(self, config: BackgroundConfig) -> None:
        super().__init__()
        self.config = config
        self.layers: nn.Sequential | None = None
        if config.kind == "environment":
            self.layers = nn.Sequential(
                nn.Linear(6 * _OCTAVES, config.hidden), nn.ReLU(), nn.Linear(config.hidden, 3)
            )

    def forward(self, directions: Tensor, random: bool) -> Tensor:
        """Colours `[B, H, W, 3]` in [0, 1] for unit directions `[B, H, W, 3]`.

        random: whether a `random` background draws its colours (training) or shows its solid one.
        """
        solid = constant(tuple(self.config.color), directions.device).expand_as(directions)
        match self.config.kind:
            case "solid":
                return solid
            case "random":
                if not random:
                    return solid
                colors = ranks.drawn(torch.rand, directions.shape[0], 1, 1, 3)
                return send(colors, directions.device).expand_as(directions)
            case "environment":
                assert self.layers is not None
                return torch.sigmoid(self.layers(_frequencies(directions)))
            case _:
                assert_never(self.config.kind)


def _frequencies(directions: Tensor) -> Tensor:
    """Sines and cosines of octaves, `[..., 6 * _OCTAVES]` (Mildenhall 2020, eq. 4)."""
    scales = math.pi * 2.0 ** torch.arange(_OCTAVES, device=directions.device)
    angles = (directions[..., None] * scales).flatten(start_dim=-2)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
