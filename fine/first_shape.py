"""The first shape of the fine stage, and how a coarse result becomes one.

The level is searched, not fixed: the one whose surface has the silhouettes that the scene's
own opacity shows. Floaters and inner voids are removed in the volume, so that they cannot return,
and the tetrahedral grid starts from a true signed distance.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..common.config.models import HandoffConfig
from ..common.errors import UserError
from ..common.fields.field import EXTENT, HashField
from ..common.rasterize import visible_faces
from ..common.runs.checkpoints import (
    DamagedCheckpointError,
    fitting,
    read_tensors,
    write_tensors,
)
from ..common.runs.coarse_result import CoarseResult, color_from, color_tensors
from ..common.runs.failure import FailedError, Kind
from ..common.scene.cameras import sphere_views
from ..common.scene.mesh import Mesh
from .cleaning import fill_cavities, remove_floaters
from .distance import signed_distance
from .level import LevelSearch, best_level, max_along_rays, occupancy_at_level
from .tetgrid import TetGrid
from .volumes import Volume

OPAQUE = 0.5  # opacity from which a ray of the scene counts as stopped
_EMPTY, _FULL = 0.002, 0.6  # shares of opaque pixels that tell a collapsed scene
_CUTS = (0.25, 0.75)
_RAY_STEP = 0.5  # in lattice cells
FIRST = "first.safetensors"  # the first shape's file in the fine stage's folder


@dataclass(frozen=True)
class FirstShape:
    """What the fine stage begins with, wherever it came from.

    distance: signed, `[(R+1)^3]` at the points of the tetrahedral grid, negative inside, in cells.
    color: a field of three outputs, the albedo's logits at world points. background: `[3]`.
    kept: a surface that stays as it is and is only painted; then there are no distances, `[0]`.
    """

    distance: Tensor
    color: HashField
    background: Tensor
    kept: Mesh | None = None


def write_first(folder: Path, shape: FirstShape) -> None:
    """Write the first shape into the fine stage's folder, whole or not at all."""
    tensors = {"distance": shape.distance, "background": shape.background}
    if shape.kept is not None:
        tensors |= {"kept/vertices": shape.kept.vertices, "kept/faces": shape.kept.faces}
    write_tensors(folder / FIRST, {**tensors, **color_tensors(shape.color)})


def read_first(folder: Path) -> FirstShape:
    """What `write_first` wrote. Raises UserError if it is missing or damaged."""
    try:
        tensors = read_tensors(folder / FIRST)
    except DamagedCheckpointError as error:
        raise UserError(
            f"{folder} has no readable first shape ({error}); delete that folder, and "
            f"`maquette resume {folder.parent}` makes it again"
        ) from None
    kept = None
    if "kept/vertices" in tensors:
        kept = Mesh(tensors["kept/vertices"], tensors["kept/faces"])
    with fitting(folder / FIRST):
        return FirstShape(tensors["distance"], color_from(tensors), tensors["background"], kept)


@dataclass(frozen=True)
class HandoffReport:
    """What the hand-off chose and how well it fits.

    level: of `inside` at the surface, such as a density per world unit. cut: where the smoothed
    occupancy is cut, about one half. search_iou: best silhouette IoU of the search; mesh_iou: of
    the mesh that the fine stage starts from. parts, kept: connected parts found and kept;
    removed_share: share of the solid volume that was floaters.
    """

    level: float = 0.0
    cut: float = 0.0
    search_iou: float = 0.0
    mesh_iou: float = 0.0
    parts: int = 0
    kept: int = 0
    removed_share: float = 0.0


