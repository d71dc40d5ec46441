"""Every setting of a run: one frozen model a part, the defaults in one place.

The defaults are Magic3D's (Lin 2023) and, where the paper is silent, those of its public
re-implementations. A file of `configs/` holds only what differs from them; `--set key=value`
differs once more. Unknown keys and values of the wrong type are errors. A config never changes.

A `Schedule` is a number, or a list of [step, value] pairs joined by straight lines.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from ..errors import UserError, nearest
from ..guidance.losses import LossName
from ..guidance.prompts import ExponentialDecay, View
from ..guidance.timesteps import WeightKind
from ..priors.loading import Dtype
from ..priors.memory import Offload, Vram
from ..schedules import step_schedule, timestep_range


def _growing(points: float | list[tuple[int, float]]) -> float | list[tuple[int, float]]:
    step_schedule(points, 0)
    return points


def _encodable(text: str) -> str:
    """Bytes of a command line that are no text reach Python as lone surrogates."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("the text holds bytes that are not valid UTF-8") from None
    return text


Schedule = Annotated[float | list[tuple[int, float]], AfterValidator(_growing)]
Text = Annotated[str, AfterValidator(_encodable)]
Texts = Annotated[list[str], BeforeValidator(lambda v: [v] if isinstance(v, str) else v)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Decay = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]
Range = tuple[float, float]
Color = tuple[Fraction, Fraction, Fraction]

DEFAULT_CONFIG = "toybox"
# Beside the packages, installed or not; importlib.resources fails on an editable install of a
# folder without __init__.py.
SHIPPED = Path(__file__).resolve().parents[2] / "configs"


class Part(BaseModel):
    """A part of the configuration: frozen, and strict about its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    shorthand: ClassVar[str | None] = None
    """The setting that a plain text in place of the part stands for."""

    @model_validator(mode="before")
    @classmethod
    def _no_truth_values(cls, values: Any) -> Any:
        """Few settings are yes or no; for the rest pydantic would take YAML's `on` for 1."""
        for key, value in values.items() if isinstance(values, dict) else ():
            kind = cls.model_fields[key].annotation if key in cls.model_fields else None
            if isinstance(value, bool) and bool not in (kind, *get_args(kind)):
                raise ValueError(f"{key}: expected a number or a text, got {value}")
        return values


class PriorConfig(Part):
    """Which text-to-image model guides a stage, and how it is loaded (`docs/priors.md`)."""

    shorthand: ClassVar[str | None] = "name"

    name: str = "exact"
    """`toybox`, `exact`, an alias such as `sd15`, a hub id "owner/name", or a diffusers folder."""
    instances: Count = 1
    """How many instances of the caption the exact prior knows; one makes the answer unique."""
    camera: bool = True
    """Whether a prior that can be told the camera is told it."""
    revision: str | None = None
    """Branch, tag or commit on the hub; the commit that is found is kept for the whole run."""
    variant: str | None = None
    dtype: Dtype = "auto"
    resolution: Count | None = None
    """Height and width in pixels of what the model sees; null is the model's own."""
    loras: Texts = []
    """LoRA files or folders, "PATH" or "PATH:weight", merged into the model."""
    textual_inversions: Texts = []
    """Files or folders of learned words."""
    embedded_guidance: float = 3.5
    """The scale told to models that read guidance as an input (FLUX dev)."""
    drop_t5: bool = False
    """Run SD 3 without its T5 text encoder."""
    vram: Annotated[Vram, BeforeValidator(lambda v: str(v) if isinstance(v, int) else v)] = "none"
    """The card's size in GiB, or `auto`: fills in the options below."""
    offload: Offload = "none"
    text_on_cpu: bool = False
    attention_slicing: bool = False
    vae_slicing: bool = False
    vae_tiling: bool = False
    checkpoint_vae: bool = False
    compile: bool = False


