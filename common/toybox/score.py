"""Scores against a known answer: how near a textured mesh comes to the toybox's truth.

Geometry is compared on the visible outer surface: points spread evenly by area over each mesh, of
which those stay that some camera around the object sees. What lies inside does not count.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from scipy.spatial import KDTree
from torch import Tensor

from ..rasterize import Raster, antialias, rasterize, scatter_image
from ..scene.cameras import Cameras, sphere_views
from ..scene.images import psnr
from ..scene.mesh import Mesh, sample_surface
from .objects import ToyObject
from .studio import albedo_views

TOLERANCE = 0.03
VIEWS = 24
NEUTRAL = (0.5, 0.5, 0.5)
RESOLUTION = 256
_POINTS = 60_000
_LOOKS = 64  # cameras that decide what is visible
_LOOK_RESOLUTION = 384
_DEPTH_SLACK = 0.01


@dataclass(frozen=True)
class Textured:
    """A mesh and the colour of any point of its surface.

    colors: from a raster of the mesh to the sRGB colours `[P, 3]` of its covered pixels.
    """

    mesh: Mesh
    colors: Callable[[Raster], Tensor]


@dataclass(frozen=True)
class Scores:
    """f_score in [0, 1] at `TOLERANCE`; chamfer in world units; iou in [0, 1]; psnr in dB."""

    f_score: float
    chamfer: float
    iou: float
    psnr: float


def score(model: Textured, truth: ToyObject) -> Scores:
    """All scores of a model against the truth of its caption."""
    f, chamfer = surface_scores(visible_points(model.mesh), visible_points(truth.mesh))
    iou, psnr = view_scores(model, truth)
    return Scores(f_score=f, chamfer=chamfer, iou=iou, psnr=psnr)


def surface_scores(
    found: Tensor, true: Tensor, tolerance: float = TOLERANCE
) -> tuple[float, float]:
    """F-score and Chamfer distance between two point sets `[N, 3]`, `[M, 3]`.

    F is the harmonic mean of precision (found points within `tolerance` of a true one) and recall
    (true points within it of a found one) (Knapitsch 2017); Chamfer is the mean of the two mean
    nearest distances, not squared.
    """
    a, b = found.double().numpy(), true.double().numpy()
    to_true = torch.from_numpy(KDTree(b).query(a, workers=-1)[0])
    to_found = torch.from_numpy(KDTree(a).query(b, workers=-1)[0])
    precision = float((to_true <= tolerance).double().mean())
    recall = float((to_found <= tolerance).double().mean())
    f = 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0
    return f, 0.5 * float(to_true.mean() + to_found.mean())


def visible_points(mesh: Mesh, count: int = _POINTS) -> Tensor:
    """Points `[N, 3]`, evenly by area, of the part of a mesh that can be seen from around it."""
    generator = torch.Generator().manual_seed(0)
    points, _ = sample_surface(mesh.vertices, mesh.faces, count, generator)
    seen = torch.zeros(points.shape[0], dtype=torch.bool)
    cameras = sphere_views(_LOOKS)
    homogeneous = torch.cat([points, torch.ones_like(points[:, :1])], dim=-1)
    size = _LOOK_RESOLUTION
    for index in range(len(cameras)):
        mvp = cameras[index : index + 1].mvp()
        depth = rasterize(mesh.vertices, mesh.faces, mvp, size, size).depth[0]
        clip = homogeneous @ mvp[0].T
        w = clip[:, 3]
        column = ((clip[:, 0] / w * 0.5 + 0.5) * size).long().clamp(0, size - 1)
        row = ((0.5 - clip[:, 1] / w * 0.5) * size).long().clamp(0, size - 1)
        front = depth[row, column]
        seen |= (front > 0) & torch.isfinite(front) & (w <= front + _DEPTH_SLACK)
    return points[seen]


def view_scores(model: Textured, truth: ToyObject) -> tuple[float, float]:
    """Mean silhouette IoU and mean PSNR (dB) of unlit views over `VIEWS` cameras on the sphere."""
    cameras = sphere_views(VIEWS)
    ious, psnrs = [], []
    for index in range(len(cameras)):
        camera = cameras[index : index + 1]
        image, mask = unlit_views(model, camera)
        true_image, true_mask = albedo_views(truth, camera, RESOLUTION, NEUTRAL)
        union = float((mask | true_mask).sum())
        ious.append(float((mask & true_mask).sum()) / union if union else 1.0)
        psnrs.append(psnr(image, true_image))
    return sum(ious) / len(ious), sum(psnrs) / len(psnrs)


@torch.no_grad()
def unlit_views(
    model: Textured, cameras: Cameras, resolution: int = RESOLUTION
) -> tuple[Tensor, Tensor]:
    """Unlit views `[B, H, W, 3]` before a neutral grey, and silhouettes, bool `[B, H, W]`."""
    mesh = model.mesh
    raster = rasterize(mesh.vertices, mesh.faces, cameras.mvp(), resolution, resolution)
    image = scatter_image(model.colors(raster), raster, torch.tensor(NEUTRAL))
    return antialias(image, raster), raster.face_index >= 0
