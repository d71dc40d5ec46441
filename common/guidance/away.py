"""A judge whose network computes on a device of its own, of views that lie elsewhere."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace

import torch
from torch import Tensor

from ..device import send
from .judges import Judged, Views
from .score import ScoreDistillation


class Away:
    """A prior on another device than the scene: on MPS, which lacks the float64 of the scene's
    geometry. Views go there and the loss comes back, both within the autograd graph.
    """

    def __init__(self, judge: ScoreDistillation, device: torch.device) -> None:
        self.judge, self.device, self.group = judge, device, judge.group
        self.learn, self.tensors, self.load = judge.learn, judge.tensors, judge.load

    def __call__(self, views: Views, step: int) -> Judged:
        """The judge's loss, where the views lie."""
        judged = self.judge(moved(views, self.device), step)
        watch = {
            name: value.to(views.image.device) if isinstance(value, Tensor) else value
            for name, value in judged.watch.items()
        }
        return Judged(judged.loss.to(views.image.device), watch)

    def memory_advice(self) -> AbstractContextManager[None]:
        """The judge's own."""
        return self.judge.memory_advice()


def moved(views: Views, device: torch.device) -> Views:
    """What a prior looks at of some views, on a device."""
    return replace(
        views,
        image=send(views.image, device),
        cameras=views.cameras.to(device),
        backdrop=send(views.backdrop, device),
        coverage=lambda: send(views.opacity, device),
        surface=None if views.surface is None else send(views.surface, device),
    )
