"""How well a prior, or CLIP, finds a finished run's views to match its prompt."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ...fine.first_shape import read_first
from ...fine.pictures import Pictured
from ...fine.train import load_finished
from ..config.judges import ClipConfig
from ..device import pick_device
from ..guidance.ask import Ask
from ..guidance.away import Away
from ..guidance.clip import ClipJudge
from ..guidance.faces import first_prior
from ..guidance.judges import Panel
from ..guidance.prepare import prepare_judges
from ..guidance.timesteps import share_to_timestep
from ..runs.folder import Run
from ..runs.stage import FINE
from ..scene.cameras import orbit

LEVELS = (0.2, 0.4, 0.6)
"""Shares of the prior's timesteps at which it is asked."""
VIEWS, SEED = 4, 11


@torch.no_grad()
def preference(run: Run) -> float | None:
    """By what share the prompt explains a run's views better than no prompt does, by its prior.

    The mean over views and noise levels of `1 - |e_y - e|^2 / |e_0 - e|^2`, with e the noise that
    was added: the diffusion classifier's evidence (Li 2023, eq. 5) as a ratio, so that no level
    outweighs another. Above 0 the views look like the prompt; at most 1. None if the run has no
    prior. Noise, views and levels are the same for every run, so that runs can be ranked by it.
    """
    device = pick_device(run.config.device)
    judges: Panel = prepare_judges(run, FINE, device)
    first = judges.judges.get("prior", (None,))[0]
    if isinstance(first, Away):
        device = first.device
    judge = first.judge if isinstance(first, Away) else first_prior(judges)
    if judge is None:
        return None
    cameras = orbit(math.lcm(VIEWS, judge.group))
    views = subject_of(run).judged(cameras, run.config.fine.steps)
    rows = judge.conditioner.rows(cameras.to(device))
    ask = judge.ask(rows, views, run.config.fine.steps - 1)
    return evidence(ask, judge.prior.encode_image(views.image.to(device)))


def evidence(ask: Ask, x: Tensor, levels: Sequence[float] = LEVELS) -> float:
    """The mean of `1 - |e_y - e|^2 / |e_0 - e|^2` over x `[B, C, h, w]` and noise levels."""
    generator = torch.Generator().manual_seed(SEED)
    found = []
    for share in levels:
        noise = torch.randn(x.shape, generator=generator).to(x)
        t = torch.full((len(x),), share_to_timestep(share, len(ask.schedule)), device=x.device)
        seen = ask.noise(ask.add_noise(x, noise, t), t, "wanted", "empty")
        wanted, empty = (
            (seen[name] - noise).square().flatten(1).mean(dim=1) for name in ("wanted", "empty")
        )
        found.append(1.0 - wanted / empty.clamp_min(1e-12))
    return float(torch.stack(found).mean())


@torch.no_grad()
def clip_similarity(run: Run, folder: str) -> float:
    """The mean cosine of a run's views and its prompt by a CLIP model in a folder, in [-1, 1].

    Raises UserError for a folder that holds no CLIP model.
    """
    config = ClipConfig(model=folder)
    judge = ClipJudge.of_model(config, run.config.fine_prompt, torch.device("cpu"))
    look = subject_of(run).pictured(orbit(VIEWS), judge.side)
    seen = judge.encode(look.color.permute(0, 3, 1, 2))
    return float((F.normalize(seen, dim=-1) @ judge.text).mean())


def subject_of(run: Run) -> Pictured:
    """A finished run's model, on the CPU, to be looked at."""
    background = read_first(run.fine).background
    return Pictured(load_finished(run), run.config.fine, background)
