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

from ..config.models import RunConfig
from ..config.priors import PriorConfig, Space, parse_lora
from ..config.prompts import PromptConfig
from ..embedded.door import find, knows_toybox
from ..embedded.names import EMBEDDED, EXACT, EXACT_RESOLUTIONS, TOYBOX, for_space
from ..embedded.vocabulary import wording
from ..errors import UserError, one_line
from ..options import Schedule, values_of
from ..priors.headers import check_inversion, check_lora
from ..priors.location import (
    ALIASES,
    Family,
    Location,
    family_of,
    hub_file,
    weights_file,
)
from ..runs.stage import STAGES, AnyStageConfig, Stage
from ..toybox.grammar import parse
from .texts import all_texts


def judges_of(config: AnyStageConfig) -> dict[str, Schedule]:
    """The names of a stage's judges and their weights, without those that have none throughout."""
    weights: Mapping[str, Schedule] = dict(config.judges)
    return {name: points for name, points in weights.items() if any(values_of(points))}


SUITED: Mapping[str, str] = {
    EXACT: "exact",
    **dict.fromkeys(("sd15", "sd21-base", "sd21"), "magic3d-sd15"),
    "sdxl": "sdxl",
    **dict.fromkeys(("sd3", "sd35-medium", "sd35-large"), "sd3"),
    **dict.fromkeys(("flux-dev", "flux-schnell"), "flux"),
}
"""The configuration that is made for a prior's name, where it can guide both stages."""
FAMILY_SUITED: Mapping[Family, str] = {
    "pixel": "magic3d-if-sd",
    "sd": "magic3d-sd15",
    "sdxl": "sdxl",
    "sd3": "sd3",
    "flux": "flux",
}
"""The configuration that is made for models of a family."""


def suited_to(coarse: PriorConfig, fine: PriorConfig) -> str | None:
    """The shipped configuration that suits the stages' priors; None is the default one.

    A pixel model in the coarse stage and a latent one in the fine stage are Magic3D's pair;
    otherwise the coarse stage's model decides. Raises UserError for a model that isn't there.
    """
    prior = coarse if coarse.name not in (TOYBOX, *EMBEDDED) else fine
    if prior.name in (TOYBOX, *EMBEDDED):
        return None
    if prior.name in SUITED:
        return SUITED[prior.name]
    location = find(prior)
    return (
        None
        if knows_toybox(location)
        else FAMILY_SUITED[family_of(location.index, location.source)]
    )


def check_prompts(config: RunConfig, stages: Sequence[Stage] = STAGES) -> None:
    """Raise UserError now, not after minutes, for a prompt or a judge that a stage cannot take.

    Of a real model only its index is read (from the folder, the cache or the hub), no weights.
    """
    for stage in stages:
        part, prompt = stage.config(config), stage.prompt(config)
        judges = judges_of(part)
        if not judges:
            raise UserError(
                f"{stage.name}.judges: all weights are 0, so nothing would judge the views; give "
                f"one, such as --set {stage.name}.judges.prior=1"
            )
        if "prior" in judges:
            if part.prior.name == EXACT:
                _check_exact(part, stage, prompt)
            else:
                _check_real(part, stage, prompt, config.device)
        if "clip" in judges:
            _check_clip(part)


def _check_clip(part: AnyStageConfig) -> None:
    """Raise UserError unless the CLIP model can be found; no weights are fetched."""
    config = part.clip
    folder = Path(config.model).expanduser()
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


def _check_exact(part: AnyStageConfig, stage: Stage, prompt: str) -> None:
    for text in filter(None, all_texts(prompt, part.text, told=True)):
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


def _check_real(part: AnyStageConfig, stage: Stage, prompt: str, device: str) -> None:
    texts = all_texts(prompt, part.text, told=False)
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
    from ..device import pick_device
    from ..priors.loading import choose_dtype

    choose_dtype(PriorConfig(dtype="float16"), "sd", pick_device(device))


def _native_resolution(location: Location) -> int | None:
    """The image size in the U-Net's configuration, if there is one that says it."""
    folder = location.folder
    if folder is None and location.commit is not None:
        folder = hub_file(location.source, "unet/config.json", location.commit).parents[1]
    try:
        found = json.loads(((folder or Path()) / "unet" / "config.json").read_text("utf-8"))
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


def check_perp_neg(text: PromptConfig, told: bool, stage: Stage) -> None:
    """Raise UserError for Perp-Neg where the texts don't differ by view."""
    if text.perp_neg and not text.names_views(told):
        raise UserError(
            f"{stage.name}.text.perp_neg needs texts that differ by view, and this prior is told "
            f"the camera in their place; add --set {stage.name}.text.view_dependent=true"
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
    parts = {}
    for stage in STAGES:
        part = stage.config(config)
        prior, changes = part.prior, {}
        changes["loras"] = [f"{_absolute(path)}:{w}" for path, w in map(parse_lora, prior.loras)]
        changes["textual_inversions"] = [_absolute(path) for path in prior.textual_inversions]
        if prior.config is not None:
            changes["config"] = _absolute(prior.config)
        if prior.name not in (EXACT, TOYBOX, *EMBEDDED, *ALIASES):
            changes["name"] = _absolute(prior.name)
        clip = part.clip.model_copy(update={"model": _absolute(part.clip.model)})
        parts[stage.name] = part.model_copy(
            update={"prior": prior.model_copy(update=changes), "clip": clip}
        )
    return config.model_copy(update=parts)


def _absolute(path: str) -> str:
    place = Path(path).expanduser()
    return str(place.resolve()) if place.exists() else path
