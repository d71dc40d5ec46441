"""What a prior takes a view for: the diffusion classifier, said once for all who ask it.

A diffusion model finds the noise in a picture best if it is told the truth about it (Li 2023, "Your
diffusion model is secretly a zero-shot classifier"). So a view is noised, and denoised under each
of several conditions with the very same noise; the condition with the least error is what it shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..priors.base import Condition, Prior
from .timesteps import share_to_timestep

BATCH = 16
"""Most rows of one call of a prior."""


@torch.no_grad()
def noise_errors(
    prior: Prior, x: Tensor, noise: Tensor, share: float, conditions: Sequence[Condition]
) -> Tensor:
    """The mean squared error of a prior's noise under each condition, `[n, B]`, on the CPU.

    x: `[B, C, h, w]` of `encode_image`; noise: shaped like it, the same for all conditions.
    share: the noise level as a share of the timesteps. conditions: n, of B rows each, and alike in
    what they tell. Raises ValueError for another row count.
    """
    count = len(x)
    for condition in conditions:
        if len(condition) != count:
            raise ValueError(f"conditions: expected {count} rows, got {len(condition)}")
    level = share_to_timestep(share, len(prior.schedule))
    t = torch.full((count,), level, device=x.device)
    x_t = prior.schedule.add_noise(x, noise, t)
    whole = max(prior.group, BATCH - BATCH % prior.group)
    found = []
    for condition in conditions:
        for start in range(0, count, whole):
            rows = range(start, min(start + whole, count))
            part = slice(rows.start, rows.stop)
            eps = prior.predict_noise(x_t[part], t[part], condition.select(rows))
            found.append((eps - noise[part]).square().flatten(1).mean(dim=1).cpu())
    return torch.cat(found).reshape(len(conditions), count)


@dataclass(frozen=True)
class Opinion:
    """What a prior says of B views under n conditions, by draws of noise.

    errors: `[D, n, B]`, see `noise_errors`; a draw has one noise and one level.
    """

    errors: Tensor

    def margins(self, of: int, over: int) -> Tensor:
        """By how much one condition explains each view better than another, by draw, `[D, B]`.

        The logarithm of the errors' ratio, so that no level outweighs another: above 0 for `of`.
        """
        return self.errors[:, over].log() - self.errors[:, of].log()

    def likeliest(self) -> Tensor:
        """The condition that explains each view best, all draws together, int64 `[B]`."""
        return self.errors.log().mean(dim=0).argmin(dim=0)

    def evidence(self, of: int, over: int, trace: float = 0.0) -> Tensor:
        """How many standard errors the margin lies from 0, `[B]`; its sign says whose it is.

        Student's t over the draws, which are paired: what a noise does to both conditions is not
        in it. Without any spread it is infinite, and 0 where the margin isn't more than a trace.
        """
        margins = self.margins(of, over).double()
        spread = margins.std(dim=0) / len(margins) ** 0.5
        mean = margins.mean(dim=0)
        far = torch.where(spread > 0.0, mean / spread, mean.sign() * torch.inf)
        return far.where(mean.abs() > trace, 0.0)


def opinion(
    prior: Prior,
    x: Tensor,
    conditions: Sequence[Condition],
    levels: Sequence[float],
    draws: int = 1,
    seed: int = 0,
) -> Opinion:
    """A prior's errors under conditions at each level, with `draws` noises each.

    The noises depend on the seed and the shape of x alone, and draw nothing from the run's own.
    """
    generator = torch.Generator().manual_seed(seed)
    found = []
    for share in levels:
        for _ in range(draws):
            noise = torch.randn(x.shape, generator=generator).to(x)
            found.append(noise_errors(prior, x, noise, share, conditions))
    return Opinion(torch.stack(found))
