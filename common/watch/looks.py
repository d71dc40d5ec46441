"""What a stage shows of what it grows, so that it can be pictured without knowing what it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ..guidance.judges import Views
from ..scene.cameras import Cameras


@dataclass(frozen=True)
class Look:
    """Views of a scene for people.

    color: `[B, H, W, 3]` in [0, 1], before white. normals: `[B, H, W, 3]`, unit in world axes, zero
    where there is no surface. opacity: `[B, H, W]` in [0, 1].
    """

    color: Tensor
    normals: Tensor
    opacity: Tensor


class Subject(Protocol):
    """What is pictured. It draws no random numbers when it is looked at."""

    def pictured(self, cameras: Cameras, resolution: int) -> Look:
        """Square views of it from cameras on any device."""
        ...

    def judged(self, cameras: Cameras, step: int) -> Views:
        """What a judge sees at a step: the stage's resolution, before the stage's backdrop."""
        ...


def normal_colors(look: Look) -> Tensor:
    """Normals as colours `[B, H, W, 3]`, `(n + 1) / 2`; white where there is no surface."""
    seen = look.normals.square().sum(dim=-1, keepdim=True) > 0.25
    return (0.5 * look.normals + 0.5).where(seen, look.normals.new_ones(()))
