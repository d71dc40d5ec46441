"""One part of `gpu.py`: each twin of each hot function, against plain torch and the bandwidth.

    python benchmarks/gpu_kernels.py [--dry] [--twins torch triton nerfacc nvdiffrast]

Sizes of a full coarse step (four views of 64 px, 16 levels) and a full fine one (four views of 512
px, a sphere of 80 thousand faces). `moved` counts what a call must at least read and write once;
the share is of what a plain copy reaches on the same card. Prints a JSON line a twin.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import trimesh
from torch import Tensor
from torch.nn import functional as F

from maquette.coarse import compositing, ray_marching
from maquette.common import backends
from maquette.common.config.backends import BackendsConfig
from maquette.common.errors import UserError
from maquette.common.fields import hashgrid
from maquette.common.rasterize import antialias, interpolate, rasterize, visible_faces
from maquette.common.scene.cameras import orbit
from maquette.common.scene.mesh import opposite_vertices
from maquette.fine.isosurface import grid_surface, kaolin_obstacle
from maquette.fine.tetgrid import TetGrid

TWINS = ("torch", "triton", "nerfacc", "nvdiffrast")
Case = tuple[str, Callable[[], object], int]


def main() -> None:
    """Time every case under every twin that runs here."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dry", action="store_true", help="tiny, on the CPU")
    parser.add_argument("--twins", nargs="+", choices=TWINS, default=TWINS)
    options = parser.parse_args()
    dry = options.dry
    device = torch.device("cpu" if dry else "cuda")
    torch.manual_seed(0)
    bandwidth = copied(device, 2**16 if dry else 2**28)
    print(json.dumps({"part": "a plain copy", "twin": "torch", "GB/s": bandwidth / 1e9}))
    for make in (coarse_cases, fine_cases):
        for part, work, moved in make(device, dry):
            for name in options.twins:
                if name not in options_of(part):
                    continue
                print(json.dumps(row(part, name, work, moved, bandwidth, device)), flush=True)


def options_of(part: str) -> tuple[str, ...]:
    """The twins that a part may be given."""
    kind = BackendsConfig.model_fields[part.split()[0]].annotation
    return getattr(kind, "__args__", ())


def row(
    part: str, name: str, work: Callable[[], object], moved: int, bandwidth: float, device: Any
) -> dict[str, Any]:
    """Milliseconds of one twin, or why it doesn't run."""
    backends.use(BackendsConfig.model_validate({part.split()[0]: name}))
    try:
        seconds = timed(work, device)
    except UserError as error:
        return {"part": part, "twin": name, "ended": str(error)}
    finally:
        backends.use(BackendsConfig())
    share = moved / seconds / bandwidth
    return {"part": part, "twin": name, "ms": 1e3 * seconds, "share of the bandwidth": share}


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Mean seconds of a call, after the first ones."""
    repeats = 1 if device.type == "cpu" else 10
    for _ in range(1 if device.type == "cpu" else 3):
        work()
    wait(device)
    began = time.perf_counter()
    for _ in range(repeats):
        work()
    wait(device)
    return (time.perf_counter() - began) / repeats


def wait(device: torch.device) -> None:
    """Until the device has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def copied(device: torch.device, count: int) -> float:
    """Bytes a second that a plain copy reads and writes."""
    source = torch.ones(count, device=device)
    target = torch.empty_like(source)
    return 8 * count / timed(lambda: target.copy_(source), device)


def both_ways(function: Callable[[], Tensor], *leaves: Tensor) -> Callable[[], object]:
    """A call and its gradient."""
    return lambda: torch.autograd.grad(function().sum(), leaves)


