"""The one mesh type, and the few measures of a triangle mesh that both stages need."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import rooms
from ..device import indices_of


@dataclass(frozen=True)
class Mesh:
    """A triangle mesh in world coordinates (Z up, front along +X).

    vertices: float32 `[V, 3]`.
    faces: int64 `[F, 3]`, counter-clockwise seen from outside.
    """

    vertices: Tensor
    faces: Tensor

    def __post_init__(self) -> None:
        if self.vertices.ndim != 2 or self.vertices.shape[1] != 3:
            raise ValueError(f"vertices: expected [V, 3], got {list(self.vertices.shape)}")
        if self.faces.ndim != 2 or self.faces.shape[1] != 3:
            raise ValueError(f"faces: expected [F, 3], got {list(self.faces.shape)}")

    def to(self, device: torch.device | str) -> Mesh:
        """The same mesh with its tensors on `device`."""
        return Mesh(self.vertices.to(device), self.faces.to(device))

    def detach(self) -> Mesh:
        """The same mesh outside the autograd graph."""
        return Mesh(self.vertices.detach(), self.faces)


def corners(vertices: Tensor, faces: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The three corners of faces, each `[F, 3]`."""
    rows = vertices.index_select(0, faces.reshape(-1)).view(-1, 3, 3)
    a, b, c = rows.unbind(dim=1)
    return a, b, c


def face_normals(vertices: Tensor, faces: Tensor, eps: float = 1e-12) -> Tensor:
    """Unit normals of faces, `[F, 3]`; zero for a face without area."""
    a, b, c = corners(vertices, faces)
    return F.normalize(torch.linalg.cross(b - a, c - a), dim=-1, eps=eps)


def face_areas(vertices: Tensor, faces: Tensor) -> Tensor:
    """Areas of faces in squared world units, `[F]`."""
    a, b, c = corners(vertices, faces)
    return 0.5 * torch.linalg.norm(torch.linalg.cross(b - a, c - a), dim=-1)


def vertex_normals(vertices: Tensor, faces: Tensor, eps: float = 1e-12) -> Tensor:
    """Area-weighted unit normals of vertices, `[V, 3]`; zero for a vertex of no face."""
    a, b, c = corners(vertices, faces)
    weighted = torch.linalg.cross(b - a, c - a)  # length is twice the area
    total = torch.zeros_like(vertices)
    for corner in range(3):
        total = total.index_add(0, faces[:, corner], weighted)
    return F.normalize(total, dim=-1, eps=eps)


def half_edges(faces: Tensor) -> tuple[Tensor, Tensor]:
    """The 3F half-edges, those of one edge side by side: a key of each edge, and the half-edges.

    Both int64 `[3F]`, ascending by key, which grows with the edge's lower vertex, then its upper
    one. Half-edge 3f + i runs from vertex i of face f to vertex i + 1. Raises ValueError for a
    wrong shape.
    """
    if faces.ndim != 2 or faces.shape[1] != 3:
        raise ValueError(f"faces: expected [F, 3], got {list(faces.shape)}")
    if faces.shape[0] == 0:
        return faces.new_zeros(0), faces.new_zeros(0)
    a, b = faces.reshape(-1), faces.roll(-1, dims=1).reshape(-1)
    key = torch.minimum(a, b) * (faces.max() + 1) + torch.maximum(a, b)
    return torch.sort(key, stable=True)


def adjacent_faces(faces: Tensor) -> Tensor:
    """Pairs of faces that share an edge, int64 `[E, 2]`, ascending by the edge's vertices.

    faces: int64 `[F, 3]`. On a closed surface E = 3F/2; the edges of a border have no pair. Where
    more than two faces meet in an edge, each is paired with the next. Raises ValueError for a
    wrong shape. Within a step on a GPU (`common.rooms`) E = 3F - 1, and what is no pair is a face
    beside itself.
    """
    key, half_edge = half_edges(faces)
    face = torch.div(half_edge, 3, rounding_mode="floor")
    if rooms.now() is not None:
        second = torch.where(key[1:] == key[:-1], face[1:], face[:-1])
        return torch.stack([face[:-1], second], dim=1)
    first = indices_of(key[1:] == key[:-1])
    return torch.stack([face[first], face[first + 1]], dim=1)


def opposite_vertices(faces: Tensor) -> Tensor:
    """The third vertex of the neighbouring face across each edge, int64 `[F, 3]`.

    faces: int64 `[F, 3]`. Edge i of a face runs from its vertex i to vertex i + 1. -1 where there
    is no neighbour, or more than one. Raises ValueError for a wrong shape.
    """
    key, half_edge = half_edges(faces)
    same = F.pad(key[1:] == key[:-1], (1, 1))  # whether a half-edge is of its predecessor's edge
    two = same[1:-1] & ~same[:-2] & ~same[2:]  # whether just two meet: this one and its successor
    first, second = F.pad(two, (0, 1)), F.pad(two, (1, 0))
    mate = torch.where(first, half_edge.roll(-1), half_edge.roll(1))
    third = faces.reshape(-1)[mate - mate % 3 + (mate + 2) % 3]
    third = torch.where(first | second, third, -1)
    return torch.empty_like(third).scatter_(0, half_edge, third).view(-1, 3)


def sample_surface(
    vertices: Tensor, faces: Tensor, count: int, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Points spread evenly by area: positions `[count, 3]` and the faces they lie on `[count]`."""
    areas = face_areas(vertices, faces).double()
    if faces.shape[0] == 0 or not float(areas.sum()) > 0:
        raise ValueError(f"a surface with area is needed to sample it, got {faces.shape[0]} faces")
    edges = torch.cumsum(areas, dim=0)
    draw = torch.rand(count, generator=generator, dtype=torch.float64, device=vertices.device)
    index = torch.searchsorted(edges, draw * edges[-1]).clamp_max(faces.shape[0] - 1)
    uv = torch.rand(count, 2, generator=generator, dtype=vertices.dtype, device=vertices.device)
    root = uv[:, :1].sqrt()  # uniform on the triangle: (1-r)a + r(1-v)b + r v c with r = sqrt(u)
    a, b, c = corners(vertices, faces[index])
    return (1 - root) * a + root * (1 - uv[:, 1:]) * b + root * uv[:, 1:] * c, index
