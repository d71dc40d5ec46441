"""Cameras on an orbit around the origin: the one camera type of both stages.

World: right-handed, Z up, the front of an object looks along +X. Azimuth 0 sees the front and grows
counter-clockwise seen from above; elevation 0 is the horizon. Radians inside, degrees in configs.
A camera looks along its own -Z with +Y up (OpenGL). Row 0 of an image is its top; pixel centres lie
at half-integers. Clip space is OpenGL's: visible points have |x|, |y|, |z| <= w.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from ..device import send

NEAR, FAR = 0.1, 20.0


@dataclass(frozen=True)
class Cameras:
    """A batch of B pinhole cameras that look at the origin.

    azimuth, elevation, fovy: radians `[B]` (fovy is the vertical field of view).
    distance: from the origin, world units `[B]`.
    """

    azimuth: Tensor
    elevation: Tensor
    distance: Tensor
    fovy: Tensor
    _at_home: Cameras | None = field(default=None, compare=False, repr=False, kw_only=True)

    def __len__(self) -> int:
        return self.azimuth.shape[0]

    def __getitem__(self, index: slice | Tensor) -> Cameras:
        return Cameras(
            self.azimuth[index], self.elevation[index], self.distance[index], self.fovy[index]
        )

    @staticmethod
    def cat(parts: Sequence[Cameras]) -> Cameras:
        """The cameras of several batches, one after the other."""
        return Cameras(
            torch.cat([c.azimuth for c in parts]),
            torch.cat([c.elevation for c in parts]),
            torch.cat([c.distance for c in parts]),
            torch.cat([c.fovy for c in parts]),
        )

    def to(self, device: torch.device | str) -> Cameras:
        """The same cameras on `device`; those that leave the CPU remember themselves there."""
        return Cameras(
            send(self.azimuth, device),
            send(self.elevation, device),
            send(self.distance, device),
            send(self.fovy, device),
            _at_home=self if self.azimuth.device.type == "cpu" else self._at_home,
        )

    @property
    def at_home(self) -> Cameras:
        """The same cameras on the CPU: what is decided by their values waits for no device."""
        if self.azimuth.device.type == "cpu":
            return self
        return self._at_home or self.to("cpu")

    def turned(self, angle: float) -> Cameras:
        """The same cameras carried around the Z axis by an angle, radians."""
        if angle == 0.0:
            return self
        home = None if self._at_home is None else self._at_home.turned(angle)
        return Cameras(
            self.azimuth + angle, self.elevation, self.distance, self.fovy, _at_home=home
        )

    @property
    def position(self) -> Tensor:
        """World positions `[B, 3]`."""
        return self.distance[:, None] * spherical_direction(self.azimuth, self.elevation)

    @property
    def c2w(self) -> Tensor:
        """Camera-to-world matrices `[B, 4, 4]`: columns right, up, backward, position."""
        backward = spherical_direction(self.azimuth, self.elevation)
        # The right vector follows from the azimuth alone, so it is defined at the poles as well.
        zero = torch.zeros_like(self.azimuth)
        right = torch.stack([-self.azimuth.sin(), self.azimuth.cos(), zero], dim=-1)
        up = torch.linalg.cross(backward, right)
        c2w = torch.zeros(len(self), 4, 4, dtype=self.azimuth.dtype, device=self.azimuth.device)
        c2w[:, :3, 0], c2w[:, :3, 1], c2w[:, :3, 2] = right, up, backward
        c2w[:, :3, 3], c2w[:, 3, 3] = self.position, 1.0
        return c2w

    def projection(self, aspect: float = 1.0) -> Tensor:
        """Perspective matrices `[B, 4, 4]` (OpenGL clip space); `aspect` is width / height."""
        f = 1.0 / torch.tan(0.5 * self.fovy)
        p = torch.zeros(len(self), 4, 4, dtype=f.dtype, device=f.device)
        p[:, 0, 0], p[:, 1, 1] = f / aspect, f
        p[:, 2, 2] = -(FAR + NEAR) / (FAR - NEAR)
        p[:, 2, 3] = -2.0 * FAR * NEAR / (FAR - NEAR)
        p[:, 3, 2] = -1.0
        return p

    def mvp(self, aspect: float = 1.0) -> Tensor:
        """World-to-clip matrices `[B, 4, 4]`: `clip = mvp @ (x, y, z, 1)`."""
        return self.projection(aspect) @ rigid_inverse(self.c2w)

    def rays(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Origins and unit directions through pixel centres, both `[B, height, width, 3]`."""
        dtype, device = self.azimuth.dtype, self.azimuth.device
        y = 1.0 - (torch.arange(height, dtype=dtype, device=device) + 0.5) * (2.0 / height)
        x = (torch.arange(width, dtype=dtype, device=device) + 0.5) * (2.0 / width) - 1.0
        half = torch.tan(0.5 * self.fovy)[:, None, None]
        grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
        camera = torch.stack(
            torch.broadcast_tensors(
                grid_x * half * (width / height), grid_y * half, -torch.ones_like(half)
            ),
            dim=-1,
        )
        c2w = self.c2w
        directions = F.normalize(torch.einsum("bij,bhwj->bhwi", c2w[:, :3, :3], camera), dim=-1)
        origins = c2w[:, None, None, :3, 3].expand_as(directions)
        return origins, directions


