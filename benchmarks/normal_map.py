"""A model of 5,000 faces with a normal map beside the whole mesh: a picture, and PSNR.

    python benchmarks/normal_map.py [--faces 5000]

Writes docs/images/normal_map.png: the whole mesh, the small one, the small one with the map.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import trimesh
from results import table, write_section
from torch import Tensor
from torch.nn import functional as F

from maquette.common.rasterize import Raster, antialias, interpolate, rasterize, scatter_image
from maquette.common.scene.cameras import orbit
from maquette.common.scene.images import psnr, save_png
from maquette.common.scene.mesh import Mesh, vertex_normals
from maquette.fine.export.clean import decimate
from maquette.fine.export.normals import bake_normals, mapped_normals, tangents
from maquette.fine.export.readback import sample_texture
from maquette.fine.export.slivers import without_slivers
from maquette.fine.export.source import Surface
from maquette.fine.export.unwrap import unwrap

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "normal_map.png"
SIZE, TEXELS = 320, 1024


def carved() -> Mesh:
    """A ball of 82,000 faces with fine grooves."""
    ball = trimesh.creation.icosphere(subdivisions=6)
    points = torch.tensor(ball.vertices).float()
    x, y, z = (points[:, i : i + 1] for i in range(3))
    grooves = 0.012 * torch.sin(26 * x) * torch.sin(24 * y) + 0.01 * torch.sin(30 * z + 6 * x)
    return Mesh(points * (0.7 + 0.08 * torch.sin(4 * x + 1) + grooves), torch.tensor(ball.faces))


def lit(vertices: Tensor, faces: Tensor, normals_of) -> tuple[Tensor, Tensor]:
    """Views `[2, SIZE, SIZE, 3]` under one light, and which pixels the surface covers."""
    raster = rasterize(vertices, faces, orbit(2).mvp(), SIZE, SIZE)
    light = F.normalize(torch.tensor([1.0, 0.7, 0.9]), dim=0)
    sides = torch.where(raster.view[:, None] == 0, light, light * torch.tensor([-1.0, -1.0, 1.0]))
    bright = 0.1 + 0.85 * (normals_of(raster) * sides).sum(dim=1, keepdim=True).clamp_min(0.0)
    image = scatter_image(bright.expand(-1, 3), raster, torch.ones(3))
    return antialias(image, raster), raster.face_index >= 0


def main() -> None:
    """Bake the map, and write the picture and the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faces", type=int, default=5000)
    given = parser.parse_args()
    whole = carved()
    small = without_slivers(decimate(whole, given.faces), 1e-3)
    unwrapped = unwrap(small, 45.0, TEXELS)
    texture = torch.from_numpy(bake_normals(unwrapped, TEXELS, Surface(whole, reach=0.04)))
    own, frame = vertex_normals(whole.vertices, whole.faces), tangents(unwrapped)

    def interpolated(normals: Tensor):
        return lambda raster: F.normalize(interpolate(normals, raster), dim=-1)

    def mapped(raster: Raster) -> Tensor:
        values = sample_texture(texture, interpolate(unwrapped.uv, raster))
        return mapped_normals(unwrapped, frame, values, raster)

    true, covered = lit(whole.vertices, whole.faces, interpolated(own))
    shapes = {"alone": interpolated(unwrapped.normals()), "with its normal map": mapped}
    shown, rows = [true], []
    for name, normals_of in shapes.items():
        image, mask = lit(unwrapped.vertices, unwrapped.faces, normals_of)
        shown.append(image)
        rows.append([name, f"{psnr(image, true, covered & mask):.1f}"])
    save_png(torch.cat([image[0] for image in shown], dim=1), PICTURE)
    faces, all_faces = small.faces.shape[0], whole.faces.shape[0]
    body = (
        f"{faces} faces of {all_faces}, lit, beside the whole mesh; a map of {TEXELS} px.\n\n"
        f"{table(['the small mesh', 'PSNR, dB'], rows)}"
    )
    print(body)
    write_section("normal_map.py", body)


if __name__ == "__main__":
    main()
