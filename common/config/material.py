"""What a surface is made of, and the light that it is learned under."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ..options import Fraction, Part, Range

MaterialName = Literal["albedo", "pbr"]


class SkyConfig(Part):
    """The skies of a `pbr` material's views (`docs/materials.md`)."""

    tilt: Annotated[float, Field(ge=0.0, le=180.0)] = 30.0
    """Degrees by which a sky may lean; 180 turns it any way."""
    exposure: Range = (0.8, 1.2)
    """What its light is multiplied with."""

    @model_validator(mode="after")
    def _ordered(self) -> SkyConfig:
        low, high = self.exposure
        if not 0.0 < low <= high <= 100.0:
            raise ValueError("exposure: expected two growing numbers above 0 and up to 100")
        return self


class PbrConfig(Part):
    """A `pbr` material: what it may be, and the light it is learned under."""

    roughness: tuple[Fraction, Fraction] = (0.08, 1.0)
    """The least and the most."""
    metallic: Fraction = 1.0
    """The most; 0 makes no metals."""
    bump: Annotated[float, Field(ge=0.0, le=0.5)] = 0.1
    """How far the material may push the unit normal along each axis; 0 leaves it alone."""
    sky: SkyConfig = SkyConfig()

    @model_validator(mode="after")
    def _ordered(self) -> PbrConfig:
        if self.roughness[0] > self.roughness[1]:
            raise ValueError("roughness: the first number must not exceed the second")
        return self
