"""The twins of a GPU at real sizes, against the compiled loops of the CPU; skipped without one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from maquette.coarse.compositing import accumulate, render_weights
from maquette.coarse.ray_marching import march
from maquette.common.fields.hashgrid import HashGrid, HashGridConfig
from maquette.common.rasterize import antialias, interpolate, rasterize, scatter_image
from maquette.common.runs.doctor import PARTS, twin_of
from maquette.common.scene.cameras import orbit
from maquette.fine.isosurface import grid_surface
from maquette.fine.tetgrid import TetGrid
from tests.common.test_rasterize import sphere

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
PLACES = (torch.device("cpu"), torch.device("cuda"))


def close(one: Tensor, two: Tensor, share: float) -> None:
    """Equal to a share of the largest value."""
    limit = share * float(one.abs().max())
    assert limit > 0.0
    assert float((one.cpu() - two.cpu()).abs().max()) <= limit


def test_triton_does_the_work() -> None:
    for part in PARTS:
        if part != "marching tetrahedra":
            assert twin_of(part, torch.device("cuda")) == "triton (compiled for this GPU)"


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_kernels_run_where_their_tensors_lie() -> None:
    """Which GPU is the current one is nothing to a tensor of another."""
    grid = HashGrid(HashGridConfig(levels=2, log2_entries=10))
    points = torch.rand(500, 3)
    wanted = grid(points)
    assert torch.cuda.current_device() == 0
    close(wanted.detach(), grid.to("cuda:1")(points.to("cuda:1")).detach(), 1e-5)


def test_a_coarse_picture_and_its_gradient() -> None:
    """Four views of 64 px through a shell in a grid of 256 cells a side, with a full hash grid."""
    line = (torch.arange(256) + 0.5) / 128 - 1.0
    x, y, z = torch.meshgrid(line, line, line, indexing="ij")
    shell = ((x * x + y * y + z * z).sqrt() - 0.6).abs() < 0.05
    box = torch.tensor([-1.0] * 3 + [1.0] * 3)
    origins, directions = (r.reshape(-1, 3) for r in orbit(4).rays(64, 64))
    grid = HashGrid(HashGridConfig(), torch.Generator().manual_seed(0))
    marched = march(origins, directions, shell, box, 2.0 / 256)
    found = []
    for device in PLACES:
        own = march(*(t.to(device) for t in (origins, directions, shell, box)), 2.0 / 256)
        assert len(own) == pytest.approx(len(marched), rel=1e-3)
        rays, starts, ends = (
            t.to(device) for t in (marched.ray_indices, marched.t_starts, marched.t_ends)
        )
        middle = 0.5 * (starts + ends)[:, None]
        points = origins.to(device)[rays] + middle * directions.to(device)[rays]
        tables = grid.tables.detach().to(device).requires_grad_(True)
        placed = HashGrid(grid.config).to(device)
        del placed.tables
        placed.tables = tables  # pyright: ignore[reportAttributeAccessIssue]
        features = placed((points + 1.0) / 2.0)
        density = 40.0 * (1.0 + 1e4 * features[:, 0]).abs()
        weights = render_weights(density, starts, ends, rays, origins.shape[0])
        picture = accumulate(weights, features[:, :3] * 1e4 + 1.0, rays, origins.shape[0])
        (slope,) = torch.autograd.grad(picture.square().sum(), tables)
        found.append((picture.detach(), slope))
    for one, two in zip(*found, strict=True):
        close(one, two, 1e-3)


def test_a_fine_picture_and_its_gradient() -> None:
    """Four views of 512 px of a sphere of twenty thousand faces."""
    vertices, faces = sphere(5)
    found, seen = [], []
    for device in PLACES:
        leaf = vertices.to(device).requires_grad_(True)
        raster = rasterize(leaf, faces.to(device), orbit(4).to(device).mvp(), 512, 512)
        colour = interpolate(leaf, raster)
        image = antialias(scatter_image(colour, raster, torch.ones(3, device=device)), raster)
        (slope,) = torch.autograd.grad(image.square().mean(), leaf)
        found.append((image.detach(), slope))
        seen.append(raster.face_index.cpu())
    # The clip positions of the two differ in their last bits, and so may a pixel on an edge.
    assert float((seen[0] != seen[1]).float().mean()) < 1e-3
    image, other = (pair[0].cpu() for pair in found)
    assert float(((image - other).abs() > 1e-2).float().mean()) < 1e-3
    close(found[0][1], found[1][1], 0.05)


def test_a_surface_of_the_default_lattice() -> None:
    grid = TetGrid(128)
    sdf = grid.vertices().norm(dim=-1) - 0.6
    one, two = (grid_surface(grid, sdf.to(device)) for device in PLACES)
    assert torch.equal(one.faces, two.faces.cpu())
    assert torch.equal(one.edges, two.edges.cpu())
    close(one.vertices, two.vertices, 1e-6)