def coarse_cases(device: torch.device, dry: bool) -> list[Case]:
    """Ray marching, volume rendering and the hash grid."""
    size, cells, step = (8, 8, 0.2) if dry else (64, 256, 2.0 / 256)
    rays = orbit(1 if dry else 4).rays(size, size)
    origins, directions = (r.reshape(-1, 3).to(device) for r in rays)
    line = (torch.arange(cells, device=device) + 0.5) * (2.0 / cells) - 1.0
    x, y, z = torch.meshgrid(line, line, line, indexing="ij")
    shell = ((x * x + y * y + z * z).sqrt() - 0.6).abs() < max(0.1, 2.0 / cells)
    box = torch.tensor([-1.0] * 3 + [1.0] * 3, device=device)

    def march() -> ray_marching.Samples:
        return ray_marching.march(origins, directions, shell, box, step)

    samples, count = march(), origins.shape[0]
    total = len(samples)
    density = torch.rand(total, device=device, requires_grad=True)
    values = torch.rand(total, 5, device=device, requires_grad=True)
    edges = (samples.t_starts, samples.t_ends, samples.ray_indices, count)
    config = hashgrid.HashGridConfig(**({"levels": 2, "log2_entries": 10} if dry else {}))
    grid = hashgrid.HashGrid(config).to(device)
    points = torch.rand(total, 3, device=device)
    weights = torch.rand(total, device=device, requires_grad=True)
    return [
        ("ray_marching", march, 24 * count + 16 * total),
        (
            "compositing weights",
            both_ways(lambda: compositing.render_weights(density, *edges), density),
            40 * total,
        ),
        (
            "compositing sums",
            both_ways(
                lambda: compositing.accumulate(weights, values, samples.ray_indices, count),
                weights,
                values,
            ),
            100 * total,
        ),
        (
            "hash_grid",
            both_ways(lambda: grid(points), grid.tables),
            total * config.depth * config.features * 4 * 18 + 8 * grid.tables.numel(),
        ),
    ]


def fine_cases(device: torch.device, dry: bool) -> list[Case]:
    """Visibility, interpolation, antialiasing, marching tetrahedra."""
    size, views, resolution = (16, 1, 8) if dry else (512, 4, 128)
    mesh = trimesh.creation.icosphere(subdivisions=1 if dry else 6, radius=0.9)
    vertices = torch.tensor(mesh.vertices, dtype=torch.float32, device=device).requires_grad_()
    faces = torch.tensor(np.array(mesh.faces), device=device)
    mvp = orbit(views).to(device).mvp()
    clip = F.pad(vertices.detach(), (0, 1), value=1.0) @ mvp.transpose(1, 2)
    opposite = opposite_vertices(faces)
    image = torch.rand(views, size, size, 3, device=device, requires_grad=True)
    raster = rasterize(vertices, faces, mvp, size, size)
    attributes = torch.rand(vertices.shape[0], 6, device=device, requires_grad=True)
    grid = TetGrid(resolution)
    sdf = (grid.vertices(device=device).norm(dim=-1) - 0.6).requires_grad_()
    pixels, covered = views * size * size, raster.pixels.shape[0]
    drawn = views * (32 * vertices.shape[0] + 24 * faces.shape[0])
    cases: list[Case] = []
    if kaolin_obstacle(device) is None:
        by_kaolin = both_ways(lambda: grid_surface(grid, sdf, backend="kaolin").vertices, sdf)
        cases = [("tetrahedra by kaolin", by_kaolin, 5 * sdf.numel())]
    return [
        ("visibility", lambda: visible_faces(clip, faces, size, size), drawn + 16 * pixels),
        (
            "interpolation",
            both_ways(lambda: interpolate(attributes, raster), attributes),
            covered * (36 + 6 * 4 * 8),
        ),
        (
            "antialiasing",
            both_ways(lambda: antialias(image, raster, opposite), image),
            drawn + 60 * pixels,
        ),
        ("tetrahedra", both_ways(lambda: grid_surface(grid, sdf).vertices, sdf), 5 * sdf.numel()),
        *cases,
    ]


if __name__ == "__main__":
    main()
