"""Classifier-free guidance and Perp-Neg: the only places where noise predictions are combined.

Symbols: e_0 without text, e_y or e+ with the prompt, e_i with the i-th negative prompt, s the
scale. s = 1 is no guidance, s = 0 ignores the text (the convention of diffusers and of Imagen). A
paper that writes `e_y + w (e_y - e_0)` means s = 1 + w.
"""

from __future__ import annotations

import torch
from torch import Tensor


def classifier_free(e_uncond: Tensor, e_text: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance `e_0 + s (e_y - e_0)` (Ho 2022, eq. 6, with s = 1 + w)."""
    return e_uncond + scale * (e_text - e_uncond)


def perp_neg_direction(e_uncond: Tensor, e_pos: Tensor, e_negs: Tensor, weights: Tensor) -> Tensor:
    """The direction that Perp-Neg guides in, `d + sum_i w_i perp_i` (Armandpour 2023).

    d = e+ - e_0, and perp_i is the part of e_i - e_0 that is perpendicular to d, taken sample by
    sample.

    e_uncond, e_pos: `[B, ...]`; e_negs: `[n, B, ...]`; weights: `[n, B]`, negative to push away;
    row b of every argument belongs to sample b. Where d vanishes, the whole of e_i - e_0 counts as
    perpendicular. Raises ValueError for shapes that do not match.
    """
    if e_negs.shape[1:] != e_pos.shape or weights.shape != e_negs.shape[:2]:
        raise ValueError(
            f"e_negs, weights: expected [n, *{tuple(e_pos.shape)}] and [n, {e_pos.shape[0]}], "
            f"got {tuple(e_negs.shape)} and {tuple(weights.shape)}"
        )
    positive = e_pos - e_uncond
    across = perpendicular(e_negs - e_uncond, positive)
    push = (weights.reshape(*weights.shape, *(1,) * (e_pos.ndim - 1)) * across).sum(dim=0)
    return positive + push


def perpendicular(vector: Tensor, axis: Tensor) -> Tensor:
    """The part of each sample of `vector` `[n, B, ...]` perpendicular to that of `axis` `[B, ...]`.

    Where an axis is zero the vector comes back whole.
    """
    dims = tuple(range(1, axis.ndim))
    along = (vector * axis).sum(dim=tuple(d + 1 for d in dims), keepdim=True)
    length = (axis * axis).sum(dim=dims, keepdim=True).clamp(min=torch.finfo(axis.dtype).tiny)
    return vector - along / length * axis
