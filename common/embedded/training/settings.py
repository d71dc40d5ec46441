"""The settings of a training, complete in `training.json` of its folder.

A training that goes on takes the settings it began with, except for those given anew. What shapes
the networks is fixed once there is a checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ...config.reading import set_value, validated
from ...errors import UserError
from ...files import write_whole
from ...options import Count, Fraction, Part, Positive
from ...runs.checkpoints import steps_on_disk

Kind = Literal["pixel", "vae", "latent"]
KINDS: tuple[Kind, ...] = ("pixel", "vae", "latent")
Degrees = tuple[Positive, Positive]
Width = Annotated[int, Field(ge=8, multiple_of=8)]

FILE = "training.json"
FIXED = (
    "kind",
    "seed",
    "resolution",
    "widths",
    "embedding",
    "text_width",
    "text_layers",
    "middle",
    "reuse",
    "memory",
)
KIND_DEFAULTS: dict[Kind, dict[str, Any]] = {
    "pixel": {},
    "vae": {"resolution": 512, "batch": 16, "widths": (16, 32, 64, 64), "fovy": (30.0, 40.0)},
    "latent": {"resolution": 512, "middle": "plain", "reuse": 8, "memory": 4096},
}


class TrainConfig(Part):
    """Everything that decides what a training does. The defaults are those of `pixel`."""

    kind: Kind
    minutes: Positive | None = None
    """Budget in minutes of training; the rate then follows the clock, and bits don't repeat."""
    images: Count | None = None
    """Budget in images."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    device: str = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto`: bfloat16 autocast where the device computes in it, else float32."""
    channels_last: bool = False
    """Whether the U-Net's convolutions keep their channels innermost."""
    compile: bool = False
    """Whether `torch.compile` makes the U-Net's kernels; for a GPU, at the cost of a minute."""
    workers: Annotated[int, Field(ge=0)] | None = None
    """Processes that render; null: none on the CPU, one a spare core beside a GPU."""

    teacher: str | None = None
    """A denoiser's folder, or toybox-pixel or toybox-latent: what it answers is what is learned
    where neither a surface nor a picture is told, so that nothing it knows is lost (learning
    without forgetting, Li and Hoiem 2016). null: what is learned is the truth everywhere."""

    rate: Positive = 1e-3
    batch: Annotated[int, Field(ge=2)] = 32
    warmup: Annotated[int, Field(ge=0)] = 200
    """Steps over which the rate rises."""
    ema: Fraction = 0.999
    clip: Positive = 1.0
    """Largest norm of a step's gradient."""

    resolution: Annotated[int, Field(ge=16, multiple_of=8)] = 64
    widths: Annotated[tuple[Width, ...], Field(min_length=2, max_length=6)] = (16, 32, 96, 160, 224)
    """Channels by level; the last level is where the U-Net attends to itself and to the text."""
    embedding: Annotated[int, Field(ge=16, multiple_of=8)] = 512
    """Width of the sum of time, text and camera that every block is told."""
    text_width: Annotated[int, Field(ge=16, multiple_of=16)] = 64
    text_layers: Count = 2
    middle: Literal["attention", "plain"] = "attention"
    """Whether the U-Net's middle attends to the text too, which takes four megabytes."""
    kl: Annotated[float, Field(ge=0.0)] = 1e-4
    """Weight of the autoencoder's KL term."""

    fovy: Degrees = (40.0, 40.0)
    """Vertical field of view, degrees, drawn evenly in this range."""
    instances: Annotated[int, Field(ge=0)] = 64
    """How many varied sets of proportions there are beside the canonical one."""
    patterned_share: Fraction = 0.5
    """Share of the captions that name a pattern."""
    canonical_share: Fraction = 0.8
    """Share of the toys that have the canonical proportions."""
    caption_dropout: Fraction = 0.1
    camera_dropout: Fraction = 0.1
    """Share of the views of which the network isn't told the camera; the text names them then."""
    named_views: Fraction = 0.2
    """Share of the views whose text names them though the camera is told."""
    reference_share: Fraction = 0.25
    """Share of the toys that are shown with a reference image."""
    reference_canonical_share: Fraction = 0.3
    """Share of those that have the canonical proportions."""
    reference_caption_dropout: Fraction = 0.5
    """Share of their views that come without a text."""
    reference_camera_share: Fraction = 0.25
    """Share of their views of which the network is told the camera itself."""
    surface_share: Fraction = 0.5
    """Share of the views whose place is told that come with their surface."""
    surface_error: Annotated[float, Field(ge=0.0)] = 0.02
    """How far a surface that is told may lie from the true one, world units."""
    noise_skew: Annotated[float, Field(ge=0.0)] = 0.5
    """How much oftener high noise levels are drawn: their density is the level to this power."""
    snr_cap: Positive = 5.0
    """Above which signal-to-noise ratio errors count less; see `diffusion.snr_weights`."""
    crop: Annotated[int, Field(ge=16, multiple_of=8)] = 128
    """Side of the crops that the autoencoder learns from."""
    reuse: Count = 1
    """Steps that each rendered and encoded view serves, each time under fresh noise."""
    memory: Count = 1024
    """Views kept at hand to be used again."""

    checkpoint_minutes: Annotated[float, Field(ge=0.0)] = 5.0
    """Minutes between checkpoints."""
    publish_minutes: Annotated[float, Field(ge=0.0)] = 15.0
    """Minutes between held-out losses with samples and the diffusers folder."""
    log_every: Count = 20
    eval_views: Annotated[int, Field(ge=2)] = 32
    sample_steps: Count = 20

    @model_validator(mode="after")
    def _consistent(self) -> TrainConfig:
        if (self.minutes is None) == (self.images is None):
            raise ValueError("a training needs a budget: --minutes M or --images N, one of the two")
        if self.fovy[0] > self.fovy[1] or self.fovy[1] >= 180:
            raise ValueError(f"fovy: expected two rising numbers below 180, got {self.fovy}")
        if self.reuse > self.batch:
            raise ValueError(f"reuse: expected at most the batch ({self.batch}), got {self.reuse}")
        if self.memory < self.batch:
            raise ValueError(f"memory: expected the batch ({self.batch}) or more")
        if self.crop > self.resolution and self.kind == "vae":
            raise ValueError(f"crop: expected at most the resolution, {self.resolution}")
        if self.kind == "vae" and len(self.widths) != 4:
            raise ValueError(f"widths: an autoencoder has four levels, got {len(self.widths)}")
        scale = 2 ** (len(self.widths) - 1)
        if self.side % scale:
            raise ValueError(f"widths: so many levels need a multiple of {scale}, got {self.side}")
        return self

    @property
    def side(self) -> int:
        """Side of what the network sees, in its own pixels."""
        return self.resolution // 8 if self.kind == "latent" else self.resolution

    @property
    def fresh(self) -> int:
        """Pictures that are rendered for a step; the rest of its batch comes from memory."""
        return -(-self.batch // self.reuse)


def settings_for(kind: str, folder: Path, pairs: Sequence[str] = (), **given: Any) -> TrainConfig:
    """The settings of a training in `folder`: defaults, then those it began with, then new ones.

    pairs: `key=value` texts, values read as YAML. given: settings by name; None means not given.
    Raises UserError for an unknown kind or key, a bad value, or one that is fixed by now.
    """
    if kind not in KINDS:
        raise UserError(f"'{kind}' is no kind of training; choose one of: {', '.join(KINDS)}")
    saved = _saved(folder)
    new = {k: v for k, v in given.items() if v is not None}
    for pair in pairs:
        set_value(new, pair, TrainConfig, "rate=0.0005")
    if {"minutes", "images"} & new.keys():
        saved = {k: v for k, v in saved.items() if k not in ("minutes", "images")}
    begun = saved.get("kind", kind)
    if begun != kind:
        raise UserError(
            f"{folder} holds the training of '{begun}'; give another --out for '{kind}'"
        )
    config = validated(
        TrainConfig, {"kind": kind, **KIND_DEFAULTS[kind], **saved, **new}, "a training"
    )
    if saved and steps_on_disk(folder / "checkpoints"):
        before = {**config.model_dump(mode="json"), **saved}
        after = config.model_dump(mode="json")
        moved = [key for key in FIXED if before[key] != after[key]]
        if moved:
            raise UserError(
                f"{', '.join(moved)}: fixed once a training has begun; give another --out to begin"
                " a new one"
            )
    return config


def save_settings(config: TrainConfig, folder: Path) -> None:
    """Write `training.json`."""
    write_whole(folder / FILE, json.dumps(config.model_dump(mode="json"), indent=1) + "\n")


def _saved(folder: Path) -> dict[str, Any]:
    path = folder / FILE
    if not path.is_file():
        return {}
    try:
        saved = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} can't be read ({error}); give another --out") from None
    if not isinstance(saved, dict):
        raise UserError(f"{path} is no settings file; give another --out")
    return saved
