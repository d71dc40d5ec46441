"""What a diffusion prior wants to see: its one-step guess of the clean view behind a noised one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..schedules import timestep_range
from .judges import Views
from .score import ScoreDistillation
from .timesteps import share_to_timestep

SEED = 20


@torch.no_grad()
def wanted_views(judge: ScoreDistillation, views: Views, step: int) -> Tensor | None:
    """What the prior makes of views at a step, `[B, H, W, 3]` in [0, 1]: decoded x0, or None.

    x0 = (x_t - sigma_t e^s) / alpha_t (Ho 2020, eq. 15) at the middle of the step's noise levels
    and the step's guidance scale, of noise that is the same every time. None where no image comes
    back from the model's space, and for a count of views that it doesn't denoise together.

    Draws no random numbers of the run.
    """
    if len(views.cameras) % judge.group:
        return None
    x = one_by_one(judge.prior.encode_image, views.image)
    assert x is not None
    generator = torch.Generator().manual_seed(SEED)
    noise = torch.randn(x.shape, generator=generator).to(x)
    low, high = timestep_range(judge.loss.t_min, judge.loss.t_max, step)
    level = share_to_timestep((low + high) / 2, len(judge.prior.schedule))
    t = torch.full((x.shape[0],), level, device=x.device)
    ask = judge.ask(judge.rows(views, x), views, step)
    alpha, sigma = ask.levels(t, x)
    x_t = ask.add_noise(x, noise, t)
    found = (x_t - sigma * ask.guided(x_t, t, ask.scale)) / alpha
    if judge.prior.space == "pixel":
        return (0.5 * found + 0.5).clamp(0.0, 1.0).permute(0, 2, 3, 1)
    return one_by_one(judge.prior.decode_image, found)


def one_by_one(call: Callable[[Tensor], Tensor | None], rows: Tensor) -> Tensor | None:
    """`call` of each row `[B, ...]` alone, together again; None as soon as one has no answer.

    An autoencoder takes little memory so, and on a CPU little more than half the time.
    """
    found = []
    for row in rows.split(1):
        answer = call(row)
        if answer is None:
            return None
        found.append(answer)
    return torch.cat(found)