class PerpNegDecay(Part):
    """Perp-Neg's weights, `a exp(-b r) + c` each; see `common.prompts.perp_neg_weights`."""

    front: ExponentialDecay = (4.0, 0.5, -2.426)
    side: ExponentialDecay = (4.0, 0.5, -2.426)
    side_behind: ExponentialDecay = (1.0, 0.5, -0.606)
    front_behind: ExponentialDecay = (1.0, 0.5, 0.967)


class PromptConfig(Part):
    """How the prompt is put to the prior, view by view; see `common.prompts`."""

    negative: str = ""
    """The negative prompt; empty is none."""
    view_dependent: bool | None = None
    """Whether the text names the view; null does so for priors that aren't told the camera."""
    front_angle: Annotated[float, Field(ge=0.0, le=180.0)] = 45.0
    back_angle: Annotated[float, Field(ge=0.0, le=180.0)] = 45.0
    overhead_angle: float = 60.0
    phrases: dict[View, str] = {}
    """Other words for some views than "front view", "side view", "back view", "overhead view"."""
    prompts: dict[View, str] = {}
    """Whole prompts of your own for some views."""
    interpolate: bool = False
    """Blend the texts of neighbouring views in place of switching between them."""
    perp_neg: bool = False
    """Push each view away from the texts of the others, across the prompt's direction."""
    perp_neg_decay: PerpNegDecay = PerpNegDecay()
    debias: bool = False
    """Drop words that contradict a view from its text."""
    conflicting_words: dict[View, list[str]] = {}
    """Which words, for some views; the built-in list drops words of the face from the back."""

    @model_validator(mode="after")
    def _consistent(self) -> PromptConfig:
        if self.front_angle + self.back_angle > 180:
            raise ValueError("front_angle and back_angle: together at most 180 degrees")
        if self.perp_neg and self.view_dependent is False:
            raise ValueError("perp_neg needs texts that differ by view; leave view_dependent on")
        return self


class CriticConfig(Part):
    """VSD's model of the renders: the prior with a LoRA that learns in step (Wang 2023)."""

    rank: Count = 4
    layers: Literal["attention", "all"] = "attention"
    """Where the LoRA lies: on the attention's projections, or on convolutions as well."""
    learning_rate: Positive = 1e-4
    updates: Count = 1
    """Steps of learning after each step of the scene."""
    camera_dropout: Fraction = 0.1
    """Share of the updates that don't tell the critic the camera."""
    checkpoint: bool = False
    """Recompute activations in the backward pass: slower, much smaller."""


class DistillationConfig(Part):
    """How the prior's opinion becomes a gradient (`docs/losses.md`)."""

    shorthand: ClassVar[str | None] = "loss"

    loss: LossName = "sds"
    weight: WeightKind | None = None
    """w(t); null is the loss's published choice."""
    guidance_scale: Schedule | None = None
    """Scale of classifier-free guidance, 1 is none; null is the loss's published choice."""
    t_min: Schedule = 0.02
    """Lowest noise level, as a share of the prior's timesteps."""
    t_max: Schedule = 0.98
    timesteps: Literal["uniform", "sqrt", "dreamtime"] = "uniform"
    """Drawn between t_min and t_max; or annealed from t_max to `sqrt_end` by the square root of
    the step (HiFA); or falling from t_max to t_min by DreamTime's weights."""
    sqrt_end: Fraction = 0.3
    clip: Schedule | None = None
    """Limit of the gradient's size; null is none."""
    clip_by: Literal["norm", "value"] = "norm"
    """Root mean square of a view's gradient, or each of its elements."""
    sjc_variance_reduced: bool = True
    nfsd_threshold: Fraction = 0.2
    csd_progress: Schedule | None = None
    """How far the negative prompt has taken the empty one's place; null goes evenly from 0 to 1."""
    ism_gap: Fraction = 0.05
    ism_stride: Annotated[float, Field(gt=0.0, le=1.0)] = 0.2
    sdi_noise: Literal["inversion", "fixed_point"] = "inversion"
    sdi_steps: Count = 10
    sdi_inversion_scale: float = -7.5
    sdi_gap: Fraction = 0.05
    hifa_weight: Annotated[float, Field(ge=0.0)] = 0.01
    hifa_steps: Count = 1
    hifa_pixels: bool = True
    """Decode the estimate of a latent prior, where HiFA's extra term belongs; no use to others."""
    critic: CriticConfig = CriticConfig()

    @model_validator(mode="after")
    def _ordered(self) -> DistillationConfig:
        ends = [t for t in (self.t_min, self.t_max) if isinstance(t, list)]
        for step in {0, *(step for end in ends for step, _ in end)}:
            timestep_range(self.t_min, self.t_max, step)
        if self.clip is not None and any(value <= 0 for value in _values(self.clip)):
            raise ValueError("clip: expected positive limits")
        if self.csd_progress is not None and any(
            not 0.0 <= value <= 1.0 for value in _values(self.csd_progress)
        ):
            raise ValueError("csd_progress: expected values between 0 and 1")
        return self


