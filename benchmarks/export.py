"""An export beside what other programs make of the same mesh: time, memory, likeness.

    python benchmarks/export.py [--faces 20000 200000 1000000] [--texture-size 4096] [--limit 900]
    python benchmarks/export.py --ways maquette --faces 1000000    # a section of its own

Each way begins with a rough ball in memory, of whose faces none are taken away, and ends with a
coloured file on disk. Each runs in a process of its own, so that its memory can be told; Blender
must be installed (the program `blender`).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh
from PIL import Image
from results import table, write_section
from torch import Tensor
from trimesh.visual import TextureVisuals
from trimesh.visual.material import SimpleMaterial

from maquette.common.rasterize import interpolate
from maquette.common.scene.cameras import sphere_views
from maquette.common.scene.images import psnr
from maquette.common.scene.mesh import Mesh
from maquette.common.toybox.score import Textured, unlit_views
from maquette.fine.export.bake import bake
from maquette.fine.export.clean import decimate, pymeshlab
from maquette.fine.export.export import export
from maquette.fine.export.readback import read_obj, sample_texture
from maquette.fine.export.unwrap import Unwrapped

HERE = Path(__file__).resolve()
BLENDER = HERE.with_name("export_blender.py")
OBJ, MEMORY = "ball.obj", "memory.txt"
Y_UP, WORLD = [1, 2, 0], [2, 0, 1]  # the axes of files in the world's, and back
VIEWS, PIXELS = 8, 1024
MIB = 2.0**10  # of the kilobytes in which Linux tells memory


def bumpy_ball(faces: int, rough: float = 0.15) -> Mesh:
    """A wavy ball of about `faces` faces; `rough` is a noise on vertices in lengths of an edge."""
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
    """A field of colours with waves as long as a hundredth of the ball, and longer ones."""
    phase = torch.tensor([0.0, 1.0, 2.0])
    wide = torch.sin(9.0 * points + phase) * torch.cos(5.0 * points[:, [1, 2, 0]])
    return (0.5 + 0.35 * wide + 0.15 * torch.sin(90.0 * points[:, [2, 0, 1]])).clamp(0.0, 1.0)


def by_maquette(mesh: Mesh, size: int, folder: Path, shelves: bool = False) -> Path:
    """Clean, unwrap, bake, write an OBJ and a GLB, read both back and compare."""
    limit = 1e-3 if shelves else 600.0
    faces = len(mesh.faces)
    report = export(mesh, waves, folder, "ball", faces, texture_size=size, unwrap_limit_s=limit)
    return folder / str(report.obj)


def by_xatlas(mesh: Mesh, size: int, folder: Path) -> Path:
    """xatlas makes charts of its own and packs them; baked as ours are, written by trimesh."""
    import xatlas

    atlas, pack = xatlas.Atlas(), xatlas.PackOptions()
    pack.resolution, pack.padding, pack.bilinear = size, 4, True
    atlas.add_mesh(mesh.vertices.numpy(), mesh.faces.numpy().astype(np.uint32))
    atlas.generate(xatlas.ChartOptions(), pack, False)
    source, faces, uv = (torch.from_numpy(x.copy()) for x in atlas.get_mesh(0))
    source = source.long()
    own = Unwrapped(mesh.vertices[source], faces.long(), uv.float(), source, "xatlas")
    picture = Image.fromarray(bake(own, size, waves).texture)
    look = TextureVisuals(uv=own.uv.numpy(), material=SimpleMaterial(image=picture))
    places = own.vertices[:, Y_UP].numpy()
    trimesh.Trimesh(places, own.faces.numpy(), visual=look, process=False).export(folder / OBJ)
    return folder / OBJ


def by_trimesh(mesh: Mesh, size: int, folder: Path) -> Path:
    """trimesh bakes nothing: colours of vertices in a GLB."""
    colored(mesh).export(folder / "ball.glb")
    return folder / "ball.glb"


def by_pymeshlab(mesh: Mesh, size: int, folder: Path) -> Path:
    """pymeshlab's own layout, a triangle a cell, and its bake of colours of vertices."""
    library, shape = pymeshlab(), colored(mesh)
    colors = np.ones((len(mesh.vertices), 4))
    colors[:, :3] = waves(mesh.vertices).numpy()
    meshes = library.MeshSet()
    meshes.add_mesh(library.Mesh(shape.vertices, shape.faces, v_color_matrix=colors))
    meshes.compute_texcoord_parametrization_triangle_trivial_per_wedge(textdim=size, border=1)
    before = Path.cwd()
    os.chdir(folder)  # it writes the texture where it stands
    meshes.compute_texmap_from_color(textname="ball.png", textw=size, texth=size)
    meshes.save_current_mesh(OBJ, save_vertex_color=False)
    os.chdir(before)
    return folder / OBJ


