"""What views of models say beside how near they come to a truth: how crisp, and how unlike.

Pure functions of pictures. Distillation is known to blur and to give every seed the same answer;
these two numbers say how much.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor
from torch.nn import functional as F

MARGIN = 2
"""Pixels from the rim of a silhouette: one that antialiasing mixes, and the stencil's reach."""


def sharpness(images: Tensor, masks: Tensor, true_images: Tensor, true_masks: Tensor) -> float:
    """How crisp views are beside the truth: 1 is as crisp, less is blurred, more is noisy.

    The ratio of `detail` in the views to that in the truth's, so that neither the size of the
    object nor where exactly its edges lie matters. Two views need not show the same camera.

    images, true_images: `[B, H, W, C]` in [0, 1]; masks, true_masks: their silhouettes, bool
    `[B, H, W]`. Raises ValueError for a truth without any detail, to which nothing can be compared.
    """
    true = detail(true_images, true_masks)
    if true == 0.0:
        raise ValueError("true_images: expected some edge within the silhouettes, got none")
    return detail(images, masks) / true


def detail(images: Tensor, masks: Tensor) -> float:
    """Root mean square of the views' Laplacian over all pixels well inside the silhouettes.

    The stencil is the five-point one, in units of the images per pixel squared. Pixels nearer than
    `MARGIN` to the rim are left out: there the backdrop would be measured. 0 if none is left.

    images: `[B, H, W, C]`; masks: bool `[B, H, W]`. Raises ValueError for shapes that do not match.
    """
    _check(images, masks, axes=4)
    x = images.double().permute(0, 3, 1, 2)
    around = x[..., :-2, 1:-1] + x[..., 2:, 1:-1] + x[..., 1:-1, :-2] + x[..., 1:-1, 2:]
    energy = (around - 4.0 * x[..., 1:-1, 1:-1]).square().mean(dim=1)  # (B, H - 2, W - 2)
    inside = _inside(masks)[:, 1:-1, 1:-1]
    return float(energy[inside].mean().sqrt()) if bool(inside.any()) else 0.0


def diversity(images: Tensor, masks: Tensor) -> float:
    """How much S models differ, in [0, 1]: 0 if they all look the same from everywhere.

    The mean over all pairs of models of the root mean square difference of their views, over the
    pixels that either of the two covers, all cameras together. A pixel that one of them leaves free
    counts with the backdrop's colour.

    images: `[S, B, H, W, C]` in [0, 1], the same B cameras and backdrop for all; masks: bool
    `[S, B, H, W]`. Raises ValueError for fewer than two models or shapes that do not match.
    """
    _check(images, masks, axes=5)
    if images.shape[0] < 2:
        raise ValueError(f"images: expected at least two models, got {images.shape[0]}")
    distances = []
    for a, b in itertools.combinations(range(images.shape[0]), 2):
        either = masks[a] | masks[b]
        apart = (images[a].double() - images[b].double())[either].square()
        distances.append(float(apart.mean().sqrt()) if bool(either.any()) else 0.0)
    return sum(distances) / len(distances)


def _inside(masks: Tensor) -> Tensor:
    """The pixels whose neighbours up to `MARGIN` away, diagonals too, are all covered."""
    free = F.pad((~masks).float()[:, None], (MARGIN,) * 4, value=1.0)
    return F.max_pool2d(free, 2 * MARGIN + 1, stride=1)[:, 0] == 0.0


def _check(images: Tensor, masks: Tensor, axes: int) -> None:
    if images.ndim != axes or images.shape[:-1] != masks.shape:
        raise ValueError(
            f"images, masks: expected {axes} axes and the same without the last, got "
            f"{tuple(images.shape)} and {tuple(masks.shape)}"
        )
    if masks.dtype != torch.bool:
        raise ValueError(f"masks: expected bool, got {masks.dtype}")
