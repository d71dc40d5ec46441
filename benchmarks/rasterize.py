"""Milliseconds a view of the rasterizer's parts, and visibility against a plain z-buffer.

    python benchmarks/rasterize.py [--subdivisions 5] [--size 512] [--views 2]

The plain z-buffer is NumPy, one face at a time; where embreex is installed, its ray tracer (tree
included) is timed as well. Best of several runs; compare the ratios rather than the times.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable

import numpy as np
import torch
import trimesh
from results import table, write_section
from timing import best
from torch import Tensor
from torch.nn import functional as F

from maquette.common.rasterize import (
    antialias,
    interpolate,
    rasterize,
    scatter_image,
    visible_faces,
)
from maquette.common.scene.cameras import Cameras, orbit
from maquette.common.scene.mesh import opposite_vertices


def plain_z_buffer(clip: Tensor, faces: Tensor, size: int) -> np.ndarray:
    """One view, one face at a time, vectorized over the pixels of its bounding box."""
    x, y, z, w = clip.double().numpy().T
    points = np.stack([(x / w + 1) * size / 2, (1 - y / w) * size / 2, z / w], axis=1)
    nearest, index = np.ones((size, size)), np.full((size, size), -1)
    for f, (a, b, c) in enumerate(points[faces.numpy()]):
        low = np.floor(np.minimum(np.minimum(a, b), c)[:2]).clip(0, size).astype(int)
        high = np.ceil(np.maximum(np.maximum(a, b), c)[:2]).clip(0, size).astype(int)
        box = (slice(low[1], high[1]), slice(low[0], high[0]))
        px, py = np.arange(low[0], high[0]) + 0.5, np.arange(low[1], high[1])[:, None] + 0.5
        e0 = (c[0] - b[0]) * (py - b[1]) - (c[1] - b[1]) * (px - b[0])
        e1 = (a[0] - c[0]) * (py - c[1]) - (a[1] - c[1]) * (px - c[0])
        e2 = (b[0] - a[0]) * (py - a[1]) - (b[1] - a[1]) * (px - a[0])
        total = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
        depth = (e0 * a[2] + e1 * b[2] + e2 * c[2]) / total
        inside = (e0 * total >= 0) & (e1 * total >= 0) & (e2 * total >= 0) & (depth < nearest[box])
        nearest[box][inside] = depth[inside]
        index[box][inside] = f
    return index


def embree(vertices: Tensor, faces: Tensor, cameras: Cameras, size: int) -> Callable[[], object]:
    """One view by ray tracing, its tree built anew as for a mesh that changes."""
    from trimesh.ray.ray_pyembree import RayMeshIntersector

    origins, directions = (r[0].reshape(-1, 3).numpy() for r in cameras[:1].rays(size, size))

    def trace() -> object:
        mesh = trimesh.Trimesh(vertices.numpy(), faces.numpy(), process=False)
        return RayMeshIntersector(mesh).intersects_first(origins, directions)

    return trace


def main() -> None:
    """Time, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--subdivisions", type=int, default=5, help="20 * 4^n faces")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--views", type=int, default=2)
    options = parser.parse_args()
    size, views = options.size, options.views

    mesh = trimesh.creation.icosphere(subdivisions=options.subdivisions, radius=0.9)
    vertices = torch.tensor(mesh.vertices, dtype=torch.float32)
    faces = torch.tensor(np.array(mesh.faces))
    cameras = orbit(views)
    mvp = cameras.mvp()
    clip = F.pad(vertices, (0, 1), value=1.0) @ mvp.transpose(1, 2)
    leaf = vertices.clone().requires_grad_(True)
    raster = rasterize(leaf, faces, mvp, size, size)
    colour = interpolate(leaf, raster)
    image = scatter_image(colour, raster, torch.ones(3))
    opposite = opposite_vertices(faces)

    def step() -> None:
        seen = rasterize(leaf, faces, mvp, size, size)
        picture = scatter_image(interpolate(leaf, seen), seen, torch.ones(3))
        antialias(picture, seen).square().mean().backward()

    visibility = best(lambda: visible_faces(clip, faces, size, size)) / views
    rows = {
        "visible_faces": visibility,
        "rasterize": best(lambda: rasterize(leaf, faces, mvp, size, size)) / views,
        "interpolate (3 channels)": best(lambda: interpolate(leaf, raster)) / views,
        "scatter_image": best(lambda: scatter_image(colour, raster, torch.ones(3))) / views,
        "opposite_vertices (once a mesh)": best(lambda: opposite_vertices(faces)),
        "antialias": best(lambda: antialias(image, raster, opposite)) / views,
        "all of it and its gradient": best(step) / views,
    }
    plain = best(lambda: plain_z_buffer(clip[0], faces, size), repeats=1)
    rows["for comparison: plain NumPy z-buffer"] = plain
    if importlib.util.find_spec("embreex") is not None:
        rows["for comparison: embree, its tree built anew"] = best(
            embree(vertices, faces, cameras, size), repeats=3
        )
    cells = [[name, f"{ms:.2f}", f"{ms / visibility:.1f}"] for name, ms in rows.items()]
    body = (
        f"{faces.shape[0]} faces, {views} views of {size} px, "
        f"{raster.pixels.shape[0] / views:.0f} covered pixels a view.\n\n"
        f"{table(['part', 'ms a view', 'of visible_faces'], cells)}"
    )
    print(body)
    write_section("rasterize.py", body)


if __name__ == "__main__":
    main()
