"""Every setting of a run: one frozen model a part, the defaults in one place.

The defaults are Magic3D's (Lin 2023) and, where the paper is silent, those of its public
re-implementations. A config never changes. Nothing heavy is imported here.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from ..losses import SDS, AnyLoss
from ..options import Color, Count, Decay, Fraction, FullText, Part, Positive, Schedule, Text
from .backends import BackendsConfig
from .export import ExportConfig
from .fields import HashGridConfig
from .image import ImageConfig, ReferenceConfig
from .judges import ClipConfig, JudgeWeights
from .material import MaterialName, PbrConfig
from .mesh import MeshConfig
from .priors import PriorConfig
from .prompts import PromptConfig
from .scene import CameraConfig, LightConfig

Steps = Annotated[int, Field(ge=1, le=100_000_000)]


class FieldConfig(Part):
    """The NeRF: density, albedo and, if asked for, predicted normals."""

    grid: HashGridConfig = HashGridConfig()
    hidden: Annotated[int, Field(ge=1, le=4096)] = 64
    density_scale: Positive = 1.0
    """Density of a logit of one; larger makes surfaces crisp in fewer steps."""
    density_bias: float = 10.0
    """Height of Magic3D's spatial bias, `bias * (1 - |x| / radius)`."""
    density_radius: Positive = 0.5
    normals: Literal["finite_difference", "predicted"] = "predicted"


class OccupancyConfig(Part):
    """nerfacc's occupancy grid over the cube [-1, 1]^3."""

    resolution: Annotated[int, Field(ge=8, le=512)] = 256
    start: float = 20.0
    """What every cell holds at first, so that nothing is skipped before it was looked at."""
    decay: Fraction = 0.6
    every: Count = 10
    threshold: Positive = 0.01
    """Opacity of one ray step below which a cell counts as empty."""


class BackgroundConfig(Part):
    """What a ray sees behind the object."""

    kind: Literal["solid", "random", "environment"] = "environment"
    color: Color = (0.5, 0.5, 0.5)
    hidden: Annotated[int, Field(ge=1, le=4096)] = 16
    learning_rate: Positive = 1e-3
    """A tenth of the field's, so that the background cannot take over the object."""


class AdamConfig(Part):
    """Adam, as instant-ngp sets it."""

    learning_rate: Positive = 1e-2
    betas: tuple[Decay, Decay] = (0.9, 0.99)
    eps: Positive = 1e-15
    final: Fraction = 1.0
    """Learning rate at the last step as a share of the first; cosine in between."""


class CoarseLossConfig(Part):
    """Weights of the coarse stage's losses beside distillation."""

    orientation: Schedule = [(0, 10.0), (5000, 1000.0)]
    """Normals must not face away. In every step whose weight isn't 0, whatever the lamp shows."""
    opacity: Schedule = 1.0
    entropy: Schedule = 0.0
    symmetry: Schedule = 0.0
    """Left and right of the front alike, softly; for objects that have this symmetry."""


class StageConfig(Part):
    """What both stages have: who judges, how views are drawn, how long and how fast it learns."""

    prior: PriorConfig = PriorConfig()
    text: PromptConfig = PromptConfig()
    distillation: AnyLoss = SDS()
    """How the prior's opinion becomes a gradient (`docs/losses.md`)."""
    image_prior: PriorConfig = PriorConfig(name="zero123-xl")
    """A second prior that is told the picture alone, beside one that reads the prompt; it judges
    where `judges.image_prior` gives it a weight."""
    image_distillation: AnyLoss = SDS(guidance_scale=5.0)
    """How its opinion becomes a gradient."""
    judges: JudgeWeights = JudgeWeights()
    clip: ClipConfig = ClipConfig()
    reference: ReferenceConfig = ReferenceConfig()
    steps: Steps
    views: Annotated[int, Field(ge=1, le=1024)] = 32
    """Views a step."""
    optimizer: AdamConfig = AdamConfig()
    camera: CameraConfig = CameraConfig()
    light: LightConfig = LightConfig()
    checkpoint_every: Count = 250
    resolution: Count
    look_behind: bool | None = None
    """Whether the prior is asked at the end how many of eight views from behind look like a front
    (`docs/blind.md`); null asks one that isn't told the camera."""


class StartsConfig(Part):
    """Several short starts, of which the one goes on that the prior likes best."""

    count: Annotated[int, Field(ge=1, le=64)] = 1
    """How many, with seeds in a row; 1 begins at once."""
    steps: Count = 60
    """Of each."""


class CoarseConfig(StageConfig):
    """The coarse stage: a hash-grid NeRF at low resolution."""

    steps: Steps = 5000
    resolution: Annotated[int, Field(ge=8, le=2048)] = 64
    samples: Annotated[int, Field(ge=8, le=8192)] = 256
    """Steps of a ray that crosses the cube's width of 2; fewer on rays through empty cells."""
    field: FieldConfig = FieldConfig()
    occupancy: OccupancyConfig = OccupancyConfig()
    background: BackgroundConfig = BackgroundConfig()
    losses: CoarseLossConfig = CoarseLossConfig()
    starts: StartsConfig = StartsConfig()

    @model_validator(mode="after")
    def _starts_fit(self) -> CoarseConfig:
        if self.starts.count == 1:
            return self
        if self.starts.steps >= self.steps:
            raise ValueError(
                f"starts.steps: expected fewer than the stage's {self.steps}, got "
                f"{self.starts.steps}"
            )
        if self.distillation.loss == "vsd":
            raise ValueError("starts: VSD's critic learns from one scene; take another loss")
        return self