def _values(points: Schedule) -> list[float]:
    return [points] if isinstance(points, int | float) else [value for _, value in points]


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


class GridConfig(Part):
    """A multiresolution hash grid (Müller 2022)."""

    levels: Annotated[int, Field(ge=1, le=32)] = 16
    features: Annotated[int, Field(ge=1, le=8)] = 2
    log2_entries: Annotated[int, Field(ge=8, le=24)] = 19
    base_resolution: Annotated[int, Field(ge=2)] = 16
    finest_resolution: Annotated[int, Field(ge=2, le=2**20)] = 4096

    @model_validator(mode="after")
    def _finer(self) -> GridConfig:
        if self.finest_resolution < self.base_resolution:
            raise ValueError("finest_resolution must not be below base_resolution")
        return self


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
    betas: tuple[Decay, Decay] = (0.9, 0.99)
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
    text: PromptConfig = PromptConfig()
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
    text: PromptConfig = PromptConfig()
    distillation: DistillationConfig = DistillationConfig(t_max=0.5)
    prompt: Text | None = None
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

    prompt: Text
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

    @model_validator(mode="after")
    def _texture_fits(self) -> RunConfig:
        grid, extra = self.coarse.field.grid, self.fine.texture.extra_levels
        growth = (grid.finest_resolution / grid.base_resolution) ** (1 / max(grid.levels - 1, 1))
        finest = grid.base_resolution * growth ** (grid.levels - 1 + extra)
        if finest > 2**20:  # float32 positions have no more to give
            raise ValueError(
                f"fine.texture.extra_levels: {extra} more levels end at a resolution of "
                f"{finest:.0f}, more than 2^20; give fewer"
            )
        return self


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
    tree = _expanded(base if base is not None else read_config_file(file), RunConfig)
    for pair in overrides:
        _set(tree, pair)
    tree.update({k: v for k, v in fixed.items() if v is not None})
    tree["prompt"] = prompt.strip()
    return validate(tree)


