"""The files at the end: which, how large, for whom."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field

from ..options import Fraction, Part, Positive

Format = Literal["obj", "glb", "ply", "stl", "3mf", "usdz"]
FORMATS: tuple[Format, ...] = get_args(Format)
TargetName = Literal["blender", "unity", "unreal", "godot", "three", "print"]
ImageFormat = Literal["png", "jpeg", "webp"]
Axis = Literal["y", "z"]
Pivot = Literal["origin", "foot", "centre"]

UNITS = {"mm": 1e-3, "cm": 1e-2, "m": 1.0, "in": 0.0254, "ft": 0.3048}
"""Metres of each unit of length that a height may be given in."""
_LENGTH = re.compile(r"^\s*(\d+(?:\.\d*)?|\.\d+)\s*(mm|cm|m|in|ft)\s*$")


def metres(text: str) -> float:
    """The metres of a length such as `12cm`, `80mm` or `3in`.

    Raises ValueError for anything else, for zero, and beyond 1 mm to 1 km.
    """
    match = _LENGTH.match(text)
    value = float(match[1]) * UNITS[match[2]] if match else math.nan
    if not 1e-3 <= value <= 1e3:
        raise ValueError(
            "expected a length from 1mm to 1000m with its unit (mm, cm, m, in, ft), such as 12cm"
        )
    return value


def _length(text: str) -> str:
    metres(text)
    return text.replace(" ", "")


def _each_once(formats: list[Format]) -> list[Format]:
    if not formats:
        raise ValueError("expected at least one format")
    return list(dict.fromkeys(formats))


def _listed(value: Any) -> Any:
    if isinstance(value, str):
        return [part.strip().lower() for part in value.split(",") if part.strip()]
    return value


Length = Annotated[str, AfterValidator(_length)]
Formats = Annotated[list[Format], BeforeValidator(_listed), AfterValidator(_each_once)]


class ExportConfig(Part):
    """The files at the end."""

    formats: Formats | None = None
    """Which files are written, such as `obj,glb`; null is the target's, or these two."""
    target: TargetName | None = None
    """The program that the files are for: its axes, unit and normal maps (`docs/export.md`)."""
    height: Length | None = None
    """How high the model is, with a unit, such as `12cm`."""
    up: Axis | None = None
    """Which axis of the files points up; null is the target's, or y."""
    pivot: Pivot | None = None
    """What lies at the files' origin: the world's origin, the middle of the foot, or the middle."""
    faces: Annotated[int, Field(ge=4, le=100_000_000)] | None = None
    """At most about so many; null is as few of 5,000 to 50,000 as keep the shape."""
    lods: Annotated[int, Field(ge=1, le=6)] = 1
    """Levels of detail, each with a quarter of the faces of the one before, on one texture."""
    hard_angle: Annotated[float, Field(gt=0.0, le=180.0)] = 50.0
    """Degrees by which two faces turn at an edge that is to look hard."""
    smooth: bool = False
    """No edge is hard: one normal a vertex."""
    texture_size: Annotated[int, Field(ge=64, le=16384)] = 2048
    texture_format: ImageFormat = "png"
    """The image beside an OBJ; a GLB holds the smaller one of PNG and JPEG."""
    normal_map: bool = False
    """A tangent-space normal map from the surface before decimation: in a GLB, and as a PNG."""
    quality: Annotated[int, Field(ge=1, le=100)] = 92
    """Of JPEG and WebP."""
    unwrap_limit: Positive = 45.0
    """Seconds that xatlas may take before the built-in unwrapping takes over."""
    speck_share: Fraction = 0.01
    """Parts with less than this share of the surface are dropped; 0 keeps all."""