def from_coarse(
    result: CoarseResult, grid: TetGrid, config: HandoffConfig
) -> tuple[FirstShape, HandoffReport]:
    """The first shape that a coarse result makes, and a report without `mesh_iou`.

    Raises UserError for a scene that has collapsed: empty, or filling the whole sphere.
    """
    check_collapse(result.opacity)
    if result.distance is not None:
        # Cleaning wants what grows inwards and is at least 0; a distance is in (-4, 4) world units.
        volume = np.asarray(4.0 - result.distance.numpy(), dtype=np.float32)
        cut, report = 4.0, HandoffReport()
    else:
        volume, report = _occupancy(result, config)
        cut = report.cut
    volume, floaters = remove_floaters(volume, cut, config.keep_share)
    volume = fill_cavities(volume, cut)
    # The outermost lattice points count as empty, so that the surface closes.
    if not bool((volume[1:-1, 1:-1, 1:-1] > cut).any()):
        raise _collapsed("empty", "it has no solid part")
    points = grid.vertices().numpy()
    distance = signed_distance(volume, cut, EXTENT, points) / grid.cell_size
    report = dataclasses.replace(
        report,
        parts=floaters.found,
        kept=floaters.kept,
        removed_share=floaters.removed_share,
    )
    distance = torch.from_numpy(distance.astype(np.float32))
    return FirstShape(distance, result.color, result.background), report


def _occupancy(result: CoarseResult, config: HandoffConfig) -> tuple[Volume, HandoffReport]:
    """The occupancy of a scene whose surface is a level of its `inside`, and where it is cut."""
    assert result.inside is not None
    step = 2.0 * EXTENT / (result.inside.shape[0] - 1)
    inside = result.inside.numpy()
    level = search_level(inside, result.opacity, step, *result.levels).level
    # A smooth occupancy whose middle is that level; the blur shifts thin parts, so look once more.
    volume = occupancy_at_level(inside, level)
    search = search_level(volume, result.opacity, step, *_CUTS)
    return volume, HandoffReport(level=level, cut=search.level, search_iou=search.iou)


def search_level(
    volume: Volume, opacity: Tensor, step: float, lowest: float, highest: float
) -> LevelSearch:
    """The level of `volume` whose silhouettes fit a scene's opacities `[V, H, H]` best.

    step: the lattice's; lowest, highest: range of the search, which no fixed threshold replaces.
    """
    views, size = opacity.shape[:2]
    origins, directions = (r.reshape(-1, 3).numpy() for r in sphere_views(views).rays(size, size))
    greatest = max_along_rays(volume, origins, directions, EXTENT, _RAY_STEP * step)
    return best_level(greatest, (opacity > OPAQUE).reshape(-1).numpy(), lowest, highest)


def check_collapse(opacity: Tensor) -> None:
    """Raise UserError if a scene of these opacities `[V, H, H]` shows nothing, or only fog."""
    share = float((opacity > OPAQUE).float().mean())
    if share < _EMPTY:
        raise _collapsed("empty", "it is empty")
    if share > _FULL:
        raise _collapsed("full", "it fills the whole sphere")


def silhouette_iou(vertices: Tensor, faces: Tensor, opacity: Tensor) -> float:
    """Mean IoU over views of a mesh's silhouettes and a scene's opacities `[V, H, H]`."""
    views, size = opacity.shape[:2]
    mvp = sphere_views(views).mvp()
    clip = F.pad(vertices, (0, 1), value=1.0) @ mvp.transpose(1, 2)
    seen, opaque = visible_faces(clip, faces, size, size) >= 0, opacity > OPAQUE
    union = (seen | opaque).sum(dim=(1, 2)).clamp_min(1)
    return float(((seen & opaque).sum(dim=(1, 2)) / union).mean())


def _collapsed(kind: Kind, what: str) -> FailedError:
    other = "lower" if kind == "empty" else "higher"
    return FailedError(
        kind,
        "coarse",
        0,
        f"the coarse stage has collapsed: {what}, so there is no mesh to make",
        f"begin a new run with another --seed, more --set coarse.steps or a {other} --set "
        "coarse.losses.opacity, or resume this one with --on-failure retry",
    )
