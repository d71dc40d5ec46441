"""The z-buffer in plain torch, for any device: which face is nearest at each pixel centre.

A pixel's depth and face are one int64 key, depth * FACE_STEPS + face, so that the smallest key is
the nearest face and, among equals, the one of the lowest index: one minimum decides. Depths are
told apart to 2^-34 of z/w.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..device import size_of

W_EPS = 1e-6  # vertices with clip w up to here are at or behind the camera
SUBPIXEL = 2.0**14  # steps of the screen grid in a pixel
EDGE_STEP = 2.0**-28  # the smallest edge function that is not zero, on that grid
GUARD = 2.0**22  # pixels; positions beyond are taken to be behind the camera
DEPTH_STEPS = 2**34  # a unit of z/w
FACE_STEPS = 2**27  # more faces than that have no keys
NOTHING = 2**63 - 1
AT_ONCE = 2**22  # pairs of a face and a pixel that are looked at in one go


def face_index(keys: Tensor) -> Tensor:
    """The faces that keys stand for, -1 for none."""
    return torch.where(keys == NOTHING, -1, keys % FACE_STEPS)


def project_torch(clip: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """`visibility.project` in plain torch: `[B, V, 4]` float64 and bool `[B, V]`, on the device."""
    x, y, z, w = clip.detach().double().unbind(-1)
    valid = w > W_EPS
    safe = torch.where(valid, w, 1.0)
    col = (x / safe + 1.0) * 0.5 * width
    row = (1.0 - y / safe) * 0.5 * height
    valid &= (col.abs() < GUARD) & (row.abs() < GUARD)
    col, row = ((p * SUBPIXEL + 0.5).floor() / SUBPIXEL for p in (col, row))
    screen = torch.stack([col, row, z / safe, w], dim=-1)
    return torch.where(valid[..., None], screen, 0.0), valid


def nearest_torch(screen: Tensor, valid: Tensor, faces: Tensor, height: int, width: int) -> Tensor:
    """The nearest face of each pixel as a key, int64 `[B, height, width]`.

    screen, valid: of `project_torch`. faces: int64 `[F, 3]`. Every face meets the pixels of its own
    bounding box; the rule is that of `visible_faces`.
    """
    batch, count = screen.shape[0], faces.shape[0]
    keys = torch.full((batch * height * width,), NOTHING, device=screen.device)
    a, b, c = screen[:, faces].reshape(-1, 3, 4).unbind(1)  # [B * F, 4] each
    area = _side(a, b, c)
    turned = (area < 0.0)[:, None]
    b, c = torch.where(turned, c, b), torch.where(turned, b, c)
    drawn = valid[:, faces].all(-1).reshape(-1) & (area != 0.0)
    left, right = _centres(torch.stack([a[:, 0], b[:, 0], c[:, 0]]), width)
    top, bottom = _centres(torch.stack([a[:, 1], b[:, 1], c[:, 1]]), height)
    wide = (right - left).clamp_min(0)
    pixels = torch.where(drawn, wide * (bottom - top).clamp_min(0), 0)
    stops = pixels.cumsum(0)
    total = size_of(stops[-1]) if stops.shape[0] else 0
    for begin in range(0, total, AT_ONCE):
        pair = torch.arange(begin, min(begin + AT_ONCE, total), device=screen.device)
        own = torch.searchsorted(stops, pair, right=True)
        place = pair - (stops - pixels)[own]
        row, col = top[own] + place // wide[own], left[own] + place % wide[own]
        z, inside = _depth(a[own], b[own], c[own], area[own].abs(), col + 0.5, row + 0.5)
        depth = ((torch.where(inside, z, 0.0) + 1.0) * DEPTH_STEPS).long()
        key = torch.where(inside, depth * FACE_STEPS + own % count, NOTHING)
        pixel = (own // count * height + row) * width + col
        keys.scatter_reduce_(0, pixel, key, "amin")
    return keys.view(batch, height, width)


def _side(a: Tensor, b: Tensor, p: Tensor) -> Tensor:
    """Twice the signed area of a, b, p on the screen."""
    return (b[:, 0] - a[:, 0]) * (p[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (p[:, 0] - a[:, 0])


def _centres(corners: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The half-open range of pixels whose centres lie between three positions `[3, N]`."""
    first = (corners.amin(0) - 0.5).ceil().clamp_min(0.0)
    last = ((corners.amax(0) - 0.5).floor() + 1.0).clamp_max(float(count))
    return first.long(), last.long()


def _depth(
    a: Tensor, b: Tensor, c: Tensor, area: Tensor, x: Tensor, y: Tensor
) -> tuple[Tensor, Tensor]:
    """z/w of faces at pixel centres, and whether the centre lies in the face and in view."""
    inside = torch.ones_like(x, dtype=torch.bool)
    edges = []
    for one, two in ((b, c), (c, a), (a, b)):
        dx, dy = two[:, 0] - one[:, 0], two[:, 1] - one[:, 1]
        edge = dx * (y - one[:, 1]) - dy * (x - one[:, 0])
        on_it = (dy < 0.0) | ((dy == 0.0) & (dx > 0.0))  # a left or a top edge
        inside &= edge >= torch.where(on_it, 0.0, EDGE_STEP)
        edges.append(edge)
    z = a[:, 2] + edges[1] * ((b[:, 2] - a[:, 2]) / area) + edges[2] * ((c[:, 2] - a[:, 2]) / area)
    return z, inside & (z >= -1.0) & (z - 1.0 < 1e-12)
