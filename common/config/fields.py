"""The shapes of neural fields."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field, model_validator

from ..options import Part

FINEST = 2**20
"""Cells a side beyond which float32 positions have no more to give."""


class HashGridConfig(Part):
    """Shape of a multiresolution hash grid (Müller 2022, section 3); the defaults are Magic3D's."""

    levels: Annotated[int, Field(ge=1, le=32)] = 16
    """Resolutions from the base to the finest one."""
    features: Annotated[int, Field(ge=1, le=8)] = 2
    """Features F an entry."""
    log2_entries: Annotated[int, Field(ge=1, le=30)] = 19
    """A level owns at most 2^log2_entries entries."""
    base_resolution: Annotated[int, Field(ge=1)] = 16
    """Cells a side of the first level."""
    finest_resolution: Annotated[int, Field(ge=1, le=FINEST)] = 4096
    """Cells a side of the last of `levels`."""
    extra_levels: Annotated[int, Field(ge=0, le=16)] = 0
    """Finer levels beyond that, which grow by the same factor."""

    @model_validator(mode="after")
    def _finer(self) -> HashGridConfig:
        if self.finest_resolution < self.base_resolution:
            raise ValueError("finest_resolution must not be below base_resolution")
        finest = self.base_resolution * self.growth ** (self.depth - 1)
        if finest > FINEST * (1.0 + 1e-9):
            raise ValueError(
                f"extra_levels: {self.extra_levels} more levels end at a resolution of "
                f"{finest:.0f}, more than 2^20; give fewer"
            )
        return self

    def __hash__(self) -> int:
        return hash(tuple(dict(self).values()))

    @property
    def growth(self) -> float:
        """Each level has this many times the cells a side of the one before (eq. 3)."""
        if self.levels == 1:
            return 1.0
        return math.exp(math.log(self.finest_resolution / self.base_resolution) / (self.levels - 1))

    @property
    def depth(self) -> int:
        """All levels, extra ones included."""
        return self.levels + self.extra_levels

    @property
    def width(self) -> int:
        """Features a point: those of all levels."""
        return self.depth * self.features
