"""What changes over a run: numbers, or straight lines between [step, value] pairs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

Schedule = float | Sequence[tuple[float, float]]
"""A number, or [step, value] pairs joined by straight lines and constant outside them."""


def step_schedule(points: Schedule, step: int) -> float:
    """The value of a schedule at a step: `[[0, 10], [5000, 1000]]` goes from 10 to 1000.

    points: a number, or pairs with strictly growing steps. Before the first pair and after the last
    one the value stays. Raises ValueError for no pairs, or steps that do not grow.
    """
    if isinstance(points, int | float):
        return float(points)
    if len(points) == 0:
        raise ValueError("points: expected a number or at least one [step, value] pair, got none")
    steps = [float(s) for s, _ in points]
    if any(b <= a for a, b in itertools.pairwise(steps)):
        raise ValueError(f"points: expected strictly growing steps, got {steps}")
    if step <= steps[0]:
        return float(points[0][1])
    for (s0, v0), (s1, v1) in itertools.pairwise(points):
        if step < s1:
            return float(v0 + (v1 - v0) * (step - s0) / (s1 - s0))
    return float(points[-1][1])


def timestep_range(t_min: Schedule, t_max: Schedule, step: int) -> tuple[float, float]:
    """The shares of T between which a step draws its timesteps.

    Raises ValueError unless 0 <= t_min <= t_max <= 1 at that step.
    """
    low, high = step_schedule(t_min, step), step_schedule(t_max, step)
    if not 0.0 <= low <= high <= 1.0:
        raise ValueError(
            f"t_min, t_max: expected 0 <= t_min <= t_max <= 1, got {low} and {high} at step {step}"
        )
    return low, high
