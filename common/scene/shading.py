"""Shading of surface points: albedo, textureless or Lambertian under one point light.

colour = a (k_a + (1 - k_a) max(0, n . l)), with a the albedo (white if textureless), k_a the
ambient share and l the unit vector towards the lamp (DreamFusion, Poole 2023, sec. 3.1, with the
two light colours summing to white so that a colour never leaves [0, 1]).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from ..device import send

ALBEDO, TEXTURELESS, LAMBERTIAN = 0, 1, 2


@dataclass(frozen=True)
class Lights:
    """One lamp for each of B views.

    position: world, `[B, 3]`. ambient: share of light from everywhere, `[B]` in [0, 1].
    mode: int64 `[B]`, ALBEDO, TEXTURELESS or LAMBERTIAN.
    """

    position: Tensor
    ambient: Tensor
    mode: Tensor
    _mode_at_home: Tensor | None = field(default=None, compare=False, repr=False, kw_only=True)

    def to(self, device: torch.device | str) -> Lights:
        """The same lamps on `device`; those that leave the CPU remember their modes there."""
        moved = (send(t, device) for t in (self.position, self.ambient, self.mode))
        home = self._mode_at_home
        if home is None and self.mode.device.type == "cpu":
            home = self.mode
        return Lights(*moved, _mode_at_home=home)

    def rows(self, own: slice) -> Lights:
        """Some of the lamps; whether any view is shaded is still said of all."""
        home = self.mode if self._mode_at_home is None else self._mode_at_home
        return Lights(self.position[own], self.ambient[own], self.mode[own], _mode_at_home=home)

    def need_normals(self) -> bool:
        """Whether any view is shaded at all."""
        mode = self.mode if self._mode_at_home is None else self._mode_at_home
        return bool((mode != ALBEDO).any())


def shade(
    albedo: Tensor,
    normals: Tensor,
    points: Tensor,
    lights: Lights,
    view: Tensor,
    opacity: Tensor | None = None,
) -> Tensor:
    """Colours of surface points, `[P, 3]`.

    albedo: `[P, 3]` in [0, 1]; normals: unit `[P, 3]`; points: world `[P, 3]`;
    view: int64 `[P]`, the row of `lights` that each point is seen under;
    opacity: `[P, 1]` where the albedo comes multiplied with it (as volume rendering leaves it).
    """
    mode = lights.mode[view][:, None]
    towards = F.normalize(lights.position[view] - points, dim=-1)
    diffuse = (normals * towards).sum(dim=-1, keepdim=True).clamp_min(0.0)
    ambient = lights.ambient[view][:, None]
    light = ambient + (1.0 - ambient) * diffuse
    white = torch.ones_like(albedo) if opacity is None else opacity.expand_as(albedo)
    base = torch.where(mode == TEXTURELESS, white, albedo)
    return torch.where(mode == ALBEDO, albedo, base * light)


def headlights(position: Tensor, ambient: float) -> Lights:
    """Lambertian lamps that sit in the cameras at `position` `[B, 3]`."""
    count = position.shape[0]
    return Lights(
        position,
        torch.full((count,), ambient, dtype=position.dtype, device=position.device),
        torch.full((count,), LAMBERTIAN, dtype=torch.long, device=position.device),
        _mode_at_home=torch.full((count,), LAMBERTIAN),
    )
