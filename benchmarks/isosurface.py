"""Marching tetrahedra beside FlexiCubes on shapes that are known: what each makes of views of them.

    python benchmarks/isosurface.py [--resolution 32] [--steps 150]

Both begin with the true distances on the same lattice and learn, at the same rates, from depths,
normals and silhouettes of random views. Then: the least angles of faces, the F-score within .01,
how far the true sharp edges lie from the surface, faces that cut each other, and time.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass

import numpy as np
import torch
import trimesh
from results import table, write_section
from torch import Tensor

from maquette.common.config.fields import HashGridConfig
from maquette.common.config.models import FineConfig
from maquette.common.fields.field import HashField
from maquette.common.rasterize import antialias, interpolate, rasterize, scatter_image
from maquette.common.scene.cameras import Cameras, sphere_views
from maquette.common.scene.mesh import Mesh, face_normals, sample_surface
from maquette.common.toybox.objects import build
from maquette.common.toybox.score import surface_scores
from maquette.fine.export.clean import pymeshlab
from maquette.fine.export.shape import describe_shape, least_angles
from maquette.fine.first_shape import FirstShape
from maquette.fine.meshes.start import signed_distances
from maquette.fine.model import FineModel
from maquette.fine.surface_tree import SurfaceTree
from maquette.fine.tetgrid import TetGrid

TOLERANCE, POINTS = 0.01, 30_000
PIXELS, AT_ONCE, CAMERAS = 128, 2, 48
SHARP = 30.0  # degrees between the faces at a sharp edge
RATE = 1e-2


@dataclass(frozen=True)
class Seen:
    """Depths `[B, H, W]`, unit normals `[B, H, W, 3]` and coverage `[B, H, W]` of views."""

    depth: Tensor
    normal: Tensor
    covered: Tensor


def seen(vertices: Tensor, faces: Tensor, cameras: Cameras) -> Seen:
    """What cameras see of a surface; differentiable in its vertices."""
    raster = rasterize(vertices, faces, cameras.mvp(), PIXELS, PIXELS)
    points = interpolate(vertices, raster)
    axis = -torch.nn.functional.normalize(cameras.position, dim=-1)[raster.view]
    depth = ((points - cameras.position[raster.view]) * axis).sum(dim=1, keepdim=True)
    flat = face_normals(vertices, faces)[raster.face]
    values = torch.cat([depth, flat, torch.ones_like(depth)], dim=1)
    shown = antialias(scatter_image(values, raster, values.new_zeros(5)), raster)
    return Seen(shown[..., 0], shown[..., 1:4], shown[..., 4])


def difference(own: Seen, true: Seen) -> Tensor:
    """How unlike two sets of views are."""
    depth = (own.depth - true.depth).abs().mean()
    normal = (own.normal - true.normal).abs().mean()
    return 10.0 * depth + normal + (own.covered - true.covered).abs().mean()


def turned_box() -> Mesh:
    """A box that follows no axis of the lattice."""
    axis = np.array([[0.8, 0.6, 0], [-0.48, 0.64, 0.6], [0.36, -0.48, 0.8]])
    shape = trimesh.creation.box((1.0, 0.84, 0.72))
    return Mesh(torch.tensor(shape.vertices @ axis).float(), torch.tensor(shape.faces).long())


def fitted(truth: Mesh, kind: str, resolution: int, steps: int) -> tuple[Mesh, float]:
    """What learning makes of a shape, and the seconds of a step."""
    config = FineConfig.model_validate(
        {
            "isosurface": kind,
            "optimizer": {"betas": (0.9, 0.99)},
            "geometry": {
                "resolution": resolution,
                "sdf_learning_rate": RATE,
                "offset_learning_rate": RATE,
                "cell_learning_rate": RATE,
            },
        }
    )
    distance = signed_distances(truth, TetGrid(resolution))
    shape = FirstShape(
        distance, HashField(HashGridConfig(levels=1, log2_entries=8), 8, 3), torch.ones(3)
    )
    model = FineModel.begin(shape, config, torch.device("cpu"))
    parts = [model.sdf.value, model.offset.value]
    parts += [model.cells.value] if model.cells is not None else []
    optimizer = torch.optim.Adam(parts, lr=RATE)
    cameras = sphere_views(CAMERAS)
    with torch.no_grad():
        true = seen(truth.vertices, truth.faces, cameras)
    generator = torch.Generator().manual_seed(0)
    began = time.perf_counter()
    for step in range(steps):
        which = torch.randperm(CAMERAS, generator=generator)[:AT_ONCE]
        surface = model.surface()
        target = Seen(true.depth[which], true.normal[which], true.covered[which])
        loss = difference(seen(surface.vertices, surface.faces, cameras[which]), target)
        loss = loss + getattr(surface, "spread", 0.0)
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = RATE * (1.0 - 0.9 * step / steps)
        optimizer.step()
    return model.mesh(), (time.perf_counter() - began) / max(steps, 1)


def sharp_edges(mesh: Mesh) -> Tensor:
    """Points along a mesh's sharp edges, `[N, 3]`; none for a smooth one."""
    shape = trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=True)
    sharp = shape.face_adjacency_angles > math.radians(SHARP)
    ends = shape.vertices[shape.face_adjacency_edges[sharp]]
    along = np.linspace(0.0, 1.0, 20)[:, None, None]
    return torch.from_numpy((ends[:, 0] * (1 - along) + ends[:, 1] * along).reshape(-1, 3))


