"""Steps of DDIM between noise levels, either way (Song 2021)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from ..guidance.ask import Ask, Base


def ddim_step(
    x_t: Tensor, eps: Tensor, here: tuple[Tensor, Tensor], there: tuple[Tensor, Tensor]
) -> Tensor:
    """One deterministic DDIM step between two noise levels, either way (Song 2021, eq. 12).

    here, there: (alpha, sigma), broadcast to `x_t` `[B, ...]`.
    """
    (alpha, sigma), (alpha_to, sigma_to) = here, there
    return alpha_to * (x_t - sigma * eps) / alpha + sigma_to * eps


def ddim_invert(
    x: Tensor, t: Tensor, steps: int, scale: float, ask: Ask, base: Base = "negative"
) -> Tensor:
    """x_t from a clean x by DDIM run backwards in equal steps of time (Song 2021).

    t: `[B]`, each row its own end. x is at alpha 1, sigma 0, where the prior is asked at timestep
    0. scale, base: of the guidance; see `Ask.guided`. Returns `[B, ...]` at the levels of t. Raises
    ValueError for steps < 1.
    """
    if steps < 1:
        raise ValueError(f"steps: expected at least 1, got {steps}")
    x_t, here = x, _clean(x)
    now = t.new_zeros(t.shape)
    for k in range(1, steps + 1):
        eps = ask.guided(x_t, now, scale, base)
        now = _part_way(t, k, steps)
        there = ask.levels(now, x)
        x_t, here = ddim_step(x_t, eps, here, there), there
    return x_t


def ddim_denoise(
    x_t: Tensor, t: Tensor, steps: int, scale: float, ask: Ask, first: Tensor | None = None
) -> Tensor:
    """The clean x that DDIM reaches from `x_t` in equal steps of time; one step is x0_hat.

    t: `[B]`; first: the guided noise at (x_t, t), if it is known already.
    Raises ValueError for steps < 1.
    """
    if steps < 1:
        raise ValueError(f"steps: expected at least 1, got {steps}")
    now, here = t, ask.levels(t, x_t)
    for k in range(steps - 1, -1, -1):
        eps = first if first is not None else ask.guided(x_t, now, scale)
        first = None
        now = _part_way(t, k, steps)
        there = ask.levels(now, x_t) if k else _clean(x_t)
        x_t, here = ddim_step(x_t, eps, here, there), there
    return x_t


def _clean(x: Tensor) -> tuple[Tensor, Tensor]:
    """alpha 1 and sigma 0."""
    like = x[:, :1]
    return like.new_ones(like.shape), like.new_zeros(like.shape)


def _part_way(t: Tensor, k: int, steps: int) -> Tensor:
    """The timestep nearest to t k / steps."""
    return (t * k + steps // 2) // steps
