"""Which judges a stage has, and whether they can do what is asked, found out before a run is made.

No torch is imported here: what a prompt or a setting gets wrong is told at once.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..config.judges import ClipConfig
from ..config.models import RunConfig
from ..config.priors import PriorConfig, Space, parse_lora
from ..config.prompts import PromptConfig
from ..embedded.door import find, knows_toybox
from ..embedded.names import EMBEDDED, EXACT, EXACT_RESOLUTIONS, TOYBOX, for_space
from ..embedded.vocabulary import wording
from ..errors import UserError, one_line
from ..files import expanded
from ..options import Schedule, values_of
from ..priors.headers import check_inversion, check_lora
from ..priors.location import (
    ALIASES,
    Location,
    family_of,
    hub_file,
    weights_file,
)
from ..runs.stage import STAGES, AnyStageConfig, Stage
from ..toybox.grammar import parse
from .texts import all_texts

FILL = 200 / 256
"""Zero-1-to-3's: the object's longer side takes 200 of 256 pixels."""
FILL_OF_TOYS = 0.73
"""The mean of that share over toys of all categories, seen as the embedded prior's pictures are."""


def judges_of(config: AnyStageConfig, pictured: bool = False) -> dict[str, Schedule]:
    """The names of a stage's judges and their weights, without those that have none throughout.

    pictured: whether there is a picture, without which none holds a view to it.
    """
    weights: Mapping[str, Schedule] = dict(config.judges)
    return {
        name: points
        for name, points in weights.items()
        if any(values_of(points)) and (pictured or name != "reference")
    }


def told_the_picture(part: AnyStageConfig) -> AnyStageConfig:
    """A stage's settings with its image prior and that one's loss in the place of the other's."""
    change = {"prior": part.image_prior, "distillation": part.image_distillation}
    return part.model_copy(update=change)


def natural_fill(config: AnyStageConfig) -> float:
    """Which share of its frame an object fills in the pictures that a stage's prior was trained on.

    0 for the exact prior, which knows the toys at their own size. Raises UserError for a prior that
    can't be found.
    """
    if "prior" not in judges_of(config):
        return FILL
    if config.prior.name == EXACT:
        return 0.0
    location = find(for_space(config.prior, "pixel"))
    return FILL_OF_TOYS if knows_toybox(location) else FILL


def check_prompts(config: RunConfig, stages: Sequence[Stage] = STAGES) -> None:
    """Raise UserError now, not after minutes, for a prompt or a judge that a stage cannot take.

    Of a real model only its index is read (from the folder, the cache or the hub), no weights.
    """
    for stage in stages:
        part, prompt = stage.config(config), stage.prompt(config)
        pictured = config.image is not None
        judges = judges_of(part, pictured)
        if not judges:
            raise UserError(
                f"{stage.name}.judges: all weights are 0, so nothing would judge the views; give "
                f"one, such as --set {stage.name}.judges.prior=1"
            )
        if "prior" in judges:
            if part.prior.name == EXACT:
                _check_exact(part, stage, prompt, pictured)
            else:
                _check_real(part, stage, prompt, config.device, pictured)
        if "image_prior" in judges:
            if not pictured:
                raise UserError(
                    f"{stage.name}.judges.image_prior needs a picture; give one: --image photo.png"
                )
            second = told_the_picture(part)
            if second.prior.name == EXACT:
                _check_exact(second, stage, "", pictured)
            else:
                _check_real(second, stage, "", config.device, pictured)
        if "clip" in judges:
            if not prompt.strip():
                raise UserError(
                    f"{stage.name}.judges.clip compares views with a prompt; give one beside the "
                    f"picture, or --set {stage.name}.judges.clip=0"
                )
            check_clip(part.clip)
        if config.image is not None and config.image.elevation == "auto":
            _check_search(part, stage)


