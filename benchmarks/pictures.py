"""The pictures of the README and the docs, from the runs of `known_answer.py`.

    python benchmarks/pictures.py [--prior NAME]

gallery.png: exported meshes, read back from their OBJ files. stages.png: one object through the
stages: what the NeRF shows, the first mesh, the refined mesh, the exported file.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from known_answer import CAPTIONS, SHOWN, finished_run
from torch import Tensor
from torch.nn import functional as F

from maquette.common.runs.coarse_result import read_result
from maquette.common.runs.folder import Run
from maquette.common.scene.cameras import Cameras, orbit, sphere_views
from maquette.common.scene.images import save_strip
from maquette.common.scene.shading import headlights
from maquette.common.toybox.studio import AMBIENT
from maquette.fine.deliver import finish_export
from maquette.fine.export.readback import lit_view, read_obj
from maquette.fine.model import AnyModel, render_surface
from maquette.fine.train import first_model, load_finished

IMAGES = Path("docs/images")
SIZE, SUPERSAMPLING = 240, 2


def main() -> None:
    """Make both pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--prior", default="toybox")
    parser.add_argument("--runs", type=Path, default=Path("runs/known-answer"))
    options = parser.parse_args()
    options.settings = []
    runs = [finished_run(caption, options) for caption in CAPTIONS[:SHOWN]]
    for run in runs:
        finish_export(run)
    camera = orbit(12, elevation_deg=20)[torch.tensor([1])]
    gallery = torch.cat([exported_view(run, camera) for run in runs])
    save_strip(gallery, IMAGES / "gallery.png", columns=6)
    save_strip(torch.cat([stages(run) for run in (runs[0], runs[5])]), IMAGES / "stages.png", 4)


def exported_view(run: Run, camera: Cameras) -> Tensor:
    """A lit view `[1, SIZE, SIZE, 3]` of a run's OBJ file, before white."""
    read = read_obj(next(run.export.glob("*.obj")))
    return lit_view(read, camera, SIZE, AMBIENT)[None]


def stages(run: Run) -> Tensor:
    """NeRF, first mesh, refined mesh, file: `[4, SIZE, SIZE, 3]`, one view."""
    result = read_result(run)
    view = int(nearest_front(result.images.shape[0]))
    camera = orbit(12, elevation_deg=20)[torch.tensor([1])]
    nerf = result.images[view : view + 1].float() / 255.0
    nerf = F.interpolate(nerf.permute(0, 3, 1, 2), size=(SIZE, SIZE), mode="bilinear")
    meshes = [model_view(model, camera) for model in (first_model(run), load_finished(run))]
    return torch.cat([nerf.permute(0, 2, 3, 1), *meshes, exported_view(run, camera)])


@torch.no_grad()
def model_view(model: AnyModel, camera: Cameras) -> Tensor:
    """A lit view of a model of the fine stage, before white."""
    lights = headlights(camera.position, AMBIENT)
    size, white = SIZE * SUPERSAMPLING, torch.ones(3)
    views = render_surface(model.surface(), model.texture, camera, lights, size, white)
    return smaller(views.image)


def nearest_front(count: int) -> Tensor:
    """Which of the hand-off's views is nearest to the pictures' camera."""
    wanted = orbit(12, elevation_deg=20)[torch.tensor([1])].position
    return (sphere_views(count).position @ wanted[0]).argmax()


def smaller(image: Tensor) -> Tensor:
    """Average blocks of SUPERSAMPLING pixels."""
    small = F.avg_pool2d(image.permute(0, 3, 1, 2), SUPERSAMPLING)
    return small.permute(0, 2, 3, 1)


if __name__ == "__main__":
    main()
