"""The picture that a run starts from, and how its own view is held to it."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ..options import Count, Fraction, Part, Schedule, Text

Degrees = Annotated[float, Field(ge=-90.0, le=90.0)]


class ImageConfig(Part):
    """A picture of the object, and from where it was taken."""

    shorthand: ClassVar[str | None] = "path"

    path: Text
    digest: str = ""
    """Of the file's bytes; filled in when a run begins, so that another picture is another run."""
    elevation: Degrees | Literal["auto"] = 0.0
    """How far above the horizon the camera stood, degrees; `auto` searches it."""
    azimuth: float = 0.0
    """Where it stood around the object, degrees; 0 sees what is to be the front."""
    fovy: Annotated[float, Field(gt=0.0, lt=180.0)] | None = None
    """Vertical field of view of the frame, degrees; null is the middle of the stage's cameras'."""
    fill: Annotated[float, Field(ge=0.0, le=1.0)] | None = None
    """Share of the frame's side that the object's longer side is made to fill; 0 keeps the
    picture's own frame; null is what the prior was trained on."""
    size: Annotated[int, Field(ge=64, le=2048)] = 512
    """Pixels a side of the frame that the run works with."""
    depth: Text | None = None
    """A depth map of the same frame as the picture, near is bright; any scale."""
    normal: Text | None = None
    """A map of normals in the camera's frame: red right, green up, blue towards the camera."""


class ReferenceConfig(Part):
    """How the picture's own view is held to the picture."""

    rgb: Schedule = 25_000.0
    """Weight of the mean squared difference of colours. A prior's gradient sums over the values it
    sees; at 64 px and weight `signal`, about this weight makes the view count as much as one of
    the prior's."""
    mask: Schedule = 10_000.0
    """Weight of the mean squared difference of opacities."""
    depth: Schedule = 50.0
    """Weight of the loss on the depth map, where there is one."""
    depth_loss: Literal["pearson", "ranking"] = "pearson"
    """(1 - correlation) / 2, or the share of pairs of pixels in the wrong order, softened."""
    normal: Schedule = 100.0
    """Weight of the mean of (1 - cosine) / 2 between normals, where there is a map of them."""
    every: Count = 1
    """Steps from one look at the picture's view to the next."""
    jitter: Annotated[float, Field(ge=0.0, le=10.0)] = 0.0
    """Standard deviation of noise on the camera's azimuth and elevation, degrees."""
    resolution: Count | None = None
    """Pixels a side of the view that is compared; null is the stage's."""
    alpha: Fraction = 0.5
    """Opacity of the picture from which a pixel counts for depth and normals."""