def by_blender(mesh: Mesh, size: int, folder: Path) -> Path:
    """Blender's Smart UV Project and Cycles' bake of colours of vertices, from a PLY to an OBJ."""
    colored(mesh).export(folder / "in.ply")
    command = ["blender", "-b", "--factory-startup", "-P", str(BLENDER), "--", "in.ply", str(size)]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    found = re.search(r"^BAKED (\d+)", ended.stdout, flags=re.M)
    if found is None:
        raise RuntimeError((ended.stdout + ended.stderr)[-3000:])
    (folder / MEMORY).write_text(found[1])
    return folder / OBJ


WAYS: dict[str, Callable[[Mesh, int, Path], Path]] = {
    "maquette": by_maquette,
    "maquette, charts on shelves": partial(by_maquette, shelves=True),
    "xatlas alone, baked by us": by_xatlas,
    "Blender: Smart UV, Cycles": by_blender,
    "pymeshlab: a cell a triangle": by_pymeshlab,
    "trimesh: colours of vertices": by_trimesh,
}


def colored(mesh: Mesh) -> trimesh.Trimesh:
    """The mesh with the field's colours at its vertices, Y up as files have it."""
    colors = (waves(mesh.vertices) * 255.0).round().to(torch.uint8).numpy()
    places = mesh.vertices[:, Y_UP].double().numpy()
    return trimesh.Trimesh(places, mesh.faces.numpy(), vertex_colors=colors, process=False)


def likeness(path: Path, mesh: Mesh) -> tuple[float, str]:
    """The PSNR in dB of a file's views against the model's, and how much of its texture is used."""
    used = "-"
    if path.suffix == ".glb":
        scene: Any = trimesh.load(path, process=False)
        (shape,) = scene.geometry.values()
        places = torch.tensor(np.asarray(shape.vertices)).float()[:, WORLD]
        colors = torch.tensor(np.asarray(shape.visual.vertex_colors)[:, :3]) / 255.0
        found = Textured(
            Mesh(places, torch.tensor(np.asarray(shape.faces)).long()),
            lambda raster: interpolate(colors, raster),
        )
    else:
        read = read_obj(path)
        a, b, c = read.uv[read.faces].double().unbind(1)
        one, two = b - a, c - a
        covered = 0.5 * (one[:, 0] * two[:, 1] - one[:, 1] * two[:, 0]).abs().sum()
        used = f"{float(covered):.0%}"
        found = Textured(
            Mesh(read.vertices, read.faces),
            lambda raster: sample_texture(read.texture, interpolate(read.uv, raster)),
        )
    true = Textured(mesh, lambda raster: waves(interpolate(mesh.vertices, raster)))
    cameras = sphere_views(VIEWS)
    own, covered = unlit_views(found, cameras, PIXELS)
    wanted, wanted_covered = unlit_views(true, cameras, PIXELS)
    return psnr(own, wanted, covered | wanted_covered), used


