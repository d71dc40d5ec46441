"""FlexiCubes: a surface whose vertices lie within cells, so that edges and corners can be sharp.

Shen 2023, "Flexible Isosurface Extraction for Gradient-Based Mesh Optimization", on the lattice of
a `TetGrid`: dual marching cubes (Nielson 2004), each cell with 21 weights that learn. A cell gives
one vertex for each loop of its crossed edges, the weighted mean of where the surface crosses them;
each crossed edge of the lattice gives a quad, which joins the four cells around it.

`sdf < 0` is inside, zero is outside; faces are counter-clockwise seen from outside.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from ..common.device import Waiting, constant, indices_of, size_of
from .isosurface import edge_crossings
from .tetgrid import TetGrid

WEIGHTS = 21  # of a cell: 12 of its edges (beta), 8 of its corners (alpha), 1 of its quads (gamma)
OFFSET_BOUND = 0.5  # of a cell, along each axis

# Corner c of a cell lies at its bits (x, y, z). Edge 4 a + r runs along axis a; around a lattice
# edge, the four cells that have it as their edge r follow each other counter-clockwise seen from
# the axis' far end.
CORNERS = tuple((c >> 2 & 1, c >> 1 & 1, c & 1) for c in range(8))
_RING = ((1, 1), (0, 1), (0, 0), (1, 0))  # where edge r lies along the two axes after a


def _corner(*place: int) -> int:
    x, y, z = place
    return 4 * x + 2 * y + z


def _edge_ends(axis: int, ring: int) -> tuple[int, int]:
    place = [0, 0, 0]
    place[(axis + 1) % 3], place[(axis + 2) % 3] = _RING[ring]
    low = _corner(*place)
    place[axis] = 1
    return low, _corner(*place)


EDGES = tuple(_edge_ends(axis, ring) for axis in range(3) for ring in range(4))
"""The corners of each edge, lower first."""


class Loops(NamedTuple):
    """The loops of crossed edges in each of the 256 sign cases; a case has bit c for corner c
    inside.

    count: loops of a case, `[256]`. of_edge: the loop of each edge, -1 if it isn't crossed,
    `[256][12]`. crowded: the face (2 axis + side) on which one loop has both of a cell's two
    pieces, -1 for none, `[256]`.
    """

    count: tuple[int, ...]
    of_edge: tuple[tuple[int, ...], ...]
    crowded: tuple[int, ...]


@cache
def loops(joined: bool = False) -> Loops:
    """The table, traced from the faces of the cell.

    On a face whose four edges are all crossed, inside corners are cut apart, or `joined`.
    """
    found = [_traced(case, joined) for case in range(256)]
    counts = tuple(max(of_edge) + 1 for of_edge, _ in found)
    return Loops(counts, tuple(of_edge for of_edge, _ in found), tuple(c for _, c in found))


def _traced(case: int, joined: bool) -> tuple[tuple[int, ...], int]:
    """The loop of each edge in one case, and the crowded face."""
    inside = [bool(case >> c & 1) for c in range(8)]
    loop = [i if inside[a] != inside[b] else -1 for i, (a, b) in enumerate(EDGES)]
    doubled: list[tuple[int, int, int]] = []  # face, an edge of either piece
    for face in range(6):
        ring = _face_corners(face)
        pairs = zip(ring, ring[1:] + ring[:1], strict=True)
        sides = [EDGES.index((min(a, b), max(a, b))) for a, b in pairs]
        cut = [s for s in sides if loop[s] >= 0]
        pieces = [(cut[0], cut[1])] if len(cut) == 2 else []
        if len(cut) == 4:  # around corner i are sides i - 1 and i
            lone = [i for i in range(4) if inside[ring[i]] != joined]
            pieces = [(sides[i - 1], sides[i]) for i in lone]
            doubled.append((face, pieces[0][0], pieces[1][0]))
        for a, b in pieces:
            loop = [loop[a] if x == loop[b] else x for x in loop]
    names = sorted({x for x in loop if x >= 0})
    crowded = [face for face, a, b in doubled if loop[a] == loop[b]]
    assert len(crowded) <= 1
    return tuple(names.index(x) if x >= 0 else -1 for x in loop), crowded[0] if crowded else -1


def _face_corners(face: int) -> list[int]:
    """The four corners of face 2 axis + side, in order around it."""
    corners = []
    for b, c in ((0, 0), (1, 0), (1, 1), (0, 1)):
        place = [0, 0, 0]
        place[face // 2], place[(face // 2 + 1) % 3], place[(face // 2 + 2) % 3] = face % 2, b, c
        corners.append(_corner(*place))
    return corners


class DualSurface(NamedTuple):
    """A surface, the lattice edges that it crosses, and how unevenly its vertices lie among them.

    vertices: `[S, 3]`, differentiable. faces: int64 `[F, 3]`, counter-clockwise from outside.
    edges: int64 `[Q, 2]`, lower id first, ascending. spread: scalar in world units, the mean over
    crossings of how much their distance to a vertex differs from the mean of that vertex (eq. 8).
    """

    vertices: Tensor
    faces: Tensor
    edges: Tensor
    spread: Tensor

    def detach(self) -> DualSurface:
        """The same surface outside the autograd graph."""
        return self._replace(vertices=self.vertices.detach(), spread=self.spread.detach())


def dual_surface(
    grid: TetGrid,
    sdf: Tensor,
    raw_offset: Tensor | None = None,
    weights: Tensor | None = None,
    centred: bool = False,
) -> DualSurface:
    """The surface of a field on a grid's cells, differentiable in field, offsets and weights.

    sdf: float `[(R+1)^3]`, negative inside. raw_offset: `[(R+1)^3, 3]`, any numbers; lattice points
    move by `tanh` of them times OFFSET_BOUND cells. weights: `[R^3, 21]`, any numbers: of edges and
    corners 1 + .99 tanh, of quads .005 + .99 sigmoid (sec. 4.2); None is all zeros. centred: quads
    become four triangles around a middle that leans to the diagonal of the larger weights, as
    learning wants it (sec. 4.3); else two, cut along that diagonal.

    Every edge of the surface has two faces if no boundary point of the grid is inside; edges of the
    lattice without four cells give none. Faces may cut each other where offsets and weights are
    extreme. An empty surface is a result like any other. Raises ValueError for wrong shapes.
    """
    _check(grid, sdf, raw_offset, weights)
    side = grid.resolution + 1
    inside = sdf < 0
    cells = grid.active_cells(inside.view(side, side, side))
    corners = _cell_corners(grid, cells)  # [M, 8]
    of_edge, count = _loops_of(grid, cells, inside[corners])
    first = count.cumsum(0) - count  # [M], the first vertex of each cell
    pair = indices_of((of_edge >= 0).reshape(-1))  # [P] pairs of a cell and its edge
    cell, edge = pair // 12, pair % 12
    vertex = first[cell] + of_edge[cell, edge]
    at = corners[cell[:, None], constant(EDGES, sdf.device)[edge]]  # [P, 2]
    own = None if weights is None else weights.index_select(0, cells)
    points, values = _lattice(grid, at, raw_offset).to(sdf.dtype), sdf[at]
    vertices, spread = _dual_vertices(points, values, cell, edge, vertex, size_of(count.sum()), own)
    key = at[:, 0] * 3 + edge // 4
    quads, around, lattice_edge = _quads(key, edge % 4, vertex, cell, inside)
    quad_weight = sdf.new_ones(quads.shape)
    if own is not None:
        quad_weight = (0.005 + 0.99 * torch.sigmoid(own[:, 20]))[around]
    ends = _ends_of(grid, lattice_edge)
    if centred:
        return DualSurface(*_in_four(vertices, quads, quad_weight), ends, spread)
    return DualSurface(vertices, _in_two(quads, quad_weight), ends, spread)


def _check(grid: TetGrid, sdf: Tensor, raw_offset: Tensor | None, weights: Tensor | None) -> None:
    points, cells = (grid.resolution + 1) ** 3, grid.resolution**3
    for name, value, shape in (
        ("sdf", sdf, (points,)),
        ("raw_offset", raw_offset, (points, 3)),
        ("weights", weights, (cells, WEIGHTS)),
    ):
        if value is not None and tuple(value.shape) != shape:
            raise ValueError(f"{name}: expected {list(shape)}, got {list(value.shape)}")


def _cell_corners(grid: TetGrid, cells: Tensor) -> Tensor:
    """Lattice points of cells, int64 `[M, 8]`."""
    r, side = grid.resolution, grid.resolution + 1
    lowest = (cells // (r * r) * side + cells // r % r) * side + cells % r
    stride = constant((side * side, side, 1), cells.device)
    return lowest[:, None] + (constant(CORNERS, cells.device) * stride).sum(-1)


def _loops_of(grid: TetGrid, cells: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """The loop of each edge of the cells `[M, 12]`, and how many there are, `[M]`.

    inside: bool `[M, 8]`. Where both cells at a face would join its two pieces in one loop, two
    vertices would be joined twice, by four quads; there both take the other table (sec. 4.1, after
    Wenger's C16 and C19).
    """
    device = cells.device
    case = (inside * constant(tuple(1 << c for c in range(8)), device)).sum(-1)
    plain, other = loops(), loops(joined=True)
    face = constant(plain.crowded, device)[case]  # [M]
    r = grid.resolution
    crowded = torch.full((r**3,), -1, dtype=torch.int64, device=device)
    crowded[cells] = face
    axis, end = face.clamp_min(0) // 2, face.clamp_min(0) % 2
    stride = constant((r * r, r, 1), device)[axis]
    beyond = cells // stride % r + 2 * end - 1
    there = (cells + (2 * end - 1) * stride).clamp(0, r**3 - 1)
    facing = crowded[there] == 2 * axis + 1 - end
    flip = (face >= 0) & (beyond >= 0) & (beyond < r) & facing
    of_edge = torch.where(
        flip[:, None], constant(other.of_edge, device)[case], constant(plain.of_edge, device)[case]
    )
    count = torch.where(
        flip, constant(other.count, device)[case], constant(plain.count, device)[case]
    )
    return of_edge, count


def _lattice(grid: TetGrid, ids: Tensor, raw_offset: Tensor | None) -> Tensor:
    """Positions `[..., 3]` of lattice points, moved."""
    points = grid.vertices(ids)
    if raw_offset is None:
        return points
    offset = raw_offset.index_select(0, ids.reshape(-1)).view(*ids.shape, 3)
    return points + OFFSET_BOUND * grid.cell_size * torch.tanh(offset)


def _dual_vertices(
    ends: Tensor,
    values: Tensor,
    cell: Tensor,
    edge: Tensor,
    vertex: Tensor,
    count: int,
    weights: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Vertices `[S, 3]` of the loops, and the mean deviation of their distances to crossings.

    ends, values: `[P, 2, 3]`, `[P, 2]`, lattice points and field of each pair. cell, edge, vertex:
    `[P]`. Eqs. 5 and 6, and L_dev of eq. 8, whose crossings are those of the field alone.
    """
    plain = edge_crossings(ends, values)
    crossings, share = plain, torch.ones_like(values[:, :1])
    if weights is not None:
        corner = constant(EDGES, cell.device)[edge]  # [P, 2]
        alpha = 1 + 0.99 * torch.tanh(weights[cell[:, None], 12 + corner])
        crossings = edge_crossings(ends, values * alpha)
        share = 1 + 0.99 * torch.tanh(weights[cell, edge])[:, None]

    def summed(rows: Tensor) -> Tensor:
        return rows.new_zeros(count, rows.shape[1]).index_add(0, vertex, rows)

    vertices = summed(share * crossings) / summed(share)
    tiny = torch.finfo(values.dtype).tiny
    away = (vertices[vertex] - plain).square().sum(1, keepdim=True).clamp_min(tiny).sqrt()
    mean = summed(away) / summed(torch.ones_like(away))
    return vertices, (away - mean[vertex]).abs().sum() / max(len(away), 1)


def _quads(
    key: Tensor, ring: Tensor, vertex: Tensor, cell: Tensor, inside: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Quads `[Q, 4]` of vertices, the cells at their corners `[Q, 4]`, their lattice edges `[Q]`.

    key: `[P]`, thrice the lower lattice point plus the axis. Counter-clockwise from outside.
    """
    order = torch.argsort(4 * key + ring)
    key = key[order]
    with Waiting(key.device):
        found, times = torch.unique_consecutive(key, return_counts=True)
    whole = indices_of(times == 4)
    start = (times.cumsum(0) - times)[whole]
    four = start[:, None] + torch.arange(4, device=key.device)
    low = found[whole] // 3
    turn = torch.where(inside[low][:, None], four, four.flip(1))
    return vertex[order][turn], cell[order][turn], found[whole]


def _ends_of(grid: TetGrid, edge: Tensor) -> Tensor:
    """Both lattice points `[Q, 2]` of edges by their keys."""
    side = grid.resolution + 1
    stride = constant((side * side, side, 1), edge.device)[edge % 3]
    return torch.stack([edge // 3, edge // 3 + stride], dim=1)


def _in_four(vertices: Tensor, quads: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Vertices with the quads' middles after them, and four triangles a quad, `[4 Q, 3]`."""
    a, b, c, d = vertices[quads].unbind(1)  # [Q, 3] each
    one = (weight[:, 0] * weight[:, 2])[:, None]
    two = (weight[:, 1] * weight[:, 3])[:, None]
    middles = 0.5 * (one * (a + c) + two * (b + d)) / (one + two)
    middle = len(vertices) + torch.arange(len(quads), device=quads.device)
    following = quads.roll(-1, dims=1)
    faces = torch.stack([quads, following, middle[:, None].expand(-1, 4)], dim=-1)
    return torch.cat([vertices, middles]), faces.reshape(-1, 3)


def _in_two(quads: Tensor, weight: Tensor) -> Tensor:
    """Two triangles a quad, `[2 Q, 3]`, cut along the diagonal of the larger weights."""
    other = weight[:, 0] * weight[:, 2] < weight[:, 1] * weight[:, 3]
    a, b, c, d = torch.where(other[:, None], quads.roll(-1, dims=1), quads).unbind(1)
    return torch.stack([a, b, c, a, c, d], dim=1).reshape(-1, 3)
