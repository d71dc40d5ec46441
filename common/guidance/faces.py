"""How many views from behind look like a front, by the prior's own preference: many faces, told.

A prior that reads the view as words is asked whether it finds a view from behind better explained
by the words for the front or by those for the back; one that is told the camera, whether by the
view's own or by the one that looks from the other side. Where the noises that it is asked with do
not agree, it can't tell. How often that is right is measured in `benchmarks/blind.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..config.scene import CameraConfig
from ..errors import UserError
from ..priors.base import Condition, Prior
from ..priors.joint_views import apart
from ..runs.folder import Run
from ..runs.progress import say
from ..runs.stage import Stage
from ..scene.cameras import Cameras
from .classify import Opinion, opinion
from .conditions import Conditioner
from .judges import Panel, Views
from .score import ScoreDistillation

Side = Literal["front", "back", "unsure"]
Look = Callable[[Cameras], Views]
EVENT = "seen from behind"
LOOKS = 8
BEHIND, HEIGHT = 120.0, 11.5
"""Azimuth from which on a view is one from behind, and its elevation, degrees."""
LEVELS, DRAWS = (0.2, 0.35, 0.5), 4
"""Noise levels at which the embedded prior knows most of the view, and noises at each."""
START_LEVELS, START_DRAWS, AROUND = (0.2, 0.35, 0.5, 0.7), 2, (-30.0, 0.0, 30.0)
"""The same for a first shape, and the azimuths about front and back that it is asked of."""
SURE, TRACE = 2.5, 5e-4
"""Standard errors that a preference must lie from none, and the share of an error that is one."""


@dataclass(frozen=True)
class Faces:
    """What a prior takes views from behind for, one after the other."""

    sides: tuple[Side, ...]

    @property
    def fronts(self) -> int:
        """Views that look like a front."""
        return self.sides.count("front")

    @property
    def unsure(self) -> int:
        """Views of which it can't tell."""
        return self.sides.count("unsure")

    @property
    def many(self) -> bool:
        """Whether there are several fronts: more than a quarter of the views look like one."""
        return 4 * self.fronts > len(self.sides)

    @property
    def told(self) -> str:
        """One line for the user."""
        looked = len(self.sides)
        if self.unsure == looked:
            return f"whether it looks like a front from behind: the prior can't tell ({looked})"
        rest = f", can't tell: {self.unsure}" if self.unsure else ""
        return f"looks like a front from behind: {self.fronts} of {looked}{rest}"


def cameras_behind(config: CameraConfig) -> Cameras:
    """`LOOKS` cameras spread over the back, at the middle of a stage's distances."""
    return _facing(config, *torch.linspace(BEHIND, 360.0 - BEHIND, LOOKS).tolist())


def _facing(config: CameraConfig, *degrees: float) -> Cameras:
    """Cameras at azimuths, all else at the middle of what a stage's views are drawn from."""
    low, high = config.elevation
    even = torch.ones(len(degrees))
    return Cameras(
        torch.deg2rad(torch.tensor(degrees)),
        math.radians(min(max(HEIGHT, low), high)) * even,
        0.5 * sum(config.distance) * even,
        math.radians(0.5 * sum(config.fovy)) * even,
    )


def front_evidence(
    prior: Prior,
    conditioner: Conditioner,
    views: Views,
    levels: tuple[float, ...] = LEVELS,
    draws: int = DRAWS,
) -> Tensor | None:
    """How surely a prior takes views from behind for fronts, in standard errors, `[B]`.

    Above 0 it prefers the front; see `classify.Opinion.evidence`. None if it is told the same of
    both sides, or denoises several views jointly, which then are no single ones.
    """
    conditions = own_and_other(conditioner, views.cameras)
    with apart(prior):
        if prior.group != 1 or conditions is None:
            return None
        return _asked(prior, views, conditions, levels, draws).evidence(1, 0, TRACE)


