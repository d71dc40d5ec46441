"""What one step of a blind prior does with a face on the back, and with a back as it should be.

A whole run shows what a remedy does, and takes minutes; this shows in seconds what each way of
guiding asks for. A picture of the front is shown as if it were taken from behind, and the prior's
estimate x0 of the clean picture says where it wants to go: `pull = (x0 - f).(b - f) / |b - f|^2`
towards the true back b, and `drift`, the same from b towards the front f. What heals faces is a
pull that is larger than the drift; a whole step to the truth would be 1 and 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from results import table
from safetensors.torch import load_file, save_file
from torch import Tensor

from maquette.common.config.priors import PriorConfig
from maquette.common.config.prompts import PromptConfig
from maquette.common.embedded.door import load
from maquette.common.guidance.ask import Ask
from maquette.common.guidance.conditions import TextConditioner
from maquette.common.guidance.prompts import ViewPrompts
from maquette.common.guidance.timesteps import share_to_timestep
from maquette.common.priors.base import Prior
from maquette.common.runs.folder import slug
from maquette.common.scene.cameras import Cameras
from maquette.common.toybox.objects import build
from maquette.common.toybox.studio import photograph

LEVELS = (0.3, 0.5, 0.7, 0.9)
AZIMUTHS = (150.0, 180.0)
PLAIN = PromptConfig()


@dataclass(frozen=True)
class Way:
    """How a prior is guided. told: whether it is told the camera, which no blind one is."""

    text: PromptConfig = PLAIN
    scale: float = 2.0
    told: bool = False


WAYS: dict[str, Way] = {
    "told the camera (the ceiling)": Way(told=True),
    "no words for the view": Way(PromptConfig(view_dependent=False)),
    "view words": Way(),
    "view words, scale 5": Way(scale=5.0),
    "smooth words": Way(PromptConfig(interpolate=True)),
    "perp-neg": Way(PromptConfig(perp_neg=True)),
    "negative: the front's words": Way(PromptConfig(negative="front view")),
    "view guidance 2": Way(PromptConfig(view_guidance=2.0)),
    "view guidance 5": Way(PromptConfig(view_guidance=5.0)),
    "view guidance 20": Way(PromptConfig(view_guidance=20.0)),
}


@torch.no_grad()
def pulls(captions: Sequence[str], folder: Path) -> str:
    """A table: a way of guiding a row, pull and drift by noise level, and pull less drift.

    What was found is kept in a folder, so that a second call goes on where the first one stopped.
    """
    prior = load(PriorConfig(name="toybox-pixel"))
    found = {name: torch.zeros(2, len(LEVELS)) for name in WAYS}
    for caption in captions:
        behind = _cameras(AZIMUTHS)
        pictures = [photograph(build(caption), c, 64) for c in (_turned(behind), behind)]
        front, back = (prior.encode_image(picture) for picture in pictures)
        for name, way in WAYS.items():
            path = folder / f"{slug(caption)}-{slug(name)}.safetensors"
            if not path.is_file():
                path.parent.mkdir(parents=True, exist_ok=True)
                shares = _both(prior, caption, way, behind, front, back)
                save_file({"shares": shares}, path)
            found[name] += load_file(path)["shares"] / len(captions)
        print(caption, flush=True)
    rows = []
    for name, (pull, drift) in found.items():
        by_level = [
            f"{p:.3f} / {d:.3f}" for p, d in zip(pull.tolist(), drift.tolist(), strict=True)
        ]
        rows.append([name, *by_level, f"{float((pull - drift).mean()):+.3f}"])
    header = ["guided by", *(f"pull / drift at {level:g}" for level in LEVELS), "pull - drift"]
    return table(header, rows)


def _both(
    prior: Prior, caption: str, way: Way, cameras: Cameras, front: Tensor, back: Tensor
) -> Tensor:
    """Pull and drift by level, `[2, L]`, means over views and two noises."""
    text = way.text
    if text.negative:
        text = text.model_copy(update={"negative": f"{caption}, {text.negative}"})
    prompts = ViewPrompts.encode(prior, caption, text, told=way.told)
    rows = TextConditioner(prompts, way.told, text.perp_neg).rows(cameras)
    ask, generator = Ask(prior, rows, way.scale), torch.Generator().manual_seed(0)
    found = torch.zeros(2, len(LEVELS))
    for i, level in enumerate(LEVELS):
        t = torch.full((len(front),), share_to_timestep(level, len(prior.schedule)))
        alpha, sigma = prior.schedule.at(t)
        noise = torch.randn(front.shape, generator=generator)
        for which, (x, goal) in enumerate(((front, back), (back, front))):
            for eps in (noise, -noise):
                x_t = alpha * x + sigma * eps
                x0 = (x_t - sigma * ask.guided(x_t, t, way.scale)) / alpha
                way_to = (goal - x).flatten(1)
                share = ((x0 - x).flatten(1) * way_to).sum(1) / way_to.square().sum(1)
                found[which, i] += 0.5 * float(share.mean())
    return found


def _cameras(degrees: Sequence[float]) -> Cameras:
    even = torch.ones(len(degrees))
    azimuth = torch.deg2rad(torch.tensor(degrees))
    return Cameras(azimuth, 0.2 * even, 3.0 * even, math.radians(40.0) * even)


def _turned(cameras: Cameras) -> Cameras:
    azimuth = torch.remainder(cameras.azimuth + math.pi, 2.0 * math.pi)
    return Cameras(azimuth, cameras.elevation, cameras.distance, cameras.fovy)
