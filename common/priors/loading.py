"""The door for real diffusion models: from an alias, a hub id or a folder to a `Prior`.

`load_prior` finds the model (`location`), loads its components through diffusers, and hands them to
the family's adapter. Weights are safetensors only. Every way this can fail that is the user's to
mend ends in one line that says what to do.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, assert_never

import torch

from ..config.priors import PriorConfig
from ..device import computes_bf16
from ..errors import UserError
from ..files import expanded
from .adaptation import add_textual_inversions, merge_loras, weight_errors
from .components import check_finite, check_tokenizers, load_modules
from .headers import check_folder, choose_variant
from .joint_views import join_views
from .location import (
    UNUSED,
    Family,
    Location,
    family_of,
    hub_errors,
    locate,
    missing_libraries,
    reachable,
)
from .memory import card_bytes, choose_memory, stream_layers, weight_bytes
from .parts import load_mvdream, load_zero123
from .pretrained import LoadedPipeline, PretrainedPrior, quiet_libraries


@dataclass(frozen=True)
class Special:
    """What is special about the weights that a program's own door hands in.

    wording: puts a prompt the way the model knows it, or raises `UserError`. mixed: float32 weights
    that compute in bfloat16 where the device has units for it, as they did in their training.
    """

    wording: Callable[[str], str] | None = None
    mixed: bool = False


def load_prior(
    options: PriorConfig,
    device: torch.device | str = "cpu",
    text: bool = True,
    location: Location | None = None,
    special: Special | None = None,
) -> PretrainedPrior:
    """Load the model of `options` as a prior, frozen and in evaluation mode.

    text: False loads no text encoders, for embeddings that are known already; not with LoRAs or
        textual inversions, which have parts in them. location: where the model is, if that is
        known; special: what is special about it.
    Raises `UserError` if it cannot be found, fetched, read or used; every line names a remedy.
    """
    device, special = torch.device(device), special or Special()
    location = location or locate(options)
    family = family_of(location.index, location.source)
    mixed = special.mixed and options.dtype == "auto"
    dtype = torch.float32 if mixed else choose_dtype(options, family, device)
    pipeline, notes = _load_pipeline(options, location, family, dtype, text)
    if text and family != "zero123":
        check_text_encoders(pipeline, family, location.source)
    words = add_textual_inversions(pipeline, options)
    notes += merge_loras(pipeline, options)
    denoiser = pipeline.transformer if family in ("sd3", "flux") else pipeline.unet
    for module in pipeline.components.values():
        if isinstance(module, torch.nn.Module):
            module.requires_grad_(False).eval()
    place_vae(getattr(pipeline, "vae", None), options, device)
    options = choose_offload(options, pipeline, denoiser, device)
    autocast = mixed and computes_bf16(device)
    if autocast and device.type == "cpu":
        denoiser.to(memory_format=torch.channels_last)  # benchmarks/embedded.py
    prior = _adapt(
        family,
        LoadedPipeline(
            pipeline,
            location.source,
            location.commit,
            options,
            device,
            dtype,
            autocast=autocast,
            wording=special.wording,
            words=words,
        ),
    )
    prior.notes += notes
    if options.joint_views > 1:
        join_views(prior, options.joint_views)
    save_memory(prior, options)
    return prior


def choose_dtype(options: PriorConfig, family: Family, device: torch.device) -> torch.dtype:
    """The dtype to run in; raises `UserError` for float16 on the CPU.

    A GPU without units for bfloat16 takes float16 in its place; `dtype_note` tells of it.
    """
    match options.dtype:
        case "auto":
            if device.type != "cuda":
                return torch.float32
            wanted = torch.bfloat16 if family in ("sd3", "flux") else torch.float16
        case "float16":
            if device.type == "cpu":
                raise UserError(
                    "dtype: float16 is for GPUs; on the CPU use float32, or bfloat16 for half the"
                    " memory"
                )
            return torch.float16
        case "bfloat16":
            wanted = torch.bfloat16
        case "float32":
            return torch.float32
        case _ as unreachable:
            assert_never(unreachable)
    lacking = wanted == torch.bfloat16 and device.type == "cuda" and not computes_bf16(device)
    return torch.float16 if lacking else wanted


def place_vae(vae: torch.nn.Module | None, options: PriorConfig, device: torch.device) -> None:
    """Give a loaded VAE the dtype that the user chose; `auto` leaves it as it was loaded."""
    if vae is None or options.vae_dtype == "auto":
        return
    wide = options.vae_dtype == "float32" or (device.type == "cuda" and not computes_bf16(device))
    vae.to(torch.float32 if wide else torch.bfloat16)


def dtype_note(options: PriorConfig, family: Family, device: torch.device) -> str | None:
    """One line where a model that wants bfloat16 meets a GPU that doesn't compute in it."""
    wants = options.dtype == "bfloat16" or (options.dtype == "auto" and family in ("sd3", "flux"))
    if (
        not wants
        or choose_dtype(options, family, device) == torch.bfloat16
        or device.type != "cuda"
    ):
        return None
    return (
        "this GPU does not compute in bfloat16; the model runs in float16, its VAE in float32 "
        "(dtype float32 is safe, and takes twice the memory)"
    )