def check_clip(config: ClipConfig) -> None:
    """Raise UserError unless the CLIP model can be found; no weights are fetched."""
    folder = expanded(config.model, "clip.model")
    if folder.exists():
        file = folder / "config.json"
        if not file.is_file():
            raise UserError(
                f"{folder} holds no CLIP model (no config.json); give the folder of a transformers "
                "CLIP model, or a hub id"
            )
    elif not re.fullmatch(r"[\w.-]+/[\w.-]+", config.model):
        raise UserError(
            f'clip.model: "{config.model}" is neither a folder nor a hub id "owner/name"; for '
            "example openai/clip-vit-base-patch16"
        )
    else:
        file = hub_file(config.model, "config.json", config.revision)
    try:
        kind = json.loads(file.read_text("utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError):
        raise UserError(f"{file} is damaged; fetch the model again") from None
    if kind != "clip":
        raise UserError(
            f"clip.model: {config.model} is of kind {kind!r}, not a CLIP model; for example "
            "openai/clip-vit-base-patch16"
        )


def _check_search(part: AnyStageConfig, stage: Stage) -> None:
    """Raise UserError for `elevation: auto` with priors that can't tell how high a camera was."""
    if stage.name != "coarse":
        return
    if "prior" not in judges_of(part, pictured=True):
        raise UserError("--elevation auto asks the coarse stage's prior, which has no weight here")
    if part.prior.name == EXACT:
        return
    if not describes(find(for_space(part.prior, stage.space)), part.prior):
        raise UserError(
            f"--elevation auto: {part.prior.name} can't tell how high a picture's camera was; give "
            "degrees (0 is level with the object, 90 straight above)"
        )


def _check_exact(part: AnyStageConfig, stage: Stage, prompt: str, pictured: bool) -> None:
    for text in filter(None, all_texts(prompt, part.text, told=True, pictured=pictured)):
        with _other_priors(part.prior.name):
            parse(text)
    name, sees = stage.name, EXACT_RESOLUTIONS[stage.space]
    for wrong, what in (
        (part.resolution != sees, f"{name}.resolution: the exact prior sees {sees} px"),
        (
            not part.prior.tell_camera,
            f"{name}.prior.tell_camera: the exact prior must know the camera",
        ),
        (bool(part.prior.loras), f"{name}.prior.loras: the exact prior has no weights to add to"),
        (
            part.distillation.loss == "vsd",
            f"{name}.distillation: VSD trains a copy of the prior's network, and the exact prior "
            "is a formula: take another loss",
        ),
    ):
        if wrong:
            raise UserError(f"{what}; or choose a diffusion model with --prior")


def _check_real(
    part: AnyStageConfig, stage: Stage, prompt: str, device: str, pictured: bool
) -> None:
    texts = all_texts(prompt, part.text, told=False, pictured=pictured)
    prior = for_space(part.prior, stage.space)
    for path, _ in map(parse_lora, prior.loras):
        check_lora(weights_file(path, "LoRA"))
    if prior.loras:
        require_peft("merging a LoRA")
    for path in prior.textual_inversions:
        check_inversion(weights_file(path, "textual inversion"))
    location = find(prior)
    family = family_of(location.index, location.source)
    if knows_toybox(location):
        for text in texts:
            with _other_priors(part.prior.name):
                wording(text)
    if family == "zero123":
        _check_zero123(prior, stage, prompt, location.source, pictured)
    if family == "mvdream" and not prior.tell_camera:
        raise UserError(f"{stage.name}.prior.tell_camera: {location.source} must know the cameras")
    told = pictured and (
        describes(location, prior) or (prior.tell_image and takes_picture(location))
    )
    if not prompt.strip() and not told:
        raise UserError(
            f"{location.source} takes no picture, so it needs a prompt: add one (the picture's own "
            f"view is held to it), choose a prior that takes pictures (docs/image.md), or none: "
            f"--set {stage.name}.judges.prior=0"
        )
    if prior.dtype == "float16":
        _check_half(device)
    if part.distillation.loss == "vsd":
        require_peft()
    sees = part.prior.resolution or _native_resolution(location)
    if stage.large and family == "pixel" and sees is not None:
        check_fits("pixel", sees, part.resolution, location.source)


@contextmanager
def _other_priors(name: str) -> Iterator[None]:
    """Tell who wants what the toybox lacks that it is the prior that can't, and which can."""
    try:
        yield
    except UserError as error:
        prior = (
            "the default prior, toybox," if name == TOYBOX else f"the prior {one_line(name, 80)}"
        )
        raise UserError(
            f"{error}; {prior} knows no more: another takes any prompt, such as --prior sd15"
        ) from None


def _check_half(device: str) -> None:
    from ..device import pick_device, prior_device
    from ..priors.loading import choose_dtype

    where = prior_device(device, pick_device(device))
    choose_dtype(PriorConfig(dtype="float16"), "sd", where)


def _check_zero123(
    prior: PriorConfig, stage: Stage, prompt: str, source: str, pictured: bool
) -> None:
    """Raise UserError where a prior that is told a picture alone has none, or more than that."""
    if not pictured or not prior.tell_image:
        raise UserError(
            f"{source} makes views of a picture and reads no prompt; give one: --image photo.png"
        )
    if prompt.strip():
        raise UserError(
            f"{source} reads no prompt beside the picture; leave {prompt!r} out, or let a text "
            "prior judge beside it (--config magic123)"
        )


def takes_picture(location: Location) -> bool:
    """Whether a model can be told a picture of the object."""
    if family_of(location.index, location.source) == "zero123":
        return True
    from ..priors.camera_features import reads_reference

    return reads_reference(_unet_config(location))


def describes(location: Location, prior: PriorConfig) -> bool:
    """Whether a model is asked what a picture shows and from where, before it judges views.

    One that was trained on the toybox knows few enough words, and where the front is.
    """
    if not (knows_toybox(location) and prior.tell_camera and prior.tell_image):
        return False
    from ..priors.camera_features import reads_camera

    return reads_camera(_unet_config(location))


def _unet_config(location: Location) -> Mapping[str, Any]:
    """The U-Net's configuration, if there is one; else nothing."""
    return part_config(location, "unet")


def part_config(location: Location, part: str) -> Mapping[str, Any]:
    """The configuration of a part of a model, such as its "unet", if it has one; else nothing."""
    folder = location.folder
    if folder is None and location.commit is not None:
        folder = hub_file(location.source, f"{part}/config.json", location.commit).parents[1]
    try:
        found = json.loads(((folder or Path()) / part / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _native_resolution(location: Location) -> int | None:
    """The image size in the U-Net's configuration, if there is one that says it."""
    size = _unet_config(location).get("sample_size")
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


def check_view_words(text: PromptConfig, told: bool, stage: Stage) -> None:
    """Raise UserError for what needs texts that differ by view where they don't."""
    for setting, wanted in (("perp_neg", text.perp_neg), ("view_guidance", text.view_guidance > 0)):
        if wanted and not text.names_views(told):
            raise UserError(
                f"{stage.name}.text.{setting} needs texts that differ by view, and this prior is "
                f"told the camera in their place; add --set {stage.name}.text.view_dependent=true"
            )


def require_peft(what: str = "VSD, which trains a LoRA,") -> None:
    """Raise UserError with how to install it if the library behind LoRAs is missing."""
    if importlib.util.find_spec("peft") is None:
        raise UserError(
            f"{what} needs the library peft; install it with `pip install 'maquette[lora]'`"
        )


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """The same configuration with the folders and files of models as absolute paths.

    A run is resumed from wherever the user then stands.
    """
    parts: dict[str, Any] = {}
    for stage in STAGES:
        part = stage.config(config)
        prior, changes = part.prior, {}
        changes["loras"] = [f"{_absolute(path)}:{w}" for path, w in map(parse_lora, prior.loras)]
        changes["textual_inversions"] = [_absolute(path) for path in prior.textual_inversions]
        if prior.config is not None:
            changes["config"] = _absolute(prior.config)
        if prior.name not in (EXACT, TOYBOX, *EMBEDDED, *ALIASES):
            changes["name"] = _absolute(prior.name)
        second = part.image_prior
        if second.name not in (EXACT, TOYBOX, *EMBEDDED, *ALIASES):
            second = second.model_copy(update={"name": _absolute(second.name)})
        clip = part.clip.model_copy(update={"model": _absolute(part.clip.model)})
        parts[stage.name] = part.model_copy(
            update={
                "prior": prior.model_copy(update=changes),
                "image_prior": second,
                "clip": clip,
            }
        )
    if config.image is not None:
        named = {key: getattr(config.image, key) for key in ("path", "depth", "normal")}
        places = {key: path and _absolute(path) for key, path in named.items()}
        parts["image"] = config.image.model_copy(update=places)
    return config.model_copy(update=parts)


def _absolute(path: str) -> str:
    place = Path(path).expanduser()
    return str(place.resolve()) if place.exists() else path
