"""How long an export takes, step by step: a 200k-face mesh at 4096 texels a side by default.

    python benchmarks/export.py [--faces 200000] [--texture-size 4096] [--rough 0.15]

The claim: under two minutes on two cores, whether xatlas or the built-in charts unwrap the mesh.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import torch
from results import table, write_section
from torch import Tensor

from maquette.common.scene.mesh import Mesh
from maquette.fine.export.clean import decimate
from maquette.fine.export.export import ExportReport, export

LIMIT_S = 120.0


def bumpy_ball(faces: int, rough: float) -> Mesh:
    """A wavy ball of about `faces` faces; `rough` is a noise on vertices in lengths of an edge."""
    import trimesh

    subdivisions = 2
    while 20 * 4**subdivisions < faces:
        subdivisions += 1
    ball = trimesh.creation.icosphere(subdivisions=subdivisions)
    points = torch.tensor(ball.vertices, dtype=torch.float32)
    x, y, z = (points[:, i : i + 1] for i in range(3))
    radius = 0.7 + 0.1 * torch.sin(6 * x) * torch.cos(5 * y) + 0.05 * torch.sin(17 * z)
    mesh = decimate(Mesh(points * radius, torch.tensor(ball.faces)), faces)
    a, b, _ = mesh.vertices[mesh.faces].unbind(1)
    noise = torch.randn(mesh.vertices.shape, generator=torch.Generator().manual_seed(0))
    return Mesh(mesh.vertices + rough * float((a - b).norm(dim=1).mean()) * noise, mesh.faces)


def waves(points: Tensor) -> Tensor:
    """A smooth field of colours."""
    phase = torch.tensor([0.0, 1.0, 2.0])
    return 0.5 + 0.5 * torch.sin(9.0 * points + phase) * torch.cos(5.0 * points[:, [1, 2, 0]])


def row(label: str, report: ExportReport) -> list[str]:
    """One line of the table."""
    seconds = [f"{value:.1f}" for value in report.seconds.values()]
    total = f"**{sum(report.seconds.values()):.1f}**"
    return [f"{label}: {report.unwrap_method}", *seconds, total, f"{report.psnr_min:.1f}"]


def main() -> int:
    """Export once with xatlas and once without; 1 if either takes too long."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faces", type=int, default=200_000)
    parser.add_argument("--texture-size", type=int, default=4096)
    parser.add_argument("--rough", type=float, default=0.15)
    given = parser.parse_args()
    mesh = bumpy_ball(given.faces, given.rough)
    late, rows, steps = False, [], []
    with tempfile.TemporaryDirectory() as name:
        # A small one first, so that compiling is not counted.
        export(bumpy_ball(500, 0.0), waves, Path(name), "warm", texture_size=128)
        for label, limit in (("xatlas allowed", 45.0), ("no time for xatlas", 0.0)):
            report = export(mesh, waves, Path(name), "ball", given.faces, given.texture_size, limit)
            steps = list(report.seconds)
            rows.append(row(label, report))
            late = late or sum(report.seconds.values()) > LIMIT_S
    header = ["unwrapping", *steps, "all", "worst view, dB"]
    body = (
        f"A rough ball of {given.faces} faces exported at {given.texture_size} px, seconds a step, "
        f"and how near the files come to the model.\n\n{table(header, rows)}"
    )
    print(body)
    write_section("export.py", body)
    return int(late)


if __name__ == "__main__":
    sys.exit(main())
