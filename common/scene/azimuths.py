"""Which azimuths the training views are drawn from: an arc around the front, and how often.

A first phase that sees the front alone and widens, as image-to-3D begins with the view that is
known; and draws where a prior's words tell it most. Turns are shares of a full one, 0 the front.
"""

from __future__ import annotations

import torch
from torch import Tensor

CELLS = 3600
"""Of half a turn; densities are taken as constant within one."""


def narrowed(turns: Tensor, width: float) -> Tensor:
    """Even turns `[N]` brought into an arc of `width` degrees around the front, in [0, 1)."""
    if width >= 360.0:
        return turns
    return torch.remainder(from_front(turns) * (width / 360.0), 1.0)


def weighted(turns: Tensor, weights: list[tuple[float, float]], width: float = 360.0) -> Tensor:
    """Even turns `[N]` brought to a density by degrees from the front, on both sides the same.

    weights: (degrees from the front in [0, 180], weight >= 0), growing, joined by straight lines
    and constant outside them. width: degrees of the arc beyond which there is nothing. Stratified
    turns stay stratified: it is the inverse of the distribution, cell by cell.
    Raises ValueError if no weight is left within the arc.
    """
    signed = from_front(turns).double()
    degrees = (torch.arange(CELLS, dtype=torch.float64) + 0.5) * (180.0 / CELLS)
    density = _joined(degrees, weights) * (degrees < 0.5 * width)
    reached = torch.cat([torch.zeros(1, dtype=torch.float64), density.cumsum(0)])
    if not float(reached[-1]) > 0.0:
        raise ValueError(f"weights: expected some above 0 within {0.5 * width:g} degrees, got none")
    share = reached / reached[-1]
    wanted = 2.0 * signed.abs()
    cell = (torch.searchsorted(share, wanted, right=True) - 1).clamp(0, CELLS - 1)
    within = (wanted - share[cell]) / (share[cell + 1] - share[cell]).clamp_min(1e-300)
    away = (cell + within.clamp(0.0, 1.0)) * (0.5 / CELLS)
    return torch.remainder(torch.where(signed < 0.0, -away, away), 1.0).to(turns.dtype)


def from_front(turns: Tensor) -> Tensor:
    """Turns in [-1/2, 1/2), signed from the front."""
    return torch.remainder(turns + 0.5, 1.0) - 0.5


def _joined(places: Tensor, points: list[tuple[float, float]]) -> Tensor:
    """Straight lines between points, constant outside them, at growing places."""
    x = torch.tensor([p for p, _ in points], dtype=torch.float64)
    y = torch.tensor([v for _, v in points], dtype=torch.float64)
    if len(points) == 1:
        return y.expand(len(places))
    right = torch.searchsorted(x, places).clamp(1, len(points) - 1)
    share = ((places - x[right - 1]) / (x[right] - x[right - 1])).clamp(0.0, 1.0)
    return y[right - 1] + share * (y[right] - y[right - 1])
