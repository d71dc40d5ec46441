"""From a run to the judges of one of its stages: priors loaded, texts embedded, the critic.

What is found out about a real model is kept in the stage's folder: `prior.json` pins its source and
commit, so that a resumed stage goes on with the very same weights, and `text-*.safetensors` holds
the embedded texts, so that it need not load the text encoders at all.
"""

from __future__ import annotations

import json
import logging
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .. import ranks
from ..config.priors import PriorConfig, parse_lora
from ..device import prior_device
from ..embedded.door import find, keeping, load, load_or_kept
from ..embedded.names import EMBEDDED, EXACT, TOYBOX, for_space, model_folder
from ..errors import UserError
from ..files import write_whole
from ..losses import VSD
from ..options import values_of
from ..priors.base import Prior, TextEmbedding
from ..priors.loading import choose_dtype, dtype_note
from ..priors.memory import release
from ..priors.pretrained import PretrainedPrior
from ..runs.folder import Run
from ..runs.picture import Shown, elevation_of, read_kept, shown_by, write_elevation, write_shown
from ..runs.progress import say
from ..runs.stage import AnyStageConfig, Stage
from ..toybox.grammar import parse
from ..toybox.studio import BACKDROP
from .away import Away
from .choose import check_fits, check_view_words, describes, judges_of, told_the_picture
from .conditions import Conditioner, ImageConditioner, TextConditioner
from .critic import LoraCritic
from .describe import LEAST_PSNR, describe
from .judges import Judge, Panel
from .prompts import ViewPrompts
from .prompts_cache import KnownTexts, read_texts, stamp, text_path, write_texts
from .reference import Portrait, ReferenceJudge, picture_camera
from .score import ScoreDistillation
from .texts import all_texts

if TYPE_CHECKING:
    from ..embedded.exact import ExactPrior

