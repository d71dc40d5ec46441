"""How views are drawn and lit."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ..options import Fraction, Part, Range


class CameraConfig(Part):
    """How training views are drawn; degrees and world units."""

    distance: Range = (1.5, 2.0)
    elevation: Range = (-10.0, 45.0)
    fovy: Range = (40.0, 70.0)
    uniform_share: Fraction = 0.5
    """Share of the draws that are uniform on the sphere within the elevation range."""

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