def validate(tree: Mapping[str, Any]) -> RunConfig:
    """A `RunConfig` from plain data; UserError with one line for the first thing wrong in it."""
    # Merged first: a stage's own defaults (say, the fine stage's fovy) hold beside what is given.
    defaults = RunConfig(prompt="-").model_dump(mode="json", exclude={"prompt"})
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
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def read_config_file(name: str | None, above: tuple[str, ...] = ()) -> dict[str, Any]:
    """Plain data of a configuration file, by path or by the name of a shipped one.

    A file whose `base` names another one holds what differs from that one. above: the files that
    build on this one. Raises UserError for a file that can't be read, or that builds on itself.
    """
    name = name or DEFAULT_CONFIG
    path = Path(name)
    try:
        if path.is_file():
            tree = _load_yaml(path.name, path.read_text("utf-8"))
        elif (shipped := SHIPPED / f"{name.removesuffix('.yaml')}.yaml").is_file():
            tree = _load_yaml(shipped.name, shipped.read_text("utf-8"))
        else:
            known = ", ".join(shipped_configs())
            raise UserError(
                f"no configuration file '{name}'; give a path to a YAML file or one of: {known}"
            )
    except UnicodeDecodeError:
        raise UserError(f"configuration {name} is not a text file; give a YAML file") from None
    except OSError as error:
        raise UserError(f"configuration {name} can't be read ({error.strerror})") from None
    base = tree.pop("base", None)
    if base is None:
        return tree
    if not isinstance(base, str):
        raise UserError(f"configuration {name}: base: expected the name of a file, got {base!r}")
    beside = str(path.parent / base)
    base = beside if Path(beside).is_file() else base
    if base in (*above, name):
        raise UserError(f"configuration {name} builds on itself; give another base")
    below = read_config_file(base, (*above, name))
    return _merged(_expanded(below, RunConfig), _expanded(tree, RunConfig))


def to_yaml(config: RunConfig) -> str:
    """The complete configuration as YAML."""
    tree = config.model_dump(mode="json")
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    """Quotes any text with a strange sign in it: plain, U+0085 and its like don't come back."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        style = None if data.isprintable() else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", data, style)


_Dumper.add_representer(str, _Dumper.represent_str)


def _merged(base: Any, change: Any) -> Any:
    """`change` over `base`, mappings key by key, anything else as a whole."""
    if not (isinstance(base, Mapping) and isinstance(change, Mapping)):
        return change
    return {**base, **{k: _merged(base[k], v) if k in base else v for k, v in change.items()}}


def _load_yaml(name: str, text: str) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1})" if mark is not None else ""
        raise UserError(f"configuration {name} is not valid YAML{where}; mend it") from None
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
    part = _part_at(key)
    if part is not None and part.shorthand is not None and isinstance(value, str):
        key = f"{key}.{part.shorthand}"
    *parents, leaf = key.split(".")
    node = tree
    for parent in parents:
        child = node.get(parent)
        node[parent] = node = dict(child) if isinstance(child, dict) else {}
    node[leaf] = value


def _expanded(tree: Mapping[str, Any], model: type[Part]) -> dict[str, Any]:
    """The same settings with every shorthand written out: `prior: sd15` is {name: sd15}."""
    full: dict[str, Any] = {}
    for key, value in tree.items():
        part = _part_of(model, key)
        if part is not None and part.shorthand is not None and isinstance(value, str):
            value = {part.shorthand: value}
        full[key] = _expanded(value, part) if part and isinstance(value, dict) else value
    return full


def _part_at(path: str) -> type[Part] | None:
    """The part of the configuration that a dotted key names, if it names one."""
    part: type[Part] | None = RunConfig
    for key in path.split("."):
        part = _part_of(part, key) if part is not None else None
    return part


def _part_of(model: type[Part], key: str) -> type[Part] | None:
    kind = model.model_fields[key].annotation if key in model.model_fields else None
    return kind if isinstance(kind, type) and issubclass(kind, Part) else None


def _explain(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"] if not _is_union_branch(part))
    if first["type"] == "extra_forbidden":
        parent, _, leaf = key.rpartition(".")
        siblings = sorted(_fields_at(parent))
        hints = nearest(leaf, siblings) or _elsewhere(leaf)
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


def _elsewhere(leaf: str) -> list[str]:
    """Up to three settings in other places whose last word is most like `leaf`."""
    keys = list(_all_keys())
    words = nearest(leaf, {key.rpartition(".")[2] for key in keys}, count=1)
    return [key for key in keys if key.rpartition(".")[2] in words][:3]


def _all_keys(model: Any = RunConfig, path: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield path + name
        if hasattr(field.annotation, "model_fields"):
            yield from _all_keys(field.annotation, f"{path}{name}.")