def check_text_encoders(pipeline: Any, family: Family, source: str) -> None:
    """Raise `UserError` if the text encoder is not one the family's adapter knows how to ask."""
    kind = type(pipeline.text_encoder).__name__
    known = ("CLIPText", "T5Encoder") if family == "pixel" else ("CLIPText",)
    if not kind.startswith(known):
        raise UserError(
            f"{source} reads text with a {kind}, which is not supported; the {family} family"
            f" takes {' or '.join(known)} encoders"
        )


def _load_pipeline(
    options: PriorConfig, location: Location, family: Family, dtype: torch.dtype, text: bool
) -> tuple[Any, list[str]]:
    """The diffusers pipeline of a family, as a container, and what is to be told of its weights."""
    if family == "zero123":
        if options.loras or options.textual_inversions:
            raise UserError(f"{location.source} reads no text: leave LoRAs and learned words out")
        return load_zero123(options, location, dtype), []
    if family == "mvdream":
        return load_mvdream(options, location, dtype, text), []
    with missing_libraries(), quiet_libraries():
        container, arguments = _container(family)
    if options.drop_t5 and family != "sd3":
        raise UserError(f"drop_t5: only SD 3 runs without T5, {location.source} does not")
    if family == "sd3" and (options.drop_t5 or not any(location.index["text_encoder_3"])):
        arguments |= {"text_encoder_3": None, "tokenizer_3": None}
    if not text:
        names = [n for n in location.index if n.startswith(("text_encoder", "tokenizer"))]
        arguments |= dict.fromkeys(names)
    # Most of these VAEs overflow in float16, none does in bfloat16.
    dtypes = {"default": dtype, "vae": torch.float32 if dtype == torch.float16 else dtype}
    skipped = {*UNUSED, *(name for name, value in arguments.items() if value is None)}
    with missing_libraries(), quiet_libraries():
        folder = location.folder
        if location.commit is not None:
            with hub_errors(location.source, options.revision):
                variant = options.variant or _only_variant(location)
                folder = Path(
                    container.download(
                        location.source,
                        revision=location.commit,
                        variant=variant,
                        use_safetensors=True,
                        **arguments,
                    )
                )
        assert folder is not None
        if folder.is_file():
            pipeline = _from_file(container, folder, options, dtypes, arguments)
            if text:
                check_tokenizers(pipeline, location.source)
            return pipeline, []
        check_folder(folder, location.index, skipped)
        with weight_errors(location.source, options.variant):
            modules, notes = load_modules(folder, location.index, skipped, dtypes, options.variant)
            pipeline = container.from_pretrained(folder, **modules, **arguments)
    if text:
        with weight_errors(location.source, options.variant):
            check_tokenizers(pipeline, location.source)
    return pipeline, notes


def _from_file(
    container: Any,
    file: Path,
    options: PriorConfig,
    dtypes: dict[str, torch.dtype],
    arguments: dict[str, Any],
) -> Any:
    """The pipeline of a single-file checkpoint, its configuration given or the hub's usual one."""
    from huggingface_hub import constants

    place: dict[str, Any] = {}
    if options.config is not None:
        given = expanded(options.config, "prior.config")
        place = {"config": str(given) if given.exists() else options.config}
        place["local_files_only"] = given.exists()
    elif constants.HF_HUB_OFFLINE or not reachable(constants.ENDPOINT):
        raise UserError(
            f"{file} needs its model's configuration, which isn't in it, and the hub can't be "
            "reached; give a diffusers folder of the same model with --set coarse.prior.config="
            "FOLDER (and fine.prior.config)"
        )
    with weight_errors(str(file), None):
        pipeline = container.from_single_file(
            str(file), torch_dtype=dtypes["default"], **place, **arguments
        )
    for name, module in pipeline.components.items():
        if isinstance(module, torch.nn.Module):
            check_finite(module, f"{file}: its {name}")
    if "vae" in dtypes and getattr(pipeline, "vae", None) is not None:
        pipeline.vae.to(dtypes["vae"])
    return pipeline


