"""From a file to a picture: what a file is, its content says, not its name.

Every way in which a file can be no picture ends in a `UserError` with one line.
"""

from __future__ import annotations

import hashlib
import io
import struct
import warnings
import zlib
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from ..errors import UserError
from ..files import expanded

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
MOST_PIXELS = 100_000_000
LEAST_SIDE = 16
LONGEST_SIDE = 1024
"""Pixels to which a larger picture's longer side is reduced; no prior sees as many."""
WANTED = "give a PNG, JPEG or WebP file"
_ALPHA = {"RGBA", "LA", "PA", "RGBa", "La"}
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error)


@dataclass(frozen=True)
class Picture:
    """A picture as float32 arrays of one size.

    rgb: `[H, W, 3]` in [0, 1], sRGB. alpha: `[H, W]` in [0, 1], None where the file has none, or
    the same everywhere. notes: what its user should know.
    """

    rgb: np.ndarray
    alpha: np.ndarray | None
    notes: list[str] = field(default_factory=list)


def file_bytes(path: str) -> bytes:
    """The content of a picture's file. Raises UserError if there is none to be read."""
    place = expanded(path, "image")
    try:
        if place.is_dir():
            raise UserError(f"image: {path!r} is a folder; {WANTED}")
        if not place.exists():
            raise UserError(f"image: there is no file {path!r}; check the path")
        if not place.is_file():
            raise UserError(f"image: {path!r} is no regular file; {WANTED}")
        return place.read_bytes()
    except (OSError, ValueError) as error:  # no right to read it, a name too long, a zero in it
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"image: {path!r} can't be read ({reason}); check the path") from None


def digest_of(data: bytes) -> str:
    """A short name of a file's content."""
    return hashlib.blake2b(data, digest_size=12).hexdigest()


def read_picture(data: bytes, name: str, longest: int = LONGEST_SIDE) -> Picture:
    """The picture in a file's bytes: upright, sRGB, its longer side at most `longest` pixels.

    name: what to call it in messages. Transparency in any form becomes alpha. Raises UserError for
    what is no picture, is damaged, or is too large or too small.
    """
    notes: list[str] = []
    image = _opened(data, name)
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise UserError(
            f"image: {name} has {width} x {height} pixels, more than 100 million; reduce it first"
        )
    if min(width, height) < LEAST_SIDE:
        raise UserError(
            f"image: {name} has {width} x {height} pixels; at least {LEAST_SIDE} x {LEAST_SIDE} are"
            " needed"
        )
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        notes.append(f"{name} is animated: its first frame is used")
    try:
        if image.format in ("JPEG", "MPO"):
            image.draft("RGB" if image.mode == "RGB" else image.mode, (2 * longest, 2 * longest))
        image.load()
        image = ImageOps.exif_transpose(image)
        values = _deep(image, longest) if image.mode[0] in "IF" else _eight_bits(image, longest)
    except Image.DecompressionBombError:
        raise _bomb(name) from None
    except _DAMAGE as error:
        raise UserError(
            f"image: {name} is damaged or cut off ({_line(error)}); save it anew as PNG"
        ) from None
    alpha = values[..., 3]
    varies = float(alpha.max()) > float(alpha.min())
    if not varies and float(alpha.max()) == 0.0:
        raise UserError(
            f"image: {name} is transparent everywhere, so there is no object in it; save it with"
            " the object opaque"
        )
    return Picture(values[..., :3].copy(), alpha.copy() if varies else None, notes)


def _opened(data: bytes, name: str) -> Image.Image:
    if not data:
        raise UserError(f"image: {name} is empty; {WANTED}")
    try:
        with warnings.catch_warnings():  # up to 100 million pixels are wanted
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:
        raise _bomb(name) from None
    except UnidentifiedImageError:
        raise UserError(f"image: {name} is not a picture that can be read; {WANTED}") from None
    except _DAMAGE as error:
        raise UserError(
            f"image: {name} is damaged or cut off ({_line(error)}); save it anew as PNG"
        ) from None


def _eight_bits(image: Image.Image, longest: int) -> np.ndarray:
    """RGBA `[H, W, 4]` in [0, 1], sRGB, reduced; colours are averaged weighed with their alpha."""
    profile = image.info.get("icc_profile")
    if image.mode in _ALPHA or "transparency" in image.info:
        image = image.convert("RGBA")
    elif image.mode not in ("RGB", "CMYK", "L"):
        image = image.convert("RGB")
    image = _reduced(image, longest)
    if profile is not None:
        image = _in_srgb(image, profile)
    return np.asarray(image.convert("RGBA"), dtype=np.float32) / 255.0


def _deep(image: Image.Image, longest: int) -> np.ndarray:
    """Grey of 16 bits, or of floats, as RGBA `[H, W, 4]` in [0, 1]; Pillow's conversion clips."""
    values = np.asarray(image).astype(np.float32)
    if image.mode[0] == "I":
        values = values / 65535.0
    grey = np.asarray(_reduced(Image.fromarray(values), longest)).clip(0.0, 1.0)
    return np.stack([grey, grey, grey, np.ones_like(grey)], axis=-1)


def _reduced(image: Image.Image, longest: int) -> Image.Image:
    side = max(image.size)
    if side <= longest:
        return image
    width, height = (max(1, round(length * longest / side)) for length in image.size)
    # Pillow weighs colours with alpha when it resizes RGBA.
    return image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)


def _in_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """The picture's colours in sRGB; as they are if its profile makes no sense."""
    alpha = image.getchannel("A") if image.mode == "RGBA" else None
    colors = image.convert("RGB") if alpha is not None else image
    try:
        found = ImageCms.profileToProfile(
            colors,
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            outputMode="RGB",
        )
    except (ImageCms.PyCMSError, OSError, ValueError):
        found = None
    colors = (found or colors).convert("RGB")
    if alpha is not None:
        colors.putalpha(alpha)
    return colors


def _bomb(name: str) -> UserError:
    return UserError(f"image: {name} has more than 100 million pixels; reduce it first")


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:100]
