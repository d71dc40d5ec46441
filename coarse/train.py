"""The coarse stage: from a prompt to a NeRF by score distillation at low resolution."""

from __future__ import annotations

import torch
from torch import Tensor

from ..common.config.models import BackgroundConfig, CoarseConfig, HandoffConfig
from ..common.device import pick_device
from ..common.fields.field import EXTENT
from ..common.guidance.prepare import prepare_guide
from ..common.runs.checkpoints import with_prefix, write_tensors
from ..common.runs.coarse_result import RESULT, handed_off
from ..common.runs.folder import Run
from ..common.runs.loop import Learner, Together, deterministic, train
from ..common.scene.cameras import Cameras, orbit, sphere_views
from ..common.scene.images import save_strip, to_uint8
from ..common.scene.views import sample_views, studio_lights
from ..common.schedules import step_schedule
from .background import Background
from .field import RadianceField
from .losses import entropy_loss, opacity_loss, orientation_loss
from .occupancy import Occupancy
from .render import Rendered, render_views


class CoarseModel:
    """The NeRF with everything that rendering it needs."""

    def __init__(self, config: CoarseConfig, device: torch.device) -> None:
        self.config = config
        self.field = RadianceField(config.field).to(device)
        self.background = Background(config.background).to(device)
        self.occupancy = Occupancy(config.occupancy, config.samples).to(device)
        self.device = device

    def learner(self) -> Learner:
        """An optimizer over all that learns, the background at its own rate."""
        modules = {
            "field": self.field,
            "background": self.background,
            "occupancy": self.occupancy,
        }
        rates = {"background": self.config.background.learning_rate}
        return Learner(self.config.optimizer, modules, rates)


def run_coarse(run: Run) -> None:
    """Train the coarse stage of a run to its end, going on from its last checkpoint."""
    config = run.config.coarse
    if handed_off(run):
        return
    device = pick_device(run.config.device)
    deterministic(device)
    torch.manual_seed(run.config.seed)
    model = CoarseModel(config, device)
    guide = prepare_guide(run, "coarse", device)
    learner = model.learner()

    def step(index: int) -> float:
        model.occupancy.update(index, model.field.density)
        cameras, lights = sample_views(config.camera, config.light, config.views, index, device)
        rendered = render_views(
            model.field,
            model.background,
            model.occupancy,
            cameras,
            lights,
            config.resolution,
            training=True,
        )
        with guide.memory_advice():
            guided = guide(rendered.image, cameras, index)
            loss = guided.loss + regularizers(rendered, config, index)
            learner.descend(loss, index, config.steps)
        return guided.error

    state = Together(learner, guide=guide)
    train(run, "coarse", run.coarse, state, config.steps, config.checkpoint_every, step)
    save_strip(preview(model), run.coarse / "preview.png")
    write_tensors(run.coarse / RESULT, result(model, run.config.handoff))


def regularizers(rendered: Rendered, config: CoarseConfig, step: int) -> Tensor:
    """The weighted sum of the losses beside distillation."""
    weights = config.losses
    total = step_schedule(weights.opacity, step) * opacity_loss(rendered.opacity)
    total = total + step_schedule(weights.entropy, step) * entropy_loss(rendered.opacity)
    if rendered.normals.shape[0] > 0:
        facing = orientation_loss(rendered.normals, rendered.directions, rendered.hit_opacity)
        total = total + step_schedule(weights.orientation, step) * facing
    return total


@torch.no_grad()
def result(model: CoarseModel, config: HandoffConfig) -> dict[str, Tensor]:
    """All that the fine stage needs of a finished NeRF, as `common.handoff` describes it."""
    cameras = sphere_views(config.views)
    images, opacities = [], []
    for index in range(len(cameras)):
        camera = cameras[index : index + 1].to(model.device)
        rendered = _look(model, camera, config.view_resolution)
        images.append(to_uint8(rendered.image))
        opacities.append(rendered.opacity.cpu())
    line = torch.linspace(-EXTENT, EXTENT, config.resolution + 1, device=model.device)
    plane = torch.stack(torch.meshgrid(line, line, indexing="ij"), dim=-1).reshape(-1, 2)
    density = [
        model.field.density(torch.cat([x.expand(plane.shape[0], 1), plane], dim=-1)) for x in line
    ]
    return {
        "density": torch.stack(density).reshape(len(line), len(line), len(line)).cpu(),
        "images": torch.cat(images),
        "opacity": torch.cat(opacities),
        "background": backdrop(model),
        **with_prefix("field", model.field.body.state_dict()),
    }


@torch.no_grad()
def preview(model: CoarseModel, count: int = 4, resolution: int = 128) -> Tensor:
    """Lit views `[count, resolution, resolution, 3]` of the NeRF from around it."""
    return _look(model, orbit(count).to(model.device), resolution).image


@torch.no_grad()
def backdrop(model: CoarseModel) -> Tensor:
    """The mean colour `[3]` of the background over all directions."""
    cameras = sphere_views(64).to(model.device)
    axes = -cameras.position[:, None, None, :] / cameras.distance[:, None, None, None]
    return model.background(axes, random=False).mean(dim=(0, 1, 2)).cpu()


def _look(model: CoarseModel, cameras: Cameras, resolution: int) -> Rendered:
    """Lit views before white, for people."""
    lights = studio_lights(cameras, model.config.light)
    white = Background(BackgroundConfig(kind="solid", color=(1.0, 1.0, 1.0)))
    return render_views(
        model.field,
        white,
        model.occupancy,
        cameras,
        lights,
        resolution,
        training=False,
    )
