"""How many fronts an object has, by what its prior prefers to be told of its views.

A prior that takes a view from behind for one from the front grows a second face there (the "Janus
problem", Poole 2022, sec. 5). So it is asked, of four views around the object, whether being told
the view's own side or being told the front explains the view better: the condition under which it
predicts the added noise better (the diffusion classifier, Li 2023). A view that isn't the front
and is surely taken for it counts as another front.

Not every prior knows: what it is told may be the same all around, it may judge views together, or
its answer may hang on the noise. It knows the front where it surely prefers the front to the back
for the front view. Its own samples of the sides say how much it knows of them: one that it surely
takes for its own side; and a view counts only if it is preferred `STRONG` as much, so that neither
a taste for fronts, as models of the wide world have it, nor a shape that is yet to form makes one.
Else the verdict is that it can't be told, and why.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..losses.ddim import ddim_denoise
from ..priors.base import Condition
from ..scene.cameras import orbit
from .ask import Ask
from .conditions import Rows
from .judges import Views
from .score import ScoreDistillation
from .timesteps import share_to_timestep

VIEWS = orbit(4)
"""Front, left, back, right: what a verdict is of."""
FRONT, BACK = 0, 2
ALL = (0, 1, 2, 3)
_OTHER = (BACK, FRONT, FRONT, FRONT)  # what each view might be taken for
LEVELS, NOISES, SEED = (0.3, 0.5, 0.7), 2, 31
"""Shares of the prior's timesteps at which it is asked, how often at each, and of which noise."""
SURE = 0.003
"""Least mean difference of two errors, as a share of their mean, that counts."""
STRONG = 0.25
"""How much as strong as for the prior's own sample of a side a preference must be."""
_STEPS, _FROM, _SCALE = 20, 0.98, 7.5
"""Of DDIM for the prior's own samples: steps, the level they begin at, most guidance (what guides
a distillation, 100 say, makes no picture)."""


@dataclass(frozen=True)
class Verdict:
    """fronts: how many of four views are taken for the front; None where it can't be told.

    why: why it can't be told, or "".
    """

    fronts: int | None
    why: str = ""

    @property
    def many(self) -> bool:
        """Whether there is more than one front."""
        return self.fronts is not None and self.fronts > 1

    def __str__(self) -> str:
        if self.fronts is None:
            return f"can't tell how many fronts there are: {self.why}"
        return f"{self.fronts} of {len(VIEWS)} views are taken for the front"


@torch.no_grad()
def count_fronts(judge: ScoreDistillation, views: Views, step: int) -> Verdict:
    """How many fronts the object of `views`, which `VIEWS` took, has by the judge's prior.

    step: of the stage, for the guidance of the prior's own samples. Draws no random numbers of the
    run. Raises ValueError for views of another count.
    """
    if len(views.cameras) != len(VIEWS):
        raise ValueError(f"views: expected those of VIEWS, {len(VIEWS)}, got {len(views.cameras)}")
    if judge.group > 1:
        return Verdict(None, "the prior judges views together, not one by one")
    rows = judge.conditioner.rows(views.cameras)
    if _told_alike(rows.wanted):
        return Verdict(None, "the prior is told the same of every view")
    x = judge.prior.encode_image(views.image)
    front = _preference(judge, x, rows.wanted, (FRONT,))
    if not _sure(-front[:, 0]):
        return Verdict(None, "the prior doesn't know the front from the back here")
    preferred = torch.cat([front, _preference(judge, x, rows.wanted, (1, 2, 3))], dim=1)
    taken = [v for v in range(1, len(VIEWS)) if _sure(preferred[:, v])]
    if not taken:
        return Verdict(1)
    own = _preference(judge, _sampled(judge, x, rows, views, step), rows.wanted)
    if not all(_sure(-own[:, v]) for v in (FRONT, *taken)):
        return Verdict(None, "the prior takes its own views of other sides for the front")
    strong = (preferred.mean(dim=0).abs() >= STRONG * own.mean(dim=0).abs()).tolist()
    if not strong[FRONT]:
        return Verdict(None, "the front is yet to form")
    return Verdict(1 + sum(strong[v] for v in taken))


def _preference(
    judge: ScoreDistillation, x: Tensor, told: Condition, which: Sequence[int] = ALL
) -> Tensor:
    """By what share each view's other condition explains it better than its own, `[S, n]`.

    which: n of the views x `[4, ...]`. A sample is a noise level and a noise, the same for all
    views and for both conditions. The share is of the mean of both errors, in [-2, 2].
    """
    generator = torch.Generator().manual_seed(SEED)
    conditions = (told.select(which), told.select([_OTHER[view] for view in which]))
    x = x[list(which)]
    found = []
    for share in LEVELS:
        level = share_to_timestep(share, len(judge.prior.schedule))
        t = torch.full((len(x),), level, device=x.device)
        for _ in range(NOISES):
            noise = torch.randn(x.shape[1:], generator=generator).to(x).expand_as(x)
            x_t = judge.prior.schedule.add_noise(x, noise, t)
            own, other = (
                (judge.prior.predict_noise(x_t, t, c) - noise).float().square().flatten(1).mean(1)
                for c in conditions
            )
            found.append(2.0 * (own - other) / (own + other).clamp_min(1e-12))
    return torch.stack(found).cpu()


def _sure(preferred: Tensor) -> bool:
    """Whether a preference `[S]` is there in every sample, and more than a trace on the whole."""
    return bool((preferred > 0.0).all()) and float(preferred.mean()) > SURE


def _sampled(judge: ScoreDistillation, x: Tensor, rows: Rows, views: Views, step: int) -> Tensor:
    """What the prior itself makes of each view, like x, by DDIM under the step's guidance."""
    scale = min(judge.ask(rows, views, step).scale, _SCALE)
    ask = Ask(judge.prior, Rows(rows.wanted, rows.empty))
    level = share_to_timestep(_FROM, len(judge.prior.schedule))
    t = torch.full((len(x),), level, device=x.device)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(SEED)).to(x)
    return ddim_denoise(noise, t, _STEPS, scale, ask)


def _told_alike(told: Condition) -> bool:
    """Whether front and back are told the very same."""
    if told.cameras is not None or told.reference is not None:
        return False
    return all(torch.equal(v[FRONT], v[BACK]) for v in told.text.tensors.values())
