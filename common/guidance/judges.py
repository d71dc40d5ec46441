"""What a judge is, and several of them as one.

A judge turns views into a gradient: a diffusion prior through a distillation loss, CLIP, a picture
that one view must match. A stage takes a weighted list of them and knows none by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from ..device import Number
from ..errors import UserError
from ..light.skies import Skies
from ..options import Schedule
from ..runs.checkpoints import under_prefix, with_prefix
from ..scene.cameras import Cameras
from ..schedules import step_schedule


@dataclass(frozen=True)
class Views:
    """Rendered views of a scene, differentiable.

    image: `[B, H, W, 3]` in [0, 1]. cameras: B. backdrop: what is seen where the object doesn't
    stop the view, `[3]` or `[B, H, W, 3]`. coverage: gives the opacity; it is asked once, and only
    if a judge wants to know. surface: what the views see of a surface that is being painted,
    `[B, H, W, 7]` (`rasterize.surface_image`); None while its shape is still at stake, or a prior
    that is told it would take any shape for the right one. geometry: gives how far away along the
    camera's axis what is seen lies, `[B, H, W]`, and its normals in the world, `[B, H, W, 3]`, both
    of some value where nothing is. look: renders the same scene, differentiably, from other cameras
    at a resolution, as a picture of it is lit at this step. skies: what lights the views, if skies
    do.
    """

    image: Tensor
    cameras: Cameras
    backdrop: Tensor
    coverage: Callable[[], Tensor]
    surface: Tensor | None = None
    geometry: Callable[[], tuple[Tensor, Tensor]] | None = None
    look: Callable[[Cameras, int], Views] | None = None
    skies: Skies | None = None

    @cached_property
    def opacity(self) -> Tensor:
        """How much of each pixel the object covers, `[B, H, W]` in [0, 1]."""
        return self.coverage()

    def before(self, backdrop: Tensor) -> Tensor:
        """The same views before another backdrop, `[3]` or `[B, H, W, 3]`."""
        return self.image + (1.0 - self.opacity[..., None]) * (backdrop - self.backdrop)


@dataclass(frozen=True)
class Judged:
    """loss: a scalar to descend, per view. watch: numbers to look at, by name."""

    loss: Tensor
    watch: Mapping[str, Number] = field(default_factory=dict)


class Judge(Protocol):
    """Judges views, and may learn from them; a `Trainable`.

    group: how many views of one elevation, evenly around the object, it wants in a row.
    """

    @property
    def group(self) -> int: ...

    def __call__(self, views: Views, step: int) -> Judged:
        """The loss of views at `step` of the stage."""
        ...

    def learn(self) -> None:
        """Learn from the views judged last; called after the scene's own step."""
        ...

    def memory_advice(self) -> AbstractContextManager[None]:
        """A context that turns running out of the device's memory into a `UserError`."""
        ...

    def tensors(self) -> dict[str, Tensor]: ...
    def load(self, tensors: Mapping[str, Tensor]) -> None: ...


class Unchanging:
    """What a `Judge` that learns nothing has in common with others of its kind."""

    def learn(self) -> None:
        """There is nothing to learn."""

    def tensors(self) -> dict[str, Tensor]:
        """There is no state."""
        return {}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """There is no state."""


@contextmanager
def advising(line: str) -> Iterator[None]:
    """Turn running out of the device's memory within the block into a `UserError` of this line."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(line) from error


class Panel:
    """Judges by name, each with a weight that may change over the steps, as one judge.

    The numbers to watch of the first judge keep their names, the others' are put under their own.
    Raises ValueError for none, or for groups that don't fit together.
    """

    def __init__(self, judges: Mapping[str, tuple[Judge, Schedule]]) -> None:
        if not judges:
            raise ValueError("judges: expected at least one, got none")
        self.judges = dict(judges)
        self.group = common_group([judge.group for judge, _ in self.judges.values()])

    def __call__(self, views: Views, step: int) -> Judged:
        losses: list[Tensor] = []
        watch: dict[str, Number] = {}
        for index, (name, (judge, points)) in enumerate(self.judges.items()):
            weight = step_schedule(points, step)
            if weight == 0.0:
                continue
            judged = judge(views, step)
            losses.append(judged.loss if weight == 1.0 else weight * judged.loss)
            prefix = "" if index == 0 else f"{name} "
            watch |= {f"{prefix}{key}": value for key, value in judged.watch.items()}
        if not losses:
            return Judged(views.image.sum() * 0.0, watch)
        return Judged(losses[0] if len(losses) == 1 else torch.stack(losses).sum(), watch)

    def learn(self) -> None:
        """Let each judge learn."""
        for judge, _ in self.judges.values():
            judge.learn()

    @contextmanager
    def memory_advice(self) -> Iterator[None]:
        """All judges' advice; the first one's reaches the user."""
        with ExitStack() as stack:
            for judge, _ in reversed(self.judges.values()):
                stack.enter_context(judge.memory_advice())
            yield

    def tensors(self) -> dict[str, Tensor]:
        """All judges' states, each under its name."""
        state: dict[str, Tensor] = {}
        for name, (judge, _) in self.judges.items():
            state |= with_prefix(name, judge.tensors())
        return state

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` gave."""
        for name, (judge, _) in self.judges.items():
            judge.load(under_prefix(name, tensors))


def common_group(groups: Sequence[int]) -> int:
    """The group in which judges that want these groups can all be served.

    Raises ValueError if there is none: a judge of single views takes any, others but their own.
    """
    wanted = {group for group in groups if group != 1}
    if len(wanted) > 1:
        raise ValueError(f"judges: groups of {sorted(wanted)} views don't go together")
    return wanted.pop() if wanted else 1