def one(way: str, place: Path, size: int) -> dict[str, Any]:
    """Make one file, in a process of its own: what it took, and what it is like."""
    given = np.load(place)
    mesh = Mesh(torch.from_numpy(given["vertices"]), torch.from_numpy(given["faces"]))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if way.startswith("maquette"):  # a small one first, so that compiling is not counted
            WAYS[way](bumpy_ball(500), 128, folder)
        before, started = memory(), processor_time()
        path = WAYS[way](mesh, size, folder)
        found: dict[str, Any] = {"seconds": processor_time() - started}
        found["memory"] = (memory() - before) / MIB
        if (folder / MEMORY).exists():
            found["memory"] = int((folder / MEMORY).read_text()) / MIB
        if (folder / "report.json").exists():
            found["steps"] = json.loads((folder / "report.json").read_text())["seconds"]
        found["psnr"], found["use"] = likeness(path, mesh)
    return found


def processor_time() -> float:
    """Seconds of this process and of those it has waited for."""
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def memory() -> float:
    """The most memory that this process or one it has waited for has held, in KiB."""
    both = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return max(resource.getrusage(who).ru_maxrss for who in both)


def tried(way: str, place: Path, size: int, limit: float) -> dict[str, Any] | str:
    """What `one` tells, or why there is nothing to tell."""
    command = [sys.executable, str(HERE), "--one", way, "--mesh", str(place)]
    command += ["--texture-size", str(size)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        out, errors = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return f"not within {limit:g} s"
    found = re.search(r"^TOLD (.+)$", out, flags=re.M)
    if found is None:
        return (errors.strip().splitlines() or ["no word"])[-1][:100]
    return json.loads(found[1])


def rows_of(faces: int, given: argparse.Namespace) -> tuple[list[list[str]], list[str] | None]:
    """A row a way for a mesh of so many faces, and one of the seconds of our own steps."""
    mesh = bumpy_ball(faces)
    rows, steps = [], None
    with tempfile.TemporaryDirectory() as name:
        place = Path(name) / "mesh.npz"
        np.savez(place, vertices=mesh.vertices.numpy(), faces=mesh.faces.numpy())
        for way in given.ways:
            found = tried(way, place, given.texture_size, given.limit)
            if isinstance(found, str):
                rows.append([way, f"{faces:,}", found, "-", "-", "-"])
            else:
                cells = f"{found['seconds']:.1f}", f"{found['memory']:.0f}", f"{found['psnr']:.1f}"
                rows.append([way, f"{faces:,}", *cells, found["use"]])
                if way == "maquette":
                    steps = [f"{faces:,}", *(f"{value:.1f}" for value in found["steps"].values())]
            print(*rows[-1], sep="  ", flush=True)
    return rows, steps


def main() -> None:
    """Try every way at every size, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faces", type=int, nargs="+", default=[20_000, 200_000, 1_000_000])
    parser.add_argument("--texture-size", type=int, default=4096)
    parser.add_argument("--limit", type=float, default=900.0, help="seconds for one file")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), metavar="WAY")
    parser.add_argument("--one", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--mesh", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one is not None:
        print("TOLD " + json.dumps(one(given.one, given.mesh, given.texture_size)), flush=True)
        return
    rows, steps = [], []
    for faces in given.faces:
        found, own = rows_of(faces, given)
        rows += found
        steps += [] if own is None else [own]
        some = "" if given.ways == list(WAYS) else f" --ways {' '.join(given.ways)}"
        write_section(f"export.py{some}", told(rows, steps, given.texture_size))


def told(rows: list[list[str]], steps: list[list[str]], size: int) -> str:
    """The tables and what is in them."""
    header = ["way", "faces", "processor time, s", "memory, MiB", "PSNR, dB", "texture used"]
    names = ["clean", "decimate", "unwrap", "bake", "levels", "write", "read back", "turntable"]
    return (
        f"A rough ball in memory made into a file with a texture of {size} px. Ours also reads "
        "back and compares what it wrote, and asks the field of colours itself; the others have "
        "its values at the vertices. Blender keeps 0.2 % of the texture between islands, of which "
        "a rough surface makes too many for that. Memory beyond what the process began with; all "
        "of it for Blender.\n\n"
        f"{table(header, rows)}\n\n"
        "Seconds of our own steps by the clock; other processes may have shared the cores:\n\n"
        f"{table(['faces', *names], steps)}"
    )


if __name__ == "__main__":
    main()
