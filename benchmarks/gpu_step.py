"""One row of `gpu.py`: steps of a stage judged by a model of a published size, random weights.

    python benchmarks/gpu_step.py sd15|sdxl|if coarse|fine none|8|12|16|24 [--dry] [--set KEY=VALUE]

A preset of memory is measured on a card that a limit plays (`set_per_process_memory_fraction`).
`--set` chooses a setting of the prior, or of `backends`; whether the result allows it is seen in
the norm of the gradient beside that without it. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import torch
from full_size import GIB, peak_gib, sphere
from large_models import prior_of, texts

from maquette.coarse.nerf import Nerf
from maquette.common import backends
from maquette.common.config.backends import BackendsConfig
from maquette.common.config.models import CoarseConfig, FineConfig
from maquette.common.config.priors import PriorConfig
from maquette.common.errors import UserError
from maquette.common.fields.field import HashField
from maquette.common.guidance.conditions import TextConditioner
from maquette.common.guidance.judges import Views
from maquette.common.guidance.score import ScoreDistillation
from maquette.common.losses import SDS
from maquette.common.runs.loop import Learner
from maquette.common.scene.views import sample_views
from maquette.fine.first_shape import FirstShape
from maquette.fine.model import FineModel, lattice, render_surface

VIEWS = 4


def main() -> None:
    """Take steps with and without the model, and print what they took."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", choices=("sd15", "sdxl", "if"))
    parser.add_argument("stage", choices=("coarse", "fine"))
    parser.add_argument("vram", choices=("none", "8", "12", "16", "24"))
    parser.add_argument("--dry", action="store_true")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    device = torch.device("cpu" if options.dry else "cuda")
    if options.vram != "none" and device.type == "cuda":
        whole = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, int(options.vram) * GIB / whole))
    row = {"model": options.model, "stage": options.stage, "vram": options.vram}
    row["set"] = " ".join(options.set)
    chosen: dict[str, Any] = dict(pair.split("=", 1) for pair in options.set)
    ours = {key: chosen.pop(key) for key in BackendsConfig.model_fields if key in chosen}
    backends.use(BackendsConfig.model_validate(ours))
    try:
        prior = PriorConfig.model_validate({"name": options.model, "vram": options.vram, **chosen})
        row |= measure(options.model, options.stage, prior, device, options.dry)
    except UserError as error:
        row["ended"] = str(error)
    print(json.dumps(row))


def measure(model, stage: str, options: PriorConfig, device: torch.device, dry: bool) -> dict:
    """Milliseconds of a step and of all in it but the model, the peak of memory, the gradient."""
    torch.manual_seed(0)
    make = coarse if stage == "coarse" else fine
    render, learner = make(device, dry)
    repeats = 1 if dry else 5
    views = 1 if dry else VIEWS

    def plain(index: int) -> None:
        with learner.step(device):
            learner.descend(render(index, views).image.square().mean(), index, 100)

    outside = timed(plain, learner.check, device, repeats)
    prior = prior_of(model, device, options, tiny=dry)
    judge = ScoreDistillation(prior, TextConditioner(texts(model, prior)), SDS(), steps=100)

    def judged(index: int) -> None:
        with learner.step(device), judge.memory_advice():
            learner.descend(judge(render(index, views), index).loss, index, 100)

    torch.manual_seed(1)
    judged(0)
    slopes = [p.grad.norm() for m in learner.modules.values() for p in slopes_of(m)]
    step = timed(judged, learner.check, device, repeats)
    learner.check()
    return {
        "step, ms": 1e3 * step,
        "outside the model, ms": 1e3 * outside,
        "outside, share": outside / step,
        "peak, GiB": peak_gib(device),
        "rows at once": prior.rows_at_once or "all",
        "offload": prior.options.offload,
        "gradient's norm": float(torch.stack(slopes).norm()),
    }


def slopes_of(module: torch.nn.Module) -> list[Any]:
    """The parameters that have a gradient."""
    return [p for p in module.parameters() if p.grad is not None]


def timed(
    work: Callable[[int], object], look: Callable[[], object], device: torch.device, repeats: int
) -> float:
    """Mean seconds of a call, after those in which kernels are compiled and a look at them."""
    for index in range(1 if repeats == 1 else 3):
        work(index)
    look()
    _finish(device)
    began = time.perf_counter()
    for index in range(repeats):
        work(3 + index)
    _finish(device)
    return (time.perf_counter() - began) / repeats


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


Rendering = Callable[[int, int], Views]


def coarse(device: torch.device, dry: bool) -> tuple[Rendering, Learner]:
    """The NeRF at its default size: 64 px, a 256^3 occupancy grid, 16 levels."""
    config = CoarseConfig()
    if dry:
        grid = config.field.grid.model_copy(update={"levels": 2, "log2_entries": 10})
        changes = {
            "samples": 16,
            "resolution": 16,
            "field": config.field.model_copy(update={"grid": grid, "hidden": 8}),
            "occupancy": config.occupancy.model_copy(update={"resolution": 16}),
        }
        config = config.model_copy(update=changes)
    scene = Nerf(config, device)

    def render(index: int, views: int) -> Views:
        scene.prepare(index)
        cameras, lights = sample_views(config.camera, config.light, views, index, device)
        return scene.render(cameras, lights, index)[0]

    return render, scene.learner()


def fine(device: torch.device, dry: bool) -> tuple[Rendering, Learner]:
    """A sphere on the default lattice at 512 px."""
    config = FineConfig()
    model = sphere(device) if not dry else _small_sphere(device)
    background = torch.full((3,), 0.5, device=device)

    def render(index: int, views: int) -> Views:
        cameras, lights = sample_views(config.camera, config.light, views, index, device)
        size = 64 if dry else config.resolution
        return render_surface(model.surface(), model.texture, cameras, lights, size, background)

    return render, model.learner(config)


def _small_sphere(device: torch.device) -> FineModel:
    config = FineConfig()
    config = config.model_copy(
        update={"geometry": config.geometry.model_copy(update={"resolution": 12})}
    )
    grid = lattice(config)
    distance = (grid.vertices().norm(dim=-1) - 0.6) / grid.cell_size
    color = HashField(CoarseConfig().field.grid.model_copy(update={"levels": 2}), 8, outputs=3)
    return FineModel.begin(FirstShape(distance, color, torch.full((3,), 0.5)), config, device)


if __name__ == "__main__":
    main()
