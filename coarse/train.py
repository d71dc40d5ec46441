"""The coarse stage: from a prompt to a scene by what its judges say, at low resolution."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch

from ..common import ranks
from ..common.config.models import CoarseConfig
from ..common.device import Number, shown
from ..common.embedded.door import prior_digest
from ..common.guidance.faces import first_prior, told_apart
from ..common.guidance.judges import Panel
from ..common.guidance.prepare import prepare_judges
from ..common.runs.checkpoints import steps_on_disk
from ..common.runs.coarse_result import (
    PREVIEW,
    coarse_origin,
    handed_off,
    is_cleaned,
    write_result,
)
from ..common.runs.failure import OnFailure, Watch, teller
from ..common.runs.folder import Run
from ..common.runs.loop import Hooks, Learner, Together, begin_on, looks, train
from ..common.runs.origin import agree, finish
from ..common.runs.stage import COARSE
from ..common.scene.images import save_strip
from ..common.scene.views import sample_views
from ..common.watch.ends import picture_end
from ..common.watch.fronts import FrontWatch
from ..common.watch.growth import watching_growth
from .nerf import Nerf
from .scene import Scene
from .starts import Start, begin_with_the_best


def make_scene(config: CoarseConfig, device: torch.device) -> Scene:
    """The scene that a configuration asks for; there is one kind so far."""
    return Nerf(config, device)


def run_coarse(run: Run, redo: bool = False, on_failure: OnFailure = "auto") -> None:
    """Train the coarse stage of a run to its end, going on from its last checkpoint.

    redo: whether a result that other settings made is put aside; else that raises UserError.
    on_failure: see `runs.failure`; raises its `FailedError` where the stage fails.
    """
    config = run.config.coarse
    if is_cleaned(run):
        return  # what it was made of is gone with it
    origin = coarse_origin(run, prior_digest(config.prior, COARSE.space))
    newest = max(steps_on_disk(run.coarse), default=None)
    if ranks.now().first:
        agree(run, run.coarse, "coarse", origin, redo, newest)
    ranks.wait()
    if handed_off(run):
        return
    device = begin_on(run)
    torch.manual_seed(run.config.seed)
    judges = prepare_judges(run, COARSE, device)
    begin_with_the_best(run, config.starts, lambda: _start(config, device, judges))
    scene = make_scene(config, device)
    learner = scene.learner()
    watch = Watch("coarse", config.steps, run.config.seed, teller(run, on_failure))
    fronts = FrontWatch(run, COARSE, judges, watch, scene.judged)
    step = _stepping(config, scene, learner, judges, watch, fronts)
    state = Together(learner, judges=judges)
    with watching_growth(run, COARSE).shows(scene, judges) as growth:
        hooks = Hooks(growth, learner.check, learner.slow, on_failure)
        every = config.checkpoint_every
        train(run, "coarse", run.coarse, state, config.steps, every, step, hooks)
    if ranks.now().first:
        save_strip(scene.preview(), run.coarse / PREVIEW)
        picture_end(run.coarse, scene, 96)
        write_result(run, scene.hand_off(run.config.handoff))
        finish(run.coarse, origin, PREVIEW)
    ranks.wait()


def _stepping(
    config: CoarseConfig,
    scene: Scene,
    learner: Learner,
    judges: Panel,
    watch: Watch | None = None,
    fronts: FrontWatch | None = None,
) -> Callable[[int], dict[str, Number]]:
    """What takes a step of a scene, and gives the numbers to show.

    watch, fronts: look on, if any.
    """

    def step(index: int) -> dict[str, Number]:
        device = scene.device
        with judges.memory_advice():
            scene.prepare(index)
        cameras, lights = sample_views(
            config.camera, config.light, config.views, index, device, judges.group
        )
        with learner.step(device), judges.memory_advice():
            views, own = scene.render(cameras, lights, index)
            judged = judges(views, index)
            loss = judged.loss + own
            learner.descend(loss, index, config.steps)
            judges.learn()
        value = shown(loss)
        if watch is not None and looks(index, device):
            watch.look(index, float(value), views.image, views.opacity)
        if fronts is not None:
            with judges.memory_advice():
                fronts.look(index)
        return {"loss": value, **judged.watch}

    return step


def _start(config: CoarseConfig, device: torch.device, judges: Panel) -> Start:
    """A scene that begins, scored by how the prior tells its front and back apart."""
    scene = make_scene(config, device)
    learner = scene.learner()

    def score() -> float:
        judge = first_prior(judges)
        look = functools.partial(scene.judged, step=config.starts.steps)
        found = None if judge is None else told_apart(judge, look, config.camera)
        return 0.0 if found is None else found

    step = _stepping(config, scene, learner, judges)
    return Start(Together(learner, judges=judges), step, score)
