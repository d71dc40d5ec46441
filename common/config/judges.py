"""Who judges the views of a stage, and with what weight."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from ..options import Count, Fraction, Part, Positive, Schedule


class JudgeWeights(Part):
    """Weights of a stage's judges; one whose weight is 0 throughout isn't loaded."""

    prior: Schedule = 1.0
    """The diffusion prior, through its distillation loss."""
    image_prior: Schedule = 0.0
    """A second prior, told the picture alone (Magic123)."""
    clip: Schedule = 0.0
    """CLIP (Dream Fields)."""
    reference: Schedule = 1.0
    """The picture, through its own view (`ReferenceConfig`); only where there is one."""


class ClipConfig(Part):
    """CLIP guidance as Dream Fields has it (Jain 2022)."""

    shorthand: ClassVar[str | None] = "model"

    model: str = "openai/clip-vit-base-patch16"
    """Any CLIP model of `transformers`, by hub id or folder."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    crops: Annotated[int, Field(ge=1, le=1024)] = 8
    """Random crops of each view, each before a background of its own."""
    crop_share: Annotated[float, Field(gt=0.0, le=1.0)] = 0.91
    """Side of a crop as a share of the view's."""
    backgrounds: bool = True
    """Noise, checkers and smooth noise behind the object, a third each; off leaves it as it is."""
    blur: Annotated[float, Field(ge=0.0)] = 10.0
    """Greatest standard deviation of the backgrounds' blur, in pixels of a view of 224."""
    transmittance_weight: Annotated[float, Field(ge=0.0)] = 0.5
    """Weight of the mean transmittance, which rewards emptiness up to a target."""
    opacity_start: Fraction = 0.5
    """Mean opacity that a view may have at first, at a distance of 4 ..."""
    opacity_end: Annotated[float, Field(gt=0.0, le=1.0)] = 0.1
    """... and once `opacity_steps` have gone by, along a geometric curve."""
    opacity_steps: Count = 500
    focal_reference: Positive = 1.2
    """Divides the target's growth with the square of the focal length in widths of the view."""
