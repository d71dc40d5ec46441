"""A small Stable Diffusion 1 folder as one file, with the names of the original checkpoints.

Written from the structure of the published checkpoints (`model.diffusion_model`,
`first_stage_model`, `cond_stage_model`), for U-Nets and autoencoders of one layer a block, as
`tiny_models` builds them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

UNET_PLACES = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "down_blocks.0.resnets.0": "input_blocks.1.0",
    "down_blocks.0.attentions.0": "input_blocks.1.1",
    "down_blocks.0.downsamplers.0.conv": "input_blocks.2.0.op",
    "down_blocks.1.resnets.0": "input_blocks.3.0",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
    "up_blocks.0.resnets.0": "output_blocks.0.0",
    "up_blocks.0.resnets.1": "output_blocks.1.0",
    "up_blocks.0.upsamplers.0.conv": "output_blocks.1.1.conv",
    "up_blocks.1.resnets.0": "output_blocks.2.0",
    "up_blocks.1.attentions.0": "output_blocks.2.1",
    "up_blocks.1.resnets.1": "output_blocks.3.0",
    "up_blocks.1.attentions.1": "output_blocks.3.1",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
RESNET_PARTS = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
VAE_PARTS = (
    (r"(encoder|decoder)\.conv_norm_out", r"\1.norm_out"),
    (r"encoder\.down_blocks\.(\d)\.resnets\.(\d)", r"encoder.down.\1.block.\2"),
    (r"encoder\.down_blocks\.(\d)\.downsamplers\.0", r"encoder.down.\1.downsample"),
    (r"mid_block\.resnets\.0", "mid.block_1"),
    (r"mid_block\.resnets\.1", "mid.block_2"),
    (r"mid_block\.attentions\.0\.group_norm", "mid.attn_1.norm"),
    (r"mid_block\.attentions\.0\.to_out\.0", "mid.attn_1.proj_out"),
    (r"mid_block\.attentions\.0\.to_([qkv])", r"mid.attn_1.\1"),
    (r"conv_shortcut", "nin_shortcut"),
)


def save_single_file(folder: Path, path: Path) -> Path:
    """Write the three models of a diffusers folder into one file; returns its path."""
    tensors: dict[str, Tensor] = {}
    unet = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    vae = load_file(folder / "vae" / "diffusion_pytorch_model.safetensors")
    text = load_file(folder / "text_encoder" / "model.safetensors")
    tensors |= {f"model.diffusion_model.{_unet(k)}": v for k, v in unet.items()}
    tensors |= {f"first_stage_model.{_vae(k)}": _as_convolution(k, v) for k, v in vae.items()}
    text = {k.removeprefix("text_model."): v for k, v in text.items()}
    tensors |= {f"cond_stage_model.transformer.text_model.{k}": v for k, v in text.items()}
    save_file({k: v.contiguous() for k, v in tensors.items()}, path)
    return path


def _unet(name: str) -> str:
    place = max((p for p in UNET_PLACES if name.startswith(f"{p}.")), key=len)
    rest = name.removeprefix(f"{place}.")
    if ".resnets." in f".{place}.":
        rest = _renamed(rest, RESNET_PARTS)
    return f"{UNET_PLACES[place]}.{rest}"


def _renamed(rest: str, parts: Mapping[str, str]) -> str:
    head, _, tail = rest.partition(".")
    return f"{parts[head]}.{tail}"


def _vae(name: str) -> str:
    for old, new in VAE_PARTS:
        name = re.sub(old, new, name)
    # The original counts the decoder's blocks from the finest.
    name = re.sub(
        r"decoder\.up_blocks\.(\d)\.resnets\.(\d)",
        lambda m: f"decoder.up.{3 - int(m[1])}.block.{m[2]}",
        name,
    )
    return re.sub(
        r"decoder\.up_blocks\.(\d)\.upsamplers\.0",
        lambda m: f"decoder.up.{3 - int(m[1])}.upsample",
        name,
    )


def _as_convolution(name: str, value: Tensor) -> Tensor:
    """The original's attention is made of convolutions of one pixel."""
    linear = ".attentions." in name and value.ndim == 2
    return value[:, :, None, None] if linear else value
