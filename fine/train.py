"""The fine stage: from a first shape to a refined, textured mesh at high resolution."""

from __future__ import annotations

import dataclasses
import functools
import json
import time
from collections.abc import Callable

import torch
from torch import Tensor

from ..common import ranks, rooms
from ..common.config.models import FineConfig
from ..common.device import Number, shown
from ..common.embedded.door import prior_digest
from ..common.errors import UserError
from ..common.files import write_whole
from ..common.guidance.judges import Panel, Views
from ..common.guidance.prepare import prepare_judges
from ..common.runs.checkpoints import (
    DamagedCheckpointError,
    checkpoint_path,
    fitting,
    read_latest,
    read_tensors,
    steps_on_disk,
)
from ..common.runs.coarse_result import (
    PREVIEW,
    CoarseResult,
    fine_origin,
    is_cleaned,
    read_result,
)
from ..common.runs.failure import FailedError, OnFailure, Watch, failures, record, teller
from ..common.runs.folder import Run
from ..common.runs.loop import Hooks, Learner, Together, begin_on, looks, save, train
from ..common.runs.origin import agree, finish, outputs_whole
from ..common.runs.progress import say
from ..common.runs.stage import FINE
from ..common.scene.cameras import Cameras, orbit, sphere_views
from ..common.scene.images import save_strip
from ..common.scene.views import picture_lights
from ..common.schedules import step_schedule
from ..common.watch.ends import picture_end
from ..common.watch.fronts import FrontWatch
from ..common.watch.growth import watching_growth
from .first_shape import FIRST, from_coarse, read_first, silhouette_iou, write_first
from .flexicubes import DualSurface
from .material import studio, views_of_step
from .meshes.begin import read_start, shape_of
from .model import AnyModel, AnySurface, FineModel, begin_model, lattice, render_surface
from .pictures import Pictured
from .regularizers import laplacian_loss, normal_consistency, sdf_sign_loss


def run_fine(run: Run, redo: bool = False, on_failure: OnFailure = "auto") -> None:
    """Refine the first shape of a run to the end, going on from the last checkpoint.

    redo: whether a result that other settings made is put aside; else that raises UserError.
    on_failure: see `runs.failure`; raises its `FailedError` where the stage fails.
    """
    config = run.config.fine
    if is_cleaned(run) and is_complete(run):
        return  # what it was made of is gone
    origin = fine_origin(run, prior_digest(config.prior, FINE.space))
    newest = max(steps_on_disk(run.fine), default=None)
    if ranks.now().first:
        agree(run, run.fine, "fine", origin, redo, newest)
    ranks.wait()
    if is_complete(run):
        return
    result = read_result(run) if run.config.mesh is None else None
    device = begin_on(run)
    torch.manual_seed(run.config.seed + 1)
    if ranks.now().first and not steps_on_disk(run.fine):
        if result is not None:
            hand_off(run, result)
        else:
            begin_with_mesh(run)
    ranks.wait()
    shape = read_first(run.fine)
    with fitting(run.fine / FIRST):
        model = begin_model(shape, config, device)
    background = shape.background.to(device)  # frozen from here on, as in Magic3D
    judges = prepare_judges(run, FINE, device)
    learner = model.learner(config)
    watch = Watch("fine", config.steps, run.config.seed, teller(run, on_failure))
    subject = Pictured(model, config, background)
    fronts = FrontWatch(run, FINE, judges, watch, subject.judged)
    step = _stepping(config, model, learner, judges, background, watch, fronts)
    state = Together(learner, judges=judges)
    with watching_growth(run, FINE).shows(subject, judges) as growth:
        hooks = Hooks(growth, learner.check, learner.slow, on_failure)
        every = config.checkpoint_every
        train(run, "fine", run.fine, state, config.steps, every, step, hooks)
    if ranks.now().first:
        picture_end(run.fine, subject, 192)
        save_strip(preview(model, config), run.fine / PREVIEW)
        finish(run.fine, origin, PREVIEW)


def _stepping(
    config: FineConfig,
    model: AnyModel,
    learner: Learner,
    judges: Panel,
    background: Tensor,
    watch: Watch,
    fronts: FrontWatch,
) -> Callable[[int], dict[str, Number]]:
    """What takes a step of a model, and gives the numbers to show. watch, fronts: look on."""
    device = background.device

    @functools.cache
    def finished() -> AnySurface:
        with rooms.asking():  # it is kept
            return model.surface().detach()

    def step(index: int) -> dict[str, Number]:
        painting = config.paint_from is not None and index >= config.paint_from
        cameras, lights = views_of_step(config, index, device, judges.group)
        with learner.step(device), judges.memory_advice():
            surface = finished() if painting else model.surface()
            views = render_surface(
                surface, model.texture, cameras, lights, config.resolution, background, painting
            )
            look = functools.partial(look_at, surface, model, config, background, index)
            judged = judges(dataclasses.replace(views, look=look), index)
            loss = judged.loss
            if not painting and isinstance(model, FineModel):
                loss = loss + regularizers(surface, model, config, index)
            learner.descend(loss, index, config.steps)
            judges.learn()
        value = shown(loss)
        if looks(index, device):
            if device.type != "cpu":
                model.check()
            watch.look(index, float(value), views.image, None)
        with judges.memory_advice():
            fronts.look(index)
        return {"loss": value, **judged.watch}

    return step


def look_at(
    surface: AnySurface,
    model: AnyModel,
    config: FineConfig,
    background: Tensor,
    step: int,
    cameras: Cameras,
    resolution: int,
) -> Views:
    """Views of a surface from anywhere, lit as a picture of it is compared at a step."""
    lamps = picture_lights(config.light, cameras, step)
    return render_surface(surface, model.texture, cameras, lamps, resolution, background)


