"""The networks of the embedded prior: stock diffusers and transformers classes, small.

Text enters through the time embedding and by cross attention at the smallest level, the camera
through the time embedding. Attention anywhere else would cost a CPU more than the rest together.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.deepfloyd_if.pipeline_if import IFPipeline
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from ...priors.camera_features import FEATURES, LABELS, SURFACE
from ...priors.pretrained import quiet_libraries
from ..vocabulary import END, LENGTH, START, build_tokenizer, token_count, word_ids
from .data import Poses
from .settings import TrainConfig

LATENT_CHANNELS, GROUPS, HEAD, CAMERA_GAIN = 4, 8, 32, 4.0
SHARD = "15MB"
MIDDLES = {"attention": "UNetMidBlock2DCrossAttn", "plain": "UNetMidBlock2D"}


class Denoiser(nn.Module):
    """A U-Net and the text encoder that is trained along with it."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        self.unet = build_unet(config)
        self.text = build_text_encoder(config)

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        ids: Tensor,
        reference: Tensor,
        poses: Tensor,
        surface: Tensor,
    ) -> Tensor:
        """The velocity `alpha eps - sigma x` `[B, C, h, w]` of noised `x_t`.

        t: int64 `[B]`. ids: tokens, int64 `[B, 16]`. reference: clean x of the reference images,
        `[B, C, h, w]`, zeros where there is none. poses: `[B, 8]`; see `data.Poses`. surface: what
        is told of what the views see, `[B, BUFFER, h, w]`.
        """
        states = self.text(input_ids=ids)[0]
        labels, painted = Poses.of(poses).inputs(surface)
        labels = labels.to(states.dtype)
        x_t = torch.cat([x_t, reference, painted], dim=1)
        return self.unet(
            x_t, t, encoder_hidden_states=states, class_labels=labels, return_dict=False
        )[0]


def build_unet(config: TrainConfig) -> UNet2DConditionModel:
    """A plain U-Net, one residual block a level."""
    channels = LATENT_CHANNELS if config.kind == "latent" else 3
    plain = len(config.widths) - 1
    unet: Any = UNet2DConditionModel(
        sample_size=config.side,
        in_channels=2 * channels + SURFACE,
        out_channels=channels,
        block_out_channels=config.widths,
        layers_per_block=1,
        norm_num_groups=GROUPS,
        # Diffusers takes this for the number of heads.
        attention_head_dim=max(1, config.widths[-1] // HEAD),
        down_block_types=("DownBlock2D",) * plain + ("CrossAttnDownBlock2D",),
        mid_block_type=MIDDLES[config.middle],
        up_block_types=("CrossAttnUpBlock2D",) + ("UpBlock2D",) * plain,
        cross_attention_dim=config.text_width,
        time_embedding_dim=config.embedding,
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
        class_embed_type="projection",
        projection_class_embeddings_input_dim=LABELS,
        resnet_time_scale_shift="scale_shift",
    )
    # Twelve inputs start out as a whisper beside time and text, and are then not heard for long.
    unet.class_embedding.linear_1.weight.data.mul_(CAMERA_GAIN)
    return unet


def build_text_encoder(config: TrainConfig) -> CLIPTextModel:
    """A tiny CLIP text encoder of the toybox's words."""
    ids = word_ids()
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=token_count(),
            hidden_size=config.text_width,
            intermediate_size=4 * config.text_width,
            num_hidden_layers=config.text_layers,
            num_attention_heads=config.text_width // 16,
            projection_dim=config.text_width,
            max_position_embeddings=LENGTH,
            bos_token_id=ids[START],
            eos_token_id=ids[END],
            pad_token_id=ids[END],
        )
    )


def build_autoencoder(config: TrainConfig) -> AutoencoderKL:
    """A convolutional autoencoder without attention: 8 x 8 pixels to four numbers."""
    levels = len(config.widths)
    blocks: dict[str, Any] = {  # annotated as tuples of one, but any number of levels will do
        "block_out_channels": config.widths,
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
    }
    return AutoencoderKL(
        **blocks,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=GROUPS,
        sample_size=config.resolution,
        mid_block_add_attention=False,
        scaling_factor=1.0,
    )


