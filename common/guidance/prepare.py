"""From a run to the judges of one of its stages: priors loaded, texts embedded, the critic.

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

from ..config.priors import PriorConfig, parse_lora
from ..embedded.door import load
from ..embedded.names import EMBEDDED, EXACT, TOYBOX, for_space, model_folder
from ..errors import UserError
from ..files import write_whole
from ..losses import VSD
from ..options import values_of
from ..priors.base import Prior
from ..priors.loading import choose_dtype
from ..priors.memory import release
from ..priors.pretrained import PretrainedPrior
from ..runs.folder import Run
from ..runs.stage import AnyStageConfig, Stage
from .choose import check_fits, check_perp_neg, judges_of
from .conditions import TextConditioner
from .critic import LoraCritic
from .judges import Judge, Panel
from .prompts import ViewPrompts
from .prompts_cache import KnownTexts, read_texts, stamp, text_path, write_texts
from .score import ScoreDistillation
from .texts import all_texts

PIN = "prior.json"

# What the model layer logs reaches the user as a warning of the run; without a handler of ours
# Python would print it a second time.
logging.getLogger("maquette").addHandler(logging.NullHandler())


def prepare_judges(run: Run, stage: Stage, device: torch.device) -> Panel:
    """The judges of a stage, ready on `device`.

    Draws no random numbers of the run, so that a resumed stage, which loads less, goes on with the
    same ones. Raises UserError for a model that cannot be loaded or cannot do what is asked.
    """
    config = stage.config(run.config)
    judges: dict[str, Judge] = {}
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(run.config.seed)
        for name in (wanted := judges_of(config)):
            judges[name] = make_judge(name, run, stage, device)
    try:
        panel = Panel({name: (judge, wanted[name]) for name, judge in judges.items()})
    except ValueError as error:
        raise UserError(f"{stage.name}.{error}; give some of them the weight 0") from None
    if config.views % panel.group:
        raise UserError(
            f"{stage.name}.views: this prior denoises {panel.group} views of an object together; "
            f"give a multiple of {panel.group}, not {config.views}"
        )
    return panel


def verify_later(run: Run, later: Stage, before: Stage) -> None:
    """Load a later stage's model once and let it go, so that a fault is told before any step.

    Not for models that come with the program, for one that the stage before loads as well, or for
    one that was loaded already. Raises UserError as `prepare_judges` would.
    """
    config = later.config(run.config)
    prior, other = config.prior, before.config(run.config).prior
    own = prior.name in (EXACT, TOYBOX, *EMBEDDED)
    if own or prior == other or "prior" not in judges_of(config):
        return
    if read_pin(later.folder(run)) is not None:
        return
    load(for_space(prior, later.space), "cpu")
    release()


def make_judge(name: str, run: Run, stage: Stage, device: torch.device) -> Judge:
    """The judge of that name in `config.judges.JudgeWeights`."""
    match name:
        case "prior":
            return _prior_judge(run, stage, device)
        case "clip":
            from .clip import ClipJudge

            config = stage.config(run.config)
            return ClipJudge.of_model(config.clip, stage.prompt(run.config), device)
        case _:
            raise ValueError(f"name: expected prior or clip, got {name!r}")


def _prior_judge(run: Run, stage: Stage, device: torch.device) -> ScoreDistillation:
    config, prompt = stage.config(run.config), stage.prompt(run.config)
    if config.prior.name == EXACT:
        from ..embedded.exact import ExactPrior

        prior: Prior = ExactPrior(stage.space, config.prior.instances, device)
        prompts, told = ViewPrompts.encode(prior, prompt, config.text, told=True), True
    else:
        prior, prompts = _pretrained(run, stage, config, device)
        told = prior.takes_camera and config.prior.tell_camera
        _advise(run, stage, config, told)
    check_perp_neg(config.text, told, stage)
    loss = config.distillation
    conditioner = TextConditioner(prompts, told, config.text.perp_neg)
    critic = _critic(prior, loss) if isinstance(loss, VSD) else None
    return ScoreDistillation(prior, conditioner, loss, config.steps, critic)


def _pretrained(
    run: Run, stage: Stage, config: AnyStageConfig, device: torch.device
) -> tuple[PretrainedPrior, ViewPrompts]:
    """A real model and its texts; with the texts kept from before, without its text encoders."""
    folder, began = stage.folder(run), time.monotonic()
    prompt, text = stage.prompt(run.config), config.text
    options, pin = for_space(config.prior, stage.space), read_pin(folder)
    known = None
    if pin is not None:
        options = options.model_copy(update={"name": pin["source"], "revision": pin["revision"]})
        texts = _texts(prompt, config, pin["takes_camera"])
        known = read_texts(text_path(folder, _identity(options, pin, device), texts), texts)
    parts_in_encoders = bool(options.loras or options.textual_inversions)
    prior = load(options, device, text=known is None or parts_in_encoders)
    if stage.large:
        check_fits(prior.space, prior.resolution, config.resolution, prior.source)
    pin = _write_pin(folder, prior)
    seconds = round(time.monotonic() - began, 2)
    run.event("prior loaded", stage=stage.name, **pin, dtype=str(prior.dtype), seconds=seconds)
    texts = _texts(prompt, config, prior.takes_camera)
    if known is None:
        known = prior.encode_text(texts)
        write_texts(text_path(folder, _identity(options, pin, device), texts), known)
        _tell_of_cuts(run, prior.truncation_notes)
    for note in prior.notes:
        run.warn(note)
    prior.free_text_encoder()
    known = replace(known, tensors={k: v.to(prior.device) for k, v in known.tensors.items()})
    told = prior.takes_camera and config.prior.tell_camera
    return prior, ViewPrompts.encode(KnownTexts(known), prompt, text, told)


def _texts(prompt: str, config: AnyStageConfig, takes_camera: bool) -> list[str]:
    """Every distinct text of a stage, in a fixed order."""
    told = takes_camera and config.prior.tell_camera
    return list(dict.fromkeys(all_texts(prompt, config.text, told)))


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


def _identity(options: PriorConfig, pin: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Everything beside the texts that their embedding depends on."""
    loras = [parse_lora(text) for text in options.loras]
    changes = [path for path, _ in loras] + list(options.textual_inversions)
    folder = model_folder(pin["source"])
    encoders = [*sorted(folder.glob("text_encoder*")), *sorted(folder.glob("tokenizer*"))]
    if folder.is_file():
        encoders = [folder]
    return {
        "source": pin["source"],
        "revision": pin["revision"],
        "variant": options.variant,
        "dtype": str(choose_dtype(options, pin["family"], device)),
        "drop_t5": options.drop_t5,
        "loras": loras,
        "files": [stamp(Path(place).expanduser()) for place in [*encoders, *changes]],
    }


def _critic(prior: Prior, loss: VSD) -> LoraCritic:
    if not isinstance(prior, PretrainedPrior):
        raise UserError("VSD trains a copy of the prior's network; choose a diffusion model")
    return LoraCritic(prior, loss.critic)


def _advise(run: Run, stage: Stage, config: AnyStageConfig, told: bool) -> None:
    """Say what will disappoint: without guidance a prior that is blind to the view makes fog."""
    loss = config.distillation
    unguided = all(scale == 1.0 for scale in values_of(loss.guidance_scale))
    if unguided and loss.loss != "csd" and not told:
        run.warn(
            f"{stage.name}.distillation.guidance_scale is 1, which is no guidance; models of the "
            f"wide world want more: start from their own configuration (--config sdxl, for "
            f"example), or --set {stage.name}.distillation.guidance_scale=null for what "
            f"{loss.loss} was published with"
        )


def _tell_of_cuts(run: Run, notes: list[str]) -> None:
    """Warn of a prompt that is too long once, though each view's text is."""
    if notes:
        more = f" (and {len(notes) - 1} more texts likewise)" if len(notes) > 1 else ""
        run.warn(notes[0] + more)
