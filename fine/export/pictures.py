"""Textures as image files: PNG, JPEG, WebP, and reading large ones."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...common.config.export import ImageFormat

SUFFIX: dict[ImageFormat, str] = {"png": "png", "jpeg": "jpg", "webp": "webp"}
MOST_PIXELS = 16384**2


def encoded(texture: NDArray[np.uint8], kind: ImageFormat, quality: int = 92) -> bytes:
    """A texture `[H, W, 3]` as the bytes of an image file.

    JPEG keeps the colours at full resolution: halved, they would bleed across the charts' borders.
    """
    options = {
        "png": {},
        "jpeg": {"quality": quality, "subsampling": 0, "optimize": True},
        "webp": {"quality": quality, "method": 4},
    }
    buffer = io.BytesIO()
    Image.fromarray(texture).save(buffer, format=kind.upper(), **options[kind])
    return buffer.getvalue()


def mime_type(data: bytes) -> str:
    """The kind of an image file, by its first bytes; ValueError for none of the three."""
    if data.startswith(b"\x89PNG"):
        return "image/png"
    if data.startswith(b"\xff\xd8"):
        return "image/jpeg"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "image/webp"
    raise ValueError("image: expected the bytes of a PNG, JPEG or WebP file")


@contextmanager
def large_images(pixels: int = MOST_PIXELS) -> Iterator[None]:
    """Let Pillow open images of so many pixels, which it would take for an attack."""
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = max(pixels, before or 0)
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before
