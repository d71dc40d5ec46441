"""Which text-to-image model guides a stage, and how it is loaded."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from ..options import Count, FullText, Part, Texts

Dtype = Literal["auto", "float32", "float16", "bfloat16"]
Offload = Literal["none", "model", "group"]
Vram = Literal["none", "8", "12", "16", "24", "auto"]
Space = Literal["pixel", "latent"]
VaeDtype = Literal["auto", "float32", "bfloat16"]
Compile = Literal["none", "kernels", "graphs"]


def parse_lora(text: str) -> tuple[str, float]:
    """The path and the weight of "PATH" or "PATH:weight"; a weight that isn't given is 1.

    A colon that no number follows belongs to the path (as in `C:\\\\models`).
    """
    path, colon, weight = text.rpartition(":")
    try:
        return (path, float(weight)) if colon and path else (text, 1.0)
    except ValueError:
        return text, 1.0


def _finite_weight(text: str) -> str:
    path, weight = parse_lora(text)
    if not math.isfinite(weight):
        raise ValueError(f"the weight of {path} must be finite, got {weight}")
    return text


Loras = Annotated[
    list[Annotated[str, AfterValidator(_finite_weight)]],
    BeforeValidator(lambda v: [v] if isinstance(v, str) else v),
]


class PriorConfig(Part):
    """Which text-to-image model guides a stage, and how it is loaded (`docs/priors.md`)."""

    shorthand: ClassVar[str | None] = "name"

    name: FullText = "exact"
    """`toybox`, `exact`, an alias such as `sd15`, a hub id "owner/name", or a diffusers folder."""
    instances: Annotated[int, Field(ge=1, le=4096)] = 1
    """How many instances of the caption the exact prior knows; one makes the answer unique."""
    instance: Annotated[int, Field(ge=0)] = 0
    """Which one is the first; 0 has the canonical proportions."""
    tell_camera: bool = True
    """Whether a prior that can be told the camera is told it."""
    tell_image: bool = True
    """Whether a prior that can be told a picture of the object is told it."""
    show_image: bool = False
    """Whether one that says in words what a picture shows, as the toybox's do, is shown it too."""
    pose: Literal["auto", "zero123", "stable"] = "auto"
    """How a Zero-1-to-3 is told where a view lies; `auto` goes by "stable" in the model's name."""
    config: str | None = None
    """The diffusers folder, or hub id, whose configuration a single-file checkpoint has; null asks
    the hub for the usual one of its kind."""
    revision: str | None = None
    """Branch, tag or commit on the hub; the commit that is found is kept for the whole run."""
    variant: str | None = None
    """Which of a model's files, such as `fp16`."""
    dtype: Dtype = "auto"
    """Of denoiser and text encoders; `auto` is float32 on the CPU, on CUDA float16 for U-Nets and
    bfloat16 for flow models. With float16 the VAE stays in float32."""
    vae_dtype: VaeDtype = "auto"
    """Of the VAE; `auto` is the denoiser's, and float32 beside float16, in which many overflow.
    `bfloat16` halves its memory; float32 is taken where the device has no units for it."""
    joint_views: Annotated[int, Field(ge=1, le=16)] = 1
    """Views of a step, evenly around the object, that attend to each other in a U-Net that was not
    trained for it (`priors.joint_views`); the stage's `views` must be a multiple."""
    resolution: Annotated[int, Field(ge=8, le=8192)] | None = None
    """Height and width in pixels of what the model sees; null is the model's own."""
    loras: Loras = []
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
    """`model`: the denoiser is on the card during its calls alone; `group`: layer by layer."""
    text_on_cpu: bool = False
    attention_slicing: bool = False
    """Slower, smaller attention where torch has no fused kernel."""
    vae_slicing: bool = False
    vae_tiling: bool = False
    checkpoint_vae: bool = False
    """Recompute the VAE's activations in the backward pass instead of keeping them."""
    rows_at_once: Count | None = None
    """Most rows (views times conditions) that the denoiser takes in one call; null is all of them,
    and half as many whenever the card's memory runs out."""
    channels_last: bool = False
    """Denoiser and VAE keep the channels of a pixel side by side, as fast convolutions of many
    GPUs want them in half precision."""
    compile: Annotated[
        Compile | bool,
        BeforeValidator(lambda v: ("kernels" if v else "none") if isinstance(v, bool) else v),
    ] = "none"
    """Run the denoiser through torch.compile: `kernels` (or true) fuses its operations, `graphs`
    also replays it as a CUDA graph, which wants `offload: none`. The first step takes a minute."""
