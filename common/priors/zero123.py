"""Zero-1-to-3 (Liu 2023): a U-Net that is told a picture and where a view lies from it.

Zero123, Zero123-XL and Stable Zero123. The picture enters twice: its clean latent, not scaled,
beside the noised one; and as one token, a linear layer of CLIP's embedding and the pose. Neither is
there, zeros in both places, is the null condition, as all inference code has it.

The pose, angles in radians, polar angles from +Z, c the picture's camera, t the view's:
    [polar_t - polar_c, sin(az_t - az_c), cos(az_t - az_c), r_t - r_c]
so the first entry is `el_c - el_t`, positive for views from lower. Stable Zero123 has the picture's
own polar angle in the last place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import UserError
from ..scene.cameras import Cameras
from .base import Condition, Reference, TextEmbedding
from .latents import latent_factor, restore_latents
from .memory import move
from .noise import diffusion_schedule, to_noise
from .pretrained import LoadedPipeline, PretrainedPrior, TextLimit, choose_resolution

POSE = 4
TRAINED_FOVY = 2.0 * math.atan(16.0 / 35.0)
"""Vertical field of view of the training renders: 32 mm of sensor behind 35 mm, 49.13 degrees."""
CLIP_SIDE = 224
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class Zero123Prior(PretrainedPrior):
    """Zero-1-to-3 as a prior: it takes no text, a picture alone."""

    space: Literal["pixel", "latent"] = "latent"
    family = "zero123"

    def __init__(self, loaded: LoadedPipeline, stable: bool) -> None:
        """stable: whether the pose is Stable Zero123's."""
        parts = loaded.pipeline
        self.schedule, kind = diffusion_schedule(parts.scheduler)
        super().__init__(loaded, parts.unet, kind)
        self.stable, self.projection = stable, parts.projection.to(loaded.device)
        self.image_encoder = parts.image_encoder
        channels, width = parts.vae.config.latent_channels, parts.image_encoder.config
        unet = parts.unet.config
        if (unet.in_channels, unet.out_channels) != (2 * channels, channels):
            raise UserError(
                f"{loaded.source}: the U-Net takes {unet.in_channels} channels and gives "
                f"{unet.out_channels}; Zero-1-to-3 takes {2 * channels} and gives {channels}"
            )
        shape = (self.projection.in_features, self.projection.out_features)
        if shape != (width.projection_dim + POSE, unet.cross_attention_dim):
            raise UserError(
                f"{loaded.source}: its projection goes from {shape[0]} to {shape[1]} where "
                f"{width.projection_dim} + {POSE} and {unet.cross_attention_dim} were expected"
            )
        self.factor = latent_factor(parts.vae)
        self.resolution = choose_resolution(loaded, unet.sample_size * self.factor, self.factor)
        side = self.resolution // self.factor
        self.latent_shape = (channels, side, side)
        self.takes_reference = True

    def text_limits(self) -> list[TextLimit]:
        """It reads no text."""
        return []

    def embed(self, prompts: list[str], device: torch.device) -> dict[str, Tensor]:
        """It reads no text."""
        return {}

    def encode_text(self, prompts: Sequence[str]) -> TextEmbedding:
        """Rows without content."""
        return TextEmbedding(tuple(prompts), {})

    @torch.no_grad()
    def encode_reference(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The latent `[1, C, h, w]`, not scaled, and CLIP's embedding `[1, D]` of a picture.

        image: `[H, W, 3]` in [0, 1] before white.
        """
        latent = restore_latents(self.encode_image(image[None]), self.vae.config)
        seen = clip_pixels(image[None].to(self.device)).to(self.dtype)
        move(self.image_encoder, self.device)
        token = self.image_encoder(seen).image_embeds
        move(self.image_encoder, torch.device("cpu"))
        return latent, token

    def denoise(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """`predict_noise` inside the autograd graph."""
        token, picture = self.told(x_t, condition.reference)
        output = self.denoiser(
            torch.cat([x_t, picture], dim=1).to(self.dtype),
            t,
            encoder_hidden_states=token,
            return_dict=False,
        )[0]
        return to_noise(self.prediction, output.float(), x_t, *self.schedule.at(t))

    def told(self, x_t: Tensor, reference: Reference | None) -> tuple[Tensor, Tensor]:
        """The token `[B, 1, width]` and the picture's latent `[B, C, h, w]`; zeros for none."""
        width = self.projection.out_features
        if reference is None:
            none = torch.zeros(len(x_t), 1, width, dtype=self.dtype, device=x_t.device)
            return none, torch.zeros_like(x_t)
        if reference.token is None:
            raise ValueError("reference: Zero-1-to-3 needs the picture's embedding, got None")
        pose = relative_pose(reference.cameras, reference.views, self.stable)
        joined = torch.cat([reference.token, pose.to(reference.token)], dim=-1)
        return self.projection(joined.to(self.dtype))[:, None], reference.x.to(x_t)


def relative_pose(picture: Cameras, views: Cameras, stable: bool = False) -> Tensor:
    """Where views lie from a picture's camera, `[B, 4]`, as the models were told it in training.

    See the module. Distances count as those that frame as much at the field of view of training, so
    that a longer lens further away is no other pose.
    """
    turn = views.azimuth - picture.azimuth
    last = apparent_distance(views) - apparent_distance(picture)
    if stable:
        last = 0.5 * math.pi - picture.elevation
    return torch.stack([picture.elevation - views.elevation, turn.sin(), turn.cos(), last], dim=-1)


def apparent_distance(cameras: Cameras) -> Tensor:
    """Distances `[B]` at which the training's lens would frame as much of the world."""
    return cameras.distance * torch.tan(0.5 * cameras.fovy) / math.tan(0.5 * TRAINED_FOVY)


def clip_pixels(image: Tensor) -> Tensor:
    """Images `[B, H, W, 3]` in [0, 1] as CLIP saw them in training, `[B, 3, 224, 224]`.

    Bicubic with aligned corners and without antialiasing, no crop, then CLIP's statistics.
    """
    size = (CLIP_SIDE, CLIP_SIDE)
    pixels = F.interpolate(image.permute(0, 3, 1, 2), size, mode="bicubic", align_corners=True)
    mean, std = (pixels.new_tensor(v).view(3, 1, 1) for v in (CLIP_MEAN, CLIP_STD))
    return (pixels - mean) / std