def self_cut(mesh: Mesh) -> float:
    """Share of faces that cut others."""
    library = pymeshlab()
    meshes = library.MeshSet()
    meshes.add_mesh(library.Mesh(mesh.vertices.double().numpy(), mesh.faces.int().numpy()))
    meshes.compute_selection_by_self_intersections_per_face()
    return meshes.current_mesh().selected_face_number() / mesh.faces.shape[0]


def row(label: str, mesh: Mesh, truth: Mesh, cell: float, seconds: float) -> list[str]:
    """One line of the table."""
    generator = torch.Generator().manual_seed(1)
    points = [sample_surface(m.vertices, m.faces, POINTS, generator)[0] for m in (mesh, truth)]
    f_score = surface_scores(points[0], points[1], TOLERANCE)[0]
    edges = sharp_edges(truth)
    tree = SurfaceTree.of(mesh.vertices.double().numpy(), mesh.faces.numpy())
    away = f"{tree.nearest(edges.numpy())[0].mean() / cell:.3f}" if len(edges) else "none"
    angles = least_angles(mesh)
    shape = describe_shape(mesh)
    sound = "yes" if shape.closed and shape.manifold else "no"
    return [
        label,
        str(mesh.faces.shape[0]),
        f"{np.median(angles):.1f}",
        f"{(angles < 10.0).mean():.2%}",
        f"{f_score:.4f}",
        away,
        f"{self_cut(mesh):.2%}",
        sound,
        f"{seconds:.3f}",
    ]


def main() -> None:
    """Fit each shape with each isosurface, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--resolution", type=int, default=32)
    parser.add_argument("--steps", type=int, default=150)
    given = parser.parse_args()
    shapes = {"a turned box": turned_box(), "a red mushroom": build("a red mushroom").mesh}
    shapes["a blue house"] = build("a blue house").mesh
    rows = []
    for name, truth in shapes.items():
        for kind in ("tetrahedra", "flexicubes"):
            mesh, seconds = fitted(truth, kind, given.resolution, given.steps)
            rows.append(row(f"{name}, {kind}", mesh, truth, 2.0 / given.resolution, seconds))
            print("  ".join(rows[-1]), flush=True)
    header = ["shape", "faces", "median least angle", "below 10 degrees", "F-score"]
    header += ["sharp edges off, cells", "faces that cut others", "closed, manifold", "s a step"]
    body = (
        f"Shapes learnt from depths, normals and silhouettes, {given.resolution} cells a side, "
        f"{given.steps} steps of {AT_ONCE} views; the F-score is within {TOLERANCE}.\n\n"
        f"{table(header, rows)}"
    )
    write_section("isosurface.py", body)


if __name__ == "__main__":
    main()
