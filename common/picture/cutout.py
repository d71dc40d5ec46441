"""Which part of a picture is the object: its own alpha, a plain backdrop taken away, or rembg.

The backdrop's colour is a smooth function of the place (a quadratic one, fitted to the border), so
that a lamp's falloff does not count as the object. What is connected with the border and has that
colour is the backdrop; the rim between is refined by closed-form matting (Levin 2008).
"""

from __future__ import annotations

import importlib.util
import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from ..errors import UserError
from .reading import Picture

TOLERANCE = 0.06
"""Distance of colours, RGB in [0, 1], up to which a pixel counts as the backdrop."""
PLAIN = 0.9
"""Share of the border that must have the backdrop's colour; the rest may be the object."""
SOLID = 0.95
"""Alpha from which a pixel's colour is the object's own."""
LEAST_SHARE = 1e-3
"""Share of the picture that an object covers at least."""
ADVICE = (
    "cut the object out and save it as PNG with transparency, take it before a plain backdrop, or "
    "install the extra that finds objects: pip install 'maquette[image]'"
)


@dataclass(frozen=True)
class Cutout:
    """An object without its backdrop.

    rgb: `[H, W, 3]` in [0, 1], the object's own colours, under soft alpha as well. alpha: `[H, W]`
    in [0, 1]. how: where the alpha comes from.
    """

    rgb: np.ndarray
    alpha: np.ndarray
    how: str


def cut_out(picture: Picture, name: str = "the picture") -> Cutout:
    """The object of a picture. Raises UserError if there is none, or none can be told."""
    if picture.alpha is not None:
        alpha, how = picture.alpha, "its own alpha"
    elif (backdrop := plain_backdrop(picture.rgb)) is not None:
        alpha, how = before_backdrop(picture.rgb, backdrop), "a plain backdrop taken away"
    else:
        alpha, how = _by_rembg(picture.rgb, name), "rembg"
    if float((alpha > 0.5).mean()) < LEAST_SHARE:
        raise UserError(f"image: no object was found in {name} ({how}); {ADVICE}")
    return Cutout(own_colors(picture.rgb, alpha), alpha, how)


def plain_backdrop(rgb: np.ndarray) -> np.ndarray | None:
    """The backdrop's colour at every pixel, `[H, W, 3]`, if the border is of nearly one colour.

    rgb: `[H, W, 3]` in [0, 1]. A quadratic function of the place is fitted to the border twice, the
    second time without what lies off the first; None if too much does.
    """
    height, width = rgb.shape[:2]
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    basis = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1)
    ring = np.ones((height, width), dtype=bool)
    depth = max(1, min(height, width) // 50)
    ring[depth:-depth, depth:-depth] = False
    places, colors = basis[ring], rgb[ring].astype(np.float64)
    near = np.linalg.norm(colors - np.median(colors, axis=0), axis=-1) < 3 * TOLERANCE
    for _ in range(2):
        if near.mean() < PLAIN:
            return None
        fit = np.linalg.lstsq(places[near], colors[near], rcond=None)[0]
        near = np.linalg.norm(colors - places @ fit, axis=-1) < TOLERANCE
    if near.mean() < PLAIN:
        return None
    return (basis @ fit).astype(np.float32)


def before_backdrop(rgb: np.ndarray, backdrop: np.ndarray) -> np.ndarray:
    """Alpha `[H, W]` of what stands before a known backdrop, both `[H, W, 3]`.

    The backdrop is flooded from the border; holes of its colour inside the object stay closed.
    """
    like = np.linalg.norm(rgb - backdrop, axis=-1) < TOLERANCE
    found: Any = ndimage.label(like)
    labels = found[0]
    edge = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    flooded = np.isin(labels, np.unique(edge[edge > 0]))
    inside = ~flooded
    if not inside.any() or inside.all():
        return inside.astype(np.float32)
    band = max(1, round(max(rgb.shape[:2]) / 200))
    sure, away = (
        np.asarray(ndimage.binary_erosion(part, iterations=band, border_value=1), dtype=bool)
        for part in (inside, flooded)
    )
    if not sure.any():
        return inside.astype(np.float32)
    trimap = np.full(rgb.shape[:2], 0.5)
    trimap[sure], trimap[away] = 1.0, 0.0
    return _matted(rgb, trimap)


def own_colors(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """The object's colours `[H, W, 3]`, under soft alpha taken from the nearest solid part.

    What a picture holds there is mixed with an old backdrop, or is anything at all. The nearest
    solid pixel gives the mean of the solid ones around it.
    """
    solid = alpha >= SOLID * float(alpha.max())
    weight = ndimage.gaussian_filter(solid.astype(np.float64), 1.5)
    spread = [
        ndimage.gaussian_filter(np.where(solid, rgb[..., c], 0.0).astype(np.float64), 1.5)
        for c in range(3)
    ]
    mean = np.stack(spread, axis=-1) / np.maximum(weight, 1e-12)[..., None]
    nearest: Any = ndimage.distance_transform_edt(
        ~solid, return_distances=False, return_indices=True
    )
    rows, columns = nearest
    return np.where(solid[..., None], rgb, mean[rows, columns]).astype(np.float32)


def _matted(rgb: np.ndarray, trimap: np.ndarray) -> np.ndarray:
    """Alpha by closed-form matting from a trimap: 0 backdrop, 1 object, 0.5 unknown."""
    logging.getLogger("numba").setLevel(logging.WARNING)
    from pymatting import estimate_alpha_cf

    found = estimate_alpha_cf(rgb.astype(np.float64), trimap.astype(np.float64))
    return np.clip(found, 0.0, 1.0).astype(np.float32)


def _by_rembg(rgb: np.ndarray, name: str) -> np.ndarray:
    """Alpha by rembg's network, where it is installed; its file is fetched once, or lies there."""
    if importlib.util.find_spec("rembg") is None:
        raise UserError(
            f"image: {name} has no transparency, and its border is not of one colour; {ADVICE}"
        )
    rembg: Any = __import__("rembg")
    pixels = (rgb * 255.0 + 0.5).astype(np.uint8)
    try:
        session = rembg.new_session("u2net")
    except (OSError, ValueError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or ["no reason given"])[0][:120]
        raise UserError(
            f"image: rembg has no model to find the object in {name} with ({reason}); connect once,"
            " put u2net.onnx into ~/.u2net, or save the picture as PNG with transparency"
        ) from None
    mask = np.asarray(rembg.remove(pixels, session=session, only_mask=True), dtype=np.float32)
    return mask.reshape(rgb.shape[:2]) / 255.0
