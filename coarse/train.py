"""The coarse stage: from a prompt to a scene by what its judges say, at low resolution."""

from __future__ import annotations

import torch

from ..common.config.models import CoarseConfig
from ..common.device import pick_device
from ..common.embedded.door import prior_digest
from ..common.guidance.prepare import prepare_judges
from ..common.runs.checkpoints import steps_on_disk
from ..common.runs.coarse_result import PREVIEW, coarse_origin, handed_off, write_result
from ..common.runs.failure import OnFailure, Watch
from ..common.runs.folder import Run
from ..common.runs.loop import Together, deterministic, train
from ..common.runs.origin import agree, finish
from ..common.runs.stage import COARSE
from ..common.scene.images import save_strip
from ..common.scene.views import sample_views
from .nerf import Nerf
from .scene import Scene


def make_scene(config: CoarseConfig, device: torch.device) -> Scene:
    """The scene that a configuration asks for; there is one kind so far."""
    return Nerf(config, device)


def run_coarse(run: Run, redo: bool = False, on_failure: OnFailure = "stop") -> None:
    """Train the coarse stage of a run to its end, going on from its last checkpoint.

    redo: whether a result that other settings made is put aside; else that raises UserError.
    on_failure: see `runs.failure`; raises its `FailedError` where the stage fails.
    """
    config = run.config.coarse
    origin = coarse_origin(run, prior_digest(config.prior, COARSE.space))
    newest = max(steps_on_disk(run.coarse), default=None)
    agree(run, run.coarse, "coarse", origin, redo, newest)
    if handed_off(run):
        return
    device = pick_device(run.config.device)
    deterministic(device)
    torch.manual_seed(run.config.seed)
    scene = make_scene(config, device)
    judges = prepare_judges(run, COARSE, device)
    learner = scene.learner()
    watch = Watch("coarse", config.steps, run.config.seed)

    def step(index: int) -> dict[str, float]:
        scene.prepare(index)
        cameras, lights = sample_views(
            config.camera, config.light, config.views, index, device, judges.group
        )
        views, own = scene.render(cameras, lights, index)
        with judges.memory_advice():
            judged = judges(views, index)
            loss = judged.loss + own
            learner.descend(loss, index, config.steps)
            judges.learn()
        watch.look(index, value := float(loss.detach()), views.image, views.opacity)
        return {"loss": value, **judged.watch}

    state = Together(learner, judges=judges)
    every, slow = config.checkpoint_every, learner.slow
    train(run, "coarse", run.coarse, state, config.steps, every, step, on_failure, slow)
    save_strip(scene.preview(), run.coarse / PREVIEW)
    write_result(run, scene.hand_off(run.config.handoff))
    finish(run.coarse, origin, PREVIEW)
