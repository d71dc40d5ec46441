"""How near a `pbr` material comes to what toys are made of, seen under skies drawn at random.

    python benchmarks/materials.py                    # two toys, painted on their true meshes
    python benchmarks/materials.py --steps 60         # a quick look, written nowhere

Each toy's mesh, without colours, is painted by `fine.material=pbr` (the shape stays as it is) with
the exact prior, which is told every view's sky; then albedo, roughness and metallic are compared
with the truth: PSNR of unlit views over the toy's own pixels, mean absolute differences. Beside
it stands what a lit picture would give for the albedo: the truth as it looks under the studio's
sky. Runs are kept in `runs/materials/`, so that a second call goes on where the first one stopped;
a table goes into RESULTS.md, and docs/images/materials.png shows what was found above the truth.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import trimesh
from kept import failing_in_one_line, kept
from results import table, write_section
from torch import Tensor

from maquette.common.begin import Choices, mesh_words, open_with_mesh, with_mesh
from maquette.common.light.skies import studio_skies
from maquette.common.rasterize import Raster, antialias, interpolate, rasterize, scatter_image
from maquette.common.runs.folder import Run, slug
from maquette.common.scene.cameras import Cameras, orbit, sphere_views
from maquette.common.scene.images import save_strip
from maquette.common.toybox.objects import ToyObject, build
from maquette.common.toybox.studio import photograph
from maquette.fine.export.write import to_file_axes
from maquette.fine.material import Material
from maquette.fine.meshes.begin import adopt, look_at
from maquette.fine.model import render_surface
from maquette.fine.train import load_finished, run_fine

CAPTIONS = ("a blue robot", "a yellow teapot")
STEPS = 200
VIEWS = 16
SIZE = 256
SHOWN = 192
PICTURE = Path("docs/images/materials.png")


@dataclass(frozen=True)
class Found:
    """albedo: dB; lit: what the studio's picture would give. roughness, metallic: differences."""

    albedo: float
    lit: float
    roughness: float
    metallic: float


def main() -> None:
    """Paint, compare, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--limit", type=int, default=len(CAPTIONS), help="first toys only")
    parser.add_argument("--runs", type=Path, default=Path("runs/materials"))
    options = parser.parse_args()
    captions = CAPTIONS[: options.limit]
    found, rows = {}, []
    for caption in captions:
        with failing_in_one_line(caption):
            run = painted(caption, options.runs / str(options.steps), options.steps)
        found[caption] = Found(
            **kept(run, lambda run=run, caption=caption: asdict(compared(run, caption)))
        )
        rows.append(pictures(run, caption))
        print(caption, found[caption], flush=True)
    body = report(found, options.steps)
    print(body)
    if options.steps == STEPS and len(captions) == len(CAPTIONS):
        PICTURE.parent.mkdir(parents=True, exist_ok=True)
        save_strip(torch.cat(rows), PICTURE, columns=8)
        write_section("materials.py", body)


def painted(caption: str, folder: Path, steps: int) -> Run:
    """The finished run that painted a toy's bare mesh."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{slug(caption)}.ply"
    if not file.exists():
        mesh = build(caption).mesh
        vertices = to_file_axes(mesh.vertices).double().numpy()
        trimesh.Trimesh(vertices, mesh.faces.numpy(), process=False).export(file)
    settings = [
        *(f"fine.steps={steps}", "fine.material=pbr", "fine.checkpoint_every=50"),
        "fine.texture.learning_rate=0.03",
    ]
    choices = Choices(prior="exact", settings=settings, out=str(folder / slug(caption)))
    told = mesh_words(str(file), True, "y", None)
    source, told = look_at(told)
    run = open_with_mesh(with_mesh(caption, told, choices), choices)
    adopt(run, source)
    run_fine(run)
    return run


def compared(run: Run, caption: str) -> Found:
    """What a run's material is, against the truth, over the pixels that show the toy."""
    toy, material = build(caption), load_finished(run).texture
    sums, count = torch.zeros(3, dtype=torch.float64), 0
    lit_error = torch.zeros((), dtype=torch.float64)
    for index in range(VIEWS):
        camera = sphere_views(VIEWS)[index : index + 1]
        seen = rasterize(toy.mesh.vertices, toy.mesh.faces, camera.mvp(), SIZE, SIZE)
        points, truth = interpolate(toy.mesh.vertices, seen), toy.finish(seen.face)
        albedo = toy.albedo(points, seen.face)
        there = layers(material, points)
        sums[0] += (there[:, :3] - albedo).square().mean(dim=-1).sum().double()
        sums[1:] += (there[:, 3:] - truth).abs().sum(dim=0).double()
        count += len(points)
        photo = photograph(toy, camera, SIZE, skies=studio_skies(1))[0]
        shown = photo[(seen.face_index >= 0)[0]]
        flat = scatter_image(albedo, seen, torch.zeros(3))[0][(seen.face_index >= 0)[0]]
        lit_error += (shown - flat).square().mean(dim=-1).sum().double()
    squared, rough, metal = (sums / count).tolist()
    return Found(_decibels(squared), _decibels(float(lit_error) / count), rough, metal)


def _decibels(squared: float) -> float:
    """PSNR of a mean squared difference of values in [0, 1]."""
    return -10.0 * math.log10(squared)


@torch.no_grad()
def layers(material: Material, points: Tensor) -> Tensor:
    """Albedo, roughness and metallic `[N, 5]` of a material."""
    there = material.layers(points, torch.zeros_like(points))
    return torch.cat([there.albedo, there.roughness, there.metallic], dim=-1)


@torch.no_grad()
def pictures(run: Run, caption: str) -> Tensor:
    """Lit, albedo, roughness, metallic: what was found, then the truth, `[8, H, W, 3]`."""
    toy, model, camera = build(caption), load_finished(run), orbit(8)[1:2]
    white = torch.ones(3)
    surface = model.surface()
    lit = render_surface(surface, model.texture, camera, studio_skies(1), SHOWN, white).image
    found = _maps(toy, camera, lambda seen, points: layers(model.texture, points))
    true = _maps(
        toy,
        camera,
        lambda seen, points: torch.cat([toy.albedo(points, seen.face), toy.finish(seen.face)], -1),
    )
    photo = photograph(toy, camera, SHOWN, backdrop=(1.0, 1.0, 1.0), skies=studio_skies(1))
    return torch.cat([lit, *found, photo, *true])


def _maps(
    toy: ToyObject, camera: Cameras, values: Callable[[Raster, Tensor], Tensor]
) -> list[Tensor]:
    seen = rasterize(toy.mesh.vertices, toy.mesh.faces, camera.mvp(), SHOWN, SHOWN)
    there = values(seen, interpolate(toy.mesh.vertices, seen))
    parts = (there[:, :3], there[:, 3:4].expand(-1, 3), there[:, 4:].expand(-1, 3))
    return [antialias(scatter_image(p.contiguous(), seen, torch.ones(3)), seen) for p in parts]


def report(found: dict[str, Found], steps: int) -> str:
    """The table."""
    rows = [
        [c, f"{f.albedo:.1f}", f"{f.lit:.1f}", f"{f.roughness:.3f}", f"{f.metallic:.3f}"]
        for c, f in found.items()
    ]
    header = ["toy", "albedo, dB", "lit picture, dB", "roughness off by", "metallic off by"]
    return (
        f"{steps} steps of `fine.material=pbr` with the exact prior on each toy's true mesh; over "
        f"the toy's own pixels in {VIEWS} unlit views, so that no backdrop flatters.\n\n"
        + table(header, rows)
    )


if __name__ == "__main__":
    main()
