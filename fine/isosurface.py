"""Marching tetrahedra: the triangle surface where a field on a tetrahedral grid changes sign.

Sign convention: `sdf < 0` inside, `sdf >= 0` outside (zero counts as outside, so every edge is
either crossed or not and never touched). Tetrahedra are positively oriented,
`det(v1-v0, v2-v0, v3-v0) > 0`, and faces come out counter-clockwise seen from outside.

Which edges are crossed and how they join into faces depends on signs alone and has no gradient;
it has a torch form and a numba twin with the same result, order included. Where the surface crosses
an edge is a smooth function of field and vertices, and is plain torch.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, assert_never

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ..common import rooms
from ..common.backends import Twin, everywhere, first_line, numba_obstacle, pick
from ..common.device import Waiting, constant
from ..common.errors import UserError
from .tetgrid import TetGrid

Backend = Literal["own", "kaolin"]

# The edges of a tetrahedron, and the triangles of each of the 16 sign cases as triples of edges.
# A case is the sum of 2^i over the vertices i inside.
TET_EDGES = ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))
TRIANGLES: tuple[tuple[tuple[int, int, int], ...], ...] = (
    (),
    ((0, 1, 2),),  # 0
    ((0, 4, 3),),  # 1
    ((1, 2, 4), (1, 4, 3)),  # 0 1
    ((5, 1, 3),),  # 2
    ((2, 0, 3), (2, 3, 5)),  # 0 2
    ((0, 4, 5), (0, 5, 1)),  # 1 2
    ((5, 2, 4),),  # 0 1 2
    ((5, 4, 2),),  # 3
    ((0, 1, 5), (0, 5, 4)),  # 0 3
    ((3, 0, 2), (3, 2, 5)),  # 1 3
    ((5, 3, 1),),  # 0 1 3
    ((1, 3, 4), (1, 4, 2)),  # 2 3
    ((0, 3, 4),),  # 0 2 3
    ((0, 2, 1),),  # 1 2 3
    (),
)
COUNTS = tuple(len(case) for case in TRIANGLES)
CORNERS = tuple((*case, *((0, 0, 0),) * (2 - len(case))) for case in TRIANGLES)
_COUNT = np.array(COUNTS, dtype=np.int64)
_EDGES = np.array(TET_EDGES, dtype=np.int64)
_CORNERS = np.array(CORNERS, dtype=np.int64)


KAOLIN_MISSING = (
    "kaolin isn't installed, or not for this torch; install it as its pages say (the package of "
    "that name in the public registry is a placeholder)"
)


class Isosurface(NamedTuple):
    """A surface and the lattice edges it was cut from.

    vertices: `[S, 3]`, differentiable. faces: int64 `[F, 3]`, counter-clockwise from outside.
    edges: int64 `[S, 2]`, the lattice edge of each surface vertex, lower id first, ascending.
    """

    vertices: Tensor
    faces: Tensor
    edges: Tensor

    def detach(self) -> Isosurface:
        """The same surface outside the autograd graph."""
        return self._replace(vertices=self.vertices.detach())


def marching_tetrahedra(vertices: Tensor, sdf: Tensor, tets: Tensor) -> Isosurface:
    """The zero surface of a piecewise linear field, differentiable in vertices and field.

    vertices: float `[V, 3]`. sdf: float `[V]`, negative inside, zero is outside. tets: int64
    `[T, 4]`, positively oriented. An empty surface is a result like any other, with zero-sized
    tensors. The surface is closed when no boundary vertex of the grid is inside. Surface vertices
    are ordered by their lattice edge, faces by their tetrahedron. Raises ValueError for wrong
    shapes.

    DMTet (Shen 2021, section 3.1 and eq. 3).
    """
    if vertices.ndim != 2 or vertices.shape[1] != 3:
        raise ValueError(f"vertices: expected [V, 3], got {list(vertices.shape)}")
    if sdf.shape != vertices.shape[:1]:
        raise ValueError(f"sdf: expected [{vertices.shape[0]}], got {list(sdf.shape)}")
    faces, edges = connectivity(sdf < 0, tets)
    ends = edges.reshape(-1)
    a_b = vertices.index_select(0, ends).view(-1, 2, 3)
    return Isosurface(edge_crossings(a_b, sdf.index_select(0, ends).view(-1, 2)), faces, edges)


def grid_surface(
    grid: TetGrid, sdf: Tensor, raw_offset: Tensor | None = None, backend: Backend = "own"
) -> Isosurface:
    """The zero surface of a field on a whole grid, whose vertices may be moved.

    sdf: float `[(R+1)^3]`, negative inside. raw_offset: `[(R+1)^3, 3]` or None, see
    `TetGrid.deform`. The same as `marching_tetrahedra` on `deform(vertices(), raw_offset)` and all
    tetrahedra, at the cost of the crossed cells alone. backend: "kaolin" leaves it to kaolin, where
    the user has installed it; its faces come in another order. Raises ValueError for wrong shapes.
    """
    side = grid.resolution + 1
    if tuple(sdf.shape) != (side**3,):
        raise ValueError(f"sdf: expected [{side**3}], got {list(sdf.shape)}")
    inside = sdf < 0
    match backend:
        case "own":
            tets, there = _tets(grid, grid.active_cells(inside.view(side, side, side)))
            faces, edges = connectivity(inside, tets, there)
            ends = edges.reshape(-1)
            vertices = grid.vertices(ends).to(sdf.dtype)
            if raw_offset is not None:
                vertices = grid.deform(vertices, raw_offset.index_select(0, ends))
            surface = edge_crossings(vertices.view(-1, 2, 3), sdf.index_select(0, ends).view(-1, 2))
            return Isosurface(surface, faces, edges)
        case "kaolin":
            vertices = grid.vertices(device=sdf.device).to(sdf.dtype)
            if raw_offset is not None:
                vertices = grid.deform(vertices, raw_offset)
            with rooms.asking():
                cells = grid.active_cells(inside.view(side, side, side))
            return _kaolin_marching_tetrahedra(vertices, sdf, grid.tets(cells))
        case _:
            assert_never(backend)


def _tets(grid: TetGrid, cells: Tensor) -> tuple[Tensor, Tensor | None]:
    """The tetrahedra of cells `[6M, 4]`, and which of them are of one that is there."""
    if rooms.now() is None:
        return grid.tets(cells), None
    count = grid.resolution**3
    there = (cells < count)[:, None].expand(-1, 6).reshape(-1)
    return grid.tets(cells.clamp_max(count - 1)), there


def kaolin_obstacle(device: torch.device) -> str | None:
    """Why kaolin's marching tetrahedra can't run on a device; asked by letting them cut one."""
    vertices = torch.eye(4, 3, device=device)
    sdf = torch.tensor([-1.0, 1.0, 1.0, 1.0], device=device)
    try:
        found = _kaolin_marching_tetrahedra(vertices, sdf, torch.arange(4, device=device)[None])
    except UserError:
        return KAOLIN_MISSING
    except Exception as error:  # built for another torch, or another card
        return f"kaolin doesn't run here ({first_line(error)})"
    return None if found.faces.shape[0] == 1 else "kaolin's gives wrong faces here"


def _kaolin_marching_tetrahedra(vertices: Tensor, sdf: Tensor, tets: Tensor) -> Isosurface:
    """`marching_tetrahedra` by kaolin, with the edges that it does not return.

    kaolin shares our signs and orientation but counts zero as inside, so exact zeros are raised to
    the smallest normal number. Its vertices follow the ascending order of the edges crossed.
    """
    try:
        from kaolin.ops.conversions import (  # pyright: ignore[reportMissingImports]
            marching_tetrahedra as kaolin_tetrahedra,
        )
    except (ImportError, OSError):
        raise UserError(f"fine.geometry.isosurface: {KAOLIN_MISSING}; or leave it at own") from None
    positive = sdf + (sdf == 0) * torch.finfo(sdf.dtype).tiny
    surface, faces = kaolin_tetrahedra(vertices[None], tets, positive[None])
    inside = sdf < 0
    ends = tets[:, constant(TET_EDGES, tets.device)].reshape(-1, 2)
    crossed = ends[inside[ends[:, 0]] != inside[ends[:, 1]]]
    return Isosurface(surface[0], faces[0], _unique_edges(crossed, sdf.shape[0])[0])


def edge_crossings(ends: Tensor, sdf: Tensor) -> Tensor:
    """Points where the linearly interpolated field is zero on edges, `[S, 3]`.

    ends: float `[S, 2, 3]`, the two ends of each edge. sdf: float `[S, 2]` there, one negative and
    one not. DMTet (Shen 2021, eq. 3): `(a s_b - b s_a) / (s_b - s_a)`, written `a + (b - a) t` with
    `t = s_a / (s_a - s_b)` in [0, 1], which stays on the edge in floating point too. Its slope in
    the field grows as `1 / |s_a - s_b|`: fields much flatter than a distance want a rescaling.
    """
    a, b = ends.unbind(1)  # [S, 3] each
    s_a, s_b = sdf.unsqueeze(-1).unbind(1)  # [S, 1] each
    gap = s_a - s_b
    gap = torch.where(gap == 0, 1.0, gap)  # a row that stayed empty (`common.rooms`) is no edge
    return a + (b - a) * (s_a / gap)


def connectivity(
    inside: Tensor, tets: Tensor, there: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Faces `[F, 3]` and crossed lattice edges `[S, 2]` of a surface, from signs alone.

    inside: bool `[V]`. tets: int64 `[T, 4]`, positively oriented. there: bool `[T]`, which of them
    count, or None for all. The numba twin on the CPU, `connectivity_torch` elsewhere; equal, order
    included. Raises ValueError for wrong shapes.

    Within a step on a GPU (`common.rooms`) rows stay empty at the end of both: faces whose corners
    are one vertex, and edges whose ends are one.
    """
    if inside.ndim != 1 or inside.dtype != torch.bool:
        raise ValueError(f"inside: expected bool [V], got {inside.dtype} {list(inside.shape)}")
    if tets.ndim != 2 or tets.shape[1] != 4:
        raise ValueError(f"tets: expected [T, 4], got {list(tets.shape)}")
    if twin(inside.device).name == "numba":
        return connectivity_numba(inside, tets)
    return connectivity_torch(inside, tets, there)


