"""The pictures that models bring along."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ...common.errors import UserError

MOST_SIDE = 16384


def read_image(source: Path, what: str) -> NDArray[np.uint8]:
    """A picture as uint8 `[H, W, 3]`; UserError if it is missing, damaged or beyond MOST_SIDE."""
    name = f"{what} ({source})"
    if not source.is_file():
        raise UserError(f"{name} is missing; put it there, or take its line out")
    with _opened(source, name) as image:
        return np.array(image.convert("RGB"))


def check_image(data: bytes, what: str) -> None:
    """UserError if a picture is none, or beyond MOST_SIDE; no pixel of it is read."""
    with _opened(io.BytesIO(data), what):
        pass


@contextmanager
def _opened(source: Path | io.BytesIO, name: str) -> Iterator[Image.Image]:
    before = Image.MAX_IMAGE_PIXELS
    try:
        Image.MAX_IMAGE_PIXELS = None  # the size is looked at below, before a pixel is read
        with Image.open(source) as image:
            if max(image.size) > MOST_SIDE:
                width, height = image.size
                raise UserError(
                    f"{name} is {width} x {height} pixels; at most {MOST_SIDE} a side can be read"
                )
            yield image
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
        raise UserError(f"{name} is damaged, or no picture") from None
    finally:
        Image.MAX_IMAGE_PIXELS = before
