"""The pictures that models bring along."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ...common.errors import UserError

MOST_SIDE = 16384


def read_image(source: Path | bytes, what: str) -> NDArray[np.uint8]:
    """A picture as uint8 `[H, W, 3]`; UserError if it is missing, damaged or beyond MOST_SIDE."""
    name = f"{what} ({source})" if isinstance(source, Path) else what
    if isinstance(source, Path) and not source.is_file():
        raise UserError(f"{name} is missing; put it there, or take its line out")
    before = Image.MAX_IMAGE_PIXELS
    try:
        Image.MAX_IMAGE_PIXELS = None  # the size is looked at below, before a pixel is read
        with Image.open(source if isinstance(source, Path) else io.BytesIO(source)) as image:
            if max(image.size) > MOST_SIDE:
                width, height = image.size
                raise UserError(
                    f"{name} is {width} x {height} pixels; at most {MOST_SIDE} a side can be read"
                )
            return np.array(image.convert("RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
        raise UserError(f"{name} is damaged, or no picture") from None
    finally:
        Image.MAX_IMAGE_PIXELS = before
