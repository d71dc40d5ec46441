"""From images to what a model sees, and back: pixels in its range, a VAE's latents in its scale."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from ..device import constant


def to_pixels(image: Tensor, resolution: int) -> Tensor:
    """Images `[B, H, W, 3]` in [0, 1] as a model sees them: `[B, 3, r, r]` in [-1, 1].

    Resized bilinearly with antialiasing where H or W is not `resolution`; differentiable.
    Raises ValueError for another shape.
    """
    if image.ndim != 4 or image.shape[-1] != 3:
        raise ValueError(f"image: expected [B, H, W, 3], got {tuple(image.shape)}")
    pixels = image.permute(0, 3, 1, 2)
    if tuple(pixels.shape[2:]) != (resolution, resolution):
        size = (resolution, resolution)
        pixels = F.interpolate(pixels, size, mode="bilinear", antialias=True, align_corners=False)
    return 2.0 * pixels - 1.0


def encode_latents(vae: Any, pixels: Tensor) -> Tensor:
    """Latents float32 `[B, C, h, w]`, scaled as the denoiser wants them, of `pixels` in [-1, 1].

    The mean of the VAE's posterior, not a sample: its spread is far below any noise level used,
    and a distillation gradient is then a function of the image alone. Differentiable in `pixels`.
    """
    encoded = vae.encode(pixels.to(vae.dtype))
    latents = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
    return normalise_latents(latents.float(), vae.config)


def decode_latents(vae: Any, latents: Tensor) -> Tensor:
    """Pixels float32 `[B, 3, H, W]` in about [-1, 1] that a VAE makes of the denoiser's latents.

    latents: `[B, C, h, w]`, scaled as `encode_latents` does; it leads back to them but for what
    the VAE loses.
    """
    own = restore_latents(latents, vae.config).to(vae.dtype)
    return vae.decode(own, return_dict=False)[0].float()


def normalise_latents(latents: Tensor, config: Any) -> Tensor:
    """From the VAE's own latents to the denoiser's, by the VAE's configuration.

    `(z - shift_factor) scaling_factor`, or with per-channel statistics
    `(z - latents_mean) / latents_std * scaling_factor`; the inverse of what diffusers' pipelines
    do before they decode.
    """
    mean, std = config.get("latents_mean"), config.get("latents_std")
    scale = config.get("scaling_factor") or 1.0
    if mean is not None and std is not None:
        mean, std = _columns(latents, mean, std)
        return (latents - mean) * scale / std
    return (latents - (config.get("shift_factor") or 0.0)) * scale


def restore_latents(latents: Tensor, config: Any) -> Tensor:
    """From the denoiser's latents to the VAE's own: the inverse of `normalise_latents`."""
    mean, std = config.get("latents_mean"), config.get("latents_std")
    scale = config.get("scaling_factor") or 1.0
    if mean is not None and std is not None:
        mean, std = _columns(latents, mean, std)
        return latents * std / scale + mean
    return latents / scale + (config.get("shift_factor") or 0.0)


def _columns(latents: Tensor, *values: Any) -> list[Tensor]:
    """Numbers by channel, as `[1, C, 1, 1]` beside the latents."""
    tables = (constant(tuple(v), latents.device, latents.dtype) for v in values)
    return [table.reshape(1, -1, 1, 1) for table in tables]


def latent_factor(vae: Any) -> int:
    """By how much a VAE shrinks an image's sides."""
    widths = vae.config.get("block_out_channels") or vae.config.encoder_block_out_channels
    return 2 ** (len(widths) - 1)
