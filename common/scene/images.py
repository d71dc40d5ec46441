"""Pictures: how far two are apart, and float images to PNG files."""

from __future__ import annotations

import io
import math
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ..device import Number
from ..files import write_whole

BEST_PSNR = 100.0  # what is told for identical images, whose ratio is infinite


def to_uint8(image: Tensor) -> Tensor:
    """Float images in [0, 1] to bytes, rounded."""
    return (image.detach().clamp(0.0, 1.0) * 255.0 + 0.5).to(torch.uint8).cpu()


def psnr(image: Tensor, reference: Tensor, mask: Tensor | None = None) -> float:
    """Peak signal-to-noise ratio in dB of images in [0, 1], at most `BEST_PSNR`.

    mask: bool over the images' leading axes; only its pixels count, and none is a perfect match.
    """
    error = (image.double() - reference.double()) ** 2
    if mask is not None:
        if not bool(mask.any()):
            return BEST_PSNR
        error = error[mask]
    return min(-10.0 * math.log10(max(float(error.mean()), 1e-30)), BEST_PSNR)


def psnr_shown(image: Tensor, reference: Tensor) -> Number:
    """`psnr` to be shown: still a scalar of the device where it is not the CPU's."""
    if image.device.type == "cpu":
        return psnr(image, reference)
    error = (image.double() - reference.double()).square().mean()
    return (-10.0 * error.clamp_min(1e-30).log10()).clamp_max(BEST_PSNR)


def psnr_of_each(images: Tensor, references: Tensor, peak: float) -> Tensor:
    """The same of each of N images, `[N]`, not capped; peak: the width of their range."""
    errors = (images - references).square().flatten(1).mean(dim=1)
    return 10.0 * (peak**2 / errors.clamp(min=1e-12)).log10()


def png_bytes(image: Tensor, effort: int = 6) -> bytes:
    """One image `[H, W, 3]`, float in [0, 1] or uint8, as a PNG file's bytes.

    effort: to make them few, 0 to 9; 1 takes a third of the time of 6.
    """
    data = image if image.dtype == torch.uint8 else to_uint8(image)
    buffer = io.BytesIO()
    Image.fromarray(data.cpu().numpy()).save(buffer, format="PNG", compress_level=effort)
    return buffer.getvalue()


def save_png(image: Tensor, path: Path) -> None:
    """Write one image `[H, W, 3]` whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, png_bytes(image))


def strip(images: Tensor, columns: int | None = None) -> Tensor:
    """Images `[B, H, W, 3]` side by side as one, `columns` to a row (all in one row by default)."""
    count, height, width, channels = images.shape
    columns = columns or count
    rows = -(-count // columns)
    fill = images.new_ones(rows * columns - count, height, width, channels)
    tiles = torch.cat([images, fill]).reshape(rows, columns, height, width, channels)
    return tiles.permute(0, 2, 1, 3, 4).reshape(rows * height, columns * width, channels)


def save_strip(images: Tensor, path: Path, columns: int | None = None) -> None:
    """Write images `[B, H, W, 3]` side by side into one PNG."""
    save_png(strip(images, columns), path)
