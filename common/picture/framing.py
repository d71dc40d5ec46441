"""Putting a cut-out object into the square frame that a prior wants, and what will disappoint."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from .cutout import Cutout

EDGE = 0.1
"""Alpha from which an object that lies at the picture's edge counts as cut off."""
SMALL = 0.01
"""Share of the picture below which the object is almost nothing."""
FEW_PIXELS = 64


@dataclass(frozen=True)
class Place:
    """How a picture is laid into a square frame: `frame = (picture - corner) * scale`, pixels.

    side: of the frame.
    """

    left: float
    top: float
    scale: float
    side: int

    @property
    def box(self) -> tuple[float, float, float, float]:
        """The part of the picture that the frame shows: left, top, right, bottom."""
        width = self.side / self.scale
        return self.left, self.top, self.left + width, self.top + width


def bounds(alpha: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of where alpha `[H, W]` is at least half its greatest value."""
    inside = alpha >= 0.5 * float(alpha.max())
    rows, columns = (np.flatnonzero(np.any(inside, axis=axis)) for axis in (1, 0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def place_for(alpha: np.ndarray, fill: float, side: int) -> Place:
    """The frame in which the object fills the share `fill` of the side with its longer side.

    It is centred, its aspect kept. fill 0 keeps the picture's own frame, padded to a square.
    """
    height, width = alpha.shape
    if fill == 0.0:
        longer = max(height, width)
        return Place(0.5 * (width - longer), 0.5 * (height - longer), side / longer, side)
    left, top, right, bottom = bounds(alpha)
    span = max(right - left, bottom - top) / fill
    return Place(0.5 * (left + right - span), 0.5 * (top + bottom - span), side / span, side)


def framed(cutout: Cutout, place: Place) -> np.ndarray:
    """The object in its frame: straight RGBA `[S, S, 4]` in [0, 1].

    Colours are resized weighed with alpha, so that nothing from outside the object gets in.
    """
    alpha = laid(cutout.alpha, place)
    premultiplied = np.stack(
        [laid(cutout.rgb[..., c] * cutout.alpha, place) for c in range(3)], axis=-1
    )
    # Where next to nothing is covered, the quotient is noise; nobody sees it.
    rgb = premultiplied / np.maximum(alpha, 1e-4)[..., None]
    return np.clip(np.concatenate([rgb, alpha[..., None]], axis=-1), 0.0, 1.0)


def laid(plane: np.ndarray, place: Place) -> np.ndarray:
    """One channel `[H, W]` of a picture in a frame `[S, S]`, zero outside the picture."""
    left, top, right, bottom = place.box
    height, width = plane.shape
    # Padded by whole pixels, so that what is resized lies inside the canvas.
    pad = [
        max(0, int(np.ceil(amount)) + 1) for amount in (-top, bottom - height, -left, right - width)
    ]
    padded = np.pad(plane.astype(np.float32), ((pad[0], pad[1]), (pad[2], pad[3])))
    box = (left + pad[2], top + pad[0], right + pad[2], bottom + pad[0])
    image = Image.fromarray(padded)
    size = (place.side, place.side)
    # A triangle as wide as a pixel of either picture: nothing overshoots, nothing aliases.
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR, box=box), dtype=np.float32)


def disappointments(cutout: Cutout, name: str) -> list[str]:
    """What about a picture's object will disappoint, one line each."""
    alpha, found = cutout.alpha, []
    sides = {
        "top": alpha[0], "bottom": alpha[-1], "left": alpha[:, 0], "right": alpha[:, -1],
    }  # fmt: skip
    touched = [side for side, line in sides.items() if float((line > EDGE).mean()) > 0.005]
    if touched:
        found.append(
            f"in {name} the object reaches the {' and '.join(touched)} edge: what is cut off there "
            "comes out cut off; give a picture with a margin all around"
        )
    left, top, right, bottom = bounds(alpha)
    if float((alpha > 0.5).mean()) < SMALL:
        found.append(f"in {name} the object covers almost nothing; crop the picture closer")
    elif max(right - left, bottom - top) < FEW_PIXELS:
        found.append(
            f"in {name} the object is only {max(right - left, bottom - top)} pixels long; "
            "expect little detail"
        )
    return found


def overview(rgb: np.ndarray, cutout: Cutout, place: Place, rgba: np.ndarray) -> np.ndarray:
    """For people: picture, mask and frame side by side, uint8 `[S, 3 S, 3]`.

    The frame's margins are drawn: the box around the object, and the middle.
    """
    side = place.side
    whole = place_for(cutout.alpha, 0.0, side)
    picture = np.stack([laid(rgb[..., c], whole) for c in range(3)], axis=-1)
    mask = np.repeat(laid(cutout.alpha, whole)[..., None], 3, axis=-1)
    squares = (np.indices((side, side)) // max(1, side // 16)).sum(axis=0) % 2
    checks = np.repeat((0.7 + 0.2 * squares)[..., None], 3, axis=-1)
    alpha = rgba[..., 3:]
    inside = alpha * rgba[..., :3] + (1.0 - alpha) * checks
    left, top, right, bottom = bounds(rgba[..., 3])
    for row in (top, bottom - 1, side // 2):
        inside[row] = (1.0, 0.0, 0.0)
    for column in (left, right - 1, side // 2):
        inside[:, column] = (1.0, 0.0, 0.0)
    shown = np.concatenate([picture, mask, inside], axis=1)
    return (np.clip(shown, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)
