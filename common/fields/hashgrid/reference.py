"""The multiresolution hash encoding itself: its configuration, its table layout and the plain
torch twin, which is the definition that the fast twins are held to.

Symbols (Müller et al. 2022, "Instant Neural Graphics Primitives", section 3): level l has a grid
of N_l cells a side (eq. 2-3) whose (N_l + 1)^3 corners carry F features each; T = 2^log2_entries
is the most entries a level may own. The tables of all levels lie one after another in one tensor
`[total_entries, F]`. A level whose corners fit in T is stored densely, x fastest; any other is
hashed (eq. 4).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor

# Eq. 4: the first factor is 1, which keeps neighbours along x close together in memory.
PRIME_Y, PRIME_Z = 2_654_435_761, 805_459_861


def growth_for(levels: int, base_resolution: int, finest_resolution: int) -> float:
    """The growth factor b that leads from the base to the finest resolution (Müller 2022, eq. 3).

    Raises ValueError where no factor of at least 1 does.
    """
    if levels < 1 or base_resolution < 1 or finest_resolution < base_resolution:
        raise ValueError(
            "growth: expected levels >= 1 and 1 <= base_resolution <= finest_resolution, got "
            f"levels={levels}, base_resolution={base_resolution}, "
            f"finest_resolution={finest_resolution}"
        )
    if levels == 1:
        return 1.0
    return math.exp(math.log(finest_resolution / base_resolution) / (levels - 1))


@dataclass(frozen=True)
class HashGridConfig:
    """Shape of a hash grid; the defaults are Magic3D's coarse grid, 16 to 4096 in 16 levels.

    levels: number of resolutions L, coarse to fine.
    features: features F an entry.
    log2_entries: a level owns at most 2^log2_entries entries.
    base_resolution: cells a side of the first level.
    growth: each level has this many times the cells a side of the one before, rounded down.
    """

    levels: int = 16
    features: int = 2
    log2_entries: int = 19
    base_resolution: int = 16
    growth: float = growth_for(16, 16, 4096)

    def __post_init__(self) -> None:
        for name in ("levels", "features", "log2_entries", "base_resolution"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if self.log2_entries > 30:
            raise ValueError(f"log2_entries: expected at most 30, got {self.log2_entries}")
        if not 1.0 <= self.growth < math.inf:
            raise ValueError(f"growth: expected a number of at least 1, got {self.growth}")
        finest = self.base_resolution * self.growth ** (self.levels - 1)
        if not finest <= 2**20:  # float32 positions have no more to give than 24 bits
            raise ValueError(f"growth: expected a finest resolution up to 2^20, got {finest:.0f}")


def resolutions(config: HashGridConfig) -> list[int]:
    """Cells a side of each level, N_l = floor(N_min b^l) (Müller 2022, eq. 2).

    A growth that aims at a whole number misses it by rounding; 1e-6 is added so that it is met.
    """
    return [
        math.floor(config.base_resolution * config.growth**level + 1e-6)
        for level in range(config.levels)
    ]


def table_sizes(config: HashGridConfig) -> list[int]:
    """Entries of each level: (N + 1)^3 where that fits in 2^log2_entries, else 2^log2_entries."""
    return [min((n + 1) ** 3, 2**config.log2_entries) for n in resolutions(config)]


def table_offsets(config: HashGridConfig) -> list[int]:
    """First entry of each level, and the total at the end; `levels + 1` numbers."""
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
    longer = replace(config, levels=config.levels + more_levels)
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
        index = _entry(low + low.new_tensor(side), resolution, table, hashed)
        total = total + weight[:, None] * table.index_select(0, index)
    return total


def _entry(corners: Tensor, resolution: int, table: Tensor, hashed: bool) -> Tensor:
    """Entries of grid corners `[N, 3]` in their level's table (Müller 2022, eq. 4)."""
    ix, iy, iz = corners.unbind(dim=-1)
    if hashed:
        return (ix ^ (iy * PRIME_Y) ^ (iz * PRIME_Z)) & (table.shape[0] - 1)
    return ix + (resolution + 1) * (iy + (resolution + 1) * iz)
