"""A diffusion prior as the judge: from rendered views to its opinion as a gradient."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Literal, assert_never

import torch
from torch import Tensor

from .. import ranks
from ..device import send, shown
from ..errors import UserError
from ..losses import Distillation
from ..options import steps_of
from ..priors.base import Prior
from ..priors.camera_features import at_grid
from ..schedules import step_schedule, timestep_range
from .ask import Ask
from .conditions import Conditioner, Rows
from .critic import Critic
from .judges import Judged, Views
from .noises import Noises
from .timesteps import (
    dreamtime_timesteps,
    sample_timesteps,
    share_to_timestep,
    sqrt_annealing,
)


@dataclass(frozen=True)
class _Seen:
    """What the critic is to learn from."""

    x: Tensor
    rows: Rows
    views: Views


class ScoreDistillation:
    """A prior, what it is told of each view, and a distillation loss, as a `Judge`.

    What it learns, if anything, is VSD's critic.
    """

    def __init__(
        self,
        prior: Prior,
        conditioner: Conditioner,
        loss: Distillation,
        steps: int,
        critic: Critic | None = None,
    ) -> None:
        """steps: of the stage, for schedules over its whole length. critic: needed by VSD alone.

        Raises UserError for noise levels that the prior doesn't have, or the loss can't take.
        """
        self.prior, self.conditioner, self.loss, self.steps = prior, conditioner, loss, steps
        self.critic, self.group = critic, prior.group
        self._seen: _Seen | None = None
        self._latest: int | None = None
        self._noises = Noises(loss.noise_of)
        self._check_levels()
        self._falling = self._dreamtime() if loss.timesteps == "dreamtime" else None

    def __call__(self, views: Views, step: int) -> Judged:
        """The loss whose gradient is the distillation gradient, per view.

        What there is to watch is the gradient's root mean square in the model's own space; one in
        pixels is not in it.
        """
        x = self.prior.encode_image(views.image)
        count = x.shape[0]
        t, latest = self.timesteps(step, count), self._latest
        t = send(t, x.device)
        noise = self._noises(x.shape).to(x, non_blocking=True)
        rows = self.rows(views, x)
        gradient = self.gradient(x, views, t, noise, rows, step, latest)
        terms = [(x, gradient[0])]
        if gradient[1] is not None:
            terms.append((views.image, gradient[1]))
        if self.critic is not None:
            self._seen = _Seen(x.detach(), rows, views)
        loss = torch.stack([(value * wanted).sum() for value, wanted in terms]).sum() / count
        return Judged(loss, {"gradient": shown(gradient[0].pow(2).mean().sqrt())})

    def rows(self, views: Views, x: Tensor) -> Rows:
        """The conditions of views whose images are `x` to the prior, told what it takes of them."""
        rows = self.conditioner.rows(views.cameras)
        if views.surface is not None and self.prior.takes_surface:
            rows = rows.on(at_grid(views.surface, *x.shape[-2:]))
        if views.skies is not None and self.prior.takes_skies:
            rows = rows.under(views.skies)
        return rows

    @torch.no_grad()
    def gradient(
        self,
        x: Tensor,
        views: Views,
        t: Tensor,
        noise: Tensor,
        rows: Rows,
        step: int,
        latest: int | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """The loss's gradient with respect to x and, if it has one, to the image; both clipped."""
        ask = replace(self.ask(rows, views, step), latest=latest)
        found = self.loss.gradient(x.detach(), views.image.detach(), t, noise, ask)
        limit = None if self.loss.clip is None else step_schedule(self.loss.clip, step)
        in_x = clip_gradient(found.x, limit, self.loss.clip_by)
        if found.image is None:
            return in_x, None
        return in_x, clip_gradient(found.image, limit, self.loss.clip_by)

    def ask(self, rows: Rows, views: Views, step: int) -> Ask:
        """What the loss may ask at `step` about views with these rows."""

        def speaking(x_t: Tensor, t: Tensor) -> Tensor:
            assert self.critic is not None
            return self.critic.predict_noise(x_t, t, rows.wanted, views.cameras)

        def untold(x_t: Tensor, t: Tensor) -> Tensor:
            assert self.critic is not None
            return self.critic.predict_noise(x_t, t, replace(rows.wanted, cameras=None), None)

        return Ask(
            prior=self.prior,
            rows=rows,
            scale=step_schedule(self.loss.guidance_scale, step),
            kind=self.loss.weight,
            step=step,
            progress=min(1.0, step / max(1, self.steps - 1)),
            critic=None if self.critic is None else speaking,
            untold_critic=None if self.critic is None else untold,
        )

    def learn(self) -> None:
        """Let the critic learn from the views judged last (Wang 2023, alg. 1)."""
        if self.critic is not None and self._seen is not None:
            seen, self._seen = self._seen, None
            self.critic.update(
                seen.x, seen.rows.wanted, seen.views.cameras, torch.default_generator
            )

    def timesteps(self, step: int, count: int) -> Tensor:
        """The timesteps `[count]` of a step, on the CPU: drawn, or one that falls over the run.

        Views that the prior denoises jointly share one.
        """
        loss, total = self.loss, len(self.prior.schedule)
        low, high = timestep_range(loss.t_min, loss.t_max, step)
        match loss.timesteps:
            case "uniform":
                t = ranks.drawn(
                    lambda groups: self._noted(
                        sample_timesteps(total, low, high, groups, torch.default_generator)
                    ),
                    count // self.group,
                )
                return t.repeat_interleave(self.group)
            case "sqrt":
                end = min(loss.sqrt_end, high)
                share = max(low, sqrt_annealing(step, self.steps, start=high, end=end))
                return self._noted(torch.full((count,), share_to_timestep(share, total)))
            case "dreamtime":
                assert self._falling is not None
                return self._noted(self._falling[step].expand(count))
            case _:
                assert_never(loss.timesteps)

    def _noted(self, t: Tensor) -> Tensor:
        """Timesteps of all processes' views, the latest of which is remembered."""
        self._latest = int(t.max())
        return t

    def memory_advice(self) -> AbstractContextManager[None]:
        """The prior's advice on memory."""
        return self.prior.memory_advice()

    def tensors(self) -> dict[str, Tensor]:
        """The state of the critic; empty without one."""
        return {} if self.critic is None else self.critic.tensors()

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` gave; the checkpoint before the first step has nothing."""
        if self.critic is not None and tensors:
            self.critic.load(tensors)

    def _check_levels(self) -> None:
        """Refuse levels without signal to losses and weights that divide by it."""
        loss, schedule = self.loss, self.prior.schedule
        if not (loss.needs_signal or loss.weight == "signal"):
            return
        highest = max(step_schedule(loss.t_max, step) for step in steps_of(loss.t_max))
        level = share_to_timestep(highest, len(schedule))
        if float(schedule.alpha[level]) <= 0.0:
            who = loss.loss if loss.needs_signal else f"weight {loss.weight}"
            raise UserError(
                f"distillation.t_max: at {highest:g} this prior's images hold no signal, by which "
                f"{who} divides; give a lower t_max, such as 0.98"
            )

    def _dreamtime(self) -> Tensor:
        low, high = timestep_range(self.loss.t_min, self.loss.t_max, 0)
        try:
            return dreamtime_timesteps(self.prior.schedule, self.steps, low, high)
        except ValueError as error:
            raise UserError(f"distillation.timesteps: DreamTime cannot use {error}") from None


def clip_gradient(
    gradient: Tensor, limit: float | None, by: Literal["value", "norm"] = "norm"
) -> Tensor:
    """A distillation gradient `[B, ...]` held under a limit; None leaves it as it is.

    "norm": a sample whose root mean square over its elements exceeds the limit is scaled down to
    it, direction kept; the limit does not depend on the resolution. "value": every element is
    clamped to [-limit, limit]. Raises ValueError for limit <= 0.
    """
    if limit is None:
        return gradient
    if limit <= 0:
        raise ValueError(f"limit: expected a positive number, got {limit}")
    match by:
        case "value":
            return gradient.clamp(-limit, limit)
        case "norm":
            dims = tuple(range(1, gradient.ndim))
            rms = gradient.square().mean(dim=dims, keepdim=True).sqrt()
            return gradient * (limit / rms.clamp(min=limit))
        case _:
            assert_never(by)
