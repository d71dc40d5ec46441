"""The multiresolution hash encoding itself: its table layout and the plain
torch twin, which is the definition that the fast twins are held to.

Symbols (Müller et al. 2022, "Instant Neural Graphics Primitives", section 3): level l has a grid
of N_l cells a side (eq. 2-3) whose (N_l + 1)^3 corners carry F features each; T = 2^log2_entries
is the most entries a level may own. The tables of all levels lie one after another in one tensor
`[total_entries, F]`. A level whose corners fit in T is stored densely, x fastest; any other is
hashed (eq. 4).
"""

from __future__ import annotations

import math
from itertools import accumulate

import torch
from torch import Tensor

from ...config.fields import HashGridConfig
from ...device import constant

# Eq. 4: the first factor is 1, which keeps neighbours along x close together in memory.
PRIME_Y, PRIME_Z = 2_654_435_761, 805_459_861


def resolutions(config: HashGridConfig) -> list[int]:
    """Cells a side of each level, N_l = floor(N_min b^l) (Müller 2022, eq. 2).

    A growth that aims at a whole number misses it by rounding; 1e-6 is added so that it is met.
    """
    return [
        math.floor(config.base_resolution * config.growth**level + 1e-6)
        for level in range(config.depth)
    ]


def table_sizes(config: HashGridConfig) -> list[int]:
    """Entries of each level: (N + 1)^3 where that fits in 2^log2_entries, else 2^log2_entries."""
    return [min((n + 1) ** 3, 2**config.log2_entries) for n in resolutions(config)]


def table_offsets(config: HashGridConfig) -> list[int]:
    """First entry of each level, and the total at the end; `depth + 1` numbers."""
    return [0, *accumulate(table_sizes(config))]


def is_hashed(config: HashGridConfig) -> list[bool]:
    """Whether each level is hashed; the others are dense."""
    return [(n + 1) ** 3 > 2**config.log2_entries for n in resolutions(config)]


def extend(
    tables: Tensor, config: HashGridConfig, more_levels: int
) -> tuple[Tensor, HashGridConfig]:
    """The same grid with `more_levels` finer levels whose features are zero.

    tables: `[total_entries, F]` of `config`. The first levels keep their place, so the encoding of
    the longer grid starts with that of the shorter one and goes on with zeros.
    """
    if more_levels < 0:
        raise ValueError(f"more_levels: expected at least 0, got {more_levels}")
    longer = config.model_copy(update={"extra_levels": config.extra_levels + more_levels})
    missing = table_offsets(longer)[-1] - tables.shape[0]
    return torch.cat([tables, tables.new_zeros(missing, config.features)]), longer


def check(x: Tensor, tables: Tensor, config: HashGridConfig) -> None:
    """Raise ValueError unless `x` is `[N, 3]` and `tables` has the shape that `config` asks for."""
    if x.ndim != 2 or x.shape[1] != 3:
        raise ValueError(f"x: expected [N, 3], got {list(x.shape)}")
    expected = [table_offsets(config)[-1], config.features]
    if list(tables.shape) != expected:
        raise ValueError(f"tables: expected {expected}, got {list(tables.shape)}")


def encode(x: Tensor, tables: Tensor, config: HashGridConfig) -> Tensor:
    """Multiresolution hash encoding in plain torch (Müller 2022, section 3).

    x: points `[N, 3]` in [0, 1]; a point outside takes the value at the nearest point of the box.
    tables: `[total_entries, F]`, all levels one after another.
    Returns `[N, levels * F]`, the first level first. Differentiable in both arguments; the
    derivative in x is that of the trilinear interpolation. Raises ValueError on a wrong shape.
    Ours differs from the paper in that cells start at the box's corner, without a half-cell shift.
    """
    check(x, tables, config)
    levels = zip(
        tables.split(table_sizes(config)), resolutions(config), is_hashed(config), strict=True
    )
    return torch.cat([_encode_level(x, table, n, hashed) for table, n, hashed in levels], dim=-1)


def _encode_level(x: Tensor, table: Tensor, resolution: int, hashed: bool) -> Tensor:
    """Trilinear interpolation of one level's `table` `[T, F]` at `x` `[N, 3]`: `[N, F]`."""
    scaled = (x * resolution).clamp(0, resolution)
    # The far faces of the box belong to the last cell.
    low = scaled.detach().floor().clamp(max=resolution - 1)
    upper = scaled - low
    lower = 1 - upper
    low = low.long()
    total = x.new_zeros(x.shape[0], table.shape[1])
    for corner in range(8):
        side = (corner & 1, corner >> 1 & 1, corner >> 2 & 1)
        weight = torch.ones_like(upper[:, 0])
        for axis in range(3):
            weight = weight * (upper if side[axis] else lower)[:, axis]
        index = _entry(low + constant(side, low.device), resolution, table, hashed)
        total = total + weight[:, None] * table.index_select(0, index)
    return total


def _entry(corners: Tensor, resolution: int, table: Tensor, hashed: bool) -> Tensor:
    """Entries of grid corners `[N, 3]` in their level's table (Müller 2022, eq. 4)."""
    ix, iy, iz = corners.unbind(dim=-1)
    if hashed:
        return (ix ^ (iy * PRIME_Y) ^ (iz * PRIME_Z)) & (table.shape[0] - 1)
    return ix + (resolution + 1) * (iy + (resolution + 1) * iz)
