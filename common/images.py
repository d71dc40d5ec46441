"""Writing pictures: float images to PNG."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from common.files import write_whole


def to_uint8(image: Tensor) -> Tensor:
    """Float images in [0, 1] to bytes, rounded."""
    return (image.detach().clamp(0.0, 1.0) * 255.0 + 0.5).to(torch.uint8).cpu()


def png_bytes(image: Tensor) -> bytes:
    """One image `[H, W, 3]`, float in [0, 1] or uint8, as a PNG file's bytes."""
    data = image if image.dtype == torch.uint8 else to_uint8(image)
    buffer = io.BytesIO()
    Image.fromarray(data.cpu().numpy()).save(buffer, format="PNG")
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
