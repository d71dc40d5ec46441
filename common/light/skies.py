"""The surroundings of a batch of views: one sky each, turned somehow, and how bright it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import ranks
from ..config.material import SkyConfig
from ..device import send
from .sky import ANGLES, LEVELS, MOST, SKIES, tables


@dataclass(frozen=True)
class Skies:
    """The sky of each of B views.

    kind: int64 `[B]`, a row of `sky.SKIES`. turn: rotations `[B, 3, 3]` that take world directions
    to the sky's own. exposure: `[B]`, what its light is multiplied with.
    """

    kind: Tensor
    turn: Tensor
    exposure: Tensor

    def __len__(self) -> int:
        return self.kind.shape[0]

    def to(self, device: torch.device | str) -> Skies:
        """The same skies on `device`."""
        return Skies(*(send(t, device) for t in (self.kind, self.turn, self.exposure)))

    def __getitem__(self, index: slice | Tensor) -> Skies:
        return Skies(self.kind[index], self.turn[index], self.exposure[index])

    @staticmethod
    def cat(parts: Sequence[Skies]) -> Skies:
        """The skies of several batches, one after the other."""
        return Skies(
            torch.cat([s.kind for s in parts]),
            torch.cat([s.turn for s in parts]),
            torch.cat([s.exposure for s in parts]),
        )

    def turned(self, angle: float) -> Skies:
        """What they are to a world that is turned about Z by `angle` radians against this one."""
        if angle == 0.0:
            return self
        back = about_z(torch.full_like(self.exposure, -angle))
        return Skies(self.kind, self.turn @ back, self.exposure)

    def matt(self, normals: Tensor, view: Tensor) -> Tensor:
        """What a white matt surface reflects, linear `[P, 3]`: the irradiance over pi.

        normals: unit world directions `[P, 3]`. view: int64 `[P]`, the row of each point.
        """
        row = torch.full_like(view, LEVELS)[:, None]
        return self._light(normals, row, None, view)

    def mirrored(self, directions: Tensor, roughness: Tensor, view: Tensor) -> Tensor:
        """What a mirror of a roughness `[P, 1]` in [0, 1] shows of a direction, linear `[P, 3]`."""
        level = roughness.clamp(0.0, 1.0) * (LEVELS - 1)
        row = level.detach().floor().clamp_max(LEVELS - 2)
        return self._light(directions, row.long(), level - row, view)

    def _light(self, directions: Tensor, row: Tensor, up: Tensor | None, view: Tensor) -> Tensor:
        """The light of all lobes. up: how far `[P, 1]` to the table's next row, if at all."""
        known = tables(directions.device, directions.dtype)
        kind = self.kind[view]
        turned = (self.turn[view].to(directions.dtype) @ directions[..., None])[..., 0]
        total = torch.zeros_like(directions)
        flat = known.values.view(-1)
        for lobe in range(MOST):
            cosine = (known.axes[kind, lobe] * turned).sum(dim=-1, keepdim=True).clamp(-1.0, 1.0)
            x = (cosine + 1.0) * (0.5 * (ANGLES - 1))
            left = x.detach().floor().clamp_max(ANGLES - 2)
            fx = x - left
            table = (kind * MOST + lobe)[:, None] * (LEVELS + 1) + row
            at = table * ANGLES + left.long()
            strength = flat[at] * (1.0 - fx) + flat[at + 1] * fx
            if up is not None:
                above = at + ANGLES
                higher = flat[above] * (1.0 - fx) + flat[above + 1] * fx
                strength = strength * (1.0 - up) + higher * up
            total = total + strength * known.colors[kind, lobe]
        return total * self.exposure[view].to(directions.dtype)[:, None]


def studio_skies(count: int, device: torch.device | str = "cpu") -> Skies:
    """The skies of pictures that people look at: the first one, as it stands."""
    kind = torch.zeros(count, dtype=torch.long)
    return Skies(kind, torch.eye(3).expand(count, 3, 3), torch.ones(count)).to(device)


def sample_skies(
    config: SkyConfig, count: int, device: torch.device | str = "cpu", group: int = 1
) -> Skies:
    """Skies of `count` views of a step, drawn on the CPU, moved to `device`.

    Any of them, turned about Z at random and then tilted by up to `config.tilt`, so that no side of
    an object is always the lit one. Of several processes at a run each gets its own rows. group:
    how many views in a row share one.
    """
    number = count // group
    kind = torch.randint(len(SKIES), (number,))
    yaw, lean = torch.rand(number) * (2 * math.pi), torch.rand(number) * (2 * math.pi)
    tilt = torch.rand(number).sqrt() * math.radians(config.tilt)
    low, high = config.exposure
    exposure = low + torch.rand(number) * (high - low)
    turn = about_z(yaw) @ about_z(-lean) @ _about_x(tilt) @ about_z(lean)
    drawn = Skies(kind, turn, exposure)[torch.arange(number).repeat_interleave(group)]
    return drawn[ranks.rows(len(drawn))].to(device)


def about_z(angle: Tensor) -> Tensor:
    """Rotations `[B, 3, 3]` by radians `[B]` about Z, counter-clockwise seen from above."""
    zero, one = torch.zeros_like(angle), torch.ones_like(angle)
    rows = [angle.cos(), -angle.sin(), zero, angle.sin(), angle.cos(), zero, zero, zero, one]
    return torch.stack(rows, dim=-1).view(-1, 3, 3)


def _about_x(angle: Tensor) -> Tensor:
    zero, one = torch.zeros_like(angle), torch.ones_like(angle)
    rows = [one, zero, zero, zero, angle.cos(), -angle.sin(), zero, angle.sin(), angle.cos()]
    return torch.stack(rows, dim=-1).view(-1, 3, 3)