PIN, IMAGE_PIN = "prior.json", "image_prior.json"

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
    where = prior_device(run.config.device, device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(run.config.seed)
        for name in (wanted := judges_of(config, run.config.image is not None)):
            judges[name] = make_judge(name, run, stage, device, where)
    try:
        panel = Panel({name: (judge, wanted[name]) for name, judge in judges.items()})
    except ValueError as error:
        raise UserError(f"{stage.name}.{error}; give some of them the weight 0") from None
    together = ranks.now().count
    if together > 1 and config.views % (panel.group * together):
        raise UserError(
            f"{stage.name}.views: {config.views} can't be shared among {together} processes in "
            f"groups of {panel.group}; give a multiple of {panel.group * together}"
        )
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


def make_judge(
    name: str, run: Run, stage: Stage, device: torch.device, where: torch.device
) -> Judge:
    """The judge of that name in `config.judges.JudgeWeights`.

    device: where the scene lies. where: where priors compute that are networks.
    """
    match name:
        case "prior":
            config, prompt = stage.config(run.config), stage.prompt(run.config)
            return _there(run, stage, device, where, config, prompt, PIN)
        case "image_prior":
            config = told_the_picture(stage.config(run.config))
            return _there(run, stage, device, where, config, "", IMAGE_PIN)
        case "clip":
            from .clip import ClipJudge

            config = stage.config(run.config)
            return ClipJudge.of_model(config.clip, stage.prompt(run.config), device)
        case "reference":
            config = stage.config(run.config)
            return ReferenceJudge(portrait(run).to(device), config.reference, config.resolution)
        case _:
            raise ValueError(f"name: expected one of JudgeWeights, got {name!r}")


def portrait(run: Run) -> Portrait:
    """The run's picture and its camera; an elevation that is still to be searched counts as 0.

    How much of the world its frame shows, the coarse stage's cameras say, for both stages.
    """
    assert run.config.image is not None
    elevation = elevation_of(run) or 0.0
    camera = picture_camera(run.config.image, run.config.coarse.camera, elevation)
    kept = read_kept(run)
    return Portrait(kept.rgba, camera, kept.depth, kept.normal)


def _there(
    run: Run,
    stage: Stage,
    device: torch.device,
    where: torch.device,
    config: AnyStageConfig,
    prompt: str,
    pin: str,
) -> Judge:
    """A prior as a judge, on the scene's device or, if it is a network, on its own."""
    if where == device or config.prior.name == EXACT:
        return _prior_judge(run, stage, device, config, prompt, pin)
    return Away(_prior_judge(run, stage, where, config, prompt, pin), where)


def _prior_judge(
    run: Run,
    stage: Stage,
    device: torch.device,
    config: AnyStageConfig,
    prompt: str,
    pin: str,
) -> ScoreDistillation:
    """A prior of a stage as a judge.

    config: the stage's settings, with the prior and the loss meant. prompt: empty for a picture
    alone. pin: the file in the stage's folder that pins the prior's source.
    """
    pictured = run.config.image is not None
    if config.prior.name == EXACT:
        turn, shows, prior = None, False, _exact(run, stage, device, config, prompt)
        prompts = ViewPrompts.encode(prior, prompt, config.text, told=True, pictured=pictured)
        told = True
    else:
        prior, prompts, turn = _pretrained(run, stage, config, device, prompt, pin)
        told = _told(config, prior.takes_camera)
        shows = shows_picture(prior.takes_reference, config, stage, pictured)
        _advise(run, stage, config, told or shows)
    check_view_words(config.text, told, stage)
    loss = config.distillation
    conditioner: Conditioner = TextConditioner(prompts, told, config.text.perp_neg, turn or 0.0)
    if shows:
        assert isinstance(prior, PretrainedPrior)
        shown = portrait(run).to(prior.device)
        x, token = prior.encode_reference(shown.white)
        conditioner = ImageConditioner(prompts, x, shown.camera, token, turn)
    critic = _critic(prior, loss) if isinstance(loss, VSD) else None
    return ScoreDistillation(prior, conditioner, loss, config.steps, critic)


def shows_picture(takes: bool, config: AnyStageConfig, stage: Stage, pictured: bool) -> bool:
    """Whether a prior is shown the picture. takes: whether it is a prior that takes one."""
    options = config.prior
    if not (pictured and takes and options.tell_image):
        return False
    return options.show_image or not _asks(config, stage, pictured)


def _asks(config: AnyStageConfig, stage: Stage, pictured: bool) -> bool:
    """Whether a prior is asked what the picture shows."""
    return pictured and describes(find(for_space(config.prior, stage.space)), config.prior)


def _exact(
    run: Run, stage: Stage, device: torch.device, config: AnyStageConfig, prompt: str
) -> ExactPrior:
    """The exact prior of a stage; with a picture, of the toy that the picture shows."""
    from ..embedded.exact import ExactPrior, Turned
    from ..embedded.identify import identify

    options, shown = config.prior, None
    if run.config.image is not None:
        picture, known = portrait(run), elevation_of(run)
        match = identify(
            picture.rgba,
            picture.camera,
            None if known is None else math.radians(known),
            parse(prompt) if prompt else None,
            options.instance,
        )
        if known is None:
            write_elevation(run, math.degrees(match.elevation))
        found = Shown(prompt, match.caption.text, match.azimuth, match.psnr)
        _tell_of_toy(run, stage, found)
        turn = match.azimuth - float(picture.camera.azimuth)
        shown = Turned(match.caption.text, turn)
    return ExactPrior(stage.space, options.instances, device, options.instance, shown)


def _described(run: Run, stage: Stage, prior: PretrainedPrior, prompt: str) -> Shown:
    """What the run's picture shows, as a prior of the toybox has it, found out once a run."""
    picture, known = portrait(run).to(prior.device), elevation_of(run)
    say(f"{stage.name}: asking the prior what the picture shows")
    found = describe(
        prior,
        picture.rgba,
        picture.camera,
        None if known is None else math.radians(known),
        torch.tensor(BACKDROP),
        parse(prompt) if prompt else None,
        run.config.seed,
    )
    if known is None:
        write_elevation(run, math.degrees(found.elevation))
    shown = Shown(prompt, found.caption.text, found.azimuth, found.psnr)
    write_shown(run, shown)
    _tell_of_toy(run, stage, shown)
    if found.psnr < LEAST_PSNR:
        run.warn(
            f"the prior knows nothing like the picture (the nearest, {shown.caption}, comes to "
            f"{found.psnr:.0f} dB): it will pull towards {shown.caption}; say what the picture "
            "shows, or choose a prior of the wide world, such as --prior zero123"
        )
    return shown


def _tell_of_toy(run: Run, stage: Stage, shown: Shown) -> None:
    run.event(
        "toy found",
        stage=stage.name,
        caption=shown.caption,
        azimuth=round(math.degrees(math.remainder(shown.azimuth, 2.0 * math.pi)), 2),
        psnr=round(shown.psnr, 2),
    )


def _pretrained(
    run: Run,
    stage: Stage,
    config: AnyStageConfig,
    device: torch.device,
    prompt: str,
    file: str,
) -> tuple[PretrainedPrior, ViewPrompts, float | None]:
    """A real model, its texts, and by how much its world is turned from the run's, if it says.

    With the texts kept from before it is loaded without its text encoders.
    """
    folder, began = stage.folder(run), time.monotonic()
    text = config.text
    pictured = run.config.image is not None
    options, pin = for_space(config.prior, stage.space), read_pin(folder, file)
    asks = _asks(config, stage, pictured)
    shown = shown_by(run, prompt) if asks else None
    known = None
    if pin is not None and (shown or not asks):
        options = options.model_copy(update={"name": pin["source"], "revision": pin["revision"]})
        shows = shows_picture(pin.get("takes_reference", False), config, stage, pictured)
        texts = _texts(shown.caption if shown else prompt, config, pin["takes_camera"], shows)
        known = read_texts(text_path(folder, _identity(options, pin, device), texts), texts)
    parts_in_encoders = bool(options.loras or options.textual_inversions)
    # VSD trains within the prior's own network, which no other run may then go on with.
    own = isinstance(config.distillation, VSD)
    loading = load if own else load_or_kept
    chosen = options.dtype == "bfloat16"  # what is chosen is told of before anything is loaded
    if chosen and (note := dtype_note(options, "sd", device)):
        run.warn(note)
    prior = loading(options, device, text=known is None or parts_in_encoders)
    if stage.large:
        check_fits(prior.space, prior.resolution, config.resolution, prior.source)
    pin = _write_pin(folder, prior, file)
    if not chosen and (note := dtype_note(options, pin["family"], device)):
        run.warn(note)
    seconds = round(time.monotonic() - began, 2)
    run.event("prior loaded", stage=stage.name, **pin, dtype=str(prior.dtype), seconds=seconds)
    if asks and shown is None:
        shown = _described(run, stage, prior, prompt)
    prompt = shown.caption if shown else prompt
    known = _embedded(run, stage, config, prior, prompt, known, pin)
    shows = shows_picture(prior.takes_reference, config, stage, pictured)
    told = shows or _told(config, prior.takes_camera)
    prompts = ViewPrompts.encode(KnownTexts(known), prompt, text, told, pictured)
    if shown is None:
        return prior, prompts, None
    return prior, prompts, shown.azimuth - float(portrait(run).camera.azimuth)


def _embedded(
    run: Run,
    stage: Stage,
    config: AnyStageConfig,
    prior: PretrainedPrior,
    prompt: str,
    known: TextEmbedding | None,
    pin: dict[str, Any],
) -> TextEmbedding:
    """The texts of a stage on the prior's device, kept for a resumed run; known: from before."""
    own = isinstance(config.distillation, VSD)
    if known is None:
        shows = shows_picture(prior.takes_reference, config, stage, run.config.image is not None)
        texts = _texts(prompt, config, prior.takes_camera, shows)
        known = prior.encode_text(texts)
        options = for_space(config.prior, stage.space)
        identity = _identity(options, pin, prior.device)
        write_texts(text_path(stage.folder(run), identity, texts), known)
        _tell_of_cuts(run, prior.truncation_notes)
    for note in prior.notes:
        run.warn(note)
    prior.tell = run.warn
    if own or not keeping():
        prior.free_text_encoder()
    return replace(known, tensors={k: v.to(prior.device) for k, v in known.tensors.items()})


def _texts(prompt: str, config: AnyStageConfig, takes_camera: bool, shows: bool) -> list[str]:
    """Every distinct text of a stage, in a fixed order; shows: whether it is told a picture."""
    told = shows or _told(config, takes_camera)
    return list(dict.fromkeys(all_texts(prompt, config.text, told, shows)))


def _told(config: AnyStageConfig, takes_camera: bool) -> bool:
    """Whether the prior of a stage is told each view's camera."""
    return takes_camera and config.prior.tell_camera


def read_pin(folder: Path, name: str = PIN) -> dict[str, Any] | None:
    """What a stage's folder says of its model; None if it hasn't been loaded yet."""
    try:
        return json.loads((folder / name).read_text("utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        raise UserError(f"{folder / name} is damaged; delete it, it is made again") from None


def _write_pin(folder: Path, prior: PretrainedPrior, name: str) -> dict[str, Any]:
    pin = {
        "source": prior.source,
        "revision": prior.revision,
        "family": prior.family,
        "resolution": prior.resolution,
        "takes_camera": prior.takes_camera,
        "takes_reference": prior.takes_reference,
    }
    if read_pin(folder, name) != pin:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / name, json.dumps(pin, indent=2) + "\n")
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
