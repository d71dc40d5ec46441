"""Between two trainings of one network: what a later one learned, without what it forgot.

Weights of a network that was trained on from another's lie in one basin with them, and their mean
is as good a network (Wortsman 2022, "Robust fine-tuning of zero-shot models"): mixed in the right
share it keeps the first one's answers and has most of the second one's new ones.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn
from transformers import CLIPTextModel

from ...errors import UserError
from ...priors.camera_features import LABELS, SURFACE
from ...priors.pretrained import quiet_libraries
from ..names import VERSION_FILE
from ..version import check_version, write_version
from .models import load_alike, save_denoiser, weight_shapes

INPUTS = ("conv_in.weight", "class_embedding.linear_1.weight")
"""Weights that have a column an input: a network that is told more has more of them."""


def blend(first: Path, second: Path, share: float, out: Path) -> None:
    """Write the denoiser whose weights are `(1 - share) first + share second` as a folder.

    first, second: diffusers folders of denoisers of the toybox, the second one trained on from the
    first; what the first isn't told has the second one's weights. The autoencoder is the second's.
    share: in [0, 1]. Raises UserError for folders of another kind, or an `out` that is there.
    """
    if not 0.0 <= share <= 1.0:
        raise UserError(f"--share: expected 0 to 1, got {share:g}")
    if out.exists():
        raise UserError(f"--out: {out} is there already; give another folder")
    for folder in (first, second):
        check_version(folder)
    with quiet_libraries():
        unet = _unet(second / "unet")
        text: Any = CLIPTextModel.from_pretrained(second / "text_encoder", use_safetensors=True)
    for module, part in ((unet, "unet"), (text, "text_encoder")):
        _mix(module.float(), first / part, share)
    vae: Any = None
    if (second / "vae").is_dir():
        vae = AutoencoderKL.from_pretrained(second / "vae", use_safetensors=True)
    save_denoiser(unet, text, vae, out)
    made = [json.loads((f / VERSION_FILE).read_text("utf-8"))["training"] for f in (first, second)]
    write_version(out, {"share of the second": share, "blend": made})


def _unet(folder: Path) -> Any:
    """The U-Net in a folder with the inputs of today; those that it isn't told have no weight."""
    config: Any = UNet2DConditionModel.load_config(folder)
    if config.get("projection_class_embeddings_input_dim") == LABELS:
        config["in_channels"] = 2 * config["out_channels"] + SURFACE
    unet: Any = UNet2DConditionModel.from_config(config)
    load_alike(unet, folder)
    return unet


@torch.no_grad()
def _mix(module: nn.Module, folder: Path, share: float) -> None:
    """Bring a component's weights back towards those in a folder."""
    before, shapes = copy.deepcopy(module), weight_shapes(folder)
    if load_alike(before, folder) < len(shapes):
        raise UserError(f"{folder} is of another network; give the one that was trained on from")
    old, mixed = before.state_dict(), module.state_dict()
    for name, value in mixed.items():
        if not value.is_floating_point():
            continue
        width = shapes[name][1] if name in INPUTS and name in shapes else None
        here = (slice(None), slice(0, width)) if width else ...
        value[here] = (1.0 - share) * old[name][here] + share * value[here]
