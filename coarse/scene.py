"""What the coarse loop asks of a scene, whatever it is made of.

A NeRF (`nerf.py`) is one; a volume with a signed distance, or Gaussians, would be another file.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from ..common.config.models import HandoffConfig
from ..common.guidance.judges import Views
from ..common.runs.coarse_result import CoarseResult
from ..common.runs.loop import Learner
from ..common.scene.cameras import Cameras
from ..common.scene.shading import Lights
from ..common.watch.looks import Look


class Scene(Protocol):
    """Something that can be rendered from anywhere, and learns from what is said of its views."""

    @property
    def device(self) -> torch.device: ...

    def learner(self) -> Learner:
        """An optimizer over all that learns."""
        ...

    def prepare(self, step: int) -> None:
        """What is due before a step, such as looking anew at which space is empty."""
        ...

    def render(self, cameras: Cameras, lights: Lights, step: int) -> tuple[Views, Tensor]:
        """Views to be judged at a step, and the weighted sum of the scene's own losses on them."""
        ...

    def pictured(self, cameras: Cameras, resolution: int) -> Look:
        """Views of it for people; draws no random numbers."""
        ...

    def judged(self, cameras: Cameras, step: int) -> Views:
        """Views of it as judges see them, for people; draws no random numbers."""
        ...

    def preview(self) -> Tensor:
        """Lit views `[B, H, W, 3]` from around the scene, before white, for people."""
        ...

    def hand_off(self, config: HandoffConfig) -> CoarseResult:
        """All that the fine stage needs."""
        ...
