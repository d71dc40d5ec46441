"""How views are drawn and lit."""

from __future__ import annotations

import itertools
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ..options import Fraction, Part, Range, Schedule, values_of


class CameraConfig(Part):
    """How training views are drawn; degrees and world units."""

    distance: Range = (1.5, 2.0)
    elevation: Range = (-10.0, 45.0)
    fovy: Range = (40.0, 70.0)
    uniform_share: Fraction = 0.5
    """Share of the draws that are uniform on the sphere within the elevation range."""
    azimuth_width: Schedule = 360.0
    """Degrees of the arc around the front that azimuths are drawn from; [[0, 90], [200, 360]]
    begins with the front and widens."""
    azimuth_weights: list[tuple[float, float]] = []
    """How often azimuths are drawn, as [degrees from the front, weight] pairs joined by straight
    lines, on both sides the same; none is evenly."""

    @model_validator(mode="after")
    def _ordered(self) -> CameraConfig:
        for name in ("distance", "elevation", "fovy"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name}: the first number must not exceed the second")
        if self.distance[0] <= 0 or self.fovy[0] <= 0 or self.fovy[1] >= 180:
            raise ValueError("distance must be positive and fovy within (0, 180) degrees")
        if self.elevation[0] < -90 or self.elevation[1] > 90:
            raise ValueError("elevation must lie within [-90, 90] degrees")
        if any(not 0.0 < width <= 360.0 for width in values_of(self.azimuth_width)):
            raise ValueError("azimuth_width: expected degrees above 0 and at most 360")
        return self

    @model_validator(mode="after")
    def _weights_grow(self) -> CameraConfig:
        places = [place for place, _ in self.azimuth_weights]
        if any(b <= a for a, b in itertools.pairwise(places)):
            raise ValueError(f"azimuth_weights: expected growing degrees, got {places}")
        if any(not 0.0 <= p <= 180.0 or w < 0.0 for p, w in self.azimuth_weights):
            raise ValueError("azimuth_weights: expected degrees in [0, 180] and weights from 0 on")
        if self.azimuth_weights and self.azimuth_weights[0][1] <= 0.0:
            raise ValueError("azimuth_weights: expected a weight above 0 at the front")
        return self


class LightConfig(Part):
    """The point light and how often it is used (DreamFusion, sec. 3.2)."""

    kind: Literal["random", "camera"] = "random"
    """`random`: within `cone` degrees of the camera axis; `camera`: a headlight."""
    distance: Range = (0.8, 1.5)
    cone: Annotated[float, Field(ge=0.0, le=180.0)] = 60.0
    ambient: tuple[Fraction, Fraction] = (0.1, 0.4)
    """Share of light that comes from everywhere, drawn anew each view; the rest is the lamp's."""
    albedo_steps: Annotated[int, Field(ge=0)] = 2000
    """Steps at the start that show the albedo alone."""
    shares: tuple[Fraction, Fraction, Fraction] = (0.25, 0.375, 0.375)
    """Albedo, textureless and Lambertian renders after that."""

    @model_validator(mode="after")
    def _sums_to_one(self) -> LightConfig:
        if abs(sum(self.shares) - 1.0) > 1e-6:
            raise ValueError("shares: albedo, textureless and lambertian must sum to 1")
        for name in ("distance", "ambient"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name}: the first number must not exceed the second")
        return self
