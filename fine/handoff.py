"""From the NeRF's density to the first mesh of the fine stage.

The density level is searched, not fixed: the one whose surface has the silhouettes that the NeRF's
own opacity shows. Floaters and inner voids are removed in the volume, so that they cannot return,
and the tetrahedral grid starts from a true signed distance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..common.config.models import HandoffConfig
from ..common.errors import UserError
from ..common.fields.field import EXTENT
from ..common.rasterize import visible_faces
from ..common.runs.coarse_result import CoarseResult
from ..common.scene.cameras import sphere_views
from .tetgrid import TetGrid
from .volume import (
    LevelSearch,
    best_level,
    fill_cavities,
    max_along_rays,
    occupancy_at_level,
    remove_floaters,
    signed_distance,
)

OPAQUE = 0.5  # opacity from which a ray of the NeRF counts as stopped
_EMPTY, _FULL = 0.002, 0.6  # shares of opaque pixels that tell a collapsed NeRF
_LEVELS = (0.5, 500.0)  # densities that may be a surface
_CUTS = (0.25, 0.75)
_RAY_STEP = 0.5  # in lattice cells


@dataclass(frozen=True)
class HandoffReport:
    """What the hand-off chose and how well it fits.

    level: density at the surface, per world unit. cut: where the smoothed occupancy is cut,
    about one half. search_iou: best silhouette IoU of the
    search; mesh_iou: of the mesh that the fine stage starts from. parts, kept: connected parts
    found and kept; removed_share: share of the solid volume that was floaters.
    """

    level: float
    cut: float
    search_iou: float
    mesh_iou: float
    parts: int
    kept: int
    removed_share: float


def initial_distance(
    result: CoarseResult, grid: TetGrid, config: HandoffConfig
) -> tuple[Tensor, HandoffReport]:
    """Signed distance `[(R+1)^3]` at the lattice points, in cells, and a report without `mesh_iou`.

    Raises UserError for a NeRF that has collapsed: empty, or filling the whole sphere.
    """
    check_collapse(result.opacity)
    step = 2.0 * EXTENT / (result.density.shape[0] - 1)
    density = result.density.numpy()
    level = search_level(density, result.opacity, step, *_LEVELS).level
    # A smooth occupancy whose middle is that level; the blur shifts thin parts, so look once more.
    volume = occupancy_at_level(density, level)
    search = search_level(volume, result.opacity, step, *_CUTS)
    volume, floaters = remove_floaters(volume, search.level, config.keep_share)
    volume = fill_cavities(volume, search.level)
    # The outermost lattice points count as empty, so that the surface closes.
    if not bool((volume[1:-1, 1:-1, 1:-1] > search.level).any()):
        raise UserError(_collapsed("it has no solid part"))
    points = grid.vertices().numpy()
    distance = signed_distance(volume, search.level, EXTENT, points) / grid.cell_size
    report = HandoffReport(
        level=level,
        cut=search.level,
        search_iou=search.iou,
        mesh_iou=0.0,
        parts=floaters.found,
        kept=floaters.kept,
        removed_share=floaters.removed_share,
    )
    return torch.from_numpy(distance.astype(np.float32)), report


def search_level(
    volume: np.ndarray, opacity: Tensor, step: float, lowest: float, highest: float
) -> LevelSearch:
    """The level of `volume` whose silhouettes fit the NeRF's opacities `[V, H, H]` best.

    step: the lattice's; lowest, highest: range of the search, which no fixed threshold replaces.
    """
    views, size = opacity.shape[:2]
    origins, directions = (r.reshape(-1, 3).numpy() for r in sphere_views(views).rays(size, size))
    greatest = max_along_rays(volume, origins, directions, EXTENT, _RAY_STEP * step)
    return best_level(greatest, (opacity > OPAQUE).reshape(-1).numpy(), lowest, highest)


def check_collapse(opacity: Tensor) -> None:
    """Raise UserError if a NeRF of these opacities `[V, H, H]` shows nothing, or only fog."""
    share = float((opacity > OPAQUE).float().mean())
    if share < _EMPTY:
        raise UserError(_collapsed("it is empty"))
    if share > _FULL:
        raise UserError(_collapsed("it fills the whole sphere"))


def silhouette_iou(vertices: Tensor, faces: Tensor, opacity: Tensor) -> float:
    """Mean IoU over views of a mesh's silhouettes and a NeRF's opacities `[V, H, H]`."""
    views, size = opacity.shape[:2]
    mvp = sphere_views(views).mvp()
    clip = F.pad(vertices, (0, 1), value=1.0) @ mvp.transpose(1, 2)
    seen, opaque = visible_faces(clip, faces, size, size) >= 0, opacity > OPAQUE
    union = (seen | opaque).sum(dim=(1, 2)).clamp_min(1)
    return float(((seen & opaque).sum(dim=(1, 2)) / union).mean())


def _collapsed(what: str) -> str:
    return (
        f"the coarse stage has collapsed: {what}, so there is no mesh to make. Try another --seed, "
        "more --set coarse.steps, or other --set coarse.losses.opacity and coarse.losses.entropy "
        "(lower where it is empty, higher where it fills all), then run again"
    )
