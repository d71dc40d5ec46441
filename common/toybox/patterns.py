"""Stripes, dots and checks as functions of the surface point: sharp at every resolution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, assert_never

import torch
from torch import Tensor

from ..scene.mesh import Mesh, face_normals, sample_surface

Kind = Literal["striped", "dotted", "checkered"]

STRIPE = 0.15
"""Width of a stripe in world units; five pixels of the coarse stage."""
CHECK = 0.2
"""Edge of a check's cubes."""
DOT_RADIUS, DOT_SPACING = 0.105, 0.265
"""Radius of a dot, and the least distance between the middles of two."""
CANDIDATES = 2500
CHUNK = 16384  # points measured against all dots at once: keeps a 512 px view in a few tens of MB


@dataclass(frozen=True)
class Pattern:
    """Where the main paint gives way to the other colour.

    kind: of grammar.PATTERNS. axis: 0, 1, 2, the one along which stripes alternate.
    dots, normals: `[M, 3]` middles and surface normals of the dots (none for other kinds).
    """

    kind: Kind
    axis: int
    dots: Tensor
    normals: Tensor

    def to(self, device: torch.device | str) -> Pattern:
        """The same pattern with its tensors on `device`."""
        return Pattern(self.kind, self.axis, self.dots.to(device), self.normals.to(device))

    def covers(self, points: Tensor, normals: Tensor) -> Tensor:
        """Whether surface points `[N, 3]` with unit normals `[N, 3]` take the other colour `[N]`.

        Stripes and checks are centred on the origin, so that left and right match.
        """
        match self.kind:
            case "striped":
                return torch.floor(points[:, self.axis] / STRIPE + 0.5).long() % 2 == 1
            case "checkered":
                return torch.floor(points / CHECK + 0.5).long().sum(dim=-1) % 2 == 1
            case "dotted":
                return _in_dots(points, normals, self.dots, self.normals)
            case _:
                assert_never(self.kind)


def _in_dots(points: Tensor, normals: Tensor, dots: Tensor, dot_normals: Tensor) -> Tensor:
    """Whether points `[N, 3]` lie within a dot on their own side of the surface, `[N]`."""
    rows = []
    for p, n in zip(points.split(CHUNK), normals.split(CHUNK), strict=True):
        near = (p[:, None] - dots).square().sum(dim=-1) < DOT_RADIUS**2
        rows.append((near & (n @ dot_normals.T > 0)).any(dim=-1))
    return torch.cat(rows) if rows else torch.zeros(0, dtype=torch.bool, device=points.device)


def make_pattern(kind: Kind, axis: int, mesh: Mesh, primary: Tensor) -> Pattern:
    """The pattern of a mesh whose faces `primary` (bool `[F]`) carry the main paint.

    Dots are thrown at the main paint in a fixed order and kept where none is near: all of one
    size and spread evenly, never the same on two objects.
    """
    if kind != "dotted":
        return Pattern(kind, axis, torch.zeros(0, 3), torch.zeros(0, 3))
    faces = mesh.faces[primary]
    generator = torch.Generator().manual_seed(0)
    points, index = sample_surface(mesh.vertices, faces, CANDIDATES, generator)
    normals = face_normals(mesh.vertices, faces)[index]
    kept = _thinned(points, normals)
    return Pattern(kind, axis, points[kept], normals[kept])


def _thinned(points: Tensor, normals: Tensor) -> Tensor:
    """Indices of points kept in order, none within DOT_SPACING of another on its side, `[M]`.

    The two sides of a thin wall are spread apart from each other, as nobody sees both.
    """
    apart = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    rivals = (apart < DOT_SPACING) & (normals @ normals.T > -0.2)
    free = torch.ones(len(points), dtype=torch.bool)
    kept: list[int] = []
    while bool(free.any()):
        kept.append(int(free.int().argmax()))
        free &= ~rivals[kept[-1]]
    return torch.tensor(kept)
