"""What a distillation loss may ask of a prior: the oracle of one step.

It knows the batch's conditions, the step's guidance scale and the critic, if there is one; a loss
knows none of them, and no kind of prior.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ..losses.base import WeightKind, weight
from ..priors.base import Condition, Prior
from ..priors.noise import NoiseSchedule
from .conditions import RowName, Rows
from .mixing import classifier_free, perp_neg_direction

Base = Literal["negative", "empty"]
Noises = dict[str, Tensor]
"""The noise under each condition that was asked for, by its name."""


@dataclass(frozen=True)
class Ask:
    """The questions of one step about B views.

    rows: the conditions. scale, kind: guidance scale and w(t) of the step. step, progress: number
    of the step, and the share of the stage that lies behind. critic: VSD's model of the renders, as
    a function of x_t and t. untold_critic: the same without being told the camera. latest: the
    latest timestep of the step's views, those of other processes too, where it is known without a
    look at a device.
    """

    prior: Prior
    rows: Rows
    scale: float = 1.0
    kind: WeightKind = "sigma2"
    step: int = 0
    progress: float = 0.0
    critic: Callable[[Tensor, Tensor], Tensor] | None = None
    untold_critic: Callable[[Tensor, Tensor], Tensor] | None = None
    latest: int | None = None

    def latest_of(self, t: Tensor) -> int:
        """The latest of the step's timesteps, of which `t` `[B]` are these views'."""
        return int(t.max()) if self.latest is None else self.latest

    @property
    def schedule(self) -> NoiseSchedule:
        """The prior's noise levels."""
        return self.prior.schedule

    @property
    def has_negative(self) -> bool:
        """Whether there is a negative prompt."""
        return self.rows.negative is not None

    def levels(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """alpha_t and sigma_t `[B, 1, ...]` in the dtype of x."""
        alpha, sigma = self.schedule.at(t, x.ndim)
        return alpha.to(x), sigma.to(x)

    def add_noise(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The noised `x_t` of `x` and `noise` (`[B, ...]`) at timesteps `t` `[B]`."""
        return self.schedule.add_noise(x, noise, t)

    def weight(self, t: Tensor, x: Tensor) -> Tensor:
        """w(t) of the step's kind, `[B, 1, ...]`."""
        return weight(self.kind, *self.levels(t, x))

    def noise(self, x_t: Tensor, t: Tensor, *names: RowName) -> Noises:
        """The noise seen in the same `x_t` under each of the named conditions, in one call.

        A negative that isn't there is left out. If two conditions or more are asked for, what else
        guidance needs comes along: where views are pushed away from something, the noise under that
        as "repelled", `[n, B, ...]`, and "viewless" where the view's words are guided on their own.
        Raises ValueError for a wrong row count.
        """
        asked: list[RowName] = [n for n in names if n != "negative" or self.has_negative]
        if len(asked) > 1 and self.rows.viewless is not None:
            asked.append("viewless")
        conditions = [self.rows[name] for name in asked]
        pushed = self.rows.repelled if len(asked) > 1 else ()
        found = self._predict(x_t, t, [*conditions, *pushed])
        noises = dict(zip(asked, found, strict=False))
        return {**noises, "repelled": torch.stack(found[len(asked) :])} if pushed else {**noises}

    def direction(self, noises: Noises, base: Tensor) -> Tensor:
        """The way of guidance from `base`: `e_y - base`, and what views add to it.

        Perp-Neg's push, and `v (e_y - e_y')` with e_y' the noise under the text that names no view:
        guidance by the view's words on their own, as Liu 2022 (eq. 11) composes concepts.
        noises: of `noise`, "wanted" among them.
        """
        way = noises["wanted"] - base
        if "repelled" in noises and self.rows.weights is not None:
            weights = self.rows.weights.to(base)
            way = perp_neg_direction(base, noises["wanted"], noises["repelled"], weights)
        if "viewless" in noises:
            way = way + self.rows.view_scale * (noises["wanted"] - noises["viewless"])
        return way

    def guided(self, x_t: Tensor, t: Tensor, scale: float, base: Base = "negative") -> Tensor:
        """The guided noise e^s in `x_t`: the one way in which losses combine predictions.

        Plain guidance, or Perp-Neg if the rows have something to push away from. base: what takes
        the place of e_0, the negative prompt where there is one, or the empty one in any case.
        Conditions whose share is zero (e_0 at scale 1, e_y at scale 0) are not computed.
        """
        name: RowName = base if base == "empty" or self.has_negative else "empty"
        guided_by_views = bool(self.rows.repelled) or self.rows.viewless is not None
        if scale == 1.0 and not guided_by_views:
            return self.noise(x_t, t, "wanted")["wanted"]
        if scale == 0.0:
            return self.noise(x_t, t, name)[name]
        e = self.noise(x_t, t, name, "wanted")
        if not guided_by_views:
            return classifier_free(e[name], e["wanted"], scale)
        return e[name] + scale * self.direction(e, e[name])

    def critic_noise(self, x_t: Tensor, t: Tensor) -> Tensor:
        """The critic's noise for the views. Raises ValueError without a critic."""
        if self.critic is None:
            raise ValueError("critic: VSD needs a model of the renders, got None")
        return self.critic(x_t, t)

    def untold_critic_noise(self, x_t: Tensor, t: Tensor) -> Tensor:
        """The noise of a critic that isn't told the camera. Raises ValueError without one."""
        if self.untold_critic is None:
            raise ValueError("untold_critic: ESD needs a model of all views together, got None")
        return self.untold_critic(x_t, t)

    def decoded(self, x: Tensor, like: Tensor) -> Tensor | None:
        """The image that x stands for, at the size of `like` `[B, H, W, 3]`, in [0, 1].

        Outside the autograd graph; None where nothing decodes.
        """
        image = self.prior.decode_image(x)
        if image is None or image.shape == like.shape:
            return image
        size = (like.shape[1], like.shape[2])
        pixels = F.interpolate(image.permute(0, 3, 1, 2), size, mode="bilinear", antialias=True)
        return pixels.permute(0, 2, 3, 1)

    def _predict(self, x_t: Tensor, t: Tensor, conditions: list[Condition]) -> list[Tensor]:
        batch, count = x_t.shape[0], len(conditions)
        for condition in conditions:
            if len(condition) != batch:
                raise ValueError(f"rows: expected {batch} of each condition, got {len(condition)}")
        found: list[Tensor | None] = [None] * count
        for members in _told_alike(conditions):
            stacked = x_t.repeat(len(members), *(1,) * (x_t.ndim - 1))
            together = Condition.cat([conditions[i] for i in members])
            eps = self.prior.predict_noise(stacked, t.repeat(len(members)), together)
            for i, part in zip(members, eps.chunk(len(members)), strict=True):
                found[i] = part
        return [part for part in found if part is not None]


def _told_alike(conditions: list[Condition]) -> list[list[int]]:
    """Which conditions tell the same things, a picture say, and so go into one call."""
    groups: dict[tuple[bool, ...], list[int]] = {}
    for index, c in enumerate(conditions):
        told = tuple(x is not None for x in (c.cameras, c.reference, c.surface, c.skies))
        groups.setdefault(told, []).append(index)
    return list(groups.values())