def hand_off(run: Run, result: CoarseResult) -> None:
    """The hand-off: make the first mesh, record its fit, write the checkpoint of step 0."""
    began = time.monotonic()
    config = run.config.fine
    try:
        shape, report = from_coarse(result, lattice(config), run.config.handoff)
    except FailedError as failed:
        record(run, failed)
        raise
    model = FineModel.begin(shape, config, torch.device("cpu"))
    surface = model.mesh()
    report = dataclasses.replace(
        report, mesh_iou=silhouette_iou(surface.vertices, surface.faces, result.opacity)
    )
    run.fine.mkdir(parents=True, exist_ok=True)
    values = dataclasses.asdict(report)
    write_whole(run.fine / "handoff.json", json.dumps(values, indent=2) + "\n")
    seconds = round(time.monotonic() - began, 2)
    run.event("hand-off", faces=surface.faces.shape[0], seconds=seconds, **values)
    save_strip(handoff_picture(model, result, config), run.fine / "handoff.png", columns=8)
    say(
        f"hand-off: {surface.faces.shape[0]} faces, silhouette IoU with the coarse scene "
        f"{report.mesh_iou:.3f}, {report.parts - report.kept} floaters removed"
    )
    write_first(run.fine, shape)
    save(run.fine, 0, model.learner(config))


def begin_with_mesh(run: Run) -> None:
    """Make the first shape of the mesh that the run begins with; the checkpoint of step 0."""
    began = time.monotonic()
    config = run.config.fine
    start = read_start(run)
    shape = shape_of(run.config, start, lattice(config))
    model = begin_model(shape, config, torch.device("cpu"))
    faces = model.mesh().faces.shape[0]
    run.fine.mkdir(parents=True, exist_ok=True)
    seconds = round(time.monotonic() - began, 2)
    given = start.mesh.faces.shape[0]
    run.event("began with a mesh", faces=given, first_faces=faces, seconds=seconds)
    for word in start.source.lost:
        run.warn(f"not kept of the mesh's file: {word}")
    say(f"mesh: {given} faces; the fine stage begins with {faces}")
    write_first(run.fine, shape)
    save(run.fine, 0, model.learner(config))


def regularizers(surface: AnySurface, model: FineModel, config: FineConfig, step: int) -> Tensor:
    """The weighted sum of the losses beside what judges say; parts of weight 0 are left out."""
    sdf = model.sdf.value
    total = sdf.new_zeros(())
    if weight := step_schedule(config.losses.normal_consistency, step):
        total = total + weight * normal_consistency(surface.vertices, surface.faces)
    if weight := step_schedule(config.losses.laplacian, step):
        total = total + weight * laplacian_loss(surface.vertices, surface.faces)
    if weight := step_schedule(config.losses.sdf_sign, step):
        total = total + weight * sdf_sign_loss(sdf, surface.edges)
    if isinstance(surface, DualSurface) and (weight := step_schedule(config.losses.spread, step)):
        total = total + weight * surface.spread
    if model.cells is not None and (weight := step_schedule(config.losses.cell_weights, step)):
        # Of edges and corners alone, as in the paper's own fits.
        total = total + weight * model.cells.value[:, :-1].abs().mean()
    return total


def is_complete(run: Run) -> bool:
    """Whether a run's last fine checkpoint is there and whole, and its preview beside it."""
    try:
        read_tensors(checkpoint_path(run.fine, run.config.fine.steps))
    except DamagedCheckpointError:
        return False
    return outputs_whole(run.fine, PREVIEW)


def load_finished(run: Run) -> AnyModel:
    """The model of a finished fine stage; UserError if it isn't finished or is damaged."""
    config, total = run.config.fine, run.config.fine.steps
    damaged: list[str] = []
    step, tensors = read_latest(run.fine, damaged.append)
    if tensors is None or step != total:
        if damaged:
            reason = damaged[0].partition("; going on")[0]
            raise UserError(f"{reason}; make it again: maquette resume {run.folder}")
        unfinished = f"the fine stage of {run.folder} isn't finished (step {step or 0} of {total})"
        if failed := failures(run):
            raise UserError(f"{unfinished}: {failed[-1]}")
        raise UserError(f"{unfinished}; finish it first: maquette resume {run.folder}")
    model = first_model(run)
    with fitting(checkpoint_path(run.fine, total)):
        model.learner(config).load(tensors)
    return model


def first_model(run: Run) -> AnyModel:
    """The model of the first shape, before any refinement; UserError if there is none."""
    shape = read_first(run.fine)
    with fitting(run.fine / FIRST):
        return begin_model(shape, run.config.fine, torch.device("cpu"))


@torch.no_grad()
def preview(model: AnyModel, config: FineConfig, count: int = 4, resolution: int = 256) -> Tensor:
    """Lit views `[count, resolution, resolution, 3]` of the model from around it, before white."""
    cameras = orbit(count).to(model.device)
    return _look(model, config, cameras, resolution)


def _look(model: AnyModel, config: FineConfig, cameras: Cameras, resolution: int) -> Tensor:
    lights = studio(config, cameras)
    white = torch.ones(3, device=cameras.azimuth.device)
    return render_surface(model.surface(), model.texture, cameras, lights, resolution, white).image


@torch.no_grad()
def handoff_picture(model: FineModel, result: CoarseResult, config: FineConfig) -> Tensor:
    """Views of the coarse scene, then the same views of the first mesh: `[16, H, H, 3]`."""
    chosen = torch.linspace(0, result.opacity.shape[0] - 1, 8).long()
    cameras = sphere_views(result.opacity.shape[0])[chosen]
    before = result.images[chosen].float() / 255.0
    return torch.cat([before, _look(model, config, cameras, before.shape[1])])