def told_apart(judge: ScoreDistillation, look: Look, config: CameraConfig) -> float | None:
    """How well a scene's front and back look like themselves, by its prior; None if it can't say.

    The mean margin of a view's own side over the other one, over views around the front and around
    the back, so that a taste for one of the words cancels. At the noise levels of a first shape.
    """
    cameras = _facing(config, *AROUND, *(180.0 + away for away in AROUND))
    views = look(cameras.to(_device(judge.prior)))
    conditions = own_and_other(judge.conditioner, views.cameras)
    with apart(judge.prior):
        if judge.prior.group != 1 or conditions is None:
            return None
        found = _asked(judge.prior, views, conditions, START_LEVELS, START_DRAWS)
    return float(found.margins(0, 1).mean())


def own_and_other(conditioner: Conditioner, cameras: Cameras) -> tuple[Condition, Condition] | None:
    """What a prior is told of cameras, and of those that look from the other side.

    A prior that reads words is told those for straight in front and straight behind. None if they
    are the same.
    """
    own = conditioner.rows(cameras).wanted
    if own.cameras is not None or own.reference is not None:
        return own, conditioner.rows(_turned(cameras, cameras.azimuth + math.pi)).wanted
    behind = torch.where(cameras.azimuth.cos() < 0.0, math.pi, 0.0)
    own = conditioner.rows(_turned(cameras, behind)).wanted
    other = conditioner.rows(_turned(cameras, math.pi - behind)).wanted
    return None if own.text.prompts == other.text.prompts else (own, other)


def sides_of(evidence: Tensor, sure: float = SURE) -> Faces:
    """What views are taken for by their evidence `[B]`."""
    return Faces(
        tuple("front" if e > sure else "back" if e < -sure else "unsure" for e in evidence.tolist())
    )


def faces_behind(judge: ScoreDistillation, look: Look, config: CameraConfig) -> Faces | None:
    """What a stage's prior takes a scene for as seen from behind; None if it can't be asked.

    look: gives views of the scene as the judge sees them; it draws no random numbers.
    """
    views = look(cameras_behind(config).to(_device(judge.prior)))
    evidence = front_evidence(judge.prior, judge.conditioner, views)
    return None if evidence is None else sides_of(evidence)


def tell_faces(run: Run, stage: Stage, judges: Panel, look: Look, step: int) -> Faces | None:
    """Ask a stage's prior at a step, from 1, say what it finds, and record it in the run's events.

    Only one that isn't told the camera, unless `look_behind` says so; None if it isn't asked, or
    can't be.
    """
    config = stage.config(run.config)
    judge = first_prior(judges)
    if judge is None or config.look_behind is False:
        return None
    told = judge.prior.takes_camera and config.prior.tell_camera
    if told and config.look_behind is None:
        return None
    try:
        with torch.no_grad(), torch.random.fork_rng([]):
            faces = faces_behind(judge, look, config.camera)
    except (RuntimeError, UserError) as error:  # a full GPU, say: a report ends no run
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        run.warn(f"nobody looked at the {stage.name} stage from behind: {reason}")
        return None
    if faces is None:
        return None
    run.event(
        EVENT,
        stage=stage.name,
        step=step,
        looked=len(faces.sides),
        fronts=faces.fronts,
        unsure=faces.unsure,
        sides=faces.sides,
        message=faces.told,
    )
    say(f"{stage.name}: {faces.told}", important=faces.many)
    return faces


def first_prior(judges: Panel) -> ScoreDistillation | None:
    """The diffusion prior among a stage's judges, if there is one."""
    found = judges.judges.get("prior")
    return found[0] if found is not None and isinstance(found[0], ScoreDistillation) else None


def _asked(
    prior: Prior,
    views: Views,
    conditions: tuple[Condition, Condition],
    levels: tuple[float, ...],
    draws: int,
) -> Opinion:
    with torch.no_grad():
        return opinion(prior, prior.encode_image(views.image), conditions, levels, draws)


def _turned(cameras: Cameras, azimuth: Tensor) -> Cameras:
    around = torch.remainder(azimuth, 2.0 * math.pi)
    return Cameras(around, cameras.elevation, cameras.distance, cameras.fovy)


def _device(prior: Prior) -> torch.device:
    device = getattr(prior, "device", None)
    return device if isinstance(device, torch.device) else torch.device("cpu")
