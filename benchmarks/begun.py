"""A mesh damaged on purpose and what the fine stage makes of it; a true mesh, painted.

    python benchmarks/begun.py                              # all of it
    python benchmarks/begun.py --damages 1 --painted 0 --steps 60   # a look, written nowhere

A blue chair with holes, with noise, with dents, with a leg less goes into `maquette fine --mesh`
with the exact prior; its F-score at 0.03 before and after. True meshes of toys without a colour go
into `maquette texture --mesh` with the default prior; PSNR of unlit views. Runs are kept in
`runs/begun/`, so that a second call goes on where the first one stopped.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
import trimesh
from kept import failing_in_one_line
from results import table, write_section

from maquette.common.begin import Choices, mesh_words, open_with_mesh, with_mesh
from maquette.common.runs.folder import Run, slug
from maquette.common.scene.mesh import Mesh, vertex_normals
from maquette.common.toybox.objects import build
from maquette.common.toybox.score import surface_scores, visible_points
from maquette.fine.evaluate import evaluate_run
from maquette.fine.export.write import to_file_axes
from maquette.fine.meshes.begin import adopt, look_at
from maquette.fine.train import run_fine

CAPTION = "a blue chair"
PAINTED = ("a red mushroom", "a blue chair", "a yellow duck", "a checkered green turtle")


def near(mesh: Mesh, spots: int, radius: float) -> torch.Tensor:
    """How near each vertex is to the nearest of some of them, 1 there and 0 beyond `radius`."""
    chosen = torch.randperm(len(mesh.vertices), generator=torch.Generator().manual_seed(0))[:spots]
    distance = torch.cdist(mesh.vertices, mesh.vertices[chosen]).amin(dim=1)
    return (1.0 - distance / radius).clamp_min(0.0)


def holes(mesh: Mesh) -> Mesh:
    """Twelve round holes."""
    gone = (near(mesh, 12, 0.1) > 0.0)[mesh.faces].any(dim=1)
    return Mesh(mesh.vertices, mesh.faces[~gone])


def noise(mesh: Mesh) -> Mesh:
    """Every vertex moved by about 0.03."""
    moved = torch.randn(mesh.vertices.shape, generator=torch.Generator().manual_seed(0))
    return Mesh(mesh.vertices + 0.03 * moved, mesh.faces)


def dents(mesh: Mesh) -> Mesh:
    """Six dents, up to 0.08 deep."""
    inward = vertex_normals(mesh.vertices, mesh.faces)
    return Mesh(mesh.vertices - 0.08 * near(mesh, 6, 0.2)[:, None] * inward, mesh.faces)


def leg_less(mesh: Mesh) -> Mesh:
    """One of four legs is gone."""
    x, y, z = mesh.vertices.unbind(1)
    leg = (x > 0.0) & (y > 0.0) & (z < z.min() + 0.3 * (z.max() - z.min()))
    return Mesh(mesh.vertices, mesh.faces[~leg[mesh.faces].any(dim=1)])


DAMAGES: dict[str, Callable[[Mesh], Mesh]] = {
    "a leg less": leg_less,
    "noise": noise,
    "dents": dents,
    "holes": holes,
}


def main() -> None:
    """Damage, mend, paint, and write what came of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--damages", type=int, default=len(DAMAGES), help="first ones only")
    parser.add_argument("--painted", type=int, default=len(PAINTED), help="first toys only")
    parser.add_argument("--steps", type=int, default=None, help="of the fine stage")
    parser.add_argument("--set", action="append", default=[], dest="settings", help="of both")
    parser.add_argument("--runs", type=Path, default=Path("runs/begun"))
    given = parser.parse_args()
    settings = [] if given.steps is None else [f"fine.steps={given.steps}"]
    settings += given.settings
    truth = build(CAPTION).mesh
    wanted, rows = visible_points(truth), []
    for name, damage in list(DAMAGES.items())[: given.damages]:
        broken = damage(truth)
        before = surface_scores(visible_points(broken), wanted)[0]
        run = made_of(broken, CAPTION, given.runs / slug(name), "exact", False, settings)
        rows.append([name, f"{before:.3f}", f"{evaluate_run(run).f_score:.3f}"])
        print(*rows[-1], flush=True)
    painted = []
    for caption in PAINTED[: given.painted]:
        folder = given.runs / slug(f"painted {caption}")
        run = made_of(build(caption).mesh, caption, folder, None, True, settings)
        painted.append([caption, f"{evaluate_run(run).psnr:.1f}"])
        print(*painted[-1], flush=True)
    body = (
        f"{CAPTION}, damaged, through `maquette fine --mesh` with the exact prior; F-score at "
        f"0.03.\n\n{table(['damage', 'F before', 'F after'], rows)}\n\nTrue meshes through "
        "`maquette texture --mesh` with the default prior, seeds 0.\n\n"
        f"{table(['caption', 'PSNR, dB'], painted)}"
    )
    print(body)
    if not settings and len(rows) == len(DAMAGES) and len(painted) == len(PAINTED):
        write_section("begun.py", body)


def made_of(
    mesh: Mesh, caption: str, folder: Path, prior: str | None, keep: bool, settings: list[str]
) -> Run:
    """The finished run that began with a mesh; it is gone on with where it was left."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "mesh.ply"
    if not file.exists():
        places = to_file_axes(mesh.vertices).double().numpy()
        shape = trimesh.Trimesh(places, mesh.faces.numpy(), process=False)
        shape.remove_unreferenced_vertices()
        shape.export(file)
    choices = Choices(prior=prior, settings=settings, out=str(folder / "run"))
    with failing_in_one_line(str(folder)):
        source, told = look_at(mesh_words(str(file), keep, "y", None))
        run = open_with_mesh(with_mesh(caption, told, choices), choices)
        adopt(run, source)
        run_fine(run)
    return run


if __name__ == "__main__":
    main()
