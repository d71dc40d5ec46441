"""Every setting of a run: one frozen model a part, the defaults in one place.

The defaults are Magic3D's (Lin 2023) and, where the paper is silent, those of its public
re-implementations. A file of `configs/` holds only what differs from them; `--set key=value`
differs once more. Unknown keys and values of the wrong type are errors. A config never changes.

A `Schedule` is a number, or a list of [step, value] pairs joined by straight lines.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from common.errors import UserError, nearest

Schedule = float | list[tuple[int, float]]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]
Range = tuple[float, float]
Color = tuple[Fraction, Fraction, Fraction]

DEFAULT_CONFIG = "toybox"


class Part(BaseModel):
    """A part of the configuration: frozen, and strict about its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class PriorConfig(Part):
    """Which text-to-image model guides a stage."""

    name: str = "exact"
    instances: Count = 1
    """How many instances of the caption the exact prior knows; one makes the answer unique."""


class DistillationConfig(Part):
    """How the prior's opinion becomes a gradient."""

    loss: Literal["sds"] = "sds"
    weight: Literal["sigma2", "one", "alpha_sigma", "signal"] | None = None
    """w(t); null is the loss's published choice."""
    guidance_scale: float | None = None
    """Scale of classifier-free guidance, 1 is none; null is the loss's published choice."""
    t_min: Schedule = 0.02
    """Lowest noise level, as a share of the prior's timesteps."""
    t_max: Schedule = 0.98


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
        return self


class LightConfig(Part):
    """The point light and how often it is used (DreamFusion, sec. 3.2)."""

    kind: Literal["random", "camera"] = "random"
    """`random`: within `cone` degrees of the camera axis; `camera`: a headlight."""
    distance: Range = (0.8, 1.5)
    cone: float = 60.0
    ambient: Range = (0.1, 0.4)
    """Share of light that comes from everywhere, drawn anew each view; the rest is the lamp's."""
    albedo_steps: Annotated[int, Field(ge=0)] = 2000
    """Steps at the start that show the albedo alone."""
    shares: tuple[Fraction, Fraction, Fraction] = (0.25, 0.375, 0.375)
    """Albedo, textureless and Lambertian renders after that."""

    @model_validator(mode="after")
    def _sums_to_one(self) -> LightConfig:
        if abs(sum(self.shares) - 1.0) > 1e-6:
            raise ValueError("shares: albedo, textureless and lambertian must sum to 1")
        return self


class GridConfig(Part):
    """A multiresolution hash grid (Müller 2022)."""

    levels: Annotated[int, Field(ge=1, le=32)] = 16
    features: Annotated[int, Field(ge=1, le=8)] = 2
    log2_entries: Annotated[int, Field(ge=8, le=24)] = 19
    base_resolution: Annotated[int, Field(ge=2)] = 16
    finest_resolution: Annotated[int, Field(ge=2)] = 4096


class FieldConfig(Part):
    """The NeRF: density, albedo and, if asked for, predicted normals."""

    grid: GridConfig = GridConfig()
    hidden: Count = 64
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
    hidden: Count = 16
    learning_rate: Positive = 1e-3
    """A tenth of the field's, so that the background cannot take over the object."""


class AdamConfig(Part):
    """Adam, as instant-ngp sets it."""

    learning_rate: Positive = 1e-2
    betas: tuple[Fraction, Fraction] = (0.9, 0.99)
    eps: Positive = 1e-15
    final: Fraction = 1.0
    """Learning rate at the last step as a share of the first; cosine in between."""


class CoarseLossConfig(Part):
    """Weights of the coarse stage's losses beside distillation."""

    orientation: Schedule = [(0, 10.0), (5000, 1000.0)]
    opacity: Schedule = 1.0
    entropy: Schedule = 0.0