def window_matrix(height: int, width: int, top: int, left: int, rows: int, columns: int) -> Tensor:
    """The clip-space matrix `[4, 4]` that makes a window of a picture the whole picture.

    `window @ mvp`, rendered at `[rows, columns]`, shows what pixels `[top : top + rows, left : left
    + columns]` of `mvp` show at `[height, width]`.
    """
    x, y = width / columns, height / rows
    matrix = torch.eye(4)
    matrix[0, 0], matrix[0, 3] = x, x - 2.0 * left / columns - 1.0
    matrix[1, 1], matrix[1, 3] = y, 1.0 - y + 2.0 * top / rows
    return matrix


def spherical_direction(azimuth: Tensor, elevation: Tensor) -> Tensor:
    """Unit vectors `[..., 3]` towards azimuth and elevation (radians)."""
    return torch.stack(
        [
            elevation.cos() * azimuth.cos(),
            elevation.cos() * azimuth.sin(),
            elevation.sin(),
        ],
        dim=-1,
    )


def rigid_inverse(matrix: Tensor) -> Tensor:
    """Inverse of rotation-and-translation matrices `[B, 4, 4]`."""
    inverse = torch.zeros_like(matrix)
    rotation = matrix[:, :3, :3].transpose(1, 2)
    inverse[:, :3, :3] = rotation
    inverse[:, :3, 3] = -(rotation @ matrix[:, :3, 3:])[..., 0]
    inverse[:, 3, 3] = 1.0
    return inverse


def orbit(
    count: int,
    elevation_deg: float = 15.0,
    distance: float = 3.0,
    fovy_deg: float = 40.0,
    device: torch.device | str = "cpu",
) -> Cameras:
    """`count` cameras evenly around the object, the first one in front."""
    azimuth = torch.arange(count, dtype=torch.float32, device=device) * (2 * math.pi / count)
    fill = torch.ones_like(azimuth)
    return Cameras(
        azimuth, fill * math.radians(elevation_deg), fill * distance, fill * math.radians(fovy_deg)
    )


def sphere_views(
    count: int, distance: float = 3.0, fovy_deg: float = 40.0, device: torch.device | str = "cpu"
) -> Cameras:
    """`count` cameras spread evenly over the whole sphere (Fibonacci lattice)."""
    index = torch.arange(count, dtype=torch.float64)
    elevation = torch.asin(1.0 - 2.0 * (index + 0.5) / count)
    azimuth = torch.remainder(index * math.pi * (3.0 - math.sqrt(5.0)), 2 * math.pi)
    fill = torch.ones(count, device=device)
    return Cameras(
        azimuth.float().to(device),
        elevation.float().to(device),
        fill * distance,
        fill * math.radians(fovy_deg),
    )
