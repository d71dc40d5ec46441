"""A tetrahedral grid made in code at any resolution, and the moves its vertices may make.

The cube `[-extent, extent]^3` is a lattice of `(R+1)^3` vertices, and each of its `R^3` cells is
split into the six Kuhn (Freudenthal) tetrahedra: one for each order in which a walk along the
cell's edges can go from the lowest corner to the highest. Neighbouring cells cut their common face
along the same diagonal, so the tetrahedra conform. Vertices are numbered with z running fastest,
`id = (x (R+1) + y) (R+1) + z`, and cells likewise, `cell = (x R + y) R + z`.

All `6 R^3` tetrahedra are 12.6 million at R = 128; a surface crosses about one cell in a hundred,
so only the tetrahedra of those cells are ever written out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..common.device import constant, send
from ..common.rooms import places_of

# Walks (0,0,0) -> (1,1,1) along the axes in each order. An even order of the axes gives a positive
# determinant det(v1-v0, v2-v0, v3-v0); for the odd ones the two middle vertices change places.
KUHN_TETS = (
    ((0, 0, 0), (1, 0, 0), (1, 1, 0), (1, 1, 1)),
    ((0, 0, 0), (0, 1, 0), (0, 1, 1), (1, 1, 1)),
    ((0, 0, 0), (0, 0, 1), (1, 0, 1), (1, 1, 1)),
    ((0, 0, 0), (1, 0, 1), (1, 0, 0), (1, 1, 1)),
    ((0, 0, 0), (1, 1, 0), (0, 1, 0), (1, 1, 1)),
    ((0, 0, 0), (0, 1, 1), (0, 0, 1), (1, 1, 1)),
)
OFFSET_BOUND = 0.28  # longest move of a vertex in cells; see `TetGrid.deform`


@dataclass(frozen=True)
class TetGrid:
    """The Kuhn grid of `resolution` cells a side over the cube `[-extent, extent]^3`.

    Raises ValueError for a resolution below 1 or an extent that is not positive.
    """

    resolution: int
    extent: float = 1.0

    def __post_init__(self) -> None:
        if self.resolution < 1:
            raise ValueError(f"resolution: expected at least 1, got {self.resolution}")
        if not (math.isfinite(self.extent) and self.extent > 0):
            raise ValueError(f"extent: expected a positive number, got {self.extent}")

    @property
    def cell_size(self) -> float:
        """Edge length of a cell in world units."""
        return 2 * self.extent / self.resolution

    def vertices(self, ids: Tensor | None = None, device: torch.device | str = "cpu") -> Tensor:
        """Positions of lattice vertices, float32 `[(R+1)^3, 3]`, or `[..., 3]` of the given ids.

        With `ids` (int64, any shape) the result lies on their device and `device` is not read.
        """
        line = torch.linspace(-self.extent, self.extent, self.resolution + 1)
        if ids is None:
            line = line.to(device)
            return torch.cartesian_prod(line, line, line)
        return send(line, ids.device)[self._coordinates(ids)]

    def _coordinates(self, ids: Tensor) -> Tensor:
        """Lattice coordinates `[..., 3]` of vertex ids."""
        side = self.resolution + 1
        return torch.stack([ids // (side * side), ids // side % side, ids % side], dim=-1)

    def active_cells(self, occupied: Tensor) -> Tensor:
        """Cells whose eight corners are not all alike, int64 `[M]`, ascending.

        Within a step on a GPU (`common.rooms`) followed by rows that stay empty, R^3.

        occupied: bool `[R+1, R+1, R+1]`, indexed x, y, z. Raises ValueError for another shape.
        """
        side = self.resolution + 1
        if occupied.dtype != torch.bool or tuple(occupied.shape) != (side, side, side):
            raise ValueError(
                f"occupied: expected bool [{side}, {side}, {side}], "
                f"got {occupied.dtype} {list(occupied.shape)}"
            )
        some, every = occupied, occupied
        for axis in range(3):  # one axis after the other: 6 passes instead of 14
            low, high = (0, self.resolution), (1, self.resolution)
            some = some.narrow(axis, *low) | some.narrow(axis, *high)
            every = every.narrow(axis, *low) & every.narrow(axis, *high)
        return places_of((some ^ every).reshape(-1), "cells")

    def tets(self, cells: Tensor) -> Tensor:
        """The six tetrahedra of each cell as vertex ids, int64 `[6M, 4]`, cell after cell.

        cells: int64 `[M]`. All are positively oriented: det(v1-v0, v2-v0, v3-v0) > 0.
        """
        r, side = self.resolution, self.resolution + 1
        x, y, z = cells // (r * r), cells // r % r, cells % r
        lowest = (x * side + y) * side + z  # [M]
        stride = constant((side * side, side, 1), cells.device)
        corners = (constant(KUHN_TETS, cells.device) * stride).sum(-1)  # [6, 4]
        return (lowest[:, None, None] + corners).reshape(-1, 4)

    def deform(self, vertices: Tensor, raw_offset: Tensor) -> Tensor:
        """Vertices moved by offsets that cannot invert a tetrahedron, `[..., 3]`, world units.

        raw_offset: `[..., 3]`, any real numbers. The ball map

            offset = b raw / sqrt(1 + |raw|^2),   b = OFFSET_BOUND cells

        is smooth, has slope b at 0, and keeps every offset shorter than b.

        Why no tetrahedron can invert: suppose moves shorter than w/2 made one flat. Its moved
        vertices lie in a plane, so the vertices before the move lie closer than w/2 to that plane,
        the tetrahedron fits between two parallel planes less than w apart, and its width is below
        w. So a tetrahedron of width w never becomes flat under such moves, nor under any share of
        them, and a volume that never passes zero keeps its sign. The least width of a
        tetrahedron is either a height or the distance of two opposite edges. With cell edges of
        length 1 the Kuhn tetrahedron 000-100-110-111 has heights 1, 1/sqrt(2), 1/sqrt(2), 1 and
        opposite edges 1, 1/sqrt(2) and 1/sqrt(3) apart (the last: 000-110 and 100-111, across
        (1, -1, 1)), so w = 1/sqrt(3) and any b < 0.2887 cells will do.

        DMTet (Shen 2021, section 3.1) bounds each coordinate by half a cell through tanh on a
        grid of its own making; on Kuhn tetrahedra that bound would allow inversions.
        """
        if vertices.shape != raw_offset.shape or vertices.shape[-1:] != (3,):
            raise ValueError(
                "vertices, raw_offset: expected the same shape [..., 3], "
                f"got {list(vertices.shape)} and {list(raw_offset.shape)}"
            )
        length = torch.sqrt(1 + raw_offset.square().sum(-1, keepdim=True))
        return vertices + OFFSET_BOUND * self.cell_size * raw_offset / length