class CoarseConfig(Part):
    """The coarse stage: a hash-grid NeRF at low resolution."""

    prior: PriorConfig = PriorConfig()
    distillation: DistillationConfig = DistillationConfig()
    steps: Count = 5000
    views: Count = 32
    """Views a step."""
    resolution: Annotated[int, Field(ge=8)] = 64
    samples: Annotated[int, Field(ge=8)] = 256
    """Steps of a ray that crosses the cube's width of 2; fewer on rays through empty cells."""
    optimizer: AdamConfig = AdamConfig()
    field: FieldConfig = FieldConfig()
    occupancy: OccupancyConfig = OccupancyConfig()
    background: BackgroundConfig = BackgroundConfig()
    camera: CameraConfig = CameraConfig()
    light: LightConfig = LightConfig()
    losses: CoarseLossConfig = CoarseLossConfig()
    checkpoint_every: Count = 250


class HandoffConfig(Part):
    """What the coarse stage hands on, and what the fine stage makes its first mesh of."""

    resolution: Annotated[int, Field(ge=16, le=512)] = 128
    """Lattice cells an axis at which the density is read."""
    views: Annotated[int, Field(ge=16)] = 24
    """Views at which the surface's silhouette is compared with the NeRF's opacity."""
    view_resolution: Annotated[int, Field(ge=32)] = 128
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


class FineLossConfig(Part):
    """Weights of the fine stage's losses beside distillation."""

    normal_consistency: Schedule = 1e4
    laplacian: Schedule = 0.0
    sdf_sign: Schedule = 0.0


class FineConfig(Part):
    """The fine stage: a DMTet mesh at high resolution."""

    prior: PriorConfig = PriorConfig()
    distillation: DistillationConfig = DistillationConfig(t_max=0.5)
    prompt: str | None = None
    """Another prompt than the coarse stage's: Magic3D's prompt-based editing (sec. 5)."""
    steps: Count = 3000
    views: Count = 32
    resolution: Annotated[int, Field(ge=64)] = 512
    optimizer: AdamConfig = AdamConfig()
    geometry: GeometryConfig = GeometryConfig()
    texture: TextureConfig = TextureConfig()
    camera: CameraConfig = CameraConfig(fovy=(30.0, 45.0))
    light: LightConfig = LightConfig(albedo_steps=0)
    losses: FineLossConfig = FineLossConfig()
    checkpoint_every: Count = 250


class ExportConfig(Part):
    """The files at the end."""

    faces: Annotated[int, Field(ge=4)] = 50_000
    texture_size: Annotated[int, Field(ge=64, le=16384)] = 2048
    unwrap_limit: Positive = 45.0
    """Seconds that xatlas may take before the built-in unwrapping takes over."""
    speck_share: Fraction = 0.01
    """Parts with less than this share of the surface are dropped."""


class RunConfig(Part):
    """Everything that decides what a run does."""

    prompt: str
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    device: str = "auto"
    coarse: CoarseConfig = CoarseConfig()
    handoff: HandoffConfig = HandoffConfig()
    fine: FineConfig = FineConfig()
    export: ExportConfig = ExportConfig()

    @property
    def fine_prompt(self) -> str:
        """The prompt the fine stage follows."""
        return self.fine.prompt or self.prompt


def build_config(
    prompt: str,
    file: str | None = None,
    overrides: Sequence[str] = (),
    base: Mapping[str, Any] | None = None,
    **fixed: Any,
) -> RunConfig:
    """The configuration of a new run: defaults, then a file, then `--set` pairs, then options.

    file: a path, or the name of one of the shipped configurations; None is the default one.
    overrides: `key=value` texts with dotted keys; values are read as YAML.
    base: settings to start from in place of a file.
    fixed: top-level settings such as `seed`; None means not given.
    Raises UserError for an empty prompt, a file that cannot be read, an unknown key or a bad value.
    """
    if not prompt.strip():
        raise UserError(
            'the prompt is empty; say what to make, for example: maquette run "a red mushroom"'
        )
    tree: dict[str, Any] = dict(base) if base is not None else read_config_file(file)
    for pair in overrides:
        _set(tree, pair)
    tree.update({k: v for k, v in fixed.items() if v is not None})
    tree["prompt"] = prompt.strip()
    return validate(tree)