def build_scheduler(clip: bool) -> DDIMScheduler:
    """The cosine schedule (Nichol and Dhariwal 2021) for networks that predict the velocity.

    clip: whether a sampler may clamp clean images to [-1, 1]; latents have no such bounds.
    """
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        clip_sample=clip,
        steps_offset=1,
        timestep_spacing="trailing",
    )


def save_denoiser(
    unet: nn.Module, text: nn.Module, vae: AutoencoderKL | None, folder: Path
) -> None:
    """Write a pipeline's folder, in half precision and shards that any host takes."""
    with quiet_libraries():
        shared: dict[str, Any] = {
            "unet": halved(unet),
            "text_encoder": halved(text),
            "tokenizer": build_tokenizer(),
            "scheduler": build_scheduler(clip=vae is None),
            "safety_checker": None,
            "feature_extractor": None,
            "requires_safety_checker": False,
        }
        if vae is None:
            pipeline = IFPipeline(watermarker=None, **shared)
        else:
            pipeline = StableDiffusionPipeline(vae=halved(vae), **shared)
        pipeline.save_pretrained(folder, safe_serialization=True, max_shard_size=SHARD)


def save_autoencoder(vae: AutoencoderKL, scale: float, folder: Path) -> None:
    """Write an autoencoder's folder; `scale` brings its latents to unit variance."""
    vae = halved(vae)
    vae.register_to_config(scaling_factor=scale)
    with quiet_libraries():
        vae.save_pretrained(folder, safe_serialization=True, max_shard_size=SHARD)


def load_alike(module: nn.Module, folder: Path) -> int:
    """Copy the weights in a component's folder that have their twin in `module`; how many did.

    A U-Net of fewer levels, for smaller images, becomes the inner levels of `module`. One that is
    told nothing of reference images and surfaces becomes one that is and does not listen yet: the
    weights of its new inputs are zero. Of other inputs those that both have at the front are taken.
    """
    kept, shapes = module.state_dict(), weight_shapes(folder)
    plain = {"class_embedding.linear_1.weight": FEATURES}
    if "conv_out.bias" in kept and shapes.get("conv_out.bias") == kept["conv_out.bias"].shape:
        plain["conv_in.weight"] = len(kept["conv_out.bias"])
    outer = len(_levels(kept)) - len(_levels(shapes))
    taken = 0
    for file in sorted(folder.glob("*.safetensors")):
        for name, value in load_file(file).items():
            twin = _LEVEL.sub(lambda found: f"down_blocks.{int(found[1]) + outer}.", name)
            if twin not in kept:
                continue
            if kept[twin].shape == value.shape:
                kept[twin].copy_(value)
                taken += 1
            elif (least := plain.get(twin, 0)) and len(value) == len(kept[twin]):
                both = min(value.shape[1], kept[twin].shape[1])
                alike = least if value.shape[1] < 2 * least else both
                kept[twin].zero_()
                kept[twin][:, :alike] = value[:, :alike]
                taken += 1
    return taken


# The way up counts from the innermost level, so that its numbers stay.
_LEVEL = re.compile(r"^down_blocks\.(\d+)\.")


def _levels(names: Iterable[str]) -> set[str]:
    """The numbers of the levels that parameters' names speak of; empty for what is no U-Net."""
    return {found[1] for name in names if (found := _LEVEL.match(name))}


def weight_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of all weights in a component's folder, by name."""
    shapes: dict[str, tuple[int, ...]] = {}
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            names = list(tensors.keys())
            shapes |= {name: tuple(tensors.get_slice(name).get_shape()) for name in names}
    return shapes


def halved(module: Any) -> Any:
    """A copy in half precision on the CPU, which doesn't say from which folder it was read."""
    alike = copy.deepcopy(module).cpu().half()
    if isinstance(alike, ConfigMixin) and "_name_or_path" in alike.config:
        alike.register_to_config(_name_or_path="")
    return alike


def rate_factor(step: int, progress: float, warmup: int) -> float:
    """The learning rate's share of its peak: rising, flat to half of the budget, then a cosine."""
    rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
    fall = 0.5 * (1.0 + math.cos(math.pi * min(1.0, max(0.0, 2.0 * progress - 1.0))))
    return rise * fall
