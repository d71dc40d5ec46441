"""Diffusion models of published sizes with random weights, as priors: nothing is downloaded.

Nothing of use comes out of them; sizes, paths and costs are the real ones.
"""

from __future__ import annotations

import importlib
from types import SimpleNamespace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from maquette.common.config.priors import PriorConfig
from maquette.common.config.prompts import PromptConfig
from maquette.common.guidance.prompts import ViewPrompts
from maquette.common.guidance.prompts_cache import KnownTexts
from maquette.common.priors.base import TextEmbedding
from maquette.common.priors.latent_unet import SDXLPrior, StableDiffusionPrior
from maquette.common.priors.loading import (
    choose_dtype,
    choose_offload,
    place_vae,
    save_memory,
)
from maquette.common.priors.pixel_unet import PixelUNetPrior
from maquette.common.priors.pretrained import LoadedPipeline, PretrainedPrior

ModelName = Literal["sd15", "sdxl", "if"]
UNETS: dict[str, dict[str, Any]] = {
    "sd15": {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
    "sdxl": {
        "sample_size": 128,
        "cross_attention_dim": 2048,
        "attention_head_dim": (5, 10, 20),
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
        "use_linear_projection": True,
    },
    "if": {
        "sample_size": 64,
        "in_channels": 3,
        "out_channels": 6,
        "cross_attention_dim": 2816,
        "attention_head_dim": 64,
        "block_out_channels": (704, 1408, 2112, 2816),
        "layers_per_block": 3,
        "down_block_types": ("ResnetDownsampleBlock2D", *("SimpleCrossAttnDownBlock2D",) * 3),
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
        "up_block_types": (*("SimpleCrossAttnUpBlock2D",) * 3, "ResnetUpsampleBlock2D"),
        "addition_embed_type": "text",
        "addition_embed_type_num_heads": 64,
        "encoder_hid_dim": 4096,
        "encoder_hid_dim_type": "text_proj",
        "resnet_time_scale_shift": "scale_shift",
        "act_fn": "gelu",
    },
}
SMALL: dict[str, dict[str, Any]] = {
    "sd15": {"sample_size": 8, "block_out_channels": (32,) * 4},
    "sdxl": {
        "sample_size": 8,
        "block_out_channels": (32,) * 3,
        "attention_head_dim": 4,
        "transformer_layers_per_block": 1,
    },
    "if": {
        "sample_size": 16,
        "block_out_channels": (32,) * 4,
        "attention_head_dim": 8,
        "layers_per_block": 1,
        "cross_attention_dim": 32,
        "addition_embed_type_num_heads": 4,
    },
}
TEXT_WIDTH = {"sd15": 768, "sdxl": 2048, "if": 4096}
ADAPTERS = {"sd15": StableDiffusionPrior, "sdxl": SDXLPrior, "if": PixelUNetPrior}
FAMILIES: dict[str, Any] = {"sd15": "sd", "sdxl": "sdxl", "if": "pixel"}


def prior_of(
    name: ModelName, device: torch.device, options: PriorConfig, tiny: bool = False
) -> PretrainedPrior:
    """The adapter of a family around networks of the published size, or tiny ones."""
    diffusers: Any = importlib.import_module("diffusers")
    dtype = choose_dtype(options, FAMILIES[name], device)
    settings = UNETS[name] | (SMALL[name] if tiny else {})
    unet = filled(lambda: diffusers.UNet2DConditionModel(**settings), device, dtype)
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    parts = SimpleNamespace(unet=unet, scheduler=diffusers.DDIMScheduler(**betas))
    if name != "if":
        widths = (32,) * 4 if tiny else (128, 256, 512, 512)
        half = torch.float32 if dtype == torch.float16 else dtype
        parts.vae = filled(lambda: autoencoder(diffusers, widths), device, half)
        place_vae(parts.vae, options, device)
    chosen = choose_offload(options, parts, unet, device)
    loaded = LoadedPipeline(parts, f"{name}, random weights", None, chosen, device, dtype)
    prior = ADAPTERS[name](loaded)
    save_memory(prior, chosen)
    return prior


def autoencoder(diffusers: Any, widths: tuple[int, ...]) -> nn.Module:
    """The VAE that Stable Diffusion 1.5 and SDXL share but for their scale."""
    return diffusers.AutoencoderKL(
        block_out_channels=widths,
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        layers_per_block=2,
        latent_channels=4,
        scaling_factor=0.18215,
    )


def filled(make: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """A network made at once where it is to live, with small random weights."""
    with torch.device("meta"):
        network = make().to(dtype)
    network = network.to_empty(device=device).requires_grad_(False).eval()
    generator = torch.Generator(device).manual_seed(0)
    for parameter in network.parameters():
        parameter.normal_(0.0, 0.02, generator=generator)
    for buffer in network.buffers():
        buffer.zero_()
    return network


def texts(name: ModelName, prior: PretrainedPrior) -> ViewPrompts:
    """Random embeddings of the family's shape in place of a prompt's."""
    rows = torch.randn(2, 77, TEXT_WIDTH[name]).to(prior.device, prior.dtype)
    tensors: dict[str, Tensor] = {"states": rows}
    if name == "sdxl":
        tensors["pooled"] = torch.randn(2, 1280).to(prior.device, prior.dtype)
    known = KnownTexts(TextEmbedding(("a sphere", ""), tensors))
    return ViewPrompts.encode(known, "a sphere", PromptConfig(view_dependent=False))