def validate(tree: Mapping[str, Any]) -> RunConfig:
    """A `RunConfig` from plain data; UserError with one line for the first thing wrong in it."""
    # Merged first: a stage's own defaults (say, the fine stage's fovy) hold beside what is given.
    defaults = RunConfig(prompt="-").model_dump(mode="json")
    try:
        return RunConfig.model_validate(_merged(defaults, tree))
    except ValidationError as error:
        raise UserError(_explain(error)) from None


def changed(config: RunConfig, part: str, values: Mapping[str, Any]) -> RunConfig:
    """The same configuration with some settings of one part replaced; None means unchanged."""
    tree = config.model_dump(mode="json")
    tree[part] |= {k: v for k, v in values.items() if v is not None}
    return validate(tree)


def shipped_configs() -> list[str]:
    """Names of the configurations that come with the program."""
    folder = importlib.resources.files("configs")
    return sorted(p.name[:-5] for p in folder.iterdir() if p.name.endswith(".yaml"))


def read_config_file(name: str | None) -> dict[str, Any]:
    """Plain data of a configuration file, by path or by the name of a shipped one."""
    name = name or DEFAULT_CONFIG
    shipped = name.removesuffix(".yaml")
    path = Path(name)
    if path.is_file():
        return _load_yaml(path.name, path.read_text("utf-8"))
    if shipped in shipped_configs():
        text = importlib.resources.files("configs").joinpath(f"{shipped}.yaml").read_text("utf-8")
        return _load_yaml(f"{shipped}.yaml", text)
    known = ", ".join(shipped_configs())
    raise UserError(
        f"no configuration file '{name}'; give a path to a YAML file or one of: {known}"
    )


def to_yaml(config: RunConfig) -> str:
    """The complete configuration as YAML."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _merged(base: Any, change: Any) -> Any:
    """`change` over `base`, mappings key by key, anything else as a whole."""
    if not (isinstance(base, Mapping) and isinstance(change, Mapping)):
        return change
    return {**base, **{k: _merged(base[k], v) if k in base else v for k, v in change.items()}}


def _load_yaml(name: str, text: str) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        line = getattr(getattr(error, "problem_mark", None), "line", -1) + 1
        raise UserError(f"configuration {name} is not valid YAML (line {line}); mend it") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UserError(f"configuration {name} must be a mapping of settings at its top level")
    return tree


def _set(tree: dict[str, Any], pair: str) -> None:
    key, sign, text = pair.partition("=")
    key = key.strip()
    if not sign or not key:
        raise UserError(f"--set takes key=value, got '{pair}'; for example --set coarse.steps=80")
    try:
        value = yaml.safe_load(text) if text.strip() else ""
    except yaml.YAMLError:
        value = text
    *parents, leaf = key.split(".")
    node = tree
    for parent in parents:
        child = node.get(parent)
        node[parent] = node = dict(child) if isinstance(child, dict) else {}
    node[leaf] = value


def _explain(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"] if not _is_union_branch(part))
    if first["type"] == "extra_forbidden":
        parent, _, leaf = key.rpartition(".")
        siblings = sorted(_fields_at(parent))
        hints = nearest(leaf, siblings) or nearest(leaf, _all_keys())
        hint = f"did you mean {' or '.join(hints)}? " if hints else ""
        known = ", ".join(siblings)
        return f"unknown setting '{key}'; {hint}{parent or 'the top level'} has: {known}"
    message = first["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if first["type"] == "value_error":
        return f"setting '{key}': {message}" if key else f"configuration: {message}"
    return f"setting '{key}': {message}, got {first.get('input')!r}"


def _is_union_branch(part: int | str) -> bool:
    """pydantic names the branch of a union in the location; a user knows only the keys."""
    return isinstance(part, str) and ("[" in part or part in {"float", "int", "str", "list"})


def _fields_at(path: str) -> Mapping[str, Any]:
    model: Any = RunConfig
    for part in filter(None, path.split(".")):
        model = model.model_fields[part].annotation
    return model.model_fields if hasattr(model, "model_fields") else {}


def _all_keys(model: Any = RunConfig) -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield name
        if hasattr(field.annotation, "model_fields"):
            yield from _all_keys(field.annotation)
