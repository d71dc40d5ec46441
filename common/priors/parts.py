"""Models that no pipeline of diffusers holds, from their sub-folders one by one.

Every part is a stock class of diffusers or transformers, but for Zero-1-to-3's one linear layer,
which is read here. Nothing that a repository brings along is run, and no pickle is read.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..config.priors import PriorConfig
from ..errors import UserError
from .adaptation import weight_errors
from .location import PROJECTIONS, Location, hub_errors, missing_libraries
from .pretrained import quiet_libraries

PATTERNS = ("*.json", "*/*.json", "*/*.txt", "*/*.safetensors")


class Parts:
    """Components by name, as an adapter wants them of a pipeline."""

    def __init__(self, **components: Any) -> None:
        self.components = components
        for name, component in components.items():
            setattr(self, name, component)

    def enable_attention_slicing(self) -> None:
        """As pipelines have it: the U-Net's attention in slices."""
        self.components["unet"].set_attention_slice("auto")


def model_files(options: PriorConfig, location: Location) -> Path:
    """The folder of a model, fetched from the hub if it isn't one. Raises UserError."""
    if location.folder is not None:
        return location.folder
    with missing_libraries():
        import huggingface_hub
    with hub_errors(location.source, options.revision):
        found = huggingface_hub.snapshot_download(
            location.source, revision=location.commit, allow_patterns=list(PATTERNS)
        )
    return Path(found)


def load_zero123(options: PriorConfig, location: Location, dtype: torch.dtype) -> Parts:
    """The parts of Zero-1-to-3. Raises UserError for what is missing or no safetensors."""
    with missing_libraries(), quiet_libraries():
        diffusers: Any = importlib.import_module("diffusers")
        transformers: Any = importlib.import_module("transformers")
    folder = model_files(options, location)
    name = next(name for name in PROJECTIONS if name in location.index)
    vae = torch.float32 if dtype == torch.float16 else dtype
    stored: Any = {"variant": options.variant, "use_safetensors": True}
    with missing_libraries(), quiet_libraries(), weight_errors(location.source, options.variant):
        return Parts(
            vae=diffusers.AutoencoderKL.from_pretrained(
                folder, subfolder="vae", torch_dtype=vae, **stored
            ),
            unet=diffusers.UNet2DConditionModel.from_pretrained(
                folder, subfolder="unet", torch_dtype=dtype, **stored
            ),
            image_encoder=transformers.CLIPVisionModelWithProjection.from_pretrained(
                folder, subfolder="image_encoder", dtype=dtype, **stored
            ),
            scheduler=diffusers.DDIMScheduler.from_pretrained(folder, subfolder="scheduler"),
            projection=read_projection(folder / name, options.variant).to(dtype),
        )


def read_projection(folder: Path, variant: str | None = None) -> nn.Linear:
    """The layer that joins a picture's embedding and the pose: the folder's one weight and bias.

    Its keys are `proj.weight` or `projection.weight`, by who converted the model. Raises UserError
    if the folder holds no such safetensors file.
    """
    files = sorted(folder.glob("*.safetensors"))
    wanted = [f for f in files if (f".{variant}." in f.name) == (variant is not None)]
    if not files:
        pickled = any(folder.glob("*.bin"))
        reason = "holds a pickle, which isn't read" if pickled else "holds no safetensors file"
        raise UserError(
            f"{folder} {reason}; give a repository or revision with safetensors, such as "
            "bennyguo/zero123-xl-diffusers, or convert it with safetensors.torch.save_file"
        )
    from safetensors.torch import load_file

    with weight_errors(str(folder), variant):
        tensors = load_file((wanted or files)[0])
    found = {key.rpartition(".")[2]: value for key, value in tensors.items()}
    if set(found) != {"weight", "bias"} or len(tensors) != 2 or found["weight"].ndim != 2:
        raise UserError(
            f"{folder} holds {', '.join(sorted(tensors))} where one linear layer was expected; "
            "fetch the model again"
        )
    outputs, inputs = found["weight"].shape
    layer = nn.Linear(inputs, outputs)
    layer.load_state_dict({key: value.float() for key, value in found.items()})
    return layer


def load_mvdream(options: PriorConfig, location: Location, dtype: torch.dtype, text: bool) -> Any:
    """MVDream as a Stable Diffusion pipeline with its U-Net in the stock class.

    text: whether to load the text encoder. Raises UserError for what is missing or doesn't fit.
    """
    from .mvdream import stock_weights, unet_config

    with missing_libraries(), quiet_libraries():
        diffusers: Any = importlib.import_module("diffusers")
        transformers: Any = importlib.import_module("transformers")
    folder = model_files(options, location)
    vae = torch.float32 if dtype == torch.float16 else dtype
    stored: Any = {"variant": options.variant, "use_safetensors": True}
    config = unet_config(_json(folder / "unet" / "config.json"))
    with missing_libraries(), quiet_libraries(), weight_errors(location.source, options.variant):
        unet = diffusers.UNet2DConditionModel(**config)
        weights = stock_weights(_weights(folder / "unet", options.variant), config)
        missing, extra = unet.load_state_dict(weights, strict=False)
        if missing or extra:
            raise UserError(
                f"{location.source}: {len(missing)} weights of the U-Net are missing and "
                f"{len(extra)} are too many ({', '.join([*missing, *extra][:3])}); it is not "
                "MVDream's, or damaged"
            )
        encoder = tokenizer = None
        if text:
            encoder = transformers.CLIPTextModel.from_pretrained(
                folder, subfolder="text_encoder", dtype=dtype, **stored
            )
            tokenizer = transformers.CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer")
        return diffusers.StableDiffusionPipeline(
            vae=diffusers.AutoencoderKL.from_pretrained(
                folder, subfolder="vae", torch_dtype=vae, **stored
            ),
            text_encoder=encoder,
            tokenizer=tokenizer,
            unet=unet.to(dtype),
            scheduler=diffusers.DDIMScheduler.from_pretrained(folder, subfolder="scheduler"),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        raise UserError(f"{path} is missing or damaged; fetch the model again") from None


def _weights(folder: Path, variant: str | None) -> dict[str, torch.Tensor]:
    """All tensors of a folder's safetensors files of a variant."""
    from safetensors.torch import load_file

    files = sorted(folder.glob("*.safetensors"))
    wanted = [f for f in files if (f".{variant}" in f.name) == (variant is not None)]
    if not files:
        raise UserError(f"{folder} holds no safetensors file; pickles aren't read")
    return {key: value for file in wanted or files for key, value in load_file(file).items()}