def twin(device: torch.device | str) -> Twin:
    """Which implementation joins the faces on a device, and why."""
    return pick("tetrahedra", device, {"numba": numba_obstacle, "torch": everywhere})


def connectivity_torch(
    inside: Tensor, tets: Tensor, there: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`connectivity` in plain torch."""
    device, held = tets.device, rooms.now() is not None
    case = tet_cases(inside, tets)
    cut = (case != 0) & (case != 15)
    crossed = rooms.places_of(cut if there is None else cut & there, "tetrahedra")
    first = crossed < tets.shape[0]
    if held:
        crossed = crossed.clamp_max(tets.shape[0] - 1)
    tets, case = tets[crossed], case[crossed]
    corners = constant(CORNERS, device)[case]  # [M, 2, 3]
    ends = constant(TET_EDGES, device)[corners].reshape(-1, 12)  # [M, 2 * 3 * 2]
    ends = torch.gather(tets, 1, ends).view(-1, 2, 3, 2)
    second = (constant(COUNTS, device)[case] == 2) & first
    kept = torch.stack([first, second], dim=1)  # [M, 2] slots with a triangle
    place, slots = rooms.places_of(kept.view(-1), "faces"), ends.flatten(0, 1)
    triangles = slots[place.clamp_max(slots.shape[0] - 1) if held else place]  # [F, 3, 2]
    full = (place < slots.shape[0])[:, None]
    if held:
        triangles = torch.where(full[..., None], triangles, triangles[:1, :1])
    edges, corner = _unique_edges(triangles.view(-1, 2), inside.shape[0])
    faces = corner.view(-1, 3)
    if held:  # each at another vertex: sums over faces would wait for one
        at = torch.arange(faces.shape[0], device=device) % edges.shape[0]
        faces = torch.where(full, faces, at[:, None])
    return faces, edges


def tet_cases(inside: Tensor, tets: Tensor) -> Tensor:
    """Sign case of each tetrahedron, int64 `[T]` in 0..15: the sum of 2^i over vertices inside."""
    corners = inside.index_select(0, tets.reshape(-1)).view(-1, 4)
    return (corners * constant((1, 2, 4, 8), tets.device)).sum(-1)


def triangle_counts(inside: Tensor, tets: Tensor) -> Tensor:
    """Number of faces each tetrahedron gives to `connectivity`, int64 `[T]` in 0..2."""
    return constant(COUNTS, tets.device)[tet_cases(inside, tets)]


def _unique_edges(ends: Tensor, vertex_count: int) -> tuple[Tensor, Tensor]:
    """Distinct edges `[S, 2]`, ascending, and the place of each given edge among them."""
    low, high = ends.min(dim=1).values, ends.max(dim=1).values
    given = low * vertex_count + high
    held = rooms.now()
    if held is not None and given.shape[0]:
        return _edges_in_rows(given, vertex_count, held)
    with Waiting(ends.device):
        keys, place = torch.unique(given, return_inverse=True)
    return torch.stack([keys // vertex_count, keys % vertex_count], dim=1), place


def _edges_in_rows(given: Tensor, vertex_count: int, held: rooms.Rooms) -> tuple[Tensor, Tensor]:
    """`_unique_edges` of keys `[N]`, in rows set aside; an empty one has the first end twice."""
    ordered, order = torch.sort(given)
    new = F.pad(ordered[1:] != ordered[:-1], (1, 0), value=True)
    rank = new.cumsum(0) - 1
    count = rank[-1] + 1
    rows = min(held.take("edges", count), given.shape[0])
    keys = ordered[rooms.nth_places(rank + 1, rows).clamp_max(given.shape[0] - 1)]
    start, end = keys // vertex_count, keys % vertex_count
    end = torch.where(torch.arange(rows, device=given.device) < count, end, start)
    place = torch.empty_like(given).scatter_(0, order, rank.clamp_max(rows - 1))
    return torch.stack([start, end], dim=1), place


def connectivity_numba(inside: Tensor, tets: Tensor) -> tuple[Tensor, Tensor]:
    """`connectivity` for CPU tensors: a hash table for the corners, a sort of the unique edges.

    Raises IndexError for a vertex id out of range, as `connectivity_torch` does.
    """
    if tets.numel() and (int(tets.min()) < 0 or int(tets.max()) >= inside.shape[0]):
        raise IndexError(f"tets: expected vertex ids in 0..{inside.shape[0] - 1}")
    corner, keys = _crossed_keys(
        inside.numpy(), tets.contiguous().numpy(), _COUNT, _CORNERS, _EDGES
    )
    order = np.argsort(keys)
    rank = np.empty_like(order)
    rank[order] = np.arange(order.size)
    ends = np.stack(np.divmod(keys[order], max(inside.shape[0], 1)), axis=1)
    return torch.from_numpy(rank[corner].reshape(-1, 3)), torch.from_numpy(ends)


@numba.njit(cache=True)
def _crossed_keys(
    inside: NDArray[np.bool_],
    tets: NDArray[np.int64],
    count: NDArray[np.int64],
    corners: NDArray[np.int64],
    edges: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Edge number of every face corner `[3F]`, numbered as first met, and the edges' keys `[S]`."""
    case = np.empty(tets.shape[0], np.uint8)
    total = 0
    for t in range(tets.shape[0]):
        sign = 0
        for i in range(4):
            sign |= np.int64(inside[tets[t, i]]) << i
        case[t] = sign
        total += 3 * count[sign]
    size = 16
    while size < 2 * total:
        size *= 2
    shift = np.uint64(64)
    while (1 << (64 - np.int64(shift))) < size:
        shift -= np.uint64(1)
    table = np.full(size, -1, np.int64)  # slot -> edge number
    keys = np.empty(total, np.int64)
    corner = np.empty(total, np.int64)
    met, at = 0, 0
    for t in range(tets.shape[0]):
        for slot in range(count[case[t]]):
            for c in range(3):
                edge = corners[case[t], slot, c]
                a, b = tets[t, edges[edge, 0]], tets[t, edges[edge, 1]]
                key = min(a, b) * inside.shape[0] + max(a, b)
                # Fibonacci hashing: the top bits of a product with 2^64 / golden ratio.
                place = np.int64((np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)) >> shift)
                while table[place] >= 0 and keys[table[place]] != key:
                    place = (place + 1) & (size - 1)
                if table[place] < 0:
                    table[place] = met
                    keys[met] = key
                    met += 1
                corner[at] = table[place]
                at += 1
    return corner, keys[:met].copy()
