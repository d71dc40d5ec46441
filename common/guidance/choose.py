"""From a configuration to a prior: the one place that knows the exact prior and real models."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from ..config.models import CoarseConfig, FineConfig, PriorConfig, PromptConfig, RunConfig
from ..embedded.vocabulary import wording
from ..errors import UserError
from ..priors.base import Prior
from ..priors.loading import (
    ALIASES,
    EMBEDDED,
    LoadOptions,
    choose_dtype,
    family_of,
    locate,
    weights_file,
)
from ..priors.loading import load_prior as load_pretrained
from .prompts import CONFLICTING_WORDS, PHRASES, ViewConfig, all_texts

EXACT, TOYBOX = "exact", "toybox"
Stage = Literal["coarse", "fine"]
Space = Literal["pixel", "latent"]
STAGES: tuple[Stage, ...] = ("coarse", "fine")
SPACES: dict[Stage, Space] = {"coarse": "pixel", "fine": "latent"}
"""What a stage takes where a name offers both, as `exact` and `toybox` do."""


def load_prior(config: PriorConfig, space: Space, device: torch.device) -> Prior:
    """The prior that guides a stage; `space` is what the stage wants where a name offers both.

    Raises UserError if it cannot be found, read or used; the line says what to do.
    """
    if config.name == EXACT:
        from ..embedded.exact import ExactPrior

        return ExactPrior(space, config.instances, device)
    return load_pretrained(load_options(config, space, device))


def load_options(config: PriorConfig, space: Space, device: torch.device) -> LoadOptions:
    """What `common.priors.loading` wants to know of a model; `space` as in `load_prior`."""
    return LoadOptions(
        source=f"{TOYBOX}-{space}" if config.name == TOYBOX else config.name,
        revision=config.revision,
        variant=config.variant,
        dtype=config.dtype,
        device=str(device),
        resolution=config.resolution,
        loras=tuple(parse_lora(lora) for lora in config.loras),
        textual_inversions=tuple(config.textual_inversions),
        embedded_guidance=config.embedded_guidance,
        drop_t5=config.drop_t5,
        vram=config.vram,
        offload=config.offload,
        text_on_cpu=config.text_on_cpu,
        attention_slicing=config.attention_slicing,
        vae_slicing=config.vae_slicing,
        vae_tiling=config.vae_tiling,
        checkpoint_vae=config.checkpoint_vae,
        compile=config.compile,
    )


def parse_lora(text: str) -> tuple[str, float]:
    """The path and the weight of "PATH" or "PATH:weight"; a weight that isn't given is 1.

    A colon that no number follows belongs to the path (as in `C:\\models`).
    """
    path, colon, weight = text.rpartition(":")
    try:
        return (path, float(weight)) if colon and path else (text, 1.0)
    except ValueError:
        return text, 1.0


def view_config(config: PromptConfig, told: bool) -> ViewConfig:
    """How views become words; told: whether the prior is told the camera itself."""
    decay = config.perp_neg_decay
    words = dict(CONFLICTING_WORDS)
    for view, found in config.conflicting_words.items():
        words[view] = tuple(found)
    return ViewConfig(
        view_dependent=not told if config.view_dependent is None else config.view_dependent,
        front_angle=config.front_angle,
        back_angle=config.back_angle,
        overhead_angle=config.overhead_angle,
        phrases={**PHRASES, **config.phrases},
        prompts=config.prompts,
        negative=config.negative,
        interpolate=config.interpolate,
        debias=config.debias,
        conflicting_words=words,
        decay_front=decay.front,
        decay_side=decay.side,
        decay_side_behind=decay.side_behind,
        decay_front_behind=decay.front_behind,
    )


def check_prompts(config: RunConfig, stages: Sequence[Stage] = STAGES) -> None:
    """Raise UserError now, not after minutes, for a prompt or a prior that a stage cannot take.

    Of a real model only its index is read (from the folder, the cache or the hub), no weights.
    """
    for stage in stages:
        part = config.coarse if stage == "coarse" else config.fine
        prompt = config.prompt if stage == "coarse" else config.fine_prompt
        if part.prior.name == EXACT:
            _check_exact(part, stage, prompt)
        else:
            _check_real(part, stage, prompt, torch.device(_device_kind(config.device)))


def _check_exact(part: CoarseConfig | FineConfig, stage: Stage, prompt: str) -> None:
    from ..embedded.exact import LATENT_RESOLUTION, PIXEL_RESOLUTION
    from ..toybox.grammar import parse

    for text in filter(None, all_texts(prompt, view_config(part.text, told=True))):
        parse(text)
    sees = PIXEL_RESOLUTION if SPACES[stage] == "pixel" else LATENT_RESOLUTION
    for wrong, what in (
        (part.resolution != sees, f"{stage}.resolution: the exact prior sees {sees} px"),
        (not part.prior.camera, f"{stage}.prior.camera: the exact prior must know the camera"),
        (bool(part.prior.loras), f"{stage}.prior.loras: the exact prior has no weights to add to"),
        (
            part.distillation.loss == "vsd",
            f"{stage}.distillation: VSD trains a copy of the prior's network, and the exact prior "
            "is a formula: take another loss",
        ),
    ):
        if wrong:
            raise UserError(f"{what}; or choose a diffusion model with --prior")


def _check_real(
    part: CoarseConfig | FineConfig, stage: Stage, prompt: str, device: torch.device
) -> None:
    texts = all_texts(prompt, view_config(part.text, told=False))
    options = load_options(part.prior, SPACES[stage], device)
    for path, _ in options.loras:
        weights_file(path, "LoRA")
    for path in options.textual_inversions:
        weights_file(path, "textual inversion")
    location = locate(options)
    family = family_of(location.index, location.source)
    if location.is_toybox:
        for text in texts:
            wording(text)
    choose_dtype(options, family, device)
    if part.distillation.loss == "vsd":
        require_peft()
    sees = part.prior.resolution or _native_resolution(location.folder)
    if stage == "fine" and family == "pixel" and sees is not None:
        check_fits("pixel", sees, part.resolution, location.source)


def _native_resolution(folder: Path | None) -> int | None:
    """The image size in the U-Net's configuration, if there is a folder that says it."""
    if folder is None:
        return None
    try:
        found = json.loads((folder / "unet" / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    size = found.get("sample_size")
    return size if isinstance(size, int) else None


def check_fits(space: Space, sees: int, renders: int, source: str) -> None:
    """Raise UserError for a pixel model that sees fewer pixels than the fine stage renders.

    A latent model fits either stage: what is rendered at another size is resized on the way in.
    """
    if space == "pixel" and sees < renders:
        raise UserError(
            f"{source} works on pixels at {sees} px, and the fine stage renders {renders} px for a "
            f"latent model; choose one with --set fine.prior=NAME, or --set fine.resolution={sees}"
        )


def require_peft() -> None:
    """Raise UserError with how to install it if the library behind LoRA training is missing."""
    if importlib.util.find_spec("peft") is None:
        raise UserError(
            "VSD trains a LoRA, which needs the library peft; install it with"
            " `pip install 'maquette[lora]'`"
        )


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """The same configuration with the folders and files of priors as absolute paths.

    A run is resumed from wherever the user then stands.
    """
    parts = {}
    for stage in STAGES:
        prior: PriorConfig = getattr(config, stage).prior
        changes: dict[str, object] = {
            "loras": [f"{_absolute(path)}:{w}" for path, w in map(parse_lora, prior.loras)],
            "textual_inversions": [_absolute(path) for path in prior.textual_inversions],
        }
        if prior.name not in (EXACT, TOYBOX, *EMBEDDED, *ALIASES):
            changes["name"] = _absolute(prior.name)
        part = getattr(config, stage)
        parts[stage] = part.model_copy(update={"prior": prior.model_copy(update=changes)})
    return config.model_copy(update=parts)


def _absolute(path: str) -> str:
    place = Path(path).expanduser()
    return str(place.resolve()) if place.exists() else path


def _device_kind(name: str) -> str:
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