def _only_variant(location: Location) -> str | None:
    """The variant to fetch where the hub has no plain weights of the denoiser."""
    import huggingface_hub
    from huggingface_hub import errors

    try:
        files = huggingface_hub.list_repo_files(location.source, revision=location.commit)
    except (OSError, errors.HfHubHTTPError, errors.OfflineModeIsEnabled):
        return None  # the cache decides
    heads = ("unet/", "transformer/")
    names = [f.split("/")[1] for f in files if f.startswith(heads) and f.endswith(".safetensors")]
    return choose_variant(names, None) if names else None


def _container(family: Family) -> tuple[Any, dict[str, Any]]:
    """The pipeline class that holds a family's components, and what it is loaded without."""
    diffusers: Any = importlib.import_module("diffusers")
    no_checker = {"safety_checker": None, "requires_safety_checker": False}
    no_extractor = {"feature_extractor": None}
    no_images = {"image_encoder": None, **no_extractor}
    match family:
        case "pixel":
            return diffusers.IFPipeline, {"watermarker": None, **no_extractor, **no_checker}
        case "sd":
            return diffusers.StableDiffusionPipeline, {**no_images, **no_checker}
        case "sdxl":
            return diffusers.StableDiffusionXLPipeline, {"add_watermarker": False, **no_images}
        case "sd3":
            return diffusers.StableDiffusion3Pipeline, no_images
        case "flux":
            return diffusers.FluxPipeline, no_images
        case "zero123" | "mvdream":
            raise AssertionError(f"{family} is in no pipeline")
        case _ as unreachable:
            assert_never(unreachable)


def _adapt(family: Family, loaded: LoadedPipeline) -> PretrainedPrior:
    """The family's adapter around a loaded pipeline."""
    from .flow import FluxPrior, SD3Prior
    from .latent_unet import SDXLPrior, StableDiffusionPrior
    from .mvdream import MVDreamPrior
    from .pixel_unet import PixelUNetPrior
    from .zero123 import Zero123Prior

    match family:
        case "pixel":
            return PixelUNetPrior(loaded)
        case "sd":
            return StableDiffusionPrior(loaded)
        case "sdxl":
            return SDXLPrior(loaded)
        case "sd3":
            return SD3Prior(loaded)
        case "flux":
            return FluxPrior(loaded)
        case "zero123":
            return Zero123Prior(loaded, is_stable(loaded))
        case "mvdream":
            return MVDreamPrior(loaded)
        case _ as unreachable:
            assert_never(unreachable)


def is_stable(loaded: LoadedPipeline) -> bool:
    """Whether a Zero-1-to-3 is told poses as Stable Zero123 is; by its name, unless it is said."""
    said = loaded.options.pose
    return "stable" in loaded.source.lower() if said == "auto" else said == "stable"


def choose_offload(
    options: PriorConfig, pipeline: Any, denoiser: torch.nn.Module, device: torch.device
) -> PriorConfig:
    """Memory options with the preset filled in; on the CPU there is nothing to offload to."""
    if device.type == "cpu":
        return options.model_copy(update={"offload": "none", "text_on_cpu": False})
    names = ("text_encoder", "text_encoder_2", "text_encoder_3")
    encoders = [e for n in names if (e := getattr(pipeline, n, None)) is not None]
    return choose_memory(
        options, weight_bytes(denoiser), weight_bytes(*encoders), card_bytes(device)
    )


def save_memory(prior: PretrainedPrior, options: PriorConfig) -> None:
    """Switch on what the options ask of the loaded modules."""
    if prior.vae is not None:
        if options.vae_slicing:
            prior.vae.enable_slicing()
        if options.vae_tiling:
            prior.vae.enable_tiling()
        if options.checkpoint_vae:
            prior.vae.enable_gradient_checkpointing()
    if options.attention_slicing:
        prior.pipeline.enable_attention_slicing()
    if options.channels_last:
        for module in (prior.denoiser, prior.vae):
            if module is not None:
                module.to(memory_format=torch.channels_last)
    if options.compile == "graphs" and options.offload != "none":
        raise UserError(
            f"compile: graphs replays the denoiser where it lies, and offload {options.offload} "
            "moves it; give compile kernels, or offload none (and vram none)"
        )
    if options.compile != "none":
        prior.denoiser.compile(mode="reduce-overhead" if options.compile == "graphs" else None)
    if options.offload == "group":
        stream_layers(prior.denoiser, prior.device)