class HandoffConfig(Part):
    """What the coarse stage hands on, and what the fine stage makes its first mesh of."""

    resolution: Annotated[int, Field(ge=16, le=512)] = 128
    """Lattice cells an axis at which the density is read."""
    views: Annotated[int, Field(ge=16, le=1024)] = 24
    """Views at which the surface's silhouette is compared with the NeRF's opacity."""
    view_resolution: Annotated[int, Field(ge=32, le=2048)] = 128
    keep_share: Fraction = 0.02
    """Parts smaller than this share of the largest one are floaters."""


class TextureConfig(Part):
    """The texture field; starts from the coarse albedo."""

    extra_levels: Annotated[int, Field(ge=0, le=16)] = 0
    """Finer hash-grid levels added to those of the coarse field."""
    learning_rate: Positive = 1e-2


class GeometryConfig(Part):
    """The tetrahedral grid."""

    resolution: Annotated[int, Field(ge=8, le=512)] = 128
    extent: Positive = 1.0
    sdf_learning_rate: Positive = 1e-3
    """In units of a cell's width a step."""
    offset_learning_rate: Positive = 1e-3
    cell_learning_rate: Positive = 1e-2
    """Of FlexiCubes' weights of cells."""
    isosurface: Literal["own", "kaolin"] = "own"
    """Whose marching tetrahedra: ours, or those of kaolin, where it is installed."""


class FineLossConfig(Part):
    """Weights of the fine stage's losses beside distillation."""

    normal_consistency: Schedule = 1e4
    laplacian: Schedule = 0.0
    sdf_sign: Schedule = 0.0
    spread: Schedule = 0.5
    """Of FlexiCubes: vertices lie evenly among the crossings that they are made of."""
    cell_weights: Schedule = 0.1
    """Of FlexiCubes: the weights of cells stay near their start."""


class FineConfig(StageConfig):
    """The fine stage: a mesh at high resolution, cut from a grid."""

    distillation: AnyLoss = SDS(t_max=0.5)
    prompt: FullText | None = None
    """Another prompt than the coarse stage's: Magic3D's prompt-based editing (sec. 5)."""
    steps: Steps = 3000
    resolution: Annotated[int, Field(ge=64, le=8192)] = 512
    paint_from: Annotated[int, Field(ge=0)] | None = None
    """Step from which the shape stays as it is and only the texture learns; a prior that can be
    told which surface it paints is told it from there on."""
    isosurface: Literal["tetrahedra", "flexicubes"] = "tetrahedra"
    """How the surface is cut: marching tetrahedra (DMTet), or FlexiCubes, whose edges can be sharp
    and whose faces may cut each other (`docs/isosurface.md`)."""
    geometry: GeometryConfig = GeometryConfig()
    texture: TextureConfig = TextureConfig()
    material: MaterialName = "albedo"
    """`albedo`: colours alone, under a lamp; `pbr`: roughness and metal too, under skies."""
    pbr: PbrConfig = PbrConfig()
    camera: CameraConfig = CameraConfig(fovy=(30.0, 45.0))
    light: LightConfig = LightConfig(albedo_steps=0)
    losses: FineLossConfig = FineLossConfig()

    @model_validator(mode="after")
    def _kaolin_has_tetrahedra(self) -> FineConfig:
        if self.isosurface == "flexicubes" and self.geometry.isosurface == "kaolin":
            raise ValueError(
                "isosurface: flexicubes are our own; leave geometry.isosurface at own, or take "
                "tetrahedra"
            )
        return self


class RunConfig(Part):
    """Everything that decides what a run does."""

    prompt: Text
    """What to make; may be empty where there is an image."""
    image: ImageConfig | None = None
    """A picture of what to make (`docs/image.md`)."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    device: str = "auto"
    coarse: CoarseConfig = CoarseConfig()
    handoff: HandoffConfig = HandoffConfig()
    fine: FineConfig = FineConfig()
    mesh: MeshConfig | None = None
    """A mesh of the user's that the fine stage begins with, in place of a coarse stage."""
    export: ExportConfig = ExportConfig()
    backends: BackendsConfig = BackendsConfig()

    @property
    def fine_prompt(self) -> str:
        """The prompt the fine stage follows."""
        return self.fine.prompt or self.prompt

    @property
    def title(self) -> str:
        """What to call the result: the prompt, or else the picture's file."""
        return self.fine_prompt or (PurePath(self.image.path).stem if self.image else "")

    @model_validator(mode="after")
    def _texture_fits(self) -> RunConfig:
        grid, extra = self.coarse.field.grid, self.fine.texture.extra_levels
        try:
            HashGridConfig(**{**dict(grid), "extra_levels": grid.extra_levels + extra})
        except ValidationError as error:
            reason = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise ValueError(f"fine.texture.{reason}") from None
        return self
