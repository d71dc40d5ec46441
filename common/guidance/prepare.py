"""From a run to the guide of one of its stages: the prior loaded, the texts embedded, the critic.

What is found out about a real model is kept in the stage's folder: `prior.json` pins its source and
commit, so that a resumed stage goes on with the very same weights, and `text-*.safetensors` holds
the embedded texts, so that it need not load the text encoders at all.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..config.models import CoarseConfig, DistillationConfig, FineConfig
from ..errors import UserError
from ..files import write_whole
from ..priors.base import Prior
from ..priors.loading import LoadOptions, choose_dtype, model_folder
from ..priors.loading import load_prior as load_pretrained
from ..priors.pretrained import PretrainedPrior
from ..runs.folder import Run
from .choose import EXACT, SPACES, Stage, check_fits, load_options, load_prior, view_config
from .critic import LoraCritic
from .losses import PAPER
from .prompts import ViewConfig, ViewPrompts, all_texts
from .prompts_cache import KnownTexts, read_texts, stamp, text_path, write_texts
from .score import Guide

PIN = "prior.json"

# What the model layer logs reaches the user as a warning of the run; without a handler of ours
# Python would print it a second time.
logging.getLogger("common").addHandler(logging.NullHandler())


def prepare_guide(run: Run, stage: Stage, device: torch.device) -> Guide:
    """The guide of a stage: its prior on `device`, the prompt's texts embedded, VSD's critic.

    Draws no random numbers of the run, so that a resumed stage, which loads less, goes on with the
    same ones. Raises UserError for a prior that cannot be loaded or cannot do what is asked.
    """
    config = run.config.coarse if stage == "coarse" else run.config.fine
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(run.config.seed)
        if config.prior.name == EXACT:
            prior = load_prior(config.prior, SPACES[stage], device)
            views = _views(run, stage, takes_camera=True)
            prompts = ViewPrompts.encode(prior, _prompt(run, stage), views)
        else:
            prior, prompts = _pretrained(run, stage, config, device)
            told = prior.takes_camera and config.prior.camera
            _advise(run, stage, config.distillation, told)
        if config.text.perp_neg and not prompts.config.view_dependent:
            raise UserError(
                f"{stage}.text.perp_neg needs texts that differ by view, and this prior is told the"
                f" camera in their place; add --set {stage}.text.view_dependent=true"
            )
        critic = _critic(prior, config) if config.distillation.loss == "vsd" else None
    return Guide(
        prior,
        prompts,
        config.distillation,
        config.steps,
        tell_camera=config.prior.camera,
        perp_neg=config.text.perp_neg,
        critic=critic,
    )


def _pretrained(
    run: Run, stage: Stage, config: CoarseConfig | FineConfig, device: torch.device
) -> tuple[PretrainedPrior, ViewPrompts]:
    """A real model and its texts; with the texts kept from before, without its text encoders."""
    folder, began = _folder(run, stage), time.monotonic()
    options, pin = load_options(config.prior, SPACES[stage], device), read_pin(folder)
    known = None
    if pin is not None:
        options = replace(options, source=pin["source"], revision=pin["revision"])
        texts = _texts(run, stage, pin["takes_camera"])
        known = read_texts(text_path(folder, _identity(options, pin, device), texts), texts)
    parts_in_encoders = bool(options.loras or options.textual_inversions)
    prior = load_pretrained(replace(options, text=known is None or parts_in_encoders))
    if stage == "fine":
        check_fits(prior.space, prior.resolution, config.resolution, prior.source)
    pin = _write_pin(folder, prior)
    seconds = round(time.monotonic() - began, 2)
    run.event("prior loaded", stage=stage, **pin, dtype=str(prior.dtype), seconds=seconds)
    texts = _texts(run, stage, prior.takes_camera)
    if known is None:
        known = prior.encode_text(texts)
        write_texts(text_path(folder, _identity(options, pin, device), texts), known)
        _tell_of_cuts(run, prior.truncation_notes)
    prior.free_text_encoder()
    known = replace(known, tensors={k: v.to(prior.device) for k, v in known.tensors.items()})
    views = _views(run, stage, prior.takes_camera)
    return prior, ViewPrompts.encode(KnownTexts(known), _prompt(run, stage), views)


def read_pin(folder: Path) -> dict[str, Any] | None:
    """What a stage's folder says of its model; None if it hasn't been loaded yet."""
    try:
        return json.loads((folder / PIN).read_text("utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        raise UserError(f"{folder / PIN} is damaged; delete it, it is made again") from None


def _write_pin(folder: Path, prior: PretrainedPrior) -> dict[str, Any]:
    pin = {
        "source": prior.source,
        "revision": prior.revision,
        "family": prior.family,
        "resolution": prior.resolution,
        "takes_camera": prior.takes_camera,
    }
    if read_pin(folder) != pin:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / PIN, json.dumps(pin, indent=2) + "\n")
    return pin


def _identity(options: LoadOptions, pin: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Everything beside the texts that their embedding depends on."""
    changes = [path for path, _ in options.loras] + list(options.textual_inversions)
    folder = model_folder(pin["source"])
    encoders = [*sorted(folder.glob("text_encoder*")), *sorted(folder.glob("tokenizer*"))]
    return {
        "source": pin["source"],
        "revision": pin["revision"],
        "variant": options.variant,
        "dtype": str(choose_dtype(options, pin["family"], device)),
        "drop_t5": options.drop_t5,
        "loras": options.loras,
        "files": [stamp(Path(place).expanduser()) for place in [*encoders, *changes]],
    }


def _critic(prior: Prior, config: CoarseConfig | FineConfig) -> LoraCritic:
    if not isinstance(prior, PretrainedPrior):
        raise UserError("VSD trains a copy of the prior's network; choose a diffusion model")
    return LoraCritic(prior, config.distillation.critic, config.prior.camera)


def _advise(run: Run, stage: Stage, config: DistillationConfig, told: bool) -> None:
    """Say what will disappoint: without guidance a prior that is blind to the view makes fog."""
    scale = config.guidance_scale
    scale = PAPER[config.loss].guidance_scale if scale is None else scale
    unguided = scale == 1.0 if isinstance(scale, int | float) else all(s == 1.0 for _, s in scale)
    if unguided and config.loss != "csd" and not told:
        run.warn(
            f"{stage}.distillation.guidance_scale is 1, which is no guidance; models of the wide "
            f"world want more: start from their own configuration (--config sdxl, for example), or "
            f"--set {stage}.distillation.guidance_scale=null for what {config.loss} was published"
        )


def _tell_of_cuts(run: Run, notes: list[str]) -> None:
    """Warn of a prompt that is too long once, though each view's text is."""
    if notes:
        more = f" (and {len(notes) - 1} more texts likewise)" if len(notes) > 1 else ""
        run.warn(notes[0] + more)


def _folder(run: Run, stage: Stage) -> Path:
    return run.coarse if stage == "coarse" else run.fine


def _prompt(run: Run, stage: Stage) -> str:
    return run.config.prompt if stage == "coarse" else run.config.fine_prompt


def _views(run: Run, stage: Stage, takes_camera: bool) -> ViewConfig:
    config = run.config.coarse if stage == "coarse" else run.config.fine
    return view_config(config.text, told=takes_camera and config.prior.camera)


def _texts(run: Run, stage: Stage, takes_camera: bool) -> list[str]:
    """Every distinct text of a stage, in a fixed order."""
    return list(dict.fromkeys(all_texts(_prompt(run, stage), _views(run, stage, takes_camera))))
